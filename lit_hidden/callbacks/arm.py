"""A motor task: which joint angles bring the hand of an arm of two segments to a place? Regression, in degrees."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.data import ImageTensorsData
from lit_hidden.data.tensors import Split


class ArmData(ImageTensorsData):
    """Places of the hand, float `(N, 3, 1, 1)`, and the angles of shoulder and elbow, float `(N, 2)`, in radians.

    Both segments have length 1. Angles are drawn evenly from [0, pi], where no two give one place. The third number of
    a place is 1: a net without biases could not tell otherwise how far away the hand is.
    """

    name, shape, num_classes, sizes = "arm", (3, 1, 1), 2, (4_000, 1_000)
    mean = std = ()

    def read(self) -> tuple[Split, Split]:
        """Draw the angles, the same for every seed."""
        angles = math.pi * torch.rand(sum(self.sizes), 2, generator=torch.Generator().manual_seed(0))
        shoulder, forearm = angles[:, 0], angles.sum(1)  # directions of the two segments
        x, y = shoulder.cos() + forearm.cos(), shoulder.sin() + forearm.sin()
        places = torch.stack([x, y, torch.ones_like(x)], 1)[..., None, None]
        count = self.sizes[0]
        return (places[:count], angles[:count]), (places[count:], angles[count:])


class Angles:
    """Squared error, and how many degrees an angle is off."""

    metric, unit, better = "error", "degrees", "lower"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Average the squared error, in square radians."""
        return F.mse_loss(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Average the error of both angles, of each example."""
        return (outputs - targets).abs().rad2deg().mean(1)
