"""Learning without weight transport: errors come back through random weights that never change.

Source: Lillicrap et al., Random synaptic feedback weights support error backpropagation for deep learning, Nature
Communications 7:13276, 2016.
"""

from functools import partial
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

    Linear layers and 2-d convolutions alone. What learns (weights, or scores by the straight-through estimate) gets the
    gradient that it gets in backpropagation, of the error that arrives so.
    """

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Draw the weights that errors come back through."""
        layers = weight_layers(module.net)
        if others := [name for name, (layer, _) in layers.items() if not isinstance(layer, nn.Linear | nn.Conv2d)]:
            raise ValueError(f"errors cannot be sent past {others[0]}, which is no linear layer or 2-d convolution")
        layer: Any
        for name, (layer, _) in layers.items():
            weight = layer.weight.detach()
            size = weight.square().mean().sqrt().cpu()  # not the spread, which is 0 of equal weights
            back = size * torch.randn(weight.shape, generator=self.generator(name))
            # A buffer moves and is copied with the net, and is not saved: the next start draws it again.
            layer.register_buffer("feedback", back.to(weight.device), persistent=False)
            layer.forward = partial(_forward, layer)


def _forward(layer: Any, inputs: Tensor) -> Tensor:
    product = F.linear if isinstance(layer, nn.Linear) else layer._conv_forward
    # The second term is 0, and has the gradient that the first keeps from its input.
    detour = product(inputs, layer.feedback, None)
    result: Tensor = product(inputs.detach(), layer.weight, layer.bias) + (detour - detour.detach())
    return result
