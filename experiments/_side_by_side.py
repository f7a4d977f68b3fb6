"""An experiment's runs side by side in the terminal: cells averaged over seeds, or run by run, sorted by anything."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from lit_hidden.code import text
from lit_hidden.engine import written
from lit_hidden.engine.experiment import load
from lit_hidden.engine.store import Store
from lit_hidden.judge import half_widths
from lit_hidden.report import tables
from lit_hidden.report.tables import FIELDS, Cell, ResultsError, Row
from lit_hidden.results import diverged, primary


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
) -> None:
    """Print the runs of an experiment that are done, or if none is, its committed results.

    A line is a cell: means over the `n` seeds that train, half the 95% interval of the accuracy (`pm`), and how many
    seeds failed to train, or diverged. With `by_seed` it is a run. `as_csv` writes CSV with all numbers to standard
    output, and all else to standard error. ResultsError: an unknown column, or nothing to show.
    """
    console = Console(stderr=as_csv, highlight=False, markup=False)
    found, title, told = _find(name, preset, Store(runs_dir), Path(results))
    by_hash = {row["run"]: row for row in found}
    runs = tables.filtered([tables.describe(row) for row in found], where)
    rows = [by_hash[run.hash] for run in runs]
    metric = primary(rows[0])
    known = dict.fromkeys(key for row in rows for key in row if key not in (*FIELDS, "failed", "diverged"))
    numbers = [key for key in known if any(isinstance(row.get(key), int | float) for row in rows)]
    cells = [] if by_seed else tables.cells(rows)
    pairs = zip(runs, rows, strict=True) if by_seed else ((cell.run, _means(cell, numbers)) for cell in cells)
    lines = [row | {key: tables.setting(run, key) for key in tables.CONDITIONS} for run, row in pairs]
    shown = [*tables.varying(runs), *(["seed", metric] if by_seed else [metric, "pm", "n"])]
    shown += [key for key in ("failed", "diverged") if any(row.get(key) for row in rows)]
    if sort is not None and sort not in lines[0]:
        raise ResultsError(f"no column {sort!r}; there are {', '.join(dict.fromkeys([*shown, *numbers]))}")
    keys = [sort] if sort else shown
    lines.sort(key=lambda line: [tables.order(line.get(key)) for key in keys], reverse=reverse)
    more = [*(["run"] if by_seed else []), *numbers] if as_csv else []
    shown = list(dict.fromkeys([*shown, *keys, *more]))
    console.print(f"{name} ({preset}): {title}", style="bold")
    console.print(told, soft_wrap=True)
    if same := tables.common(runs):
        console.print(f"all of them: {', '.join(f'{key}={text(value)}' for key, value in same.items())}")
    if as_csv:
        sys.stdout.write(written.as_csv([{key: line.get(key) for key in shown} for line in lines]))
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
        return written.rows(done), experiment.title, f"{len(done)} of {len(runs)} runs are done, in {store.root}/"
    if not path.exists():
        train = f"make reproduce-{name} PRESET={preset} trains them"
        raise ResultsError(f"none of the {len(runs)} runs is done in {store.root}/, and there is no {path}; {train}")
    rows = tables.read(path)
    return rows, experiment.title, f"{len(rows)} committed runs, in {path}; {store.root}/ has none of {len(runs)}"


def _means(cell: Cell, numbers: Sequence[str]) -> Row:
    """Average over the seeds that train."""
    values, of, half = cell.values(), len(cell.rows), None
    n = len(values)
    if n > 1:
        half = float(half_widths(np.var([values], axis=1, ddof=1) / n, np.array([n - 1.0]), parts=1)[0])
    line: Row = {key: cell.mean(key) for key in numbers} | {"pm": half, "n": n}
    return line | {"failed": f"{of - len(cell.trained)}/{of}", "diverged": f"{sum(map(diverged, cell.rows))}/{of}"}


def _written(key: str, value: Any) -> str:
    if isinstance(value, float) and key not in FIELDS:
        return f"{value:.2f}"
    return "-" if value is None else text(value)
