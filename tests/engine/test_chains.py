"""Runs after runs: what one begins with, what it leaves for the next, and the net that it gives back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms
from training import TINY, done, network

from lit_hidden.code import spec
from lit_hidden.data import DigitsData
from lit_hidden.data.decode import transform
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.network import make_data
from lit_hidden.engine.store import SCORES, SUBNETWORK, WEIGHTS, Store, StoreError
from lit_hidden.engine.train import train
from lit_hidden.predict import predict
from lit_hidden.results import Results
from lit_hidden.run import Run
from lit_hidden.subnetwork import used_masks

store = training.store  # a fixture

SMALL = {**TINY, "epochs": 1}
HIDDEN, DENSE = Run(density=0.5, **SMALL), Run(**SMALL)
MASK, RANDOM = replace(HIDDEN, method="supermask"), replace(HIDDEN, method="random")
TICKET, SEARCH = HIDDEN.then(method="ticket"), DENSE.then(density=0.5)
RESNET = {"net": "cifar_resnet18", "width": 0.05, "data": "digits", "train_images": 200, "epochs": 1}
NORMED = Run(density=0.5, **RESNET)
STILL = {"lr": 0.0, "weight_decay": 0.0}  # what learns stays as it was


def tensors(store: Store, run: Run, name: str) -> dict[str, torch.Tensor]:
    return load_file(store.folder(run) / name)


def files(store: Store, run: Run) -> set[str]:
    return {path.name for path in store.folder(run).glob("*.safetensors")}


def picture(folder: Path, pixels: torch.Tensor) -> Path:
    Image.fromarray(pixels[0].numpy()).save(folder / "a.png")
    return folder / "a.png"


# --- what a run begins with, and the net that it gives back ----------------------------------------------


@pytest.mark.parametrize("run", [HIDDEN, DENSE, TICKET, NORMED, SEARCH, MASK], ids=lambda run: run.name)
def test_an_analysis_and_the_net_of_a_run_are_as_good_as_the_run(run, store, tmp_path):
    result, analysis = done(store, run), done(store, run.then(epochs=0))
    assert analysis["weights_before"] == analysis["weights_after"] == result["weights_after"]
    assert (analysis["steps"], store.progress(run.then(epochs=0))) == (0, 0)
    assert not analysis.keys() & {"train_accuracy"}
    rounded = "accuracy_rounded" if run == MASK else "accuracy"
    assert analysis[rounded] == result[rounded]
    net = network(store, run)
    data = DigitsData()
    data.setup()
    images, labels = data.splits["test"]
    with torch.no_grad():
        right = (net(net.transform(images)).argmax(1) == labels).double().mean()
    assert 100 * right.item() == pytest.approx(result[rounded], abs=1e-4)
    assert not net.training
    told = json.loads(predict(store.folder(run), [picture(tmp_path, images[7])], format="json"))
    assert told[0]["probability"] == pytest.approx(net(net.transform(images[7:8])).softmax(1).max().item(), abs=1e-5)
    masks = {name: int(mask.sum()) for name, mask in used_masks(net).items()}
    assert masks == {layer["name"]: layer["kept_min"] for layer in result.get("layers", [])}
    assert set(masks) == set(maskers(net))


@pytest.mark.parametrize(
    ("run", "file", "changes"), [(NORMED, SCORES, {}), (HIDDEN, SCORES, {"density": 0.8}), (DENSE, WEIGHTS, {})]
)
def test_a_run_goes_on_from_the_scores_weights_and_buffers_of_the_one_before(run, file, changes, store):
    still = run.then(**STILL, **changes)
    result = done(store, still)
    kept = result.get("layers", [])
    assert [n["kept_max"] for n in kept] == [n["numel"] - int((1 - still.density) * n["numel"]) for n in kept]
    assert result["weights_before"] == done(store, run)["weights_after"]
    before, after = tensors(store, run, file), tensors(store, still, file)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "num_batches" in name:
            assert after[name] == 2 * tensor, "running statistics go on, too"
        elif "running" not in name:
            assert torch.equal(after[name], tensor)


def test_a_trained_net_is_searched_with_its_weights_frozen(store):
    result, trained = done(store, SEARCH), tensors(store, DENSE, WEIGHTS)
    assert result["weights_before"] == result["weights_after"]
    found = tensors(store, SEARCH, SCORES)
    for name, weight in trained.items():
        assert torch.equal(found[f"{name.removesuffix('.weight')}.parametrizations.weight.original"], weight)
    assert files(store, SEARCH) == {SCORES}  # no seed gives such weights back
    assert done(store, SEARCH.then(method="ticket"))["accuracy_before"] == result["accuracy"]


@pytest.mark.parametrize("parent", [HIDDEN, MASK, RANDOM, TICKET], ids=lambda run: str(run.method))
def test_before_its_weights_are_trained_a_ticket_is_as_good_as_its_parent(parent, store):
    ticket, before = parent.then(method="ticket"), done(store, parent)
    result = done(store, ticket)
    assert result["accuracy_before"] == before["accuracy_rounded" if parent == MASK else "accuracy"]
    _, values = Results([(ticket, result, store.folder(ticket))]).curve("test_top1")
    assert (values[0, 0], values[0, -1]) == (result["accuracy_before"], result["accuracy"])
    assert result["weights_before"] == before["weights_after"] != result["weights_after"]
    assert [layer["kept_max"] for layer in result["layers"]] == [layer["kept_min"] for layer in before["layers"]]
    assert files(store, ticket) == {WEIGHTS}


def test_the_accuracy_before_is_measured_on_the_test_set(store):
    found = replace(HIDDEN, held_out=100)
    assert done(store, found.then(method="ticket"))["accuracy_before"] == done(store, found)["accuracy"]


def test_a_supermask_goes_on_from_its_probabilities(store):
    on = MASK.then(**STILL)
    assert done(store, on)["density_sampled"] == done(store, MASK)["density_sampled"]
    (store.folder(on) / SUBNETWORK).unlink()  # from its scores alone, for no seed gives them
    kept = [int(masker.mask().sum()) for masker in maskers(network(store, on)).values()]
    assert kept == [layer["kept_min"] for layer in done(store, on)["layers"]]


def test_scores_are_left_where_a_run_goes_on_or_no_seed_gives_the_weights_back(store):
    alone = replace(HIDDEN, seed=3)
    done(store, alone, keep=False)
    assert files(store, alone) == {SUBNETWORK}
    assert store.damage(alone, alone.then()) == f"{store.folder(alone)} lacks {SCORES}, which {alone.then().name} needs"
    with pytest.raises(FileNotFoundError, match=f"has no {SCORES}, the net of {alone.name}; train it"):
        done(store, alone.then())
    done(store, HIDDEN)
    assert files(store, HIDDEN) == {SCORES, SUBNETWORK}
    left = network(store, HIDDEN).state_dict()
    assert all(torch.equal(left[name], tensor) for name, tensor in tensors(store, HIDDEN, SCORES).items())
    cut = replace(HIDDEN, callbacks=(spec("lesion.Lesion", epoch=0),))
    done(store, cut, keep=False)
    assert files(store, cut) == {SCORES}
    assert done(store, cut.then(epochs=0, callbacks=()))["accuracy"] == done(store, cut)["accuracy"]


def test_a_task_has_every_kind_of_run(store):
    arm: dict[str, Any] = {"net": "lenet", "width": 0.3, "data": "arm.ArmData", "task": "arm.Angles", "epochs": 1}
    found, mask = Run(density=0.5, **arm), Run(density=0.5, method="supermask", **arm)
    ticket = found.then(method="ticket")
    assert done(store, ticket)["error_before"] == done(store, found)["error"]
    assert done(store, mask)["error_rounded"] > 0
    assert not any("accuracy" in name for run in (ticket, mask) for name in done(store, run))


def test_a_run_in_half_precision_keeps_its_weights_and_is_analysed(store):
    run = replace(NORMED, precision="bf16-true")
    result = done(store, run, keep=False)
    assert result["weights_before"] == result["weights_after"]
    assert files(store, run) == {SUBNETWORK}
    statistics = [t.dtype for name, t in tensors(store, run, SUBNETWORK).items() if "running" in name]
    assert set(statistics) == {torch.bfloat16}
    assert done(store, run.then(epochs=0))["accuracy"] == result["accuracy"]
    net = network(store, run)
    assert [int(mask.sum()) for mask in used_masks(net).values()] == [n["kept_max"] for n in result["layers"]]
    assert net(net.transform(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))).dtype == torch.float32


def test_a_net_of_a_run_that_is_not_there_or_damaged_is_refused(store, tmp_path):
    copy, damaged = Store(tmp_path), replace(DENSE, seed=5)
    done(copy, damaged)
    results, path = copy.results([damaged]), copy.folder(damaged) / WEIGHTS
    with pytest.raises(ValueError, match=f"{HIDDEN.name} is not among these 1 runs, or its folder is not here"):
        results.network(HIDDEN)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"weights\.safetensors: it is not the one whose"):
        results.network(damaged)
    with pytest.raises(FileNotFoundError, match=f"has no {SUBNETWORK} or {SCORES}, the net of {HIDDEN.name}; "):
        train(TICKET, tmp_path)


def test_pictures_are_made_what_the_test_images_are():
    data = make_data(Run(data="tiny-imagenet-100", net="resnet18"), "data")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))
    parts = [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()]
    expected = transforms.Compose([*parts, transforms.Normalize(data.mean, data.std)])(picture)
    torch.testing.assert_close(transform(data.about)(picture), expected, atol=0.02, rtol=0)  # after or before rounding
    grey = transform(make_data(Run(net="lenet", data="mnist"), "data").about)(picture)
    assert grey.shape == (1, 28, 28)
    numbers = transform(make_data(Run(net="lenet", data="arm.ArmData", task="arm.Angles"), "data").about)([1.0, 2.0])
    assert numbers.tolist() == [1.0, 2.0]
