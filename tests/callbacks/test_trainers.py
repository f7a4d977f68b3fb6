"""The callbacks of runs under a plain `L.Trainer` and under `lit-hidden fit`, which know nothing of runs."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from lit_hidden import Run, RunCallback, spec
from lit_hidden.callbacks.labels import RandomLabels
from lit_hidden.callbacks.lesion import Lesion
from lit_hidden.callbacks.rdm import RDM
from lit_hidden.cli import main
from lit_hidden.data import DigitsData
from lit_hidden.engine.network import network
from lit_hidden.engine.train import train
from lit_hidden.modules import LitSubnetwork

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


def fitted(folder: Path, *callbacks: L.Callback, epochs: int = 2, seed: int = 0, **more: Any) -> LitSubnetwork:
    module = LitSubnetwork(**TINY, in_channels=1, density=0.5, seed=seed)
    trainer = L.Trainer(max_epochs=epochs, logger=CSVLogger(folder), callbacks=[*callbacks], **QUIET)
    trainer.fit(module, DigitsData(train_images=300, held_out=0), weights_only=True, **more)  # as runs: on the test set
    return module


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
