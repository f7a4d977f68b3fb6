"""A ticket: its mask is held, what it keeps learns, what it drops is 0 in every product."""

import copy
from typing import Any

import pytest
import torch
from hiding import mixed_net as net
from hiding import same, shuffled
from torch import nn

from lit_hidden.edge_popup import EdgePopup, hide, maskers, original_weight, reveal
from lit_hidden.subnetwork import fingerprint, masks, used_masks
from lit_hidden.supermask import Supermask
from lit_hidden.ticket import fix_masks


def stepped(model: nn.Module, decay: float = 0.0, steps: int = 4) -> nn.Module:
    """Train what wants a gradient, with momentum."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(wanted, lr=0.1, momentum=0.9, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 6, 6)).pow(2).mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("masker", [EdgePopup, Supermask])
def test_fixed_masks_give_the_logits_there_were_from_the_weights_there_were(masker: Any) -> None:
    model, x = shuffled(hide(net(), 0.3, masker=masker)), torch.randn(4, 3, 6, 6)
    logits, kept, weights = reveal(copy.deepcopy(model))(x), masks(model), fingerprint(model)
    assert fix_masks(model) is model
    assert torch.equal(model(x), logits)
    assert fingerprint(model) == weights
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
