"""Iterative magnitude pruning, rewinding and early stopping: exact counts, and the weights they say."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training import TEXT

from lit_hidden.code import Spec, spec
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.run import Run
from lit_hidden.selection import kept

NET = {"net": "lenet", "width": 0.1, "data": "digits", "train_images": 240, "held_out": 60, "batch_size": 60}
DENSE = Run(**NET, epochs=2, optimizer="adam", distribution="xavier_normal", schedule="constant")
UPDATES = 4  # of an epoch
EARLY = spec("early.Early", every=UPDATES)
FIRST = replace(DENSE, callbacks=(EARLY, spec("rewind.Snapshot", update=UPDATES)))


def prune(run: Run, density: float, *more: Spec, epochs: int = 2, **options: Any) -> Run:
    return run.then(epochs=epochs, callbacks=(*more, spec("rewind.Prune", density=density, **options)))


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in load_file(folder / "weights.safetensors").items() if tensor.ndim > 1}


def initial(run: Run) -> dict[str, Tensor]:
    data = make_data(run, "data")
    return {name: t for name, t in make_module(run, data).net.state_dict().items() if t.ndim > 1}


def masks(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "masks.npz") as bits:
        return {name: np.unpackbits(bits[name]).astype(bool) for name in bits}


def test_each_round_keeps_the_largest_weights_of_the_round_before_as_many_as_it_says(trained):
    run, before = FIRST, weights(trained(FIRST)[0])
    for done in (1, 2, 3):
        run = prune(run, round(0.8**done, 6), output=round(0.9**done, 6), leave=True)
        folder, result = trained(run)
        after, counts = weights(folder), []
        for (name, weight), (layer, mask) in zip(before.items(), masks(folder).items(), strict=True):
            assert name == f"{layer}.weight"
            counts.append(kept(weight.numel(), round((0.9 if name == list(before)[-1] else 0.8) ** done, 6)))
            mask = mask[: weight.numel()]
            assert mask.sum() == counts[-1]
            sizes = weight.abs().flatten()
            assert sizes[mask].min() > sizes[~mask].max()
            assert not after[name].flatten()[~mask].any()
        assert result["left"] == sum(counts)
        before = after


@pytest.mark.parametrize(
    ("options", "start"),
    [({}, lambda runs: initial(FIRST)), ({"rewind": UPDATES}, lambda runs: weights(runs(replace(DENSE, epochs=1))[0]))],
)
def test_weights_are_rewound_to_their_start_or_to_the_update_asked_for(options, start, trained):
    run = prune(prune(FIRST, 0.5, **options), 0.25, epochs=0, leave=True, **options)
    folder, _ = trained(run)
    for (name, weight), mask in zip(weights(folder).items(), masks(folder).values(), strict=True):
        mask = torch.from_numpy(mask[: weight.numel()]).view_as(weight)
        assert weight.equal(start(trained)[name] * mask)


def test_all_that_a_net_learnt_is_rewound(trained):
    run = Run(**TEXT)  # with an embedding and norm layers
    begins, ended = (load_file(trained(one)[0] / "weights.safetensors") for one in (prune(run, 1.0, epochs=0), run))
    torch.manual_seed(0)
    for name, tensor in make_module(run, make_data(run, "data")).net.state_dict().items():
        assert begins[name].equal(tensor), name
        assert not ended[name].equal(tensor), name


def test_controls_have_the_mask_and_other_weights_or_the_weights_and_another_mask_of_equal_size(trained):
    ticket, fresh, chance, other = (
        trained(run)[0]
        for run in (
            prune(FIRST, 0.3, epochs=0, leave=True),
            prune(FIRST, 0.3, epochs=0, leave=True, weights="fresh"),
            prune(FIRST, 0.3, epochs=0, leave=True, choice="random"),
            prune(replace(FIRST, seed=1), 0.3, epochs=0, leave=True, choice="random"),
        )
    )
    for name, mask in masks(ticket).items():
        assert (masks(fresh)[name] == mask).all()
        assert masks(chance)[name].sum() == mask.sum() == masks(other)[name].sum()
        assert (masks(chance)[name] != mask).any()
        assert (masks(chance)[name] != masks(other)[name]).any()
        start = initial(FIRST)[f"{name}.weight"]
        both = torch.from_numpy(mask[: start.numel()]).view_as(start)
        drawn = weights(fresh)[f"{name}.weight"]
        assert not (drawn == start)[both].any()
        assert drawn[both].std().item() == pytest.approx(start.std().item(), rel=0.25)
        left = weights(chance)[f"{name}.weight"]
        assert left[left != 0].equal(start[left != 0])


def test_early_stopping_is_at_the_smallest_held_out_loss(trained):
    folder, result = trained(FIRST)
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)][1:]
    with np.load(folder / "early.npz") as found:
        assert found["update"].tolist() == [UPDATES, 2 * UPDATES]
        assert found["loss"] == pytest.approx(losses, abs=1e-5)
    assert result["early_update"] == UPDATES * (1 + int(np.argmin(losses)))
    there = trained(replace(DENSE, epochs=1 + int(np.argmin(losses))))[1]
    assert result["early_accuracy"] == pytest.approx(there["accuracy"], abs=1e-4)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (replace(DENSE, held_out=0, callbacks=(EARLY,)), "no images are held out"),
        (replace(DENSE, callbacks=(spec("early.Early", every=0),)), "every=0 updates is impossible"),
        (replace(DENSE, callbacks=(spec("rewind.Snapshot", update=0),)), "update=0"),
        (replace(DENSE, callbacks=(spec("rewind.Snapshot", update=99),)), "update=99 never came"),
        (prune(FIRST, 0.5, rewind=4, choice="largest"), "choice='largest'"),
        (prune(DENSE, 0.5, rewind=4), r"rewind=4: the chain's first run needs rewind.Snapshot\(update=4\)"),
        (prune(prune(FIRST, 0.2), 0.5), "density=0.5 keeps"),
    ],
)
def test_what_cannot_be_is_refused(run, message, trained):
    with pytest.raises(ValueError, match=message):
        trained(run)
