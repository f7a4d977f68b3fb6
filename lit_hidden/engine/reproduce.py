"""Reproduce experiments: train what is missing of them, judge their claims, draw them, write a folder each."""

import json
import math
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.experiment import Experiment, ReproduceError, UsageError, load, names
from lit_hidden.engine.grid import Grid, Plan, plan
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.store import SCORES, Store, StoreError, needed, write_atomically
from lit_hidden.engine.tracking import choose_mode, show, show_summary
from lit_hidden.engine.where import Where
from lit_hidden.engine.written import as_csv, draw, judged, rows
from lit_hidden.judge import Verdict, judge
from lit_hidden.report.tables import filtered, reason
from lit_hidden.results import NoRunsError, Results, diverged
from lit_hidden.run import Run

HERE = Where()


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a reproduction as Ctrl-C does."""

    status = 143  # as of a shell's command


class Stopped(ReproduceError):
    """Ctrl-C was pressed, or SIGTERM came."""

    status = 130  # as of a shell's command


class TimeUpError(ReproduceError):
    """The minutes given are over, and runs are left."""

    status = 75  # EX_TEMPFAIL: try again


@dataclass(frozen=True)
class _Chosen:
    """An experiment as it is reproduced: its `whole` grid, the `runs` chosen of it, the folder of its results."""

    experiment: Experiment
    preset: str
    whole: list[Run]
    runs: list[Run]
    target: Path


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
) -> dict[str, list[Verdict]]:
    """Train what is missing of experiments in one grid; then judge each by what is done of it, draw it, write it.

    Claims are judged by the whole grid: those that need what `only` leaves out are undecided.

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
        dry_run: print the grid and the estimated time, train nothing and return nothing.
        train: False judges and draws what is done.

    Raises:
        UsageError, StoreError, LauncherError: before training; the arguments or folders cannot be used.
        Stopped: Ctrl-C while runs were trained.
        TimeUpError, ReproduceError: after all else is done; `minutes` were over, or runs or drawings failed.
    """
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    if minutes is not None and not minutes > 0:
        raise UsageError(f"--minutes {minutes:g}: give a number above 0, such as 30 or 0.5")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds {seeds}: give a number of seeds, at least 1")
    console, store, chosen = Console(highlight=False, markup=False, soft_wrap=True), Store(runs_dir), list[_Chosen]()
    for name in dict.fromkeys(name for given in names_or_all for name in (names() if given == "all" else [given])):
        experiment = load(name)
        whole = experiment.grid(preset)
        taken = sorted({run.seed for run in whole})[:seeds]
        runs = filtered([run for run in whole if run.seed in taken], only)
        chosen.append(_Chosen(experiment, preset, whole, runs, Path(out) / name / preset))
    ordered = [run for one in chosen for run in sorted(one.runs, key=one.experiment.order)]
    todo = plan(ordered, store, console.print if train and not dry_run else None)
    for one in chosen:
        missing = sum(run.hash in todo.missing for run in one.runs)
        console.print(f"{one.experiment.name} ({preset}): {one.experiment.title}", style="bold")
        console.print(f"{len(one.runs)} runs: {len(one.runs) - missing} done, {missing} to train")
    if dry_run or not train:
        for name, why in todo.damaged.items():
            console.print(f"{store.root / name} is damaged and not used: {why}")
    if dry_run:
        for name, run in ({run.hash: run for run in ordered} | todo.missing).items():
            state = f"{'training' if store.held(run) else 'to train'} {store.progress(run)[0]}/{run.epochs}"
            console.print(f"  {name}  {state if name in todo.missing else 'done':16}  {run.name}")
        if todo.missing:
            _start(todo, store, where, console).close()
        return {}
    for one in chosen:  # before the expensive part
        try:
            one.target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReproduceError(f"{one.target} cannot be written to: {error}; choose another with --out") from error
    mode, told = choose_mode()
    if told:
        console.print(told)
    problems, late = list[str](), False
    if todo.missing and train:
        # Equal runs of several experiments are one, in the first one's W&B group.
        groups = {run.hash: f"{one.experiment.name}/{preset}" for one in reversed(chosen) for run in one.runs}

        def show_run(run: Run, result: dict[str, Any]) -> None:
            if line := show(run, store.folder(run), result, mode, groups.get(run.hash, f"parents/{preset}")):
                console.print(line)

        def job(run: Run) -> dict[str, Any]:
            return {"data_dir": str(data_dir), "keep": run.hash in kept}

        kept = {run.parent.hash for run in todo.missing.values() if run.parent and needed(run) == (SCORES,)}
        store.check_writable()
        pool = _start(todo, store, where, console)
        problems, late = _train(Grid(todo, store, pool, job, show_run, console, until))
    verdicts: dict[str, list[Verdict]] = {}
    for one in chosen:
        name, done = one.experiment.name, ((run, store.result(run), store.folder(run)) for run in one.runs)
        results = Results((run, result, folder) for run, result, folder in done if result is not None)
        if lost := [run.name for run, result in results if diverged(result)]:
            problems.append(f"{name}: claims are judged without runs that diverged: {', '.join(lost)}")
        if lacking := len(one.runs) - len(results):
            told = f"{name}: {lacking} of {len(one.runs)} runs are missing"
            problems.append(told) if train else console.print(told)
        if lacking == len(one.runs) > 0:
            continue
        try:
            verdicts[name] = _finish(one, results, mode, console)
        except Exception as error:  # in the experiment's file; the other experiments are drawn all the same
            if not isinstance(error, NoRunsError):  # half a grid may be too little for a drawing
                traceback.print_exc()
            problems.append(f"{name} cannot be judged or drawn: {type(error).__name__}: {error}")
    contradicted = [v.sentence for judged in verdicts.values() for v in judged if v.verdict == "contradicted"]
    if strict and preset == "paper" and contradicted:
        problems.append(f"contradicted at the paper preset: {'; '.join(contradicted)}")
    if problems:
        raise (TimeUpError if late else ReproduceError)("\n".join(problems))
    return verdicts


def _train(grid: Grid) -> tuple[list[str], bool]:
    """Train a grid; return what is to be told at the end, and whether the time was up."""

    def how_far() -> str:
        return f"{grid.done} of {len(grid.plan.missing)} runs are done; the same command goes on where this one was"

    try:
        grid.train()
    except KeyboardInterrupt as why:
        stopped = Stopped(f"stopped: {how_far()}")
        stopped.status = getattr(why, "status", stopped.status)
        raise stopped from None
    except StoreError as error:
        raise ReproduceError(f"{error}\nstopped: {how_far()}") from None
    told = [f"time is up: {how_far()}"] if grid.left else []
    told += [f"{len(grid.failures)} of {len(grid.plan.missing)} runs failed:"] if grid.failures else []
    told += [f"  {f.run.name}: {f.error}; its log is {f.log}" for f in grid.failures if f.log]
    untried = Counter(f.error for f in grid.failures if not f.log)
    return told + [f"  {number} more: {error}" for error, number in untried.items()], bool(grid.left)


def _start(todo: Plan, store: Store, where: Where, console: Console) -> Pool:
    """Start what trains the runs, and say how long they will take."""
    missing = todo.missing.values()
    pool = where.start(store.root, missing)
    clock = Clock.read(store, pool.device, pool.device_name)
    left = ((run, run.epochs - store.progress(run)[0]) for run in missing)
    console.print(f"estimated time: {clock.estimate(left, pool.places)}")
    return pool


def _finish(one: _Chosen, results: Results, mode: str, console: Console) -> list[Verdict]:
    """Judge the claims, write the folder, show both; a table that is new is shown in W&B too."""
    experiment, target = one.experiment, one.target
    if experiment.reduce is not None:
        results.reduce_by(experiment.reduce)
    verdicts = [judge(claim, results, one.whole) for claim in experiment.claims]
    table = rows(results)
    found = judged(experiment, one.preset, results, table, one.whole, verdicts)
    files: dict[str, str | bytes] = {"results.csv": as_csv(table), "verdicts.json": json.dumps(found, indent=1) + "\n"}
    old = target / "results.csv"
    new = not old.exists() or old.read_text(encoding="utf-8") != files["results.csv"]  # runs may be an archive's
    try:
        files |= draw(experiment, results, found["conditions"])
    finally:  # what cannot be drawn is judged all the same; a drawing of other runs goes
        for drawing in target.glob("figure.*"):
            if new and drawing.name not in files:
                drawing.unlink()
        for name, content in files.items():
            write_atomically(target / name, content)  # another engine may write the same
        console.print(_table(verdicts), soft_wrap=False)
        console.print(f"  {beforehand.told(*(found[k] for k in ('claims_commit', 'claims_changed', 'first_run')))}")
        for name in files:
            console.print(f"  {target / name}")
    drawing = target / "figure.png"
    if new and (line := show_summary(f"{experiment.name}/{one.preset}", table, drawing, verdicts, mode)):
        console.print(line)
    return verdicts


def _table(verdicts: list[Verdict]) -> Table:
    colors = {"supported": "green", "contradicted": "red", "undecided": "yellow"}
    table = Table("claim", "kind", "verdict", "margin", "95% interval")
    for v in verdicts:
        interval = f"{v.low:.4g} to {v.high:.4g}" if math.isfinite(v.low) and not v.every else v.why
        margin = f"{v.margin:.4g} {v.unit}" if math.isfinite(v.margin) else "none"
        table.add_row(v.sentence, v.kind, Text(v.verdict, colors[v.verdict]), margin, reason(interval, v.failed))
    return table
