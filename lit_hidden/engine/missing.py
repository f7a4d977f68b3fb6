"""Which runs of the committed experiments and presets are still to be trained, and how long they will take."""

import json
from pathlib import Path

from lit_hidden.engine.archive import NAME, contents
from lit_hidden.engine.estimate import Clock, Estimate, duration
from lit_hidden.engine.experiment import load, names
from lit_hidden.engine.reproduce import HERE
from lit_hidden.engine.store import Store
from lit_hidden.report.tables import read
from lit_hidden.results import diverged
from lit_hidden.run import PRESETS, Run

TABLE = "results.csv"


def missing(
    preset: str | None = None, *, runs_dir: str | Path = "runs", results: str | Path = "experiments/results"
) -> str:
    """List experiments and presets with their runs that are neither done nor committed: a line each, and the total.

    Runs that diverged are done. A run that several grids share is counted with the first of them. Without `preset`
    those with committed results or runs are listed, and `short` of the same experiments.

    Raises:
        UsageError: an unknown preset, also among the committed ones.
        ResultsError, StoreError: committed results or runs are damaged.
    """
    store, results = Store(runs_dir), Path(results)
    rows = {row["run"]: diverged(row) for path in results.glob(f"*/*/{TABLE}") for row in read(path)}
    archived = {run: files for path in sorted(results.glob(f"*/*/{NAME}")) for run, files in contents(path).items()}
    known = rows.keys() | {run.hash for run in archived}
    grids = [
        (f"{name} ({one})", load(name).grid(one))
        for name in names()
        for one in ([preset] if preset else _committed(results, name))
    ]
    found: dict[str, list[Run]] = {}
    for title, grid in grids:
        found[title] = [run for run in grid if run.hash not in known and not store.done(run)]
        known |= {run.hash for run in found[title]}
    everything = [run for left in found.values() for run in left]
    pool = HERE.start(store.root, everything)
    clock = Clock.read(store, pool.device, pool.device_name)
    for run, files in archived.items():
        clock.result(run, json.loads(files["result.json"]))

    def cost(runs: list[Run]) -> Estimate:
        return clock.estimate(((run, run.epochs - store.progress(run)[0]) for run in runs), pool.places)

    lines = []
    for title, grid in grids:
        left, needed = found[title], cost(found[title])
        time = "unknown" if needed.seconds is None else f"{duration(needed.seconds)}{needed.more}"
        lost = sum(rows.get(run.hash) or diverged(store.result(run) or {}) for run in grid)
        told = f"{title}: {len(left)} of {len(grid)} runs missing" + (f", {time}" if left else "")
        lines.append(told + (f"; {lost} diverged" if lost else ""))
    return "\n".join(
        [*lines, f"in all {len(everything)} runs missing" + (f", {cost(everything)}" if everything else "")]
    )


def _committed(results: Path, name: str) -> list[str]:
    """List an experiment's committed presets and `short`, the cheapest first; `paper-imagenet100` is a `paper`."""
    found = {path.parent.name for file in (TABLE, NAME) for path in results.glob(f"{name}/*/{file}")}
    found |= {"short"} if found else set()  # what a machine without a GPU trains next
    return sorted(found, key=lambda one: (*(one.startswith(base) for base in PRESETS[::-1]), one))
