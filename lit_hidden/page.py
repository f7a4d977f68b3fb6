"""One HTML page of all committed results: drawings, verdicts, ours beside others' numbers, where the numbers are from.

It reads `<results>/<experiment>/<preset>/` (`figure.svg`, `results.csv`, `verdicts.json`); no runs, no torch, no
network. Equal results give equal bytes.
"""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lit_hidden.code import text
from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import elapsed
from lit_hidden.engine.store import write_atomically
from lit_hidden.judge import Verdict
from lit_hidden.recipes import method
from lit_hidden.report import tables
from lit_hidden.report.published import POINTS, SOURCES, Published
from lit_hidden.report.tables import Cell, ResultsError, Row
from lit_hidden.results import primary
from lit_hidden.run import PRESETS

NUMBERS = {  # beside the accuracy, where runs have them: heading and format
    "best_accuracy": ("best epoch (chosen on the test set)", "{:.2f}"),
    "density_sampled": ("density of samples", "{:.4g}"),
    "accuracy_rounded": ("accuracy of the most probable mask (%)", "{:.2f}"),
    "accuracy_before": ("accuracy before training (%)", "{:.2f}"),
    "train_accuracy": ("training accuracy (%)", "{:.2f}"),
    "parameters": ("weights kept, or trained", "{:,.0f}"),
    "seconds": ("seconds per run", "{:,.0f}"),
}


@dataclass(frozen=True)
class Folder:
    """One experiment at one preset; `drawing` is a data URI, so that ids within two drawings cannot clash."""

    name: str
    preset: str
    judged: dict[str, Any]
    claims: list[Verdict]
    rows: list[Row]
    cells: list[Cell]
    drawing: str


def report(results: str | Path = "experiments/results", out: str | Path = "report.html") -> str:
    """Write the page and return a line that sums it up; ResultsError if results are damaged."""
    folders, out = load(Path(results)), Path(out)
    page = build(folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    names, claims = {folder.name for folder in folders}, sum(len(folder.claims) for folder in folders)
    return f"{out}: {len(names)} experiments, {claims} claims and checks judged ({len(page.encode()) / 1e6:.1f} MB)"


def load(results: Path) -> list[Folder]:
    """Read every experiment and preset in the order of the page; ResultsError if there is none or one is damaged."""
    # A folder that is empty, or holds packed runs alone, belongs to a reproduction that has not ended yet.
    found = {path.parent for path in results.glob("[!.]*/[!.]*/[!.]*") if path.name != "runs.tar.gz"}
    if not found:
        raise ResultsError(f"no results in {results}; make reproduce-fig2 OUT={results} writes some")
    # Experiments by name, fig2 before fig10; the paper's preset before those that are cut.
    presets = {path: PRESETS.index(path.name.partition("-")[0]) for path in found}
    return [_folder(path) for path in sorted(found, key=lambda p: (tables.order(p.parent.name), -presets[p], p.name))]


def _folder(path: Path) -> Folder:
    name, preset = path.parent.name, path.name
    try:
        rows, drawing = tables.read(path / "results.csv"), base64.b64encode((path / "figure.svg").read_bytes()).decode()
        judged = json.loads((path / "verdicts.json").read_text(encoding="utf-8"))
        claims = [Verdict(**claim) for claim in judged["claims"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"make reproduce-{name} PRESET={preset} OUT={path.parents[1]} writes it again"
        raise ResultsError(f"{path} is damaged: {type(error).__name__}: {error}; {again}") from error
    return Folder(name, preset, judged, claims, rows, tables.cells(rows), f"data:image/svg+xml;base64,{drawing}")


def build(folders: Sequence[Folder]) -> str:
    """Write the page of `folders`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("report")), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    claims = [claim for folder in folders for claim in folder.claims]
    bounded = [claim for claim in claims if not claim.every and claim.kind != "check"]  # judged by intervals
    once = {row["run"]: row for folder in folders for row in folder.rows}.values()  # experiments share runs
    return environment.get_template("page.html").render(
        experiments=[list(group) for _, group in groupby(folders, lambda folder: folder.name)], claims=claims,
        runs=list(once), bounded=len(bounded), sources=SOURCES, beforehand=beforehand, tables=tables, text=text,
        primary=primary, counts=_counts, beside=_beside, theirs=_theirs, known=_known, told=_told, elapsed=elapsed,
    )  # fmt: skip


def _counts(claims: Sequence[Verdict]) -> tuple[Counter[str], Counter[str]]:
    """Count the verdicts on findings, and on checks."""
    findings, checks = ([c.verdict for c in claims if (c.kind == "check") is wanted] for wanted in (False, True))
    return Counter(findings), Counter(checks)


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
