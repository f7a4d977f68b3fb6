"""Noise in one layer of a supermask: as much as it should cost, the same for a seed; margins of single images."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lit_hidden.callbacks.margins import Margins
from lit_hidden.callbacks.noise import MaskNoise
from lit_hidden.code import spec
from lit_hidden.data.tensors import balanced_order
from lit_hidden.edge_popup import hidden_layers, original_weight
from lit_hidden.engine.network import make_data, network
from lit_hidden.run import Run

NET = {"net": "lenet", "width": 0.2, "data": "digits", "density": 0.5}
SAMPLED = Run(**NET, method="supermask", epochs=6, held_out=237)
NOISE = spec("noise.MaskNoise", loss=5.0, trials=40)
NOISY = SAMPLED.then(epochs=0, callbacks=(NOISE,))


def test_noise_costs_what_it_should_and_is_the_same_again(trained):
    folder, result = trained(NOISY)
    with np.load(folder / "noise.npz") as arrays:
        found = dict(arrays)
    assert found["held_out"] == pytest.approx(5.0, abs=1.0)
    assert (found["temperature"] > 1).all()
    sampled = trained(SAMPLED)[1]["accuracy"]
    assert found["before"] == pytest.approx(sampled, abs=6.0)  # as noisy as in training, in one layer
    assert (found["before"] - found["accuracy"]).mean() == pytest.approx(5.0, abs=2.5)
    assert (result["flips_first"], result["flips_last"]) == tuple(found["flips"][[0, -1]])
    again = trained(replace(NOISY, callbacks=(NOISE, spec("margins.Margins"))))
    with np.load(again[0] / "noise.npz") as arrays:
        assert all((arrays[name] == found[name]).all() for name in found)
    scores = [load_file(trained(run)[0] / "scores.safetensors") for run in (NOISY, SAMPLED)]
    assert all(scores[0][name].equal(scores[1][name]) for name in scores[1])


def test_decisions_flip_as_often_as_in_masks_sampled_by_hand(trained):
    folder, _ = trained(NOISY)
    with np.load(folder / "noise.npz") as arrays:
        heat, flips, accuracy = (arrays[name][1] for name in ("temperature", "flips", "accuracy"))
    kept = load_file(trained(SAMPLED)[0] / "scores.safetensors")
    net = network(SAMPLED, trained(SAMPLED)[0])
    names = list(hidden_layers(net))
    weights = [original_weight(net, name).detach() for name in names]
    scores = [next(t for n, t in kept.items() if n.startswith(f"{name}.") and "scores" in n) for name in names]
    data = make_data(SAMPLED, "data")
    data.setup()
    images, labels = data.splits["test"]
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (data.mean, data.std))
    x = ((images / 255 - mean) / std).flatten(1)
    callback = MaskNoise()
    callback.run_seed = NOISY.seed
    draws = [
        torch.rand(s.shape, generator=callback.generator(f"fixed {n}")) for n, s in zip(names, scores, strict=True)
    ]
    fixed = [draw < score.sigmoid() for draw, score in zip(draws, scores, strict=True)]
    torch.manual_seed(1)
    decided = []
    for _ in range(60):
        masks = list(fixed)
        masks[1] = torch.rand_like(scores[1]) < (scores[1] / heat).sigmoid()
        h = x
        for n, (weight, mask) in enumerate(zip(weights, masks, strict=True)):
            h = (h.relu() if n else h) @ (weight * mask).T
        decided.append(h.argmax(1))
    trials = torch.stack(decided)
    pairs = [(trials[i] != trials[j]).double().mean().item() for i in range(60) for j in range(i)]
    assert flips == pytest.approx(100 * np.mean(pairs), rel=0.25)
    assert accuracy == pytest.approx(100 * (trials == labels).double().mean().item(), abs=2.0)


def test_margins_are_the_true_logit_less_the_next(trained):
    run = Run(**NET, epochs=1, callbacks=(spec("margins.Margins", images=50),))
    folder, result = trained(run)
    data = make_data(run, "data")
    data.setup()
    images, labels = data.splits["test"]
    net = network(run, folder)
    chosen = balanced_order(labels)[:50]
    logits = torch.stack([net(net.transform(images[at])[None])[0] for at in chosen]).detach()
    expected = [
        (row[label] - max(other for n, other in enumerate(row) if n != label)).item()
        for row, label in zip(logits, labels[chosen], strict=True)
    ]
    with np.load(folder / "margins.npz") as arrays:
        assert arrays["margin"] == pytest.approx(np.array(expected), abs=1e-4)
    bare = trained(replace(run, callbacks=()))[1]
    assert bare["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: MaskNoise(loss=0.0), "loss=0.0"),
        (lambda data: MaskNoise(trials=1), "trials=1"),
        (lambda data: Margins(images=0), "images=0 is impossible"),
        (lambda data: MaskNoise().on_run_start(None, None, data(0), None), "no images are held out"),
        (
            lambda data: MaskNoise().on_run_start(None, SimpleNamespace(method="dense"), data(9), None),
            "method='dense' samples no masks",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    def data(held_out: int) -> SimpleNamespace:
        return SimpleNamespace(splits={"train": ()}, held_out=held_out)

    with pytest.raises(ValueError, match=re.escape(message)):
        make(data)
