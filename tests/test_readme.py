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

from lit_hidden.code import check, spec
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parent.parent


def blocks(section: str) -> dict[str, str]:
    """The Python files of a section of the README, by the name that was last given before each."""
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    parts = re.split(r"```python\n(.*?)```", text, flags=re.S)
    return {re.findall(r"`([\w/]+\.py)`", told)[-1]: code for told, code in zip(parts[::2], parts[1::2], strict=False)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "files", "name", "cells"),
    [
        ("Add a figure", ["experiments/mine.py"], "mine", 2),
        ("Add an idea", ["blurred.py", "experiments/blur.py"], "blur", 3),
    ],
)
def test_what_one_adds_is_trained_judged_and_drawn(section, files, name, cells, tmp_path):
    found = blocks(section)
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
    first, reading, *ideas = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(ideas) == 7
    for example in (first, *ideas):
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
