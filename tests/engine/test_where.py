"""What a grid is trained on: what the user says, what there is, and what follows for each run."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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
    """Start the launcher of some runs on a machine with so many GPUs."""

    def begin(gpus: int, runs: list[Run], **said: Any) -> Any:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
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
        (0, [LARGE], {}, ["", ""]),  # two CPU workers, each with a run of its own
        (0, [LARGE], {"per_run": 2, "devices": 2}, [""]),
    ],
)
def test_runs_on_imagenet_have_all_gpus_each_and_others_one(start, gpus, runs, said, seen):
    pool = start(gpus, runs, **said)
    assert isinstance(pool, Local)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in pool.environments] == seen
    each = max(1, len(seen[0].split(",")))
    assert pool.per_run == said.get("per_run", each)


@pytest.mark.parametrize(("gpus", "said", "each"), [(8, {}, 3), (8, {"per_run": 1}, 3), (2, {}, 13), (0, {}, 13)])
def test_runs_side_by_side_share_the_cores_to_decode_images(start, monkeypatch, gpus, said, each):
    monkeypatch.setattr("lit_hidden.engine.pool.cores", lambda: 27)
    decoders = start(gpus, [LARGE], **said).decoders
    assert decoders == each
    assert make_data(LARGE, "data", decoders).workers == each
    assert not hasattr(make_data(SMALL, "data", decoders), "workers")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"num_nodes": 4}, "--num-nodes 4: one process cannot start others .* torchrun --nnodes 4 .* srun .* slurm"),
        ({"slurm": ["partition"], "launcher": "slurm"}, "--slurm partition: it is NAME=VALUE"),
        ({"slurm": ["partition=gpu"]}, "--slurm partition: an option of --launcher slurm, not of local"),
        ({"launcher": "kubernetes"}, "kubernetes: there are local, ray and slurm"),
        ({"per_run": 3, "devices": 8}, "--devices 8, --per-run 3: give 3 or a multiple of it"),
        ({"per_run": 0.0}, "--per-run 0: it is a number of devices"),
        ({"per_run": float("nan")}, "--per-run nan: it is a number of devices"),
        ({"num_nodes": 0}, "--num-nodes 0: a run is trained on at least 1 machine"),
        (
            {"per_run": 300, "devices": 300},
            "300 devices a run: resnet18-sgd-imagenet100-s0 has batches of 256 images",
        ),
        ({"launcher": "slurm", "per_run": 0.5}, "--per-run 0.5: .* only local and ray have several runs share a GPU"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(start, said, why):
    with pytest.raises(LauncherError, match=why):
        start(8, [LARGE], **said)


def test_processes_that_torchrun_started_train_each_run_together(start):
    for said in ({}, {"num_nodes": 2}, {"num_nodes": 2, "devices": 8}, {"per_run": 16}):
        pool = start(8, [SMALL], group=GROUP, **said)
        assert isinstance(pool, Lockstep)
        assert (pool.per_run, pool.device, pool.places) == (16, "cuda", 1)


def test_more_processes_than_gpus_are_refused(start):
    with pytest.raises(LauncherError, match="8 processes were started on a machine where each sees 4 GPUs"):
        start(4, [LARGE], group=GROUP)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"num_nodes": 4}, "--num-nodes 4: 2 machines with 8 processes each were started; leave it out, or give 2"),
        ({"devices": 4}, "--devices 4: 2 machines with 8 processes .* give 8"),
        ({"per_run": 8}, "--per-run 8: .* give 16"),
        ({"launcher": "ray"}, "--launcher ray: 2 machines .* leave it out"),
    ],
)
def test_what_torchrun_started_must_be_what_was_asked_for(start, said, why):
    with pytest.raises(LauncherError, match=why):
        start(8, [LARGE], group=GROUP, **said)


def test_the_makefile_hands_on_what_it_is_told():
    """`DATA=imagenet100 DATA_DIR=/datasets make reproduce-fig8 DEVICES=8`, word by word; nothing is run."""

    def made(**variables: str) -> str:
        # Not what a make around the tests was told, in variables of its own too.
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
