"""Training a Run: what it writes, and that stopping it changes nothing."""

import json
import runpy
import signal
import sys
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_hidden import __version__
from lit_hidden.classifier import LitClassifier
from lit_hidden.code import spec
from lit_hidden.data import DataError
from lit_hidden.edge_popup import EdgePopup, hide, reveal
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.engine.provenance import commit, in_tf32
from lit_hidden.engine.ranks import StoppedError
from lit_hidden.engine.reproduce import rows
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import SCORES, SUBNETWORK, train
from lit_hidden.modules import LitSubnetwork
from lit_hidden.nets import build, initialise
from lit_hidden.results import Results
from lit_hidden.run import Run
from lit_hidden.subnetwork import fingerprint, load_subnetwork, masks, save_subnetwork

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
TINY, HIDDEN, undisturbed = made["TINY"], made["HIDDEN"], made["undisturbed"]
without_time, evaluate, counted = made["without_time"], made["evaluate"], made["counted"]


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
    assert sorted(p.name for p in folder.iterdir()) == [
        "last.ckpt", "metrics.csv", "run.json", "subnetwork.safetensors", "trace.npz"
    ]  # fmt: skip


DIVERGES = Run(lr=1e9, epochs=4, **TINY)


def test_training_ends_with_the_epoch_in_which_the_loss_is_not_finite(tmp_path):
    result = train(DIVERGES, tmp_path)
    assert (result["diverged"], result["steps"]) == (1, 3)
    assert np.isnan(result["loss"])
    assert [row["epoch"] for row in without_time(tmp_path)] == ["0", "1"]
    (tmp_path / "runs").mkdir()
    store = Store(tmp_path / "runs")
    with store.claim(DIVERGES) as folder:
        store.finish(DIVERGES, train(DIVERGES, folder))
    assert store.damage(DIVERGES) is None
    assert store.result(DIVERGES)["diverged"] == 1


def test_what_diverged_and_was_stopped_is_not_trained_further(tmp_path):
    whole = train(DIVERGES, tmp_path)
    again = train(DIVERGES, tmp_path)  # from its checkpoint
    assert [row["epoch"] for row in without_time(tmp_path)] == ["0", "1"]
    assert counted(again) == pytest.approx(counted(whole), nan_ok=True)


def test_a_result_says_what_computed_it(undisturbed):
    provenance = undisturbed[1]["provenance"]
    assert provenance["versions"]["lit_hidden"] == __version__
    assert provenance["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert provenance["tf32"] == []
    assert f"torch=={metadata.version('torch')}" in provenance["installed"]
    (row,) = rows(Results([(HIDDEN, undisturbed[1], undisturbed[0])]))
    assert (row["cpu"], row["tf32"]) == (provenance["cpu"], None)


@pytest.mark.parametrize(
    ("convolutions", "products", "override", "told"),
    [
        (True, "highest", None, ["convolutions"]), (True, "high", None, ["convolutions", "products"]),
        (False, "highest", None, []), (True, "high", "0", []),
    ],
)  # fmt: skip
def test_what_computes_in_tf32_on_a_gpu_is_said(monkeypatch, convolutions, products, override, told):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", convolutions)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: products)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override or "")
    assert in_tf32("cuda") == told
    assert in_tf32("cpu") == []


def test_a_copy_without_history_is_told_its_commit(monkeypatch):
    monkeypatch.setenv("LIT_HIDDEN_COMMIT", "0123456789ab")
    assert commit() == "0123456789ab"


def test_the_curve_starts_before_training_and_ends_at_the_reported_accuracy(undisturbed):
    folder, result = undisturbed
    steps, values = Results([(HIDDEN, result, folder)]).curve("test_top1")
    assert steps.tolist() == [0, 3, 6, 9, 12]
    assert values[0, -1] == result["accuracy"]
    rates = [float(row["lr"]) for row in without_time(folder)[1:]]
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * e / 4)) for e in range(4)])


def test_only_supermasks_are_sampled_and_only_tickets_have_a_before(undisturbed):
    assert not {"density_sampled", "density_rounded", "accuracy_rounded", "accuracy_before"} & undisturbed[1].keys()


def test_a_killed_run_goes_on_and_ends_bit_equal_to_one_never_stopped(undisturbed, tmp_path, forked):
    folder, result = undisturbed
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from lit_hidden.engine.train import train; from lit_hidden.run import Run\n"
        "from lit_hidden.modules import LitSubnetwork\n"
        "real = LitSubnetwork.training_step\n"
        "def step(self, *batch):\n"
        "    if self.global_step == 7: os.kill(os.getpid(), signal.SIGKILL)\n"  # inside the third epoch
        "    return real(self, *batch)\n"
        "LitSubnetwork.training_step = step\n"
        f"train(Run.from_json(sys.stdin.read()), Path({str(tmp_path)!r}))\n"
    )
    child = forked([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, text=True)
    _, said = child.communicate(HIDDEN.to_json())
    assert child.returncode == -signal.SIGKILL, said
    assert len(without_time(tmp_path)) == 3, "the row before training and two epochs"
    resumed = train(HIDDEN, tmp_path)
    ours, theirs = dict(resumed), dict(result)
    del ours["provenance"], theirs["provenance"]
    assert ours == theirs
    assert without_time(tmp_path) == without_time(folder)
    with np.load(tmp_path / "trace.npz") as a, np.load(folder / "trace.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


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
    with np.load(tmp_path / "trace.npz") as a, np.load(folder / "trace.npz") as b:
        for name in b.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_same_seed_trains_the_same_subnetwork_in_another_process_with_other_threads(undisturbed, python):
    _, result = undisturbed
    code = (
        "import json, sys, tempfile, torch; from pathlib import Path\n"
        "from lit_hidden.engine.train import train; from lit_hidden.run import Run\n"
        f"run = Run.from_json({HIDDEN.to_json()!r})\n"
        "result = train(run, Path(tempfile.mkdtemp())); del result['provenance']\n"
        "print('RESULT' + json.dumps(result))\n"
    )
    printed = python(code, OMP_NUM_THREADS="2", PYTHONHASHSEED="7")
    expected = {k: v for k, v in result.items() if k != "provenance"}
    assert json.loads(printed.split("RESULT")[1]) == expected


# --- subnetworks are kept -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["edge_popup", "random", "supermask"])
def test_the_subnetwork_in_the_folder_is_the_one_whose_accuracy_is_reported(method, tmp_path):
    run = Run(density=0.4, method=method, net="cifar_resnet18", width=0.05, data="digits", train_images=300, epochs=1)
    result = train(run, tmp_path)
    data = make_data(run, "data")
    net = load_subnetwork(LitClassifier("cifar_resnet18", width=0.05, in_channels=1).net, tmp_path / SUBNETWORK)
    assert fingerprint(net) == result["weights_after"]
    for layer in result["layers"]:
        assert masks(net)[layer["name"]].sum() == layer["kept_min"]
    (tested,) = evaluate(LitClassifier(reveal(net)), data)  # a supermask would sample
    assert round(100 * tested["test/top1"], 5) == result["accuracy_rounded" if method == "supermask" else "accuracy"]


def test_the_data_of_a_run_are_the_part_of_imagenet_that_it_says(tmp_path):
    run = Run(density=0.5, data="imagenet", classes="first-7", images_per_class=3, image_size=32, batch_size=5, seed=2)
    data = make_data(run, tmp_path)
    assert (data.name, data.classes, data.images_per_class, data.shape) == ("imagenet", "first-7", 3, (3, 32, 32))
    assert (data.num_classes, data.batch_size, data.seed, data.root) == (7, 5, 2, tmp_path)
    assert make_data(Run(data="tiny-imagenet"), tmp_path).shape == (3, 64, 64)


def test_a_run_trains_on_a_part_of_imagenet(tmp_path):
    pictures = runpy.run_path(str(Path(__file__).parents[1] / "data" / "pictures.py"))
    pictures["plant"](tmp_path / "imagenet", pictures["tree"](["n01", "n02", "n03"], train=6, val=2))
    run = Run(
        density=0.5, net="conv2", width=0.05, data="imagenet", classes="first-2", image_size=16, epochs=2, batch_size=4
    )  # fmt: skip
    result = train(run, tmp_path, tmp_path)
    assert result["steps"] == 2 * 3  # 12 images of two classes, by 4
    assert [layer["numel"] for layer in result["layers"]][-1] == 12 * 2
    assert 0 <= result["accuracy"] <= 100


def test_conv4s_subnetwork_is_a_third_of_a_megabyte(tmp_path):
    size = save_subnetwork(hide(build("conv4")), tmp_path / SUBNETWORK).stat().st_size
    assert size == pytest.approx(2_425_024 / 8, abs=2000)


def test_a_net_whose_subnetwork_cannot_be_kept_is_trained_all_the_same(tmp_path, monkeypatch):
    def refuse(net, path):
        raise ValueError("not this one")

    monkeypatch.setattr("lit_hidden.engine.train.save_subnetwork", refuse)
    run = Run(density=0.4, epochs=1, **TINY)
    (tmp_path / "all").mkdir()
    assert train(run, tmp_path / "all")["accuracy"] > 0
    assert [path.name for path in (tmp_path / "all").glob("*.safetensors")] == [SCORES]
    monkeypatch.setattr("lit_hidden.engine.train.save_net", refuse)
    (tmp_path / "nothing").mkdir()
    with pytest.warns(UserWarning, match=r"^scores\.safetensors is left out: not this one$"):
        assert train(run, tmp_path / "nothing")["accuracy"] > 0
    assert not list((tmp_path / "nothing").glob("*.safetensors"))


# --- what the engine may do to a run --------------------------------------------------------------------


@pytest.mark.parametrize(
    "run", [HIDDEN, Run(method="supermask", density=0.5, epochs=1, held_out=50, **TINY)], ids=lambda run: run.method
)
def test_a_run_killed_after_its_last_epoch_ends_as_one_never_stopped(run, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(run, tmp_path / "a")

    def stop(net, path):
        raise RuntimeError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr("lit_hidden.engine.train.save_subnetwork", stop)
        with pytest.raises(RuntimeError, match="stopped here"):
            train(run, tmp_path / "b")
    resumed = train(run, tmp_path / "b")
    del whole["provenance"], resumed["provenance"]
    assert resumed == whole


def test_held_out_images_are_watched_and_the_test_set_is_read_once_at_the_end(tmp_path):
    run = Run(density=0.5, epochs=1, held_out=100, **TINY)
    result = train(run, tmp_path)
    assert "val_top1" in without_time(tmp_path)[0]
    assert 0 <= result["accuracy"] <= 100


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


def test_every_field_of_a_run_reaches_what_trains_it(tmp_path, monkeypatch):
    run = Run(
        density=0.3, net="conv2", width=0.1, distribution="kaiming_normal", scaled="authors", data="cifar10",
        train_images=500, held_out=70, augment=False, epochs=7, batch_size=33, lr=0.2, momentum=0.8, weight_decay=0.03,
        schedule="constant", warmup_epochs=2, label_smoothing=0.15, precision="bf16-mixed", seed=1, weight_seed=2,
        score_seed=3, data_seed=4,
    )  # fmt: skip
    data = make_data(run, tmp_path)
    assert (data.batch_size, data.seed, data.augment, data.held_out, data.train_images, data.root) == (
        33, 4, False, 70, 500, tmp_path
    )  # fmt: skip
    lit = make_module(run, data)
    assert asdict(lit.recipe) == asdict(lit.recipe) | {
        "lr": 0.2, "momentum": 0.8, "weight_decay": 0.03, "schedule": "constant", "warmup_epochs": 2,
        "label_smoothing": 0.15,
    }  # fmt: skip
    hiding = lit.net._lit_hidden
    assert (hiding.density, hiding.distribution, hiding.scaled, hiding.weight_seed, hiding.score_seed) == (
        0.3, "kaiming_normal", "authors", 2, 3
    )  # fmt: skip
    assert lit.net[0].weight.shape == (6, 3, 3, 3)
    adam = Run(net="conv2", width=0.1, data="cifar10", optimizer="adam", weight_seed=9)
    assert make_data(adam, tmp_path).batch_size == 60
    dense = make_module(adam, data)
    assert (dense.optimizer, dense.recipe.lr) == ("adam", 2e-4)
    assert fingerprint(dense.net) == fingerprint(initialise(build("conv2", width=0.1), 9, "kaiming_normal"))

    class Seen(Exception):
        pass

    def trainer(**kwargs):
        raise Seen(kwargs)

    monkeypatch.setattr("lit_hidden.engine.train.L.Trainer", trainer)
    tiny = Run(density=0.3, epochs=7, precision="bf16-mixed", **TINY)
    with pytest.raises(Seen) as seen:
        train(tiny, tmp_path)
    (kwargs,) = seen.value.args
    assert (kwargs["precision"], kwargs["max_epochs"], kwargs["accelerator"]) == ("bf16-mixed", 7, "cpu")


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


def test_two_threads_train_the_same_subnetwork_to_rounding(undisturbed, tmp_path):
    folder, result = undisturbed
    again = train(HIDDEN, tmp_path, threads=2)
    assert again["accuracy"] == result["accuracy"]
    with np.load(tmp_path / "trace.npz") as a, np.load(folder / "trace.npz") as b:
        np.testing.assert_array_equal(a["chosen_after"][-1], b["chosen_after"][-1])
        np.testing.assert_allclose(a["after"], b["after"], atol=1e-5)
