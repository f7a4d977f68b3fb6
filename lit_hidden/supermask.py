"""Siblings of edge-popup: other ways to choose a subnetwork of a random network.

Source: Zhou et al., Deconstructing Lottery Tickets, arXiv:1905.01067, Section 5.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lit_hidden.edge_popup import Masker


class _Sample(torch.autograd.Function):
    """`weight * m` with `m ~ Bernoulli(sigmoid(scores))`; backward as if `m` were the probability itself."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scores, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (grad,), (weight, scores, mask) = grads, ctx.saved_tensors
        p = scores.sigmoid()
        to_weight = grad * mask if ctx.needs_input_grad[0] else None
        return to_weight, grad.to(p.dtype) * weight.to(p.dtype) * (p * (1 - p)), None


class Supermask(Masker):
    """Keep each weight with probability `sigmoid(score)`, drawn anew at every forward pass, at test too.

    All scores start at `logit(density)`; the number kept is a result of training. Masks are drawn from the global
    generator of the weight's device.

    Args:
        weight: tensor to mask, `(*)`; only its shape, device and layout are read.
        density: probability of staying at the start, in (0, 1); ValueError otherwise.
        generator: unused, since all scores start equal.
    """

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not 0 < density < 1:
            raise ValueError(f"density={density}: a supermask starts from one in (0, 1), or its scores are infinite")
        self.scores = nn.Parameter(torch.full_like(weight, math.log(density / (1 - density)), dtype=torch.float32))

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight` times a fresh sample of the mask."""
        sample = torch.bernoulli(self.probability()).to(weight.dtype)
        effective: Tensor = _Sample.apply(weight, self.scores, sample)
        return effective

    def probability(self) -> Tensor:
        """Tell how likely each weight is to stay: float32, the weight's shape."""
        return self.scores.detach().sigmoid()

    def mask(self) -> Tensor:
        """Tell which weights are more likely to stay than not."""
        return self.scores.detach() >= 0

    def set_mask(self, mask: Tensor) -> None:
        """Let what stays have probability 0.99 and the others 0.01; the mask does not tell their own."""
        self.scores.detach().copy_(torch.where(mask, 1, -1) * math.log(0.99 / 0.01))
