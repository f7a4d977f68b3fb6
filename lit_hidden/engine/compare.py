"""An experiment's runs side by side in the terminal: cells averaged over seeds, or run by run, sorted by anything."""

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from lit_hidden.code import text
from lit_hidden.engine.reproduce import load
from lit_hidden.engine.reproduce import rows as make_rows
from lit_hidden.engine.store import Store
from lit_hidden.judge import confidence_interval
from lit_hidden.report.tables import (
    FIELDS,
    SEEDS,
    ResultsError,
    Row,
    cells,
    common,
    describe,
    filtered,
    listed,
    options,
    order,
    read,
    setting,
    varying,
)  # fmt: skip
from lit_hidden.results import diverged, primary

NUMBERS = ("accuracy", "best_accuracy", "top5", "loss", "train_accuracy", "seconds")
OVER_SEEDS = ("pm", "min", "max", "n")  # of the accuracy of a cell
HEADINGS = {"pm": "±95%", "best_accuracy": "best epoch"}
SPARE = (
    "seconds",
    "train_accuracy",
    "loss",
    "top5",
    "best_accuracy",
    "max",
    "min",
    "pm",
)  # what a narrow terminal goes without, in turn


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
    """Print the runs of an experiment that are done, or where none is, its committed results.

    Args:
        name: a file of `experiments/`, such as `fig3`.
        preset: `smoke`, `quick`, `short` or `paper`.
        runs_dir: where runs live.
        results: where committed results live, `<name>/<preset>/results.csv`.
        sort: a field of Run or a number of the results; None sorts by net, method and so on.
        reverse: the largest first.
        where: such as `net=conv4`; only the runs that have all of them.
        columns: what to show, whatever the width; none shows what differs, and what there is room for.
        by_seed: a line for each run; otherwise one for the runs that differ by seed alone. It gives means over the `n`
            seeds that train; of the accuracy half the 95% interval (`pm`), the smallest and the largest; and, where any
            seed fails to train, how many of how many do (`failed`), and how many of those `diverged`.
        as_csv: write CSV to standard output, and what else there is to say to standard error.
        console: where to print.

    Raises:
        UsageError: an unknown experiment or preset.
        ResultsError: unknown column, no results, or a `where` that none of them meets.
        StoreError: a run's folder is damaged.
    """
    console = console or Console(stderr=as_csv, highlight=False)
    rows, title, told = _find(name, preset, Store(runs_dir), Path(results))
    rows = filtered(rows, where)
    numbers = [
        key
        for key, value in _merged(rows).items()
        if key not in (*FIELDS, "diverged") and isinstance(value, int | float) and not isinstance(value, bool)
    ]
    dotted = dict.fromkeys(
        f"{one.class_path.rpartition('.')[2]}.{name}"
        for row in rows
        for one in describe(row).callbacks
        for name in one.init_args
    )
    lines = [_run(row, numbers, dotted) for row in rows] if by_seed else _cells(rows, numbers, dotted)
    usual = _columns(rows, numbers, by_seed)
    there = list(dict.fromkeys([*usual, *numbers, *dotted]))
    shown = list(columns) or (there[:] if as_csv else list(usual))
    if sort and sort not in shown:
        shown.append(sort)
    if unknown := [key for key in shown if key not in lines[0]]:
        hint = "; seeds are averaged over: add --by-seed" if set(unknown) & set(SEEDS) else ""
        raise ResultsError(f"no column {unknown[0]!r}{hint}; there are {', '.join(there)}")
    keys = [sort] if sort else [key for key in shown if key in FIELDS]
    lines.sort(key=lambda line: [order(line[key]) for key in keys], reverse=reverse)
    console.print(f"{name} ({preset}): {title}", style="bold", markup=False)
    console.print(told, markup=False, soft_wrap=True)
    if same := common([describe(row) for row in rows]):
        console.print(f"all of them: {', '.join(f'{key}={text(value)}' for key, value in same.items())}")
    if as_csv:
        writer = csv.DictWriter(sys.stdout, shown, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return
    written = {key: [HEADINGS.get(key, key), *_column(key, lines)] for key in shown}
    dropped = [] if columns else _drop(written, console.width, {sort})
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for key, (heading, *_) in written.items():
        table.add_column(heading, justify="left" if key in FIELDS else "right", overflow="fold")
    for line in zip(*(column[1:] for column in written.values()), strict=True):
        table.add_row(*line)
    console.print("", table, "")
    if "pm" in written:
        console.print(
            f"{primary(rows[0]).capitalize()}: mean over the n seeds that train, ± half its 95% interval. "
            "Other numbers: their means."
        )
    if "best_accuracy" in written:
        console.print("Best epoch (chosen on the test set): the largest accuracy after any; nothing is judged by it.")
    if dropped:
        console.print(f"No room for {', '.join(dropped)}: a wider terminal or --columns shows them.")


def _find(name: str, preset: str, store: Store, results: Path) -> tuple[list[Row], str, str]:
    """Give the rows there are, the experiment's title, and a line that says where they are from."""
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
    rows = read(path)
    hashes = {run.hash for run in runs}
    known = sum(row["run"] in hashes for row in rows)
    earlier = f", and {len(rows) - known} of an earlier grid" if known < len(rows) else ""
    return rows, experiment.title, f"{known} of {len(runs)} runs{earlier}, from {path} ({store.root}/ has none)"


def _merged(rows: list[Row]) -> Row:
    """Give each column with a value of it, if any row has one."""
    return {key: next((row[key] for row in rows if row.get(key) is not None), None) for row in rows for key in row}


def _run(row: Row, numbers: list[str], dotted: Iterable[str]) -> Row:
    told = {key: row.get(key) for key in (*numbers, "failed", "diverged")}
    return {"run": row["run"], **_described(row, dotted), **told}


def _described(row: Row, dotted: Iterable[str]) -> Row:
    """Give the fields of a run, and options of its callbacks, `Class.option`, which may have several values."""
    run = describe(row)
    found = {key: dict.fromkeys(options(run, key)) for key in dotted}
    told = {key: next(iter(values)) if len(values) == 1 else listed(values) or None for key, values in found.items()}
    return {key: row.get(key) for key in FIELDS} | {key: setting(run, key) for key in ("callbacks", "after")} | told


def _cells(rows: list[Row], numbers: list[str], dotted: Iterable[str]) -> list[Row]:
    lines = []
    for cell in cells(rows):
        values = cell.values(cell.metric)
        low, high = confidence_interval(values) if len(values) > 1 else (None, None)
        line = {key: value for key, value in _described(cell.rows[0], dotted).items() if key not in SEEDS}
        line |= {key: cell.mean(key) for key in numbers}
        line["pm"] = None if low is None or high is None else (high - low) / 2
        line |= {"min": min(values, default=None), "max": max(values, default=None), "n": len(values)}
        counts = {"failed": len(cell.rows) - len(cell.trained), "diverged": sum(map(diverged, cell.rows))}
        lines.append(line | {key: f"{count}/{len(cell.rows)}" for key, count in counts.items()})
    return lines


def _columns(rows: list[Row], numbers: list[str], by_seed: bool) -> list[str]:
    """Choose what to show: the fields that differ, and what most want to know."""
    shown = varying([describe(row) for row in rows])
    metric = primary(rows[0])
    there = [key for key in dict.fromkeys([metric, *NUMBERS]) if key in numbers]
    there[1:1] = [key for key in ("failed", "diverged") if any(row.get(key) for row in rows)]
    if not by_seed:
        return [*shown, metric, *OVER_SEEDS, *there[1:]]
    own = [key for key in SEEDS[1:] if any(row[key] != row["seed"] for row in rows)]
    return [*shown, "seed", *own, *there]


def _column(key: str, lines: list[Row]) -> list[str]:
    """Write a column; its numbers have as many digits as it takes to line up."""
    values = [line[key] for line in lines]
    percent = "accuracy" in key or key in (*OVER_SEEDS[:3], "top5")
    whole = all(isinstance(value, str | None) or float(value).is_integer() for value in values)
    if key in FIELDS or "." in key or (whole and not percent):
        return ["-" if value is None else text(value) for value in values]
    digits = {"loss": 4, "seconds": 1}.get(key, 2)
    return ["-" if value is None else f"{value:.{digits}f}" for value in values]


def _drop(columns: dict[str, list[str]], width: int, needed: set[str | None]) -> list[str]:
    """Take out what can be spared until a table fits, and name it."""
    dropped: list[str] = []
    for key in SPARE:
        if sum(max(map(len, column)) + 2 for column in columns.values()) - 2 <= width:  # 2 lie between two columns
            break
        if key in columns and key not in needed:
            del columns[key]
            dropped.insert(0, HEADINGS.get(key, key))
    return dropped
