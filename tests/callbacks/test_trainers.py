"""The callbacks of runs under a plain `L.Trainer` and under `lit-hidden fit`, which know nothing of runs."""

import csv
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lit_hidden import Run, RunCallback, spec
from lit_hidden.callbacks.dale import Dale
from lit_hidden.callbacks.labels import RandomLabels
from lit_hidden.callbacks.lesion import Lesion
from lit_hidden.callbacks.rdm import RDM
from lit_hidden.cli import main
from lit_hidden.data import DigitsData
from lit_hidden.edge_popup import weight_layers
from lit_hidden.engine.network import network
from lit_hidden.engine.train import train
from lit_hidden.modules import LitDense, LitSubnetwork

TINY: dict[str, Any] = {"net": "conv2", "width": 0.05}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders and logging


class Seen(RunCallback):
    """Note what is called, with what."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def on_run_start(self, trainer, module, data, parent):
        self.calls.append(("start", type(module), type(data), parent, trainer.global_step, self.run_seed))

    def on_train_start(self, *_):
        self.calls.append("train")

    def on_run_end(self, trainer, module, folder):
        self.calls.append(("end", folder, trainer.global_step))
        np.savez(folder / "seen.npz", at=trainer.global_step)
        return {"steps_seen": trainer.global_step, "told": "no number"}


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def fitted(
    folder: Path, *callbacks: L.Callback, epochs: int = 2, seed: int = 0, density: float | None = 0.5, **more: Any
) -> Any:
    kind = LitDense if density is None else partial(LitSubnetwork, density=density)
    module = kind(**TINY, in_channels=1, seed=seed)
    trainer = L.Trainer(max_epochs=epochs, logger=CSVLogger(folder), callbacks=[*callbacks], **QUIET)
    trainer.fit(module, DigitsData(train_images=300, held_out=0), weights_only=True, **more)  # as runs: on the test set
    return module


class Watch(L.Callback):
    """Keep the weights that the net multiplies with, before and after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.seen.append({n: getattr(*place).detach().clone() for n, place in weight_layers(pl_module.net).items()})

    on_train_batch_end = on_train_batch_start


@pytest.mark.parametrize("density", [0.5, 0.3, None])
@pytest.mark.parametrize("of", ["hemisphere", "edges"])
def test_a_lesion_is_exact_before_and_after_every_step(tmp_path, of, density):
    """Channels of 3, 3; then 3 x 16 x 16 inputs to linear layers of 12, 12 and 10 units."""
    watch, lesion = Watch(), Lesion(epoch=1, of=of)
    module = fitted(tmp_path, lesion, watch, density=density)
    assert len(watch.seen) == 12
    whole, first, *_, last = watch.seen[5], *watch.seen[6:]
    for name, weight in first.items():
        if of == "hemisphere":
            units = dict(zip(first, (2, 2, 6, 6, 0), strict=True))
            inputs = dict(zip(first, (0, 2, 2 * 256, 6, 6), strict=True))
            dead = torch.zeros(weight.shape, dtype=torch.bool)
            dead[: units[name]] = True
            dead[:, : inputs[name]] = True
        else:
            dead = lesion.dead[name]
            assert dead.sum() == round(dead.numel() / 2)
        assert whole[name][dead].any()
        living = int((~dead).sum())
        for at in watch.seen[6:]:
            assert not at[name][dead].any()
            assert at[name].count_nonzero() == (living if density is None else living - int((1 - density) * living))
    assert density == 0.3 or any(not first[name].equal(last[name]) for name in first), "the rest goes on learning"
    assert lesion.on_run_end(None, module, None)["revived"] == 0


@pytest.mark.parametrize("options", [{"inhibitory": 0.4}, {"inhibitory": 0.4, "balanced": True}, {"inhibitory": 0}])
def test_each_unit_has_one_sign_before_and_after_every_step(tmp_path, options):
    watch, dale = Watch(), Dale(**options)
    fitted(tmp_path, watch, dale, epochs=1)
    channels = {"2": 3, "6": 3, "8": 12, "10": 12}
    share = options["inhibitory"]
    assert len(watch.seen) == 6
    for name, count in channels.items():
        rows = [at[name].transpose(0, 1).reshape(count, -1) for at in watch.seen]  # positions of a channel together
        inhibit = torch.stack([(row < 0).any(1) for row in rows])
        assert not ((torch.stack([(row > 0).any(1) for row in rows])) & inhibit).any()
        assert inhibit.equal(inhibit[:1].expand_as(inhibit))
        assert inhibit[0].sum() == round(share * count)
    assert ((watch.seen[0]["0"] > 0).any(), (watch.seen[0]["0"] < 0).any()) == (True, True)


def logged(folder: Path) -> dict[str, str]:
    """The last value of each column."""
    with next(folder.rglob("metrics.csv")).open(newline="") as file:
        return {name: value for row in csv.DictReader(file) for name, value in row.items() if value}


def test_a_run_starts_before_training_ends_after_it_and_starts_again_on_a_resume(tmp_path):
    seen, resumed = Seen(), Seen()
    fitted(tmp_path, seen, epochs=1, seed=7)
    folder = tmp_path / "lightning_logs" / "version_0"
    assert seen.calls == [("start", LitSubnetwork, DigitsData, None, 0, 7), "train", ("end", folder, 3)]
    assert logged(tmp_path)["steps_seen"] == "3"
    assert "told" not in logged(tmp_path)
    with np.load(folder / "seen.npz") as found:
        assert found["at"] == 3
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    fitted(tmp_path / "again", resumed, ckpt_path=checkpoint)  # starts before its checkpoint loads: at step 0
    folder = tmp_path / "again" / "lightning_logs" / "version_0"
    assert resumed.calls == [("start", LitSubnetwork, DigitsData, None, 0, 0), "train", ("end", folder, 6)]


def test_a_plain_trainer_trains_what_the_engine_trains(tmp_path):
    ideas = spec("labels.RandomLabels"), spec("lesion.Lesion", epoch=1), spec("rdm.RDM", images=20)
    run = Run(density=0.5, data="digits", train_images=300, epochs=2, callbacks=ideas, **TINY)
    module = fitted(tmp_path, RandomLabels(), Lesion(epoch=1), RDM(images=20))
    folder = tmp_path / run.hash
    folder.mkdir()
    result = train(run, folder, keep=True)
    state = network(run, folder).state_dict()
    for name, tensor in module.net.state_dict().items():
        assert tensor.equal(state[name]), name
    numbers = logged(tmp_path / "lightning_logs")
    for name in ("wrong_labels", "cut", "rdm_images"):
        assert float(numbers[name]) == result[name]
    assert float(numbers["val_top1"]) == pytest.approx(result["accuracy"], abs=1e-4)
    with np.load(folder / "rdm.npz") as ours, np.load(next(tmp_path.rglob("version_0/rdm.npz"))) as theirs:
        assert ours.files == theirs.files
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_callbacks_paste_from_a_run_json_into_the_yaml_of_fit(tmp_path, monkeypatch):
    run = Run(density=0.5, callbacks=(spec("labels.RandomLabels", fraction=0.5), spec("rdm.RDM", images=20)))
    config = {
        "model": {"class_path": "LitSubnetwork", "init_args": TINY},
        "data": {"class_path": "DigitsData", "init_args": {"train_images": 300}},
        "trainer": {**QUIET, "max_epochs": 1, "callbacks": json.loads(run.to_json())["callbacks"]},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lit-hidden", "fit", "--config", "a.yaml"])
    main()
    numbers = logged(tmp_path)
    assert (0 < float(numbers["wrong_labels"]) < 200, numbers["rdm_images"]) == (True, "20")
    assert (tmp_path / "lightning_logs" / "version_0" / "rdm.npz").exists()
