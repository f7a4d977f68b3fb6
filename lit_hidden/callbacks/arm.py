"""A motor task: find the joint angles that bring the hand of a two-segment arm to a place. Regression, in degrees."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.callbacks import RunCallback, splits
from lit_hidden.data import BatchLoader, ImageTensorsData
from lit_hidden.data.tensors import Split


def hand(angles: Tensor) -> Tensor:
    """Return the places `(..., 2)` of the hand at angles of shoulder and elbow `(..., 2)`, in radians."""
    shoulder, forearm = angles[..., 0], angles.sum(-1)  # directions of the two segments
    return torch.stack([shoulder.cos() + forearm.cos(), shoulder.sin() + forearm.sin()], -1)


def inverse(places: Tensor) -> Tensor:
    """Return the angles `(..., 2)` that bring the hand to places in its reach; the elbow bends by 0 to pi."""
    x, y = places.unbind(-1)
    elbow = ((x.square() + y.square() - 2) / 2).clamp(-1, 1).arccos()
    shoulder = torch.atan2(y, x) - elbow / 2  # equal segments: the hand lies halfway between their directions
    return torch.stack([shoulder.remainder(2 * math.pi), elbow], -1)


class ArmData(ImageTensorsData):
    """Places of the hand, float `(N, 3, 1, 1)`, and angles of shoulder and elbow, float `(N, 2)`, in radians.

    Both segments have length 1. Angles are drawn evenly from [0, pi], where each place has one pair of angles. The
    third number of a place is 1; without it a net without biases could not see the distance of the hand.
    """

    name, shape, num_classes, sizes = "arm", (3, 1, 1), 2, (4_000, 1_000)
    mean = std = ()

    def read(self) -> tuple[Split, Split]:
        """Draw the angles; they do not depend on the run's seed."""
        angles = math.pi * torch.rand(sum(self.sizes), 2, generator=torch.Generator().manual_seed(0))
        places = F.pad(hand(angles), (0, 1), value=1.0)[..., None, None]
        count = self.sizes[0]
        return (places[:count], angles[:count]), (places[count:], angles[count:])


class CodedArmData(ArmData):
    """The same places told by 100 units, float `(N, 100, 1, 1)`: each answers to places near its own, with noise.

    The units' places are a grid over [-2, 2] x [-1, 2], which holds the hand; an answer falls as a Gaussian of standard
    deviation 0.4, and normal noise of standard deviation 0.1 is added, drawn once for each example.
    """

    name, shape = "coded_arm", (100, 1, 1)

    def read(self) -> tuple[Split, Split]:
        """Code the places."""
        random = torch.Generator().manual_seed(1)
        units = torch.cartesian_prod(torch.linspace(-2, 2, 10), torch.linspace(-1, 2, 10))

        def coded(split: Split) -> Split:
            places, angles = split
            answers = (-torch.cdist(places[:, :2, 0, 0], units).square() / (2 * 0.4**2)).exp()
            return (answers + 0.1 * torch.randn(answers.shape, generator=random))[..., None, None], angles

        train, test = super().read()
        return coded(train), coded(test)


class Angles:
    """Squared error as the loss, the mean error of an angle in degrees as the metric."""

    metric, unit, better = "error", "degrees", "lower"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error, in square radians."""
        return F.mse_loss(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean absolute error of both angles, `(B,)`."""
        return (outputs - targets).abs().rad2deg().mean(1)


class Endpoint(RunCallback):
    """Measure where the hand ends: `endpoint`, its mean distance on test places, in lengths of a segment."""

    records = True

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the data, which have to be tensors in memory."""
        splits(data)
        self.data = data

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Move the arm by the angles that the net gives."""
        inputs, angles = self.data.splits["test"]
        batches = BatchLoader(inputs, angles, 1000, self.data.mean, self.data.std)
        module.eval()
        away = [(hand(module(inputs)) - hand(angles)).norm(dim=1) for inputs, angles in batches]
        return {"endpoint": torch.cat(away).double().mean().item()}
