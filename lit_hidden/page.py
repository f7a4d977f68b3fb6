"""One HTML page of all committed results: drawings, verdicts, ours beside others' numbers, where each is from.

It reads `<results>/<experiment>/<preset>/` (`figure.svg` or `figure.png`, `results.csv`, `verdicts.json`) and
`<results>/calibration/calibration.csv`, and nothing else: no runs, no torch, no network. Equal results are equal bytes.
"""

import base64
import csv
import html
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import elapsed
from lit_hidden.engine.store import write_atomically
from lit_hidden.judge import KINDS
from lit_hidden.recipes import method
from lit_hidden.report.published import POINTS, SOURCES, Published
from lit_hidden.report.tables import (
    Cell,
    ResultsError,
    Row,
    cells,
    common,
    departures,
    like_for_like,
    number,
    order,
    read,
    reason,
    same_images,
    setting,
    varying,
)
from lit_hidden.results import diverged
from lit_hidden.run import PRESETS, Run

VERDICTS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
VERSIONS = ("lit_hidden", "python", "torch", "lightning")
FALSE_SUPPORT = 0.03  # at most, of a claim that is not true: what every well-posed row of the calibration keeps
RATES = {  # of `experiments/_calibration.py`
    "coverage": "interval holds the truth (%)",
    "false_support": "supported falsely (%)",
    "false_contradiction": "contradicted falsely (%)",
    "power": "true and supported (%)",
    "power_paired": "the same, seeds paired (%)",
}
NUMBERS = {  # beside the accuracy, where runs have them
    "best_accuracy": "best epoch (chosen on the test set)",
    "density_sampled": "kept by samples",
    "accuracy_rounded": "accuracy of the most probable mask (%)",
    "accuracy_before": "accuracy before training (%)",
    "train_accuracy": "training accuracy (%)",
    "parameters": "weights kept, or trained",
    "seconds": "time per run",
}
HEADINGS = {
    "density": "kept",
    "train_images": "training images",
    "batch_size": "batch size",
    "images_per_class": "images per class",
    "image_size": "pixels",
}


@dataclass(frozen=True)
class Folder:
    """The results of one experiment at one preset."""

    name: str
    preset: str
    judged: dict[str, Any]
    rows: list[Row]
    cells: list[Cell]
    drawing: str

    @property
    def id(self) -> str:
        """Name its place in the page."""
        return f"{self.name}-{self.preset}"

    @property
    def title(self) -> str:
        """What the experiment is about."""
        return str(self.judged["title"])

    @property
    def conditions(self) -> str:
        """Under what conditions the results were obtained."""
        return str(self.judged["conditions"])

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Its claims, judged; checks, which are no findings, among them."""
        return list(self.judged["claims"])

    @property
    def counts(self) -> Counter[str]:
        """Count the verdicts on its findings."""
        return Counter(claim["verdict"] for claim in self.claims if claim["kind"] != "check")

    @property
    def checks(self) -> Counter[str]:
        """Count the verdicts on its checks."""
        return Counter(claim["verdict"] for claim in self.claims if claim["kind"] == "check")


def report(results: str | Path = "experiments/results", out: str | Path = "report.html") -> str:
    """Write the page, and return a line that says what is in it.

    Raises:
        ResultsError: there are no results, one of their files is missing or damaged, or `out` cannot be written.
    """
    folders, out = load(Path(results)), Path(out)
    page = build(folders, calibration(Path(results)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page)
    except OSError as error:
        raise ResultsError(f"{out} cannot be written: {error}; choose another with --out") from error
    return f"{out}: {_summary(folders)} ({len(page.encode()) / 1e6:.1f} MB)"


def load(results: Path) -> list[Folder]:
    """Read every experiment and preset, in the order of the page.

    Raises:
        ResultsError: there are none, or a file is missing or damaged.
    """
    # A folder without files, or with packed runs alone, is a reproduction that has not ended yet.
    found = {path.parent for path in results.glob("[!.]*/[!.]*/[!.]*") if path.name != "runs.tar.gz"}
    if not found:
        raise ResultsError(f"no results in {results}; make reproduce-fig2 OUT={results} writes some")
    return [_folder(path) for path in sorted(found, key=_place)]


def calibration(results: Path) -> list[Row]:
    """Read how often verdicts are wrong in simulated grids; empty if nobody has simulated any.

    Raises:
        ResultsError: the file is damaged.
    """
    path = results / "calibration" / "calibration.csv"
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path} is damaged: {error}; make calibration writes it again") from error
    names = ("claim", "noise", "seeds", *RATES, "well_posed")
    if lacking := [name for name in names if not lines or lines[0].get(name) is None]:
        raise ResultsError(f"{path} is damaged: it lacks {', '.join(lacking)}; make calibration writes it again")
    return [{name: line[name] if name in names[:2] else number(line[name]) for name in names} for line in lines]


def _place(path: Path) -> tuple[Any, ...]:
    """Sort figures first, then tables, then what the paper has not; 2 before 10; the most telling preset first."""
    name, preset = path.parent.name, path.name
    kind = next((i for i, word in enumerate(("fig", "table")) if re.fullmatch(rf"{word}\d+", name)), 2)
    base = preset.partition("-")[0]  # of one on other data
    return kind, order(name), -PRESETS.index(base) if base in PRESETS else 1, preset


def _folder(path: Path) -> Folder:
    name, preset = path.parent.name, path.name
    try:
        rows = read(path / "results.csv")
        judged = _judged(path / "verdicts.json", name, preset)
        drawing = _drawing(path)
    except ResultsError as error:
        again = f"make reproduce-{name} PRESET={preset} OUT={path.parents[1]}"
        raise ResultsError(f"{error}; {again} writes it again") from error
    return Folder(name, preset, judged, rows, cells(rows), drawing)


def _judged(path: Path, name: str, preset: str) -> dict[str, Any]:
    try:
        judged = json.loads(path.read_text(encoding="utf-8"))
        if (judged["experiment"], judged["preset"]) != (name, preset):
            raise ResultsError(f"{path} is of {judged['experiment']}/{judged['preset']}, not of {name}/{preset}")
        texts = [judged["title"], judged["conditions"]]
        judged = {"failures": {}, "absent": []} | judged  # results of before there were kinds have none of these
        judged["claims"] = [
            {"kind": "check" if claim.get("every") else "primary", "failed": {}} | claim for claim in judged["claims"]
        ]
        for claim in judged["claims"]:
            texts += [claim["sentence"], claim["unit"], claim["why"]]
            numbers = [claim["margin"], claim["low"], claim["high"], claim["seeds"], claim["every"]]
            known = claim["verdict"] in VERDICTS and claim["kind"] in KINDS and isinstance(claim["failed"], dict)
            if not known or not all(isinstance(n, int | float | None) for n in numbers):
                raise TypeError(f"no verdict: {claim}")
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is none")
        bounds = [rate[side] for rate in dict(judged["failures"]).values() for side in ("low", "high")]
        if not all(isinstance(bound, int | float) for bound in bounds):
            raise TypeError(f"no failure rates: {judged['failures']}")
        beforehand.told(*_when(judged))
    except FileNotFoundError:
        raise ResultsError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    found: dict[str, Any] = judged
    return found


def _drawing(folder: Path) -> str:
    """Give the drawing as a data URI: of its own, so that the ids within two drawings cannot meet."""
    svg, png = folder / "figure.svg", folder / "figure.png"
    path, kind = (svg, "svg+xml") if svg.exists() else (png, "png")
    try:
        data = path.read_bytes()
        if path is svg:
            ET.fromstring(data)
        elif not (data.startswith(b"\x89PNG") and b"IEND" in data[-12:]):
            raise ResultsError(f"{png} is damaged: it is no whole PNG")
    except FileNotFoundError:
        raise ResultsError(f"{svg} is missing, and so is figure.png") from None
    except (OSError, ET.ParseError) as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Html(str):
    """Text that is markup already; all other text is escaped."""

    __slots__ = ()


def tag(name: str, *inside: object, **attributes: str) -> Html:
    """Write an element; `class_` is `class`, `aria_label` is `aria-label`."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{html.escape(v)}"' for k, v in attributes.items())
    return Html(f"<{name}{given}>{_join(inside)}</{name}>")


def _join(parts: Iterable[object], between: str = "") -> Html:
    return Html(between.join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts))


def _table(
    caption: str, heading: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1, class_: str = ""
) -> Html:
    """Write a table whose first cells name the row; after the first `text` columns come numbers, to the right."""

    def side(column: int) -> dict[str, str]:
        return {} if column < text else {"class_": "n"}

    head = (tag("th", name, scope="col", **side(i)) for i, name in enumerate(heading))
    body = (
        tag("tr", *(tag("td", cell, **side(i)) if i else tag("th", cell, scope="row") for i, cell in enumerate(row)))
        for row in rows
    )
    inner = _join((tag("caption", caption), tag("thead", tag("tr", *head)), Html("<tbody>\n"), _join(body, "\n")))
    # A wide table scrolls in a frame of its own; the keyboard reaches it, so it needs a name.
    table = tag("table", inner, Html("</tbody>"), **({"class_": class_} if class_ else {}))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _pairs(pairs: Iterable[tuple[object, object]]) -> Html:
    """Write names and what they mean or are."""
    return tag("dl", *(_join((tag("dt", name), tag("dd", value))) for name, value in pairs), class_="pairs")


def _verdict(word: str) -> Html:
    return tag("span", tag("span", f"{VERDICTS[word]} ", aria_hidden="true"), word, class_=f"verdict {word}")


def build(folders: Sequence[Folder], simulated: Sequence[Row] = ()) -> str:
    """Write the page of `folders`, and of what `calibration` gave."""
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    names = dict.fromkeys(folder.name for folder in folders)
    link = tag("a", "How often verdicts are wrong, by simulation.", href="#calibration") if simulated else ""
    parts = {
        "summary": html.escape(f"{_summary(folders)}. {_newest(folders)}"),
        "contents": _contents(folders),
        "chance": f"{_chance(folders)} {link}",
        "calibration": _calibration(simulated),
        "experiments": "\n".join(_experiment([f for f in folders if f.name == name]) for name in names),
        **{word: _verdict(word) for word in VERDICTS},
    }
    # In one pass: what is put in may hold braces of its own.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _several(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _summary(folders: Sequence[Folder]) -> str:
    counts = sum((folder.counts for folder in folders), Counter[str]())
    judged = ", ".join(f"{counts[word]} {word}" for word in VERDICTS)
    experiments = _several(len({folder.name for folder in folders}), "experiment")
    told = f"{experiments}, {_several(counts.total(), 'claim')} judged: {judged}"
    checks = sum((folder.checks for folder in folders), Counter[str]())
    told += f"; {_held(checks)}" if checks else ""
    bounded = _bounded(folders)
    return f"{told}; at most {FALSE_SUPPORT * bounded:.1f} would be supported by chance if none were true"


def _held(checks: Counter[str]) -> str:
    return f"{checks['supported']} of {_several(checks.total(), 'check')} hold"


def _bounded(folders: Sequence[Folder]) -> int:
    """Count the claims that are judged by intervals, but for checks."""
    return sum(not claim["every"] and claim["kind"] != "check" for folder in folders for claim in folder.claims)


def _chance(folders: Sequence[Folder]) -> Html:
    """Say how many claims chance would support if nothing were true, and how that is computed."""
    bounded = _bounded(folders)
    return _join(
        [
            f"A claim that is not true is supported in at most {100 * FALSE_SUPPORT:g}% of cases that are well posed. "
            f"{_several(bounded, 'claim')} here are judged by intervals, checks and exact claims left out. If none "
            f"were true, at most {FALSE_SUPPORT:g} times {bounded}, or {FALSE_SUPPORT * bounded:.1f}, would be "
            "supported on average."
        ]
    )


def _calibration(simulated: Sequence[Row]) -> Html:
    """Write how often verdicts are wrong, what the method is made for first."""
    if not simulated:
        return Html()
    parts = [
        tag("h2", "How often verdicts are wrong", id="calibration"),
        tag(
            "p",
            "Grids of known truth were simulated and judged as the results here are. A row is a kind of claim, of "
            "noise and a number of seeds. Supported falsely: one part of the claim is exactly at 0, the others hold "
            "by far. Contradicted falsely: every part is at 0. True and supported: every part holds by 3 standard "
            "deviations of the difference of two runs. Beside that stands what pairing seeds and testing each part "
            "alone would support.",
        ),
    ]
    told = {
        True: (
            "Well posed",
            "No run fails; the noise of both arms is of one family, of equal variances if skewed; no maximum has ties.",
        ),
        False: ("Outside", "What happens where that is not so. Such verdicts can be wrong more often."),
    }
    for well_posed, (title, what) in told.items():
        rows = [
            (*(row[name] for name in ("claim", "noise", "seeds")), *(_percent(row[name]) for name in RATES))
            for row in simulated
            if row["well_posed"] is well_posed
        ]
        heading = ("claim", "noise", "seeds", *RATES.values())
        parts += [tag("h3", title), tag("p", what, class_="muted")]
        parts.append(_table(f"How often verdicts are wrong: {title.lower()}", heading, rows, text=2))
    return tag("section", _join(parts, "\n"), aria_labelledby="calibration")


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f}"


def _newest(folders: Sequence[Folder]) -> str:
    """Say how long all runs took, each counted once however many experiments share it, and when the last one ended."""
    rows = {row["run"]: row for folder in folders for row in folder.rows}.values()
    last = max((str(row["finished"])[:10] for row in rows if row.get("finished")), default="an unknown day")
    return f"{_several(len(rows), 'run')}, {_took(rows)} of training; the newest is of {last}."


def _took(rows: Iterable[Row]) -> str:
    """Write how long runs took together."""
    return elapsed(sum(float(row["seconds"] or 0) for row in rows))


def _contents(folders: Sequence[Folder]) -> Html:
    rows, told = [], set()
    for folder in folders:
        words = folder.title.partition(":")[0] if folder.name in told else folder.title.rstrip(".")
        told.add(folder.name)
        first = tag("a", words, href=f"#{folder.id}")
        data = ", ".join(dict.fromkeys(row["data"] for row in folder.rows))
        counts = (folder.counts[word] or "–" for word in VERDICTS)
        checks = f"{folder.checks['supported']} of {folder.checks.total()} hold" if folder.checks else "–"
        rows.append((first, folder.preset, data, len(folder.rows), *counts, checks))
    heading = ("experiment", "preset", "data", "runs", *VERDICTS, "checks")
    return _table("Experiments and verdicts", heading, rows, text=3, class_="contents")


def _experiment(folders: Sequence[Folder]) -> Html:
    name, heading = folders[0].name, f"{folders[0].name}-title"
    back = tag("p", tag("a", "back to the contents", href="#contents"), class_="top")
    title = tag("h2", folders[0].title.rstrip("."), id=heading)
    return tag("section", title, *map(_article, folders), back, id=name, aria_labelledby=heading)


def _article(folder: Folder) -> Html:
    name = f"{folder.name}, {folder.preset}"
    cut = folder.conditions.removeprefix(f"preset {folder.preset}; ")
    alt = f"The drawing of {folder.name}: {folder.title.rstrip('.')}. {cut}. Its numbers are in the tables below."
    # A drawing is too fine for a phone: there it keeps its size and is moved sideways.
    frame = tag(
        "div",
        Html(f'<img src="{folder.drawing}" alt="{html.escape(alt)}">'),
        class_="scroll", tabindex="0", role="region", aria_label=f"Drawing: {name}",
    )  # fmt: skip
    caption = tag("figcaption", tag("strong", "Conditions: "), cut, ".")
    parts = [
        tag("h3", f"Preset {folder.preset}"),
        tag("figure", frame, caption),
        tag("h4", "Claims"),
        *_beforehand(folder),
        _claims(folder, name),
        *_beside(folder, name),
        tag("details", tag("summary", f"All {_several(len(folder.rows), 'run')}"), *_ours(folder, name), open=""),
        tag("h4", "Where the numbers are from"),
        _provenance(folder),
    ]
    return tag("article", _join(parts, "\n"), id=folder.id)


def _number(value: float) -> str:
    """Write a margin: to 2 decimals, but whole numbers whole and small ones to 2 digits; with a true minus sign."""
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:{'.0f' if whole else '.2f' if abs(value) >= 0.1 else '.2g'}}".replace("-", "−")


def _beforehand(folder: Folder) -> list[Html]:
    """Say when the claims were last changed, and which cells no run is done of."""
    times = _when(folder.judged)
    line = beforehand.told(*times)
    told = [tag("p", f"{line[0].upper()}{line[1:]}.", class_="note" if beforehand.late(*times) else "muted")]
    if absent := folder.judged["absent"]:
        summary = tag("summary", f"No run is done of {_several(len(absent), 'cell')}")
        told.append(tag("details", summary, tag("p", ", ".join(absent)), class_="note"))
    return told


def _when(judged: dict[str, Any]) -> list[str | None]:
    """Give the commit at which claims were last changed, its date, and when the first run began."""
    return [judged.get(name) for name in ("claims_commit", "claims_changed", "first_run")]


def _claims(folder: Folder, name: str) -> Html:
    rows = []
    for claim in folder.claims:
        low, high = claim["low"], claim["high"]
        interval = "none" if low is None or high is None else f"{_number(low)} to {_number(high)}"
        bounds = _join((f"{interval} ", Html("<br>"), tag("span", reason(claim["why"], claim["failed"]), class_="why")))
        kind = tag("span", f" {claim['kind']}{', exact' if claim['every'] else ''}", class_="why")
        margin = "none" if claim["margin"] is None else f"{_number(claim['margin'])} {claim['unit']}"
        rows.append((_join((claim["sentence"], kind)), _verdict(claim["verdict"]), margin, bounds, claim["seeds"]))
    heading = ("claim", "verdict", "margin", "95% interval", "seeds")
    return _table(f"{name}: claims", heading, rows, text=4, class_="claims")


def _beside(folder: Folder, name: str) -> list[Html]:
    """Put ours beside the numbers that others report, where there are any of the same net, data and method."""
    title = tag("h4", "Ours beside others' numbers")
    theirs: dict[int, dict[str, Published]] = {}  # by our cell and the source
    for point in POINTS:
        if (found := match(point, folder.cells)) is not None:
            theirs.setdefault(found, {})[point.source] = point
    if not theirs:
        return [title, tag("p", "No number that others report is of these nets, data and methods.", class_="muted")]
    sources = [source for source in SOURCES if any(source in points for points in theirs.values())]
    cut = departures(folder.cells[i].run for i in sorted(theirs))
    rows = []
    for i in sorted(theirs):
        cell, points = folder.cells[i], theirs[i]
        run = cell.run
        described = (run.net, run.method, run.optimizer if run.density is None else run.distribution)
        numbers = (_field("density", run.density), _field(cell.metric, cell.mean(cell.metric)), _range(cell))
        beside = (_theirs(points.get(source), cell) for source in sources)
        rows.append((*described, *numbers, len(cell.trained), *beside))
    ours = ("ours, cut (%)" if cut else "ours (%)", "from – to", "seeds")
    heading = ("net", "method", "weights or optimizer", "kept", *ours, *(SOURCES[source].name for source in sources))
    parts = [title]
    if cut:
        text = (
            f"Ours were cut ({'; '.join(cut.values())}). The authors' protocol is nets at full width, trained for 100 "
            "epochs on all training images. Read them side by side for the shape, not for the level."
        )
        parts.append(tag("p", tag("strong", "Not like for like. "), text, class_="note"))
    alike = any(like_for_like(point, folder.cells[i].run) for i, points in theirs.items() for point in points.values())
    brackets = " In brackets: ours minus theirs, where they are like for like." if alike else ""
    parts.append(
        tag("p", f"Test accuracy in percent; ours are means over the seeds that train.{brackets}", class_="muted")
    )
    parts.append(_table(f"{name}: ours beside others' numbers", heading, rows, text=3))
    return [*parts, _pairs((SOURCES[source].name, SOURCES[source].what) for source in sources)]


def _theirs(point: Published | None, cell: Cell) -> str:
    """Write a number of others, and how far ours is from it if it is like for like."""
    if point is None:
        return ""
    text, ours = f"{point.accuracy:.2f}", cell.mean("accuracy")
    if method(point.method).hides and point.density is None:
        text += ", its best"
    if ours is not None and like_for_like(point, cell.run):
        text += f" ({ours - point.accuracy:+.2f})".replace("-", "−")
    return text


def match(point: Published, found: Sequence[Cell]) -> int | None:
    """Find the cell that a published number belongs to: of those that fit the one least cut, and of equals the best."""
    # The source took the best where it names no density; a dense net has none.
    names = ["net", "method", "optimizer", "data"]
    names += [name for name in ("density", "distribution") if getattr(point, name) is not None]

    def fits(run: Run) -> bool:
        same = run.scaled is False and all(getattr(run, name) == getattr(point, name) for name in names)
        return same and same_images(run)  # a part of ImageNet is another problem

    def size(i: int) -> tuple[float, ...]:
        run = found[i].run
        images = run.train_images or float("inf")
        return -len(departures([run])), run.width, run.epochs, images, found[i].mean("accuracy") or 0.0

    return max((i for i, cell in enumerate(found) if fits(cell.run)), key=size, default=None)


def _field(name: str, value: Any) -> str:
    """Write a field of a run, or a number of its result, for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.startswith("density"):
        return f"{100 * value:.4g}%"
    if "accuracy" in name:
        return f"{value:.2f}"
    if name == "parameters":
        return f"{value:,.0f}"
    if name == "seconds":
        return elapsed(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(cell: Cell) -> str:
    values = cell.values(cell.metric)
    return f"{min(values):.2f} – {max(values):.2f}" if len(values) > 1 else "–"


def _ours(folder: Folder, name: str) -> list[Html]:
    """Write what came out, a line for each setting."""
    runs = [cell.run for cell in folder.cells]
    names, same = varying(runs), common(runs)
    numbers = [n for n in NUMBERS if any(cell.values(n) for cell in folder.cells)]
    failing = bool(folder.judged["failures"])
    first = folder.cells[0]
    measure = f"{first.metric} ({first.rows[0].get('unit') or '%'})"
    rows = []
    for cell in folder.cells:
        described = [_field(n, setting(cell.run, n)) for n in names]
        mean = [_field(cell.metric, cell.mean(cell.metric)), _range(cell), len(cell.trained)]
        mean += [_failing(cell, folder.judged["failures"])] if failing else []
        rows.append((*described, *mean, *(_field(n, cell.mean(n)) for n in numbers)))
    heading = [HEADINGS.get(n, n) for n in names] + [measure, "from – to", "seeds"]
    heading += [*(["fail to train"] if failing else []), *(NUMBERS[n] for n in numbers)]
    told = ", ".join(f"{HEADINGS.get(n, n)} {_field(n, value)}" for n, value in same.items())
    line = f"Means over the seeds that train. In all of them: {told}. What is not named is as the authors have it."
    table = _table(f"{name}: all runs", heading, rows, text=len(names))
    return [tag("p", line, class_="muted"), table]


def _failing(cell: Cell, failures: dict[str, dict[str, Any]]) -> str:
    """Write how many seeds of a cell fail to train, with the 95% interval of their rate where there is one."""
    told = f"{len(cell.rows) - len(cell.trained)} of {len(cell.rows)}"
    told += f", {lost} diverged" if (lost := sum(map(diverged, cell.rows))) else ""
    if (rate := failures.get(cell.run.cell)) is None:  # a random mask, or results of before there were rates
        return told if method(str(cell.run.method)).learns else "–"
    return f"{told} ({100 * rate['low']:.0f}% – {100 * rate['high']:.0f}%)"


def _provenance(folder: Folder) -> Html:
    """Say which code, on what and when, made the results, and how long it took."""
    rows = folder.rows

    def several(name: str) -> str:
        counted = Counter(str(row[name]) for row in rows if row.get(name) not in (None, ""))
        if len(counted) < 2:
            return next(iter(counted), "unknown")
        return "; ".join(f"{value} ({_several(count, 'run')})" for value, count in sorted(counted.items()))

    finished = sorted(str(row["finished"])[:10] for row in rows if row.get("finished"))
    commits = several("commit") + (" (dirty: with changes not committed)" if "-dirty" in several("commit") else "")
    versions = [name for name in VERSIONS if name in rows[0]]
    dates = dict.fromkeys((finished[0], finished[-1])) if finished else ["unknown"]
    return _pairs(
        [
            ("command", tag("code", f"make reproduce-{folder.name} PRESET={folder.preset}")),
            ("commit", commits),
            ("device", several("device")),
            ("versions", ", ".join(f"{name} {several(name)}" for name in versions) or "unknown"),
            ("seeds", ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))),
            ("finished", " to ".join(dates)),
            ("training took", f"{_took(rows)} in all, for {_several(len(rows), 'run')}"),
        ]
    )
