"""What the README tells to write works, word by word."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
