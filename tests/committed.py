"""Results folders made by hand, as the engine writes them."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fabricated import measured

from lit_hidden.engine.written import rows
from lit_hidden.results import Results
from lit_hidden.run import Run

PROVENANCE = {
    "seconds": 90.0,
    "device": "CPU, 1 thread(s)",
    "commit": "0123456789ab",
    "finished": "2026-11-22T10:00:00+00:00",
    "versions": {"lit_hidden": "0.1.0", "python": "3.11.7", "torch": "2.15.0", "lightning": "2.6.6"},
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect id="a" width="40" height="20"/></svg>'
CLAIM = {
    "sentence": "a claim", "verdict": "supported", "margin": 1.5, "low": 0.5, "high": 2.5, "seeds": 3,
    "unit": "points", "every": False, "why": "the 95% interval lies above 0",
}  # fmt: skip


def accuracy(run: Run) -> float:
    """Dense 88, a random mask 10, hidden 80 less its distance from half; half a point more with each seed."""
    base = {"dense": 88.0, "random": 10.0}.get(str(run.method), 80.0 - 20 * abs((run.density or 0) - 0.5))
    return base + 0.5 * run.seed


def results(runs: Iterable[Run], accuracy: Callable[[Run], float] = accuracy, **result: Any) -> Results:
    found: Results = measured(runs, accuracy, lambda run: 0.0, **result, provenance=PROVENANCE)
    return found


def folder(
    base: Path,
    name: str,
    preset: str,
    found: Results,
    claims: Iterable[dict[str, Any]] = (CLAIM,),
    title: str = "",
    **more: Any,
) -> Path:
    """Write `<base>/<name>/<preset>/`."""
    path = base / name / preset
    path.mkdir(parents=True)
    table = rows(found)
    with (path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    judged = {
        "experiment": name, "title": title or f"{name.capitalize()}: what {name} shows.", "preset": preset,
        "conditions": f"preset {preset}; data digits; nothing cut", "claims": list(claims),
        **dict.fromkeys(("claims_commit", "claims_changed", "first_run")), "failures": {}, "absent": [], **more,
    }  # fmt: skip
    (path / "verdicts.json").write_text(json.dumps(judged))
    (path / "figure.svg").write_text(SVG)
    return path
