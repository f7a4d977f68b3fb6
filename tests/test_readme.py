"""What the README tells to write works, word by word."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments._findings import main
from lit_hidden.code import check, spec
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parent.parent


def blocks(text: str) -> dict[str, str]:
    """The Python files of a text, by the name that was last given before each."""
    parts = re.split(r"```python\n(.*?)```", text, flags=re.S)
    named = [(re.findall(r"`([\w/]+\.py)`", told), code) for told, code in zip(parts[::2], parts[1::2], strict=False)]
    return {names[-1]: code for names, code in named if names}


def section(name: str) -> str:
    """A section of the README."""
    (text,) = re.findall(rf"^## {name}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "name", "cells"),
    [(["experiments/mine.py"], "mine", 2), (["blurred.py", "experiments/blur.py"], "blur", 3)],
)
def test_what_one_adds_is_trained_judged_and_drawn(files, name, cells, tmp_path):
    figure = (ROOT / "docs" / "adding.md").read_text().partition("## The hooks")[0]
    found = {"mine": blocks(section("Add a figure")), "blur": blocks(section("Add an idea")) | blocks(figure)}[name]
    assert list(found) == files
    for path, code in found.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code)
    # As the installed script is started, which leaves the working directory out of the path.
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lit_hidden.cli import main; main()"
    command = [sys.executable, "-P", "-c", script, "reproduce", name]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / name / "quick"
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * cells
    assert len({row["accuracy"] for row in rows}) > cells
    (claim,) = json.loads((folder / "verdicts.json").read_text())["claims"]
    assert claim["verdict"] in ("supported", "contradicted", "undecided")
    assert (folder / "figure.png").stat().st_size > 1000
    for row in rows if name == "blur" else []:
        result = json.loads((tmp_path / "runs" / row["run"] / "result.json").read_text())
        assert list(result["code"]) == ["blurred.Blurred"]


def test_the_examples_of_adding_an_idea_are_runs_whose_code_is_found():
    text = (ROOT / "docs" / "adding.md").read_text()
    _, reading, *ideas = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(ideas) == 7
    for example in ideas:
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


def test_the_page_names_every_idea_and_fits_on_150_lines():
    text = (ROOT / "docs" / "adding.md").read_text()
    assert len(text.splitlines()) <= 150
    ideas = {path.name for path in (ROOT / "lit_hidden" / "callbacks").glob("[a-z]*.py")} - {"trace.py", "swaps.py"}
    assert set(re.findall(r"\(`(\w+\.py)`", text)) == ideas


def test_the_findings_are_those_of_the_committed_verdicts(tmp_path):
    (tmp_path / "docs").mkdir()
    texts = {name: (ROOT / name).read_text() for name in ("README.md", "docs/results.md")}
    for name, text in texts.items():
        (tmp_path / name).write_text(re.sub(r"(?<=findings -->\n).*?(?=<!-- end)", "stale\n", text, flags=re.S))
    main(ROOT / "experiments" / "results", tmp_path)
    assert {name: (tmp_path / name).read_text() for name in texts} == texts
    supported = sum(text.count("**supported**") for text in texts.values())
    assert supported > 20


def test_every_link_and_target_of_the_pages_exists():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    targets = set(re.findall(r"^([a-z-]+)[:%]", (ROOT / "Makefile").read_text(), re.M))
    for page in pages:
        for target in re.findall(r"[`\n]make ([a-z-]+)", page.read_text()):
            assert target in targets or target.startswith("reproduce-"), f"{page.name}: make {target}"


def test_the_readme_fits_on_180_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180
