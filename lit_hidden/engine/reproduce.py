"""Reproduce experiments: train what is missing of them, judge their claims, draw them, write a folder each."""

import json
import math
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import estimate, measured
from lit_hidden.engine.experiment import Experiment, ReproduceError, UsageError, load, names
from lit_hidden.engine.grid import Grid, plan
from lit_hidden.engine.store import Store, write_atomically
from lit_hidden.engine.tracking import View
from lit_hidden.engine.where import Where
from lit_hidden.engine.written import as_csv, draw, judged, rows
from lit_hidden.judge import judge
from lit_hidden.report.tables import filtered, reason
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

HERE = Where()
COLORS = {"supported": "green", "contradicted": "red", "undecided": "yellow"}


class TimeUpError(ReproduceError):
    """The minutes given are over, and runs are left."""

    status = 75  # EX_TEMPFAIL: try again


def reproduce(
    *names_or_all: str,
    preset: str = "quick",
    runs_dir: str | Path = "runs",
    out: str | Path = "results",
    data_dir: str | Path = "data",
    where: Where = HERE,
    only: Sequence[str] = (),
    minutes: float = math.inf,
    dry_run: bool = False,
) -> None:
    """Train what is missing of experiments in one grid; then judge each by what is done of it, draw it, write it.

    `names_or_all` are files of `experiments/`, such as `fig2`, or `all`. `preset` is `smoke`, `quick`, `short` or
    `paper`, or with data `paper-imagenet100`. Runs live in `runs_dir`, and equal runs of other experiments there are
    used; `<name>/<preset>/` is written into `out`. `only`, such as `net=conv4`, keeps the runs that have all of it;
    claims that need others are undecided. Training stops after `minutes`, and 0 draws what is done. `dry_run` prints
    the grid and the estimated time, and nothing more is done.

    Raises:
        UsageError, ResultsError, StoreError, LauncherError: before training; arguments or folders cannot be used.
        TimeUpError, ReproduceError: after all else is done; `minutes` were over, or runs or drawings failed.
    """
    if not minutes >= 0:
        raise UsageError(f"--minutes {minutes:g}: give a number, such as 30, 0.5 or 0")
    until = time.monotonic() + 60 * minutes
    console, store = Console(highlight=False, markup=False, soft_wrap=True), Store(runs_dir)
    asked = dict.fromkeys(name for given in names_or_all for name in (names() if given == "all" else [given]))
    chosen = [(one := load(name), filtered(one.grid(preset), only)) for name in asked]
    ordered = [run for experiment, runs in chosen for run in sorted(runs, key=experiment.order)]
    todo = plan(ordered, store, console.print, mend=not dry_run)
    for experiment, runs in chosen:
        missing = sum(run.hash in todo for run in runs)
        console.print(f"{experiment.name} ({preset}): {experiment.title}", style="bold")
        console.print(f"{len(runs)} runs: {len(runs) - missing} done, {missing} to train")
    if dry_run:
        for name, run in ({run.hash: run for run in ordered} | todo).items():
            state = f"{'training' if store.held(run) else 'to train'} {store.progress(run)}/{run.epochs}"
            console.print(f"  {name}  {state if name in todo else 'done':16}  {run.name}")
    if todo and (dry_run or minutes > 0):
        pool = where.start(store.root, todo.values())
        console.print(f"estimated time: {estimate(todo.values(), store, pool, measured(store))}")
        if dry_run:
            pool.close()
    if dry_run:
        return
    targets = [Path(out) / experiment.name / preset for experiment, _ in chosen]
    for target in targets:
        target.mkdir(parents=True, exist_ok=True)  # fails before the expensive part
    view, problems, late = View(console.print), list[str](), bool(todo)
    if todo and minutes > 0:
        figures = {experiment.name: {run.hash for run in runs} for experiment, runs in chosen}

        def show(run: Run, result: dict[str, Any]) -> None:
            for name in [name for name, hashes in figures.items() if run.hash in hashes] or ["parents"]:
                view.show(run, store.folder(run), result, f"{name}/{preset}")

        store.check_writable()
        grid = Grid(todo, store, pool, data_dir, show, console.print, until)
        grid.train()
        problems, late = _told(grid), bool(grid.left)
    for (experiment, runs), target in zip(chosen, targets, strict=True):
        try:
            read = ((run, store.result(run), store.folder(run)) for run in runs)
            results = Results((run, result, folder) for run, result, folder in read if result is not None)
            if lacking := len(runs) - len(results):
                problems.append(f"{experiment.name}: {lacking} of {len(runs)} runs are missing")
            for run, result in results:  # also those that were done before
                view.show(run, store.folder(run), result, f"{experiment.name}/{preset}", new=False)
            if not runs or len(results):
                _finish(experiment, preset, results, target, view, console)
        except Exception as error:  # in the experiment's file; the other experiments are drawn all the same
            if not isinstance(error, NoRunsError):  # half a grid may be too little for a drawing
                traceback.print_exc()
            problems.append(f"{experiment.name} cannot be judged or drawn: {type(error).__name__}: {error}")
    if problems:
        raise (TimeUpError if late else ReproduceError)("\n".join(problems))


def _told(grid: Grid) -> list[str]:
    """Say whether the time was up, and which runs failed."""
    whole = len(grid.plan)
    how_far = f"{grid.done} of {whole} runs are done; the same command goes on where this one was"
    told = [f"time is up: {how_far}"] if grid.left else []
    if grid.failures:
        told.append(f"{len(grid.failures)} of {whole} runs failed, or were skipped because others did:")
    return told + [f"  {line}" for line in grid.failures if line]


def _finish(experiment: Experiment, preset: str, results: Results, target: Path, view: View, console: Console) -> None:
    """Judge the claims, write the folder, show both; a table that is new is shown in W&B too."""
    if experiment.reduce is not None:
        results.reduce_by(experiment.reduce)
    grid, table = experiment.grid(preset), rows(results)
    verdicts = [judge(claim, results, grid) for claim in experiment.claims]
    found = judged(experiment, preset, results, table, verdicts)
    old = target / "results.csv"
    new = not old.exists() or old.read_text(encoding="utf-8") != as_csv(table)  # runs may be an archive's
    for drawing in target.glob("figure.*") if new else ():
        drawing.unlink(missing_ok=True)  # it is of other runs
    shown = Table("claim", "kind", "verdict", "margin", "95% interval")
    for v in verdicts:
        # An interval without width does not say why it decides nothing.
        interval = f"{v.low:.4g} to {v.high:.4g}" if math.isfinite(v.low) and v.low < v.high and not v.every else v.why
        margin = f"{v.margin:.4g} {v.unit}" if math.isfinite(v.margin) else "none"
        shown.add_row(v.sentence, v.kind, Text(v.verdict, COLORS[v.verdict]), margin, reason(interval, v.failed))
    console.print(shown, soft_wrap=False)
    when, _ = beforehand.told(*(found[name] for name in ("claims_commit", "claims_changed", "first_run")))
    console.print(f"  {when}")

    def write(contents: dict[str, str | bytes]) -> None:
        for name, content in contents.items():
            write_atomically(target / name, content)  # another engine may write the same
            console.print(f"  {target / name}")

    # Before drawing: what cannot be drawn is judged all the same.
    write({"results.csv": as_csv(table), "verdicts.json": json.dumps(found, indent=1) + "\n"})
    write(draw(experiment, results, found["conditions"]))
    if new:
        view.summarise(f"{experiment.name}/{preset}", table, target / "figure.png", verdicts)
