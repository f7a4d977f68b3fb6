"""A lottery ticket: the mask of a found subnetwork is held, and the weights that it keeps learn.

Source: Ramanujan et al., arXiv:1911.13299, appendix; the authors' `FixedSubnetConv`, `utils/conv_type.py`.
"""

from torch import Tensor, nn

from lit_hidden.edge_popup import Hiding, Masker, hidden_layers, weight_chain


class FixedMask(Masker):
    """Keep the weights of a mask that never changes; they may learn, the others are 0 in every product.

    Shapes: `weight` is `(*)`, the mask's shape. Only what is kept gets a gradient, `dL/dw' * mask`.

    Args:
        mask: bool, which weights stay.
    """

    weights_learn = True
    kept: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", mask)
        self.density = float(mask.float().mean())

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * mask`."""
        return weight * self.kept

    def mask(self) -> Tensor:
        """Tell which weights stay."""
        return self.kept

    def extra_repr(self) -> str:
        """Say how much is kept, for `print(model)`."""
        return f"density={self.density:g}"


def fix_masks(model: nn.Module) -> nn.Module:
    """Hold the masks of a hidden `model` as they are and let its weights learn instead, as of a lottery ticket.

    In place; returns `model`. What wanted a gradient before `hide` wants one again: the weights, norm layers (from
    weight 1, bias 0) and biases (from 0), as in the dense baseline. A sampled supermask is held at its most probable
    mask, without its rescaling. `reveal` undoes it as ever.

    Raises:
        ValueError: nothing is hidden in `model`.
    """
    hiding = getattr(model, "_lit_hidden", None)
    if not isinstance(hiding, Hiding):
        raise ValueError(f"nothing is hidden in this {type(model).__name__}; hide or load_subnetwork comes first")
    for place in hidden_layers(model).values():
        chain = weight_chain(*place)
        chain[0] = FixedMask(chain[0].mask().clone())
    for name, parameter in model.named_parameters():
        # A hidden `conv1.weight` is called `conv1.parametrizations.weight.original`.
        if name.replace("parametrizations.", "").removesuffix(".original") in hiding.frozen:
            parameter.requires_grad_(True)
    return model
