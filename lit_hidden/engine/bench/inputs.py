"""CIFAR-10's augmented batches: ours, torchvision's image by image, kornia's by the batch."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lit_hidden.data import BatchLoader, CIFAR10Data
from lit_hidden.data.files import find
from lit_hidden.engine.bench.feeding import Loader
from lit_hidden.engine.bench.rows import Effort, Measure, Row, Section, counted, interleaved, ratio, written
from lit_hidden.engine.bench.training import Batch
from lit_hidden.engine.local import cores

BATCH = 128
IMAGES = 50_000  # drawn, where CIFAR-10 is not there
MISSING = "kornia is not installed and was left out: pip install 'lit-hidden[bench]' (make bench does)"


def inputs(effort: Effort, device: torch.device, images: Batch, kind: str) -> Section:
    """Measure images a second of each way to make augmented batches, and how much faster ours is.

    Args:
        effort: how long and how often.
        device: where batches are wanted.
        images: of `pictures`.
        kind: what they are.
    """
    loaders = ways(*images, device)
    measures: dict[str, Measure] = {loader.name: partial(loader.measure, effort.seconds) for loader in loaders}
    title = f"Input, {device.type}"
    found = interleaved(measures, effort.rounds, title, effort.console)
    rows = [Row(what, "images/s", numbers) for what, numbers in found.items()]
    rows += [ratio(f"ours / {row.what}", rows[0], row) for row in rows[1:]]
    about = (
        f"Batches of {BATCH} images of 32x32 pixels ({kind}), cropped after 4 pixels of padding, flipped, normalised, "
        "on the device. Ours: from one uint8 tensor, by the batch. Torchvision: RandomCrop, RandomHorizontalFlip, "
        "ToTensor and Normalize on one PIL image after the other, in a DataLoader. Kornia: RandomCrop, "
        "RandomHorizontalFlip and Normalize one after the other on batches of floats, its faster form "
        "(cropping_mode='slice', not its AugmentationSequential), from the same uint8 tensor. "
        f"Medians of {effort.rounds} rounds, {effort.seconds:g} s a measurement; the first batch is not counted."
    )
    findings = [
        f"ours gives {written(row.median)} times as many images/s as {row.what.removeprefix('ours / ')}"
        for row in rows
        if row.unit == "ratio"
    ]
    return Section(title, about, rows, findings if kornia() else [*findings, MISSING], "input", device.type)


def kornia() -> bool:
    """Tell whether kornia is installed."""
    return importlib.util.find_spec("kornia") is not None


def pictures(data_dir: Path) -> tuple[Batch, str]:
    """Read CIFAR-10's training set, or where it is not there draw one of its size; say which.

    Images are uint8 `(50000, 3, 32, 32)`, labels int64 `(50000,)`.

    Raises:
        DataError: it is there and damaged.
    """
    data = CIFAR10Data(str(data_dir))
    if find(data.root, data.layouts):
        return data.read()[0], "CIFAR-10"
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, *CIFAR10Data.shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    return (images, labels), "random: CIFAR-10 is not in the data folder"


def ways(images: Tensor, labels: Tensor, device: torch.device) -> list[Loader]:
    """Make the loaders, ours first: each yields float batches `(B, 3, 32, 32)` and labels `(B,)` on the device.

    Args:
        images: uint8 `(N, 3, 32, 32)`, on the CPU.
        labels: int64 `(N,)`.
        device: where batches are wanted.
    """
    there = images.to(device), labels.to(device)
    mean, std = CIFAR10Data.mean, CIFAR10Data.std
    found = [Loader(_Made(lambda: BatchLoader(*there, BATCH, mean, std, seed=0, crop=4, flip=True)), "ours")]
    single = _Pictures(images, labels)
    for workers in (0, cores()):
        loader = partial(DataLoader, single, BATCH, shuffle=True, num_workers=workers)
        name = f"torchvision, {counted(workers, 'worker')}"
        found.append(Loader(_Made(partial(_Epochs, loader, device)), name, workers=workers))
    if kornia():
        found.append(Loader(_Made(partial(_Epochs, partial(_Kornia, *there), device)), "kornia"))
    return found


class _Made:
    """What has a training loader."""

    def __init__(self, train_dataloader: Callable[[], Any]) -> None:
        self.train_dataloader = train_dataloader


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images one by one, as torchvision's CIFAR10 gives them: a PIL image from an array, then transforms."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(CIFAR10Data.mean, CIFAR10Data.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class _Epochs:
    """Another's loader, with what ours has: batches on the device, and an epoch, which it does not ask for."""

    def __init__(self, make: Callable[[], Any], device: torch.device) -> None:
        self.loader, self.device = make(), device

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.loader:
            yield images.to(self.device), labels.to(self.device)


class _Kornia:
    """Batches of a tensor, shuffled, and augmented by kornia on the tensor's device."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        import kornia.augmentation as augmentation

        self.images, self.labels = images, labels
        mean, std = (torch.tensor(numbers, device=images.device) for numbers in (CIFAR10Data.mean, CIFAR10Data.std))
        self.augment = nn.Sequential(
            augmentation.RandomCrop((32, 32), padding=4, cropping_mode="slice"),
            augmentation.RandomHorizontalFlip(),
            augmentation.Normalize(mean, std),
        )

    def __len__(self) -> int:
        return -(-len(self.images) // BATCH)

    @torch.no_grad()
    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.images)).to(self.images.device)
        for places in torch.split(order, BATCH):
            images = self.images.index_select(0, places).float().div_(255)
            yield self.augment(images), self.labels.index_select(0, places)
