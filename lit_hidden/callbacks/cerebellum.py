"""A granule layer: many cells with few random or chosen inputs each, and a trained readout.

Source: Litwin-Kumar et al., Optimal Degrees of Synaptic Connectivity, Neuron 93:1153, 2017. Settings are ours.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback, splits
from lit_hidden.data import BatchLoader
from lit_hidden.edge_popup import EdgePopup, Hiding, maskers

ACTIVE = 0.1  # of the examples, to how many a cell answers


def excitatory(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    """Draw weights of one sign: the sizes of normal ones."""
    return torch.randn(shape, generator=generator).mul_(std).abs_()


def top_of_each(scores: Tensor, keep: int) -> Tensor:
    """Tell which `keep` scores of each unit `(out, ...)` are largest in magnitude: bool, of their shape."""
    flat = scores.abs().flatten(1)
    if keep == flat.shape[1]:
        return torch.ones_like(scores, dtype=torch.bool)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    return chosen.scatter_(1, flat.topk(keep, dim=1).indices, True).view_as(scores)


class TopPerUnit(EdgePopup):
    """Edge-popup with one number of inputs for every unit: `round(density * inputs)`, at least 1."""

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        self.keep = max(1, round(density * weight[0].numel()))

    def chosen(self, scores: Tensor) -> Tensor:
        """Tell which scores are large enough to stay."""
        return top_of_each(scores, self.keep)

    def set_mask(self, mask: Tensor) -> None:
        """Take a mask with one number of inputs for every unit."""
        super().set_mask(mask)
        self.keep //= len(mask)


class RandomPerUnit(TopPerUnit):
    """The same number of random inputs for every unit, which stay: scores do not learn."""

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        self.scores.requires_grad_(False)


class Cells(nn.Module):
    """Let each cell answer to a tenth of the examples: what exceeds its own threshold, `(B, cells)`.

    A threshold is the 0.9 quantile over the mini-batch in training, and the running mean of these in evaluation.
    """

    threshold: Tensor

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(cells))

    def forward(self, currents: Tensor) -> Tensor:
        """Return the activity."""
        threshold = self.threshold
        if self.training:
            threshold = currents.detach().float().quantile(1 - ACTIVE, dim=0).to(currents.dtype)
            self.threshold.lerp_(threshold.to(self.threshold.dtype), 0.1)
        return (currents - threshold).relu()


class Readout(nn.Module):
    """A linear layer from 0, frozen, so that `hide` does not mask it; `Granules` lets it learn."""

    def __init__(self, cells: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(outputs, cells)), nn.Parameter(torch.zeros(outputs))
        self.requires_grad_(False)

    def forward(self, activity: Tensor) -> Tensor:
        """Return the outputs `(B, outputs)`."""
        return F.linear(activity, self.weight, self.bias)


def granules(num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Sequential:
    """Build a layer of 1000 cells, times `width`, whose currents have mean 0 and variance 1, and a readout."""
    inputs, cells = in_channels * image_size**2, round(1000 * width)
    layer, norm = nn.Linear(inputs, cells, bias=False), nn.BatchNorm1d(cells, affine=False)
    return nn.Sequential(nn.Flatten(), layer, norm, Cells(cells), Readout(cells, num_classes))


class Granules(RunCallback):
    """Train the readout beside the scores, and measure the layer at the end.

    `dimension` is the participation ratio of the cells' activity on test images, `(sum v)^2 / sum v^2` of the variances
    of its principal components; `active` the percentage of cells that answer to an image; `fewest` and `most` are the
    inputs that a cell multiplies with; `held_out_metric` is the accuracy (%), or the task's metric, on held-out images.
    """

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Let the readout learn.

        Raises:
            ValueError: the net has no readout, or no images are held out.
        """
        if not isinstance(module.net[-1], Readout):
            raise ValueError(f"{type(module.net).__name__} has no readout of cells; take net='cerebellum.granules'")
        splits(data)
        if not data.held_out:
            raise ValueError("no images are held out, and one would choose on test images; set held_out")
        module.net[-1].requires_grad_(True)
        if maskers(module.net):  # no seed gives the readout back: all tensors are kept
            hiding = Hiding.of(module.net)
            module.net._lit_hidden = replace(hiding, arguments=hiding.arguments | {"distribution": None})
        self.data = data

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Measure."""
        module.eval()
        mean, std, task = self.data.mean, self.data.std, module.task
        batches = {name: BatchLoader(x, y, 1000, mean, std) for name, (x, y) in self.data.splits.items()}
        activity = torch.cat([module.net[:-1](images) for images, _ in batches["test"]]).double()
        answers = [(module(images), targets) for images, targets in batches["val"]]
        metric = [100.0 * (z.argmax(1) == y) if task is None else task.measure(z, y) for z, y in answers]
        degrees, variances = (module.net[1].weight != 0).sum(1), activity.T.cov()
        # An accuracy at chance is a result: that of cells that are all alike.
        return ({"fails_below": 0.0} if task is None else {}) | {
            "dimension": (variances.trace().square() / variances.square().sum()).item(),
            "active": 100 * (activity > 0).double().mean().item(),
            "fewest": degrees.min().item(),
            "most": degrees.max().item(),
            "held_out_metric": torch.cat(metric).double().mean().item(),
        }
