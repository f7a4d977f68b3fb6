"""A lottery ticket: the mask of a found subnetwork is fixed, and the weights that it keeps learn.

Source: Ramanujan et al., arXiv:1911.13299, appendix; the authors' `FixedSubnetConv`, `utils/conv_type.py`.
"""

from torch import Tensor, nn

from lit_hidden.edge_popup import Hiding, Masker, hidden_layers, weight_chain


class FixedMask(Masker):
    """Multiply a weight, which may learn, by a bool `mask` of its shape that never changes."""

    weights_learn = True
    kept: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", mask)
        self.density = float(mask.float().mean())

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * mask`; only what is kept gets a gradient."""
        return weight * self.kept

    def mask(self) -> Tensor:
        """Tell which weights stay."""
        return self.kept


def fix_masks(model: nn.Module) -> nn.Module:
    """Fix the masks of a hidden `model` and let its weights learn instead, as those of a lottery ticket.

    In place; returns `model`. What wanted a gradient before `hide` wants one again: the weights, norm layers (from
    weight 1, bias 0) and biases (from 0), as in the dense baseline. A sampled supermask is fixed at its most probable
    mask, without its rescaling. `reveal` undoes it as ever. ValueError: `model` is not hidden.
    """
    frozen = Hiding.of(model).frozen
    for place in hidden_layers(model).values():
        chain = weight_chain(*place)
        chain[0] = FixedMask(chain[0].mask().clone())
    for name, parameter in model.named_parameters():
        # A hidden `conv1.weight` is called `conv1.parametrizations.weight.original`.
        if name.replace("parametrizations.", "").removesuffix(".original") in frozen:
            parameter.requires_grad_(True)
    return model
