"""Predictive coding: activities settle until layers predict each other, and each layer learns from its own error.

Source: Rao and Ballard, Nature Neuroscience 2:79, 1999; Whittington and Bogacz, Neural Computation 29:1229, 2017.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lit_hidden.callbacks import RunCallback, angle, balanced
from lit_hidden.classifier import LitClassifier
from lit_hidden.edge_popup import weight_layers
from lit_hidden.modules import LitDense, LitSubnetwork

MEASURED = (1, 2, 5, 10, 20, 50)  # inference steps at which angles are measured


def torch_default(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    """Draw weights as torch's layers do: U(+-1/sqrt(fan_in)); Kaiming's make outputs too large for a squared error."""
    return (2 * torch.rand(shape, generator=generator) - 1) * std / 2**0.5


def stages(net: nn.Module) -> list[nn.Sequential]:
    """Part a net, one layer after another, behind each layer with weights.

    Raises:
        ValueError: it is no `nn.Sequential`, or something follows its last layer with weights.
    """
    layers, found, part = {id(layer) for layer, _ in weight_layers(net).values()}, [], list[nn.Module]()
    for layer in net if isinstance(net, nn.Sequential) else ():
        part.append(layer)
        if id(layer) in layers:
            found.append(nn.Sequential(*part))
            part = []
    if part or not found:
        raise ValueError(f"{type(net).__name__}: predictive coding needs an nn.Sequential that ends in a linear layer")
    return found


def predicted(parts: Sequence[nn.Module], activities: Sequence[Tensor]) -> list[Tensor]:
    """Return what each layer predicts of the next, from the activities below it."""
    return [part(below) for part, below in zip(parts, activities, strict=False)]


def energy(parts: Sequence[nn.Module], activities: Sequence[Tensor]) -> Tensor:
    """Return half the squared errors of all predictions, summed; `activities` begin with the images."""
    errors = zip(activities[1:], predicted(parts, activities), strict=True)
    return torch.stack([(x - guess).square().sum() / 2 for x, guess in errors]).sum()


def settled(parts: Sequence[nn.Module], images: Tensor, targets: Tensor, steps: int, step: float) -> list[Tensor]:
    """Return the activities after so many steps down the energy, from those of the forward pass.

    `images` `(B, ...)` and `targets` `(B, classes)`, the activity of the last layer, stay; they are the first and last.
    """
    free, below = list[Tensor](), images
    for part in parts[:-1]:
        below = part(below).detach()
        free.append(below)
    for _ in range(steps):
        free = [x.detach().requires_grad_() for x in free]
        slopes = torch.autograd.grad(energy(parts, [images, *free, targets]), free)
        free = [(x - step * slope).detach() for x, slope in zip(free, slopes, strict=True)]
    return [images, *free, targets]


class _Predictive(LitClassifier):
    """One layer after another; half the squared error to the one-hot label. See `Inference` for the settings."""

    steps, step, shuffled = 20, 0.3, False

    def _targets(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, int(self.hparams["num_classes"])).float()

    def _loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return (outputs.float() - self._targets(targets)).square().sum(1).mean() / 2

    def local(self, images: Tensor, labels: Tensor, steps: int) -> Tensor:
        """Return the mean energy of the settled activities, whose gradient is local to each layer."""
        with parametrize.cached():  # masks do not change meanwhile
            parts = stages(self.net)
            activities = settled(parts, images, self._targets(labels), steps, self.step)
            guesses = predicted(parts, activities)
            errors = [x - guess.detach() for x, guess in zip(activities[1:], guesses, strict=True)]
            if self.shuffled:  # those of hidden layers come from another image
                errors[:-1] = [error.roll(1, 0) for error in errors[:-1]]
            local = zip(guesses, errors, strict=True)
            return torch.stack([(e + g.detach() - g).square().sum() / 2 for g, e in local]).sum() / len(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the local energy; without inference steps the squared error, for backpropagation."""
        images, labels = batch
        with torch.set_grad_enabled(not self.steps):
            outputs = self(images)
            loss = self._loss(outputs, labels)
        self._update(self.train_metrics, loss, outputs, labels)
        return self.local(images, labels, self.steps) if self.steps else loss


class PredictiveMasks(_Predictive, LitSubnetwork):
    """Predictive coding of scores: each layer's get `sign(s) w dW` from its own error."""


class PredictiveWeights(_Predictive, LitDense):
    """Predictive coding of weights."""


class Inference(RunCallback):
    """Say how activities settle in a run with one of the methods here, and compare its steps with backpropagation's.

    `angle` is the mean angle at the end, in degrees, between the run's step and the gradient of the squared error, over
    all layers but the last. `predictive.npz` has `steps` `(6,)`, and `before` and `after` `(6, layers)`, angles before
    and after training, with so many inference steps; NaN where a layer gets nothing.

    Args:
        steps: inference steps; 0 is backpropagation of the same error.
        step: their size.
        shuffled: whether hidden layers get the errors of other images.
        angles: training images on which angles are measured; 0 measures none.
    """

    version = 2

    def __init__(self, steps: int = 20, step: float = 0.3, shuffled: bool = False, angles: int = 512) -> None:
        super().__init__()
        if steps < 0 or not 0 < step < 1:
            raise ValueError(f"steps={steps}, step={step}: give at least 0 steps, of a size in (0, 1)")
        self.steps, self.step, self.shuffled, self.angles = steps, step, shuffled, angles

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Set the module, and measure angles before training.

        Raises:
            ValueError: the method is not predictive coding, or the net cannot be.
        """
        if not isinstance(module, _Predictive):
            raise ValueError(f"{type(module).__name__} has no inference; take method='predictive.PredictiveMasks'")
        stages(module.net)
        module.steps, module.step, module.shuffled = self.steps, self.step, self.shuffled
        if self.angles:
            self.data = balanced(data, "train", self.angles)
            self.before = [self._angles(module, steps) for steps in MEASURED]

    def _angles(self, module: Any, steps: int) -> list[float]:
        ((images, labels),) = self.data
        wanted = [p for p in module.net.parameters() if p.requires_grad and p.ndim > 1]
        losses = module._loss(module(images), labels), module.local(images, labels, steps)
        true, found = (torch.autograd.grad(loss, wanted) for loss in losses)
        return [angle(one, other) for one, other in zip(true, found, strict=True)]

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Measure angles after training; write `predictive.npz`."""
        found = {"fails_below": 0.0} if self.steps else {}
        if not self.angles:
            return found
        after = [self._angles(module, steps) for steps in MEASURED]
        np.savez(folder / "predictive.npz", steps=MEASURED, before=self.before, after=after)
        own = self._angles(module, self.steps)[:-1] if self.steps else [0.0]
        return found | ({"angle": float(np.mean(own))} if np.isfinite(own).all() else {})
