"""Training a Run: what it writes, and that stopping it changes nothing."""

import signal
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import torch
import training
from pictures import plant, tree
from training import HIDDEN, TINY, counted, without_time

from lit_hidden import __version__
from lit_hidden.code import spec
from lit_hidden.data import DataError
from lit_hidden.edge_popup import EdgePopup, maskers
from lit_hidden.engine.checkpoints import StoppedError
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import in_tf32, provenance, train
from lit_hidden.engine.written import rows
from lit_hidden.modules import LitSubnetwork
from lit_hidden.nets import build, initialise
from lit_hidden.results import Results
from lit_hidden.run import Run
from lit_hidden.subnetwork import fingerprint, masks

undisturbed = training.undisturbed  # a fixture


def test_a_hidden_run_reports_what_its_claims_need(undisturbed):
    folder, result = undisturbed
    assert result["weights_before"] == result["weights_after"]
    assert [layer["name"] for layer in result["layers"]] == ["0", "2", "6", "8", "10"]
    for layer in result["layers"]:
        expected = layer["numel"] - int((1 - 0.4) * layer["numel"])
        assert (layer["kept_min"], layer["kept_max"]) == (expected, expected)
    assert result["edges"] == sum(layer["numel"] for layer in result["layers"])
    assert result["swapped"] == result["entered"] + result["reentered"] > 0
    assert result["steps"] == 4 * 3
    assert not {"density_sampled", "density_rounded", "accuracy_rounded", "accuracy_before"} & result.keys()
    assert sorted(p.name for p in folder.iterdir()) == [
        "last.ckpt", "metrics.csv", "run.json", "subnetwork.safetensors", "trace.npz"
    ]  # fmt: skip


def test_the_curve_starts_before_training_and_ends_at_the_reported_accuracy(undisturbed):
    folder, result = undisturbed
    steps, values = Results([(HIDDEN, result, folder)]).curve("test_top1")
    assert steps.tolist() == [0, 3, 6, 9, 12]
    assert values[0, -1] == result["accuracy"]
    rates = [float(row["lr"]) for row in without_time(folder)[1:]]
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * e / 4)) for e in range(4)])


def test_a_result_says_what_computed_it(undisturbed, monkeypatch):
    told = undisturbed[1]["provenance"]
    assert told["versions"]["lit_hidden"] == __version__
    assert told["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert f"torch=={metadata.version('torch')}" in told["installed"]
    assert told["started"] <= told["finished"]
    (row,) = rows(Results([(HIDDEN, undisturbed[1], undisturbed[0])]))
    assert (row["cpu"], row["tf32"]) == (told["cpu"], None)
    monkeypatch.setenv("LIT_HIDDEN_COMMIT", "0123456789ab")
    assert provenance("cpu", 2)["commit"] == "0123456789ab", "a copy without history is told it"


@pytest.mark.parametrize(
    ("override", "told"), [(None, ["convolutions", "products"]), ("0", [])], ids=["torch's", "forbidden"]
)
def test_what_computes_in_tf32_on_a_gpu_is_said(monkeypatch, override, told):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override or "")
    assert in_tf32("cuda") == told
    assert in_tf32("cpu") == []


def test_training_ends_with_the_epoch_in_which_the_loss_is_not_finite_and_does_not_go_on(tmp_path):
    run, store = Run(lr=1e9, epochs=4, **TINY), Store(tmp_path)
    with store.claim(run) as folder:
        result = train(run, folder)
        assert (result["diverged"], result["steps"]) == (1, 3)
        assert np.isnan(result["loss"])
        again = train(run, folder)  # from its checkpoint
        assert counted(again) == pytest.approx(counted(result), nan_ok=True)
        assert [row["epoch"] for row in without_time(folder)] == ["0", "1"]
        store.finish(run, again)
    assert store.damage(run) is None
    assert store.result(run)["diverged"] == 1


@pytest.mark.parametrize(
    ("told", "stops"), [(7, 8), (5, 7), (11, 12)], ids=["in the middle", "at the end of an epoch", "at the end of all"]
)
def test_sigterm_stops_after_the_step_and_the_run_goes_on_from_there(told, stops, undisturbed, tmp_path, monkeypatch):
    folder, result = undisturbed
    real, before = LitSubnetwork.training_step, signal.getsignal(signal.SIGTERM)

    def step(self: Any, *batch: Any) -> Any:
        if self.global_step == told:  # of 3 in an epoch
            signal.raise_signal(signal.SIGTERM)
        return real(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(LitSubnetwork, "training_step", step)
        with pytest.raises(StoppedError) as stopped:
            train(HIDDEN, tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == stops
    assert counted(train(HIDDEN, tmp_path)) == counted(result)
    assert without_time(tmp_path) == without_time(folder)
    assert (np.diff(Results([(HIDDEN, result, tmp_path)]).curve("seconds")[1]) >= 0).all(), "those before count"
    with np.load(tmp_path / "trace.npz") as a, np.load(folder / "trace.npz") as b:
        for name in b.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_run_trains_on_the_part_of_imagenet_that_it_says(tmp_path):
    plant(tmp_path / "imagenet", tree(["n01", "n02", "n03"], train=6, val=2))
    own = {"classes": "first-2", "images_per_class": 5, "image_size": 16, "batch_size": 4}
    run = Run(density=0.5, net="conv2", width=0.05, data="imagenet", epochs=1, **own)
    result = train(run, tmp_path, tmp_path)
    assert result["steps"] == 3  # 10 images of two classes, by 4
    assert [layer["numel"] for layer in result["layers"]][-1] == 12 * 2


def test_missing_data_end_a_run_before_anything_is_trained(tmp_path):
    with pytest.raises(DataError):
        train(Run(density=0.5, data="cifar10", epochs=1), tmp_path, data_dir=tmp_path / "nothing")
    assert [p.name for p in tmp_path.iterdir() if p.name != "nothing"] == ["run.json"]


def test_seeds_reach_weights_scores_and_data_each_alone():
    base = Run(density=0.5, epochs=1, **TINY)
    data = make_data(base, "data")

    def first_mask(run):
        return next(iter(masks(make_module(run, data).net).values()))

    def order(run):
        data = make_data(run, "data")
        data.setup("fit")
        return next(iter(data.train_dataloader()))[1].tolist()

    weights, mask, labels = fingerprint(make_module(base, data).net), first_mask(base), order(base)
    for field in ("weight_seed", "score_seed", "data_seed"):
        run = replace(base, **{field: 9})
        assert (fingerprint(make_module(run, data).net) != weights) == (field == "weight_seed")
        assert (not first_mask(run).equal(mask)) == (field == "score_seed")
        assert (order(run) != labels) == (field == "data_seed")


def test_every_field_of_a_run_reaches_what_trains_it(tmp_path):
    told = {"lr": 0.2, "momentum": 0.8, "weight_decay": 0.03, "schedule": "constant", "warmup_epochs": 2,
            "label_smoothing": 0.15}  # fmt: skip
    how = {"density": 0.3, "distribution": "kaiming_normal", "scaled": "authors", "weight_seed": 2, "score_seed": 3}
    read = {"train_images": 500, "held_out": 70, "augment": False, "batch_size": 33}
    run = Run(net="conv2", width=0.1, data="cifar10", data_seed=4, **told, **how, **read)
    data = make_data(run, tmp_path)
    assert {name: getattr(data, name) for name in read} == read
    assert (data.seed, data.root) == (4, tmp_path)
    lit = make_module(run, data)
    assert {name: getattr(lit.recipe, name) for name in told} == told
    assert {name: lit.net._lit_hidden.arguments[name] for name in how} == how
    assert lit.net[0].weight.shape == (6, 3, 3, 3)
    adam = Run(net="conv2", width=0.1, data="cifar10", optimizer="adam", weight_seed=9)
    assert make_data(adam, tmp_path).batch_size == 60
    dense = make_module(adam, data)
    assert (dense.optimizer, dense.recipe.lr) == ("adam", 2e-4)
    assert fingerprint(dense.net) == fingerprint(initialise(build("conv2", width=0.1), 9, "kaiming_normal"))


def test_the_counts_are_those_of_the_weights_used_and_would_show_a_wrong_one(tmp_path, monkeypatch):
    # A masker that keeps one weight too many from the middle of training on, and says nothing of it in mask().
    real, calls = EdgePopup.forward, []

    def forward(self, weight):
        calls.append(1)
        if len(calls) < 32:  # in the first step of three
            return real(self, weight)
        effective = real(self, weight).clone()
        dropped = (effective == 0).nonzero()[0]
        effective[tuple(dropped)] = weight[tuple(dropped)]
        return effective

    monkeypatch.setattr(EdgePopup, "forward", forward)
    result = train(Run(density=0.4, epochs=1, callbacks=(spec("trace.Trace", updates=3),), **TINY), tmp_path)
    for layer in result["layers"]:
        expected = layer["numel"] - int((1 - 0.4) * layer["numel"])
        assert result["kept"][layer["name"]] == [expected, expected + 1]
        assert layer["kept_max"] == expected + 1  # at the end


def test_a_supermask_stopped_after_its_last_epoch_reports_what_it_keeps_sampled_and_rounded(tmp_path, monkeypatch):
    # A rate at which some probabilities cross one half within two epochs.
    run, seen = Run(method="supermask", density=0.4, epochs=2, lr=2000.0, held_out=50, **TINY), {}

    def stop(net, path, about):
        seen["scores"] = [masker.scores.detach().clone() for masker in maskers(net).values()]
        raise RuntimeError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr("lit_hidden.engine.train.save_subnetwork", stop)
        with pytest.raises(RuntimeError, match="stopped here"):
            train(run, tmp_path)
    result = train(run, tmp_path)
    (tmp_path / "whole").mkdir()
    assert counted(train(run, tmp_path / "whole")) == counted(result)
    assert "val_top1" in without_time(tmp_path)[0]
    p = torch.cat([1 / (1 + torch.exp(-scores.double().flatten())) for scores in seen["scores"]])
    assert result["density_sampled"] == pytest.approx(p.mean().item(), abs=1e-6)
    assert result["density_rounded"] == pytest.approx((p >= 0.5).double().mean().item(), abs=1e-6)
    assert 0 < result["density_rounded"] != result["density_sampled"] < 1
    assert sum(layer["kept_min"] for layer in result["layers"]) == (p >= 0.5).sum()
