"""What the README tells to write works, word by word."""

import ast
import csv
import json
import multiprocessing.process
import re
import sys
from pathlib import Path

from experiments._findings import main as findings
from lit_hidden.cli import main
from lit_hidden.code import check, spec
from lit_hidden.results import Results
from lit_hidden.run import PRESETS, Run, vary

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *RESULTS.glob("README.md"), *RESULTS.glob("*/README.md")]


def blocks(text: str) -> dict[str, str]:
    """The Python files of a text, by the name that was last given before each."""
    parts = re.split(r"```python\n(.*?)```", text, flags=re.S)
    named = [(re.findall(r"`([\w/]+\.py)`", told), code) for told, code in zip(parts[::2], parts[1::2], strict=False)]
    return {names[-1]: code for names, code in named if names}


def test_what_one_adds_is_trained_judged_and_drawn(tmp_path, monkeypatch):
    readme, adding = (ROOT / "README.md").read_text(), (ROOT / "docs" / "adding.md").read_text()
    found = blocks(readme.partition("## Add a figure")[2]) | blocks(adding.partition("## The hooks")[0])
    assert list(found) == ["experiments/mine.py", "blurred.py", "experiments/blur.py"]
    for path, code in found.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    # As the installed script is started, in this folder and without it in the path.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(multiprocessing.process, "ORIGINAL_DIR", str(tmp_path))
    main(["reproduce", "mine", "blur", "--where", "seed=0"])
    for name, runs in (("mine", 2), ("blur", 3)):
        folder = tmp_path / "results" / name / "quick"
        with (folder / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == runs
        (claim,) = json.loads((folder / "verdicts.json").read_text())["claims"]
        assert claim["verdict"] == "undecided", "one seed has no interval"
        assert (folder / "figure.png").stat().st_size > 1000
        results = [json.loads((tmp_path / "runs" / row["run"] / "result.json").read_text()) for row in rows]
        recorded = {one for result in results for one in result.get("code", {})}
        assert recorded == ({"blurred.Blurred"} if name == "blur" else set())


def test_the_examples_of_adding_an_idea_are_runs_whose_code_is_found():
    adding, text = ((ROOT / "docs" / name).read_text() for name in ("adding.md", "ideas.md"))
    (_, reading), examples = (re.findall(r"```python\n(.*?)```", page, flags=re.S) for page in (adding, text))
    for example in examples:
        if isinstance(ast.parse(example).body[-1], ast.Expr):
            example = f"made = {example}"
        names = {"Run": Run, "spec": spec, "vary": vary}
        exec(example, names)
        runs = [run for found in names.values() for run in (found if isinstance(found, list) else [found])]
        listed = [name for run in runs if isinstance(run, Run) for name in run.names]
        assert listed
        for name in listed:
            check(name)
    for name in re.findall(r"results\.(\w+)", reading):
        assert hasattr(Results, name)
    ideas = {path.name for path in (ROOT / "lit_hidden" / "callbacks").glob("[a-z]*.py")} - {"trace.py", "swaps.py"}
    assert set(re.findall(r"\(`(\w+\.py)`", text)) == ideas, "the page names every idea"
    assert len(examples) == len(ideas)


def test_the_findings_are_those_of_the_committed_verdicts(tmp_path):
    (tmp_path / "docs").mkdir()
    marks = r"(?<=<!-- findings).*?(?=<!-- end)"
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        stale = re.sub(marks, lambda m: m[0].partition("\n")[0] + "\nstale\n", path.read_text(), flags=re.S)
        (tmp_path / path.relative_to(ROOT)).write_text(stale)
    findings(RESULTS, tmp_path)
    for path in (*PAGES, RESULTS / "verdicts.svg"):
        assert (tmp_path / path.relative_to(ROOT)).read_text() == path.read_text(), f"{path}: make findings"
    assert len([path for path in PAGES if re.search(marks, path.read_text(), flags=re.S)]) >= 5


def test_each_folder_of_results_shows_the_largest_preset_that_decides_and_every_claim_with_its_verdict_at_each():
    for path in RESULTS.glob("*/*/verdicts.json"):
        judged, text = json.loads(path.read_text()), (path.parents[1] / "README.md").read_text()
        rows = {row[0]: row for row in (line[2:-2].split(" | ") for line in text.splitlines() if line[:2] == "| ")}
        presets = rows["claim"][1:]
        columns = zip(presets, list(zip(*rows.values(), strict=True))[1:], strict=True)
        deciding = [name for name, cells in columns if re.search("supported|contradicted", " ".join(cells))]
        assert re.findall(r"!\[.*\]\((\w+)/figure.png\)", text) == presets[:1]
        assert presets[0] == max(deciding or presets, key=PRESETS.index)
        for c in judged["claims"]:
            assert rows[c["sentence"]][1 + presets.index(path.parts[-2])].strip("*").startswith(c["verdict"]), path


def test_the_drawing_of_verdicts_has_a_mark_for_each_claim_and_says_how_many_there_are():
    table, drawing = (ROOT / "docs" / "results.md").read_text(), (RESULTS / "verdicts.svg").read_text()
    for word in ("supported", "contradicted", "undecided"):
        marks, checks = (len(re.findall(f'href="#{word}-{kind}"', drawing)) for kind in (r"\w+", "check"))
        assert marks - 1 == len(re.findall(rf"\| (?:\*\*)?{word}(?:\*\*)? \|", table)), "one is the legend's"
        assert f">{marks - 1 - checks} {word}<" in drawing


def test_every_link_and_target_of_the_pages_exists():
    targets = set(re.findall(r"^([a-z-]+)[:%]", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)[)#]", re.sub("```.*?```", "", page.read_text(), flags=re.S)):
            assert (page.parent / link).exists(), f"{page}: {link}"
        for path in re.findall(r"tests/[\w/]+(?:\.py)?", page.read_text()):
            assert (ROOT / path).exists(), f"{page}: {path}"
        for target in re.findall(r"[`\n]make ([a-z-]+)", page.read_text()):
            assert target in targets or target.startswith("reproduce-"), f"{page.name}: make {target}"


def test_the_pages_are_short():
    for page in PAGES:
        if page.name not in ("results.md", "api.md"):  # all claims; all names
            assert len(page.read_text().splitlines()) <= (180 if page.parent == ROOT else 150), page
