"""What the page and the slides show: committed results with their texts, in the order of the meeting.

The results are `<results>/<experiment>/<preset>/` (`figure.svg`, `results.csv`, `verdicts.json`, maybe `figure.html`),
the texts an experiment's docstring and `docs/<experiment>.md`. `report/meeting.csv` has the lines of the meeting.
"""

import ast
import base64
import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_hidden.engine import experiment
from lit_hidden.judge import Verdict
from lit_hidden.report import tables
from lit_hidden.report.tables import Cell, ResultsError, Row
from lit_hidden.run import PRESETS

NOMINAL = 0.025  # of the claims with a true margin of 0, the share above whose 95% interval 0 does not lie
NOT_SAID = "What it does not say"  # the label of a paragraph of docs/<experiment>.md


@dataclass(frozen=True)
class Drawing:
    """An SVG, compressed by gzip and in base64 (`report/drawing.js` unpacks it); its width and height."""

    packed: str
    width: float
    height: float


@dataclass(frozen=True)
class Folder:
    """One experiment at one preset; `player` is the text of its HTML page, if it has one."""

    name: str
    preset: str
    judged: dict[str, Any]
    claims: list[Verdict]
    rows: list[Row]
    cells: list[Cell]
    drawing: Drawing
    player: str

    @property
    def command(self) -> str:
        """What makes the results again."""
        return f"make reproduce-{self.name} PRESET={self.preset}"

    @property
    def decided(self) -> bool:
        """Whether a finding is supported or contradicted."""
        return any(claim.kind != "check" and claim.verdict != "undecided" for claim in self.claims)

    @property
    def bounded(self) -> list[Verdict]:
        """The findings judged by an interval: those that luck can support."""
        return [c for c in self.claims if not c.every and c.kind != "check" and None not in (c.low, c.high)]


@dataclass(frozen=True)
class Entry:
    """An experiment: where it belongs in the meeting, its texts, its presets from the largest to the smallest.

    `told` has paragraphs of Markdown by label, the introduction first; `NOT_SAID` is missing where no page says it.
    """

    name: str
    part: str
    question: str
    told: dict[str, str]
    folders: list[Folder]

    @property
    def title(self) -> str:
        """The first line of the experiment's docstring, as its results have it."""
        return str(self.folders[0].judged["title"]).rstrip(".")

    @property
    def main(self) -> Folder:
        """The largest preset that decides a claim; if none does, the largest."""
        return next((folder for folder in self.folders if folder.decided), self.folders[0])


def lines() -> list[tuple[str, str, list[str]]]:
    """List the meeting's lines in its order: part, question, names of experiments, which may not be there."""
    with (Path(__file__).parent / "report" / "meeting.csv").open(newline="", encoding="utf-8") as file:
        return [(row["part"], row["line"], row["experiments"].split()) for row in csv.DictReader(file)]


def load(results: Path, only: str = "") -> list[Entry]:
    """Read every experiment, or one, in the order of the meeting; ResultsError if there is none or one is damaged."""
    # A folder that is empty, or holds packed runs alone, belongs to a reproduction that has not ended yet.
    found = {path.parent for path in results.glob("[!.]*/[!.]*/[!.]*") if path.name != "runs.tar.gz"}
    if not found:
        raise ResultsError(f"no results in {results}; make reproduce-fig2 OUT={results} writes some")
    presets: dict[str, list[Path]] = {}
    for path in sorted(found, key=lambda path: (-PRESETS.index(path.name.partition("-")[0]), path.name)):
        presets.setdefault(path.parent.name, []).append(path)
    if only and only not in presets:
        known = ", ".join(sorted(presets, key=tables.order))
        raise ResultsError(f"no results of {only!r} in {results}; there are results of {known}")
    places = {name: (part, line) for part, line, names in reversed(lines()) for name in names}
    order = [name for _, _, names in lines() for name in names]
    # Experiments that no line names come last, fig2 before fig10.
    names = dict.fromkeys([*order, *sorted(presets, key=tables.order)])
    return [
        Entry(name, *places.get(name, ("Further experiments", "")), texts(name), list(map(_folder, presets[name])))
        for name in ([only] if only else names)
        if name in presets
    ]


def texts(name: str) -> dict[str, str]:
    """Read the paragraphs about an experiment by label: of its page in docs/, or else of its docstring; its sources."""
    home = experiment.folder()
    source, page = home / f"{name}.py", home.parent / "docs" / f"{name}.md"
    doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source.exists() else None
    _, *body = (doc or "").split("\n\n")
    written = page.read_text(encoding="utf-8") if page.exists() else ""
    written = re.sub(r"<!-- findings.*?<!-- end -->|^!\[.*?\)$|^# .*?$", "", written, flags=re.S | re.M)
    told, label = dict[str, str](), ""
    sources = [re.sub("^Source: ", "**Source.** ", one) for one in body if not written or one.startswith("Source: ")]
    for paragraph in filter(None, map(str.strip, [*written.split("\n\n"), *sources])):
        named = re.match(r"\*\*([^*]+)\.\*\*\s+(.*)", paragraph, re.S)
        label, text = named.groups() if named else (label, paragraph)
        told[label] = f"{told[label]}\n\n{text}" if label in told else text
    return told


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
    drawing = Drawing(base64.b64encode(gzip.compress(svg, mtime=0)).decode(), width, height)
    played = player.read_text(encoding="utf-8") if player.exists() else ""
    return Folder(name, preset, judged, claims, rows, tables.cells(rows), drawing, played)


def counts(claims: Iterable[Verdict]) -> tuple[Counter[str], Counter[str]]:
    """Count the verdicts on findings, and on checks."""
    findings, checks = Counter[str](), Counter[str]()
    for claim in claims:
        (checks if claim.kind == "check" else findings)[claim.verdict] += 1
    return findings, checks


def false_support(results: Path) -> float:
    """Give the largest rate at which well-posed claims with a true margin of 0 are supported.

    By the simulations of `make calibration`, if the results have them, else by construction.
    """
    try:
        with (results / "calibration" / "calibration.csv").open(newline="", encoding="utf-8") as file:
            return max(float(row["false_support"]) for row in csv.DictReader(file) if row["well_posed"] == "True")
    except OSError:
        return NOMINAL
