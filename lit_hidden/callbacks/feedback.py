"""Learning without weight transport: errors come back through random weights that never change.

Source: Lillicrap et al., Random synaptic feedback weights support error backpropagation for deep learning, Nature
Communications 7:13276, 2016.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback
from lit_hidden.edge_popup import weight_layers


class FeedbackAlignment(RunCallback):
    """Send the gradient of a layer's input back through fixed random weights, as large as the layer's own at its start.

    Linear layers and convolutions alone. What learns (weights, or scores by the straight-through estimate) gets the
    gradient that it gets in backpropagation, of the error that arrives so.
    """

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Draw the weights that errors come back through."""
        for name, (layer, _) in weight_layers(module.net).items():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                weight = layer.weight.detach()
                back = torch.randn(weight.shape, generator=self.generator(name)) * weight.std().cpu()
                layer.forward = _aligned(layer, back)  # type: ignore[assignment, method-assign]


def _aligned(layer: nn.Linear | nn.Conv2d, back: Tensor) -> Callable[[Tensor], Tensor]:
    def product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(layer, nn.Linear):
            return F.linear(inputs, weight, bias)
        result: Tensor = layer._conv_forward(inputs, weight, bias)
        return result

    def forward(inputs: Tensor) -> Tensor:
        nonlocal back
        back = back.to(inputs.device)
        # The second term is 0, and has the gradient that the first keeps from its input.
        detour = product(inputs, back, None)
        return product(inputs.detach(), layer.weight, layer.bias) + (detour - detour.detach())

    return forward
