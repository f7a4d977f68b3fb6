"""Reproduce experiments: train what is missing of them, judge their claims, draw them, write a folder each."""

import csv
import importlib.util
import io
import json
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.grid import Grid, Plan, plan
from lit_hidden.engine.store import SCORES, Store, needed, write_atomically
from lit_hidden.engine.tracking import choose_mode, show, show_summary
from lit_hidden.engine.where import Where
from lit_hidden.engine.work import Job
from lit_hidden.judge import Claim, Verdict, clopper_pearson, failed, judge
from lit_hidden.recipes import IMAGENET_SIZES, method
from lit_hidden.report.tables import cells, departures, filtered, in_tf32, listed, order, reason
from lit_hidden.results import Results, diverged
from lit_hidden.run import PRESETS, Run

HERE = Where()
SUMMARY = 2_000_000  # bytes of summary.npz
# A foot is one line: the rates that a figure is about are told in its drawing.
FOOT = (
    "width", "epochs", "warmup_epochs", "train_images", "images_per_class", "batch_size", "classes", "image_size",
    "data",
)  # fmt: skip


class ReproduceError(RuntimeError):
    """A reproduction that cannot begin or did not end well, and what to do about it."""

    status = 1  # of the command


class UsageError(ReproduceError):
    """An experiment or a preset that there is not."""

    status = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a reproduction as Ctrl-C does."""

    status = 143  # as of a shell's command


class Stopped(ReproduceError):
    """The user pressed Ctrl-C, or SIGTERM came: somebody wants the machine."""

    status = 130  # as of a shell's command, unless `why` has another

    def __init__(self, message: str, why: KeyboardInterrupt | None = None) -> None:
        super().__init__(message)
        self.status = getattr(why, "status", self.status)


class TimeUpError(ReproduceError):
    """The minutes given are over, and runs are left."""

    status = 75  # EX_TEMPFAIL: try again


@dataclass(frozen=True)
class Experiment:
    """One file of `experiments/`: its runs, its claims, its drawing.

    `order` gives a key for each run: runs of smaller keys are trained first. Without it in the file all are equal.
    `reduce` compares runs, such as their nets: arrays for claims and drawing, `results.summary`, and `summary.npz`.
    """

    name: str
    path: Path
    title: str
    runs: Callable[[str], list[Run]]
    claims: list[Claim]
    draw: Callable[[Results, Any], None]
    page: Callable[[Results], str] | None
    order: Callable[[Run], Any]
    reduce: Callable[[Results], dict[str, np.ndarray]] | None = None

    def grid(self, preset: str) -> list[Run]:
        """List the runs of a preset, resolved and each once.

        Args:
            preset: one of `PRESETS`; `paper-imagenet100` is `paper` on other data, of ImageNet and its subsets.

        Raises:
            UsageError: an unknown preset, or data that this experiment's runs cannot be trained on.
        """
        base, _, data = preset.partition("-")
        if base not in PRESETS:
            raise UsageError(f"no preset {preset!r}; presets are {', '.join(PRESETS)}")
        try:
            runs = self.runs(base)
        except ValueError as error:
            raise UsageError(f"{self.path}: {error}") from error
        if data and data not in IMAGENET_SIZES:
            raise UsageError(f"no data {data!r} to choose; there are {', '.join(IMAGENET_SIZES)}")
        if data and (other := {run.data for run in runs} - IMAGENET_SIZES.keys()):
            raise UsageError(
                f"{self.name} ({base}) is on {', '.join(sorted(other))}; data can be chosen where a preset is on "
                "ImageNet or a subset, such as fig8's short and paper"
            )
        runs = [replace(run, data=data) for run in runs] if data else runs
        return list(dict.fromkeys(run.resolved for run in runs))


def experiments_folder() -> Path:
    """Find the folder `experiments/`: one's own in the working directory, else the one that came with the package."""
    own = Path.cwd() / "experiments"
    return own if list(own.glob("*.py")) else Path(__file__).parents[2] / "experiments"


def names() -> list[str]:
    """List the experiments there are, fig2 before fig10."""
    found = [p.stem for p in experiments_folder().glob("*.py") if not p.stem.startswith("_")]
    return sorted(found, key=order)


def load(name: str) -> Experiment:
    """Load the experiment `name`.

    Raises:
        UsageError: there is no such file.
        ReproduceError: it lacks a part.
    """
    if name not in names():
        raise UsageError(f"no experiment {name!r}; experiments are {', '.join(names())}")
    path = experiments_folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if lacking := [part for part in ("runs", "CLAIMS", "draw") if not hasattr(module, part)]:
        has = "an experiment has runs(preset), CLAIMS and draw; the name of a helper begins with _"
        raise ReproduceError(f"{path} lacks {', '.join(lacking)}; {has}")
    title = (module.__doc__ or name).strip().splitlines()[0]
    page, order = getattr(module, "page", None), getattr(module, "order", lambda run: 0)
    reduce = getattr(module, "reduce", None)
    return Experiment(name, path, title, module.runs, module.CLAIMS, module.draw, page, order, reduce)


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

    Claims are judged by the whole grid: those that need what `only` leaves out are undecided, and say so. Runs are
    trained in their experiments' order, among equals the longest first, so that workers end together.

    Args:
        names_or_all: files of `experiments/`, such as `fig2`; `all` stands for all of them.
        preset: `smoke`, `quick`, `short` or `paper`; with data, such as `paper-imagenet100`, on those.
        runs_dir: where runs live; equal runs of other experiments there are used.
        out: where `<name>/<preset>/` is written.
        data_dir: where the data sets lie.
        where: what they are trained on: this machine's devices, several machines, Ray or SLURM.
        seeds: train and draw the first so many seeds of each experiment alone; None takes all.
        only: such as `net=conv4`; only the runs that have all of them.
        minutes: stop training so long after this call; what is done is judged and drawn. None trains all.
        strict: a contradicted claim of the paper preset is an error.
        dry_run: print the grid and the estimated time, and train nothing.
        train: False judges and draws what is done.
        console: where to print.

    Returns:
        the verdicts on each experiment's claims, by its name; none of a dry run.

    Raises:
        UsageError: an unknown experiment or preset, `seeds` below 1, or `minutes` that are no time.
        Stopped: Ctrl-C while runs were trained.
        TimeUpError: after all else is done: `minutes` were over before all runs were trained.
        ReproduceError: after all else is done: runs failed or are missing, a drawing failed, or with `strict` a claim
            is contradicted.
        StoreError: `runs_dir` cannot be read or written to.
        LauncherError: `devices` are not there.
    """
    console, began = console or Console(), time.monotonic()
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"--minutes {minutes:g} is no time to train in; it is a number above 0, such as 30 or 0.5")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds {seeds} trains nothing; it is a number of seeds, at least 1")
    chosen = dict.fromkeys(name for given in names_or_all for name in (names() if given == "all" else [given]))
    experiments = [load(name) for name in chosen]
    store = Store(runs_dir)
    grid: dict[str, Run] = {}  # by hash: equal runs of different experiments are one
    wholes = {experiment.name: experiment.grid(preset) for experiment in experiments}
    members: dict[str, list[Run]] = {}
    groups: dict[str, str] = {}
    ranks: dict[str, int] = {}  # in its experiment's order, so that those of several mix
    for experiment in experiments:
        whole = wholes[experiment.name]
        taken = sorted({run.seed for run in whole})[:seeds]
        members[experiment.name] = filtered([run for run in whole if run.seed in taken], only)
        keys = {run.hash: experiment.order(run) for run in members[experiment.name]}
        try:
            dense = {key: rank for rank, key in enumerate(sorted(set(keys.values())))}
        except TypeError as error:
            raise UsageError(f"{experiment.path}: order(run) gives keys that cannot be sorted: {error}") from error
        for run in members[experiment.name]:
            grid.setdefault(run.hash, run)
            groups.setdefault(run.hash, f"{experiment.name}/{preset}")
            ranks[run.hash] = min(dense[keys[run.hash]], ranks.get(run.hash, len(dense)))
    ordered = sorted(grid.values(), key=lambda run: (ranks[run.hash], -run.epochs))
    todo = plan(ordered, store, (lambda line: _say(console, line)) if train and not dry_run else None)
    for experiment in experiments:
        its = members[experiment.name]
        missing = sum(run.hash in todo.missing for run in its)
        _say(console, f"{experiment.name} ({preset}): {experiment.title}", style="bold")
        _say(console, f"{len(its)} runs: {len(its) - missing} done, {missing} to train")
    if first := todo.missing.keys() - grid.keys():
        _say(console, f"{len(first)} more to train before: others begin with their nets")
    if not train:
        for name, why in todo.damaged.items():
            _say(console, f"{store.root / name} is damaged: {why}; {todo.missing[name].name} is left out")
    if dry_run:
        _print_grid(grid | todo.missing, todo, store, where, console)
        return {}
    targets = {name: Path(out) / name / preset for name in chosen}
    for target in targets.values():  # before the expensive part
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(target, error) from error
    problems: list[str] = []
    ending: type[ReproduceError] = ReproduceError

    @cache  # asked and told once, and only if there is something to show
    def mode() -> str:
        chosen, line = choose_mode()
        if line:
            _say(console, line)
        return chosen

    if todo.missing and train:
        store.check_writable()
        mode()  # told before the first run
        followed = [(run, run.parent) for run in (grid | todo.missing).values()]
        kept = {before.hash for run, before in followed if before is not None and SCORES in needed(run)[:1]}

        def job(run: Run) -> Job:
            return {"data_dir": str(data_dir), "keep": run.hash in kept}

        def shown(run: Run, result: dict[str, Any]) -> str | None:
            return show(run, store.folder(run), result, mode(), groups.get(run.hash, f"parents/{preset}"))

        pool = where.start(store.root, todo.missing.values())
        clock = Clock.read(store, pool.device, pool.device_name)
        until = math.inf if minutes is None else began + 60 * minutes
        problems, late = _train(Grid(todo, store, pool, job, shown, clock, console, until), console)
        if late:
            ending = TimeUpError
            problems.insert(0, f"time is up after {minutes:g} minutes: {late}")
    verdicts: dict[str, list[Verdict]] = {}
    for experiment in experiments:
        name, its = experiment.name, members[experiment.name]
        results = _done(store, its)
        if lost := [run.name for run, result in results if diverged(result)]:
            more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
            told = f"{len(lost)} of {len(its)} runs diverged (a loss is not finite), claims are judged without them"
            problems.append(f"{name}: {told}: {', '.join(lost[:4])}{more}")
        lacking = len(its) - len(results)
        if lacking and not len(results):
            problems.append(f"{name} is neither judged nor drawn: none of its {len(its)} runs is done")
            continue
        if lacking:
            told = f"{name} is judged without {lacking} of its {len(its)} runs, which are missing"
            problems.append(told) if train else _say(console, told)
        if len(experiments) > 1:
            _say(console, f"{name} ({preset})", style="bold")
        try:
            verdicts[name], problem = _finish(experiment, preset, results, wholes[name], targets[name], mode, console)
            problems += [problem] if problem else []
        except Exception as error:  # of the experiment's file; the other experiments are drawn all the same
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):  # which is what it reads
                problems.append(str(_unwritable(targets[name], error)))
                continue
            traceback.print_exc()
            problems.append(f"{name} cannot be judged or drawn: {type(error).__name__}: {error}")
    contradicted = [v.sentence for judged in verdicts.values() for v in judged if v.verdict == "contradicted"]
    if strict and preset == "paper" and contradicted:
        problems.append(f"contradicted at the paper preset: {'; '.join(contradicted)}")
    if problems:
        raise ending("\n".join(problems))
    return verdicts


def _train(grid: Grid, console: Console) -> tuple[list[str], str | None]:
    """Train what is missing; return what to say of runs that failed and, if the time was up before the end, of that."""
    missing = grid.plan.missing.values()
    left = ((run, run.epochs - grid.store.progress(run)[0]) for run in missing)
    _say(console, f"estimated time: {grid.clock.estimate(left, grid.pool.places)}")
    total = len(missing)

    def how_far() -> str:
        return f"{grid.done} of {total} runs are done; the same command goes on where this one was"

    try:
        grid.train()
    except KeyboardInterrupt as why:
        raise Stopped(f"stopped: {how_far()}", why) from None
    for failure in grid.failures:
        if failure.stops == "grid":
            raise ReproduceError(f"{failure.error}\nstopped: {grid.done} of {total} runs are done")
    late = how_far() if grid.left else None
    if not grid.failures:
        return [], late
    report = [f"{len(grid.failures)} of {total} runs failed:"]
    report += [f"  {f.run.name}: {f.error}; its log is {f.log}" for f in grid.failures if f.log]
    untried = Counter(f.error for f in grid.failures if not f.log)
    report += [f"  {number} more: {error}" for error, number in untried.items()]
    return report, late


def _print_grid(grid: dict[str, Run], todo: Plan, store: Store, where: Where, console: Console) -> None:
    """Print each run with its state, how many are in which, and how long the missing ones will take."""
    pool = where.start(store.root, todo.missing.values())
    pool.close()  # it is only asked how many places it has
    states: Counter[str] = Counter()
    left = []
    for name, run in grid.items():
        epochs, state = 0, "done"
        if name not in todo.missing:
            state = "diverged" if diverged(store.result(run) or {}) else state
        else:
            epochs, _ = store.progress(run)
            held = store.held(run)
            state = "damaged" if name in todo.damaged else "training" if held else "begun" if epochs else "to train"
            left.append((run, run.epochs - (0 if state == "damaged" else epochs)))
        states[state] += 1
        shown = f"{state} {epochs}/{run.epochs}" if state in ("training", "begun") else state
        _say(console, f"  {name}  {shown:16}  {run.name}")
    for name, why in todo.damaged.items():
        _say(console, f"{store.root / name} is damaged: {why}; it would be set aside and the run trained again")
    _say(console, f"{len(grid)} runs: {', '.join(f'{number} {state}' for state, number in states.items())}")
    if left:
        clock = Clock.read(store, pool.device, pool.device_name)
        _say(console, f"estimated time: {clock.estimate(left, pool.places)}")


def _done(store: Store, runs: list[Run]) -> Results:
    """Gather the results of the runs that are done; a damaged one is not, so that the other experiments are drawn."""
    found = ((run, store.result(run), store.folder(run)) for run in runs)
    return Results((run, result, folder) for run, result, folder in found if result is not None)


def _finish(
    experiment: Experiment,
    preset: str,
    results: Results,
    grid: list[Run],
    target: Path,
    mode: Callable[[], str],
    console: Console,
) -> tuple[list[Verdict], str | None]:
    """Judge the claims, write the folder, show both; a table that is new is shown in W&B too.

    Returns:
        the verdicts, and what went wrong: a part of a grid is judged even if the experiment cannot draw it.
    """
    if experiment.reduce is not None:
        results.reduce_by(experiment.reduce)
    verdicts = [judge(claim, results, grid) for claim in experiment.claims]
    table, told, problem = rows(results), conditions(preset, results, len(grid)), None
    judged = _judged(experiment, preset, told, results, grid, verdicts) | {"failures": _failures(table)}
    # All are made before any is written: if one fails, those there stay and belong together.
    try:
        files = _draw(experiment, results, told)
        files |= {"summary.npz": _summary(experiment, results)} if experiment.reduce is not None else {}
    except Exception as error:
        if len(results) == len(grid):
            raise
        traceback.print_exc()
        problem = f"{experiment.name} is judged, and cannot be drawn: {type(error).__name__}: {error}"
        files = {}
        for drawing in target.glob("figure.*"):  # of other runs than the table that is written now
            drawing.unlink()
    files |= {"verdicts.json": json.dumps(judged, indent=1) + "\n", "results.csv": _csv(table)}
    new = not _holds(target / "results.csv", files["results.csv"])  # by content: runs may come from an archive
    for name, content in files.items():
        write_atomically(target / name, content)  # another engine may write the same
    console.print(_table(verdicts))
    if new:
        group = f"{experiment.name}/{preset}"
        if line := show_summary(group, table, target / "figure.png", verdicts, mode()):
            _say(console, line)
    if len(results) < len(grid):
        absent = f"; absent cells: {len(judged['absent'])}, named in verdicts.json" if judged["absent"] else ""
        _say(console, f"  judged by {len(results)} of {len(grid)} runs{absent}")
    _say(console, f"  {beforehand.told(*(judged[k] for k in ('claims_commit', 'claims_changed', 'first_run')))}")
    for name in files:
        _say(console, f"  {target / name}")
    return verdicts, problem


def _summary(experiment: Experiment, results: Results) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **results.summary)  # type: ignore[arg-type]
    if out.tell() > SUMMARY:
        raise ReproduceError(
            f"what reduce(results) of {experiment.name} returns takes {out.tell() / 1e6:.1f} MB; "
            f"{SUMMARY / 1e6:g} MB is the most that is committed"
        )
    return out.getvalue()


def _holds(path: Path, content: str | bytes) -> bool:
    try:
        return path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    except FileNotFoundError:
        return False


def _say(console: Console, line: str, style: str | None = None) -> None:
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def _unwritable(target: Path, error: OSError) -> ReproduceError:
    return ReproduceError(f"{target} cannot be written to: {error}; choose another with --out")


def rows(results: Results) -> list[dict[str, Any]]:
    """Make the table of `results.csv`: a run a row, its description first, then its numbers and where they are from.

    Not the training's but added here: whether a run `failed` to train, and `best_accuracy`, the largest of all epochs.
    It was chosen on the test set, so nothing is judged by it.
    """
    table = []
    for run, result, folder in results.rows:
        row: dict[str, Any] = {"run": run.hash, **run.row}
        row |= {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
        row |= {"failed": failed(run, result), "best_accuracy": _best(run, folder)}
        provenance = result.get("provenance", {})
        row |= {k: provenance.get(k) for k in ("seconds", "device", "cpu", "commit", "finished")}
        row["tf32"] = _tf32(result)
        row |= provenance.get("versions", {})
        table.append(row)
    columns = list(dict.fromkeys(name for row in table for name in row))
    return [{name: row.get(name) for name in columns} for row in table]


def _csv(table: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def _best(run: Run, folder: Path | None) -> float | None:
    """Give the largest test accuracy after an epoch; None where the curve is not of the test images, or there is none.

    The first row is of the net before training.
    """
    if run.held_out or folder is None or not (folder / "metrics.csv").exists():
        return None
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        curve = [row.get("test_top1") for row in csv.DictReader(file)][1:]
    return max((float(value) for value in curve if value), default=None)


def _judged(
    experiment: Experiment, preset: str, told: str, results: Results, grid: list[Run], verdicts: list[Verdict]
) -> dict[str, Any]:
    """Make what `verdicts.json` holds.

    `absent` lists the cells of the grid of which no run is done.
    """
    commit, changed = beforehand.changed(experiment.path)
    provenance = [result.get("provenance", {}) for _, result in results]
    began = [when for known in provenance if (when := known.get("started") or known.get("finished"))]
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "preset": preset,
        "conditions": told,
        "claims_commit": commit,
        "claims_changed": changed,
        "first_run": min(began, default=None),
        "absent": sorted({run.cell for run in grid} - {run.cell for run, _ in results}),
        "diverged": [run.name for run, result in results if diverged(result)],
        "claims": [{k: _plain(v) for k, v in asdict(verdict).items()} for verdict in verdicts],
    }


def _failures(table: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Give how many seeds of each cell fail to train, with the 95% interval of the rate; a random mask cannot fail."""
    found = {}
    for cell in (cell for cell in cells(table) if method(str(cell.run.method)).learns):
        fail, of = len(cell.rows) - len(cell.trained), len(cell.rows)
        low, high = clopper_pearson(fail, of)
        found[cell.run.cell] = {"failed": fail, "seeds": of, "low": low, "high": high}
    return found


def _draw(experiment: Experiment, results: Results, told: str) -> dict[str, str | bytes]:
    """Make the drawing with `told` at its foot, and the page of an experiment that has one; by the files' names."""
    from matplotlib.figure import Figure

    from lit_hidden.report import style

    files: dict[str, str | bytes] = {}
    with style.context():
        figure = Figure()
        experiment.draw(results, figure)
        style.footer(figure, told)
        for name, metadata in (("figure.svg", {"Date": None}), ("figure.png", {"Software": None})):
            drawing = io.BytesIO()
            figure.savefig(drawing, format=Path(name).suffix[1:], metadata=metadata)
            files[name] = drawing.getvalue()
    if experiment.page is not None:
        files["figure.html"] = experiment.page(results)
    return files


def _plain(value: Any) -> Any:
    # JSON has no infinity; an interval nobody can bound is null.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tf32(result: dict[str, Any]) -> str | None:
    return ", ".join(result.get("provenance", {}).get("tf32", [])) or None


def conditions(preset: str, results: Results, whole: int | None = None) -> str:
    """Say under what conditions results were obtained, for the foot of a drawing: preset, data, seeds, cuts, TF32.

    Args:
        preset: of the runs.
        results: what is drawn.
        whole: how many runs the grid has, if some may be absent.
    """
    runs, seeds = [run for run, _ in results], results.seeds
    parts = [f"preset {preset}", f"data {listed(run.data for run in runs)}"]
    parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({listed(seeds)})")
    if whole is not None and len(runs) < whole:
        parts.append(f"{len(runs)} of {whole} runs")
    parts.append(f"net {listed(run.net for run in runs)}")
    found, widths = departures(runs), sorted({run.width for run in runs})
    if widths and widths[-1] > 1:  # widths are what the figure is about: nothing is cut by nets wider than published
        parts.append(f"widths {listed(f'x{width:g}' for width in widths)}")
        del found["width"]
    cut = [found[name] for name in FOOT if name in found]
    parts.append(f"cut: {', '.join(cut)}" if cut else "nothing cut")
    told = [{"precision": run.precision, "tf32": _tf32(result)} for run, result in results]
    return "; ".join(parts + in_tf32(told))


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
