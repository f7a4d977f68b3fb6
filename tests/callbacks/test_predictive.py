"""Predictive coding: equilibrium in closed form, local updates by hand, and backpropagation as its limit."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training import without_time

from lit_hidden.callbacks.predictive import (
    Inference,
    PredictiveMasks,
    PredictiveWeights,
    energy,
    settled,
    stages,
    torch_default,
)
from lit_hidden.code import spec
from lit_hidden.edge_popup import hidden_layers
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.run import Run

WEIGHTS = Run(
    net="lenet", width=0.1, data="digits", train_images=300, epochs=2, optimizer="adam", lr=1e-3,
    method="predictive.PredictiveWeights", distribution="predictive.torch_default",
)  # fmt: skip
MASKS = Run(
    net="lenet", width=0.1, data="digits", train_images=300, epochs=2, optimizer="adam", lr=1e-3,
    method="predictive.PredictiveMasks", distribution="signed_constant", density=0.5,
)  # fmt: skip


def linear(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))).double()


def test_a_linear_net_settles_where_it_must():
    net, x, y = linear(6, 5, 3), torch.randn(4, 6).double(), torch.randn(4, 3).double()
    first, last = (layer.weight for layer in net)
    _, hidden, _ = settled(stages(net), x, y, steps=400, step=0.3)
    # The slope (h - W1 x) - W2' (y - W2 h) is 0.
    expected = torch.linalg.solve(torch.eye(5).double() + last.T @ last, (x @ first.T + y @ last).T).T
    torch.testing.assert_close(hidden, expected, rtol=1e-9, atol=1e-9)


def test_energy_is_half_the_squared_errors_and_falls_with_each_step():
    net, x, y = linear(6, 5, 4, 3), torch.randn(4, 6).double(), torch.randn(4, 3).double()
    parts = stages(net)
    found = [energy(parts, settled(parts, x, y, steps, 0.3)).item() for steps in range(6)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx((net(x) - y).square().sum().item() / 2)  # only the last layer errs


def module_of(run: Run, **settings: Any) -> Any:
    data = make_data(run, "data")
    data.setup("fit")
    module = make_module(run, data).double()
    vars(module).update(settings)
    images, labels = next(iter(data.train_dataloader()))
    return module, images.double(), labels


def local(module: Any, images: Tensor, labels: Tensor, steps: int) -> list[Tensor]:
    wanted = [p for p in module.net.parameters() if p.requires_grad]
    return list(torch.autograd.grad(module.local(images, labels, steps), wanted))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("run", [WEIGHTS, MASKS], ids=["weights", "masks"])
def test_each_layer_learns_from_its_own_error_by_hand(run, shuffled):
    module, images, labels = module_of(run, shuffled=shuffled)
    _, first, _, second, _, third = module.net
    used = [layer.weight.detach() for layer in (first, second, third)]
    x, y = images.flatten(1), F.one_hot(labels, 10).double()
    h1 = x @ used[0].T
    h2 = h1.relu() @ used[1].T
    for _ in range(3):
        e1, e2, e3 = h1 - x @ used[0].T, h2 - h1.relu() @ used[1].T, y - h2.relu() @ used[2].T
        h1, h2 = (
            h1 - 0.3 * (e1 - (e2 @ used[1]) * (h1 > 0)),
            h2 - 0.3 * (e2 - (e3 @ used[2]) * (h2 > 0)),
        )
    e1, e2, e3 = h1 - x @ used[0].T, h2 - h1.relu() @ used[1].T, y - h2.relu() @ used[2].T
    if shuffled:
        e1, e2 = e1.roll(1, 0), e2.roll(1, 0)
    by_hand = [-e.T @ below / len(x) for e, below in ((e1, x), (e2, h1.relu()), (e3, h2.relu()))]
    if run.density:
        chains: list[Any] = [layer.parametrizations for layer, _ in hidden_layers(module.net).values()]
        by_hand = [g * c.weight.original * c.weight[0].scores.sign() for g, c in zip(by_hand, chains, strict=True)]
    for ours, expected in zip(local(module, images, labels, 3), by_hand, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-9)


def gradients(module: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in module.net.parameters() if p.requires_grad]))


@pytest.mark.parametrize("run", [WEIGHTS, MASKS], ids=["weights", "masks"])
def test_small_errors_settle_to_those_that_backpropagation_sends_back(run):
    module, images, labels = module_of(run)
    with torch.no_grad():
        near = module(images) + 1e-5 * torch.randn(len(images), 10).double()
    module._targets = lambda _: near
    parts = stages(module.net)
    below = settled(parts, images, near, 600, 0.3)[-2]
    left = (near - parts[-1](below)).detach()  # of the output's error, the hidden layers have taken over a part
    truth = gradients(module, -(module(images) * left).sum() / len(images))
    for ours, expected in zip(local(module, images, labels, 600), truth, strict=True):
        assert F.cosine_similarity(ours.flatten().double(), expected.flatten().double(), 0) > 0.9999


@pytest.mark.parametrize("run", [WEIGHTS, MASKS], ids=["weights", "masks"])
def test_where_little_comes_back_the_gradients_are_those_of_backpropagation(run):
    module, images, labels = module_of(run)
    with torch.no_grad():
        last = module.net[-1]
        (last.parametrizations.weight.original if run.density else last.weight).mul_(1e-4)
    truth = gradients(module, module._loss(module(images), labels))
    for ours, expected in zip(local(module, images, labels, 100), truth, strict=True):
        assert F.cosine_similarity(ours.flatten().double(), expected.flatten().double(), 0) > 0.9999


def test_after_one_step_the_first_layer_gets_nothing_and_after_two_something():
    module, images, labels = module_of(WEIGHTS)
    one, two = (local(module, images, labels, steps) for steps in (1, 2))
    assert not one[0].any()
    assert one[1].any()
    assert two[0].any()


def after(run: Run, **options: Any) -> Run:
    return replace(run, callbacks=(spec("predictive.Inference", **options),))


@pytest.mark.parametrize("run", [WEIGHTS, MASKS], ids=["weights", "masks"])
def test_a_run_learns_and_measures_its_angles(run, trained):
    folder, result = trained(after(run))
    with np.load(folder / "predictive.npz") as arrays:
        assert arrays["steps"].tolist() == [1, 2, 5, 10, 20, 50]
        assert np.isnan(arrays["before"][0, 0])
        assert arrays["before"][-1].max() < 45
        assert result["angle"] == pytest.approx(arrays["after"][4, :-1].mean())
        module, images, labels = module_of(run)
        mine, theirs = local(module, images, labels, 5), gradients(module, module._loss(module(images), labels))
        angles = [F.cosine_similarity(a.flatten().double(), b.flatten().double(), 0).arccos().rad2deg().item()
                  for a, b in zip(mine, theirs, strict=True)]  # fmt: skip
        assert arrays["before"][2] == pytest.approx(angles, abs=6)  # of other images
    first, *_, last = without_time(folder)
    assert float(last["test_loss"]) < 0.9 * float(first["test_loss"])
    whole = trained(after(run, steps=0))[1]
    assert whole["angle"] == 0
    assert whole["loss"] != result["loss"]


def test_weights_begin_as_torchs_own_do():
    drawn = torch_default(torch.Size((400, 50)), (2 / 50) ** 0.5, torch.Generator().manual_seed(0))
    assert drawn.abs().max().item() == pytest.approx(50**-0.5, rel=1e-3)
    assert drawn.std().item() == pytest.approx(nn.Linear(50, 400).weight.std().item(), rel=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inference(steps=-1), "steps=-1"),
        (lambda: Inference(step=1.5), "step=1.5"),
        (lambda: stages(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), "ends in a linear layer"),
        (lambda: stages(nn.Linear(2, 2)), "Linear: predictive coding needs"),
        (lambda: Inference().on_run_start(None, SimpleNamespace(), None, None), "has no inference"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_both_methods_are_of_the_kinds_they_say():
    assert (MASKS.kind, WEIGHTS.kind) == ("hidden", "dense")
    assert isinstance(module_of(MASKS)[0], PredictiveMasks)
    assert isinstance(module_of(WEIGHTS)[0], PredictiveWeights)
