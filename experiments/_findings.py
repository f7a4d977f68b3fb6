"""Write what the committed verdicts say into README.md, docs/ and the folders of results: `make findings`.

A claim is shown at the largest preset that decides it; if none does, at the largest that gives its margin an
interval. The README has the first primary claim of each experiment without a page of its own, docs/results.md all
claims, each page its own. Each folder of results has a README, and `experiments/results/` a drawing of all verdicts.
"""

import ast
import json
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from lit_hidden.report.tables import digits, order
from lit_hidden.run import PRESETS

ROOT = Path(__file__).parent.parent
Presets = list[tuple[str, dict[str, Any]]]  # a claim judged at each preset, from the smallest to the largest
Claims = dict[str, dict[str, Presets]]  # by experiment, by sentence
SIGNS = {"supported": "**supported**", "contradicted": "**contradicted**", "undecided": "undecided"}
MARKS = {  # a colour, and in a square of 16 a mark that tells the same in grey
    "supported": ("#2b7a46", "m4 8.5 3 3 5-7"),
    "contradicted": ("#b3261e", "m4.5 4.5 7 7m0-7-7 7"),
    "undecided": ("#8c8c8c", "m4.5 8h7"),
}


def read(results: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the committed verdicts by experiment and preset, the presets from the smallest to the largest."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    paths = [path for preset in PRESETS for path in results.glob(f"*/{preset}/verdicts.json")]
    for path in sorted(paths, key=lambda path: order(path.parts[-3])):
        found.setdefault(path.parts[-3], {})[path.parts[-2]] = json.loads(path.read_text())
    return found


def claimed(judged: dict[str, dict[str, Any]]) -> dict[str, Presets]:
    """Collect the claims of an experiment."""
    claims: dict[str, Presets] = {}
    for preset, verdicts in judged.items():
        for claim in verdicts["claims"]:
            claims.setdefault(claim["sentence"], []).append((preset, claim))
    return claims


def decided(presets: Presets) -> tuple[str, dict[str, Any]]:
    """Pick the largest preset that decides a claim; if none does, the largest that gives it an interval."""
    told = [(claim["verdict"] != "undecided", claim["low"] is not None) for _, claim in presets]
    return max(zip(told, range(len(presets)), presets, strict=True))[2]


def margin(claim: dict[str, Any]) -> str:
    """Write a margin and its interval; nothing if there is none."""
    if claim["margin"] is None:
        return ""
    bounded = claim["low"] is not None and claim["low"] != claim["high"]
    seeds = " over the seeds" if claim["every"] else ""  # an exact claim has no interval
    interval = f" ({digits(claim['low'])} to {digits(claim['high'])}{seeds})" if bounded else ""
    return f"{digits(claim['margin'])} {claim['unit']}{interval}"


def table(claims: Claims, of: str) -> str:
    """Write the claims of one experiment, or of `all`, as Markdown; without a name the first primary one of each."""
    rows = ["| | claim | verdict | margin (95% interval) | preset |", "| --- | --- | --- | --- | --- |"]
    for experiment, by_sentence in claims.items():
        shown = [presets for presets in by_sentence.values() if of or presets[0][1]["kind"] == "primary"]
        for preset, claim in map(decided, shown[: None if of else 1] if of in ("", "all", experiment) else []):
            cells = experiment, claim["sentence"], SIGNS[claim["verdict"]], margin(claim), preset
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def decides(claims: list[dict[str, Any]]) -> bool:
    """Tell whether a preset decides a claim."""
    return any(claim["verdict"] != "undecided" for claim in claims)


def page(name: str, judged: dict[str, dict[str, Any]], claims: dict[str, Presets]) -> str:
    """Write the README of a folder of results: question, commands, verdicts; first the largest preset that decides."""
    code = ast.parse((ROOT / "experiments" / f"{name}.py").read_text())
    title, _, question = (ast.get_docstring(code) or "").partition("\n")
    largest = [*reversed(judged)]
    first, *others = presets = sorted(largest, key=lambda preset: not decides(judged[preset]["claims"]))
    commands = [f"make reproduce-{name} PRESET={preset}" for preset in presets]
    rows = [f"| claim | {' | '.join(presets)} |", "| --- |" + " --- |" * len(presets)]
    for sentence, found in claims.items():
        cells = {preset: f"{SIGNS[claim['verdict']]} {margin(claim)}" for preset, claim in found}
        rows.append(f"| {sentence} | {' | '.join(cells.get(preset, '–') for preset in presets)} |")
    also = [f"[{preset}, drawn]({preset}/figure.png)" for preset in others]
    also += [f"[the runs of {preset}]({preset}/results.csv)" for preset in presets]
    also += [f"[the discussion](../../../docs/{name}.md)"] if (ROOT / "docs" / f"{name}.md").exists() else []
    parts = [
        f"# {title}",
        question.strip().replace("\nCost:", "\n\nCost:"),
        "\n".join(["```", *commands, f"make compare FIG={name} PRESET={first}", "```"]),
        f"![{title}]({first}/figure.png)",
        f"*{judged[first]['conditions']}*",
        "\n".join(rows),
        "Margins are followed by their 95% intervals ([how claims are judged](../../../docs/judging.md)). See also "
        f"[the code](../../{name}.py), {', '.join(also)}.",
    ]
    return "\n\n".join(parts) + "\n"


def overview(columns: dict[str, Claims]) -> str:
    """Draw a square for each claim and a disc for each check, as SVG: a row per experiment, a column per heading."""
    height, left = 70 + 22 * max(map(len, columns.values())), 10
    parts, counts = [], Counter[str]()
    for kind, radius in {"primary": 2, "secondary": 2, "exploratory": 2, "check": 8}.items():
        for word, (color, path) in MARKS.items():
            drawn = f'<rect width="16" height="16" rx="{radius}" fill="{color}"/><path d="{path}"/>'
            parts.append(f'<symbol id="{word}-{kind}" fill="none" stroke-width="2">{drawn}</symbol>')
    for heading, claims in columns.items():
        parts.append(f'<text x="{left}" y="24" font-weight="bold">{heading}</text>')
        for y, (name, by_sentence) in zip(range(36, height, 22), claims.items(), strict=False):
            parts.append(f'<text x="{left}" y="{y + 13}">{name}</text>')
            found = [decided(presets)[1] for presets in by_sentence.values()]
            for n, claim in enumerate(sorted(found, key=lambda claim: [*MARKS].index(claim["verdict"]))):
                parts.append(f'<use href="#{claim["verdict"]}-{claim["kind"]}" x="{left + 130 + 19 * n}" y="{y}"/>')
                counts[claim["verdict"]] += claim["kind"] != "check"
        left += 160 + 19 * max(map(len, claims.values()))
    for x, word in zip((10, 150, 310), MARKS, strict=True):
        parts.append(f'<use href="#{word}-primary" x="{x}" y="{height - 26}"/>')
        parts.append(f'<text x="{x + 22}" y="{height - 13}">{counts[word]} {word}</text>')
    parts.append(f'<text x="460" y="{height - 13}">discs: checks of the code, not counted</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left} {height}" width="{left}" height="{height}">'
    style = '<style>svg { font: 13px "DejaVu Sans", Arial, sans-serif } path { stroke: #fff }</style>'
    return "\n".join([head, style, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def main(results: Path, root: Path) -> None:
    """Replace what stands between the marks of README.md and the pages of docs/; write the folders' READMEs."""
    judged = read(results)
    claims = {name: claimed(presets) for name, presets in judged.items()}
    own = {name: claims[name] for name in claims if not (root / "docs" / f"{name}.md").exists()}
    for path in (root / "README.md", *root.glob("docs/*.md")):
        marks = r"(<!-- findings ?(\w*) -->\n).*?(<!-- end -->)"
        fresh = partial(re.sub, marks, lambda m: f"{m[1]}{table(claims if m[2] else own, m[2])}\n{m[3]}", flags=re.S)
        path.write_text(fresh(string=path.read_text()))
    base = root / "experiments" / "results"
    listed = ["# Results", "Every claim, at the largest preset that decides it:", "![All verdicts](verdicts.svg)"]
    for name in claims:
        (base / name).mkdir(parents=True, exist_ok=True)
        (base / name / "README.md").write_text(page(name, judged[name], claims[name]))
        listed.append(f"[{name}]({name}/README.md): {[*judged[name].values()][-1]['title']}")
    (base / "README.md").write_text("\n\n".join(listed) + "\n")
    columns = {"the paper": own, "the reading and the discussion": {n: claims[n] for n in claims if n not in own}}
    (base / "verdicts.svg").write_text(overview(columns))


if __name__ == "__main__":
    main(ROOT / "experiments" / "results", ROOT)
