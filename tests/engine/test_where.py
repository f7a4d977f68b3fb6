"""What a grid is trained on: what the user says, what there is, what follows for each run, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_hidden.engine import devices
from lit_hidden.engine.devices import LauncherError
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
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("lit_hidden.engine.devices.fitting", lambda: 2)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "srun").touch(0o755)

    def begin(gpus: int, runs: list[Run], visible: str = "", **said: Any) -> Any:
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        for module in ("devices", "where", "torchrun"):
            monkeypatch.setattr(f"lit_hidden.engine.{module}.gpus", lambda: gpus)
        return Where(**said).start(tmp_path, runs)

    return begin


@pytest.fixture
def cluster(monkeypatch):
    """A Ray that is not started, of machines with these devices; it keeps what a task asks for."""
    kept = SimpleNamespace(machines=[{"CPU": 8.0, "GPU": 3.0}, {"CPU": 64.0}], asked={})

    def remote(**asked: Any) -> Any:
        kept.asked = asked
        return lambda function: function

    nodes = [{"Alive": False, "Resources": {"GPU": 9.0}}]
    kept.nodes = lambda: nodes + [{"Alive": True, "Resources": machine} for machine in kept.machines]
    kept.remote = remote
    monkeypatch.setattr("lit_hidden.engine.ray._connected", lambda cores: kept)
    return kept


@pytest.mark.parametrize(
    ("gpus", "runs", "said", "seen"),
    [
        (8, [LARGE], {"devices": 8}, ["0,1,2,3,4,5,6,7"]),  # DATA=imagenet100 make reproduce-fig8 DEVICES=8
        (4, [LARGE], {}, ["0,1,2,3"]),
        (4, [LARGE], {"per_run": 2}, ["0,1", "2,3"]),
        (4, [LARGE], {"per_run": 1, "devices": 3}, ["0", "1", "2"]),
        (4, [LARGE, SMALL], {}, ["0", "1", "2", "3"]),
        (5, [SMALL], {"visible": "0,2,5,6,7", "per_run": 2}, ["0,2", "5,6"]),  # one is left over
        (2, [SMALL], {"visible": "3,4", "per_run": 0.5}, ["3", "4", "3", "4"]),
        (2, [SMALL], {"visible": "3,4", "per_run": 0.3, "devices": 1}, ["3", "3", "3"]),
        (0, [LARGE], {}, ["", ""]),  # two CPU workers, each with a run of its own
        (0, [LARGE], {"per_run": 2, "devices": 4}, ["", ""]),
        (0, [SMALL], {"per_run": 3}, [""]),  # slower than it could be, but it works
        (0, [SMALL], {"per_run": 0.5}, ["", ""]),
        (8, [SMALL], {"per_run": 3, "devices": 8}, ["0,1,2", "3,4,5"]),  # two are left over
    ],
)
def test_each_worker_sees_its_gpus_and_runs_on_imagenet_have_all(start, gpus, runs, said, seen):
    pool = start(gpus, runs, **said)
    assert isinstance(pool, Local)
    assert (pool.device, pool.places) == ("cuda" if gpus else "cpu", len(seen))
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in pool.environments] == seen
    assert all(gpus or environment["OMP_NUM_THREADS"] == "1" for environment in pool.environments)
    assert pool.per_run == (said.get("per_run") or len(seen[0].split(",")))


@pytest.mark.parametrize(("gpus", "each"), [(8, 3), (0, 13)])
def test_runs_side_by_side_share_the_cores_to_decode_images(start, monkeypatch, gpus, each):
    monkeypatch.setattr("lit_hidden.engine.pool.cores", lambda: 27)
    assert start(gpus, [LARGE]).decoders == each


def test_processes_that_torchrun_started_train_each_run_together(start):
    pool = start(8, [SMALL], group=GROUP, num_nodes=2)
    assert isinstance(pool, Lockstep)
    assert (pool.per_run, pool.device, pool.places) == (16, "cuda", 1)


@pytest.mark.parametrize(
    ("machines", "number", "per_run", "device", "places", "asked"),
    [
        ([{"CPU": 3.0}, {"CPU": 2.0}], None, 2, "cpu", 2, (2, 0, 0)),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}], None, 2, "cuda", 2, (0, 2, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], 1, 0.25, "cuda", 4, (0, 0.25, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], None, 0.4, "cuda", 4, (0, 0.4, 1)),
    ],
)
def test_ray_has_room_for_as_many_runs_as_its_machines_have_devices(
    start, cluster, machines, number, per_run, device, places, asked
):
    cluster.machines = machines
    pool = start(0, [SMALL], launcher="ray", devices=number, per_run=per_run)
    assert (pool.device, pool.places) == (device, places)
    assert tuple(cluster.asked[name] for name in ("num_cpus", "num_gpus", "max_calls")) == asked
    environment = cluster.asked["runtime_env"]["env_vars"]
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == os.getcwd()
    assert ("OMP_NUM_THREADS" in environment) == (device == "cpu")


RAY, SLURM = {"launcher": "ray"}, {"launcher": "slurm"}


@pytest.mark.parametrize(
    ("gpus", "said", "why"),
    [
        (8, {"num_nodes": 4}, "--num-nodes are for --launcher slurm; else start torchrun or srun"),
        (8, {"slurm": ["partition=gpu"]}, "--slurm .* for --launcher slurm"),
        (8, {"group": GROUP, "launcher": "ray"}, "torchrun or srun has started .*: leave --launcher and --slurm out"),
        (8, {"group": GROUP, "slurm": ["partition=gpu"]}, "leave --launcher and --slurm out"),
        (4, {"group": GROUP}, "8 processes were started on a machine where each sees 4 GPUs: let each see one"),
        (8, {"per_run": 2, "devices": 1}, "--devices 1, --per-run 2: 8 devices have room for 4 run"),
        (8, {"devices": 9, "per_run": 1}, "--devices 9, --per-run 1: 8 devices have room for 8 run"),
        (8, {"per_run": 9}, "--per-run 9: 8 devices have room for 0 run"),
        (0, {"devices": 0}, "--devices 0, --per-run 1: "),
        (8, {"per_run": 0.0}, "--per-run 0: give a whole number, or the part of a GPU"),
        (8, {"per_run": 1.5}, "--per-run 1.5: "),
        (8, {"per_run": float("nan")}, "--per-run nan: "),
        (0, {**RAY, "devices": 4, "per_run": 1}, "--devices 4, --per-run 1: 3 devices have room for 3 run"),
        (0, {**RAY, "per_run": 4}, "--per-run 4: 3 devices have room for 0 run"),
        (0, {**SLURM, "per_run": 0.5}, "--num-nodes 1: 0.5 devices a run cannot be shared out evenly"),
        (0, {**SLURM, "per_run": 3, "num_nodes": 2}, "--num-nodes 2: 3 devices a run cannot be shared out evenly"),
        (0, {**SLURM, "per_run": 4, "devices": 2}, "--devices 2, --per-run 4: 2 devices have room for 0 run"),
        (0, {**SLURM, "slurm": ["colour=red"]}, "--launcher slurm: Unknown argument 'colour'"),
        (0, {**SLURM, "slurm": ["cluster=nowhere"]}, "--launcher slurm: .* know any executor named nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(start, cluster, gpus, said, why):
    with pytest.raises(LauncherError, match=why):
        start(gpus, [LARGE], **said)


@pytest.mark.parametrize(("module", "launcher"), [("ray", "ray"), ("submitit", "slurm")])
def test_a_launcher_that_is_not_installed_is_named(start, monkeypatch, module, launcher):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LauncherError, match=rf"--launcher {launcher}.*pip install 'lit-hidden\[{launcher}\]'"):
        start(0, [SMALL], launcher=launcher)


def test_gpus_are_counted_as_cuda_would_see_them(monkeypatch, tmp_path):
    for visible, number in (("1, 3", 2), ("-1", 0), ("", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.gpus() == number
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: H100\n  MIG 1g\nGPU 1: H100'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    for path, number in ((f"{tmp_path}:{os.environ['PATH']}", 2), ("", 0)):
        monkeypatch.setenv("PATH", path)
        assert devices.gpus() == number


def test_on_cpu_there_are_as_many_workers_as_have_a_core_and_memory(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 4)
    for megabytes, workers in ((100, 1), (4_500, 2), (64_000, 4)):
        text = f"MemTotal: 99999999 kB\nMemAvailable:   {1024 * megabytes} kB\n"
        monkeypatch.setattr(Path, "read_text", lambda path, text=text: text)
        assert devices.fitting() == workers


def test_the_makefile_hands_on_what_it_is_told():
    """`DATA=imagenet100 DATA_DIR=/datasets make reproduce-fig8 DEVICES=8`, word by word; nothing is run."""

    def made(**variables: str) -> list[str]:
        # Without the variables of a make around the tests.
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        command = ["make", "-n", "VENV=/nowhere", "-C", str(Path(__file__).parents[2]), "reproduce-fig8"]
        done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
        return next(line for line in done.stdout.splitlines() if " reproduce " in line).split()

    said = "/nowhere/bin/lit-hidden reproduce fig8 --preset paper --out results"
    chosen = made(DATA="imagenet100", DATA_DIR="/datasets", DEVICES="8", MINUTES="230")
    assert chosen == [*said.split(), "--data", "imagenet100", "--devices", "8", "--minutes", "230"]
    assert made()[3:] == ["--preset", "quick", "--out", "results"]
