"""Reproduce experiments: train what is missing of them, judge their claims, draw them, write a folder each."""

import json
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.experiment import Experiment, ReproduceError, UsageError, load, names
from lit_hidden.engine.grid import Grid, Plan, plan
from lit_hidden.engine.store import SCORES, Store, needed, write_atomically
from lit_hidden.engine.tracking import choose_mode, show, show_summary
from lit_hidden.engine.where import Where
from lit_hidden.engine.written import as_csv, conditions, draw, failures, judged, rows
from lit_hidden.judge import Verdict, judge
from lit_hidden.report.tables import filtered, reason
from lit_hidden.results import Results, diverged
from lit_hidden.run import Run

HERE = Where()
Say = Callable[..., None]  # prints a line


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a reproduction as Ctrl-C does."""

    status = 143  # as of a shell's command


class Stopped(ReproduceError):
    """Ctrl-C was pressed, or SIGTERM came (`why`)."""

    status = 130  # as of a shell's command

    def __init__(self, message: str, why: KeyboardInterrupt | None = None) -> None:
        super().__init__(message)
        self.status = getattr(why, "status", self.status)


class TimeUpError(ReproduceError):
    """The minutes given are over, and runs are left."""

    status = 75  # EX_TEMPFAIL: try again


@dataclass(frozen=True)
class _Chosen:
    """An experiment as it is reproduced: its `whole` grid, the `runs` chosen of it, the folder of its results."""

    experiment: Experiment
    whole: list[Run]
    runs: list[Run]
    target: Path

    def ranks(self) -> dict[str, int]:
        """Number the runs in the experiment's order, by hash; equal keys have equal numbers."""
        keys = {run.hash: self.experiment.order(run) for run in self.runs}
        try:
            numbers = {key: number for number, key in enumerate(sorted(set(keys.values())))}
        except TypeError as error:
            raise UsageError(f"{self.experiment.path}: order(run) gives keys that cannot be sorted: {error}") from error
        return {name: numbers[key] for name, key in keys.items()}


def reproduce(
    *names_or_all: str,
    preset: str = "quick",
    runs_dir: str | Path = "runs",
    out: str | Path = "results",
    data_dir: str | Path = "data",
    where: Where = HERE,
    seeds: int | None = None,
    only: Sequence[str] = (),
    minutes: float | None = None,
    strict: bool = False,
    dry_run: bool = False,
    train: bool = True,
    console: Console | None = None,
) -> dict[str, list[Verdict]]:
    """Train what is missing of experiments in one grid; then judge each by what is done of it, draw it, write it.

    Claims are judged by the whole grid: those that need what `only` leaves out are undecided. Runs are trained in
    their experiments' order, among equals the longest first, so that workers end at about the same time.

    Args:
        names_or_all: files of `experiments/`, such as `fig2`; `all` stands for all of them.
        preset: `smoke`, `quick`, `short` or `paper`; with data, such as `paper-imagenet100`, on those.
        runs_dir: where runs live; equal runs of other experiments there are used.
        out: where `<name>/<preset>/` is written.
        data_dir: where the data sets lie.
        where: what trains the runs.
        seeds: only the first so many seeds of each experiment.
        only: such as `net=conv4`; only the runs that have all of them.
        minutes: stop training so long after this call; what is done is judged and drawn.
        strict: a contradicted claim of the paper preset is an error.
        dry_run: print the grid and the estimated time, and train nothing.
        train: False judges and draws what is done.
        console: where to print.

    Returns:
        the verdicts on each experiment's claims, by its name; none of a dry run.

    Raises:
        UsageError: an unknown experiment or preset, `seeds` below 1, or `minutes` that are not above 0.
        Stopped: Ctrl-C while runs were trained.
        TimeUpError: after all else is done: `minutes` were over before all runs were trained.
        ReproduceError: after all else is done: runs failed or are missing, a drawing failed, or with `strict` a claim
            is contradicted.
        StoreError: `runs_dir` cannot be read or written to.
        LauncherError: `where` asks for what is not there.
    """
    console, began = console or Console(), time.monotonic()
    say = partial(_say, console)
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"--minutes {minutes:g}: give a number above 0, such as 30 or 0.5")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds {seeds}: give a number of seeds, at least 1")
    store, chosen = Store(runs_dir), list[_Chosen]()
    for name in dict.fromkeys(name for given in names_or_all for name in (names() if given == "all" else [given])):
        experiment = load(name)
        whole = experiment.grid(preset)
        taken = sorted({run.seed for run in whole})[:seeds]
        runs = filtered([run for run in whole if run.seed in taken], only)
        chosen.append(_Chosen(experiment, whole, runs, Path(out) / name / preset))
    # Equal runs of several experiments are one, in the first one's W&B group and at its earliest place in the order.
    grid = {run.hash: run for one in chosen for run in one.runs}
    groups = {run.hash: f"{one.experiment.name}/{preset}" for one in reversed(chosen) for run in one.runs}
    ranks = [one.ranks() for one in chosen]
    first = {name: min(places[name] for places in ranks if name in places) for name in grid}
    ordered = sorted(grid.values(), key=lambda run: (first[run.hash], -run.epochs))
    todo = plan(ordered, store, say if train and not dry_run else None)
    for one in chosen:
        missing = sum(run.hash in todo.missing for run in one.runs)
        say(f"{one.experiment.name} ({preset}): {one.experiment.title}", style="bold")
        say(f"{len(one.runs)} runs: {len(one.runs) - missing} done, {missing} to train")
    if parents := todo.missing.keys() - grid.keys():
        say(f"{len(parents)} more to train first: others begin with their nets")
    if not train:
        for name, why in todo.damaged.items():
            say(f"{store.root / name} is damaged: {why}; {todo.missing[name].name} is left out")
    if dry_run:
        _print_grid(grid | todo.missing, todo, store, where, say)
        return {}
    for one in chosen:  # before the expensive part
        try:
            one.target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(one.target, error) from error

    @cache  # asked and told once, and only if there is something to show
    def mode() -> str:
        chosen, line = choose_mode()
        if line:
            say(line)
        return chosen

    def show_run(run: Run, result: dict[str, Any]) -> str | None:
        return show(run, store.folder(run), result, mode(), groups.get(run.hash, f"parents/{preset}"))

    problems, ending = list[str](), ReproduceError
    if todo.missing and train:
        store.check_writable()
        mode()  # told before the first run
        followed = [(run, run.parent) for run in (grid | todo.missing).values()]
        kept = {before.hash for run, before in followed if before is not None and SCORES in needed(run)[:1]}

        def job(run: Run) -> dict[str, Any]:
            return {"data_dir": str(data_dir), "keep": run.hash in kept}

        pool = where.start(store.root, todo.missing.values())
        clock = Clock.read(store, pool.device, pool.device_name)
        until = math.inf if minutes is None else began + 60 * minutes
        problems, late = _train(Grid(todo, store, pool, job, show_run, clock, console, until), say)
        if late:
            ending = TimeUpError
            problems.insert(0, f"time is up after {minutes:g} minutes: {late}")
    verdicts: dict[str, list[Verdict]] = {}
    for one in chosen:
        name, results = one.experiment.name, _done(store, one.runs)
        if lost := [run.name for run, result in results if diverged(result)]:
            more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
            told = (
                f"{len(lost)} of {len(one.runs)} runs diverged (a loss is not finite), claims are judged without them"
            )
            problems.append(f"{name}: {told}: {', '.join(lost[:4])}{more}")
        if not len(results) and one.runs:
            problems.append(f"{name} is neither judged nor drawn: none of its {len(one.runs)} runs is done")
            continue
        if lacking := len(one.runs) - len(results):
            told = f"{name} is judged without {lacking} of its {len(one.runs)} runs, which are missing"
            problems.append(told) if train else say(told)
        if len(chosen) > 1:
            say(f"{name} ({preset})", style="bold")
        try:
            verdicts[name], problem = _finish(one, preset, results, mode, console)
            problems += [problem] if problem else []
        except Exception as error:  # in the experiment's file; the other experiments are drawn all the same
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):  # this it reads, and not writes
                problems.append(str(_unwritable(one.target, error)))
                continue
            traceback.print_exc()
            problems.append(f"{name} cannot be judged or drawn: {type(error).__name__}: {error}")
    contradicted = [v.sentence for judged in verdicts.values() for v in judged if v.verdict == "contradicted"]
    if strict and preset == "paper" and contradicted:
        problems.append(f"contradicted at the paper preset: {'; '.join(contradicted)}")
    if problems:
        raise ending("\n".join(problems))
    return verdicts


def _train(grid: Grid, say: Say) -> tuple[list[str], str | None]:
    """Train a grid; return lines about runs that failed and, if the time was up before the end, about that."""
    missing = grid.plan.missing.values()
    left = ((run, run.epochs - grid.store.progress(run)[0]) for run in missing)
    say(f"estimated time: {grid.clock.estimate(left, grid.pool.places)}")

    def how_far() -> str:
        return f"{grid.done} of {len(missing)} runs are done; the same command goes on where this one was"

    try:
        grid.train()
    except KeyboardInterrupt as why:
        raise Stopped(f"stopped: {how_far()}", why) from None
    for failure in grid.failures:
        if failure.stops == "grid":
            raise ReproduceError(f"{failure.error}\nstopped: {grid.done} of {len(missing)} runs are done")
    report = [f"{len(grid.failures)} of {len(missing)} runs failed:"] if grid.failures else []
    report += [f"  {f.run.name}: {f.error}; its log is {f.log}" for f in grid.failures if f.log]
    untried = Counter(f.error for f in grid.failures if not f.log)
    report += [f"  {number} more: {error}" for error, number in untried.items()]
    return report, how_far() if grid.left else None


def _print_grid(grid: dict[str, Run], todo: Plan, store: Store, where: Where, say: Say) -> None:
    """Print each run with its state, how many are in which, and how long the missing ones will take."""
    pool = where.start(store.root, todo.missing.values())
    pool.close()  # it is only asked how many places it has
    states, left = Counter[str](), []
    for name, run in grid.items():
        epochs = store.progress(run)[0]
        if name not in todo.missing:
            state = "diverged" if diverged(store.result(run) or {}) else "done"
        else:
            held = store.held(run)
            state = "damaged" if name in todo.damaged else "training" if held else "begun" if epochs else "to train"
            left.append((run, run.epochs - (0 if state == "damaged" else epochs)))
        states[state] += 1
        shown = f"{state} {epochs}/{run.epochs}" if state in ("training", "begun") else state
        say(f"  {name}  {shown:16}  {run.name}")
    for name, why in todo.damaged.items():
        say(f"{store.root / name} is damaged: {why}; it would be set aside and the run trained again")
    say(f"{len(grid)} runs: {', '.join(f'{number} {state}' for state, number in states.items())}")
    if left:
        clock = Clock.read(store, pool.device, pool.device_name)
        say(f"estimated time: {clock.estimate(left, pool.places)}")


def _done(store: Store, runs: list[Run]) -> Results:
    """Gather the results of the runs that are done and not damaged."""
    found = ((run, store.result(run), store.folder(run)) for run in runs)
    return Results((run, result, folder) for run, result, folder in found if result is not None)


def _finish(
    chosen: _Chosen, preset: str, results: Results, mode: Callable[[], str], console: Console
) -> tuple[list[Verdict], str | None]:
    """Judge the claims, write the folder, show both; a table that is new is shown in W&B too.

    Return the verdicts, and a problem: part of a grid is judged even if the experiment cannot draw it.
    """
    experiment, target, say = chosen.experiment, chosen.target, partial(_say, console)
    if experiment.reduce is not None:
        results.reduce_by(experiment.reduce)
    verdicts = [judge(claim, results, chosen.whole) for claim in experiment.claims]
    table, told, problem = rows(results), conditions(preset, results, len(chosen.whole)), None
    verdict = judged(experiment, preset, told, results, chosen.whole, verdicts) | {"failures": failures(table)}
    # All are made before any is written: if one fails, the old ones stay and belong together.
    try:
        files = draw(experiment, results, told)
    except Exception as error:
        if len(results) == len(chosen.whole):
            raise
        traceback.print_exc()
        problem = f"{experiment.name} is judged, and cannot be drawn: {type(error).__name__}: {error}"
        files = {}
        for drawing in target.glob("figure.*"):  # of other runs than the new table
            drawing.unlink()
    files |= {"verdicts.json": json.dumps(verdict, indent=1) + "\n", "results.csv": as_csv(table)}
    old = target / "results.csv"
    new = not old.exists() or old.read_bytes() != str(files["results.csv"]).encode()  # runs may be an archive's
    for name, content in files.items():
        write_atomically(target / name, content)  # another engine may write the same
    console.print(_table(verdicts))
    if new:
        line = show_summary(f"{experiment.name}/{preset}", table, target / "figure.png", verdicts, mode())
        if line:
            say(line)
    if len(results) < len(chosen.whole):
        absent = f"; absent cells: {len(verdict['absent'])}, named in verdicts.json" if verdict["absent"] else ""
        say(f"  judged by {len(results)} of {len(chosen.whole)} runs{absent}")
    say(f"  {beforehand.told(*(verdict[k] for k in ('claims_commit', 'claims_changed', 'first_run')))}")
    for name in files:
        say(f"  {target / name}")
    return verdicts, problem


def _say(console: Console, line: str, style: str | None = None) -> None:
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def _unwritable(target: Path, error: OSError) -> ReproduceError:
    return ReproduceError(f"{target} cannot be written to: {error}; choose another with --out")


def _table(verdicts: list[Verdict]) -> Table:
    colors = {"supported": "green", "contradicted": "red", "undecided": "yellow"}
    table = Table("claim", "kind", "verdict", "margin", "95% interval")
    for v in verdicts:
        interval = f"{v.low:.4g} to {v.high:.4g}" if math.isfinite(v.low) and not v.every else v.why
        color = colors[v.verdict]
        margin = f"{v.margin:.4g} {v.unit}" if math.isfinite(v.margin) else "none"
        told = escape(reason(interval, v.failed))
        table.add_row(escape(v.sentence), v.kind, f"[{color}]{v.verdict}[/{color}]", margin, told)
    return table
