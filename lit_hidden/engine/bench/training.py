"""A training step without a Trainer, on batches that are on the device already."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import CIFAR10Data, ImageData, ImageNetData
from lit_hidden.engine.network import make_module
from lit_hidden.experiment import Run
from lit_hidden.recipes import IMAGENET

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) and labels (B,)


def training(module: LitClassifier, batch: Batch) -> Iterator[Batch]:
    """Train on one batch as `configure_optimizers` says, and yield it after each step."""
    optimizer = module.configure_optimizers()["optimizer"]
    while True:
        optimizer.zero_grad()
        torch.autograd.backward(module.training_step(batch, 0))
        optimizer.step()
        yield batch


def like(net: str, image_size: int, batch_size: int) -> ImageData:
    """Describe the set that a net is for, CIFAR-10 or ImageNet; nothing is read."""
    if net in IMAGENET:
        return ImageNetData("none", batch_size, image_size=image_size)
    return CIFAR10Data("none", batch_size)


def made(net: str, density: float | None, data: ImageData, device: torch.device) -> LitClassifier:
    """Build a net as runs do, hidden at `density` or, without one, dense; on the device."""
    # A cosine would have to know how long it goes on.
    run = Run(net=net, density=density, data=data.name, batch_size=data.batch_size, schedule="constant")
    return make_module(run, data).to(device)


def noise(data: ImageData, device: torch.device) -> Batch:
    """Draw a batch of a set's shape: normal pixels, any labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(data.batch_size, *data.shape, generator=generator)
    labels = torch.randint(data.num_classes, (data.batch_size,), generator=generator)
    return images.to(device), labels.to(device)
