"""Errors that travel back through other weights: each way by hand, in float64; the comparison with the feedback."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.callbacks.feedback import PATHS, FeedbackAlignment
from lit_hidden.code import spec
from lit_hidden.data.tensors import balanced_order
from lit_hidden.edge_popup import hidden_layers, weight_layers
from lit_hidden.engine.network import make_data, make_module, network
from lit_hidden.results import failed
from lit_hidden.run import Run

DENSE = Run(net="lenet", width=0.1, data="digits", train_images=300, epochs=2, distribution="signed_constant")
HIDDEN = replace(DENSE, density=0.5)


def begun(through: str, run: Run = HIDDEN, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    """A module and its data after `on_run_start`."""
    data = make_data(run, "data")
    data.setup("fit")
    module, callback = make_module(run, data), FeedbackAlignment(through, **options)
    callback.run_seed = seed
    callback.on_run_start(SimpleNamespace(), module, data, None)
    return module, data


def gradients(module: nn.Module, images: Tensor, targets: Tensor) -> list[Tensor | None]:
    F.cross_entropy(module(images), targets).backward()
    return [p.grad for p in module.parameters() if p.requires_grad]


@pytest.mark.parametrize("run", [DENSE, HIDDEN], ids=["weights", "scores"])
@pytest.mark.parametrize("through", PATHS)
def test_answers_are_the_nets_own_and_errors_come_back_as_by_hand(through, run):
    module, data = begun(through, run)
    images, targets = next(iter(data.train_dataloader()))
    module, images = module.double(), images.double()
    plain = make_module(run, data).double()
    assert module(images).equal(plain(images))
    layers: list[Any] = [layer for layer, _ in weight_layers(module.net).values()]
    used = [layer.weight.detach() for layer in layers]
    under = [layer.parametrizations.weight.original if run.density else layer.weight.detach() for layer in layers]
    fixed = [layer.feedback for layer in layers]
    back = {
        "masked": used, "whole": under, "random": fixed, "none": [torch.zeros_like(w) for w in used],
        "sign": [w.sign() * b.abs() for w, b in zip(under, fixed, strict=True)],
        "masked_sign": [w.sign() * b.abs() for w, b in zip(used, fixed, strict=True)],
        "minus": [used[0], used[1], -used[2]],
    }.get(through)  # fmt: skip
    x = images.flatten(1)
    h1 = F.linear(x, used[0]).relu()
    h2 = F.linear(h1, used[1]).relu()
    error3 = (F.linear(h2, used[2]).softmax(1) - F.one_hot(targets, 10)) / len(targets)
    if back is None:
        direct = layers[0].forward.func.__self__.direct
        error2, error1 = (error3 @ direct[name].T for name in ("5", "3"))
    else:
        error2 = error3 @ back[2]
        error1 = (error2 * (h2 > 0)) @ back[1]
    by_hand = [(error1 * (h1 > 0)).T @ x, (error2 * (h2 > 0)).T @ h1, error3.T @ h2]
    if run.density:  # what learns is scores, by the straight-through estimate
        chains: list[Any] = [layer.parametrizations for layer, _ in hidden_layers(module.net).values()]
        by_hand = [g * c.weight.original * c.weight[0].scores.sign() for g, c in zip(by_hand, chains, strict=True)]
    found, truth = gradients(module, images, targets), gradients(plain, images, targets)
    for n, (ours, expected) in enumerate(zip(found, by_hand, strict=True)):
        if ours is None:
            assert (through, n) in (("none", 0), ("none", 1))
        else:
            torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-9)
    if through == "minus":
        torch.testing.assert_close([-g for g in found[:2]], truth[:2])
    assert found[2].equal(truth[2])


def test_errors_come_back_through_convolutions_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1, stride=2))
    images, onto = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    h, plain = net[:2](images).detach(), net(images)
    FeedbackAlignment().on_run_start(None, SimpleNamespace(net=net), None, None)
    assert net(images).equal(plain)
    (net(images) * onto).sum().backward()
    error = torch.nn.grad.conv2d_input(h.shape, net[2].feedback, onto, stride=2, padding=1) * (h > 0)
    expected = torch.nn.grad.conv2d_weight(images, net[0].weight.shape, error, padding=1)
    torch.testing.assert_close(net[0].weight.grad, expected)
    torch.testing.assert_close(net[0].bias.grad, error.sum((0, 2, 3)))


@pytest.mark.parametrize("distribution", ["unsigned_constant", "kaiming_normal"])
def test_the_fixed_weights_are_as_large_as_the_nets_and_of_its_seed(distribution):
    run = replace(HIDDEN, density=1.0, distribution=distribution)
    one, again, other = (begun("random", run, seed)[0].net for seed in (0, 0, 1))
    for layer, _ in weight_layers(one).values():
        size = layer.weight.square().mean().sqrt().item()
        assert layer.feedback.square().mean().sqrt().item() == pytest.approx(size, rel=0.4)
    assert one[-1].feedback.equal(again[-1].feedback)
    assert not one[-1].feedback.equal(other[-1].feedback)


def left(trained, run: Run, through: str) -> tuple[Any, dict[str, Any], dict[str, np.ndarray]]:
    run = replace(run, callbacks=(spec("feedback.FeedbackAlignment", through=through, angles=128),))
    folder, result = trained(run)
    with np.load(folder / "feedback.npz") as arrays:
        return network(run, folder), result, dict(arrays)


def test_angles_are_those_of_the_gradients_on_the_first_images(trained):
    _, result, arrays = left(trained, HIDDEN, "random")
    assert arrays["epoch"].tolist() == [0, 1, 2]
    (module, data), plain = begun("random"), make_module(HIDDEN, make_data(HIDDEN, "data"))
    images, labels = data.splits["train"]
    chosen = balanced_order(labels)[:128]
    pictures = (images[chosen] / 255 - torch.tensor(data.mean).view(-1, 1, 1)) / torch.tensor(data.std).view(-1, 1, 1)
    both = [gradients(net, pictures, labels[chosen]) for net in (module, plain)]
    angles = [
        F.cosine_similarity(a.flatten(), b.flatten(), 0).clamp(max=1).arccos().rad2deg()
        for a, b in zip(*both, strict=True)
    ]
    assert arrays["angle"][0] == pytest.approx(np.array(angles), abs=0.05)
    assert result["angle"] == pytest.approx(arrays["angle"][-1][:-1].mean())
    assert left(trained, HIDDEN, "masked")[2]["angle"] == pytest.approx(0, abs=1e-3)
    assert left(trained, HIDDEN, "minus")[2]["angle"][:, :-1] == pytest.approx(180, abs=1e-3)


def test_weights_are_compared_with_the_feedback_by_hand(trained):
    net, result, arrays = left(trained, HIDDEN, "random")
    fixed = [layer.feedback.flatten().numpy() for layer, _ in weight_layers(begun("random")[0].net).values()]
    kept = []
    for n, ((layer, _), back) in enumerate(zip(hidden_layers(net).values(), fixed, strict=True)):
        used = layer.weight.detach().flatten().numpy()
        random = layer.parametrizations.weight.original.detach().flatten().numpy()
        assert arrays["correlation"][n] == pytest.approx(np.corrcoef(used, back)[0, 1], abs=1e-6)
        same = np.sign(random) == np.sign(back)
        assert arrays["kept"][n] == pytest.approx(100 * same[used != 0].mean())
        assert arrays["dropped"][n] == pytest.approx(100 * same[used == 0].mean())
        kept.append(arrays["kept"][n])
        assert abs(arrays["permuted"][n]).max() < 5 / len(used) ** 0.5
        assert arrays["permuted"][n].std() == pytest.approx(len(used) ** -0.5, rel=0.6)
    assert result["kept"] == pytest.approx(np.mean(kept[1:]))
    assert result["first_layer"] == pytest.approx(
        (arrays["correlation"][0] - arrays["permuted"][0].mean()) / arrays["permuted"][0].std()
    )


def test_direct_feedback_begins_in_evaluation(trained):
    assert 0 < left(trained, HIDDEN, "direct")[1]["angle"] < 180


def test_chance_is_a_failure_of_backpropagation_alone(trained):
    at_chance = [failed(HIDDEN.resolved, left(trained, HIDDEN, path)[1] | {"accuracy": 10.0}) for path in PATHS[:3:2]]
    assert at_chance == [True, False]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="through='axons' is unknown"):
        FeedbackAlignment("axons")
    text = {"net": "transformer.layers_1", "data": "text.TextData", "task": "text.NextToken", "train_images": 200}
    with pytest.raises(ValueError, match=r"blocks\.0\.attention\.in_proj_weight', which is no linear layer"):
        begun("random", Run(**text, epochs=1))
