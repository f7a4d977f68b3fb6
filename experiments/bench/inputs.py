"""Input: ways to make augmented batches side by side; and whether a set's loaders keep up with training."""

import importlib.util
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.benchmark import timer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from experiments.bench.rows import Bench, Section, written
from experiments.bench.training import BATCH, Batch, drawn, made, step_of
from lit_hidden.data import BatchLoader, CIFAR10Data, ImageData, ImageNetData, data_module
from lit_hidden.engine.devices import cores
from lit_hidden.recipes import IMAGENET_SIZES

FILES, CLASSES = 128, 1000  # generated; a tree has more names, which are links to these files


@dataclass
class Source:
    """Whatever yields batches, made anew for each measurement; `workers` processes decode them, or none."""

    make: Callable[[], Iterable[Batch]]
    device: torch.device
    workers: int = 0
    epochs: Iterator[int] = field(default_factory=count)  # each measurement takes the next ones: other images

    def rate(self, seconds: float) -> float:
        """Count the images that arrive on the device in a second, without the first turn of workers."""
        turns, images = self.turns(), 0
        next(turns)
        began = timer()
        while not images or time.perf_counter() - began < seconds:
            images += next(turns)
        return images / (timer() - began)

    def turns(self) -> Iterator[int]:
        """Count the images of each turn of the workers, a batch of each, epoch after epoch.

        Workers that start together deliver together, so a rate is right only over whole turns.
        """
        loader, workers = self.make(), max(1, self.workers)
        for epoch in self.epochs:
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            turn = 0
            for seen, (images, labels) in enumerate(loader, 1):
                images.to(self.device), labels.to(self.device)
                turn += len(images)
                if seen % workers == 0:
                    yield turn
                    turn = 0
            if turn:
                yield turn


def inputs(bench: Bench, images: Batch, kind: str) -> Section:
    """Measure images a second of each way to make augmented batches of `pictures`' images."""
    about = (
        f"Batches of {BATCH} images of 32x32 pixels ({kind}), cropped after 4 pixels of padding, flipped, normalised, "
        "on the device. Ours: from one uint8 tensor, by the batch. Torchvision: its transforms on one PIL image after "
        "the other, in a DataLoader. Kornia: its RandomCrop (cropping_mode='slice', its faster form) and "
        "RandomHorizontalFlip on our batches, normalised but not augmented. "
        f"Medians of {bench.rounds} rounds, {bench.seconds:g} s a measurement; the first batch is not counted."
    )
    section, sources = Section("input", bench.device.type, about), ways(*images, bench.device)
    measures = {name: partial(source.rate, bench.seconds) for name, source in sources.items()}
    section.add("images/s", bench.turns(section.title, measures, bench.rounds))
    for name in [*sources][1:]:
        section.ratio("ours", name)
    if "kornia" not in measures:
        section.findings.append("kornia is not installed and was left out: pip install 'lit-hidden[bench]'")
    return section


def pictures(data_dir: Path) -> tuple[Batch, str]:
    """Read CIFAR-10's training set, or draw images of its size where it is absent; and say which.

    Raises:
        DataError: it is damaged.
    """
    data = CIFAR10Data(str(data_dir))
    if data.folder:
        return data.read()[0], "CIFAR-10"
    return drawn(50_000), "random: CIFAR-10 is not in the data folder"


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


def fed(
    data: str | None, root: Path, device: torch.device, image_size: int | None, batch_size: int | None
) -> ImageData:
    """Make the set that `feeding` reads; without `data`, ImageNet as `generate` will write it into `root`.

    Raises:
        ValueError: the data or a number is unknown or out of bounds.
        DataError: the data are missing or damaged.
    """
    name, usual, options = data or "imagenet", BATCH, dict[str, Any]()
    if name in IMAGENET_SIZES:
        usual = 256 if device.type == "cuda" else 8
        options = {"image_size": image_size, "cache_gib": 0.0, "workers": cores()}
    elif image_size is not None:
        raise ValueError(f"--image-size {image_size} is for ImageNet and its subsets; the data are {data}")
    size = usual if batch_size is None else batch_size
    module = data_module(name, root=str(root), batch_size=size, held_out=0, **options)
    # All that a data module reads from its trainer; without one it stays on the CPU.
    device_of = SimpleNamespace(root_device=device)
    module.trainer = SimpleNamespace(strategy=device_of, global_rank=0, world_size=1, num_devices=1)  # type: ignore[assignment]
    if not isinstance(module, ImageNetData):
        module.prepare_data()
        module.setup("fit")
    elif data:
        _ = module.tree  # prepare_data would decode every image
    return module


def feeding(bench: Bench, data: ImageData, net: str, generated: bool) -> Section:
    """Measure images a second of a set's loader, and of the nets that it feeds, hidden and dense.

    Raises:
        DataError: an image cannot be decoded, or the generated files cannot be written.
    """
    device, large, files = bench.device, isinstance(data, ImageNetData), ""
    if generated:
        # More than a measurement decodes: at the end of an epoch workers wait.
        files = generate(data.root, cores() * math.ceil(500 * bench.seconds + 4 * data.batch_size))
    batch = next(iter(data.train_dataloader()))
    about = (
        f"{files}The loader reads {f'files by {cores()} processes' if large else 'memory'}. Training: {net}, hidden at "
        f"density 0.3 and dense, on one batch of {len(batch[1])} images of {data.shape[1]}x{data.shape[2]} pixels on "
        f"the device. Medians of {bench.few} rounds, {bench.seconds:g} s a measurement. "
        "On a CPU loader and training share it; each was measured alone."
    )
    section = Section("feeding", device.type, about, title=f"Loader and training: {data.name}")
    sources = {"loader": Source(data.train_dataloader, device, cores() if large else 0)}
    for name, density in (("hidden", 0.3), ("dense", None)):
        step = step_of(made(net, density, data, device))
        sources[f"training, {name}"] = Source(partial(forever, step, batch), device)
    measures = {name: partial(source.rate, bench.seconds) for name, source in sources.items()}
    section.add("images/s", bench.turns(section.title, measures, bench.few))
    gives, *takes = (row.numbers["median"] for row in section.rows)
    for name in [*sources][1:]:
        section.ratio("loader", name)
    verdict = "keeps up" if gives >= max(takes) else "starves the device"
    section.findings.append(f"the loader {verdict}: {written(gives)} images/s, training takes {written(max(takes))}")
    return section


def forever(step: Callable[[Batch], object], batch: Batch) -> Iterator[Batch]:
    """Train on one batch, and yield it after each step."""
    while True:
        step(batch)
        yield batch


def generate(folder: Path, names: int) -> str:
    """Write a tree like ImageNet's of at least `names` training images, links to few files, and describe it."""
    files, random, each = folder / "files", np.random.default_rng(0), math.ceil(names / CLASSES)
    files.mkdir(parents=True)
    for number in range(FILES):
        width, height = (375, 500) if number % 4 == 3 else (500, 375)
        pixels = Image.fromarray(random.integers(0, 256, (height // 5, width // 5, 3), np.uint8))
        pixels.resize((width, height), Image.Resampling.BICUBIC).save(files / f"{number}.JPEG", quality=95)
    for part, label, i in product(("train", "val"), range(CLASSES), range(each)):
        place = folder / part / f"n{label:08d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.JPEG").symlink_to(files / f"{(label * each + i) % FILES}.JPEG")
    size = sum(path.stat().st_size for path in files.iterdir()) / FILES / 1000
    return f"Generated: {FILES} JPEG files of 500x375 pixels, {size:.0f} kB each, under {each * CLASSES:,} names. "
