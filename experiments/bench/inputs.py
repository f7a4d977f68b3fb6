"""Input: ways to make augmented batches of images, side by side."""

import importlib.util
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.benchmark import timer
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms

from experiments.bench.rows import Bench, Section, turns
from experiments.bench.training import BATCH, Batch, drawn
from lit_hidden.data import BatchLoader, CIFAR10Data
from lit_hidden.engine.devices import cores

Epoch = Callable[[], Iterable[Batch]]  # makes the batches of an epoch


def inputs(bench: Bench) -> Section:
    """Measure images a second of each way to make augmented batches of images of CIFAR-10's size, and their ratios."""
    about = (
        f"Batches of {BATCH} random images of 32x32 pixels, cropped after 4 pixels of padding, flipped, normalised, on "
        "the device. Ours: from one uint8 tensor, by the batch. Torchvision: its transforms on one PIL image after "
        "the other, in a DataLoader. Kornia, where it is installed: its RandomCrop (cropping_mode='slice', its faster "
        "form) and RandomHorizontalFlip on our batches, normalised but not augmented. The first batch is not counted."
    )
    section = Section("input", bench.device.type, about)
    found = ways(*drawn(50_000), bench.device)
    measures = {name: partial(rate, *way, bench.device, bench.seconds) for name, way in found.items()}
    section.add("images/s", turns(measures, bench.rounds))
    for name in [name for name in measures if name != "ours"]:
        section.ratio("ours", name)
    return section


def rate(epoch: Epoch, workers: int, device: torch.device, seconds: float) -> float:
    """Count the images that arrive on the device in a second, without the first turn of workers.

    Workers that start together deliver together, so a rate is right only over whole turns, a batch of each.
    """
    batches = chain.from_iterable(epoch() for _ in count())

    def turn() -> int:
        arrived = [(images.to(device), labels.to(device)) for images, labels in islice(batches, max(1, workers))]
        return sum(len(labels) for _, labels in arrived)

    turn()
    images, began = 0, timer()
    while not images or time.perf_counter() - began < seconds:
        images += turn()
    return images / (timer() - began)


def ways(images: Tensor, labels: Tensor, device: torch.device) -> dict[str, tuple[Epoch, int]]:
    """Give each way and its number of workers, for images uint8 `(N, 3, 32, 32)` and labels int64 `(N,)` on the CPU."""
    mean, std = CIFAR10Data.mean, CIFAR10Data.std
    batches = partial(BatchLoader, images.to(device), labels.to(device), BATCH, mean, std, seed=0)
    found: dict[str, tuple[Epoch, int]] = {"ours": (partial(batches, crop=4, flip=True), 0)}
    crop, flip = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()
    augmented = transforms.Compose([crop, flip, transforms.ToTensor(), transforms.Normalize(mean, std)])
    single: Any = list(zip(images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist(), strict=True))

    def transformed(rows: list[tuple[np.ndarray, int]]) -> Batch:
        """Transform images one by one, as torchvision's CIFAR10 does: a PIL image from an array, then transforms."""
        pair: Batch = default_collate([(augmented(Image.fromarray(image)), label) for image, label in rows])
        return pair

    for workers in (0, cores()):
        loader = partial(DataLoader, single, BATCH, shuffle=True, num_workers=workers, collate_fn=transformed)
        found[f"torchvision, {workers} worker{'s'[: workers != 1]}"] = loader, workers
    if importlib.util.find_spec("kornia"):
        from kornia.augmentation import RandomCrop, RandomHorizontalFlip

        augment = nn.Sequential(RandomCrop((32, 32), padding=4, cropping_mode="slice"), RandomHorizontalFlip())
        found["kornia"] = lambda: ((augment(images), labels) for images, labels in batches()), 0
    return found
