"""Spiking nets: leaky integrate-and-fire neurons in place of ReLUs, for a few steps of time.

Source: surrogate gradients, Neftci, Mostafa and Zenke, IEEE Signal Processing Magazine 36(6):51, arXiv:1901.09948; the
arc tangent, Fang et al., arXiv:2007.05785. Settings are ours.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback, balanced
from lit_hidden.edge_popup import Hiding, maskers
from lit_hidden.nets import build

LEAK = 0.9  # of a membrane's voltage, what is left after a step


class _Spike(torch.autograd.Function):
    """1 where the excess `v / threshold - 1` is at least 0, else 0; backward 1 / (1 + (pi excess)^2)."""

    @staticmethod
    def forward(ctx: Any, excess: Tensor) -> Tensor:
        ctx.save_for_backward(excess)
        return (excess >= 0).to(excess.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        slope: Tensor = 1 / (1 + (math.pi * ctx.saved_tensors[0]).square())
        return grads[0] * slope


def over_time(merged: Tensor, steps: int) -> Tensor:
    """Part time and batch: `(steps * B, ...)` to `(steps, B, ...)`."""
    return merged.view(steps, -1, *merged.shape[1:])


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons: `v = 0.9 v + I`, a spike at the threshold, which is then subtracted.

    Input currents `(steps * B, ...)`, step by step; with `constant`, currents `(B, ...)` that flow at every step.
    Output spikes `(steps * B, ...)`. The gradient does not pass through the reset.
    """

    threshold: Tensor

    def __init__(self, steps: int, constant: bool = False) -> None:
        super().__init__()
        self.steps, self.constant = steps, constant
        self.register_buffer("threshold", torch.tensor(0.7))

    def forward(self, current: Tensor) -> Tensor:
        """Return the spikes."""
        each = current.expand(self.steps, *current.shape) if self.constant else over_time(current, self.steps)
        voltage, spikes = torch.zeros_like(each[0]), []
        for now in each:
            voltage = LEAK * voltage + now
            spikes.append(_Spike.apply(voltage / self.threshold - 1))
            voltage = voltage - self.threshold * spikes[-1].detach()
        return torch.stack(spikes).flatten(0, 1)


class Readout(nn.Module):
    """Leaky membranes that never spike: currents `(steps * B, classes)` to their last voltages `(B, classes)`."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, current: Tensor) -> Tensor:
        """Return the voltages after the last step."""
        left = LEAK ** torch.arange(self.steps - 1, -1, -1, dtype=current.dtype, device=current.device)
        voltages: Tensor = torch.tensordot(left, over_time(current, self.steps), 1)
        return voltages


def spiking(
    net: str, steps: int, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: float = 1.0
) -> nn.Sequential:
    """Build a net of `lit_hidden.nets` with LIF neurons; the image is a constant current into the first layer.

    Time is a part of the batch, so each layer multiplies once a forward pass and its mask is made once.
    """
    layers: Any = build(net, num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)
    first = next(n for n, layer in enumerate(layers) if isinstance(layer, nn.ReLU))
    neurons = (LIF(steps, n == first) if isinstance(layer, nn.ReLU) else layer for n, layer in enumerate(layers))
    return nn.Sequential(*neurons, Readout(steps))


lenet_1 = partial(spiking, "lenet", 1)
lenet_4 = partial(spiking, "lenet", 4)
lenet_8 = partial(spiking, "lenet", 8)
conv2_1 = partial(spiking, "conv2", 1)
conv2_4 = partial(spiking, "conv2", 4)
conv2_8 = partial(spiking, "conv2", 8)


class Neurons(RunCallback):
    """Set the neurons' threshold, and count their spikes on test images before and after training.

    `spikes` is the mean number on an image, of all neurons and steps. `spiking.npz` has by layer `(L,)` `before` and
    `after`, in percent of neurons and steps, and of the first image `raster_1` ... bool `(steps, neurons)`. Chance is
    no failure: neurons may be dead.

    Args:
        threshold: of a net of all weights; the default is near the root of 1/2.
        scaled: whether it is multiplied by the root of the density, as the currents are.
        images: of the test set, as many of each class as possible.
    """

    def __init__(self, threshold: float = 0.7, scaled: bool = True, images: int = 500) -> None:
        super().__init__()
        if threshold <= 0:
            raise ValueError(f"threshold={threshold}: neurons would spike at rest; it must be above 0")
        self.threshold, self.scaled, self.images = threshold, scaled, images

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Set the threshold.

        Raises:
            ValueError: the net does not spike.
        """
        if not (neurons := [part for part in module.net.modules() if isinstance(part, LIF)]):
            raise ValueError(f"{type(module.net).__name__} has no neurons that spike; take net='spiking.lenet_4'")
        hidden = self.scaled and maskers(module.net)
        density = Hiding.of(module.net).arguments["density"] if hidden else 1.0
        for layer in neurons:
            layer.threshold.fill_(self.threshold * density**0.5)
        self.data = balanced(data, "test", self.images, 100)
        self.before = self._counted(module.net)[0]

    @torch.no_grad()
    def _counted(self, net: nn.Module) -> tuple[list[float], list[np.ndarray]]:
        """Return by layer the spikes in percent of neurons and steps, and those on the first image."""
        counts, rasters = dict[str, float](), dict[str, np.ndarray]()
        for inputs, _ in self.data:
            for name, layer in net.named_children():
                inputs = layer(inputs)
                if isinstance(layer, LIF):
                    spikes = over_time(inputs, layer.steps).flatten(2)
                    counts[name] = counts.get(name, 0.0) + spikes.double().sum().item()
                    rasters.setdefault(name, spikes[:, 0].bool().cpu().numpy())
        rates = [100 * counts[name] / self.data.count / raster.size for name, raster in rasters.items()]
        return rates, list(rasters.values())

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Count again and write `spiking.npz`."""
        after, rasters = self._counted(module.net)
        named = {f"raster_{n}": raster for n, raster in enumerate(rasters, 1)}
        np.savez(folder / "spiking.npz", before=self.before, after=after, **named)  # type: ignore[arg-type]
        spikes = sum(rate / 100 * raster.size for rate, raster in zip(after, rasters, strict=True))
        return {"spikes": spikes, "fails_below": 0.0}
