"""Rows of results, one per run: read from `results.csv`, grouped over seeds, compared with the authors' protocol.

The meeting's page, `compare` and `missing` use this; it imports no torch.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from math import isclose
from operator import attrgetter
from pathlib import Path
from typing import Any

from lit_hidden.code import text
from lit_hidden.errors import UserError
from lit_hidden.recipes import AUGMENTED, IMAGENET, Recipe, method
from lit_hidden.results import diverged, primary
from lit_hidden.run import Run

Row = dict[str, Any]

FIELDS = tuple(f.name for f in fields(Run))
SEEDS = ("seed", "weight_seed", "score_seed", "data_seed")
_FIRST = ("data", "net", "width", "method", "optimizer", "distribution", "scaled", "density")
CONDITIONS = (*_FIRST, *(n for n in FIELDS if n not in (*_FIRST, *SEEDS)))  # what a result may depend on
RECIPE = tuple(f.name for f in fields(Recipe) if f.name != "distribution")  # the distribution is a choice
CHOSEN = ("net", "method", "found_by", "density", "distribution", "scaled", "optimizer")  # no departures
_PUBLISHED = object()  # stands for the recipe's setting, which differs between methods
_WORDS = {  # how a departure from the authors' protocol is written, if not `lr 0.2 instead of 0.1`
    "width": "width x{ours}",
    "epochs": "{ours} of {theirs} epochs",
    "train_images": "{ours} training images",
    "batch_size": "batches of {ours}",
    "warmup_epochs": "{ours} of {theirs} warm-up epochs",
    "classes": "{ours} classes",
    "images_per_class": "{ours} images per class",
    "image_size": "{ours} pixels",
    "data": "{ours} for {theirs}",
    "callbacks": "with {ours}",
}
_DATA = {  # of the authors, by net
    **dict.fromkeys(("conv2", "conv4", "conv6", "conv8", "cifar_resnet18"), "cifar10"),
    "lenet": "mnist",
    **dict.fromkeys(IMAGENET, "imagenet"),
}
_NAMES = {
    "cifar10": "CIFAR-10", "mnist": "MNIST", "digits": "scikit-learn's digits", "imagenet": "ImageNet",
    "imagenet100": "ImageNet-100", "imagenette": "Imagenette", "imagewoof": "Imagewoof",
    "tiny-imagenet": "Tiny ImageNet", "tiny-imagenet-100": "Tiny ImageNet-100",
}  # fmt: skip
_TEXT = ("run", "commit", "device", "cpu", "tf32", "finished")  # never numbers: a commit may be called 12e45


class ResultsError(UserError, ValueError):
    """Results are missing or damaged, or cannot answer the question."""


def order(value: Any) -> tuple[Any, ...]:
    """Give a sort key for values of a field: None first, then numbers, then names, conv2 before conv10."""
    if isinstance(value, str):
        return 2, [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", value)]
    return (0,) if value is None else (1, value)


def number(cell: str) -> Any:
    """Read a table's cell or an argument: None (or nothing), a truth value, a number, or else text."""
    words: dict[str, Any] = {"": None, "none": None, "true": True, "false": False}
    if cell.lower() in words:
        return words[cell.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(cell)
    return cell


def filtered(runs: list[Run], where: Iterable[str]) -> list[Run]:
    """Keep the runs with every FIELD=VALUE, such as `net=conv4`; ResultsError if none is left."""
    for wanted in where:
        name, equals, value = wanted.partition("=")
        if not equals or (name not in FIELDS and "." not in name):
            raise ResultsError(f"where {wanted!r} is no FIELD=VALUE; fields are {', '.join(FIELDS)}, or Class.option")
        found = [(run, set(map(text, run.option(name) if "." in name else [run.row.get(name)]))) for run in runs]
        runs = [run for run, values in found if text(number(value)) in values]
        if not runs:
            known = sorted({one for _, values in found for one in values}, key=lambda one: order(number(one)))
            raise ResultsError(f"no run has {wanted}; there are {name}={', '.join(known)}")
    return runs


def read(path: Path) -> list[Row]:
    """Read a `results.csv`; ResultsError if it is missing or damaged, or a row's hash is not its description's."""
    rows: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file, strict=True):
                if None in line or None in line.values():
                    raise ValueError("a line has more or fewer cells than the heading")
                row: Row = {name: (cell or None) if name in _TEXT else number(cell) for name, cell in line.items()}
                if (found := describe(row).hash) != row["run"]:
                    raise ValueError(f"the hash {row['run']} stands for another run, {found}")
                float(row[primary(row)]), float(row["seconds"] or 0)
                rows.append(row)
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise ResultsError(f"{path} is missing, or damaged in line {len(rows) + 2}: {error!r}") from error
    if not rows:
        raise ResultsError(f"{path} is damaged: it has no run")
    return rows


def reason(why: str, lost: Mapping[str, Sequence[int]]) -> str:
    """Add to a verdict's reason `why` the cells in which seeds fail; `lost` has (failed, all) by cell."""
    notes = (f"{cell}: {fail} of {of} seeds fail" for cell, (fail, of) in lost.items())
    return "; ".join([why, *(note for note in notes if note not in why)])


def describe(row: Row) -> Run:
    """Give the Run of a row; ValueError or TypeError if it describes none."""
    return Run.from_row(row).resolved


@dataclass(frozen=True)
class Cell:
    """Runs that differ by their seeds alone; `run` is the first of them."""

    run: Run
    rows: list[Row]

    @property
    def trained(self) -> list[Row]:
        """The runs that did not fail to train; only these are averaged."""
        return [row for row in self.rows if not row.get("failed")]

    def values(self, name: str | None = None) -> list[float]:
        """List a number of each trained run that has it; without a name the primary metric."""
        return [float(v) for row in self.trained if isinstance(v := row.get(name or primary(row)), int | float)]

    def mean(self, name: str | None = None) -> float | None:
        """Average a number over the trained runs; None if none has it."""
        values = self.values(name)
        return sum(values) / len(values) if values else None


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Group rows that differ by their seeds, sorted by net, method and so on; what was recorded makes no difference."""
    found: dict[str, Cell] = {}
    runs = {run.unrecorded.hash: (run, row) for row in rows for run in [describe(row)]}
    for run, row in sorted(runs.values(), key=lambda pair: [order(setting(pair[0], name)) for name in CONDITIONS]):
        found.setdefault(run.unrecorded.cell, Cell(run, [])).rows.append(row)
    return list(found.values())


def score(result: Mapping[str, Any]) -> str:
    """Write the primary metric of a result, `97.1% test accuracy` or `12.3 degrees test error`, or that it diverged."""
    if diverged(result):
        return f"diverged, its test loss is {result.get('loss')}"
    name = primary(result)
    return f"{result[name]:.1f}{'%' if name == 'accuracy' else ' ' + result['unit']} test {name}"


def digits(number: float) -> str:
    """Write a number to 3 digits, for people: `84.5`, `0.00321`, `3,620`."""
    return f"{float(f'{number:.3g}'):,.12g}"


def listed(values: Iterable[Any]) -> str:
    """Write values in their order, each once: `0.25, 0.5, 1`."""
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in dict.fromkeys(values))


def protocol(run: Run) -> Run:
    """Give a resolved run as the authors train it: full width, 100 epochs, all their images, their settings."""
    told = {name: getattr(run, name) for name in CHOSEN}
    if method(str(run.method)).learns is None:  # the batches set the statistics of norm layers; nothing else matters
        told |= {name: getattr(run, name) for name in RECIPE if name != "batch_size"}
    usual = run.augment == (run.data in AUGMENTED)  # it says what the authors do anyway
    return Run(**told, data=_DATA.get(run.net, run.data), augment=run.augment if usual else None).resolved


def departures(runs: Iterable[Run]) -> dict[str, str]:
    """Say by field where runs depart from the authors' protocol: `{"width": "width x0.25"}`.

    TF32 does not count, see `in_tf32`; nor does what is `CHOSEN`, such as the distribution of the weights.
    """
    pairs, found = [(run, protocol(run)) for run in runs], {}
    settings_of = attrgetter("lr", "batch_size")
    rates = [(*settings_of(run), *settings_of(theirs)) for run, theirs in pairs]
    # Whether the learning rate departs by the same factor as the batch size.
    scaled = [lr != rate and isclose(lr * batch, rate * size) for lr, size, rate, batch in rates]
    for name in CONDITIONS:
        settings = [(_named(setting(run, name)), _named(setting(theirs, name))) for run, theirs in pairs]
        apart = [(ours, theirs) for (ours, theirs), in_proportion in zip(settings, scaled, strict=True)
                 if ours not in (None, theirs) and not (name == "lr" and in_proportion)]  # fmt: skip
        if apart and name not in CHOSEN:
            ours, theirs = (listed(values) for values in zip(*apart, strict=True))
            words = f"{name} {{ours}}" + ("" if theirs == "None" else " instead of {theirs}")
            found[name] = _WORDS.get(name, words).format(ours=ours, theirs=theirs)
    if any(scaled):
        found["batch_size"] += ", rates in proportion"
    return found


def _named(value: Any) -> Any:
    """Name data sets and lists of classes for people: `Tiny ImageNet`; `first-10` is `10` (classes)."""
    return _NAMES.get(value, value.removeprefix("first-")) if isinstance(value, str) else value


def in_tf32(rows: Iterable[Row]) -> list[str]:
    """Say which operations of float32 runs computed in TF32 (10 of 23 bits of fraction); empty if none did.

    This depends on the GPU and on torch, so the rows of `results.csv` record it and the Run does not.
    """
    of_float32 = [str(row.get("tf32") or "") for row in rows if row["precision"] == "32-true"]
    found = listed(part for told in of_float32 for part in told.split(", ") if part)
    some = "" if all(of_float32) else f" in {sum(map(bool, of_float32))} of {len(of_float32)} runs"
    return [f"{found} in TF32{some}"] if found else []


def setting(run: Run, name: str) -> Any:
    """Give a field for people: callbacks without those that only record, the parent run without its seeds."""
    if name == "callbacks":
        return " and ".join(one.short for one in run.callbacks if not one.records) or None
    if name == "augment":
        return ("off", "on")[run.augment] if isinstance(run.augment, bool) else run.augment
    return run.after and run.after.cell if name == "after" else getattr(run, name)


def varying(runs: Sequence[Run]) -> list[str]:
    """Name the fields in which runs differ, without seeds, recordings, and each method's published settings."""
    return [name for name, values in _values(runs).items() if len(values) > 1]


def common(runs: Sequence[Run]) -> dict[str, Any]:
    """Give the fields that all runs share, without defaults and published settings, which say nothing."""
    telling = ("net", "data", "width", "epochs", "density", "method", "distribution")
    shared = {name: next(iter(values)) for name, values in _values(runs).items() if len(values) == 1}
    defaults = {f.name: f.default for f in fields(Run) if f.name not in telling}
    return {k: value for k, value in shared.items() if value not in (None, _PUBLISHED, defaults.get(k))}


def _values(runs: Sequence[Run]) -> dict[str, set[Any]]:
    """Collect what each field is set to; `_PUBLISHED` stands for the recipe's setting."""
    found: dict[str, set[Any]] = {name: set() for name in CONDITIONS}
    for run in runs:
        theirs = protocol(run)
        for name, values in found.items():
            value = setting(run, name)
            if name != "epochs" or method(str(run.method)).learns:  # a random mask has one epoch, whatever is asked
                values.add(_PUBLISHED if name in (*RECIPE, "augment") and value == setting(theirs, name) else value)
    return found
