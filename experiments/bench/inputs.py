"""Input: ways to make augmented batches side by side; and whether a set's loader keeps up with training."""

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.benchmark import timer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from experiments.bench.rows import Bench, Section, timed, turns
from experiments.bench.training import BATCH, Batch, drawn, made, step_of
from lit_hidden.classifier import LitClassifier
from lit_hidden.data import BatchLoader, CIFAR10Data, ImageData, ImageNetData, data_module
from lit_hidden.engine.devices import cores
from lit_hidden.engine.experiment import UsageError
from lit_hidden.recipes import IMAGENET_SIZES


@dataclass
class Source:
    """Whatever yields batches, made anew for each measurement; `workers` processes decode them, or none."""

    make: Callable[[], Iterable[Batch]]
    device: torch.device
    workers: int = 0
    epochs: Iterator[int] = field(default_factory=count)  # each measurement takes the next ones: other images

    def rate(self, seconds: float) -> float:
        """Count the images that arrive on the device in a second, without the first turn of workers.

        Workers that start together deliver together, so a rate is right only over whole turns, a batch of each.
        """
        batches, images = self.batches(), 0
        turn = partial(islice, batches, max(1, self.workers))
        list(turn())
        began = timer()
        while not images or time.perf_counter() - began < seconds:
            images += sum(len(labels) for _, labels in turn())
        return images / (timer() - began)

    def batches(self) -> Iterator[Batch]:
        """Yield batches on the device, epoch after epoch."""
        loader = self.make()
        for epoch in self.epochs:
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            for images, labels in loader:
                yield images.to(self.device), labels.to(self.device)


def inputs(bench: Bench) -> Section:
    """Measure images a second of each way to make augmented batches of images of CIFAR-10's size."""
    about = (
        f"Batches of {BATCH} random images of 32x32 pixels, cropped after 4 pixels of padding, flipped, normalised, on "
        "the device. Ours: from one uint8 tensor, by the batch. Torchvision: its transforms on one PIL image after "
        "the other, in a DataLoader. Kornia, where it is installed: its RandomCrop (cropping_mode='slice', its faster "
        "form) and RandomHorizontalFlip on our batches, normalised but not augmented. The first batch is not counted."
    )
    sources = ways(*drawn(50_000), bench.device)
    measures = {name: partial(source.rate, bench.seconds) for name, source in sources.items()}
    return _compared(Section("input", bench.device.type, about), measures, bench.rounds)


def _compared(section: Section, measures: Mapping[str, Callable[[], float]], rounds: int) -> Section:
    """Measure images a second in several ways, and the ratios of the first to the others."""
    section.add("images/s", turns(measures, rounds))
    first, *others = measures
    for name in others:
        section.ratio(first, name)
    return section


def ways(images: Tensor, labels: Tensor, device: torch.device) -> dict[str, Source]:
    """Make the sources, ours first, from images uint8 `(N, 3, 32, 32)` and labels int64 `(N,)` on the CPU."""
    mean, std, single = CIFAR10Data.mean, CIFAR10Data.std, Pictures(images, labels)
    batches = partial(BatchLoader, images.to(device), labels.to(device), BATCH, mean, std, seed=0)
    found = {"ours": Source(partial(batches, crop=4, flip=True), device)}
    for workers in (0, cores()):
        loader = partial(DataLoader, single, BATCH, shuffle=True, num_workers=workers)
        found[f"torchvision, {workers} worker{'s'[: workers != 1]}"] = Source(loader, device, workers)
    if importlib.util.find_spec("kornia"):
        from kornia.augmentation import RandomCrop, RandomHorizontalFlip

        augment = nn.Sequential(RandomCrop((32, 32), padding=4, cropping_mode="slice"), RandomHorizontalFlip())
        found["kornia"] = Source(lambda: ((augment(images), labels) for images, labels in batches()), device)
    return found


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one by one, as torchvision's CIFAR10 gives them: a PIL image from an array, then transforms."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        crop, norm = transforms.RandomCrop(32, padding=4), transforms.Normalize(CIFAR10Data.mean, CIFAR10Data.std)
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), norm])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def feeding(bench: Bench, name: str, net: str | None, data_dir: Path) -> Section:
    """Measure images a second of a set's loader, and of the nets that it feeds, hidden and dense.

    Raises:
        UsageError: there is no such set or net.
        DataError: the data are missing or damaged.
    """
    device, large = bench.device, name in IMAGENET_SIZES
    net = net or ("resnet50" if large else "conv4")
    try:
        data = fed(name, data_dir, device)
        modules = {f"training, {n}": made(net, k, data, device) for n, k in (("hidden", 0.3), ("dense", None))}
    except ValueError as error:
        raise UsageError(str(error)) from error
    images, labels = (each.to(device) for each in next(iter(data.train_dataloader())))
    about = (
        f"{data.name}: the loader reads {f'files by {cores()} processes' if large else 'memory'}. Training: {net}, "
        f"hidden at density 0.3 and dense, on one batch of {len(labels)} images of {data.shape[1]}x{data.shape[2]} "
        "pixels on the device. A ratio below 1: the loader starves the device. On a CPU loader and training share it; "
        "each was measured alone."
    )
    loader = Source(data.train_dataloader, device, cores() if large else 0)

    def rate(module: LitClassifier) -> Callable[[], float]:
        step = timed(partial(step_of(module), (images, labels)), bench.seconds)
        return lambda: 1000 * len(labels) / step()

    measures = {"loader": partial(loader.rate, bench.seconds)} | {name: rate(one) for name, one in modules.items()}
    return _compared(Section("feeding", device.type, about), measures, bench.rounds)


def fed(name: str, data_dir: Path, device: torch.device) -> ImageData:
    """Make the set that `feeding` reads; ImageNet's files are decoded for every batch."""
    size, options = BATCH, dict[str, Any]()
    if name in IMAGENET_SIZES:
        size, options = 256 if device.type == "cuda" else 8, {"cache_gib": 0.0}
    data = data_module(name, root=str(data_dir), batch_size=size, held_out=0, **options)
    # All that a data module reads from its trainer; without one it stays on the CPU.
    device_of = SimpleNamespace(root_device=device)
    data.trainer = SimpleNamespace(strategy=device_of, global_rank=0, world_size=1, num_devices=1)  # type: ignore[assignment]
    if isinstance(data, ImageNetData):
        _ = data.tree  # prepare_data would decode every image
    else:
        data.prepare_data()
        data.setup("fit")
    return data
