"""How long runs will take: from seconds per epoch measured here, carried over to other nets by their arithmetic.

An epoch of training images takes three forward passes' multiply-accumulates each (forward, and backward to inputs and
weights), of test images one. Nets whose arithmetic is not known here are taken to cost what the measured ones do;
before any is measured, nothing is known of them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lit_hidden.engine.store import Store
from lit_hidden.files import regular
from lit_hidden.recipes import IMAGES
from lit_hidden.run import Run

RESNETS = {  # blocks a stage, and how wide the 3x3 convolution between two 1x1 is; 0: two 3x3 convolutions
    "cifar_resnet18": ((2, 2, 2, 2), 0),
    "resnet18": ((2, 2, 2, 2), 0),
    "resnet34": ((3, 4, 6, 3), 0),
    "resnet50": ((3, 4, 6, 3), 1),
    "resnet101": ((3, 4, 23, 3), 1),
    "wide_resnet50_2": ((3, 4, 6, 3), 2),
}
# Multiply-accumulates a second, until something is measured. One core of an AMD EPYC did 1.2 to 1.4e10 (Conv2 and
# Conv4 x0.25) and 4 to 6e9 (x0.125); the other is a guess at a large GPU.
GUESS = {"cpu": 1e10, "cuda": 2e12}


def macs(run: Run) -> int | None:
    """Count the multiply-accumulates of one image's way through the paper's nets; None for other nets and data."""
    if run.data not in IMAGES:
        return None
    channels, size, _, _, _ = IMAGES[run.data]
    size = run.image_size or size
    if run.net in RESNETS:
        return _resnet(run.net, channels, size, run.width, run.num_classes)
    if run.net == "lenet":
        wide, narrow = int(300 * run.width), int(100 * run.width)
        return channels * size**2 * wide + wide * narrow + narrow * run.num_classes
    depth = {"conv2": 2, "conv4": 4, "conv6": 6, "conv8": 8}.get(run.net)
    return None if depth is None else _conv(depth, channels, size, run.width, run.num_classes)


def _conv(depth: int, before: int, size: int, width: float, classes: int) -> int:
    total = 0
    for channels in (64, 128, 256, 512)[: depth // 2]:
        after = int(channels * width)
        total += 9 * size**2 * (before + after) * after
        before, size = after, size // 2
    hidden = int(256 * width)
    return total + before * size**2 * hidden + hidden**2 + classes * hidden


def _resnet(net: str, before: int, size: int, width: float, classes: int) -> int:
    stem, (blocks, wide) = int(64 * width), RESNETS[net]
    if net == "cifar_resnet18":
        total = 9 * size**2 * before * stem
    else:
        size = (size + 1) // 2
        total = 49 * size**2 * before * stem
        size = (size + 1) // 2  # the max-pool
    before = stem
    for stage, channels in enumerate((64, 128, 256, 512)):
        narrow = int(channels * width)
        after = 4 * narrow if wide else narrow
        for block in range(blocks[stage]):
            large, size = size, (size + 1) // 2 if stage and not block else size
            if wide:
                inner = wide * narrow
                total += large**2 * before * inner + size**2 * (9 * inner + after) * inner
            else:
                total += 9 * size**2 * (before + after) * after
            if (large, before) != (size, after):
                total += size**2 * before * after  # the way past it, 1x1
            before = after
    return total + classes * before


def work(run: Run) -> float | None:
    """Count the multiply-accumulates of one epoch, training and evaluation; None if they are not known."""
    each = macs(run)
    if each is None:
        return None
    _, _, there, tested, whole = IMAGES[run.data]
    there, tested = (round(images * run.num_classes / whole) for images in (there, tested))
    train = run.images_per_class * run.num_classes if run.images_per_class else run.train_images or there
    train = min(train, there - run.held_out) if run.epochs else 0
    return float(each * (3 * train + (run.held_out or tested)))


@dataclass(frozen=True)
class Estimate:
    """How many seconds runs will take, on how many workers, from how many measured runs.

    Args:
        seconds: None if nothing is known of any.
        workers: how many share the runs.
        measured: how many runs were measured.
        unknown: how many runs more there are, of which nothing is known.
    """

    seconds: float | None
    workers: int
    measured: int
    unknown: int = 0

    @property
    def more(self) -> str:
        """What to say of the unknown runs after the time of the others."""
        return f", and {self.unknown} run{'s' if self.unknown > 1 else ''} of unknown length" if self.unknown else ""

    def __str__(self) -> str:
        if self.seconds is None:
            return "unknown until a first run is measured"
        on = f"{duration(self.seconds)} on {self.workers} worker{'s' if self.workers > 1 else ''}{self.more}"
        if not self.measured:
            return f"{on}; a guess: nothing is measured here yet"
        return f"{on}; from {self.measured} run{'s' if self.measured > 1 else ''} measured here"


class Clock:
    """What was measured on one kind of device, and what follows from it for other runs.

    Args:
        device: `cpu` or `cuda`, for a first guess.
        name: the device as a result's provenance names it; what was measured on others does not count.
    """

    def __init__(self, device: str, name: str) -> None:
        self.guess, self.name = GUESS[device], name
        self._measured: dict[str, tuple[Run, int, float]] = {}
        self._sums: dict[tuple[Any, ...], list[float]] | None = None

    @classmethod
    def read(cls, store: Store, device: str, name: str) -> "Clock":
        """Begin with what the runs of a folder took, those that are done and those that were begun."""
        clock = cls(device, name)
        for path in sorted(store.root.glob("*/run.json")):
            result = path.with_name("result.json")
            try:
                run = Run.from_json(regular(path).read_text(encoding="utf-8"))
                if run.hash != path.parent.name:  # set aside, or another's folder
                    continue
                if result.exists():
                    clock.result(run, json.loads(regular(result).read_text(encoding="utf-8")))
                else:
                    clock.measure(run, *store.progress(run))
            # Damage, which is the store's to tell.
            except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
                continue
        return clock

    def result(self, run: Run, result: Mapping[str, Any]) -> None:
        """Take what a run that is done took, if it was on this device."""
        provenance = result.get("provenance", {})
        if provenance.get("device") == self.name:
            self.measure(run, result.get("diverged", run.epochs), took(provenance))

    def measure(self, run: Run, epochs: int, seconds: float) -> None:
        """Take what the first epochs of a run took; what was measured of it before is forgotten.

        A run of no epochs, an analysis, counts as one.
        """
        epochs = epochs if run.epochs else 1
        if epochs and seconds:
            self._measured[run.hash] = (run, epochs, seconds)
            self._sums = None

    def per_epoch(self, run: Run) -> float | None:
        """Estimate the seconds of one epoch: as of runs alike, else by the arithmetic; None if nothing tells."""
        if self._sums is None:
            self._sums = {}
            for known, epochs, seconds in self._measured.values():
                total = self._sums.setdefault(_kind(known), [0.0, 0.0, 0.0])
                for i, term in enumerate((epochs, seconds, epochs * (work(known) or 0))):
                    total[i] += term
        if alike := self._sums.get(_kind(run)):
            return alike[1] / alike[0]
        needed = work(run)
        # To a net without known arithmetic all measured ones speak, to the others those with it.
        sums = [total for total in self._sums.values() if needed is None or total[2]]
        epochs, seconds, done = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0, 0)
        if needed is None:
            return seconds / epochs if epochs else None
        return needed * seconds / done if done else needed / self.guess

    def estimate(self, left: Iterable[tuple[Run, int]], workers: int) -> Estimate:
        """Estimate how long so many epochs of each run will take together, and at least the longest alone."""
        each = [(self.per_epoch(run), epochs if run.epochs else 1) for run, epochs in left]
        times = [per_epoch * epochs for per_epoch, epochs in each if per_epoch is not None]
        unknown = len(each) - len(times)
        seconds = None if unknown and not times else max(sum(times) / workers, *times, 0.0)
        return Estimate(seconds, workers, len(self._measured), unknown)


def took(provenance: Mapping[str, Any]) -> float:
    """Give the seconds from a run's start to its end, or those of its epochs if it was begun before."""
    started, finished = (datetime.fromisoformat(provenance[name]) for name in ("started", "finished"))
    return max(float(provenance["seconds"]), (finished - started).total_seconds())


def elapsed(seconds: float) -> str:
    """Say how long something took: `40 s`, `1 h 20 min`, `2 d 1 h`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = ((days, "d"), (hours, "h"), (minutes if not days else 0, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def duration(seconds: float) -> str:
    """Say how long something will take: `about 1 h 20 min`."""
    minutes = round(seconds / 60)
    return f"about {elapsed(60 * minutes)}" if minutes else "less than a minute"


def _kind(run: Run) -> tuple[Any, ...]:
    return (
        run.net, run.width, run.method, run.data, run.train_images, run.held_out, run.batch_size, run.precision,
        run.callbacks, run.masker, run.task, bool(run.epochs), run.classes, run.images_per_class, run.image_size,
    )  # fmt: skip
