"""Learning without weight transport: errors travel back through random weights that never change.

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
    """Send gradients back through fixed random weights, which are as large as each layer's own initial weights.

    Only for nets of linear layers and 2-d convolutions. Weights, or scores by the straight-through estimate, get their
    ordinary gradient, computed from the error that arrives.
    """

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Draw the feedback weights."""
        layers = weight_layers(module.net)
        if others := [name for name, (layer, _) in layers.items() if not isinstance(layer, nn.Linear | nn.Conv2d)]:
            raise ValueError(f"errors cannot be sent past {others[0]}, which is no linear layer or 2-d convolution")
        layer: Any
        for name, (layer, _) in layers.items():
            weight = layer.weight.detach()
            size = weight.square().mean().sqrt().cpu()  # not the standard deviation: it is 0 for equal weights
            back = size * torch.randn(weight.shape, generator=self.generator(name))
            # A buffer moves with the net; it is not saved, since the next start draws it again.
            layer.register_buffer("feedback", back.to(weight.device), persistent=False)
            layer.forward = partial(_forward, layer)


def _forward(layer: Any, inputs: Tensor) -> Tensor:
    product = F.linear if isinstance(layer, nn.Linear) else layer._conv_forward
    # The second term is 0, but its gradient reaches the input through the feedback weights.
    detour = product(inputs, layer.feedback, None)
    result: Tensor = product(inputs.detach(), layer.weight, layer.bias) + (detour - detour.detach())
    return result
