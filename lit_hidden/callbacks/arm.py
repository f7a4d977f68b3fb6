"""A motor task: find the joint angles that bring the hand of a two-segment arm to a place. Regression, in degrees."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.data import ImageTensorsData
from lit_hidden.data.tensors import Split


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
        shoulder, forearm = angles[:, 0], angles.sum(1)  # directions of the two segments
        x, y = shoulder.cos() + forearm.cos(), shoulder.sin() + forearm.sin()
        places = torch.stack([x, y, torch.ones_like(x)], 1)[..., None, None]
        count = self.sizes[0]
        return (places[:count], angles[:count]), (places[count:], angles[count:])


class Angles:
    """Squared error as the loss, the mean error of an angle in degrees as the metric."""

    metric, unit, better = "error", "degrees", "lower"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error, in square radians."""
        return F.mse_loss(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean absolute error of both angles, `(B,)`."""
        return (outputs - targets).abs().rad2deg().mean(1)
