"""What a grid is trained on: what the user says, what there is, and what follows for each run."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_hidden.engine import devices
from lit_hidden.engine.devices import LauncherError
from lit_hidden.engine.network import make_data
from lit_hidden.engine.pool import Local
from lit_hidden.engine.ranks import Ranks
from lit_hidden.engine.torchrun import Lockstep
from lit_hidden.engine.where import Where
from lit_hidden.run import Run

GROUP = SimpleNamespace(ranks=Ranks(0, 16, 0, 8))
LARGE, SMALL = Run(data="imagenet100", net="resnet18"), Run(data="digits")


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Start the launcher of some runs on a machine with so many GPUs, or with memory for two CPU workers."""

    def begin(gpus: int, runs: list[Run], visible: str = "", **said: Any) -> Any:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        for module in ("devices", "where", "torchrun"):
            monkeypatch.setattr(f"lit_hidden.engine.{module}.gpus", lambda: gpus)
        monkeypatch.setattr("lit_hidden.engine.devices.fitting", lambda: 2)
        return Where(**said).start(tmp_path, runs)

    return begin


@pytest.mark.parametrize(
    ("gpus", "runs", "said", "seen"),
    [
        (8, [LARGE], {"devices": 8}, ["0,1,2,3,4,5,6,7"]),  # DATA=imagenet100 make reproduce-fig8 DEVICES=8
        (4, [LARGE], {}, ["0,1,2,3"]),
        (4, [LARGE], {"devices": 2}, ["0,1"]),
        (4, [LARGE], {"per_run": 2}, ["0,1", "2,3"]),
        (4, [LARGE], {"per_run": 1, "devices": 3}, ["0", "1", "2"]),
        (4, [LARGE, SMALL], {"devices": 4}, ["0", "1", "2", "3"]),
        (4, [SMALL], {"devices": 2}, ["0", "1"]),
        (3, [SMALL], {"visible": "0,2,5"}, ["0", "2", "5"]),
        (5, [SMALL], {"visible": "0, 2,5,6,7", "per_run": 2}, ["0,2", "5,6"]),  # one is left over
        (2, [SMALL], {"visible": "3, 4", "per_run": 0.5}, ["3", "4", "3", "4"]),
        (2, [SMALL], {"visible": "3, 4", "per_run": 0.3, "devices": 1}, ["3", "3", "3"]),
        (0, [LARGE], {}, ["", ""]),  # two CPU workers, each with a run of its own
        (0, [LARGE], {"per_run": 2, "devices": 4}, ["", ""]),
        (0, [SMALL], {"per_run": 3}, [""]),  # slower than it could be, but it works
    ],
)
def test_each_worker_sees_its_gpus_and_runs_on_imagenet_have_all(start, gpus, runs, said, seen):
    pool = start(gpus, runs, **said)
    assert isinstance(pool, Local)
    assert (pool.device, pool.places) == ("cuda" if gpus else "cpu", len(seen))
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in pool.environments] == seen
    assert all(gpus or environment["OMP_NUM_THREADS"] == "1" for environment in pool.environments)
    assert pool.per_run == said.get("per_run", max(1, len(seen[0].split(","))))


@pytest.mark.parametrize(("gpus", "said", "each"), [(8, {}, 3), (8, {"per_run": 1}, 3), (2, {}, 13), (0, {}, 13)])
def test_runs_side_by_side_share_the_cores_to_decode_images(start, monkeypatch, gpus, said, each):
    monkeypatch.setattr("lit_hidden.engine.pool.cores", lambda: 27)
    decoders = start(gpus, [LARGE], **said).decoders
    assert decoders == each
    assert make_data(LARGE, "data", decoders).workers == each
    assert not hasattr(make_data(SMALL, "data", decoders), "workers")


def test_processes_that_torchrun_started_train_each_run_together(start):
    for said in ({}, {"num_nodes": 2}, {"num_nodes": 2, "devices": 8}, {"per_run": 16}):
        pool = start(8, [SMALL], group=GROUP, **said)
        assert isinstance(pool, Lockstep)
        assert (pool.per_run, pool.device, pool.places) == (16, "cuda", 1)


@pytest.mark.parametrize(
    ("gpus", "said", "why"),
    [
        (8, {"num_nodes": 4}, "--num-nodes 4: one process cannot .* torchrun --nnodes 4 .* srun .* slurm"),
        (8, {"num_nodes": 0}, "--num-nodes 0: "),
        (8, {"slurm": ["partition"], "launcher": "slurm"}, "--slurm partition: give NAME=VALUE"),
        (8, {"slurm": ["partition=gpu"]}, "--slurm partition: this is for --launcher slurm, not local"),
        (8, {"launcher": "kubernetes"}, "kubernetes: there are local, ray and slurm"),
        (8, {"per_run": 3, "devices": 8}, "--devices 8, --per-run 3: give 3 or a multiple of it"),
        (8, {"per_run": 2, "devices": 1}, "--devices 1, --per-run 2: give 2 or a multiple of it"),
        (8, {"devices": 9, "per_run": 1}, "asks for 9 GPUs, and this machine has 8"),
        (8, {"per_run": 9}, "asks for 9 GPUs, and this machine has 8"),
        (0, {"devices": 0}, "--devices 0, --per-run 1: give 1 or a multiple of it"),
        (0, {"per_run": 0.5}, "--per-run 0.5: runs share a GPU, and this machine has none"),
        (8, {"per_run": 0.0}, "--per-run 0: this launcher takes a whole number, or a part of a GPU"),
        (8, {"per_run": 1.5}, "--per-run 1.5: "),
        (8, {"per_run": float("nan")}, "--per-run nan: "),
        (8, {"launcher": "slurm", "per_run": 0.5}, "--per-run 0.5: this launcher takes a whole number; local and ray"),
        (8, {"per_run": 300}, "300 devices a run: resnet18-sgd-imagenet100-s0 has batches of 256"),
        (4, {"group": GROUP}, "8 processes were started on a machine where each sees 4 GPUs"),
        (8, {"group": GROUP, "num_nodes": 4}, r"--num-nodes 4: 2 machine\(s\) with 8 processes each .* give 2"),
        (8, {"group": GROUP, "devices": 4}, "--devices 4: .* give 8"),
        (8, {"group": GROUP, "per_run": 8}, "--per-run 8: .* give 16"),
        (8, {"group": GROUP, "launcher": "ray"}, "--launcher ray: .* leave it out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(start, gpus, said, why):
    with pytest.raises(LauncherError, match=why):
        start(gpus, [LARGE], **said)


def test_gpus_are_counted_as_cuda_would_see_them(monkeypatch, tmp_path):
    for visible, number in (("1, 3", 2), ("-1", 0), ("", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.gpus() == number
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = tmp_path / "nvidia-smi"
    for printed, number, name in (
        ("echo GPU 0: H100; echo '  MIG 1g'; echo GPU 1: H100", 2, ""),
        ("echo H100; echo H100", 0, "H100"),
        ("exit 9", 0, ""),
    ):
        command.write_text(f"#!/bin/sh\n{printed}\n")
        command.chmod(0o755)
        assert (devices.gpus(), devices.gpu_name()) == (number, name)


def test_on_cpu_there_are_as_many_workers_as_have_a_core_and_memory(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 4)
    for megabytes, workers in ((100, 1), (2_000, 1), (4_500, 2), (64_000, 4)):
        text = f"MemTotal: 99999999 kB\nMemAvailable:   {1024 * megabytes} kB\n"
        monkeypatch.setattr(Path, "read_text", lambda path, text=text: text)
        assert devices.fitting() == workers
    monkeypatch.setattr(Path, "read_text", lambda path: "no such line")
    assert devices.fitting() == 4


def test_the_makefile_hands_on_what_it_is_told():
    """`DATA=imagenet100 DATA_DIR=/datasets make reproduce-fig8 DEVICES=8`, word by word; nothing is run."""

    def made(**variables: str) -> str:
        # Without the variables of a make around the tests.
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        command = ["make", "-n", "VENV=/nowhere", "-C", str(Path(__file__).parents[2]), "reproduce-fig8"]
        done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
        return next(line for line in done.stdout.splitlines() if " reproduce " in line)

    chosen = made(DATA="imagenet100", DATA_DIR="/datasets", DEVICES="8", MINUTES="230")
    said = (
        "/nowhere/bin/lit-hidden reproduce fig8 --preset paper --out results --data imagenet100 --devices 8 "
        "--minutes 230"
    )
    assert " ".join(chosen.split()) == said
    assert made().split()[3:] == ["--preset", "quick", "--out", "results"]
