"""Two processes on CPU: the same masks and scores on both ranks, and the metrics of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import json, sys, torch
import lightning.pytorch as L
from lit_hidden.data import DigitsData
from lit_hidden.edge_popup import maskers
from lit_hidden.modules import LitSubnetwork
from lit_hidden.subnetwork import masks

devices, out = int(sys.argv[1]), sys.argv[2]
module = LitSubnetwork("conv2", width=0.1, in_channels=1, density=0.5)
start = [mask.sum().item() for mask in masks(module.net).values()]
trainer = L.Trainer(
    max_epochs=2, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
)
trainer.fit(module, DigitsData(batch_size=64, train_images=320))
torch.save(
    {
        "masks": masks(module.net),
        "scores": {name: masker.scores.detach() for name, masker in maskers(module.net).items()},
        "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
    },
    f"{out}.{trainer.global_rank}",
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import torch

    work = tmp_path_factory.mktemp("ddp")
    (work / "train.py").write_text(CODE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    # Two at once: each process mostly waits for its imports.
    out = [work / f"out{devices}" for devices in (1, 2)]
    runs = [
        subprocess.Popen(
            [sys.executable, str(work / "train.py"), str(devices), str(path)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=settings,
        )
        for devices, path in zip((1, 2), out, strict=True)
    ]
    for run in runs:
        _, said = run.communicate(timeout=200)
        assert run.returncode == 0, said
    files = [f"{out[0]}.0", f"{out[1]}.0", f"{out[1]}.1"]
    return [torch.load(file, weights_only=True) for file in files]


def test_both_ranks_hold_the_same_scores_and_masks_bit_for_bit(trained):
    _, first, second = trained
    for name, scores in first["scores"].items():
        assert scores.equal(second["scores"][name])
        assert first["masks"][name].equal(second["masks"][name])


def test_both_ranks_report_the_same_metrics(trained):
    _, first, second = trained
    assert first["metrics"] == second["metrics"], json.dumps([first["metrics"], second["metrics"]])


def test_two_processes_learn_what_one_learns(trained):
    alone, first, _ = trained
    # Sums over a batch are taken in another order, so equal to rounding and not bit for bit.
    for name, mask in alone["masks"].items():
        agree = (mask == first["masks"][name]).float().mean()
        assert agree > 0.99, f"{name}: {agree:.3f} of the mask agrees"
    for name, value in alone["metrics"].items():
        assert first["metrics"][name] == pytest.approx(value, abs=0.02), name
