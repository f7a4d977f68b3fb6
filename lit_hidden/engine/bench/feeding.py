"""Does the input keep up with training? Images a second of each loader, and of the nets that it is to feed."""

import math
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DATA, ImageData, ImageNetData, data_module, images_per_second
from lit_hidden.data.files import find
from lit_hidden.engine.bench.generate import generate
from lit_hidden.engine.bench.rows import Effort, Measure, Row, Section, counted, interleaved, ratio, written
from lit_hidden.engine.bench.training import Batch, training
from lit_hidden.engine.local import cores
from lit_hidden.engine.network import make_module
from lit_hidden.experiment import Run
from lit_hidden.recipes import IMAGENET_SIZES

DENSITY = 0.3
CACHED = 1024  # about so many training images are decoded into a cache


class Feed:
    """A set and the nets that it is to feed: as runs make them, hidden and dense, on the device.

    Args:
        data: the set.
        net: by name; None is resnet50 on ImageNet and its subsets, conv4 on others.
        device: where batches arrive and nets are trained.

    Raises:
        ValueError: the net is unknown or cannot take such images.
    """

    def __init__(self, data: ImageData, net: str | None, device: torch.device) -> None:
        self.data, self.device = data, device
        self.net = net or ("resnet50" if data.name in IMAGENET_SIZES else "conv4")
        # A cosine would have to know how long it goes on.
        base = {"net": self.net, "data": data.name, "batch_size": data.batch_size, "schedule": "constant"}
        runs = {"hidden": {"density": DENSITY}, "dense": {"method": "dense"}}
        self.modules: dict[str, LitClassifier] = {
            name: make_module(Run(**base, **more), data).to(device)  # type: ignore[arg-type]
            for name, more in runs.items()
        }


def feeding(feed: Feed, effort: Effort, scratch: Path) -> Section:
    """Measure the loaders of a set, and the training of the nets that it is to feed.

    Args:
        feed: the set and the nets; a set in `scratch` is generated there.
        effort: how long and how often.
        scratch: a folder for generated and decoded images.

    Returns:
        images a second of each loader and of training, how long first batches took, and the ratio of loader and
        training, paired by round.

    Raises:
        DataError: an image cannot be decoded, or `scratch` cannot take them.
    """
    data, title = feed.data, f"Loader and training: {feed.data.name}"
    rows: list[Row] = []
    about: list[str] = []
    last: ImageData
    seconds, rounds, console = effort.seconds, effort.few, effort.console
    if isinstance(data, ImageNetData):
        if data.root.is_relative_to(scratch):
            title = "Loader and training: generated files like ImageNet's"
            with console.status("generating files"):
                # More than are decoded in a measurement: at the end of an epoch workers would wait.
                about = [generate(data.root, cores() * math.ceil(500 * seconds + 4 * data.batch_size))]
        else:
            about = [f"Files of {data.tree.folder}."]
        with console.status("decoding into a cache"):
            cached, row, holds = _cached(data, scratch / data.name)
        rows, about, last = [row], [*about, holds], cached
        workers = counted(cores(), "worker")
        loaders = [
            Loader(data, workers, f"{workers} decode{'s' if cores() == 1 else ''}", cores()),
            Loader(cached, "decoded cache", "the decoded cache gives"),
        ]
    else:
        loaders, last = [Loader(data, "memory", "memory gives")], data
    batch = next(iter(last.train_dataloader()))
    measures: dict[str, Measure] = {f"loader, {each.name}": partial(each.measure, seconds) for each in loaders}
    for name, module in feed.modules.items():
        measures[f"training, {name}"] = partial(_training, training(module, batch), seconds)
    rates = [Row(what, "images/s", found) for what, found in interleaved(measures, rounds, title, console).items()]
    feeds = dict(zip((each.name for each in loaders), rates, strict=False))
    trained = dict(zip(feed.modules, rates[len(loaders) :], strict=True))
    rows = [*rates, *(Row(f"first batch, {each.name}", "ms", tuple(each.firsts)) for each in loaders), *rows]
    for (ours, x), (theirs, y) in product(feeds.items(), trained.items()):
        rows.append(ratio(f"{ours} / {theirs}", x, y))
    fastest = max(trained, key=lambda name: trained[name].median)
    _, height, width = data.shape
    about += [
        f"Training: {feed.net}, hidden at density {DENSITY:g} and dense, in float32: forward, backward and update, on "
        f"one batch of {len(batch[1])} images of {height}x{width} pixels that is on the device.",
        f"Medians of {rounds} rounds, {seconds:g} s a measurement.",
    ]
    if feed.device.type == "cpu":
        about.append("Loaders and training share the CPU here; each was measured alone.")
    findings = [each.finding(feeds[each.name].median, trained[fastest].median, fastest) for each in loaders]
    return Section(title, " ".join(about), rows, findings, "feeding", feed.device.type)


class Fed(Protocol):
    """What has a training loader, as data modules do."""

    def train_dataloader(self) -> Any:
        """Make it: it yields batches, has a length and takes an epoch."""


class Loader:
    """A set's training loader, made anew for each measurement: its workers are gone when others are measured.

    Args:
        data: whose loader.
        name: of the row.
        gives: begins the sentence on how many images it gives.
        workers: processes that decode; 0: batches are made in the training process.
    """

    def __init__(self, data: Fed, name: str, gives: str = "", workers: int = 0) -> None:
        self.data, self.name, self.gives, self.workers = data, name, gives, workers
        self.firsts: list[float] = []  # milliseconds until the first batch, of each measurement

    def measure(self, seconds: float, number: int) -> float:
        """Count the images that arrive on the device in a second; each round draws others."""
        return images_per_second(self._turns(number), seconds)

    def _turns(self, number: int) -> Iterator[Batch]:
        """Yield whole turns of the workers, a batch of each, as one batch; epoch after epoch.

        Workers that began together come together: between two batches of a burst lies no time in which they were
        decoded, so a rate is right only from turn to turn.
        """
        began, first, turn = time.perf_counter(), True, 0
        loader = self.data.train_dataloader()
        for epoch in count(number):
            loader.set_epoch(epoch)
            for seen, (images, labels) in enumerate(loader, 1):
                if first:
                    images[0, 0, 0, 0].item()  # waits for the device
                    self.firsts.append(1000 * (time.perf_counter() - began))
                first, turn = False, turn + len(images)
                if seen % max(1, self.workers) == 0 or seen == len(loader):
                    yield images.new_empty(1).expand(turn), labels  # as long as all of them, of no memory
                    turn = 0

    def finding(self, gives: float, takes: float, net: str) -> str:
        """Say whether so many images a second keep up with the training that takes most."""
        verdict = "the loader keeps up" if gives >= takes else "the loader starves the device"
        told = f"{verdict}: {self.gives} {written(gives)} images/s, training takes {written(takes)} ({net})"
        if not self.workers:
            told += f"; made in the training process, batches add {100 * takes / gives:.2g}% to its time"
        return told


def _training(steps: Iterator[Batch], seconds: float, _: int) -> float:
    return images_per_second(steps, seconds)


def sets(
    data: str | None, root: Path, scratch: Path, image_size: int | None, batch_size: int | None, device: torch.device
) -> list[ImageData]:
    """Make the data modules, and see that the data are there which are not to be generated.

    Raises:
        ValueError: the data or a number is unknown or out of bounds.
        DataError: the data are missing or damaged.
    """

    def make(name: str, folder: Path) -> ImageData:
        large = name in IMAGENET_SIZES
        usual = (256 if device.type == "cuda" else 8) if large else 128
        options: dict[str, Any] = {"image_size": image_size, "cache_gib": 0.0, "workers": cores()} if large else {}
        options |= {"held_out": 0, "batch_size": usual if batch_size is None else batch_size}
        module = data_module(name, root=str(folder), **options)
        # All that a data module asks of its trainer: without one it would stay on the CPU.
        placed = {"strategy": SimpleNamespace(root_device=device), "global_rank": 0, "world_size": 1}
        module.trainer = SimpleNamespace(**placed, overfit_batches=0)  # type: ignore[assignment]
        return module

    if data is None:
        there = ["digits", *(["cifar10"] if find(root, DATA["cifar10"].layouts) else [])]
        made = [make("imagenet", scratch / "generated"), *(make(name, root) for name in there)]
    else:
        made = [make(data, root)]
        if image_size is not None and data not in IMAGENET_SIZES:
            raise ValueError(
                f"--image-size {image_size}: images of {data} have {made[0].shape[1]} pixels; "
                "it is for ImageNet and its subsets"
            )
    for each in made:
        if not isinstance(each, ImageNetData):
            each.prepare_data()
            each.setup("fit")
        elif data is not None:
            _ = each.tree  # not prepare_data, which would decode all of it
    return made


def _cached(data: ImageNetData, folder: Path) -> tuple[ImageNetData, Row, str]:
    """Decode a part of a set into a cache, of as few classes as have enough images; give it, how fast, and of what."""
    tree = data.tree
    wanted = max(CACHED, 2 * data.batch_size)
    each = min(256, int(tree.train.labels.bincount().min()))
    classes = min(len(tree.classes), math.ceil(wanted / each))
    part = type(data)(
        str(data.root), data.batch_size, classes=f"first-{classes}", images_per_class=each, image_size=data.shape[1],
        cache_gib=math.inf, cache_dir=str(folder), workers=data.workers, held_out=0,
    )  # fmt: skip
    part.trainer = data.trainer
    train, test = each * classes, part.sizes[1]
    began = time.perf_counter()
    part.prepare_data()
    row = Row("decoding into a cache, once", "images/s", ((train + test) / (time.perf_counter() - began),))
    return part, row, f"The cache holds {train:,} training and {test:,} test images."
