"""The meeting's page: one HTML file of all committed results, or of one experiment's; no torch, no network.

Equal results give equal bytes.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from lit_hidden import meeting
from lit_hidden.code import text
from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import elapsed
from lit_hidden.engine.store import write_atomically
from lit_hidden.meeting import Entry, Folder
from lit_hidden.recipes import method
from lit_hidden.report import tables
from lit_hidden.report.published import POINTS, SOURCES, Published
from lit_hidden.report.tables import Cell, Row
from lit_hidden.results import primary

NUMBERS = {  # beside the accuracy, where runs have them: heading and format
    "best_accuracy": ("best epoch (chosen on the test set)", "{:.2f}"),
    "density_sampled": ("density of samples", "{:.4g}"),
    "accuracy_rounded": ("accuracy of the most probable mask (%)", "{:.2f}"),
    "accuracy_before": ("accuracy before training (%)", "{:.2f}"),
    "train_accuracy": ("training accuracy (%)", "{:.2f}"),
    "parameters": ("weights kept, or trained", "{:,.0f}"),
    "seconds": ("seconds per run", "{:,.0f}"),
}


def report(results: str | Path = "experiments/results", out: str | Path = "", only: str = "") -> str:
    """Write the page, of all experiments or `only` one, and return a line that sums it up.

    Without `out` it is `report.html`, or `report-<only>.html`. ResultsError if results are missing or damaged.
    """
    results, out = Path(results), Path(out or (f"report-{only}.html" if only else "report.html"))
    entries = meeting.load(results, only)
    page = build(entries, meeting.false_support(results))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    claims = sum(len(folder.claims) for entry in entries for folder in entry.folders)
    return f"{out}: {len(entries)} experiments, {claims} claims and checks judged ({len(page.encode()) / 1e6:.1f} MB)"


def environment() -> Environment:
    """Make the environment of the templates in `report/`: the page, and what else is made of `meeting`'s entries."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("report")), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # Without links: they lead to files that the page does not have.
    markdown = MarkdownIt("commonmark", {"html": False})
    made.filters["markdown"] = lambda one: Markup(markdown.render(re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", one)))
    made.filters["packed"] = _packed
    made.globals |= {"tables": tables, "text": text, "elapsed": elapsed, "counts": meeting.counts, "told": _told}
    return made


def build(entries: Sequence[Entry], false_support: float = meeting.NOMINAL) -> str:
    """Write the page of `entries`, the share `false_support` of whose claims luck would support if none were true."""
    folders = [folder for entry in entries for folder in entry.folders]
    once = {row["run"]: row for folder in folders for row in folder.rows}.values()  # experiments share runs
    by_name = {entry.name: entry for entry in entries}
    agenda = [(part, line, found) for part, line, names in meeting.lines()
              if (found := [by_name[name] for name in names if name in by_name])]  # fmt: skip
    named = {entry.name for _, _, found in agenda for entry in found}
    agenda += [(entry.part, entry.title, [entry]) for entry in entries if entry.name not in named]
    return environment().get_template("page.html").render(
        agenda=agenda, parts=[(part, list(found)) for part, found in groupby(entries, lambda entry: entry.part)],
        folders=folders, runs=list(once), false_support=false_support, sources=SOURCES, beforehand=beforehand,
        not_said=meeting.NOT_SAID, primary=primary, beside=_beside, theirs=_theirs, known=_known,
        explored={f"{folder.name}, {folder.preset}": _explored(folder) for folder in folders},
    )  # fmt: skip


def _packed(data: Any) -> Markup:
    return Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))  # no </script>


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def _explored(folder: Folder) -> dict[str, Any]:
    """Give each run's fields and numbers, of those that differ: a field as its values in order and an index per run."""
    runs, rows = zip(*((cell.run, row) for cell in folder.cells for row in cell.rows), strict=True)
    fields = {name: [tables.setting(run, name) for run in runs] for name in tables.CONDITIONS}
    fields |= {name: [row[name] for row in rows] for name in tables.SEEDS}
    for name in dict.fromkeys(f"{one.class_path}.{option}" for run in runs for one in run.callbacks
                              for option in one.all_options):  # fmt: skip
        given = [run.option(name) for run in runs]
        short = ".".join(name.rsplit(".", 2)[1:])
        fields[short] = [one[0] if len(one) == 1 else ", ".join(map(text, one)) or None for one in given]
    numbers = {name: [row.get(name) for row in rows] for name in dict.fromkeys([primary(rows[0]), *rows[0]])}
    return {
        "fields": {
            name: {"values": each, "of": [each.index(value) for value in values]}
            for name, values in fields.items()
            if len(each := sorted(set(values), key=tables.order)) > 1
        },
        "numbers": {
            name: [_rounded(one) for one in values]
            for name, values in numbers.items()
            if name not in tables.FIELDS and len(set(values)) > 1 and {*map(type, values)} <= {int, float, type(None)}
        },
        "failed": [i for i, row in enumerate(rows) if row.get("failed")],
    }


def match(point: Published, found: Sequence[Cell]) -> Cell | None:
    """Find the cell that a published number belongs to: of those that fit the least cut, among equals the best."""
    # A number without a density is the best of several, or of a dense net; parts of ImageNet are another problem.
    wanted = {name: value for name, value in asdict(point).items() if value is not None} | {"scaled": False}
    del wanted["source"], wanted["accuracy"]
    fitting = [cell for cell in found if wanted.items() <= vars(cell.run).items() and tables.same_images(cell.run)]
    return max(fitting, key=lambda cell: (-len(tables.departures([cell.run])), cell.mean() or 0.0), default=None)


def _beside(cells: Sequence[Cell]) -> list[tuple[Cell, dict[str, Published]]]:
    """Pair each cell with others' numbers for it, by source; cells without any are left out."""
    matched = [(point, match(point, cells)) for point in POINTS]
    pairs = [(cell, {point.source: point for point, found in matched if found is cell}) for cell in cells]
    return [(cell, points) for cell, points in pairs if points]


def _theirs(point: Published, cell: Cell) -> str:
    """Write a number of others, and in brackets how far ours is from it if both follow the authors' protocol."""
    ours = cell.mean()
    best = ", its best" if method(point.method).hides and point.density is None else ""
    alike = ours is not None and tables.like_for_like(point, cell.run)
    return f"{point.accuracy:.2f}{best}" + (f" ({ours - point.accuracy:+.2f})" if ours is not None and alike else "")


def _known(cells: Sequence[Cell]) -> dict[str, tuple[str, str]]:
    return {name: known for name, known in NUMBERS.items() if any(cell.values(name) for cell in cells)}


def _told(rows: Sequence[Row], name: str) -> str:
    """List the values of a column, each with its number of runs if there are several."""
    counted = Counter(str(row.get(name) or "unknown")[: 10 if name == "finished" else None] for row in rows)
    several = len(counted) > 1
    return "; ".join(f"{value} ({count})" if several else value for value, count in sorted(counted.items()))
