"""One HTML page of all committed results: drawings, verdicts, ours beside others' numbers, where the numbers are from.

It reads `<results>/<experiment>/<preset>/` (`figure.svg` or `figure.png`, `results.csv`, `verdicts.json`) and
`<results>/calibration/calibration.csv`; no runs, no torch, no network. Equal results give equal bytes.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lit_hidden.engine import beforehand
from lit_hidden.engine.estimate import elapsed
from lit_hidden.engine.store import write_atomically
from lit_hidden.judge import KINDS, Verdict
from lit_hidden.recipes import method
from lit_hidden.report import tables
from lit_hidden.report.published import POINTS, SOURCES, Published
from lit_hidden.report.tables import Cell, ResultsError, Row
from lit_hidden.results import diverged
from lit_hidden.run import PRESETS

VERDICTS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
VERSIONS = ("lit_hidden", "python", "torch", "lightning")
FALSE_SUPPORT = 0.03  # an upper bound on how often a false claim is supported, from the well-posed calibration rows
RATES = {  # columns of `calibration.csv`
    "coverage": "interval contains the truth (%)",
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


@dataclass(frozen=True)
class Folder:
    """One experiment at one preset; `told` says when its claims were last changed, `late` if that was after a run."""

    name: str
    preset: str
    judged: dict[str, Any]
    claims: list[Verdict]
    rows: list[Row]
    cells: list[Cell]
    drawing: str
    told: str
    late: bool

    def count(self, checks: bool) -> Counter[str]:
        """Count the verdicts on checks, or on all other claims."""
        return Counter(claim.verdict for claim in self.claims if (claim.kind == "check") is checks)


def report(results: str | Path = "experiments/results", out: str | Path = "report.html") -> str:
    """Write the page and return a line that sums it up; ResultsError if results are damaged or `out` is unwritable."""
    folders, out = load(Path(results)), Path(out)
    page = build(folders, calibration(Path(results)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page)
    except OSError as error:
        raise ResultsError(f"{out} cannot be written: {error}; choose another with --out") from error
    return f"{out}: {_summary(folders)} ({len(page.encode()) / 1e6:.1f} MB)"


def load(results: Path) -> list[Folder]:
    """Read every experiment and preset in the order of the page; ResultsError if there is none or one is damaged."""
    # A folder that is empty, or holds packed runs alone, belongs to a reproduction that has not ended yet.
    found = {path.parent for path in results.glob("[!.]*/[!.]*/[!.]*") if path.name != "runs.tar.gz"}
    if not found:
        raise ResultsError(f"no results in {results}; make reproduce-fig2 OUT={results} writes some")
    return [_folder(path) for path in sorted(found, key=_place)]


def _place(path: Path) -> tuple[Any, ...]:
    """Sort figures before tables before the rest, 2 before 10, and the paper's preset before those that are cut."""
    name, preset = path.parent.name, path.name
    kind = next((i for i, word in enumerate(("fig", "table")) if re.fullmatch(rf"{word}\d+", name)), 2)
    base = preset.partition("-")[0]  # without the name of other data
    return kind, tables.order(name), -PRESETS.index(base) if base in PRESETS else 1, preset


def _folder(path: Path) -> Folder:
    name, preset = path.parent.name, path.name
    try:
        rows = tables.read(path / "results.csv")
        judged = {"failures": {}, "absent": []} | json.loads((path / "verdicts.json").read_text(encoding="utf-8"))
        if (judged["experiment"], judged["preset"]) != (name, preset):
            raise ValueError(f"verdicts.json is of {judged['experiment']}/{judged['preset']}")
        claims = [Verdict(**claim) for claim in judged["claims"]]
        if strange := [claim for claim in claims if claim.verdict not in VERDICTS or claim.kind not in KINDS]:
            raise ValueError(f"verdicts.json has an unknown verdict or kind: {strange[0]}")
        times = [judged.get(name) for name in ("claims_commit", "claims_changed", "first_run")]
        told, late = beforehand.told(*times), beforehand.late(*times)
        drawing = _drawing(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"make reproduce-{name} PRESET={preset} OUT={path.parents[1]} writes it again"
        raise ResultsError(f"{path} is damaged: {type(error).__name__}: {error}; {again}") from error
    return Folder(name, preset, judged, claims, rows, tables.cells(rows), drawing, told, late)


def _drawing(folder: Path) -> str:
    """Give the drawing as a data URI: an image of its own, so that ids within two drawings cannot clash."""
    svg, png = folder / "figure.svg", folder / "figure.png"
    path, kind, end = (svg, "svg+xml", b"</svg>") if svg.exists() else (png, "png", b"IEND\xaeB`\x82")
    data = path.read_bytes()
    if not data.rstrip().endswith(end):
        raise ValueError(f"{path.name} is cut short")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def calibration(results: Path) -> list[Row]:
    """Read how often verdicts are wrong in simulated grids; empty if none were simulated, ResultsError if damaged."""
    path = results / "calibration" / "calibration.csv"
    names = ("claim", "noise", "seeds", *RATES, "well_posed")
    try:
        found = tables.lines(path, names) if path.exists() else []
    except ResultsError as error:
        raise ResultsError(f"{error}; make calibration writes it again") from error
    return [{name: tables.number(line[name]) for name in names} for line in found]


def build(folders: Sequence[Folder], simulated: Sequence[Row] = ()) -> str:
    """Write the page of `folders` and of what `calibration` gave."""
    here = Path(__file__).with_name("report")
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"several": _several, "margin": _margin, "field": _field}
    once = {row["run"]: row for folder in folders for row in folder.rows}.values()  # experiments share runs
    last = max((str(row["finished"])[:10] for row in once if row.get("finished")), default="unknown")
    return environment.get_template("page.html").render(
        experiments=[list(group) for _, group in groupby(folders, lambda folder: folder.name)],
        summary=f"{_summary(folders)}. {_several(len(once), 'run')}, {_took(once)} of training; the newest: {last}.",
        bounded=_bounded(folders), false_support=FALSE_SUPPORT, simulated=simulated, rates=RATES, marks=VERDICTS,
        reason=tables.reason, beside=_beside, ours=_ours, provenance=_provenance,
    )  # fmt: skip


def _took(rows: Iterable[Row]) -> str:
    return elapsed(sum(float(row["seconds"] or 0) for row in rows))


def _several(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _summary(folders: Sequence[Folder]) -> str:
    counts, checks = (sum((f.count(kind) for f in folders), Counter[str]()) for kind in (False, True))
    told = f"{_several(len({folder.name for folder in folders}), 'experiment')}, "
    told += f"{_several(counts.total(), 'claim')} judged: {', '.join(f'{counts[word]} {word}' for word in VERDICTS)}"
    told += f"; {checks['supported']} of {_several(checks.total(), 'check')} hold" if checks else ""
    return f"{told}; at most {FALSE_SUPPORT * _bounded(folders):.1f} would be supported by chance if none were true"


def _bounded(folders: Sequence[Folder]) -> int:
    """Count the claims that are judged by intervals, without checks."""
    return sum(not claim.every and claim.kind != "check" for folder in folders for claim in folder.claims)


def _margin(value: float | None) -> str:
    """Write a margin with 2 decimals, whole and large ones with none, small ones to 2 digits."""
    if value is None:
        return "none"
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:{'.0f' if whole else '.2f' if abs(value) >= 0.1 else '.2g'}}".replace("-", "−")


def _field(value: Any, name: str) -> str:
    """Write a field of a run or a number of its result for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "seconds":
        return elapsed(value)
    if name.startswith("density"):
        return f"{100 * value:.4g}%"
    form = ".2f" if "accuracy" in name else ",.0f" if name == "parameters" else "g" if isinstance(value, float) else ""
    return f"{value:{form}}"


def _heading(name: str) -> str:
    return {"density": "kept", "image_size": "pixels"}.get(name, name.replace("_", " "))


def _accuracy(cell: Cell) -> tuple[Any, ...]:
    """Give the mean, the range and the number of seeds of a cell's primary metric."""
    values = cell.values(cell.metric)
    spread = f"{min(values):.2f} – {max(values):.2f}" if len(values) > 1 else "–"
    return _field(cell.mean(cell.metric), cell.metric), spread, len(cell.trained)


def match(point: Published, found: Sequence[Cell]) -> Cell | None:
    """Find the cell that a published number belongs to: of those that fit the least cut, among equals the best."""
    # A number without a density is the best of several, or of a dense net; parts of ImageNet are another problem.
    wanted = {name: value for name, value in asdict(point).items() if value is not None} | {"scaled": False}
    del wanted["source"], wanted["accuracy"]
    fitting = [cell for cell in found if wanted.items() <= vars(cell.run).items() and tables.same_images(cell.run)]

    def least_cut(cell: Cell) -> tuple[float, ...]:
        run, images = cell.run, cell.run.train_images or float("inf")
        return -len(tables.departures([run])), run.width, run.epochs, images, cell.mean("accuracy") or 0.0

    return max(fitting, key=least_cut, default=None)


def _beside(folder: Folder) -> dict[str, Any]:
    """Put ours beside others' numbers, a row for each cell that has one."""
    matched = [(point, match(point, folder.cells)) for point in POINTS]
    pairs = [(cell, {point.source: point for point, found in matched if found is cell}) for cell in folder.cells]
    pairs = [(cell, points) for cell, points in pairs if points]
    sources = [name for name in SOURCES if any(name in points for _, points in pairs)]
    cut = tables.departures(cell.run for cell, _ in pairs)
    rows = []
    for cell, points in pairs:
        run = cell.run
        described = run.net, run.method, run.optimizer if run.density is None else run.distribution
        numbers = (_theirs(points[name], cell) if name in points else "" for name in sources)
        rows.append((*described, _field(run.density, "density"), *_accuracy(cell), *numbers))
    ours = ("net", "method", "weights or optimizer", "kept", f"ours{', cut' if cut else ''} (%)", "from – to", "seeds")
    return {
        "heading": (*ours, *(SOURCES[name].name for name in sources)),
        "rows": rows,
        "text": 3,
        "cut": "; ".join(cut.values()),
        "alike": any(tables.like_for_like(point, cell.run) for cell, points in pairs for point in points.values()),
        "sources": [(SOURCES[name].name, SOURCES[name].what) for name in sources],
    }


def _theirs(point: Published, cell: Cell) -> str:
    """Write a number of others, and in brackets how far ours is from it if both follow the authors' protocol."""
    ours = cell.mean("accuracy")
    best = ", its best" if method(point.method).hides and point.density is None else ""
    alike = ours is not None and tables.like_for_like(point, cell.run)
    difference = f" ({ours - point.accuracy:+.2f})".replace("-", "−") if ours is not None and alike else ""
    return f"{point.accuracy:.2f}{best}{difference}"


def _ours(folder: Folder) -> dict[str, Any]:
    """Give a row for each cell: the fields that differ, the accuracy, other numbers; and what all cells share."""
    runs, failures = [cell.run for cell in folder.cells], folder.judged["failures"]
    names, first = tables.varying(runs), folder.cells[0]
    numbers = [name for name in NUMBERS if any(cell.values(name) for cell in folder.cells)]
    rows = [
        (
            *(_field(tables.setting(cell.run, name), name) for name in names),
            *_accuracy(cell),
            *([_failing(cell, failures)] if failures else []),
            *(_field(cell.mean(name), name) for name in numbers),
        )
        for cell in folder.cells
    ]
    heading = [*map(_heading, names), f"{first.metric} ({first.rows[0].get('unit') or '%'})", "from – to", "seeds"]
    heading += [*(["fail to train"] if failures else []), *(NUMBERS[name] for name in numbers)]
    shared = (f"{_heading(name)} {_field(value, name)}" for name, value in tables.common(runs).items())
    return {"heading": heading, "rows": rows, "text": len(names), "shared": ", ".join(shared)}


def _failing(cell: Cell, failures: dict[str, dict[str, Any]]) -> str:
    """Write how many seeds fail to train, how many diverge, and the 95% interval of the rate."""
    if not method(str(cell.run.method)).learns:
        return "–"
    told = f"{len(cell.rows) - len(cell.trained)} of {len(cell.rows)}"
    told += f", {lost} diverged" if (lost := sum(map(diverged, cell.rows))) else ""
    rate = failures.get(cell.run.cell)
    return f"{told} ({100 * rate['low']:.0f}% – {100 * rate['high']:.0f}%)" if rate else told


def _provenance(folder: Folder) -> list[tuple[str, str]]:
    """Say which code made the results, on what and when, and how long it took."""
    rows = folder.rows

    def several(name: str) -> str:
        counted = Counter(str(row[name]) for row in rows if row.get(name) not in (None, ""))
        if len(counted) < 2:
            return next(iter(counted), "unknown")
        return "; ".join(f"{value} ({_several(count, 'run')})" for value, count in sorted(counted.items()))

    commits, days = several("commit"), sorted(str(row["finished"])[:10] for row in rows if row.get("finished"))
    return [
        ("command", f"make reproduce-{folder.name} PRESET={folder.preset}"),
        ("commit", commits + (" (dirty: with changes that are not committed)" if "-dirty" in commits else "")),
        ("device", several("device")),
        ("versions", ", ".join(f"{name} {several(name)}" for name in VERSIONS if name in rows[0]) or "unknown"),
        ("seeds", ", ".join(map(str, sorted({row["seed"] for row in rows})))),
        ("finished", " to ".join(dict.fromkeys(days[:1] + days[-1:])) or "unknown"),
        ("training took", f"{_took(rows)} in all, for {_several(len(rows), 'run')}"),
    ]
