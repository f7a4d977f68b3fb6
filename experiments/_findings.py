"""Write the tables of findings in README.md and docs/ from the committed verdicts: `make findings`.

A claim is shown at the largest preset that decides it; if none does, at the largest one with results. The README has
the first primary claim of each experiment without a page of its own, docs/results.md all claims, each page its own.
"""

import json
import re
from pathlib import Path
from typing import Any

from lit_hidden.report.tables import order
from lit_hidden.run import PRESETS

ROOT = Path(__file__).parent.parent
Claims = dict[str, dict[str, list[tuple[str, dict[str, Any]]]]]  # by experiment, by sentence: presets with verdicts
SIGNS = {"supported": "**supported**", "contradicted": "**contradicted**", "undecided": "undecided"}


def found(results: Path) -> Claims:
    """Collect the committed claims, the presets of each from the smallest to the largest."""
    claims: Claims = {}
    paths = [path for preset in PRESETS for path in results.glob(f"*/{preset}/verdicts.json")]
    for path in sorted(paths, key=lambda path: order(path.parts[-3])):
        verdicts = json.loads(path.read_text())
        for claim in verdicts["claims"]:
            by_sentence = claims.setdefault(verdicts["experiment"], {})
            by_sentence.setdefault(claim["sentence"], []).append((verdicts["preset"], claim))
    return claims


def row(experiment: str, presets: list[tuple[str, dict[str, Any]]]) -> str:
    """Write the row of a claim."""
    preset, claim = ([one for one in presets if one[1]["verdict"] != "undecided"] or presets)[-1]
    margin = ""
    if claim["margin"] is not None:
        margin = f"{claim['margin']:.3g} {claim['unit']}"
        if claim["low"] is not None and claim["low"] != claim["high"]:
            margin += f" ({claim['low']:.3g} to {claim['high']:.3g})"
    return f"| {experiment} | {claim['sentence']} | {SIGNS[claim['verdict']]} | {margin} | {preset} |"


def table(claims: Claims, of: str) -> str:
    """Write the claims of one experiment, or of `all`, as Markdown; without a name the first primary one of each."""
    rows = ["| | claim | verdict | margin (95% interval) | preset |", "| --- | --- | --- | --- | --- |"]
    for experiment, by_sentence in claims.items():
        shown = [presets for presets in by_sentence.values() if of or presets[0][1]["kind"] == "primary"]
        rows += [row(experiment, presets) for presets in shown[: None if of else 1] if of in ("", "all", experiment)]
    return "\n".join(rows)


def main(results: Path, root: Path) -> None:
    """Replace what stands between the marks of README.md and the pages of docs/."""
    claims = found(results)
    own = {name: claims[name] for name in claims if not (root / "docs" / f"{name}.md").exists()}
    for path in (root / "README.md", *root.glob("docs/*.md")):
        marks = r"(<!-- findings ?(\w*) -->\n).*?(<!-- end -->)"
        path.write_text(
            re.sub(
                marks, lambda m: f"{m[1]}{table(claims if m[2] else own, m[2])}\n{m[3]}", path.read_text(), flags=re.S
            )
        )


if __name__ == "__main__":
    main(ROOT / "experiments" / "results", ROOT)
