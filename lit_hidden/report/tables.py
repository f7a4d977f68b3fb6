"""Rows of results, a run a row: read back from `results.csv`, put into cells over seeds, held against the paper's.

The report and `compare` show these; neither waits for torch.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isclose
from pathlib import Path
from typing import Any, TypeVar

from lit_hidden.code import text
from lit_hidden.recipes import AUGMENTED, IMAGENET, IMAGENET_SIZES, Recipe, method, recipe
from lit_hidden.report.published import SOURCES, Published
from lit_hidden.results import diverged, primary
from lit_hidden.run import SUBSET, Run

Row = dict[str, Any]
RowOrRun = TypeVar("RowOrRun", Row, Run)

FIELDS = tuple(f.name for f in fields(Run))
SEEDS = ("seed", "weight_seed", "score_seed", "data_seed")
_FIRST = ("data", "net", "width", "method", "optimizer", "distribution", "scaled", "density")
CONDITIONS = (
    *_FIRST,
    *(n for n in FIELDS if n not in (*_FIRST, *SEEDS)),
)  # what a result may depend on
RECIPE = tuple(f.name for f in fields(Recipe) if f.name != "distribution")
# What the authors' protocol settles.
PROTOCOL = (
    "width", "epochs", "train_images", "held_out", "augment", "precision", *RECIPE, *SUBSET, "data", "masker", "task",
    "callbacks", "after",
)  # fmt: skip
_DEPARTURES = {
    "width": "width x{ours}",
    "epochs": "{ours} of {theirs} epochs",
    "train_images": "{ours} training images",
    "batch_size": "batches of {ours}",
    "augment": "augmentation {ours}",
    "warmup_epochs": "{ours} of {theirs} warm-up epochs",
    "classes": "{ours} classes",
    "images_per_class": "{ours} images per class",
    "image_size": "{ours} pixels",
    "data": "{ours} for {theirs}",
    "masker": "masker {ours}",
    "task": "task {ours}",
    "callbacks": "with {ours}",
    "after": "after {ours}",
}
_DATA = {  # of the authors; nets of your own have none
    **dict.fromkeys(("conv2", "conv4", "conv6", "conv8", "cifar_resnet18"), "cifar10"),
    "lenet": "mnist",
    **dict.fromkeys(IMAGENET, "imagenet"),
}
_NAMES = {
    "cifar10": "CIFAR-10", "mnist": "MNIST", "digits": "scikit-learn's digits", "imagenet": "ImageNet",
    "imagenet100": "ImageNet-100", "imagenette": "Imagenette", "imagewoof": "Imagewoof",
    "tiny-imagenet": "Tiny ImageNet", "tiny-imagenet-100": "Tiny ImageNet-100",
}  # fmt: skip
_TEXT = ("run", "commit", "device", "cpu", "tf32", "finished")  # a commit called 12e45 is no number
_PUBLISHED = object()


class ResultsError(ValueError):
    """Results that are damaged or not there, or a question that they cannot answer."""


def order(value: Any) -> tuple[Any, ...]:
    """Give a key that sorts values of a field: nothing first, then numbers, then names, conv2 before conv10."""
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return 1, value
    return 2, [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", value)]


def number(text: str) -> Any:
    """Read a cell or an argument: nothing or None, True or False, a number; or else it stays text."""
    words: dict[str, Any] = {"": None, "none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def filtered(rows: list[RowOrRun], where: Iterable[str]) -> list[RowOrRun]:
    """Keep the runs, or rows of them, that have all of `where`, such as `net=conv4`.

    Raises:
        ResultsError: no FIELD=VALUE, or no run is left.
    """
    for wanted in where:
        name, equals, value = wanted.partition("=")
        if not equals or (name not in FIELDS and "." not in name):
            fields = f"fields are {', '.join(FIELDS)}, and of callbacks Class.option"
            raise ResultsError(f"where {wanted!r} is no FIELD=VALUE; {fields}")
        values = [_values_of(row, name) for row in rows]
        if not any(number(value) in found for found in values):
            there = ", ".join(map(text, sorted({one for found in values for one in found}, key=order)))
            told = f"there are {name}={there}" if there else f"none has a callback {name.rpartition('.')[0]}"
            raise ResultsError(f"no run has {wanted}; {told}")
        rows = [row for row, found in zip(rows, values, strict=True) if number(value) in found]
    return rows


def _values_of(row: Row | Run, name: str) -> list[Any]:
    if "." in name:
        return options(describe(row) if isinstance(row, dict) else row, name)
    return [(row if isinstance(row, dict) else row.row).get(name)]


def options(run: Run, name: str) -> list[Any]:
    """List an option, `Class.option`, of a run's callbacks, as a cell has it: lists are text."""
    return [str(value) if isinstance(value, tuple) else value for value in run.option(name)]


def read(path: Path) -> list[Row]:
    """Read a `results.csv`: the rows as `lit_hidden.engine.reproduce.rows` made them.

    Raises:
        ResultsError: no such file, or no table of runs with the hashes of their descriptions.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        raise ResultsError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    if len(lines) < 2 or not {"run", "seconds"} <= set(lines[0]) or not {"accuracy", "metric"} & set(lines[0]):
        raise ResultsError(f"{path} is damaged: it is no table of runs with their accuracy and seconds")
    heading, rows = lines[0], []
    for count, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(heading):
            raise ResultsError(f"{path} is damaged: line {count} has {len(cells)} cells, the heading {len(heading)}")
        row = {
            name: (cell or None) if name in _TEXT else number(cell) for name, cell in zip(heading, cells, strict=True)
        }
        try:
            found = describe(row).hash
        except (ValueError, TypeError) as error:
            raise ResultsError(f"{path} is damaged: line {count} is no run: {error}") from error
        if found != row["run"]:
            raise ResultsError(f"{path} is damaged: line {count} is called {row['run']}, what it describes is {found}")
        for name, allowed in ((primary(row), int | float), ("seconds", int | float | None)):
            if not isinstance(row.get(name), allowed):
                raise ResultsError(f"{path} is damaged: line {count} has {name} {row.get(name)!r}, which is no number")
        rows.append(row)
    return rows


def reason(why: str, mixed: Mapping[str, Sequence[int]]) -> str:
    """Say why a verdict is as it is, and in which of the cells it reads some seeds fail to train and some do not.

    Args:
        why: the verdict's own.
        mixed: by cell, how many of how many seeds fail.
    """
    notes = (f"{cell}: {fail} of {of} seeds fail" for cell, (fail, of) in mixed.items())
    return "; ".join([why, *(note for note in notes if note not in why)])


def describe(row: Row) -> Run:
    """Give the Run of a row.

    Raises:
        ValueError, TypeError: the row describes none.
    """
    return Run.from_row(row).resolved


@dataclass(frozen=True)
class Cell:
    """The runs that differ by their seeds alone; `run` is the first of them."""

    run: Run
    rows: list[Row]

    @property
    def metric(self) -> str:
        """The primary metric."""
        return primary(self.rows[0])

    @property
    def trained(self) -> list[Row]:
        """The runs that train: no better than chance is a failure, which is counted and not averaged."""
        return [row for row in self.rows if not row.get("failed")]

    def values(self, name: str) -> list[float]:
        """List a number of each run that trains; runs that have none are left out."""
        found = (row.get(name) for row in self.trained)
        return [float(value) for value in found if isinstance(value, int | float)]

    def mean(self, name: str) -> float | None:
        """Average a number over the seeds that train; None if no such run has it."""
        values = self.values(name)
        return sum(values) / len(values) if values else None


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Put rows together that differ by their seeds alone (or in what was recorded), sorted by net, method and so on."""
    found: dict[str, Cell] = {}
    trainings: dict[str, tuple[Run, Row]] = {}  # recorded or not, a training is one
    for row in rows:
        trainings.setdefault((run := describe(row)).unrecorded.hash, (run, row))
    described = list(trainings.values())
    described.sort(key=lambda pair: [order(setting(pair[0], name)) for name in CONDITIONS])
    for run, row in described:
        found.setdefault(run.unrecorded.cell, Cell(run, [])).rows.append(row)
    return list(found.values())


def _published(run: Run) -> dict[str, Any]:
    """Give the authors' protocol for a run's method, net and optimizer: full width, 100 epochs, all of their images."""
    settings = asdict(recipe(str(run.method), run.net, run.optimizer))
    del settings["distribution"]  # a choice, not a setting
    still = method(str(run.method)).learns is None
    if still:  # nothing learns by what is set for the others
        settings = {name: getattr(run, name) for name in settings} | {"batch_size": settings["batch_size"]}
    epochs, data = 1 if still else 100, _DATA.get(run.net, run.data)
    size = run.image_size and IMAGENET_SIZES.get(data)  # of other data a run does not say it
    images = {"data": data, "classes": None, "images_per_class": None, "image_size": size, "train_images": None}
    alone = {"masker": None, "task": None, "callbacks": None, "after": None}
    ways = setting(run, "augment"), "on" if run.data in AUGMENTED else "off"
    settings |= {"augment": ways[0] if ways[0] == ways[1] else None, "precision": "32-true"}
    return {"width": 1.0, "epochs": epochs, "held_out": 0, **alone, **images, **settings}


def score(result: Mapping[str, Any]) -> str:
    """Write the primary metric of a result: `97.1% test accuracy`, `12.3 degrees test error`; or that it diverged."""
    name = primary(result)
    if diverged(result):
        epoch = result.get("diverged")
        return f"diverged{'' if epoch is None else f' in epoch {epoch}'}, its test loss is {result.get('loss')}"
    return f"{result[name]:.1f}{'%' if name == 'accuracy' else ' ' + result['unit']} test {name}"


def listed(values: Iterable[Any]) -> str:
    """Name values in their order, each once: `0.25, 0.5, 1`."""
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in dict.fromkeys(values))


def departures(runs: Iterable[Run]) -> dict[str, str]:
    """Say by field where one run or several depart from the authors' protocol: `{"width": "width x0.25"}`.

    TF32 is not counted, see `in_tf32`, nor the distribution of the weights, which is a choice.
    """
    held = [(run, _published(run)) for run in runs]
    found = {}
    for name in PROTOCOL:
        apart = [(run, theirs) for run, theirs in held if setting(run, name) != theirs[name]]
        if name == "lr":
            apart = [(run, theirs) for run, theirs in apart if not _in_proportion(run, theirs)]
        if not apart:
            continue
        # Where some nets are of full width, saying so tells what the narrow ones are compared with.
        ours = [setting(run, name) for run, _ in (held if name == "width" else apart)]
        words = _DEPARTURES.get(name, name + " {ours} instead of {theirs}")
        published = listed(_named(theirs[name]) for _, theirs in apart)
        found[name] = words.format(ours=listed(map(_named, ours)), theirs=published)
        if name == "batch_size" and any(_in_proportion(run, theirs) for run, theirs in apart):
            found[name] += ", rates in proportion"
    return found


def in_tf32(rows: Iterable[Row]) -> list[str]:
    """Say what runs of float32 computed in TF32, which keeps 10 of 23 bits of fraction; empty if none did.

    That is no field of a run but of the GPU and of torch, so the rows of `results.csv` know it and not the Run.
    """
    of_float32 = [str(row.get("tf32") or "") for row in rows if row["precision"] == "32-true"]
    found = listed(part for told in of_float32 for part in told.split(", ") if part)
    some = "" if all(of_float32) else f" in {sum(map(bool, of_float32))} of {len(of_float32)} runs"
    return [f"{found} in TF32{some}"] if found else []


def setting(run: Run, name: str) -> Any:
    """Write a field for people: callbacks without those that only record, the run before without its seeds."""
    if name == "callbacks":
        return " and ".join(one.short for one in run.callbacks if not one.records) or None
    if name == "augment":
        return ("off", "on")[run.augment] if isinstance(run.augment, bool) else run.augment
    return run.after and run.after.cell if name == "after" else getattr(run, name)


def _in_proportion(run: Run, theirs: dict[str, Any]) -> bool:
    """Tell whether the rate departs from the authors' as the batches do, which then is told of the batches alone."""
    assert run.lr is not None
    assert run.batch_size is not None
    return run.lr != theirs["lr"] and isclose(run.lr * theirs["batch_size"], theirs["lr"] * run.batch_size)


def _named(value: Any) -> Any:
    """Name data and lists of classes for people: `Tiny ImageNet`, and `first-10` is `10` classes."""
    return _NAMES.get(value, value.removeprefix("first-")) if isinstance(value, str) else value


def same_images(run: Run) -> bool:
    """Tell whether a run is of the authors' images: their data, all classes of it, as many and as large images."""
    return not {"data", *SUBSET} & departures([run]).keys()


def like_for_like(point: Published, run: Run) -> bool:
    """Tell whether a published accuracy and a run are both of the authors' protocol, uncut."""
    return SOURCES[point.source].alike and not departures([run])


def varying(runs: Sequence[Run]) -> list[str]:
    """Name the fields by which runs differ.

    Left out: seeds, what was recorded, and what is the authors' setting for each run's method, net and optimizer.
    """
    return [name for name, values in _values(runs).items() if len(values) > 1]


def common(runs: Sequence[Run]) -> dict[str, Any]:
    """Give the fields that all runs share, where they say something: what is Run's default or the recipe's does not."""
    told = ("net", "data", "width", "epochs", "density", "method", "distribution")
    defaults = {f.name: f.default for f in fields(Run)}
    shared = {name: next(iter(values)) for name, values in _values(runs).items() if len(values) == 1}
    return {
        name: value
        for name, value in shared.items()
        if value not in (None, _PUBLISHED) and (name in told or value != defaults[name])
    }


def _values(runs: Sequence[Run]) -> dict[str, set[Any]]:
    """Collect what each field is set to; `_PUBLISHED` stands for the recipe's setting, which methods do not share."""
    found: dict[str, set[Any]] = {name: set() for name in CONDITIONS}
    for run in runs:
        protocol = _published(run)
        for name, values in found.items():
            value = setting(run, name)
            if name in (*RECIPE, "augment") and value == protocol[name]:
                value = _PUBLISHED
            if name != "epochs" or method(str(run.method)).learns:  # else it has one, whatever is asked for
                values.add(value)
    return found
