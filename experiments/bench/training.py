"""What the bench trains: nets as runs make them, steps without a Trainer, and an epoch with the engine's."""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.benchmark import timer

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import BatchLoader, CIFAR10Data, ImageData, ImageNetData
from lit_hidden.engine import train
from lit_hidden.engine.checkpoints import Recorder
from lit_hidden.engine.network import make_module
from lit_hidden.recipes import IMAGENET
from lit_hidden.run import Run
from lit_hidden.steps import Steps

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) and labels (B,)
BATCH = 128  # of 32x32 images
EDGE = 3  # steps of an epoch that are not timed: the first two, and the last


def like(net: str, image_size: int, batch_size: int) -> ImageData:
    """Describe the data set of a net, ImageNet or CIFAR-10; nothing is read."""
    return ImageNetData("", batch_size, image_size=image_size) if net in IMAGENET else CIFAR10Data("", batch_size)


def made(net: str, density: float | None, data: ImageData, device: torch.device) -> LitClassifier:
    """Build a net on the device as runs do, hidden at `density` or, without one, dense."""
    # A cosine schedule needs the length of the training.
    run = Run(net=net, density=density, data=data.name, batch_size=data.batch_size, schedule="constant")
    return make_module(run, data).to(device)


def noise(data: ImageData, device: torch.device) -> Batch:
    """Draw a batch of a set's shape: normal pixels, uniform labels."""
    labels = torch.randint(data.num_classes, (data.batch_size,))
    return torch.randn(data.batch_size, *data.shape).to(device), labels.to(device)


def drawn(count: int) -> Batch:
    """Draw images like CIFAR-10's: uint8 `(count, 3, 32, 32)`, labels int64 `(count,)`."""
    return torch.randint(256, (count, *CIFAR10Data.shape), dtype=torch.uint8), torch.randint(10, (count,))


def step_of(module: LitClassifier, at_once: int = 0) -> Callable[[Any], object]:
    """Give the bare step on a batch: forward, backward, update; with `at_once` the engine's steps on a block."""
    optimizer = module.configure_optimizers()["optimizer"]

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(module.training_step(batch, 0))
        optimizer.step()

    return Steps(module.net, optimizer, module.recipe.label_smoothing).train if at_once else step


class Watched(BatchLoader):
    """`steps` batches of drawn images, or blocks of `at_once` batches, that tell how long a step takes.

    A step is the time between two `next()` calls. A callback would be one more for Lightning to call.
    """

    def __init__(self, steps: int, batch_size: int, device: torch.device, at_once: int = 0) -> None:
        images, labels = (each.to(device) for each in drawn(steps * batch_size * (at_once or 1)))
        mean, std = CIFAR10Data.mean, CIFAR10Data.std
        super().__init__(images, labels, batch_size, mean, std, seed=0, crop=4, flip=True, at_once=at_once)
        self.edges: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(super().__iter__()):
            if number in (EDGE - 1, len(self) - 1):
                self.edges.append(timer())  # which waits for the device
            yield batch

    def timing(self, epoch: Callable[[], None]) -> Callable[[], float]:
        """Give a measurement: train an epoch on this loader, and return the mean milliseconds of its timed steps."""

        def measure() -> float:
            epoch()
            began, ended = self.edges[-2:]
            return 1000 * (ended - began) / ((len(self) - EDGE) * (self.at_once or 1))

        return measure


def fit(module: LitClassifier, loader: BatchLoader, folder: Path) -> None:
    """Train an epoch as the engine does, checkpoint and callbacks of a plain run included; nothing is evaluated."""
    kind = loader.device.type
    recorder = Recorder(folder, "test", pause=train.PAUSE if kind == "cuda" else 0.0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its notes on devices
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # its advice, as in the engine
        module.automatic_optimization = not loader.at_once
        settings = train.settings(folder, kind, at_once=loader.at_once)
        trainer = L.Trainer(**settings, max_epochs=1, callbacks=[recorder])
        trainer.fit(module, loader)
