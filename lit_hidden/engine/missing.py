"""Which runs of the committed experiments and presets are still to be trained, and how long they will take."""

import json
from pathlib import Path

from lit_hidden.engine.archive import NAME, contents
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.experiment import load, names
from lit_hidden.engine.store import RESULT, Store
from lit_hidden.engine.where import Where
from lit_hidden.report.tables import read
from lit_hidden.run import PRESETS, Run


def missing(
    preset: str | None = None, *, runs_dir: str | Path = "runs", results: str | Path = "experiments/results"
) -> str:
    """List experiments and presets with their runs that are neither done nor committed: a line each, and the total.

    A run that several grids share is counted with the first. Without `preset` those with committed results or runs are
    listed, and `short` of the same experiments. UsageError: an unknown preset; ResultsError, StoreError: damage.
    """
    store, results = Store(runs_dir), Path(results)
    archived = [pair for path in results.glob(f"*/*/{NAME}") for pair in contents(path).items()]
    known = {row["run"] for path in results.glob("*/*/results.csv") for row in read(path)}
    known |= {run.hash for run, _ in archived}
    found: dict[str, list[Run]] = {}
    for name in names():
        committed = {path.parent.name for file in ("results.csv", NAME) for path in results.glob(f"{name}/*/{file}")}
        committed |= {"short"} if committed else set()  # what a machine without a GPU trains next
        cheap_first = sorted(committed, key=lambda one: [one.startswith(base) for base in reversed(PRESETS)])
        for one in [preset] if preset else cheap_first:
            grid = load(name).grid(one)
            left = [run for run in grid if run.hash not in known and not store.done(run)]
            known |= {run.hash for run in left}
            found[f"{name} ({one}): {len(left)} of {len(grid)} runs missing"] = left
    everything = [run for left in found.values() for run in left]
    found[f"in all {len(everything)} runs missing"] = everything
    pool = Where().start(store.root, everything)
    clock = Clock.read(store, pool.device, pool.device_name)
    for run, files in archived:
        clock.result(run, json.loads(files[RESULT]))

    def time(runs: list[Run]) -> str:
        return clock.estimate(((run, run.epochs - store.progress(run)[0]) for run in runs), pool.places)

    return "\n".join(line + (f", {time(left)}" if left else "") for line, left in found.items())
