"""Training supermasks: the masks sampled, whether stopped or not, and what is reported of them."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hidden.edge_popup import maskers
from lit_hidden.engine.train import Recorder, train
from lit_hidden.run import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
TINY, without_time = made["TINY"], made["without_time"]


def test_a_supermask_stopped_and_resumed_samples_the_masks_it_would_have_sampled(tmp_path, monkeypatch):
    run = Run(method="supermask", density=0.5, epochs=3, **TINY)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(run, tmp_path / "a")

    real, calls = Recorder.on_train_epoch_end, []

    def stop_after_the_first_epoch(self, trainer, module):
        real(self, trainer, module)
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("stopped here")

    monkeypatch.setattr(Recorder, "on_train_epoch_end", stop_after_the_first_epoch)
    with pytest.raises(RuntimeError, match="stopped here"):
        train(run, tmp_path / "b")
    resumed = train(run, tmp_path / "b")
    del whole["provenance"], resumed["provenance"]
    assert resumed == whole
    assert without_time(tmp_path / "a") == without_time(tmp_path / "b")


def test_a_supermask_reports_what_it_keeps_sampled_and_rounded(tmp_path, monkeypatch):
    # A rate at which some probabilities cross one half within two epochs.
    run = Run(method="supermask", density=0.4, epochs=2, lr=2000.0, **TINY)
    seen = {}

    def keep(net, path):
        seen["scores"] = [masker.scores.detach().clone() for masker in maskers(net).values()]

    monkeypatch.setattr("lit_hidden.engine.train.save_subnetwork", keep)
    result = train(run, tmp_path)
    p = torch.cat([1 / (1 + torch.exp(-scores.double().flatten())) for scores in seen["scores"]])
    assert result["density_sampled"] == pytest.approx(p.mean().item(), abs=1e-6)
    assert result["density_rounded"] == pytest.approx((p >= 0.5).double().mean().item(), abs=1e-6)
    assert 0 < result["density_rounded"] < 1
    assert result["density_rounded"] != result["density_sampled"]
    assert sum(layer["kept_min"] for layer in result["layers"]) == (p >= 0.5).sum()
    assert 0 <= result["accuracy_rounded"] <= 100
