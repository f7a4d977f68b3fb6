import math

import pytest
import torch
import torch.nn.functional as F
from hiding import masker_of
from scipy import stats
from torch import nn

from lit_hidden.edge_popup import hide, original_weight, reveal
from lit_hidden.supermask import Supermask


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
