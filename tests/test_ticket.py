"""A ticket: its mask is held, what it keeps learns, what it drops is 0 in every product."""

import copy
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_hidden.edge_popup import hide, maskers, original_weight, reveal
from lit_hidden.subnetwork import fingerprint, masks, used_masks
from lit_hidden.supermask import Supermask
from lit_hidden.ticket import FixedMask, fix_masks

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "hiding.py"))
net, shuffled, same = (made[name] for name in ("mixed_net", "shuffled", "same"))


def stepped(model: nn.Module, decay: float = 0.0, steps: int = 4) -> nn.Module:
    """Train what wants a gradient, with momentum."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(wanted, lr=0.1, momentum=0.9, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 6, 6)).pow(2).mean().backward()
        optimizer.step()
    return model


def test_fixed_masks_give_the_logits_there_were_from_the_weights_there_were() -> None:
    model, x = shuffled(hide(net(), 0.3)), torch.randn(4, 3, 6, 6)
    logits, kept, weights = model(x), masks(model), fingerprint(model)
    assert fix_masks(model) is model
    assert torch.equal(model(x), logits)
    assert fingerprint(model) == weights
    assert all(torch.equal(masks(model)[name], mask) for name, mask in kept.items())


def test_all_that_wanted_a_gradient_before_hiding_learns_and_nothing_else() -> None:
    model = net()
    model[1].bias.requires_grad_(False)
    fix_masks(hide(model))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {
        "0.bias": True,
        "0.parametrizations.weight.original": True,
        "1.weight": True,
        "1.bias": False,
        "4.parametrizations.weight.original": True,
    }
    alone = fix_masks(hide(nn.Linear(3, 2)))
    assert [p.requires_grad for p in alone.parameters()] == [True, True]


def test_attention_weights_learn_too() -> None:
    model = fix_masks(hide(nn.MultiheadAttention(8, 2)))
    assert list(maskers(model)) == ["in_proj_weight", "out_proj"]
    assert all(p.requires_grad for p in model.parameters())


def test_the_gradient_of_a_kept_weight_is_the_products_and_of_a_dropped_one_exactly_0() -> None:
    layer, x = fix_masks(hide(nn.Linear(6, 4, bias=False), 0.4)), torch.randn(5, 6)
    effective, kept = layer.weight.detach().requires_grad_(), masks(layer)["weight"]
    (x @ effective.T).pow(2).sum().backward()
    layer(x).pow(2).sum().backward()
    original = original_weight(layer, "weight")
    torch.testing.assert_close(original.grad, effective.grad * kept)
    assert (original.grad[kept] != 0).all()
    assert (original.grad[~kept] == 0).all()


def test_what_is_dropped_stays_as_it_was_and_what_is_kept_is_trained() -> None:
    model = hide(net(), 0.3)
    before = {name: original_weight(model, name).clone() for name in maskers(model)}
    stepped(fix_masks(model))
    for name, kept in masks(model).items():
        after = original_weight(model, name)
        assert torch.equal(after[~kept], before[name][~kept])
        assert (after[kept] != before[name][kept]).any()
        assert torch.equal(used_masks(model)[name], kept)


def test_weight_decay_shrinks_what_is_dropped_but_no_product_knows() -> None:
    model = fix_masks(hide(net(), 0.3))
    dropped = ~masks(model)["4"]
    before = original_weight(model, "4").clone()
    stepped(model, decay=0.5)
    after = original_weight(model, "4")[dropped]
    assert (after.abs() < before[dropped].abs()).all()
    assert (maskers(model)["4"](original_weight(model, "4"))[dropped] == 0).all()


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
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_a_supermask_is_fixed_at_its_most_probable_mask() -> None:
    model, x = shuffled(hide(net(), 0.3, masker=Supermask)), torch.randn(4, 3, 6, 6)
    baked = reveal(copy.deepcopy(model))(x)
    assert torch.equal(fix_masks(model)(x), baked)


def test_reveal_bakes_the_trained_weights() -> None:
    model, x = stepped(fix_masks(hide(net(), 0.3))).eval(), torch.randn(4, 3, 6, 6)
    logits, kept = model(x), masks(model)
    reveal(model)
    assert torch.equal(model(x), logits)
    assert not model[4].weight[~kept["4"]].any()
    assert not maskers(model)


def test_fixing_twice_is_fixing_once_and_a_state_brings_its_mask() -> None:
    model = fix_masks(hide(net(), 0.3))
    kept = {name: mask.clone() for name, mask in masks(model).items()}
    fix_masks(model)
    other = fix_masks(hide(net(), 0.3, score_seed=5))
    other.load_state_dict(model.state_dict())
    for name, mask in kept.items():
        assert torch.equal(masks(model)[name], mask)
        assert torch.equal(masks(other)[name], mask)


def test_a_fixed_mask_says_its_density() -> None:
    masker = FixedMask(torch.tensor([[True, False, False, False]]))
    assert masker.density == 0.25
    assert repr(masker) == "FixedMask(density=0.25)"
