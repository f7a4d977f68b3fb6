"""Relaxed Bernoulli gates: a mask that is learned by its exact gradient, through noise, with a penalty on open gates.

Source: Tsayag and Lindenbaum, arXiv:2603.08914. No code is known, and only their abstract was read; so the gate and the
penalty are those of Yamada, Lindenbaum et al., arXiv:1810.04247, section 3.
"""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback
from lit_hidden.edge_popup import Scored, maskers


class Gates(Scored):
    """Multiply each weight by a random gate, `clamp(1/2 + s + noise, 0, 1)`; the noise is normal, its deviation 1/2.

    At test the gates whose mean is above 1/2 are 1, the others 0. `density` is the probability of a gate to be above
    1/2 at the start, below 1; how many are kept is a result of training and of `Sparsity`.
    """

    deviation = 0.5

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        if density == 1:
            raise ValueError("density=1: gates start from one in (0, 1), or their scores are infinite")
        with torch.no_grad():
            self.scores.add_(self.deviation * torch.special.ndtri(torch.tensor(density)))

    def mask(self) -> Tensor:
        """Tell which gates are open at test."""
        return self.scores.detach() > 0

    def forward(self, weight: Tensor) -> Tensor:
        """Return `w gate`, with gates drawn anew where scores learn."""
        if not (self.training and torch.is_grad_enabled()):
            return weight * self.mask()
        noise = self.deviation * torch.randn_like(self.scores)
        return weight * (0.5 + self.scores + noise).clamp(0, 1).to(weight.dtype)

    def slope(self) -> Tensor:
        """Return the derivative, by the score, of the probability that a gate is not 0."""
        away = (self.scores.detach() + 0.5) / self.deviation
        return (-away.square() / 2).exp() / (self.deviation * math.sqrt(2 * math.pi))

    def set_mask(self, mask: Tensor) -> None:
        """Let the gates of what stays be 1 on average, and the others 0."""
        self.scores.detach().copy_(mask.float() - 0.5)


class Sparsity(RunCallback):
    """Add to the loss `penalty` times the mean probability of `Gates` that they are not 0."""

    def __init__(self, penalty: float) -> None:
        super().__init__()
        self.penalty = penalty

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Look for gates; ValueError: there are none."""
        if not any(isinstance(one, Gates) for one in maskers(module.net).values()):
            raise ValueError("this net has no gates to close; take masker='gates.Gates'")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Add the gradient, when those of half precision are unscaled already."""
        found = [one for one in maskers(pl_module.net).values() if isinstance(one, Gates)]
        share = self.penalty / sum(one.scores.numel() for one in found)
        for one in found:
            if one.scores.grad is not None:
                one.scores.grad += share * one.slope()
