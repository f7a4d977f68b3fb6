"""Training tickets: they begin as their parents ended, and stopping one changes nothing."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest

from lit_hidden.code import spec
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.engine.train import SUBNETWORK, Recorder, train
from lit_hidden.recipes import FINDERS
from lit_hidden.results import Results
from lit_hidden.run import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
TINY, without_time, evaluate = made["TINY"], made["without_time"], made["evaluate"]
TICKET = Run(density=0.4, method="ticket", epochs=3, **TINY)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """A folder of runs with the parents that TICKET may have, and their results."""
    folder, results = tmp_path_factory.mktemp("runs"), {}
    for finder in FINDERS:
        parent = replace(TICKET, found_by=finder).parent
        (folder / parent.hash).mkdir()
        results[finder] = train(parent, folder / parent.hash)
    return folder, results


def train_in(runs_dir, run, name=""):
    """Train a run where it belongs, and again under another name beside its parent."""
    folder = runs_dir / (name or run.hash)
    folder.mkdir(exist_ok=True)
    return folder, train(run, folder)


@pytest.mark.parametrize("finder", FINDERS)
def test_before_its_weights_are_trained_a_ticket_is_as_good_as_its_parent(finder, runs_dir):
    runs, parents = runs_dir
    folder, result = train_in(runs, replace(TICKET, found_by=finder))
    metric = "accuracy_rounded" if finder == "supermask" else "accuracy"
    assert result["accuracy_before"] == parents[finder][metric]
    _, values = Results([(TICKET, result, folder)]).curve("test_top1")
    assert (values[0, 0], values[0, -1]) == (result["accuracy_before"], result["accuracy"])
    assert result["weights_before"] == parents[finder]["weights_after"] != result["weights_after"]
    kept = {layer["name"]: layer["kept_min"] for layer in parents[finder]["layers"]}
    assert {layer["name"]: layer["kept_max"] for layer in result["layers"]} == kept
    assert not (folder / SUBNETWORK).exists()


def test_with_running_statistics_too(tmp_path):
    resnet = {"net": "cifar_resnet18", "width": 0.05, "data": "digits", "train_images": 300, "epochs": 1}
    ticket = Run(density=0.4, method="ticket", held_out=100, **resnet)
    _, found = train_in(tmp_path, ticket.parent)
    _, result = train_in(tmp_path, ticket)
    assert result["accuracy_before"] == found["accuracy"]


@pytest.mark.parametrize(("held_out", "passes"), [(0, 0), (100, 2)])
def test_accuracy_before_is_the_test_sets_which_is_read_again_only_if_no_epoch_reads_it(
    held_out, passes, tmp_path, monkeypatch
):
    ticket, tested, real = replace(TICKET, epochs=1, held_out=held_out), [], L.Trainer.test
    train_in(tmp_path, ticket.parent)
    data = make_data(ticket, "data")
    (measured,) = evaluate(make_module(ticket, data, tmp_path), data)
    monkeypatch.setattr(L.Trainer, "test", lambda *args, **named: tested.append(args) or real(*args, **named))
    _, result = train_in(tmp_path, ticket)
    assert result["accuracy_before"] == round(100 * measured["test/top1"], 5)
    assert len(tested) == passes


def test_a_ticket_stopped_and_resumed_ends_bit_equal_to_one_never_stopped(runs_dir, monkeypatch):
    runs, _ = runs_dir
    folder, whole = train_in(runs, TICKET, "whole")
    real = Recorder.on_train_epoch_end

    def stop_after_the_second_epoch(self, trainer, module):
        real(self, trainer, module)
        if len(self.rows) == 3:
            raise RuntimeError("stopped here")

    monkeypatch.setattr(Recorder, "on_train_epoch_end", stop_after_the_second_epoch)
    with pytest.raises(RuntimeError, match="stopped here"):
        train_in(runs, TICKET, "stopped")
    monkeypatch.setattr(Recorder, "on_train_epoch_end", real)
    again, resumed = train_in(runs, TICKET, "stopped")
    del whole["provenance"], resumed["provenance"]
    assert resumed == whole
    assert without_time(again) == without_time(folder)


def test_a_ticket_leaves_the_last_layer_before_and_after(runs_dir):
    folder, _ = train_in(runs_dir[0], replace(TICKET, callbacks=(spec("trace.Trace", updates=1),), weight_decay=0.0))
    with np.load(folder / "trace.npz") as trace:
        kept = trace["chosen_before"][0]
        np.testing.assert_array_equal(trace["weight"][~kept], trace["trained"][~kept])
        assert (trace["weight"][kept] != trace["trained"][kept]).any()


def test_a_ticket_without_its_parent_says_what_to_train(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        train(TICKET, tmp_path)
    begins = (
        f"{TICKET.name} begins with the net of {TICKET.parent.name}, and {tmp_path.parent / TICKET.parent.hash} has"
    )
    assert str(error.value).startswith(f"{begins} no {SUBNETWORK} or scores.safetensors; ")
