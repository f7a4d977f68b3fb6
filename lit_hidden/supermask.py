"""Siblings of edge-popup: other ways to choose a subnetwork of a random network.

Source: Zhou et al., Deconstructing Lottery Tickets, arXiv:1905.01067, Section 5.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lit_hidden.edge_popup import Masker, check_density


class _Sample(torch.autograd.Function):
    """`weight * m` with `m ~ Bernoulli(sigmoid(scores))`; backward as if `m` were the probability itself."""

    @staticmethod
    def forward(weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (weight, scores, mask) = grads, ctx.saved_tensors
        p = scores.sigmoid()
        to_weight = grad * mask if ctx.needs_input_grad[0] else None
        to_scores = grad.to(p.dtype) * weight.to(p.dtype) * (p * (1 - p)) if ctx.needs_input_grad[1] else None
        return to_weight, to_scores, None


class Supermask(Masker):
    """Keep each weight with probability `sigmoid(score)`, drawn anew at every forward pass, at test too.

    The density is where the search starts, not where it ends: scores start at the constant `logit(density)` and the
    number kept is a result of training. Masks are drawn from the global generator of the weight's device.

    Args:
        weight: tensor to mask, `(*)`; only its shape, device and layout are read.
        density: probability of staying at the start, in (0, 1).
        generator: unused, since all scores start equal; there so that every masker is called alike.
        rescale: multiply what stays by `size / kept` (the paper's dynamic weight rescaling).

    Raises:
        ValueError: `density` lies outside (0, 1).
    """

    def __init__(
        self,
        weight: Tensor,
        density: float,
        *,
        generator: torch.Generator | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        if density == 1:
            raise ValueError("density=1 gives infinite scores; a supermask starts from a density in (0, 1)")
        check_density(density, weight.numel())
        self.density, self.rescale = density, rescale
        start = math.log(density / (1 - density))
        self.scores = nn.Parameter(torch.full_like(weight, start, dtype=torch.float32))

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight` times a fresh sample of the mask."""
        sample = torch.bernoulli(self.probability())
        effective: Tensor = _Sample.apply(weight, self.scores, self._factors(sample).to(weight.dtype))
        return effective

    def probability(self) -> Tensor:
        """Tell how likely each weight is to stay: float32, the weight's shape."""
        return self.scores.detach().sigmoid()

    def mask(self) -> Tensor:
        """Tell which weights are more likely to stay than not: the sample rounded."""
        return self.scores.detach() >= 0

    def set_mask(self, mask: Tensor) -> None:
        """Let what stays have probability 0.99 and the others 0.01: a mask does not tell more."""
        self.scores.detach().copy_(torch.where(mask, 1, -1) * math.log(0.99 / 0.01))

    def baked(self, weight: Tensor) -> Tensor:
        """Return the weights that `reveal` leaves behind: the most probable mask's, rescaled if samples are."""
        return weight * self._factors(self.mask().float()).to(weight.dtype)

    def _factors(self, mask: Tensor) -> Tensor:
        return mask * (mask.numel() / mask.sum().clamp(min=1)) if self.rescale else mask

    def extra_repr(self) -> str:
        """Say where the search starts, for `print(model)`."""
        return f"starts at density={self.density}, {self.scores.numel()} weights"
