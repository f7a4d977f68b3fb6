"""A lottery ticket: the mask of a found subnetwork is fixed, and the weights that it keeps learn.

Source: Ramanujan et al., arXiv:1911.13299, appendix; the authors' `FixedSubnetConv`, `utils/conv_type.py`.
"""

from dataclasses import replace

from torch import Tensor, nn

from lit_hidden.edge_popup import Hiding, Masker, hidden_layers


class FixedMask(Masker):
    """Multiply a weight, which may learn, by a bool `mask` of its shape that never changes."""

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
    0), biases (from 0), as in the dense baseline. A sampled supermask is fixed at its most probable mask. `reveal`
    undoes it. ValueError: `model` is not hidden.
    """
    hiding = Hiding.of(model)
    for module, attribute in hidden_layers(model).values():
        chain = module.parametrizations[attribute]
        chain[0] = FixedMask(chain[0].mask().clone())
    hiding.thaw(model)
    arguments = hiding.arguments | {"distribution": None}  # no seed gives trained weights back
    model._lit_hidden = replace(hiding, arguments=arguments)  # type: ignore[assignment]
    return model
