"""Signed supermask: a mask of 1, 0 and -1, so that a weight's sign can turn.

Source: Koster et al., arXiv:2201.13361, section 3; the authors' code, kosnil/signed_supermasks, `custom_layers.py`.
"""

import math

import torch
from torch import Tensor

from lit_hidden.edge_popup import Masked, Scored


class SignedSupermask(Scored):
    """Keep a weight whose score is above a threshold, with its sign turned if it is below minus that; drop the others.

    The threshold, `(1 - density) / sqrt(fan in)`, stays; `density` are kept at the start, and how many at the end is a
    result: a decay of scores drops weights. A score's gradient is `dL/dw' w`. No mask file holds signs: runs leave all
    tensors. Ours are edge-popup's first scores, signed constants and ReLU, where the paper has ELU and weights to fit.
    """

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        self.threshold = (1 - density) / math.sqrt(weight[0].numel())

    def mask(self) -> Tensor:
        """Tell which weights stay."""
        return self.scores.detach().abs() > self.threshold

    def signs(self, scores: Tensor) -> Tensor:
        """Return 1, 0 or -1 for each score."""
        return scores.sign() * (scores.abs() > self.threshold)

    def baked(self, weight: Tensor) -> Tensor:
        """Return `w signs`."""
        return weight * self.signs(self.scores.detach())

    def forward(self, weight: Tensor) -> Tensor:
        """Return `w signs`, with the gradient straight through."""
        effective: Tensor = Masked.apply(weight, self.scores, self.signs, torch.ones_like)
        return effective
