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
from lit_hidden.report.tables import FIELDS, SEEDS, Cell, ResultsError, Row
from lit_hidden.results import diverged, primary
from lit_hidden.run import Run


def compare(
    name: str,
    preset: str = "quick",
    *,
    runs_dir: str | Path = "runs",
    results: str | Path = "experiments/results",
    sort: str | None = None,
    reverse: bool = False,
    where: Sequence[str] = (),
    by_seed: bool = False,
    as_csv: bool = False,
    console: Console | None = None,
) -> None:
    """Print the runs of an experiment that are done, or if none is, its committed results.

    A line is a cell: the runs that differ by seed alone. It has the fields that differ, and means over the `n` seeds
    that train; of the accuracy also half the 95% interval (`pm`); and how many seeds failed to train, or diverged.

    `sort` is a field or a number; None sorts by net, method and so on. `where` keeps the runs with all of its values,
    as in `net=conv4`. `by_seed` shows each run. `as_csv` writes CSV with all numbers to standard output, and all else
    to standard error. Raises a ResultsError for an unknown column, or if there are no results or none has all of
    `where`.
    """
    console = console or Console(stderr=as_csv, highlight=False)
    rows, title, told = _find(name, preset, Store(runs_dir), Path(results))
    rows = tables.filtered(rows, where)
    runs, metric = [tables.describe(row) for row in rows], primary(rows[0])
    known = dict.fromkeys(key for row in rows for key in row if key not in (*FIELDS, "failed", "diverged"))
    numbers = [key for key in known if any(isinstance(row.get(key), int | float) for row in rows)]
    if by_seed:
        lines = [row | _fields(run) for run, row in zip(runs, rows, strict=True)]
    else:
        lines = [_fields(cell.run) | _means(cell, numbers) for cell in tables.cells(rows)]
    shown = [*tables.varying(runs), *(["seed", metric] if by_seed else [metric, "pm", "n"])]
    shown += [key for key in ("failed", "diverged") if any(row.get(key) for row in rows)]
    shown = list(dict.fromkeys([*shown, *(["run"] if by_seed and as_csv else []), *(numbers if as_csv else [])]))
    if sort is not None and sort not in lines[0]:
        hint = "; seeds are averaged over: add --by-seed" if sort in SEEDS else ""
        raise ResultsError(f"no column {sort!r}{hint}; there are {', '.join(dict.fromkeys([*shown, *numbers]))}")
    shown += [sort] if sort and sort not in shown else []
    keys = [sort] if sort else [key for key in shown if key in FIELDS]
    lines.sort(key=lambda line: [tables.order(line.get(key)) for key in keys], reverse=reverse)
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
        table.add_column(key, justify="left" if key in FIELDS else "right", overflow="fold")
    for line in lines:
        table.add_row(*(_written(key, line.get(key)) for key in shown))
    console.print("", table, "")
    if not by_seed:
        console.print(f"{metric}: mean over the n seeds that train; pm: half its 95% interval.")


def _find(name: str, preset: str, store: Store, results: Path) -> tuple[list[Row], str, str]:
    """Return the rows there are, the experiment's title, and a line that says where the rows are from."""
    experiment, path = load(name), results / name / preset / "results.csv"
    runs = experiment.grid(preset)
    if len(done := store.results(runs)):
        return make_rows(done), experiment.title, f"{len(done)} of {len(runs)} runs are done, in {store.root}/"
    if not path.exists():
        train = f"make reproduce-{name} PRESET={preset} trains them"
        raise ResultsError(f"none of the {len(runs)} runs is done in {store.root}/, and there is no {path}; {train}")
    rows = tables.read(path)
    return rows, experiment.title, f"{len(rows)} committed runs, in {path}; {store.root}/ has none of {len(runs)}"


def _fields(run: Run) -> Row:
    return {key: tables.setting(run, key) for key in tables.CONDITIONS}


def _means(cell: Cell, numbers: Sequence[str]) -> Row:
    """Average over the seeds that train."""
    values = cell.values(cell.metric)
    low, high = confidence_interval(values) if len(values) > 1 else (None, None)
    line: Row = {key: cell.mean(key) for key in numbers}
    line |= {"pm": None if low is None or high is None else (high - low) / 2, "n": len(values)}
    counts = {"failed": len(cell.rows) - len(cell.trained), "diverged": sum(map(diverged, cell.rows))}
    return line | {key: f"{count}/{len(cell.rows)}" for key, count in counts.items()}


def _written(key: str, value: Any) -> str:
    if isinstance(value, float) and key not in FIELDS:
        return f"{value:.2f}"
    return "-" if value is None else text(value)
