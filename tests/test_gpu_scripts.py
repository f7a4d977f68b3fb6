"""What is run on a GPU's machine runs here on a CPU, without the packages that such a machine may lack."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.cli import main, parser
from lit_hidden.engine.experiment import load
from lit_hidden.engine.store import Store
from lit_hidden.report.tables import filtered

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "experiments" / "gpu"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="scripts for Linux")
LACKING = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
lacking = ("wandb", "jsonargparse", "kornia", "ray", "submitit", "timm")
PathFinder.find_spec = lambda name, *where: None if name in lacking else find(name, *where)
"""
SMALL = {
    "DEVICE": "cpu",
    "PRESET": "smoke",
    "TESTS": "",
    "MEASURE": "60",
    "BENCH": "60",
    "NETS": "lenet",
    "ROUNDS": "1",
}


@pytest.mark.slow
def test_the_scripts_check_measure_and_train_without_what_a_gpus_machine_may_lack(tmp_path: Path) -> None:
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "sitecustomize.py").write_text(LACKING)
    # In two halves, beside the scripts, as for a machine without a network.
    for folder, script in ((".gpu", "first"), (".gpu2", "second")):
        (tmp_path / folder / "data").mkdir(parents=True)
        shutil.copy(SCRIPTS / script, tmp_path / folder)
    shutil.copy(SCRIPTS / "measure.py", tmp_path / ".gpu")
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "unpack.py").write_text("import sys; print('unpacked', sys.argv[2])")
    (tmp_path / ".gpu2" / "data" / "half").write_text("")
    places = {name: str(tmp_path / name.lower()) for name in ("OUT", "KEEP", "RUNS", "DATA")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | SMALL | places | {"PATH": path, "PYTHONPATH": str(tmp_path / "lacking")}

    wanted = ["net=conv2", "density=0.5", "distribution=signed_constant"]
    second = [str(tmp_path / ".gpu2" / "second"), "120", "--seeds", "1", "--where", *wanted]
    said = []
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    commands = ([str(tmp_path / ".gpu" / "first")], second)
    for process in [subprocess.Popen(["bash", *each], cwd=ROOT, env=environment, **pipes) for each in commands]:
        said.append(process.communicate()[0])
        assert process.returncode == 0, said

    rows = [json.loads(line) for line in (tmp_path / "out" / "measure.jsonl").read_text().splitlines()]
    assert [row for row in rows if "failed" in row or "left_out" in row] == []
    assert {"step", "kernels"} <= {name for row in rows for name in row}
    measured = json.loads((tmp_path / "out" / "bench" / "bench.json").read_text())
    assert {row["group"] for row in measured["sections"][0]["rows"]} == {"lenet"}

    assert "unpacked cifar10" in said[1]
    assert (tmp_path / "keep" / "half").exists(), "of both halves of the data"
    found = tmp_path / "unpacked"
    main(["unpack", "--results", str(tmp_path / "out"), "--runs-dir", str(found)])
    expected = filtered(load("fig3").grid("smoke"), wanted)
    assert [run for run in load("fig3").grid("smoke") if Store(found).result(run)] == expected
    assert len(expected) == 2, "edge-popup and a random mask"


def test_the_second_trains_what_it_is_told_for_what_is_left_of_its_seconds(tmp_path: Path) -> None:
    python = tmp_path / "python3"  # takes down what it is asked for, and does sums
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    places = {name: str(tmp_path / name.lower()) for name in ("OUT", "KEEP", "RUNS", "DATA")}
    environment = os.environ | places | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    given = ["--seeds", "2", "--per-run", "0.5", "--where", "net=conv2", "density=0.5"]
    for arguments in ([], given):
        command = ["bash", str(SCRIPTS / "second"), "600", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    asked = [line.split()[2:] for line in (tmp_path / "asked").read_text().splitlines()]
    assert [line[0] for line in asked] == ["reproduce", "pack", "compare"] * 2
    whole, part = (vars(parser().parse_args(line)) for line in asked[::3])
    for found in (whole, part):
        assert (found["names"], found["preset"], found["runs_dir"]) == (["fig3"], "paper", places["RUNS"])
        assert 9 < found["minutes"] <= 10
    assert not {"seeds", "per_run", "only"} & whole.keys()
    assert (part["seeds"], part["per_run"], part["only"]) == (2, 0.5, ["net=conv2", "density=0.5"])
