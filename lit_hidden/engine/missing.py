"""Which runs of the committed experiments and presets are still to be trained, and how long they will take."""

import json
from collections.abc import Iterable
from pathlib import Path

from lit_hidden.engine.archive import NAME, contents
from lit_hidden.engine.estimate import Clock, Estimate, duration
from lit_hidden.engine.reproduce import HERE, Experiment, load, names
from lit_hidden.engine.store import Store
from lit_hidden.report.tables import read
from lit_hidden.results import diverged
from lit_hidden.run import PRESETS, Run

TABLE = "results.csv"


def missing(
    preset: str | None = None, *, runs_dir: str | Path = "runs", results: str | Path = "experiments/results"
) -> str:
    """List experiments and presets with the runs that are neither done nor committed: a line each, and the total.

    Runs that diverged are done, and told apart.

    A run that several grids share is counted once, with the first of them. Begun runs cost what is left of them.

    Args:
        preset: list this one of every experiment; None lists those that have committed results or runs, and `short`.
        runs_dir: where runs live.
        results: where committed results live.

    Raises:
        UsageError: an unknown preset, or a committed one.
        ResultsError, StoreError: committed results or runs are damaged.
    """
    store, results = Store(runs_dir), Path(results)
    grids = [(e.name, chosen, e.grid(chosen)) for e in map(load, names()) for chosen in _presets(e, preset, results)]
    there = {row["run"]: diverged(row) for path in results.glob(f"*/*/{TABLE}") for row in read(path)}
    archived = {run: files for path in sorted(results.glob(f"*/*/{NAME}")) for run, files in contents(path).items()}
    found: dict[str, Run] = {}
    each: list[list[Run]] = []
    for _, _, grid in grids:
        known = there.keys() | {run.hash for run in archived} | found.keys()
        left = [run for run in grid if run.hash not in known and not store.done(run)]
        found |= {run.hash: run for run in left}
        each.append(left)
    pool = HERE.start(store.root, found.values())
    clock = Clock.read(store, pool.device, pool.device_name)
    for run, files in archived.items():
        clock.result(run, json.loads(files["result.json"]))

    def cost(runs: Iterable[Run]) -> Estimate:
        return clock.estimate(((run, run.epochs - store.progress(run)[0]) for run in runs), pool.places)

    lines = []
    for (name, chosen, grid), left in zip(grids, each, strict=True):
        needed = cost(left)
        time = "unknown" if needed.seconds is None else f"{duration(needed.seconds)}{needed.more}"
        lost = sum(there.get(run.hash) or diverged(store.result(run) or {}) for run in grid)
        told = f"{len(left)} of {len(grid)} runs missing" + (f", {time}" if left else "")
        lines.append(f"{name} ({chosen}): {told}" + (f"; {lost} diverged" if lost else ""))
    return "\n".join([*lines, f"in all {len(found)} runs missing" + (f", {cost(found.values())}" if found else "")])


def _presets(experiment: Experiment, preset: str | None, results: Path) -> list[str]:
    """List the presets to show of an experiment, the cheapest first."""
    if preset is not None:
        return [preset]
    committed = {path.parent.name for file in (TABLE, NAME) for path in results.glob(f"{experiment.name}/*/{file}")}
    committed |= {"short"} if committed else set()  # what a machine without a GPU trains next
    # `paper-imagenet100` is `paper` on other data. What is no preset is refused when its grid is asked for.
    return sorted(committed, key=lambda name: (*(name.startswith(base) for base in PRESETS[::-1]), name))
