"""`NUM_NODES=2` under torchrun: two agents, as on two machines, whose processes train each run of a grid together.

One of them is forked, and so is its process, which saves 10 seconds.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run

RUNS = [
    Run(net="conv2", width=0.1, data="digits", train_images=301, batch_size=60, epochs=1, density=0.5, seed=seed)
    for seed in range(2)
]
EXPERIMENT = f"""'''Two runs.'''
from dataclasses import replace
from lit_hidden.experiment import Run
from lit_hidden.judge import Claim

def runs(preset):
    return [Run.from_json({RUNS[0].to_json()!r}), Run.from_json({RUNS[1].to_json()!r})]

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
    settings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "NUM_NODES": "2"}
    settings |= {"WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    agents = [
        start(command, cwd=work, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for start in (subprocess.Popen, forked)
    ]
    said = [agent.communicate(timeout=200) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    return work, [out for out, _ in said]


def test_each_run_is_trained_by_the_processes_of_both_machines(trained):
    work, _ = trained
    for run in RUNS:
        result = Store(work / "runs").result(run)
        assert result is not None
        assert result["provenance"]["device"] == "2 x CPU, 1 thread(s)"
        assert result["steps"] == 6


def test_one_of_them_judges_draws_and_tells(trained):
    work, said = trained
    told, silent = sorted(said, key=lambda out: "2 runs: 0 done, 2 to train" not in out)
    assert "2/2" in told
    assert "supported" in told or "undecided" in told
    assert "runs" not in silent
    judged = json.loads((work / "results" / "fig0" / "smoke" / "verdicts.json").read_text())
    assert [claim["sentence"] for claim in judged["claims"]] == ["they learn"]
    assert (work / "results" / "fig0" / "smoke" / "figure.svg").exists()
