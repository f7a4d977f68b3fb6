"""What this machine does in a second: `make bench` prints it, and writes `bench.json` and `bench.md`.

A section is a function that returns rows; what it compares is measured in turn, in one process, over several rounds.
Nothing passes or fails here: a number says what this machine did, beside whatever else it had to do.
"""

import json
import math
import os
import platform
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_hidden.data import DATA, DataError, ImageData, ImageNetData, data_module, images_per_second
from lit_hidden.data.files import find
from lit_hidden.engine.local import cores
from lit_hidden.engine.reproduce import ReproduceError, UsageError
from lit_hidden.engine.store import write_atomically
from lit_hidden.engine.train import make_module
from lit_hidden.experiment import Run
from lit_hidden.modules import LitClassifier
from lit_hidden.recipes import IMAGENET_SIZES

ROUNDS = 5
DENSITY = 0.3
CACHED = 1024  # about so many training images are decoded into a cache
FILES, CLASSES = 128, 1000  # generated; a tree has more names, which lead to the same files
WIDTH, HEIGHT, QUALITY = 500, 375, 95  # with `picture`, files of about 107 kB: ILSVRC-2012's usual size
COLUMNS = ("what", "median", "min", "max", "unit")

Batch = tuple[Tensor, Tensor]
Measure = Callable[[int], float]  # of a round, from 0


@dataclass(frozen=True)
class Row:
    """One thing measured: its number in each round."""

    what: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one of its numbers, or the mean of two."""
        return statistics.median(self.rounds)

    @property
    def numbers(self) -> dict[str, float]:
        """Median, smallest and largest."""
        return {"median": self.median, "min": min(self.rounds), "max": max(self.rounds)}

    @property
    def cells(self) -> tuple[str, ...]:
        """What tables show: `COLUMNS`."""
        return self.what, *map(written, self.numbers.values()), self.unit


@dataclass(frozen=True)
class Section:
    """What was measured together: on what, the rows, and the sentences that follow from them."""

    title: str
    about: str
    rows: list[Row]
    findings: list[str]


def written(number: float) -> str:
    """Write a number with three digits, or with all of those before the point."""
    return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:.3g}"


def bench(
    data: str | None = None,
    data_dir: str | Path = "data",
    net: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    seconds: float = 3.0,
    out: str | Path = "results/bench",
    *,
    rounds: int = ROUNDS,
    console: Console | None = None,
) -> None:
    """Measure each section, print it, and write all to `out`: `bench.json` and `bench.md`.

    Args:
        data: a set by name; None generates files like ILSVRC-2012's, and takes scikit-learn's digits and, if it is
            there, CIFAR-10.
        data_dir: where the data sets lie.
        net: what is trained, by name; None is resnet50 on ImageNet and its subsets, conv4 on others.
        image_size: pixels, of ImageNet and its subsets; None is the set's custom.
        batch_size: images in a batch; None is 128, of ImageNet and its subsets 256 on a GPU and 8 on a CPU.
        seconds: how long a measurement takes at least.
        out: where to write.
        rounds: how often everything is measured.
        console: where to print.

    Raises:
        UsageError: `seconds` is not above 0; the data, the net or a number is unknown or out of bounds.
        ReproduceError: the data are missing or damaged, or `out` cannot be written to.
    """
    console = console or Console(highlight=False)
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g} measures nothing; it must be more than 0")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _one_thread(device), tempfile.TemporaryDirectory(prefix="lit-hidden-bench-") as scratch:
        try:
            # Before anything expensive: all that may be wrong with the arguments.
            sets = _sets(data, Path(data_dir), Path(scratch), image_size, batch_size, device)
            fed = [Feed(each, net, device) for each in sets]
            Path(out).mkdir(parents=True, exist_ok=True)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
        machine = _machine(device)
        console.print(machine["said"], markup=False, soft_wrap=True)
        # What else there is to measure goes into this list.
        measures: list[Callable[[], Section]] = [
            partial(feeding, each, seconds, rounds, Path(scratch), console) for each in fed
        ]
        sections = []
        try:
            for measure in measures:
                sections.append(measure())
                show(sections[-1], console)
            given: dict[str, Any] = {"data": data, "data-dir": data and data_dir, "net": net}
            given |= {"image-size": image_size, "batch-size": batch_size, "seconds": f"{seconds:g}"}
            _write(sections, machine, given, Path(out))
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
    console.print(f"\nwritten: {Path(out) / 'bench.md'}, {Path(out) / 'bench.json'}", markup=False, soft_wrap=True)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On CPU take one thread, as the engine's workers do: two on busy cores wait for each other."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved(
    measures: dict[str, Measure], rounds: int, title: str, console: Console
) -> dict[str, tuple[float, ...]]:
    """Measure everything once a round, every other round from the last to the first; give each one's numbers.

    What changes slowly, such as the machine's warmth and its other work, then falls on all of them alike.
    """
    found: dict[str, list[float]] = {what: [] for what in measures}
    for number in range(rounds):
        for what in reversed(measures) if number % 2 else measures:
            with console.status(f"{title}: round {number + 1} of {rounds}: {what}"):
                found[what].append(measures[what](number))
    return {what: tuple(numbers) for what, numbers in found.items()}


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


def feeding(feed: Feed, seconds: float, rounds: int, scratch: Path, console: Console) -> Section:
    """Measure the loaders of a set, and the training of the nets that it is to feed.

    Args:
        feed: the set and the nets; a set in `scratch` is generated there.
        seconds: how long a measurement takes at least.
        rounds: how often everything is measured.
        scratch: a folder for generated and decoded images.
        console: where to show how far it is.

    Returns:
        images a second of each loader and of training, how long first batches took, and the ratio of loader and
        training, paired by round.

    Raises:
        DataError: an image cannot be decoded, or `scratch` cannot take them.
    """
    data, rows, title, about = feed.data, [], f"Loader and training: {feed.data.name}", []
    if isinstance(data, ImageNetData):
        if data.root.is_relative_to(scratch):
            title = "Loader and training: generated files like ImageNet's"
            with console.status(f"generating {FILES} files"):
                # More than are decoded in a measurement: at the end of an epoch workers would wait.
                about = [generate(data.root, cores() * math.ceil(500 * seconds + 4 * data.batch_size))]
        else:
            about = [f"Files of {data.tree.folder}."]
        with console.status("decoding into a cache"):
            cached, row, holds = _cached(data, scratch / data.name)
        rows, about = [row], [*about, holds]
        workers = _counted(cores(), "worker")
        loaders = [
            Loader(data, workers, f"{workers} decode{'s' if cores() == 1 else ''}", cores()),
            Loader(cached, "decoded cache", "the decoded cache gives"),
        ]
    else:
        loaders = [Loader(data, "memory", "memory gives")]
    batch = next(iter(loaders[-1].data.train_dataloader()))
    measures: dict[str, Measure] = {f"loader, {each.name}": partial(each.measure, seconds) for each in loaders}
    for name, module in feed.modules.items():
        measures[f"training, {name}"] = partial(_training, _steps(module, batch), seconds)
    rates = [Row(what, "images/s", found) for what, found in interleaved(measures, rounds, title, console).items()]
    feeds = dict(zip((each.name for each in loaders), rates, strict=False))
    trained = dict(zip(feed.modules, rates[len(loaders) :], strict=True))
    rows = [*rates, *(Row(f"first batch, {each.name}", "ms", tuple(each.firsts)) for each in loaders), *rows]
    for (ours, x), (theirs, y) in product(feeds.items(), trained.items()):
        ratios = tuple(a / b for a, b in zip(x.rounds, y.rounds, strict=True))
        rows.append(Row(f"{ours} / {theirs}", "ratio", ratios))
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
    return Section(title, " ".join(about), rows, findings)


class Loader:
    """A set's training loader, made anew for each measurement: its workers are gone when others are measured.

    Args:
        data: whose loader.
        name: of the row.
        gives: begins the sentence on how many images it gives.
        workers: processes that decode; 0: batches are made in the training process.
    """

    def __init__(self, data: ImageData, name: str, gives: str, workers: int = 0) -> None:
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


def _steps(module: LitClassifier, batch: Batch) -> Iterator[Batch]:
    """Train on one batch, and yield it after each step."""
    optimizer = module.configure_optimizers()["optimizer"]
    while True:
        optimizer.zero_grad()
        torch.autograd.backward(module.training_step(batch, 0))
        optimizer.step()
        yield batch


def _sets(
    data: str | None, root: Path, scratch: Path, image_size: int | None, batch_size: int | None, device: torch.device
) -> list[ImageData]:
    """Make the data modules, and see that the data are there which are not to be generated."""

    def make(name: str, folder: Path) -> ImageData:
        large = name in IMAGENET_SIZES
        usual = (256 if device.type == "cuda" else 8) if large else 128
        options: dict[str, Any] = {"image_size": image_size, "cache_gib": 0.0, "workers": cores()} if large else {}
        made = data_module(name, root=str(folder), batch_size=usual if batch_size is None else batch_size, **options)
        # All that a data module asks of its trainer: without one it would stay on the CPU.
        placed = {"strategy": SimpleNamespace(root_device=device), "global_rank": 0, "world_size": 1}
        made.trainer = SimpleNamespace(**placed)  # type: ignore[assignment]
        return made

    if data is None:
        there = ["digits", *(["cifar10"] if find(root, DATA["cifar10"].layouts) else [])]
        sets = [make("imagenet", scratch / "generated"), *(make(name, root) for name in there)]
    else:
        sets = [make(data, root)]
        if image_size is not None and data not in IMAGENET_SIZES:
            raise ValueError(
                f"--image-size {image_size}: images of {data} have {sets[0].shape[1]} pixels; "
                "it is for ImageNet and its subsets"
            )
    for each in sets:
        if not isinstance(each, ImageNetData):
            each.prepare_data()
            each.setup("fit")
        elif data is not None:
            _ = each.tree  # not prepare_data, which would decode all of it
    return sets


def _cached(data: ImageNetData, folder: Path) -> tuple[ImageNetData, Row, str]:
    """Decode a part of a set into a cache, of as few classes as have enough images; give it, how fast, and of what."""
    tree = data.tree
    wanted = max(CACHED, 2 * data.batch_size)
    each = min(256, int(tree.train.labels.bincount().min()))
    classes = min(len(tree.classes), math.ceil(wanted / each))
    part = type(data)(
        str(data.root), data.batch_size, classes=f"first-{classes}", images_per_class=each, image_size=data.shape[1],
        cache_gib=math.inf, cache_dir=str(folder), workers=data.workers,
    )  # fmt: skip
    part.trainer = data.trainer
    train, test = each * classes, part.sizes[1]
    began = time.perf_counter()
    part.prepare_data()
    row = Row("decoding into a cache, once", "images/s", ((train + test) / (time.perf_counter() - began),))
    return part, row, f"The cache holds {train:,} training and {test:,} test images."


def generate(folder: Path, names: int) -> str:
    """Write a tree of images of ILSVRC-2012's usual size, and say what it is.

    `train/` has at least so many names and `val/` one, in each of its classes as many; they are links to few files:
    what is decoded twice takes as long the second time.
    """
    files = folder / "files"
    files.mkdir(parents=True)
    for number in range(FILES):
        sides = (HEIGHT, WIDTH) if number % 4 == 3 else (WIDTH, HEIGHT)
        picture(number, *sides).save(files / f"{number}.JPEG", quality=QUALITY)
    each = math.ceil(names / CLASSES)
    for part, images in (("train", each), ("val", 1)):
        for label in range(CLASSES):
            place = folder / part / f"n{label:08d}"
            place.mkdir(parents=True)
            for i in range(images):
                (place / f"{i}.JPEG").symlink_to(files / f"{(label * images + i) % FILES}.JPEG")
    mean = sum(path.stat().st_size for path in files.iterdir()) / FILES
    return (
        f"{FILES} JPEG files of {WIDTH}x{HEIGHT} pixels, every fourth upright, {mean / 1000:.0f} kB on average: noise "
        f"with a photograph's spectrum, under {each * CLASSES:,} names in {CLASSES:,} classes."
    )


def picture(number: int, width: int, height: int) -> Image.Image:
    """Make noise of a photograph's spectrum: what is fine is faint, and colours are fainter than light."""
    across, down = np.fft.rfftfreq(width), np.fft.fftfreq(height)[:, None]
    fall = np.maximum(np.hypot(across, down), 1 / max(width, height)) ** -1.4
    noise = np.random.default_rng(number).standard_normal((3, height, width))
    noise = np.fft.irfft2(np.fft.rfft2(noise) * fall, (height, width))
    noise *= np.array([55, 18, 18]).reshape(3, 1, 1) / noise.std((1, 2), keepdims=True)
    return Image.fromarray((noise + 128).clip(0, 255).astype(np.uint8).transpose(1, 2, 0), "YCbCr")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _machine(device: torch.device) -> dict[str, Any]:
    """Say on what was measured: in parts, and in one line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        pass
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    load = round(os.getloadavg()[0], 2)  # processes that wanted a core in the last minute
    found = {
        "cpu": model,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "workers": cores(),
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": load,
    }
    told = f"{model}: {_counted(cores(), 'core')}, {_counted(torch.get_num_threads(), 'thread')}; training on {name}; "
    told += f"torch {torch.__version__}; load {load} at the start"
    if load > cores() / 2:
        told += " (busy: of a quiet machine expect more)"
    return {**found, "said": told}


def show(section: Section, console: Console) -> None:
    """Print a section."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("what", "unit") else "right", overflow="fold")
    for row in section.rows:
        table.add_row(*row.cells)
    console.print("")
    console.print(section.title, style="bold", markup=False)
    console.print(section.about, markup=False)
    console.print("", table, "")
    for line in section.findings:
        console.print(line, markup=False)


def _write(sections: list[Section], machine: dict[str, Any], given: dict[str, Any], out: Path) -> None:
    """Write `bench.json` and, of the same numbers, `bench.md`."""
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", f"{value}")]
    command, finished = shlex.join(["lit-hidden", "bench", *words]), datetime.now(UTC).isoformat(timespec="seconds")
    found = {"command": command, "finished": finished, "machine": machine, "sections": [*map(_plain, sections)]}
    write_atomically(out / "bench.json", json.dumps(found, indent=1) + "\n")
    told = f"{machine['said']}. `{command}`, {finished}."
    page = ["# What this machine does in a second", told, *map(_markdown, sections)]
    write_atomically(out / "bench.md", "\n\n".join(page) + "\n")


def _markdown(section: Section) -> str:
    lines = [COLUMNS, ("---", "---:", "---:", "---:", "---"), *(row.cells for row in section.rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    findings = "\n".join(f"- {line}" for line in section.findings)
    return f"## {section.title}\n\n{section.about}\n\n{table}\n\n{findings}"


def _plain(section: Section) -> dict[str, Any]:
    rows = [{"what": r.what, "unit": r.unit, **r.numbers, "rounds": r.rounds} for r in section.rows]
    return {"title": section.title, "about": section.about, "rows": rows, "findings": section.findings}
