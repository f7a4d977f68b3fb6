"""Biprop: edge-popup for multi-prize tickets, whose weights have one size in each layer.

Source: Diffenderfer and Kailkhura, arXiv:2103.09377, algorithm 1; the authors' code, chrundle/biprop,
`utils/conv_type.py`.
"""

import torch
from torch import Tensor

from lit_hidden.edge_popup import EdgePopup, Masked


class Biprop(EdgePopup):
    """Edge-popup whose kept weights are their signs times one gain a layer, the mean |w| of those that are kept."""

    def baked(self, weight: Tensor) -> Tensor:
        """Return `sign(w) gain mask`."""
        return weight.sign() * self._gain(weight, self.mask()) * self.mask()

    def forward(self, weight: Tensor) -> Tensor:
        """Return `sign(w) gain mask`; the gradient of a score is edge-popup's, `dL/dw' w sign(s)`."""
        mask = self.mask()
        gain = self._gain(weight, mask)
        effective: Tensor = Masked.apply(
            weight.sign() * gain, self.scores, lambda _: mask, lambda scores: scores.sign() * weight.abs() / gain
        )
        return effective

    def _gain(self, weight: Tensor, mask: Tensor) -> Tensor:
        # In half precision the sum may be infinite. Where all that is kept is 0, any gain will do but 0.
        wide = torch.promote_types(weight.dtype, torch.float32)
        gain = ((weight.detach().abs() * mask).sum(dtype=wide) / self.keep).to(weight.dtype)
        return gain + (gain == 0)
