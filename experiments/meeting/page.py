"""The meeting's page: one HTML file of all committed results, or of one experiment's; no torch, no network.

The results are `<results>/<experiment>/<preset>/` (`figure.svg`, `results.csv`, `verdicts.json`, maybe `figure.html`),
the texts an experiment's docstring and `docs/<experiment>.md`; `meeting.csv` has the lines of the meeting.
Equal results give equal bytes.
"""

import ast
import base64
import csv
import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from experiments._published import POINTS, SOURCES, Published, like_for_like, same_images
from lit_hidden.code import text
from lit_hidden.engine import beforehand, experiment
from lit_hidden.engine.estimate import elapsed
from lit_hidden.engine.store import write_atomically
from lit_hidden.judge import Verdict
from lit_hidden.recipes import method
from lit_hidden.report import tables
from lit_hidden.report.tables import Cell, ResultsError, Row
from lit_hidden.results import primary
from lit_hidden.run import PRESETS


@dataclass(frozen=True)
class Folder:
    """One experiment at one preset; `drawing` is an SVG, packed by gzip and base64, and its width and height."""

    name: str
    preset: str
    judged: dict[str, Any]
    claims: list[Verdict]
    rows: list[Row]
    cells: list[Cell]
    drawing: tuple[str, float, float]
    player: str  # an HTML page; maybe none


class Entry(NamedTuple):
    """An experiment: Markdown, its presets from the largest to the smallest, the first of them that decides a claim."""

    name: str
    about: str
    not_said: str
    folders: list[Folder]
    main: Folder


class Line(NamedTuple):
    """A line of the meeting, and the experiments with results that answer it: some answer several.

    `claim` is how the claim that answers it begins; without one it is the first primary claim.
    """

    part: str
    question: str
    entries: list[Entry]
    claim: str


def report(results: str | Path = "experiments/results", out: str | Path = "", only: str = "") -> str:
    """Write the page, of all experiments or of `only` one, and return a line that sums it up.

    Without `out` it is `report.html`, or `report-<only>.html`. ResultsError if results are missing or damaged.
    """
    out = Path(out or (f"report-{only}.html" if only else "report.html"))
    page = build(lines := load(Path(results), only))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    entries = {entry.name: entry for line in lines for entry in line.entries}
    claims = sum(len(folder.claims) for entry in entries.values() for folder in entry.folders)
    return f"{out}: {len(entries)} experiments, {claims} claims and checks judged ({len(page.encode()) / 1e6:.1f} MB)"


def load(results: Path, only: str = "") -> list[Line]:
    """Read every experiment, or one, in the order of the meeting; ResultsError if there is none or one is damaged."""
    # A folder that is empty, or holds packed runs alone, belongs to a reproduction that has not ended yet.
    found = {path.parent for path in results.glob("[!.]*/[!.]*/[!.]*") if path.name != "runs.tar.gz"}
    found = {path for path in found if only in ("", path.parent.name) and path.name.partition("-")[0] in PRESETS}
    if not found:
        raise ResultsError(f"no results in {results / only}; make reproduce-{only or 'fig2'} OUT={results} writes some")
    # Experiments by name, fig2 before fig10; the paper's preset before those that are cut.
    presets = {path: PRESETS.index(path.name.partition("-")[0]) for path in found}
    paths = sorted(found, key=lambda path: (tables.order(path.parent.name), -presets[path], path.name))
    entries = {}
    for name, group in groupby(paths, lambda path: path.parent.name):
        folders = [_folder(path) for path in group]
        decided = [folder for folder in folders if {"supported", "contradicted"} & _counts(folder.claims)[0].keys()]
        entries[name] = Entry(name, *texts(name), folders, [*decided, *folders][0])
    with Path(__file__).with_name("meeting.csv").open(newline="", encoding="utf-8") as file:
        agenda = [(*row.values(),) for row in csv.DictReader(file)]
    further = [name for name in entries if all(name not in names.split() for _, _, names, _ in agenda)]
    agenda += [("Further experiments", "", name, "") for name in further]
    return [Line(part, line, [entries[name] for name in names.split() if name in entries], claim)
            for part, line, names, claim in agenda]  # fmt: skip


def texts(name: str) -> tuple[str, str]:
    """Read what an experiment's page in docs/ says, or else its docstring, and what the page says it does not say."""
    home = experiment.folder()
    source, page = home / f"{name}.py", home.parent / "docs" / f"{name}.md"
    doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source.exists() else None
    written = (doc or "").partition("\n\n")[2]
    if page.exists():
        told = re.sub("<!-- findings.*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.S)
        written = re.sub(r"^(# .*|!\[.*)\n+", "", told, flags=re.M)
    about, _, not_said = written.partition("**What it does not say.**")
    return about.strip(), not_said.strip()


def _folder(path: Path) -> Folder:
    name, preset, player = path.parent.name, path.name, path / "figure.html"
    try:
        rows, svg = tables.read(path / "results.csv"), (path / "figure.svg").read_bytes()
        judged = json.loads((path / "verdicts.json").read_text(encoding="utf-8"))
        claims = [Verdict(**claim) for claim in judged["claims"]]
        width, height = (float(re.findall(rf'{side}="([\d.]+)'.encode(), svg)[0]) for side in ("width", "height"))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        again = f"make reproduce-{name} PRESET={preset} OUT={path.parents[1]} writes it again"
        raise ResultsError(f"{path} is damaged: {type(error).__name__}: {error}; {again}") from error
    drawing = base64.b64encode(gzip.compress(svg, mtime=0)).decode(), width, height
    played = player.read_text(encoding="utf-8") if player.exists() else ""
    return Folder(name, preset, judged, claims, rows, tables.cells(rows), drawing, played)


def build(lines: Sequence[Line], template: str = "page.html", **more: Any) -> str:
    """Write a page of the meeting's `lines` by a template of this folder, to which `more` is given."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    markdown = MarkdownIt("commonmark", {"html": False})
    # Without links, which lead to files that the page does not have.
    environment.filters["markdown"] = lambda one: Markup(markdown.render(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", one)))
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals |= {"text": text, "tables": tables, "elapsed": elapsed, "counts": _counts, "told": _told}
    entries = list({entry.name: entry for line in lines for entry in line.entries}.values())
    folders = [folder for entry in entries for folder in entry.folders]
    once = {row["run"]: row for folder in folders for row in folder.rows}.values()  # experiments share runs
    return environment.get_template(template).render(
        lines=[line for line in lines if line.entries], entries=entries, folders=folders, runs=list(once),
        sources=SOURCES, beforehand=beforehand, primary=primary, beside=_beside, theirs=_theirs,
        differing=_differing, **more,
    )  # fmt: skip


def _differing(folder: Folder) -> dict[str, list[Any]]:
    """List the numbers, to 5 digits, fields and options of callbacks in which runs differ, by column."""
    rows = []
    for run, row in ((cell.run, row) for cell in folder.cells for row in cell.rows):
        options = {f"{one.class_path.rpartition('.')[2]}.{name}": text(value) if isinstance(value, tuple) else value
                   for one in run.callbacks for name, value in one.all_options.items()}  # fmt: skip
        numbers = {
            name: value for name, value in row.items() if isinstance(value, int | float) and math.isfinite(value)
        }
        fields = {name: row.get(name) for name in tables.FIELDS} | {"after": tables.setting(run, "after")} | options
        rows.append({name: float(f"{value:.5g}") for name, value in numbers.items()} | fields)
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _counts(claims: Sequence[Verdict]) -> tuple[Counter[str], Counter[str]]:
    """Count the verdicts on findings, and on checks."""
    findings, checks = ([c.verdict for c in claims if (c.kind == "check") is wanted] for wanted in (False, True))
    return Counter(findings), Counter(checks)


def match(point: Published, found: Sequence[Cell]) -> Cell | None:
    """Find the cell that a published number belongs to: of those that fit the least cut, among equals the best."""
    # A number without a density is the best of several, or of a dense net; parts of ImageNet are another problem.
    wanted = {name: value for name, value in asdict(point).items() if value is not None} | {"scaled": False}
    del wanted["source"], wanted["accuracy"]
    fitting = [cell for cell in found if wanted.items() <= vars(cell.run).items() and same_images(cell.run)]
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
    alike = ours is not None and like_for_like(point, cell.run)
    return f"{point.accuracy:.2f}{best}" + (f" ({ours - point.accuracy:+.2f})" if ours is not None and alike else "")


def _told(rows: Sequence[Row], name: str) -> str:
    """List the values of a column, each with its number of runs if there are several."""
    counted = Counter(str(row.get(name) or "unknown")[: 10 if name == "finished" else None] for row in rows)
    several = len(counted) > 1
    return "; ".join(f"{value} ({count})" if several else value for value, count in sorted(counted.items()))
