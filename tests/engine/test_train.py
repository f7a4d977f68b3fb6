"""Training a Run: what it writes, and that stopping it changes nothing."""

import json
import runpy
import signal
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from lit_hidden import __version__
from lit_hidden.callbacks import RunCallback
from lit_hidden.classifier import LitClassifier
from lit_hidden.code import spec
from lit_hidden.data import DataError
from lit_hidden.edge_popup import EdgePopup, maskers, reveal
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.engine.provenance import commit, in_tf32
from lit_hidden.engine.ranks import StoppedError
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import SCORES, SUBNETWORK, train
from lit_hidden.engine.written import rows
from lit_hidden.modules import LitSubnetwork
from lit_hidden.nets import build, initialise
from lit_hidden.recipes import FINDERS
from lit_hidden.results import Results
from lit_hidden.run import Run
from lit_hidden.subnetwork import fingerprint, load_subnetwork, masks

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
    assert not {"density_sampled", "density_rounded", "accuracy_rounded", "accuracy_before"} & result.keys()
    assert sorted(p.name for p in folder.iterdir()) == [
        "last.ckpt", "metrics.csv", "run.json", "subnetwork.safetensors", "trace.npz"
    ]  # fmt: skip


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


def test_a_result_says_what_computed_it(undisturbed, monkeypatch):
    provenance = undisturbed[1]["provenance"]
    monkeypatch.setenv("LIT_HIDDEN_COMMIT", "0123456789ab")
    assert commit() == "0123456789ab", "a copy without history is told it"
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


def test_the_curve_starts_before_training_and_ends_at_the_reported_accuracy(undisturbed):
    folder, result = undisturbed
    steps, values = Results([(HIDDEN, result, folder)]).curve("test_top1")
    assert steps.tolist() == [0, 3, 6, 9, 12]
    assert values[0, -1] == result["accuracy"]
    rates = [float(row["lr"]) for row in without_time(folder)[1:]]
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * e / 4)) for e in range(4)])


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


@pytest.mark.parametrize("method", ["edge_popup", "supermask"])
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


class Halved(RunCallback):
    """Change a weight, so that no seed gives the net back."""

    def on_run_start(self, trainer, module, data, parent):
        module.net[0].parametrizations.weight.original.data[0] /= 2


class Strange(Halved):
    """Add a buffer too, of a dtype that safetensors has not."""

    def on_run_start(self, trainer, module, data, parent):
        super().on_run_start(trainer, module, data, parent)
        module.net.register_buffer("odd", torch.zeros(3, dtype=torch.complex128))


@pytest.mark.parametrize(("kind", "files"), [(Halved, [SCORES]), (Strange, [])])
def test_what_no_seed_gives_back_is_kept_whole_and_what_no_file_holds_is_left_out(kind, files, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_hidden.engine.train._made", lambda run: [kind()])
    with pytest.warns(UserWarning, match="^scores.safetensors is left out: ") if not files else nullcontext():
        assert train(Run(density=0.4, epochs=1, **TINY), tmp_path)["accuracy"] > 0
    assert [path.name for path in tmp_path.glob("*.safetensors")] == files


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


# --- tickets and supermasks -------------------------------------------------------------------------------


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


def test_a_supermask_killed_after_its_last_epoch_ends_as_one_never_stopped(tmp_path, monkeypatch):
    run = Run(method="supermask", density=0.5, epochs=1, held_out=50, **TINY)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(run, tmp_path / "a")
    assert "val_top1" in without_time(tmp_path / "a")[0]

    def stop(net, path):
        raise RuntimeError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr("lit_hidden.engine.train.save_subnetwork", stop)
        with pytest.raises(RuntimeError, match="stopped here"):
            train(run, tmp_path / "b")
    assert counted(train(run, tmp_path / "b")) == counted(whole)


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
