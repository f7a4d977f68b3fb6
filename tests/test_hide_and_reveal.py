"""What `hide` draws, freezes and masks, which seed reaches what, and what `reveal` gives back."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hiding import conv_net, describe, masker_of, mixed_net, same
from torch import nn
from torch.nn.utils import parametrize

from lit_hidden.distributions import draw, layer_generator
from lit_hidden.edge_popup import EdgePopup, Hiding, hide, maskers, original_weight, reveal
from lit_hidden.selection import kept


@pytest.mark.parametrize("norm", [
    nn.BatchNorm1d(6), nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.RMSNorm(6), nn.SyncBatchNorm(6),
    nn.InstanceNorm1d(6, affine=True),
])  # fmt: skip
def test_norm_layers_become_neutral(norm: nn.Module) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    hide(nn.Sequential(nn.Linear(4, 6), norm))
    assert (norm.weight == 1).all()
    assert getattr(norm, "bias", None) is None or (norm.bias == 0).all()
    assert not any(p.requires_grad for p in norm.parameters())


def test_biases_of_hidden_layers_are_0_and_only_the_scores_want_a_gradient() -> None:
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    nn.init.normal_(attention.in_proj_bias)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Conv2d(3, 4, 1), attention)
    net.register_parameter("token", nn.Parameter(torch.randn(4)))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    hide(net, skip={"0", "1", "token"})
    for name, parameter in net.named_parameters():
        if name in ("token", "0.weight", "1.weight", "1.bias"):
            assert torch.equal(parameter, before[name])
        elif "bias" in name:
            assert (parameter == 0).all(), name
    assert not parametrize.is_parametrized(net[1])
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        "2.parametrizations.weight.0.scores",
        "3.parametrizations.in_proj_weight.0.scores",
        "3.out_proj.parametrizations.weight.0.scores",
    }


def test_how_a_model_was_hidden_is_remembered() -> None:
    net = mixed_net()
    net[0].bias.requires_grad_(False)
    assert hide(net, 0.3, distribution="kaiming_normal", scaled=True, seed=3, score_seed=8, skip=["4"]) is net
    frozen = ("0.weight", "1.weight", "1.bias", "4.weight")
    arguments = {"density": 0.3, "distribution": "kaiming_normal", "scaled": True, "weight_seed": 3, "score_seed": 8}
    assert net._lit_hidden == Hiding(arguments | {"skip": ["4"], "masker": EdgePopup}, frozen)


def test_layer_names_are_module_paths_and_attributes_other_than_weight() -> None:
    net = nn.ModuleDict({"weight": nn.Linear(2, 2), "a": nn.ModuleDict({"b": nn.Conv2d(1, 1, 1)})})
    net["m"] = nn.MultiheadAttention(4, 2)
    assert list(maskers(hide(net))) == ["weight", "a.b", "m.in_proj_weight", "m.out_proj"]


@pytest.mark.parametrize(("distribution", "scaled"), [
    ("kaiming_normal", False), ("signed_constant", True), ("kaiming_uniform", True), ("kaiming_normal", "authors"),
])  # fmt: skip
def test_weights_and_scores_are_those_the_layers_seed_draws(distribution: str, scaled: Any) -> None:
    net = hide(conv_net(), 0.3, distribution=distribution, scaled=scaled, seed=5)
    for name, masker in maskers(net).items():
        weight = original_weight(net, name)
        generator = layer_generator(5, "weights", name)
        assert torch.equal(weight, draw(weight.shape, distribution, generator, 0.3, scaled))
        expected = torch.empty(weight.shape)
        nn.init.kaiming_uniform_(expected, a=5**0.5, generator=layer_generator(5, "scores", name))
        torch.testing.assert_close(masker.scores.detach(), expected, rtol=1e-6, atol=1e-8)


def test_seeds_reach_weights_and_scores_separately_and_not_the_global_random_state() -> None:
    torch.manual_seed(1)
    net = conv_net()
    state = torch.get_rng_state()
    weights, masks = describe(hide(net))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    both, of_weights, of_scores = (
        describe(hide(conv_net(), **{which: 1})) for which in ("seed", "weight_seed", "score_seed")
    )
    assert same(of_weights[0], both[0])
    assert same(of_weights[1], masks)
    assert same(of_scores[0], weights)
    assert same(of_scores[1], both[1])
    for name in masks:
        assert not torch.equal(weights[name], both[0][name])
        assert not torch.equal(masks[name], both[1][name])


PROCESS = """
import hashlib
from torch import nn
from lit_hidden.distributions import DISTRIBUTIONS
from lit_hidden.edge_popup import hide, maskers, original_weight
from lit_hidden.subnetwork import save_subnetwork

def find(path):
    digest = hashlib.sha256()
    for distribution in DISTRIBUTIONS:
        layers = {"fc": nn.Linear(200, 30), "skip": nn.Linear(2, 2), "a": nn.MultiheadAttention(8, 2, kdim=4)}
        net = nn.ModuleDict(layers)
        hide(net, 0.3, distribution=distribution, seed=11, skip={"skip", "a.out_proj"})
        for name, masker in maskers(net).items():
            digest.update(name.encode() + original_weight(net, name).numpy().tobytes())
            digest.update(masker.scores.detach().numpy().tobytes() + masker.mask().numpy().tobytes())
        net = hide(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), distribution=distribution)
        digest.update(save_subnetwork(net, path).read_bytes())
    return digest.hexdigest()
"""


def test_nets_and_files_are_the_same_in_a_process_of_other_hashes_threads_and_vector_instructions(
    python: Callable[..., str], tmp_path: Path
) -> None:
    here: dict[str, Any] = {}
    exec(PROCESS, here)
    expected = here["find"](tmp_path / "here")
    unlike = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default"}
    assert python(f"{PROCESS}\nprint(find({str(tmp_path / 'there')!r}))", **unlike) == expected


def test_the_subnetwork_of_seed_zero_is_pinned() -> None:
    net = hide(nn.Conv2d(4, 8, 3, bias=False))
    signs = "".join("+" if w > 0 else "-" for w in original_weight(net, "weight").flatten()[:24].tolist())
    bits = "".join(str(int(m)) for m in masker_of(net).mask().flatten()[:24].tolist())
    assert (signs, bits) == ("++++---++--+-----++-----", "111111011100011110010001")


def test_reveal_bakes_the_mask_and_gives_a_plain_model_that_pickles() -> None:
    net, x = hide(mixed_net(), 0.3), torch.randn(2, 3, 6, 6)
    net(x)
    expected = net.eval()(x)
    assert reveal(net) is net
    assert not maskers(net)
    assert not hasattr(net, "_lit_hidden")
    assert int(net[0].weight.count_nonzero()) == kept(net[0].weight.numel(), 0.3)
    assert [type(m) for m in net] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert torch.equal(net(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
    fresh = mixed_net().eval()
    fresh.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(fresh(x), expected)


def test_a_revealed_model_can_be_hidden_again_and_may_keep_its_weights() -> None:
    net = hide(reveal(hide(conv_net(), 0.1)), 0.7, seed=3)
    fresh = hide(conv_net(), 0.7, seed=3)
    assert same(describe(net)[0], describe(fresh)[0])
    assert same(describe(net)[1], describe(fresh)[1])
    before = {"0": reveal(net)[0].weight.detach().clone(), "4": net[4].weight.detach().clone()}
    assert same(describe(hide(net, distribution=None))[0], before)


def test_a_hidden_model_pickles_and_goes_on() -> None:
    net = hide(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.MultiheadAttention(8, 2)), seed=3)
    back = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(net))))
    masks = [{name: masker.mask().tolist() for name, masker in maskers(model).items()} for model in (net, back)]
    assert masks[0] == masks[1]
    x = torch.randn(2, 1, 4, 4)
    for model in (net, back):
        model[:3](x).sum().backward()
    scores = "0.parametrizations.weight.0.scores"
    assert torch.equal(back.get_parameter(scores).grad, net.get_parameter(scores).grad)
    assert [type(layer) for layer in reveal(back)] == [nn.Conv2d, nn.Flatten, nn.Linear, nn.MultiheadAttention]
    assert torch.equal(back[:3](x), net[:3](x)), "its own class: the other stays hidden"
