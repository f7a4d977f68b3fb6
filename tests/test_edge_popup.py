import copy
import functools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from lit_hidden.distributions import draw, layer_generator
from lit_hidden.edge_popup import (
    EdgePopup,
    Hiding,
    Masker,
    check_density,
    hide,
    maskers,
    original_weight,
    reveal,
    weight_layers,
)
from lit_hidden.selection import kept
from lit_hidden.subnetwork import fingerprint

Photograph = Callable[[nn.Module], Any]
DRAWN = ["kaiming_normal", "signed_constant"]


def popup(layer: nn.Module) -> EdgePopup:
    return layer.parametrizations.weight[0]  # type: ignore[no-any-return, index, union-attr]


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10, bias=False),
    )


def normed_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


# --- the parametrization ---------------------------------------------------------------------------------


def by_sorting(scores: Tensor, density: float) -> Tensor:
    order = scores.detach().abs().flatten().sort(stable=True).indices
    mask = torch.ones(scores.numel())
    mask[order[: int((1 - density) * scores.numel())]] = 0
    return mask.view(scores.shape)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(30, 40), (8, 4, 3, 3), (5, 4, 3), (2, 3, 3, 4, 5)])
def test_the_effective_weight_is_the_weight_times_the_sorted_mask(shape: tuple[int, ...], density: float) -> None:
    weight = torch.randn(shape)
    masker = EdgePopup(weight, max(density, 1 / weight.numel()))
    expected = by_sorting(masker.scores, masker.density)
    assert torch.equal(masker(weight), weight * expected)
    assert torch.equal(masker.mask(), expected.bool())
    assert int(masker.mask().sum()) == masker.keep == kept(weight.numel(), masker.density)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_score_gradient_is_that_of_the_effective_weight_times_weight_times_sign(
    dtype: torch.dtype,
) -> None:
    layer, x = hide(nn.Conv2d(3, 5, 3, bias=False, dtype=dtype), 0.3), torch.randn(4, 3, 6, 6, dtype=dtype)
    with torch.no_grad():
        popup(layer).scores[0, 0, 0, 0] = 0  # sign(0) = 0: an edge whose score is exactly 0 does not move
    effective = layer.weight.detach().requires_grad_()
    F.conv2d(x, effective).pow(3).sum().backward()
    layer(x).pow(3).sum().backward()
    expected = (effective.grad * original_weight(layer, "weight")).float() * popup(layer).scores.sign()
    assert torch.equal(popup(layer).scores.grad, expected)
    assert popup(layer).scores.grad[0, 0, 0, 0] == 0
    assert expected.count_nonzero() == expected.numel() - 1


def test_dead_edges_receive_gradient_and_can_come_back() -> None:
    layer, x = hide(nn.Linear(6, 4, bias=False), 0.5), torch.randn(50, 6)
    target = F.linear(x, original_weight(layer, "weight") * ~popup(layer).mask())
    start = popup(layer).mask()
    layer(x).sub(target).pow(2).mean().backward()
    assert (popup(layer).scores.grad[~start] != 0).all()
    optimizer = torch.optim.SGD([popup(layer).scores], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        layer(x).sub(target).pow(2).mean().backward()
        optimizer.step()
    assert torch.equal(popup(layer).mask(), ~start)


def test_a_weight_that_wants_a_gradient_gets_it_through_the_mask() -> None:
    weight = torch.randn(6, 7, requires_grad=True)
    masker, factor = EdgePopup(weight, 0.4), torch.randn(6, 7)
    (masker(weight) * factor).sum().backward()
    assert torch.equal(weight.grad, factor * masker.mask())
    assert torch.equal(masker.scores.grad, factor * weight.detach() * masker.scores.sign())


def test_a_frozen_weight_gets_no_gradient() -> None:
    layer = hide(nn.Linear(4, 3))
    layer(torch.randn(2, 4)).sum().backward()
    assert original_weight(layer, "weight").grad is None
    assert layer.bias.grad is None


def test_the_gradient_of_the_gradient_is_finite_difference_of_it() -> None:
    weight, factor = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    masker = EdgePopup(weight, 0.5).double()

    def gradient() -> Tensor:
        loss = (masker(weight) * factor).sum().pow(2)
        return torch.autograd.grad(loss, masker.scores, create_graph=True)[0]

    first = gradient()
    (second,) = torch.autograd.grad(first.sum(), masker.scores)
    # d/ds of 2 (sum f w m) f w sign(s), straight through m again: 2 (f w sign(s)) * sum(f w sign(s)).
    edge = factor * weight * masker.scores.detach().sign()
    torch.testing.assert_close(second, 2 * edge * edge.sum())


def test_scores_start_kaiming_uniform_with_a_root_of_five() -> None:
    weight = torch.empty(64, 32, 3, 3)
    scores = EdgePopup(weight, 0.5, generator=torch.Generator().manual_seed(5)).scores
    expected = torch.empty(64, 32, 3, 3)
    nn.init.kaiming_uniform_(expected, a=math.sqrt(5), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(scores.detach(), expected, rtol=1e-6, atol=1e-8)  # how it is rounded is free
    bound = 1 / math.sqrt(32 * 9)
    assert 0.99 * bound < scores.abs().max() <= bound
    assert scores.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_scores_are_float32_learnable_and_laid_out_as_the_weight() -> None:
    weight = torch.randn(8, 4, 3, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    masker = EdgePopup(weight, 0.5)
    assert masker.scores.dtype == torch.float32
    assert masker.scores.stride() == weight.stride()
    assert [name for name, _ in masker.named_parameters()] == ["scores"]
    assert masker(weight).dtype == torch.bfloat16


def test_memory_layout_and_defaults_do_not_change_the_subnetwork() -> None:
    expected = hide(nn.Conv2d(4, 8, 3), distribution="kaiming_normal")
    last = hide(nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last), distribution="kaiming_normal")
    torch.set_default_dtype(torch.float64)
    try:
        double = hide(nn.Conv2d(4, 8, 3, dtype=torch.float32), distribution="kaiming_normal")
    finally:
        torch.set_default_dtype(torch.float32)
    for other in (last, double):
        assert torch.equal(other.weight, expected.weight)
        assert torch.equal(popup(other).scores, popup(expected).scores)
    assert last.weight.stride() == (36, 1, 12, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes_hide_the_same_subnetwork_under_float32_scores(dtype: torch.dtype) -> None:
    layer = hide(nn.Linear(16, 8, dtype=dtype), 0.3)
    assert torch.equal(popup(layer).mask(), popup(hide(nn.Linear(16, 8), 0.3)).mask())
    layer(torch.randn(2, 16, dtype=dtype)).sum().backward()
    assert (layer.weight.dtype, popup(layer).scores.grad.dtype) == (dtype, torch.float32)


def test_autocast_computes_in_bfloat16_with_float32_scores_and_gradients() -> None:
    net = hide(conv_net())
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.randn(4, 1, 8, 8))
    logits.float().pow(2).sum().backward()
    assert logits.dtype == torch.bfloat16
    for masker in maskers(net).values():
        assert masker.scores.dtype == masker.scores.grad.dtype == torch.float32
        assert masker.scores.grad.count_nonzero() > 0


def test_printing_says_how_much_is_kept() -> None:
    assert "EdgePopup(density=0.3, keeps 4 of 12)" in repr(hide(nn.Linear(4, 3), 0.3))


DENSITY = "density is the fraction kept and must lie in (0, 1] and keep at least one"


@pytest.mark.parametrize(
    ("density", "numel", "message"),
    [
        (0, 20, f"density=0 keeps 0 of 20 weights; {DENSITY}"),
        (-0.5, 20, f"density=-0.5 keeps -10 of 20 weights; {DENSITY}"),
        (1.5, 20, f"density=1.5 keeps 30 of 20 weights; {DENSITY}"),
        (1e-20, 20, f"density=1e-20 keeps 0 of 20 weights; {DENSITY}"),
        (math.nan, 20, f"density=nan keeps no meaningful number of 20 weights; {DENSITY}"),
        (math.inf, 20, f"density=inf keeps no meaningful number of 20 weights; {DENSITY}"),
        (0.5, 0, f"density=0.5 keeps 0 of 0 weights; {DENSITY}"),
    ],
)
def test_a_density_that_cannot_be_is_refused(density: float, numel: int, message: str) -> None:
    assert refusal(lambda: check_density(density, numel)) == message
    assert refusal(lambda: EdgePopup(torch.empty(numel, 1), density)) == message


def test_a_density_beyond_floating_point_is_refused_like_any_other() -> None:
    message = f"density=1e+308 keeps no meaningful number of 20 weights; {DENSITY}"
    assert refusal(lambda: check_density(1e308, 20)) == message


# --- training, against a plain implementation ------------------------------------------------------------


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


@pytest.mark.parametrize("distribution", DRAWN)
@pytest.mark.parametrize("density", [0.3, 0.5])
def test_a_hundred_steps_of_training_equal_a_plain_implementation_bit_for_bit(
    distribution: str, density: float
) -> None:
    net = hide(conv_net(), density, distribution=distribution)
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


# --- hide ------------------------------------------------------------------------------------------------


def test_hide_returns_the_model_and_masks_every_layer_exactly() -> None:
    net = conv_net()
    assert hide(net, 0.3) is net
    assert list(maskers(net)) == ["0", "4"]
    for name, numel in (("0", 72), ("4", 1280)):
        assert int(maskers(net)[name].mask().sum()) == numel - int(0.7 * numel)
        assert int(net.get_submodule(name).weight.count_nonzero()) == numel - int(0.7 * numel)


def test_only_the_scores_want_a_gradient() -> None:
    net = hide(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.MultiheadAttention(4, 2)))
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        "1.parametrizations.weight.0.scores",
        "3.parametrizations.in_proj_weight.0.scores",
        "3.out_proj.parametrizations.weight.0.scores",
    }


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm1d(6),
        lambda: nn.LayerNorm(6),
        lambda: nn.GroupNorm(2, 6),
        lambda: nn.RMSNorm(6),
        lambda: nn.SyncBatchNorm(6),
        lambda: nn.InstanceNorm1d(6, affine=True),
    ],
)
def test_norm_layers_become_neutral(norm: Callable[[], nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(4, 6), norm())
    for parameter in net[1].parameters():
        nn.init.normal_(parameter)
    hide(net)
    assert (net[1].weight == 1).all()
    assert getattr(net[1], "bias", None) is None or (net[1].bias == 0).all()
    assert not any(p.requires_grad for p in net[1].parameters())


def test_running_statistics_still_update() -> None:
    net = hide(normed_net()).train()
    net(torch.randn(4, 3, 6, 6) + 2)
    assert net[1].num_batches_tracked == 1
    assert (net[1].running_mean != 0).all()


def test_biases_of_hidden_layers_are_zero_and_those_of_skipped_layers_stay() -> None:
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    nn.init.normal_(attention.in_proj_bias)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4), attention)
    kept_bias = net[1].bias.clone()
    hide(net, skip=["1"])
    assert torch.equal(net[1].bias, kept_bias)
    for zero in (
        net[0].bias,
        attention.in_proj_bias,
        attention.bias_k,
        attention.bias_v,
        attention.out_proj.bias,
    ):
        assert (zero == 0).all()


def test_skipped_layers_are_frozen_with_the_weights_they_have() -> None:
    net = conv_net()
    before = net[4].weight.clone()
    hide(net, skip={"4"})
    assert list(maskers(net)) == ["0"]
    assert not parametrize.is_parametrized(net[4])
    assert torch.equal(net[4].weight, before)
    assert not net[4].weight.requires_grad


def test_other_parameters_stay_as_they_came() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.embedding = nn.Parameter(torch.randn(4)), nn.Embedding(3, 4)
            self.linear = nn.Linear(4, 4)

    net = Tokens()
    token, embedding = net.token.clone(), net.embedding.weight.clone()
    hide(net)
    assert torch.equal(net.token, token)
    assert torch.equal(net.embedding.weight, embedding)


@pytest.mark.parametrize("mode", [True, False])
def test_the_training_mode_stays(mode: bool) -> None:
    net = hide(normed_net().train(mode))
    assert all(module.training is mode for module in [net, *net, *maskers(net).values()])


def test_distribution_none_keeps_the_weights_there_are() -> None:
    net = conv_net()
    before = [net[0].weight.detach().clone(), net[4].weight.detach().clone()]
    hide(net, distribution=None)
    for name, weight in zip(("0", "4"), before, strict=True):
        assert torch.equal(original_weight(net, name), weight)


@pytest.mark.parametrize("distribution", [*DRAWN, "kaiming_uniform"])
@pytest.mark.parametrize("scaled", [False, True, "authors"])
def test_weights_are_those_the_layers_seed_draws(distribution: str, scaled: Any) -> None:
    net = hide(conv_net(), 0.3, distribution=distribution, scaled=scaled, seed=5)
    for name in ("0", "4"):
        weight = original_weight(net, name)
        generator = layer_generator(5, "weights", name)
        assert torch.equal(weight, draw(weight.shape, distribution, generator, 0.3, scaled))


def test_scores_are_those_the_layers_seed_draws() -> None:
    net = hide(conv_net(), seed=5)
    for name, masker in maskers(net).items():
        expected = torch.empty(masker.scores.shape)
        nn.init.kaiming_uniform_(expected, a=5**0.5, generator=layer_generator(5, "scores", name))
        torch.testing.assert_close(masker.scores.detach(), expected, rtol=1e-6, atol=1e-8)


def test_how_a_model_was_hidden_is_remembered() -> None:
    net = normed_net()
    net[4].bias.requires_grad_(False)
    hide(net, 0.3, distribution="kaiming_normal", scaled=True, seed=3, score_seed=8, skip=["4"])
    frozen = ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight")
    assert net._lit_hidden == Hiding(0.3, "kaiming_normal", True, 3, 8, ("4",), "EdgePopup", frozen)


def describe(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {n: original_weight(net, n) for n in maskers(net)}, {n: m.mask() for n, m in maskers(net).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_seeds_reach_weights_and_scores_separately() -> None:
    (weights, masks), both = describe(hide(conv_net())), describe(hide(conv_net(), seed=1))
    other_weights, other_scores = (
        describe(hide(conv_net(), weight_seed=1)),
        describe(hide(conv_net(), score_seed=1)),
    )
    assert same(other_weights[1], masks)
    assert same(other_scores[0], weights)
    assert same(other_weights[0], both[0])
    assert same(other_scores[1], both[1])
    for name in masks:
        assert not torch.equal(weights[name], both[0][name])
        assert not torch.equal(masks[name], both[1][name])


def test_seeds_do_not_depend_on_the_global_random_state_and_leave_it_alone() -> None:
    torch.manual_seed(1)
    net = conv_net()
    state = torch.get_rng_state()
    first = describe(hide(net))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = describe(hide(conv_net()))
    assert same(first[0], second[0])
    assert same(first[1], second[1])


def test_a_layers_draw_does_not_depend_on_the_other_layers_or_their_order() -> None:
    def net(*names: str) -> nn.ModuleDict:
        return hide(nn.ModuleDict({n: nn.Linear(6, 6) for n in names}))  # type: ignore[return-value]

    few, many = describe(net("a", "b")), describe(net("c", "b", "extra", "a"))
    for name in ("a", "b"):
        assert torch.equal(few[0][name], many[0][name])
        assert torch.equal(few[1][name], many[1][name])
    assert not torch.equal(few[0]["a"], few[0]["b"])


PROCESS = """
import hashlib
from torch import nn
from lit_hidden import edge_popup

def find(names):
    digest = hashlib.sha256()
    net = nn.ModuleDict({n: nn.Linear(200, 30) for n in names} | {"a": nn.MultiheadAttention(8, 2, kdim=4)})
    edge_popup.hide(net, 0.3, distribution="kaiming_normal", seed=11, skip={"skip", "a.out_proj"})
    for name, masker in edge_popup.maskers(net).items():
        digest.update(name.encode() + edge_popup.original_weight(net, name).numpy().tobytes())
        digest.update(masker.scores.detach().numpy().tobytes() + masker.mask().numpy().tobytes())
    return digest.hexdigest()
"""


def test_the_same_seed_gives_the_same_subnetwork_in_another_process_and_with_another_thread_count(
    python: Callable[..., str],
) -> None:
    here: dict[str, Any] = {}
    exec(PROCESS, here)
    expected = here["find"](["fc", "skip", "other"])
    code = PROCESS + "print(find(['fc', 'skip', 'other']))"
    assert python(code, PYTHONHASHSEED="1", OMP_NUM_THREADS="2", MKL_NUM_THREADS="2") == expected


def test_the_subnetwork_of_seed_zero_is_pinned() -> None:
    net = hide(nn.Conv2d(4, 8, 3, bias=False))
    signs = "".join("+" if w > 0 else "-" for w in original_weight(net, "weight").flatten()[:24].tolist())
    bits = "".join(str(int(m)) for m in popup(net).mask().flatten()[:24].tolist())
    assert (signs, bits) == PIN


PIN = ("++++---++--+-----++-----", "111111011100011110010001")


# --- any model -------------------------------------------------------------------------------------------


def check_any(net: nn.Module, x: Tensor, density: float = 0.5) -> list[str]:
    """Hide, run, differentiate, reveal: what must hold for every architecture."""
    names = [n for n, _ in net.named_parameters()]
    trainable = {n: p.requires_grad for n, p in net.named_parameters()}
    classes = {n: type(m) for n, m in net.named_modules()}
    hide(net, density)
    found = maskers(net)
    assert found.keys() == weight_layers(net).keys()
    for masker in found.values():
        assert int(masker.mask().sum()) == kept(masker.mask().numel(), density)
    out = net(x)
    out.float().pow(2).sum().backward()
    assert all(m.scores.grad is not None and m.scores.grad.count_nonzero() for m in found.values())
    assert {n for n, p in net.named_parameters() if p.grad is not None} == {
        n for n, p in net.named_parameters() if n.endswith(".scores")
    }
    net.eval()
    with torch.no_grad():
        hidden = net(x)
        effective = {n: getattr(m, a).clone() for n, (m, a) in weight_layers(net).items()}
        reveal(net)
        assert all(torch.equal(getattr(m, a), effective[n]) for n, (m, a) in weight_layers(net).items())
        # Not bit for bit: a plain parameter sends attention down another kernel.
        torch.testing.assert_close(net(x), hidden, rtol=1e-5, atol=1e-6)
    assert sorted(n for n, _ in net.named_parameters()) == sorted(names)
    assert {n: p.requires_grad for n, p in net.named_parameters()} == trainable
    assert {n: type(m) for n, m in net.named_modules()} == classes
    return list(found)


def test_torchvisions_resnet() -> None:
    from torchvision.models import resnet18

    layers = check_any(resnet18(num_classes=5), torch.randn(2, 3, 32, 32))
    assert len(layers) == 21
    assert {"conv1", "layer2.0.downsample.0", "fc"} <= set(layers)


def test_torchvisions_mobilenet_with_depthwise_convolutions() -> None:
    from torchvision.models import mobilenet_v3_small

    layers = check_any(mobilenet_v3_small(num_classes=5), torch.randn(2, 3, 64, 64))
    assert len(layers) == 54


def test_torchvisions_vision_transformer() -> None:
    from torchvision.models import VisionTransformer

    net = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    nn.init.normal_(net.heads.head.weight)
    layers = check_any(net, torch.randn(2, 3, 16, 16))
    assert "encoder.layers.encoder_layer_1.self_attention.in_proj_weight" in layers
    assert "encoder.layers.encoder_layer_1.self_attention.out_proj" in layers
    assert len(layers) == 2 + 2 * 4


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}),
        ("resnet10t", {}),
        ("test_convnext", {}),
    ],
)
def test_timms_models(name: str, arguments: dict[str, Any]) -> None:
    import timm

    net = timm.create_model(name, num_classes=5, **arguments)
    check_any(net, torch.randn(2, 3, *(32, 32) if "img_size" in arguments else (64, 64)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(4, 3), (2, 4)),
        (lambda: nn.Conv1d(4, 6, 3), (2, 4, 8)),
        (lambda: nn.Conv3d(2, 4, 3), (2, 2, 5, 5, 5)),
        (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
        (lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
        (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 8)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
        (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 2, 4, 4, 4)),
        (lambda: nn.Linear(1, 1, bias=False), (2, 1)),
    ],
)
def test_every_kind_of_layer_alone(layer: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert check_any(layer(), torch.randn(shape)) == ["weight"]


class Attention(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **how)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        key, value = (x[..., : self.how.get(k, 8)] for k in ("kdim", "vdim"))
        return self.attention(x, key, value)[0]  # type: ignore[no-any-return]


def test_attention_with_one_projection() -> None:
    assert check_any(Attention(), torch.randn(2, 5, 8)) == ["attention.in_proj_weight", "attention.out_proj"]


@pytest.mark.parametrize("how", [{"kdim": 6, "vdim": 4}, {"vdim": 4}, {"kdim": 6, "vdim": 4, "add_bias_kv": True}])
def test_attention_with_separate_projections(how: dict[str, Any]) -> None:
    layers = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"]
    assert check_any(Attention(**how), torch.randn(2, 5, 8)) == [f"attention.{n}" for n in layers]


def test_a_transformers_fast_path_sees_the_masked_weights() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net, x = (
        hide(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 0.3).eval(),
        torch.randn(2, 5, 8),
    )
    with torch.no_grad():
        fast = net(x)
    slow = net(x)  # with gradients there is no fast path
    assert slow.requires_grad
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            assert int(module.weight.count_nonzero()) == kept(module.weight.numel(), 0.3)


def test_a_layer_used_in_two_places_has_one_mask() -> None:
    layer = nn.Linear(6, 6, bias=False)
    net, x = hide(nn.Sequential(layer, nn.ReLU(), layer)), torch.randn(3, 6)
    assert list(maskers(net)) == ["0"]
    assert torch.equal(net(x), F.linear(F.linear(x, layer.weight).relu(), layer.weight))
    reveal(net)
    assert net[0] is net[2]
    assert type(layer) is nn.Linear


def test_data_parallel_and_compiled_wrappers_are_hidden_through() -> None:
    for net, name in (
        (nn.DataParallel(conv_net()), "module.0"),
        (torch.compile(conv_net(), backend="eager"), "0"),
    ):
        assert name in maskers(hide(net))


def test_a_compiled_wrapper_is_given_the_weights_and_scores_of_the_model_inside() -> None:
    plain, wrapped = hide(conv_net()), hide(torch.compile(conv_net(), backend="eager"))
    for name, masker in maskers(plain).items():
        assert torch.equal(original_weight(plain, name), original_weight(wrapped, name))
        assert torch.equal(masker.mask(), maskers(wrapped)[name].mask())
    assert fingerprint(plain) == fingerprint(wrapped)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(reveal(plain)(images), reveal(wrapped)(images))


def test_an_error_in_the_middle_of_hiding_is_undone(photograph) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    net[1].weight.data.fill_(3)
    net[2].weight = nn.Parameter(torch.ones(1, 1).expand(3, 4))  # one number shown twelve times: nobody can write it
    before = photograph(net)
    with pytest.raises(RuntimeError, match="single memory location"):
        hide(net)
    assert photograph(net) == before


def test_weights_tied_through_their_storage_are_tied() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = nn.Parameter(net[0].weight.data.t())
    with pytest.raises(ValueError) as error:
        hide(net)
    assert str(error.value) == (
        "tied weights: 0.weight and 1.weight are one parameter, which cannot have two masks; "
        "untie them (clone one), or skip the layer"
    )


@pytest.mark.parametrize(
    "halves",
    [lambda flat: (flat[:16].view(4, 4), flat[16:].view(4, 4)), lambda flat: flat.view(4, 8).split(4, dim=1)],
    ids=["one after the other", "column by column"],
)
def test_neighbours_in_one_storage_are_not_tied(halves) -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[0].weight, net[1].weight = (nn.Parameter(half) for half in halves(torch.randn(32)))
    assert list(maskers(hide(net))) == ["0", "1"]


def test_a_sparse_parameter_beside_is_no_obstacle() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    net.register_parameter("sparse", nn.Parameter(torch.eye(3).to_sparse()))
    assert list(maskers(hide(net))) == ["0"]


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError) as error:
        hide(net)
    assert str(error.value) == (
        "0.weight, 0.bias were made in inference mode, where nothing can learn; build the model outside it"
    )


def test_layer_names_are_module_paths_and_attributes_other_than_weight() -> None:
    net = nn.ModuleDict({"weight": nn.Linear(2, 2), "a": nn.ModuleDict({"b": nn.Conv2d(1, 1, 1)})})
    net["m"] = nn.MultiheadAttention(4, 2)
    assert list(maskers(hide(net))) == ["weight", "a.b", "m.in_proj_weight", "m.out_proj"]


# --- copies, files, compilers ----------------------------------------------------------------------------


def test_a_deep_copy_is_independent_and_hidden_alike() -> None:
    net, x = hide(normed_net()), torch.randn(2, 3, 6, 6)
    twin = copy.deepcopy(net)
    assert torch.equal(twin.eval()(x), net.eval()(x))
    assert twin._lit_hidden == net._lit_hidden
    with torch.no_grad():
        popup(twin[0]).scores.neg_().add_(1)
    assert not torch.equal(twin(x), net(x))


def test_revealing_a_deep_copy_leaves_the_original_hidden_and_working() -> None:
    net, x = hide(nn.Sequential(conv_net(), nn.MultiheadAttention(4, 2))), torch.randn(2, 1, 8, 8)
    expected = net[0](x)
    twin = reveal(copy.deepcopy(net))
    assert torch.equal(net[0](x), expected)
    assert torch.equal(twin[0](x), expected)
    assert torch.equal(net[1].in_proj_weight, twin[1].in_proj_weight)
    assert type(twin[0][0]) is nn.Conv2d
    assert list(maskers(net)) == ["0.0", "0.4", "1.in_proj_weight", "1.out_proj"]
    reveal(net)
    assert torch.equal(net[0](x), expected)


def test_a_state_dict_round_trip_is_strict_and_exact() -> None:
    net, other, x = hide(normed_net(), seed=1), hide(normed_net(), seed=2), torch.randn(2, 3, 6, 6)
    net(x)
    assert "0.parametrizations.weight.0.scores" in net.state_dict()
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_the_compiled_model_is_one_graph_with_the_same_output_and_gradients() -> None:
    net, x = hide(conv_net()), torch.randn(4, 1, 8, 8)
    twin = copy.deepcopy(net)
    out, compiled = net(x), torch.compile(twin, fullgraph=True, backend="aot_eager")(x)
    out.pow(2).sum().backward()
    compiled.pow(2).sum().backward()
    torch.testing.assert_close(compiled, out)
    for mine, theirs in zip(maskers(net).values(), maskers(twin).values(), strict=True):
        torch.testing.assert_close(theirs.scores.grad, mine.scores.grad)


def test_the_exported_model_gives_the_same_output_hidden_and_revealed() -> None:
    net, x = hide(conv_net()).eval(), torch.randn(4, 1, 8, 8)
    expected = net(x)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)
    assert torch.equal(torch.export.export(reveal(net), (x,)).module()(x), expected)


def ensemble() -> tuple[list[nn.Module], dict[str, Tensor], Callable[..., Tensor], Tensor]:
    nets = [hide(conv_net(), 0.3, seed=s) for s in range(3)]
    parameters, _ = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0])

    def run(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(base, parameters, (x,))  # type: ignore[no-any-return]

    return nets, parameters, run, torch.randn(4, 1, 8, 8)


def test_stacked_models_run_and_differentiate_under_vmap() -> None:
    nets, parameters, run, x = ensemble()
    out = torch.func.vmap(run, in_dims=(0, None))(parameters, x)
    out.pow(2).sum().backward()
    for i, net in enumerate(nets):
        alone = net(x)
        torch.testing.assert_close(out[i], alone, rtol=1e-4, atol=1e-5)
        alone.pow(2).sum().backward()
        for name, masker in maskers(net).items():
            stacked = parameters[f"{name}.parametrizations.weight.0.scores"].grad[i]
            torch.testing.assert_close(stacked, masker.scores.grad, rtol=1e-4, atol=1e-4)


def test_functional_gradients_with_respect_to_the_scores_run_under_vmap() -> None:
    nets, parameters, run, x = ensemble()
    scores = {n: p.detach() for n, p in parameters.items() if n.endswith("scores")}
    frozen = {n: p.detach() for n, p in parameters.items() if not n.endswith("scores")}
    gradient = torch.func.grad(lambda s, w: run(s | w, x).pow(2).sum())
    stacked = torch.func.vmap(gradient)(scores, frozen)
    for i, net in enumerate(nets):
        net(x).pow(2).sum().backward()
        for name, masker in maskers(net).items():
            mine = stacked[f"{name}.parametrizations.weight.0.scores"][i]
            torch.testing.assert_close(mine, masker.scores.grad, rtol=1e-4, atol=1e-4)


# --- reveal ----------------------------------------------------------------------------------------------


def test_reveal_bakes_the_mask_and_gives_a_plain_model_that_pickles() -> None:
    net, x = hide(normed_net(), 0.3), torch.randn(2, 3, 6, 6)
    net(x)
    expected = net.eval()(x)
    assert reveal(net) is net
    assert not maskers(net)
    assert not hasattr(net, "_lit_hidden")
    assert int(net[0].weight.count_nonzero()) == kept(net[0].weight.numel(), 0.3)
    assert [type(m) for m in net] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert torch.equal(net(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
    fresh = normed_net().eval()
    fresh.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(fresh(x), expected)


def test_reveal_gives_back_what_wanted_a_gradient() -> None:
    net = normed_net()
    net[0].weight.requires_grad_(False)
    net[1].bias.requires_grad_(False)
    before = {n: p.requires_grad for n, p in net.named_parameters()}
    assert {n: p.requires_grad for n, p in reveal(hide(net)).named_parameters()} == before
    assert {type(p) for p in net.parameters()} == {nn.Parameter}


def test_a_revealed_model_can_be_hidden_again() -> None:
    net = hide(reveal(hide(conv_net(), 0.1)), 0.7, seed=3)
    fresh = hide(conv_net(), 0.7, seed=3)
    assert same(describe(net)[0], describe(fresh)[0])
    assert same(describe(net)[1], describe(fresh)[1])


def test_a_head_swapped_while_hidden_stays_as_it_is() -> None:
    net = hide(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    net[1] = nn.Linear(4, 2, bias=False)
    reveal(net)
    assert all(p.requires_grad for p in net.parameters())


def test_an_unhidden_model_has_nothing_to_reveal(photograph: Photograph) -> None:
    net = conv_net()
    before = photograph(net)
    assert refusal(lambda: reveal(net)) == "nothing is hidden in this Sequential; reveal undoes hide(model)"
    assert photograph(net) == before


def test_an_unhidden_layer_has_no_original_weight() -> None:
    net = hide(conv_net(), skip=["4"])
    expected = "layer '4' is not hidden; hidden layers are ['0']"
    assert refusal(lambda: original_weight(net, "4")) == expected


# --- failed calls ----------------------------------------------------------------------------------------


def hidden() -> nn.Module:
    return hide(conv_net())


def hidden_deep() -> nn.Module:
    return hide(nn.Sequential(*[nn.Linear(2, 2) for _ in range(11)]))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.out.weight = self.embedding.weight


def pruned() -> nn.Module:
    net = conv_net()
    prune.random_unstructured(net[4], "weight", 0.5)
    return net


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100), nn.Linear(100, 1))


OWNED = "another parametrization, pruning or weight norm owns it; remove that first, or skip the layer"
UNTIE = "are one parameter, which cannot have two masks; untie them (clone one), or skip the layer"
UNREADY = "is not initialised yet; run one forward pass or materialise it before hiding"
FAILURES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "twice": (hidden, {}, "already hidden: 0, 4; reveal(model) first, or hide a fresh model"),
    "twice, many layers": (
        hidden_deep,
        {},
        "already hidden: 0, 1, 2, 3, 4, 5, 6, 7 and 3 more; reveal(model) first, or hide a fresh model",
    ),
    "part is hidden": (
        lambda: nn.Sequential(hide(nn.Linear(2, 2)), nn.Linear(2, 2)),
        {},
        "already hidden: 0; reveal(model) first, or hide a fresh model",
    ),
    "nothing": (
        lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Embedding(3, 3), nn.ReLU()),
        {},
        "nothing to hide: Sequential has no convolution, linear or attention weight",
    ),
    "everything skipped": (
        conv_net,
        {"skip": ["0", "4"]},
        "nothing to hide: skip names every layer of Sequential",
    ),
    "unknown skip": (conv_net, {"skip": ["4", "fc", "5"]}, "skip names no layer: 5, fc; layers are 0, 4"),
    "module that is no layer": (conv_net, {"skip": ["1"]}, "skip names no layer: 1; layers are 0, 4"),
    "tied": (tied, {}, f"tied weights: 0.weight and 2.weight {UNTIE}"),
    "tied, one skipped": (tied, {"skip": ["2"]}, f"tied weights: 0.weight and 2.weight {UNTIE}"),
    "tied to an embedding": (TiedEmbedding, {}, f"tied weights: embedding.weight and out.weight {UNTIE}"),
    "density 0": (conv_net, {"density": 0}, f"density=0 keeps 0 of 72 weights; {DENSITY}"),
    "density above 1": (conv_net, {"density": 1.3}, f"density=1.3 keeps 93 of 72 weights; {DENSITY}"),
    "density below 0": (conv_net, {"density": -0.1}, f"density=-0.1 keeps -7 of 72 weights; {DENSITY}"),
    "density nan": (
        conv_net,
        {"density": math.nan},
        f"density=nan keeps no meaningful number of 72 weights; {DENSITY}",
    ),
    "density keeps nothing of the last layer": (
        narrow,
        {"density": 1e-17},
        f"density=1e-17 keeps 0 of 10000 weights; {DENSITY}",
    ),
    "distribution": (
        normed_net,
        {"distribution": "gauss"},
        "distribution='gauss' is unknown; distributions are ['kaiming_normal', 'signed_constant', "
        "'unsigned_constant', 'kaiming_uniform', 'xavier_normal', 'signed_xavier']",
    ),
    "scaled": (normed_net, {"scaled": "no"}, "scaled='no' is unknown; it is False, True or 'authors'"),
    "scaled to infinity": (
        normed_net,
        {"scaled": "authors", "density": 1},
        "scaled='authors' multiplies weights by 1/sqrt(1 - density), which is infinite at density=1; "
        "use scaled=True or a density below 1",
    ),
    "pruned": (pruned, {}, f"4 has no plain weight parameter: {OWNED}"),
    "spectral norm": (
        lambda: nn.Sequential(nn.Linear(3, 3), parametrizations.spectral_norm(nn.Linear(3, 3))),
        {},
        f"1 has no plain weight parameter: {OWNED}",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.Conv2d(3, 3, 3))),
        {},
        f"1 has no plain weight parameter: {OWNED}",
    ),
    "meta": (on_meta, {}, f"0 {UNREADY}"),
    "lazy": (lambda: nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3)), {}, f"1 {UNREADY}"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_call_says_why_and_leaves_the_model_as_it_was(case: str, photograph: Photograph) -> None:
    make, arguments, message = FAILURES[case]
    net = make()
    for module in net.modules():  # so that a neutralised norm layer would show
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    before = photograph(net)
    assert refusal(lambda: hide(net, **arguments)) == message
    assert photograph(net) == before


class Bad(EdgePopup):
    """A masker that works on the first layer and misbehaves on the second, which is wider."""

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        if weight.numel() > 100:
            self.misbehave(weight)

    def misbehave(self, weight: Tensor) -> None: ...


class RaisesWhenBuilt(Bad):
    def misbehave(self, weight: Tensor) -> None:
        raise RuntimeError("boom")


class RaisesWhenCalled(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        if weight.numel() > 100:
            raise RuntimeError("boom")
        return super().forward(weight)


class OtherShape(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.flatten() if weight.numel() > 100 else weight


class OtherDtype(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.double() if weight.numel() > 100 else weight


class ThrowsDiceWhenBuilt(Bad):
    def misbehave(self, weight: Tensor) -> None:
        torch.rand(1)
        raise RuntimeError("boom")


class RaisesWhenInverted(Bad):
    def right_inverse(self, weight: Tensor) -> Tensor:
        if weight.numel() > 100:
            raise RuntimeError("boom")
        return weight


class WritesIntoTheWeight(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        weight.zero_()
        raise RuntimeError("boom")


def no_module(weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> Any:
    return lambda weight: weight


@pytest.mark.parametrize(
    "masker",
    [
        RaisesWhenBuilt,
        RaisesWhenCalled,
        ThrowsDiceWhenBuilt,
        RaisesWhenInverted,
        WritesIntoTheWeight,
        no_module,
    ],
)
def test_a_masker_that_fails_leaves_the_model_as_it_was(masker: Any, photograph: Photograph) -> None:
    net = normed_net()
    nn.init.normal_(net[1].weight)
    before = photograph(net)
    with pytest.raises(Exception):  # noqa: B017 - whatever the masker raises
        hide(net, masker=masker)
    assert photograph(net) == before


@pytest.mark.parametrize(
    ("masker", "message"),
    [
        (
            OtherShape,
            "masker OtherShape turns 0 from (6, 3, 3, 3) torch.float32 into (162,) torch.float32; "
            "it must keep shape and dtype",
        ),
        (
            OtherDtype,
            "masker OtherDtype turns 0 from (6, 3, 3, 3) torch.float32 into (6, 3, 3, 3) torch.float64; "
            "it must keep shape and dtype",
        ),
    ],
)
def test_a_masker_that_changes_shape_or_dtype_is_refused(masker: Any, message: str, photograph: Photograph) -> None:
    net = normed_net()
    before = photograph(net)
    assert refusal(lambda: hide(net, masker=masker)) == message
    assert photograph(net) == before


def test_a_masker_that_is_no_masker_is_refused_since_reveal_could_not_find_it() -> None:
    class Identity(nn.Module):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

        def forward(self, weight: Tensor) -> Tensor:
            return weight

    with pytest.raises((TypeError, ValueError)):
        hide(conv_net(), masker=Identity)  # type: ignore[arg-type]


def test_a_masker_may_throw_the_global_dice_without_anyone_noticing() -> None:
    class Dice(EdgePopup):
        def __init__(self, weight: Tensor, density: float, **_: Any) -> None:
            super().__init__(weight, density)

    net, state = conv_net(), torch.get_rng_state()
    hide(net, masker=Dice)
    assert torch.equal(torch.get_rng_state(), state)


def test_any_callable_that_gives_a_masker_will_do() -> None:
    net = hide(conv_net(), masker=functools.partial(EdgePopup))
    assert all(isinstance(m, Masker) for m in maskers(net).values())
    assert net._lit_hidden.masker == "partial"


def test_a_masker_must_say_which_weights_stay() -> None:
    with pytest.raises(NotImplementedError):
        Masker().mask()


def test_hiding_under_no_grad_still_trains() -> None:
    net = conv_net()
    with torch.no_grad():
        hide(net)
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(m.scores.grad is not None for m in maskers(net).values())


def test_one_string_to_skip_is_refused_and_not_read_letter_by_letter():
    with pytest.raises(ValueError) as error:
        hide(nn.Sequential(nn.Linear(4, 4)), 0.5, skip="0")
    assert str(error.value) == "skip='0' is one string; give a list of layers, such as ['0']"


def test_complex_weights_are_refused():
    with pytest.raises(ValueError) as error:
        hide(nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64)), 0.5)
    assert str(error.value) == "0 has complex weights (torch.complex64), which have no sign to learn by; skip the layer"


def test_a_half_precision_gradient_that_would_vanish_reaches_the_scores():
    weight = torch.full((2, 2), 1e-4, dtype=torch.float16)
    popup = EdgePopup(weight, 1.0)
    popup(weight).backward(torch.full((2, 2), 1e-4, dtype=torch.float16))
    torch.testing.assert_close(popup.scores.grad.abs(), torch.full((2, 2), 1e-8), rtol=1e-2, atol=0)
