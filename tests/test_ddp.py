"""Two processes of a plain Trainer on CPU: the same masks and scores on both ranks, and the metrics of one process."""

import os
import sys
from pathlib import Path

import pytest
import torch

CODE = """
import sys, torch
import lightning.pytorch as L
from lit_hidden.data import DigitsData
from lit_hidden.edge_popup import maskers
from lit_hidden.modules import LitSubnetwork
from lit_hidden.subnetwork import masks

class Leave(L.Callback):
    def on_fit_end(self, trainer, pl_module):
        torch.save(
            {
                "masks": masks(pl_module.net),
                "scores": {name: masker.scores.detach() for name, masker in maskers(pl_module.net).items()},
                "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
            },
            f"{sys.argv[1]}/{trainer.world_size}.{trainer.global_rank}",
        )

for devices in (1, 2):
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[Leave()],
    )
    module = LitSubnetwork("conv2", width=0.1, in_channels=1, density=0.5)
    trainer.fit(module, DigitsData(batch_size=64, train_images=321))  # the last batch has 1 image, which counts once
"""


def test_two_processes_learn_what_one_learns_and_the_same_on_both(forked, tmp_path):
    settings = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    process = forked([sys.executable, "-c", CODE, str(tmp_path)], stdout=-1, stderr=-1, text=True, env=settings)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    alone, first, second = (torch.load(tmp_path / file, weights_only=True) for file in ("1.0", "2.0", "2.1"))
    for name, scores in first["scores"].items():
        assert scores.equal(second["scores"][name])
        assert first["masks"][name].equal(second["masks"][name])
    assert first["metrics"] == second["metrics"]
    # Sums over a batch are taken in another order, so equal to rounding and not bit for bit.
    for name, mask in alone["masks"].items():
        agree = (mask == first["masks"][name]).float().mean()
        assert agree > 0.99, f"{name}: {agree:.3f} of the mask agrees"
    for name, value in alone["metrics"].items():
        assert first["metrics"][name] == pytest.approx(value, abs=1e-4), name
