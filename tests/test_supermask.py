"""A sampled supermask, and a ticket: its mask is held, what it keeps learns, what it drops is 0."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hiding import masker_of, same, shuffled
from hiding import mixed_net as net
from scipy import stats
from torch import nn

from lit_hidden.callbacks.biprop import Biprop
from lit_hidden.callbacks.signed import SignedSupermask
from lit_hidden.edge_popup import EdgePopup, hide, maskers, original_weight, reveal
from lit_hidden.subnetwork import fingerprint, masks, used_masks
from lit_hidden.supermask import Supermask, fix_masks


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_scores_start_at_the_logit_of_the_density_and_weights_stay_independently(density: float) -> None:
    masker, weight = Supermask(torch.ones(100, 100), density), torch.ones(100, 100)
    assert masker.scores.unique().tolist() == [torch.tensor(math.log(density / (1 - density))).item()]
    first, second = masker(weight), masker(weight)
    for sample in (first, second):
        assert set(sample.unique().tolist()) <= {0.0, 1.0}
        assert stats.binomtest(int(sample.sum()), 10_000, density).pvalue > 1e-4
    assert stats.binomtest(int((first * second).sum()), 10_000, density**2).pvalue > 1e-4


def test_a_fresh_mask_is_drawn_at_every_pass_at_test_too_from_the_global_generator() -> None:
    layer, state = nn.Linear(50, 50).eval(), torch.get_rng_state()
    hide(layer, masker=Supermask)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(original_weight(layer, "weight"), original_weight(hide(nn.Linear(50, 50)), "weight"))
    torch.manual_seed(4)
    first = layer.weight
    assert not torch.equal(layer.weight, first)
    torch.manual_seed(4)
    assert torch.equal(layer.weight, first)


def test_the_score_gradient_is_autograds_through_the_probability() -> None:
    # As if the mask were the probability: d/ds of sum(g * w * sigmoid(s)), g the effective weight's gradient.
    layer, x = hide(nn.Linear(6, 4, bias=False), 0.5, masker=Supermask), torch.randn(5, 6)
    with torch.no_grad():
        masker_of(layer).scores.copy_(torch.randn(4, 6))
    torch.manual_seed(7)
    effective = layer.weight.detach().requires_grad_()
    F.linear(x, effective).pow(2).sum().backward()
    scores = masker_of(layer).scores.detach().clone().requires_grad_()
    (effective.grad * original_weight(layer, "weight") * scores.sigmoid()).sum().backward()
    torch.manual_seed(7)
    layer(x).pow(2).sum().backward()
    torch.testing.assert_close(masker_of(layer).scores.grad, scores.grad)
    assert (masker_of(layer).scores.grad != 0).all()  # what was not drawn learns too


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_effective_weight_keeps_its_dtype_and_scores_are_float32(dtype: torch.dtype) -> None:
    layer = hide(nn.Linear(8, 4, dtype=dtype), masker=Supermask)
    layer(torch.randn(2, 8, dtype=dtype)).sum().backward()
    assert layer.weight.dtype == dtype
    assert masker_of(layer).scores.grad.dtype == torch.float32


def test_the_mask_is_the_more_probable_side_and_reveal_bakes_it() -> None:
    layer = hide(nn.Linear(3, 1, bias=False), masker=Supermask)
    with torch.no_grad():
        masker_of(layer).scores.copy_(torch.tensor([[-0.1, 0.0, 0.1]]))
    weight = original_weight(layer, "weight").detach().clone()
    assert masker_of(layer).mask().tolist() == [[False, True, True]]
    reveal(layer)
    assert torch.equal(layer.weight, weight * torch.tensor([[0.0, 1, 1]]))
    assert type(layer) is nn.Linear
    assert layer.weight.requires_grad


# --- tickets ---------------------------------------------------------------------------------------------


def stepped(model: nn.Module, decay: float = 0.0, steps: int = 4) -> nn.Module:
    """Train what wants a gradient, with momentum."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(wanted, lr=0.1, momentum=0.9, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 6, 6)).pow(2).mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("masker", [EdgePopup, Supermask, SignedSupermask, Biprop])
def test_fixed_masks_give_the_logits_there_were_from_the_weights_there_were(masker: Any) -> None:
    model, x = shuffled(hide(net(), 0.3, masker=masker)), torch.randn(4, 3, 6, 6)
    logits, kept, weights = reveal(copy.deepcopy(model))(x), masks(model), fingerprint(model)
    assert fix_masks(model) is model
    assert torch.equal(model(x), logits)
    assert (fingerprint(model) == weights) == (masker in (EdgePopup, Supermask))  # the others change what they keep
    assert same(masks(model), kept)


def test_all_that_wanted_a_gradient_before_hiding_learns_and_nothing_else() -> None:
    model = net()
    model[1].bias.requires_grad_(False)
    fix_masks(hide(model))
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"1.bias"}
    for model in (nn.Linear(3, 2), nn.MultiheadAttention(8, 2)):
        assert all(p.requires_grad for p in fix_masks(hide(model)).parameters())


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_what_is_kept_is_trained_and_weight_decay_alone_reaches_what_is_dropped(decay: float) -> None:
    model = hide(net(), 0.3)
    before = {name: original_weight(model, name).clone() for name in maskers(model)}
    stepped(fix_masks(model), decay=decay)
    for name, kept in masks(model).items():
        after = original_weight(model, name)
        shrunk = after[~kept].abs() < before[name][~kept].abs()
        assert shrunk.all() if decay else torch.equal(after[~kept], before[name][~kept])
        assert (after[kept] != before[name][kept]).any()
        assert torch.equal(used_masks(model)[name], kept)


def test_the_training_is_that_of_a_plain_net_whose_dropped_weights_are_set_to_0_at_every_step() -> None:
    model = hide(net(), 0.3)
    plain, kept = reveal(copy.deepcopy(model)), masks(model)
    fix_masks(model)
    for step in range(4):
        for trained in (model, plain):
            torch.manual_seed(step)
            stepped(trained, steps=1)
        with torch.no_grad():
            for name, mask in kept.items():
                plain.get_submodule(name).weight.mul_(mask)
    x = torch.randn(4, 3, 6, 6)
    logits = plain.eval()(x)
    assert torch.equal(model.eval()(x), logits)
    assert torch.equal(reveal(model)(x), logits)
    assert not model[4].weight[~kept["4"]].any()
