"""An experiment's runs side by side in the terminal: cells averaged over seeds, or run by run, sorted by anything."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lit_hidden.code import text
from lit_hidden.engine.experiment import load
from lit_hidden.engine.store import Store
from lit_hidden.engine.written import rows as make_rows
from lit_hidden.judge import confidence_interval
from lit_hidden.report import tables
from lit_hidden.report.tables import FIELDS, SEEDS, ResultsError, Row, describe
from lit_hidden.results import diverged, primary

OVER_SEEDS = ("pm", "n", "min", "max")  # of the primary metric of a cell; the first two are shown
HEADINGS = {"pm": "±95%", "best_accuracy": "best epoch (chosen on the test set)"}
DIGITS = {"loss": 4, "seconds": 0, "steps": 0, "parameters": 0}  # of other numbers 2


def compare(
    name: str,
    preset: str = "quick",
    *,
    runs_dir: str | Path = "runs",
    results: str | Path = "experiments/results",
    sort: str | None = None,
    reverse: bool = False,
    where: Sequence[str] = (),
    columns: Sequence[str] = (),
    by_seed: bool = False,
    as_csv: bool = False,
    console: Console | None = None,
) -> None:
    """Print the runs of an experiment that are done, or if none is, its committed results.

    A line is a cell: the runs that differ by seed alone. It has means over the `n` seeds that train; of the accuracy
    half the 95% interval (`pm`), the smallest and the largest; and how many seeds failed to train, or diverged.

    `columns` are fields and numbers; none shows the fields that differ and the accuracy, in CSV all numbers. `sort` is
    one of them; None sorts by net, method and so on. `where` keeps the runs with all of its values, as in `net=conv4`.
    `by_seed` shows each run. `as_csv` writes CSV to standard output, and all else to standard error.

    Raises:
        UsageError: an unknown experiment or preset.
        ResultsError: an unknown column, no results, or no run that has all of `where`.
        StoreError: a run's folder is damaged.
    """
    console = console or Console(stderr=as_csv, highlight=False)
    rows, title, told = _find(name, preset, Store(runs_dir), Path(results))
    rows = tables.filtered(rows, where)
    runs = [describe(row) for row in rows]
    options = [f"{c.class_path.rpartition('.')[2]}.{one}" for run in runs for c in run.callbacks for one in c.init_args]
    numbers = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if key not in (*FIELDS, "failed", "diverged") and any(isinstance(row.get(key), int | float) for row in rows)
    ]
    make = _lines if by_seed else _cells
    left_out = () if by_seed else SEEDS
    lines = [
        {key: value for key, value in (_described(row, options) | values).items() if key not in left_out}
        for row, values in make(rows, numbers)
    ]
    usual = tables.varying(runs)
    if by_seed:
        usual += ["seed", *(key for key in SEEDS[1:] if any(row[key] != row["seed"] for row in rows))]
    usual += [primary(rows[0]), *(() if by_seed else OVER_SEEDS if as_csv else OVER_SEEDS[:2])]
    usual += [key for key in ("failed", "diverged") if any(row.get(key) for row in rows)]
    shown = list(columns) or list(dict.fromkeys([*usual, *((*numbers, *options) if as_csv else ())]))
    shown += [sort] if sort and sort not in shown else []
    if unknown := [key for key in shown if key not in lines[0]]:
        hint = "; seeds are averaged over: add --by-seed" if set(unknown) & set(SEEDS) else ""
        there = ", ".join(dict.fromkeys([*usual, *(() if by_seed else OVER_SEEDS), *numbers, *options]))
        raise ResultsError(f"no column {unknown[0]!r}{hint}; there are {there}")
    keys = [sort] if sort else [key for key in shown if key in FIELDS]
    lines.sort(key=lambda line: [tables.order(line[key]) for key in keys], reverse=reverse)
    console.print(f"{name} ({preset}): {title}", style="bold", markup=False)
    console.print(told, markup=False, soft_wrap=True)
    if same := tables.common(runs):
        console.print(f"all of them: {', '.join(f'{key}={text(value)}' for key, value in same.items())}")
    if as_csv:
        writer = csv.DictWriter(sys.stdout, shown, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for key in shown:
        table.add_column(HEADINGS.get(key, key), justify="left" if key in FIELDS else "right", overflow="fold")
    for line in lines:
        table.add_row(*(_written(key, line[key]) for key in shown))
    console.print("", table, "")
    if "pm" in shown:
        console.print(f"{primary(rows[0]).capitalize()}: mean over the n seeds that train, ± half its 95% interval.")


def _find(name: str, preset: str, store: Store, results: Path) -> tuple[list[Row], str, str]:
    """Return the rows there are, the experiment's title, and a line that says where the rows are from."""
    experiment = load(name)
    runs = experiment.grid(preset)
    done = store.results(runs)
    train = f"make reproduce-{name} PRESET={preset}"
    if len(done):
        rest = "" if len(done) == len(runs) else f"; {train} trains the rest"
        return make_rows(done), experiment.title, f"{len(done)} of {len(runs)} runs are done, in {store.root}/{rest}"
    path = results / name / preset / "results.csv"
    if not path.exists():
        raise ResultsError(
            f"none of the {len(runs)} runs of {name} ({preset}) is done in {store.root}/, and there is no {path}; "
            f"{train} trains them"
        )
    rows = tables.read(path)
    known = len({row["run"] for row in rows} & {run.hash for run in runs})
    earlier = f", and {len(rows) - known} of an earlier grid" if known < len(rows) else ""
    return rows, experiment.title, f"{known} of {len(runs)} runs{earlier}, from {path} ({store.root}/ has none)"


def _described(row: Row, options: Sequence[str]) -> Row:
    """Return the fields of a run, and its callbacks' options: `Class.option`, which may have several values."""
    run = describe(row)
    found = {key: list(dict.fromkeys(tables.options(run, key))) for key in options}
    told = {key: values[0] if len(values) == 1 else tables.listed(values) or None for key, values in found.items()}
    return {key: row.get(key) for key in FIELDS} | {k: tables.setting(run, k) for k in ("callbacks", "after")} | told


def _lines(rows: list[Row], numbers: list[str]) -> list[tuple[Row, Row]]:
    return [(row, {key: row.get(key) for key in ("run", *numbers, "failed", "diverged")}) for row in rows]


def _cells(rows: list[Row], numbers: list[str]) -> list[tuple[Row, Row]]:
    """Average over seeds; the first run of each cell with its numbers."""
    lines = []
    for cell in tables.cells(rows):
        values = cell.values(cell.metric)
        low, high = confidence_interval(values) if len(values) > 1 else (None, None)
        line: Row = {key: cell.mean(key) for key in numbers}
        line["pm"] = None if low is None or high is None else (high - low) / 2
        line |= {"min": min(values, default=None), "max": max(values, default=None), "n": len(values)}
        counts = {"failed": len(cell.rows) - len(cell.trained), "diverged": sum(map(diverged, cell.rows))}
        line |= {key: f"{count}/{len(cell.rows)}" for key, count in counts.items()}
        lines.append((cell.rows[0], line))
    return lines


def _written(key: str, value: Any) -> str:
    if isinstance(value, float) and key not in FIELDS and "." not in key:
        return f"{value:.{DIGITS.get(key, 2)}f}"
    return "-" if value is None else text(value)
