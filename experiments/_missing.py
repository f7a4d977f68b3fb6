"""What committed presets still lack, counted against runs that are done and tables, each run once; with its time."""

from pathlib import Path

from lit_hidden.engine.estimate import estimate, measured
from lit_hidden.engine.experiment import load, names
from lit_hidden.engine.store import Store
from lit_hidden.engine.where import Where
from lit_hidden.report.tables import ResultsError, describe, read
from lit_hidden.run import Run


def missing(
    preset: str | None = None, *, runs_dir: str | Path = "runs", results: str | Path = "experiments/results"
) -> str:
    """List experiments and presets with their runs that are neither done nor committed: a line each, and the total.

    A run that several grids share is counted with the first. Without `preset` those with committed results are listed,
    and `short` of the same experiments. UsageError: an unknown preset; ResultsError: a table is damaged.
    """
    store, tables = Store(runs_dir), sorted(Path(results).glob("*/*/results.csv"))
    if not tables:
        raise ResultsError(f"no results in {results}")
    rows = [row for path in tables for row in read(path)]
    known, found = {row["run"] for row in rows}, dict[str, list[Run]]()
    for name in names():
        committed = {path.parent.name for path in tables if path.parents[1].name == name}
        short = {"short"} if committed else set()  # what a machine without a GPU trains next
        for one in [preset] if preset else sorted(committed | short):
            grid = load(name).grid(one)
            left = [run for run in grid if run.hash not in known and not store.done(run)]
            known |= {run.hash for run in left}
            found[f"{name} ({one}): {len(left)} of {len(grid)} runs missing"] = left
    everything = [run for left in found.values() for run in left]
    found[f"in all {len(everything)} runs missing"] = everything
    pool = Where().start(store.root, everything)
    took = [*measured(store), *((describe(row), row) for row in rows)]
    times = {line: f", {estimate(left, store, pool, took)}" if left else "" for line, left in found.items()}
    return "\n".join(line + time for line, time in times.items())
