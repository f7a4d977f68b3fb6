"""What is still to be trained, and how long it takes: from seconds per epoch measured here, scaled by arithmetic."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any

from lit_hidden.engine.pool import Pool
from lit_hidden.engine.store import RESULT, Store, content
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
_kind = attrgetter(  # runs that agree in these take equally long per epoch
    "net", "width", "method", "data", "train_images", "held_out", "batch_size", "precision", "callbacks", "masker",
    "task", "classes", "images_per_class", "image_size",
)  # fmt: skip
Done = tuple[Run, Mapping[str, Any]]  # a run and its result, or its row of a table


def work(run: Run) -> float:
    """Count the multiply-accumulates of one epoch, training and evaluation; 0 if unknown, for other nets and data."""
    if run.data not in IMAGES or run.net not in MACS:
        return 0.0
    _, size, there, tested, whole = IMAGES[run.data]
    there, tested = (round(images * run.num_classes / whole) for images in (there, tested))
    train = run.images_per_class * run.num_classes if run.images_per_class else run.train_images or there
    train = min(train, there - run.held_out)
    macs, usual = MACS[run.net]
    # A training image takes three passes (forward, and backward to inputs and weights), a test image one.
    return macs * (run.width * (run.image_size or size) / usual) ** 2 * (3 * train + (run.held_out or tested))


def estimate(runs: Iterable[Run], store: Store, pool: Pool, known: Iterable[Done]) -> str:
    """Say how long the rest of `runs` takes on all workers of a pool, by what `known` ones took on such devices."""
    speeds, alike = [(0.0, 0.0)], defaultdict[tuple[Any, ...], list[tuple[int, float]]](list)
    for run, result in known:
        told, epochs = result.get("provenance", result), result.get("diverged") or run.epochs
        number, _, device = str(told.get("device")).rpartition(" x ")
        same = (int(number or 1), device.startswith("CPU")) == (max(1, int(pool.per_run)), pool.device == "cpu")
        if same and epochs and (seconds := told.get("seconds")):
            alike[_kind(run.resolved)].append((epochs, seconds))
            if macs := work(run):
                speeds.append((epochs * macs, seconds))
    macs, seconds = map(sum, zip(*speeds, strict=True))
    speed, times = macs / seconds if seconds else GUESS[pool.device], [0.0]
    for run in runs:  # runs alike tell more than the arithmetic; analyses have no epochs
        done, seconds = map(sum, zip(*alike.get(_kind(run.resolved), [(1, work(run) / speed)]), strict=True))
        left = run.epochs - store.progress(run)
        if left and not seconds:
            return "unknown until a first run is measured"
        times.append(left * seconds / done)
    text = f"about {elapsed(max(sum(times) / pool.places, *times))} on {pool.places} worker(s)"  # a run has one
    return text + ("" if alike else ", a guess: nothing is measured here yet")


def measured(store: Store) -> Iterator[Done]:
    """Give the runs of a store that are done, with their results."""
    for path in store.root.glob(f"*/{RESULT}"):
        with suppress(Exception):  # damage of any kind, which the store reports
            run = Run.from_json(content(path.with_name("run.json")).decode())
            if path.parent.name == run.hash:  # else it was set aside
                yield run, dict(json.loads(content(path)))


def elapsed(seconds: float) -> str:
    """Say how long something took, in one unit: `40 s`, `22 min`, `1.33 h`, `2.1 d`."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    unit, size = next((unit for unit in units if seconds >= unit[1]), units[-1])
    number = seconds / size
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
