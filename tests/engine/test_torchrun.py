"""Two real processes on CPU train one run: as one process does, stopped by SIGTERM and resumed bit by bit, killed.

Of two agents of torchrun, as on two machines, the processes train each run of a grid together.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import counted, job, until, without_time

from lit_hidden.code import spec
from lit_hidden.engine.checkpoints import RanksDifferError, SameNetwork, bits
from lit_hidden.engine.devices import LauncherError
from lit_hidden.engine.pool import do
from lit_hidden.engine.ranks import Ranks, placed
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import alone
from lit_hidden.modules import LitDense, LitSubnetwork
from lit_hidden.run import Run

ROOT = Path(__file__).parents[2]

# 301 images in batches of 60: of the last there is 1, which one rank has and the other only repeats.
TINY = {"net": "conv2", "width": 0.1, "data": "digits", "train_images": 301, "batch_size": 60}
POPUP = Run(density=0.5, epochs=2, **TINY)
SAMPLED = Run(density=0.5, epochs=12, method="supermask", **TINY)
RANDOM = Run(density=0.5, method="random", **TINY)  # nothing learns: one process alone


class Torchrun:
    """Two processes that train a run, started as the local pool starts them."""

    def __init__(self, start: Callable[..., Any], run: Run, runs: Path) -> None:
        self.folder, order = Store(runs).folder(run), json.dumps(job(run, runs, devices=2))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        command += ["-m", "lit_hidden.engine.torchrun", order]
        self.process = start(command, stderr=subprocess.DEVNULL, env=environment)

    def train(self) -> Path:
        """Wait for the end, which must be a good one."""
        assert self.process.wait(120) == 0, (self.folder / "log.txt").read_text()
        assert (self.folder / "result.json").exists()
        return self.folder

    def until(self, epochs: int) -> None:
        """Wait until so many epochs are trained."""
        until(lambda: Store(self.folder.parent).progress(SAMPLED) >= epochs)

    @property
    def ranks(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(int(child) for path in children for child in path.read_text().split())


EXPERIMENT = f"""'''Three runs.'''
from lit_hidden.run import Run
from lit_hidden.judge import Claim

def runs(preset):
    return [Run.from_json(text) for text in {[run.to_json() for run in (RANDOM, POPUP, SAMPLED)]!r}]

CLAIMS = [Claim("they learn", lambda results: results.mean() - 10)]

def draw(results, figure):
    figure.subplots().plot(results.values())
"""


@pytest.fixture(scope="module")
def trained(forked, tmp_path_factory):
    """What the two agents printed, and the folder they worked in."""
    work = tmp_path_factory.mktemp("lockstep")
    (work / "experiments").mkdir()
    (work / "experiments" / "fig0.py").write_text(EXPERIMENT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test",
        "--local-addr", "127.0.0.1",
        "-m", "lit_hidden", "reproduce", "fig0", "--preset", "smoke", "--runs-dir", "runs",
    ]  # fmt: skip
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUM_NODES": "2"}
    settings |= {"WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    agents = [
        forked(command, cwd=work, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=200) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    return work, [out for out, _ in said]


@pytest.fixture(scope="module")
def seen(forked, trained, tmp_path_factory):
    """What runs of two processes left, and of one."""
    work, (grid, _) = tmp_path_factory.mktemp("torchrun"), trained
    found: dict[str, Any] = {
        "together": Store(grid / "runs").folder(POPUP),
        "whole": Store(grid / "runs").folder(SAMPLED),
    }
    for name, run in (("one", POPUP), ("sampled", replace(SAMPLED, epochs=1))):
        assert do(job(run, work / name)) == 0
        found[name] = Store(work / name).folder(run)
    killed = Torchrun(forked, SAMPLED, work / "stopped")
    killed.until(2)  # the checkpoint of the first is there
    os.kill(killed.ranks[1], signal.SIGKILL)
    found["killed_status"] = killed.process.wait(120)
    found["left"] = sorted(path.name for path in killed.folder.iterdir())
    stopped = Torchrun(forked, SAMPLED, work / "stopped")
    stopped.until(4)
    stopped.process.terminate()
    found["status"] = stopped.process.wait(60)
    found["checkpoint"] = torch.load(stopped.folder / "last.ckpt", weights_only=True)
    found["stopped"] = Torchrun(forked, SAMPLED, work / "stopped").train()
    return SimpleNamespace(**found)


def test_two_processes_learn_what_one_learns(seen):
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (seen.one, seen.together))
    assert two["provenance"]["device"] == "2 x CPU, 1 thread(s)"
    assert one["weights_before"] == two["weights_before"] == two["weights_after"]
    assert two["layers"] == one["layers"]
    kept = [load_file(folder / "subnetwork.safetensors") for folder in (seen.one, seen.together)]
    for name, mask in kept[0].items():  # 8 weights a byte
        assert (mask == kept[1][name]).float().mean() > 0.98, name


def test_metrics_and_sampled_masks_of_two_processes_are_those_of_one(seen):
    """The odd image of the last batch counts once. Samples are alike until rounding changes a mask."""
    alike = [without_time(folder) for folder in (seen.one, seen.together)]
    sampled = [without_time(folder)[:1] for folder in (seen.sampled, seen.whole)]
    for one, two in [*zip(*alike, strict=True), *zip(*sampled, strict=True)]:
        for name, value in one.items():
            assert two[name] == value or float(two[name]) == pytest.approx(float(value), rel=1e-3), name
    losses = [float(without_time(folder)[1]["train_loss"]) for folder in (seen.sampled, seen.whole)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_killed_follower_ends_all_and_sigterm_writes_a_checkpoint_within_an_epoch(seen):
    assert seen.killed_status == 1
    assert "failure.json" not in seen.left, "it has died, and not failed"
    assert "last.ckpt" in seen.left
    assert seen.status != 0
    assert seen.checkpoint["global_step"] % 6 != 0
    assert seen.checkpoint["global_step"] % 10 == 0


def test_what_was_killed_and_stopped_ends_bit_equal_to_what_was_not(seen):
    assert without_time(seen.stopped) == without_time(seen.whole)
    ours, theirs = (Store(folder.parent).result(SAMPLED) for folder in (seen.stopped, seen.whole))
    assert counted(ours) == counted(theirs)
    files = [(folder / "subnetwork.safetensors").read_bytes() for folder in (seen.stopped, seen.whole)]
    assert files[0] == files[1]


def test_each_run_that_learns_is_trained_by_both_machines_and_one_of_them_judges_and_draws(trained):
    work, said = trained
    for run, steps, device in ((POPUP, 12, "2 x CPU"), (SAMPLED, 72, "2 x CPU"), (RANDOM, 6, "CPU")):
        result = Store(work / "runs").result(run)
        assert result["provenance"]["device"] == f"{device}, 1 thread(s)"
        assert result["steps"] == steps
    told, silent = sorted(said, key=lambda out: "3 runs: 0 done, 3 to train" not in out)
    assert "3/3" in told
    assert "runs" not in silent
    assert {"verdicts.json", "figure.svg"} <= {path.name for path in (work / "results" / "fig0" / "smoke").iterdir()}


# --- one network -------------------------------------------------------------------------------------------


def compare(*modules: Any) -> None:
    """Compare ranks that hold these modules, as if after step 100, as the last of them sees it."""
    gathered: list[torch.Tensor] = []

    def all_gather(mine: torch.Tensor) -> torch.Tensor:
        gathered.append(mine)
        return torch.stack(gathered)

    trainer = SimpleNamespace(global_step=100, strategy=SimpleNamespace(all_gather=all_gather))
    for module in modules:
        SameNetwork().on_train_batch_end(trainer, module)


@pytest.mark.parametrize("kind", [LitSubnetwork, LitDense])
def test_equal_ranks_pass_and_a_layer_that_differs_in_a_bit_is_named(kind):
    first, second = (kind("conv2", width=0.1, seed=3) for _ in range(2))
    compare(first, second)
    name, learned = [(name, p) for name, p in second.named_parameters() if p.requires_grad][2]
    learned.data.view(torch.int32).view(-1)[5] += 1
    with pytest.raises(RanksDifferError, match=f"step 100 the ranks differ in '{name}'"):
        compare(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_bits_are_summed_by_their_place(dtype):
    tensor = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    one = int.from_bytes(torch.ones(1, dtype=dtype).view(torch.uint8).numpy().tobytes(), "little")
    assert bits(tensor).item() == one * (2 + 3 + 4)
    assert bits(tensor.t()).item() == bits(tensor.t().contiguous()).item()


# --- who trains what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "by_itself"),
    [
        (POPUP, False),
        (Run(density=0.5, method="random"), True),
        (Run(density=0.5, callbacks=(spec("trace.Trace", updates=10),)), True),
        (Run(), False),
    ],
)
def test_a_run_without_learning_or_looked_into_is_one_devices(run, by_itself):
    assert alone(run) is by_itself


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ("SLURM_PROCID=0 SLURM_NTASKS=8", None),  # a batch script, not started by srun
        ("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1", None),
        ("SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=1 SLURM_STEP_TASKS_PER_NODE=4(x2)", Ranks(5, 8, 1, 4)),
        ("TORCHELASTIC_RUN_ID=x RANK=9 WORLD_SIZE=16 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8", Ranks(9, 16, 1, 8)),
    ],
)
def test_torchrun_and_slurm_say_where_a_process_stands(variables, expected, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, _, value in (variable.partition("=") for variable in variables.split()):
        monkeypatch.setenv(name, value)
    assert placed() == expected
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4,3")
    if expected and "SLURM" in variables:
        with pytest.raises(LauncherError, match="tasks per node are 4,3; every machine must have the same number"):
            placed()
