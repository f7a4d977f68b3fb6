"""The parametrization: masks against a sort, gradients against autograd, training against a plain implementation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hiding import conv_net, masker_of
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lit_hidden.edge_popup import EdgePopup, hide, maskers, original_weight


def by_sorting(scores: Tensor, density: float) -> Tensor:
    order = scores.detach().abs().flatten().sort(stable=True).indices
    mask = torch.ones(scores.numel())
    mask[order[: int((1 - density) * scores.numel())]] = 0
    return mask.view(scores.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_score_gradient_is_that_of_the_effective_weight_times_weight_times_sign(dtype: torch.dtype) -> None:
    layer, x = hide(nn.Conv2d(3, 5, 3, bias=False, dtype=dtype), 0.3), torch.randn(4, 3, 6, 6, dtype=dtype)
    with torch.no_grad():
        masker_of(layer).scores[0, 0, 0, 0] = 0  # sign(0) = 0: an edge whose score is exactly 0 does not move
    effective = layer.weight.detach().requires_grad_()
    F.conv2d(x, effective).pow(3).sum().backward()
    layer(x).pow(3).sum().backward()
    expected = (effective.grad * original_weight(layer, "weight")).float() * masker_of(layer).scores.sign()
    assert torch.equal(masker_of(layer).scores.grad, expected)
    assert masker_of(layer).scores.grad[0, 0, 0, 0] == 0
    assert expected.count_nonzero() == expected.numel() - 1


def test_a_weight_that_wants_a_gradient_gets_it_through_the_mask() -> None:
    weight, aim = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    masker = EdgePopup(weight, 0.4)
    (masker(weight) * aim).sum().backward()
    assert torch.equal(weight.grad, aim * masker.mask())
    assert torch.equal(masker.scores.grad, aim * weight.detach() * masker.scores.sign())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype_layout_and_defaults_do_not_change_the_subnetwork_under_float32_scores(dtype: torch.dtype) -> None:
    expected = hide(nn.Conv2d(4, 8, 3), distribution="kaiming_normal")
    torch.set_default_dtype(torch.float64)
    try:
        layer = nn.Conv2d(4, 8, 3, dtype=dtype).to(memory_format=torch.channels_last)
        hide(layer, distribution="kaiming_normal")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(layer.weight, expected.weight.to(dtype))
    assert torch.equal(masker_of(layer).scores, masker_of(expected).scores)
    assert layer.weight.stride() == masker_of(layer).scores.stride() == (36, 1, 12, 4)
    layer(torch.randn(2, 4, 5, 5, dtype=dtype)).sum().backward()
    assert (layer.weight.dtype, masker_of(layer).scores.grad.dtype) == (dtype, torch.float32)


def test_autocast_computes_in_bfloat16_with_float32_scores_and_gradients() -> None:
    net = hide(conv_net())
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.randn(4, 1, 8, 8))
    logits.float().pow(2).sum().backward()
    assert logits.dtype == torch.bfloat16
    for masker in maskers(net).values():
        assert masker.scores.dtype == masker.scores.grad.dtype == torch.float32
        assert masker.scores.grad.count_nonzero() > 0


def test_a_half_precision_gradient_that_would_vanish_reaches_the_scores() -> None:
    weight = torch.full((2, 2), 1e-4, dtype=torch.float16)
    masker = EdgePopup(weight, 1.0)
    masker(weight).backward(torch.full((2, 2), 1e-4, dtype=torch.float16))
    torch.testing.assert_close(masker.scores.grad.abs(), torch.full((2, 2), 1e-8), rtol=1e-2, atol=0)


def batches() -> list[tuple[Tensor, Tensor]]:
    data = load_digits()
    images = torch.from_numpy(data.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))[: 25 * 64].view(25, 64)
    return [(images[i], labels[i]) for i in order]


def cosine(epoch: int) -> float:
    return 0.1 * 0.5 * (1 + math.cos(math.pi * epoch / 4))


def plainly(weights: list[Tensor], scores: list[Tensor], density: float) -> tuple[list[Tensor], list[float]]:
    """Edge-popup from its definition: no module, no autograd.Function, no optimizer; a full stable sort."""
    velocity: list[Tensor | None] = [None] * len(scores)
    losses = []
    for epoch in range(4):
        for images, labels in batches():
            effective = [(w * by_sorting(s, density)).requires_grad_() for w, s in zip(weights, scores, strict=True)]
            features = F.max_pool2d(F.relu(F.conv2d(images, effective[0], padding=1)), 2)
            loss = F.cross_entropy(F.linear(features.flatten(1), effective[1]), labels)
            loss.backward()
            losses.append(loss.item())
            for i, (w, s) in enumerate(zip(weights, scores, strict=True)):
                gradient = (effective[i].grad * w * s.sign()).add(s, alpha=1e-4)
                velocity[i] = gradient if velocity[i] is None else velocity[i].mul(0.9).add(gradient)
                scores[i] = s.add(velocity[i], alpha=-cosine(epoch))
    return scores, losses


def test_a_hundred_steps_of_training_equal_a_plain_implementation_bit_for_bit() -> None:
    density = 0.3
    net = hide(conv_net(), density, distribution="kaiming_normal")
    layers = list(maskers(net))
    weights = [original_weight(net, name).detach().clone() for name in layers]
    start = [m.scores.detach().clone() for m in maskers(net).values()]
    first = [m.mask() for m in maskers(net).values()]
    expected, expected_losses = plainly(weights, list(start), density)

    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], momentum=0.9, weight_decay=1e-4)
    losses = []
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = cosine(epoch)
        for images, labels in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    assert len(losses) == 100
    assert losses == expected_losses
    for name, scores, weight, before in zip(layers, expected, weights, first, strict=True):
        assert torch.equal(maskers(net)[name].scores, scores)
        assert torch.equal(maskers(net)[name].mask(), by_sorting(scores, density).bool())
        assert torch.equal(original_weight(net, name), weight)  # a weight never changes
        assert not torch.equal(maskers(net)[name].mask(), before)  # a mask does
    assert sum(losses[-25:]) < 0.95 * sum(losses[:25])  # and it does learn
