"""Every architecture hides, runs and reveals; so do shared layers, wrappers, copies and compiled models."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hiding import conv_net
from torch import Tensor, nn

from lit_hidden.edge_popup import hide, maskers, original_weight, reveal, weight_layers
from lit_hidden.selection import kept
from lit_hidden.subnetwork import fingerprint


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


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_timms_models_with_depthwise_convolutions_too(name: str) -> None:
    import timm

    net = timm.create_model(name, num_classes=5, **{"img_size": 32} if name == "test_vit" else {})
    expected = [n.removesuffix(".weight") for n, p in net.named_parameters() if n.endswith("weight") and p.ndim > 1]
    assert check_any(net, torch.randn(2, 3, 32, 32)) == expected


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(4, 3), (2, 4)),
        (lambda: nn.Conv3d(2, 4, 3), (2, 2, 5, 5, 5)),
        (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
        (lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
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


@pytest.mark.parametrize("how", [{}, {"kdim": 6, "vdim": 4}, {"vdim": 4}, {"kdim": 6, "vdim": 4, "add_bias_kv": True}])
def test_attention_with_one_projection_and_with_separate_ones(how: dict[str, Any]) -> None:
    projections = ["q_proj_weight", "k_proj_weight", "v_proj_weight"] if how else ["in_proj_weight"]
    expected = [f"attention.{name}" for name in (*projections, "out_proj")]
    assert check_any(Attention(**how), torch.randn(2, 5, 8)) == expected


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


def test_wrappers_have_the_weights_scores_and_fingerprint_of_the_model_inside() -> None:
    assert "module.0" in maskers(hide(nn.DataParallel(conv_net())))
    plain, wrapped = hide(conv_net()), hide(torch.compile(conv_net(), backend="eager"))
    for name, masker in maskers(plain).items():
        assert torch.equal(original_weight(plain, name), original_weight(wrapped, name))
        assert torch.equal(masker.mask(), maskers(wrapped)[name].mask())
    assert fingerprint(plain) == fingerprint(wrapped)
    assert all(p.requires_grad for p in reveal(wrapped).parameters())


def test_a_deep_copy_is_independent_and_may_be_revealed_alone() -> None:
    net, x = hide(nn.Sequential(conv_net(), nn.MultiheadAttention(4, 2))), torch.randn(2, 1, 8, 8)
    expected, twin = net[0](x), copy.deepcopy(net)
    assert twin._lit_hidden == net._lit_hidden
    with torch.no_grad():
        maskers(copy.deepcopy(net))["0.0"].scores.neg_().add_(1)
    reveal(twin)
    assert torch.equal(net[0](x), expected)
    assert torch.equal(twin[0](x), expected)
    assert list(maskers(net)) == ["0.0", "0.4", "1.in_proj_weight", "1.out_proj"]
    assert torch.equal(reveal(net)[0](x), expected)


def test_the_compiled_and_the_exported_model_have_the_same_output_and_gradients() -> None:
    net, x = hide(conv_net()), torch.randn(4, 1, 8, 8)
    twin = copy.deepcopy(net)
    wrapped = torch.compile(twin, fullgraph=True, backend="aot_eager")
    out, compiled = net(x), wrapped(x)
    out.pow(2).sum().backward()
    compiled.pow(2).sum().backward()
    torch.testing.assert_close(compiled, out)
    for mine, theirs in zip(maskers(net).values(), maskers(twin).values(), strict=True):
        torch.testing.assert_close(theirs.scores.grad, mine.scores.grad)
    expected = net.eval()(x)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)
    assert torch.equal(torch.export.export(reveal(net), (x,)).module()(x), expected)


def test_stacked_models_run_and_differentiate_under_vmap_either_way_round() -> None:
    nets, x = [hide(conv_net(), 0.3, seed=s) for s in range(3)], torch.randn(4, 1, 8, 8)
    parameters, _ = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0])
    scores = {n: p.detach() for n, p in parameters.items() if n.endswith("scores")}
    frozen = {n: p.detach() for n, p in parameters.items() if not n.endswith("scores")}

    def run(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(base, parameters, (x,))  # type: ignore[no-any-return]

    out = torch.func.vmap(run, in_dims=(0, None))(parameters, x)
    out.pow(2).sum().backward()
    inside = torch.func.vmap(torch.func.grad(lambda s, w: run(s | w, x).pow(2).sum()))(scores, frozen)
    for i, net in enumerate(nets):
        alone = net(x)
        torch.testing.assert_close(out[i], alone, rtol=1e-4, atol=1e-5)
        alone.pow(2).sum().backward()
        for name, masker in maskers(net).items():
            place = f"{name}.parametrizations.weight.0.scores"
            torch.testing.assert_close(parameters[place].grad[i], masker.scores.grad, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(inside[place][i], masker.scores.grad, rtol=1e-4, atol=1e-4)
