"""A run whose steps are taken many at once, as on a GPU: its result, its checkpoints, what is not trained so."""

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import TINY, counted, stopped, without_time

from lit_hidden.classifier import LitClassifier
from lit_hidden.code import spec
from lit_hidden.engine.checkpoints import unusable
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import CHECKPOINT, Recorder, together, train
from lit_hidden.run import Run

HIDDEN = Run(density=0.4, epochs=3, weight_decay=0.05, **TINY)  # 3 batches an epoch: a block of 2 and one of 1
RUNS = {
    "hidden": HIDDEN,
    # Weights that autocast converts: those of each step, not those of the block's first.
    "dense, Adam, bfloat16": Run(method="dense", optimizer="adam", epochs=2, precision="bf16-mixed", **TINY),
    "hidden, held out, bfloat16": replace(HIDDEN, precision="bf16-mixed", held_out=60, train_images=240, epochs=2),
}
Trained = Callable[[str, int], tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Give the folder and the result of a run in one go, with so many steps at once."""

    @cache
    def once(kind: str, at_once: int) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("trained")
        return folder, counted(train(RUNS[kind], folder, at_once=at_once))

    return once


@pytest.mark.parametrize("kind", RUNS)
def test_the_result_is_that_of_a_run_trained_step_by_step(kind: str, trained: Trained) -> None:
    folders, results = zip(trained(kind, 0), trained(kind, 2), strict=True)
    expected, ours = results
    # The set is evaluated in other batches, and means are added up in another order.
    close = ("accuracy", "loss", "top5", "train_accuracy")
    assert {k: v for k, v in ours.items() if k not in close} == {k: v for k, v in expected.items() if k not in close}
    assert [ours[k] for k in close] == pytest.approx([expected[k] for k in close], abs=2e-5)
    curves = [[[float(v or "nan") for v in row.values()] for row in without_time(folder)] for folder in folders]
    assert len(curves[0]) == RUNS[kind].epochs + 1
    np.testing.assert_allclose(*curves, atol=2e-5, rtol=0)
    states = [torch.load(folder / CHECKPOINT, weights_only=True) for folder in folders]
    assert states[0]["global_step"] == states[1]["global_step"] == expected["steps"] > RUNS[kind].epochs
    nets = [{k: v for k, v in state["state_dict"].items() if k.startswith("net.")} for state in states]
    assert nets[0].keys() == nets[1].keys()
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


@pytest.mark.parametrize("told", [False, True], ids=["killed", "SIGTERM in the next epoch"])
def test_a_run_stopped_between_two_checkpoints_ends_as_one_never_stopped(
    told: bool, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Store(tmp_path).folder(HIDDEN)
    folder.mkdir()
    real, block = Recorder.on_train_epoch_end, LitClassifier._train

    def end(self: Any, trainer: Any, module: Any) -> None:
        self.pause = 1e9 if trainer.current_epoch else 0.0  # the first epoch has a checkpoint, the second none
        real(self, trainer, module)
        if trainer.current_epoch == 1 and not told:
            raise KeyboardInterrupt

    def step(self: Any, part: Any) -> Any:
        if told and self.current_epoch == 2:
            signal.raise_signal(signal.SIGTERM)
        return block(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_epoch_end", end)
        patch.setattr(LitClassifier, "_train", step)
        handlers = [signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(HIDDEN, folder, at_once=2)
    assert [signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)] == handlers
    done = 2 if told else 1
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    assert state["global_step"] == (8 if told else 3), "after a block of 2"
    assert [row["epoch"] for row in state["callbacks"]["Recorder"]["rows"]] == list(range(done + 1))
    assert Store(tmp_path).progress(HIDDEN) == done
    assert unusable(HIDDEN, folder) is None
    whole, result = trained("hidden", 2)
    assert counted(train(HIDDEN, folder, at_once=2)) == result
    assert without_time(folder) == without_time(whole)


@pytest.mark.parametrize("kind", ["hidden", "dense, Adam, bfloat16"])
def test_a_checkpoint_of_a_gpu_is_gone_on_with_on_a_cpu(kind: str, trained: Trained, tmp_path: Path) -> None:
    folder = stopped(RUNS[kind], Store(tmp_path))
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    (group,) = state["optimizer_states"][0]["param_groups"]
    group |= {"lr": torch.tensor(group["lr"], dtype=torch.float64), "fused": True}
    group |= {"capturable": True} if "Adam" in kind else {}
    torch.save(state, folder / CHECKPOINT)
    assert counted(train(RUNS[kind], folder)) == trained(kind, 0)[1]


def test_what_is_taken_at_once(tmp_path: Path) -> None:
    assert all(together(run) for run in RUNS.values())
    others = [
        replace(HIDDEN, callbacks=(spec("trace.Trace", updates=3),)),
        replace(HIDDEN, method="supermask"),  # draws its masks
        replace(HIDDEN, method="random"),
        replace(HIDDEN, precision="16-mixed"),  # whose scaler is Lightning's
        replace(HIDDEN, data="imagenette", net="resnet18", width=1.0, train_images=None),
        replace(HIDDEN, net="timm:resnet10t", width=1.0),
    ]
    assert not any(map(together, others))
