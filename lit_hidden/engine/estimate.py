"""How long runs will take: roughly, from seconds per epoch measured here, scaled to other nets by their arithmetic."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from lit_hidden.engine.store import RESULT, Store
from lit_hidden.files import regular
from lit_hidden.recipes import IMAGES
from lit_hidden.run import Run

# Multiply-accumulates of one image's forward pass at width 1, and the image size they hold for. They grow with the
# square of width and size, near enough.
MACS = {
    "lenet": (2.66e5, 28), "conv2": (4.38e7, 32), "conv4": (9.83e7, 32), "conv6": (1.54e8, 32), "conv8": (2.10e8, 32),
    "cifar_resnet18": (5.55e8, 32), "resnet18": (1.81e9, 224), "resnet34": (3.66e9, 224), "resnet50": (4.09e9, 224),
    "resnet101": (7.80e9, 224), "wide_resnet50_2": (1.14e10, 224),
}  # fmt: skip
# Multiply-accumulates a second, until something is measured: of one core of an AMD EPYC, and a guess at a large GPU.
GUESS = {"cpu": 1e10, "cuda": 2e12}


def work(run: Run) -> float | None:
    """Count the multiply-accumulates of one epoch, training and evaluation; None for other nets and data.

    A training image takes three passes (forward, and backward to inputs and weights), a test image one.
    """
    if run.data not in IMAGES or run.net not in MACS:
        return None
    _, size, there, tested, whole = IMAGES[run.data]
    there, tested = (round(images * run.num_classes / whole) for images in (there, tested))
    train = run.images_per_class * run.num_classes if run.images_per_class else run.train_images or there
    train = min(train, there - run.held_out) if run.epochs else 0
    macs, usual = MACS[run.net]
    return macs * (run.width * (run.image_size or size) / usual) ** 2 * (3 * train + (run.held_out or tested))


@dataclass(frozen=True)
class Estimate:
    """How many `seconds` (None: unknown) runs will take on `workers`, from how many `measured` runs.

    `unknown` runs are not in the seconds: neither their net's arithmetic nor a run like them is known.
    """

    seconds: float | None
    workers: int
    measured: int
    unknown: int = 0

    @property
    def more(self) -> str:
        """What to say of the unknown runs after the time of the others."""
        return f", and {_several(self.unknown, 'run')} of unknown length" if self.unknown else ""

    def __str__(self) -> str:
        if self.seconds is None:
            return "unknown until a first run is measured"
        basis = f"from {_several(self.measured, 'run')} measured here"
        basis = basis if self.measured else "a guess: nothing is measured here yet"
        return f"{duration(self.seconds)} on {_several(self.workers, 'worker')}{self.more}; {basis}"


class Clock:
    """Estimates times from what was measured on one kind of device.

    Args:
        device: `cpu` or `cuda`, for a first guess.
        name: the device as results name it; what other devices took does not count.
    """

    def __init__(self, device: str, name: str) -> None:
        self.guess, self.name = GUESS[device], name
        self._measured: dict[str, np.ndarray] = {}  # by hash: epochs, seconds, multiply-accumulates
        self._sums: dict[tuple[Any, ...], np.ndarray] = {}  # of runs alike

    @classmethod
    def read(cls, store: Store, device: str, name: str) -> "Clock":
        """Begin with what the runs of a folder took, whether they are done or only begun."""
        clock = cls(device, name)
        for path in sorted(store.root.glob("*/run.json")):
            try:
                run = Run.from_json(regular(path).read_text(encoding="utf-8"))
                if run.hash != path.parent.name:  # a folder that was set aside
                    continue
                if store.done(run):
                    clock.result(run, json.loads(regular(path.with_name(RESULT)).read_text(encoding="utf-8")))
                else:
                    clock.measure(run, *store.progress(run))
            except Exception:  # damage of any kind, which the store reports
                continue
        return clock

    def result(self, run: Run, result: Mapping[str, Any]) -> None:
        """Take what a finished run took, if it was on this device: from start to end, or longer if it was resumed."""
        provenance = result.get("provenance", {})
        if provenance.get("device") == self.name:
            started, finished = (datetime.fromisoformat(provenance[name]) for name in ("started", "finished"))
            seconds = max(float(provenance["seconds"]), (finished - started).total_seconds())
            self.measure(run, result.get("diverged", run.epochs), seconds)

    def measure(self, run: Run, epochs: int, seconds: float) -> None:
        """Take what the first epochs of a run took, in place of its earlier measurement; an analysis is one epoch."""
        epochs = epochs if run.epochs else 1
        if epochs and seconds:
            new = np.array([epochs, seconds, epochs * (work(run) or 0)])
            self._sums[_kind(run)] = self._sums.get(_kind(run), 0) + new - self._measured.get(run.hash, 0)
            self._measured[run.hash] = new

    def per_epoch(self, run: Run) -> float | None:
        """Estimate the seconds of one epoch: those of runs alike, else by the arithmetic; None if neither is known."""
        if (alike := self._sums.get(_kind(run))) is not None:
            return float(alike[1] / alike[0])
        if (needed := work(run)) is None:
            return None
        known = [sums for sums in self._sums.values() if sums[2]]
        speed = sum(sums[2] for sums in known) / sum(sums[1] for sums in known) if known else self.guess
        return float(needed / speed)

    def estimate(self, left: Iterable[tuple[Run, int]], workers: int) -> Estimate:
        """Estimate how long so many epochs of each run take on all workers; at least as long as the longest run."""
        each = [(self.per_epoch(run), epochs if run.epochs else 1) for run, epochs in left]
        times = [per_epoch * epochs for per_epoch, epochs in each if per_epoch is not None]
        unknown = len(each) - len(times)
        seconds = None if unknown and not times else max(sum(times) / workers, *times, 0.0)
        return Estimate(seconds, workers, len(self._measured), unknown)


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


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _kind(run: Run) -> tuple[Any, ...]:
    return (
        run.net, run.width, run.method, run.data, run.train_images, run.held_out, run.batch_size, run.precision,
        run.callbacks, run.masker, run.task, bool(run.epochs), run.classes, run.images_per_class, run.image_size,
    )  # fmt: skip
