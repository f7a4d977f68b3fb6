"""Siblings of edge-popup: a mask that is sampled, and one that is fixed while the weights it keeps learn."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from lit_hidden.edge_popup import Hiding, Masked, Masker, hidden_layers


class Supermask(Masker):
    """Keep each weight with probability `sigmoid(score)`, drawn anew at every forward pass, at test too.

    All scores start at `logit(density)`; the number kept is a result of training. Masks are drawn from the global
    generator of the weight's device. Source: Zhou et al., arXiv:1905.01067, Section 5.

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
        effective: Tensor = Masked.apply(weight, self.scores, lambda _: sample, lambda s: (p := s.sigmoid()) * (1 - p))
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


class FixedMask(Masker):
    """Multiply a weight, which may learn, by a bool `mask` of its shape that never changes: a lottery ticket's.

    Source: Ramanujan et al., arXiv:1911.13299, appendix; the authors' `FixedSubnetConv`, `utils/conv_type.py`.
    """

    kept: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * mask`; only what is kept gets a gradient."""
        return weight * self.kept

    def mask(self) -> Tensor:
        """Tell which weights stay."""
        return self.kept


def fix_masks(model: nn.Module) -> nn.Module:
    """Fix the masks of a hidden `model` and let its weights learn instead, as those of a lottery ticket.

    In place; returns `model`. What wanted a gradient before `hide` wants one again: weights, norm layers (from 1 and
    0), biases (from 0), as in the dense baseline. A sampled supermask is fixed at its most probable mask, and weights
    begin as `reveal` would leave them. `reveal` undoes it. ValueError: `model` is not hidden.
    """
    hiding = Hiding.of(model)
    for module, attribute in hidden_layers(model).values():
        chain = module.parametrizations[attribute]
        mask = chain[0].mask().clone()
        with torch.no_grad():  # signs that a masker turned stay turned
            chain.original.copy_(torch.where(mask, chain[0].baked(chain.original), chain.original))
        chain[0] = FixedMask(mask)
    hiding.thaw(model)
    arguments = hiding.arguments | {"distribution": None}  # no seed gives trained weights back
    model._lit_hidden = replace(hiding, arguments=arguments)  # type: ignore[assignment]
    return model
