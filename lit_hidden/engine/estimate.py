"""How long runs will take: from seconds per epoch measured here, scaled to other nets by their arithmetic."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from lit_hidden.engine.store import RESULT, Store
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
ALIKE = (  # runs that agree in these take equally long per epoch
    "net", "width", "method", "data", "train_images", "held_out", "batch_size", "precision", "callbacks", "masker",
    "task", "classes", "images_per_class", "image_size",
)  # fmt: skip


def work(run: Run) -> float:
    """Count the multiply-accumulates of one epoch, training and evaluation; 0 if unknown, for other nets and data.

    A training image takes three passes (forward, and backward to inputs and weights), a test image one.
    """
    if run.data not in IMAGES or run.net not in MACS:
        return 0.0
    _, size, there, tested, whole = IMAGES[run.data]
    there, tested = (round(images * run.num_classes / whole) for images in (there, tested))
    train = run.images_per_class * run.num_classes if run.images_per_class else run.train_images or there
    train = min(train, there - run.held_out) if run.epochs else 0
    macs, usual = MACS[run.net]
    return macs * (run.width * (run.image_size or size) / usual) ** 2 * (3 * train + (run.held_out or tested))


class Clock:
    """Estimates times from what runs took on one `device` (`cpu` or `cuda`), `name` in their results."""

    def __init__(self, device: str, name: str) -> None:
        self.device, self.name = device, name
        self._took: dict[str, tuple[Run, int, float]] = {}  # by hash: a run, its epochs, their seconds

    @classmethod
    def read(cls, store: Store, device: str, name: str) -> "Clock":
        """Begin with what the runs of a folder took, whether they are done or only begun."""
        clock = cls(device, name)
        for path in sorted(store.root.glob("*/run.json")):
            with suppress(Exception):  # damage of any kind, which the store reports
                run = Run.from_json(path.read_text(encoding="utf-8"))
                if store.folder(run) == path.parent and store.done(run):  # else it was set aside
                    clock.result(run, json.loads(path.with_name(RESULT).read_text(encoding="utf-8")))
                elif store.folder(run) == path.parent:
                    clock.measure(run, *store.progress(run))
        return clock

    def result(self, run: Run, result: Mapping[str, Any]) -> None:
        """Take what a finished run took, if it was on this device: from start to end, or longer if it was resumed."""
        provenance = result.get("provenance", {})
        if provenance.get("device") == self.name:
            started, finished = (datetime.fromisoformat(provenance[name]) for name in ("started", "finished"))
            seconds = max(float(provenance["seconds"]), (finished - started).total_seconds())
            self.measure(run, result.get("diverged", run.epochs), seconds)

    def measure(self, run: Run, epochs: int, seconds: float) -> None:
        """Take what the first epochs of a run took; an analysis, of no epochs, counts as one."""
        if seconds and (epochs or not run.epochs):
            self._took[run.hash] = run, epochs or 1, seconds

    def estimate(self, left: Iterable[tuple[Run, int]], workers: int) -> str:
        """Say how long so many epochs of each run take on all workers; runs alike tell more than the arithmetic."""
        alike: dict[tuple[Any, ...], tuple[int, float]] = {}
        for run, epochs, seconds in self._took.values():
            before = alike.get(_kind(run), (0, 0.0))
            alike[_kind(run)] = before[0] + epochs, before[1] + seconds
        known = [(epochs * work(run), seconds) for run, epochs, seconds in self._took.values() if work(run)]
        speed = sum(macs for macs, _ in known) / sum(took for _, took in known) if known else GUESS[self.device]
        times, unknown = [0.0], 0
        for run, epochs in left:
            done, took = alike.get(_kind(run), (1, work(run) / speed))
            times.append((epochs or 1) * took / done)
            unknown += not took
        if unknown and not any(times):
            return "unknown until a first run is measured"
        text = f"about {elapsed(max(sum(times) / workers, *times))} on {workers} worker(s)"  # a run has one
        text += "" if self._took else ", a guess: nothing is measured here yet"
        return text + (f", without {unknown} run(s) of unknown length" if unknown else "")


def elapsed(seconds: float) -> str:
    """Say how long something took: `40 s`, `1 h 20 min`, `2 d 1 h`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = ((days, "d"), (hours, "h"), (minutes if not days else 0, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def _kind(run: Run) -> tuple[Any, ...]:
    return bool(run.epochs), *(getattr(run.resolved, name) for name in ALIKE)
