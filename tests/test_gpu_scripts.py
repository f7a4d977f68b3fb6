"""The scripts for a GPU's machine: what they measure runs here on a CPU, and what they ask for can be parsed."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hidden.cli import parser

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "experiments" / "gpu"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="scripts for Linux")


def test_each_precision_and_the_kernels_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["measure.py", "cpu", str(tmp_path)])
    for name in ("benchmark", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    threads = torch.get_num_threads()
    runpy.run_path(str(SCRIPTS / "measure.py"))
    torch.set_num_threads(threads)
    rows = [json.loads(line) for line in (tmp_path / "measure.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "step" in row]
    assert steps == [f"conv2 hidden {precision}" for precision in ("float32", "TF32", "bf16", "default")]
    assert [row["kernels"] for row in rows if "kernels" in row] == ["conv2"]


def test_the_scripts_measure_and_train_what_they_are_told_for_what_is_left_of_their_seconds(tmp_path: Path) -> None:
    python = tmp_path / "python3"  # takes down what it is asked for, and does sums
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    places = {name: str(tmp_path / name.lower()) for name in ("OUT", "KEEP", "RUNS", "DATA")}
    environment = os.environ | places | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TESTS": ""}
    given = ["--per-run", "0.5", "--where", "net=conv2", "density=0.5"]
    asked: list[list[list[str]]] = []
    for script, *arguments in (("first",), ("second", "600"), ("second", "600", *given)):
        command = ["bash", str(SCRIPTS / script), *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        asked.append([line.split() for line in (tmp_path / "asked").read_text().splitlines()])
        (tmp_path / "asked").unlink()
    measure, bench = asked[0]
    assert (measure[1:], bench[1:3]) == (["cuda", places["OUT"]], [places["OUT"] + "/bench", "cuda"])
    assert [line[2] for line in asked[1]] == [line[2] for line in asked[2]] == ["reproduce", "pack", "compare"]
    found: list[dict[str, Any]] = [vars(parser().parse_args(lines[0][2:])) for lines in asked[1:]]
    for one in found:
        assert (one["names"], one["preset"], one["runs_dir"]) == (["fig3"], "paper", places["RUNS"])
        assert 9 < one["minutes"] <= 10
    assert not {"per_run", "where"} & found[0].keys()
    assert (found[1]["per_run"], found[1]["where"]) == (0.5, ["net=conv2", "density=0.5"])
