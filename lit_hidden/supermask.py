"""Siblings of edge-popup: other ways to choose a subnetwork of a random network.

Source: Zhou et al., Deconstructing Lottery Tickets, arXiv:1905.01067, Section 5.
"""

import math

import torch
from torch import Tensor, nn

from lit_hidden.edge_popup import Masked, Masker


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

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight` times a fresh sample of the mask; the gradient is that by the probability."""
        sample = torch.bernoulli(self.probability()).bool()
        effective: Tensor = Masked.apply(weight, self.scores, lambda _: sample, _slope)
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


def _slope(scores: Tensor) -> Tensor:
    p = scores.sigmoid()
    return p * (1 - p)
