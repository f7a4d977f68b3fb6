"""What an experiment is made of: a Run describes, Results hold what came out.

No framework is imported here: experiments, the report and `--help` must not wait for torch.
"""

import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lit_hidden.recipes import (
    CLASS_LISTS,
    DISTRIBUTIONS,
    FINDERS,
    IMAGENET_SIZES,
    IMAGES,
    PRECISIONS,
    SCHEDULES,
    UNSCALED,
    recipe,
)

SCHEMA = 1  # raise it when equal descriptions no longer mean equal results
PRESETS = ("smoke", "quick", "short", "paper")  # of every experiment: from seconds to the published protocol

_REALS = ("density", "width", "lr", "momentum", "weight_decay", "label_smoothing")
SUBSET = ("classes", "images_per_class", "image_size")  # what part of ImageNet, and how large
_SEEDS = ("weight_seed", "score_seed", "data_seed")


def _number(name: str, value: Real) -> float | int:
    if name in _REALS:
        return float(value)
    if isinstance(value, Integral):
        return int(value)
    if not float(value).is_integer():
        raise ValueError(f"{name}={value} is no whole number; it counts something")
    return int(float(value))


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One training run, described completely: two descriptions that resolve to the same are equal.

    What is left None takes the paper's value for the method, net and optimizer (`lit_hidden.recipes`), see
    `resolved`. The hash of what differs from the defaults names the run's folder, so fields may be added later
    without renaming old runs.

    Args:
        density: fraction of weights kept, in (0, 1]; None for the dense baseline.
        method: `edge_popup`, `dense`, `supermask` (Zhou's), `random` (a random mask that nobody trains) or `ticket`
            (a found subnetwork, its weights trained); None is `edge_popup` with a density and `dense` without.
        found_by: of a ticket alone, the method that finds its subnetwork, see `parent`; None is `edge_popup`.
        net: a name for `lit_hidden.build`.
        width: channel multiplier.
        distribution: what the weights are drawn from, see `lit_hidden.distributions`.
        scaled: multiply weights by `1/sqrt(density)`; "authors": by `1/sqrt(1 - density)`.
        data: `cifar10`, `mnist`, `digits`, or ImageNet and its subsets: see `lit_hidden.recipes.IMAGENET_SIZES`.
        classes: of ImageNet and its subsets alone, as the next two: a list of `lit_hidden.recipes.CLASS_LISTS`, or
            `first-N`; None is the set's own classes.
        images_per_class: use only so many training images of each class; None uses all.
        image_size: height and width in pixels; None is the set's custom.
        train_images: use only so many training images; None uses all.
        held_out: training images set aside for validation; 0, as in the paper, watches the test set instead.
        augment: random crop and flip; None is the data set's custom.
        epochs: passes over the training images. The paper's is 100.
        optimizer: `sgd` or, where weights are trained (dense, ticket), `adam`.
        batch_size: images per step, over all devices.
        schedule: `cosine`, stepped per epoch as the authors', or `constant`.
        precision: Lightning's name for the arithmetic, `32-true` or `bf16-mixed`.
        seed: gives the weight, score and data seeds, each of which can be set alone.
        trace: record the last layer's scores, gradients and mask at this many steps, evenly spread.
        swaps: measure what swaps of edges do to the loss before this many steps, evenly spread; of edge-popup alone.

    Raises:
        ValueError: a value that cannot be, before anything is trained.
    """

    density: float | None = None
    method: str | None = None
    found_by: str | None = None
    net: str = "conv4"
    width: float = 1.0
    distribution: str | None = None
    scaled: bool | Literal["authors"] = False
    data: str = "cifar10"
    train_images: int | None = None
    held_out: int = 0
    augment: bool | None = None
    epochs: int = 100
    batch_size: int | None = None
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    warmup_epochs: int | None = None
    label_smoothing: float | None = None
    precision: str = "32-true"
    seed: int = 0
    weight_seed: int | None = None
    score_seed: int | None = None
    data_seed: int | None = None
    trace: int = 0
    swaps: int = 0
    classes: str | None = None
    images_per_class: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        run = self.resolved
        for name, allowed in (("distribution", DISTRIBUTIONS), ("precision", PRECISIONS)):
            if getattr(run, name) not in allowed:
                raise ValueError(f"{name}={getattr(run, name)!r} is unknown; there are {', '.join(allowed)}")
        if not (isinstance(run.scaled, bool) or run.scaled == "authors"):
            raise ValueError(f"scaled={run.scaled!r} is unknown; it is False, True or 'authors'")
        if run.scaled == "authors" and run.distribution in UNSCALED:
            raise ValueError(
                f"scaled='authors' with distribution={run.distribution!r}, which the authors' code never scales; "
                "use scaled=False, or True for the scale of the paper's text"
            )
        for name in ("lr", "momentum", "weight_decay", "label_smoothing", "held_out", "warmup_epochs"):
            if not (isinstance(getattr(run, name), Real) and 0 <= getattr(run, name) < math.inf):
                raise ValueError(f"{name}={getattr(run, name)!r} is not a finite number of at least 0")
        if run.train_images is not None and run.train_images < 1:
            raise ValueError(
                f"train_images={run.train_images} trains on nothing; it must be at least 1, or None for all"
            )
        if run.data not in IMAGENET_SIZES:
            if given := [f"{name}={getattr(run, name)!r}" for name in SUBSET if getattr(run, name) is not None]:
                raise ValueError(f"data={run.data!r} takes no {', '.join(given)}; {', '.join(IMAGENET_SIZES)} do")
        else:
            for name in ("images_per_class", "image_size"):
                if getattr(run, name) is not None and getattr(run, name) < 1:
                    raise ValueError(f"{name}={getattr(run, name)} leaves nothing to train on; it must be at least 1")
            if run.images_per_class is not None and run.train_images is not None:
                raise ValueError("images_per_class and train_images say the same thing twice; give one of them")
            if run.classes is not None and not re.fullmatch("|".join((*CLASS_LISTS, "first-[1-9][0-9]*")), run.classes):
                raise ValueError(
                    f"classes={run.classes!r} is no list that a run's hash can stand for; "
                    f"there are {', '.join(CLASS_LISTS)} and first-N"
                )
        if (run.density is None) != (run.method == "dense"):
            raise ValueError(
                f"method={run.method!r} with density={run.density}: the dense baseline has no density (None), "
                "every other method needs one in (0, 1]"
            )
        if run.density is not None and not 0 < run.density <= 1:
            raise ValueError(f"density={run.density} is the fraction of weights kept and must lie in (0, 1]")
        if run.method == "ticket" and run.found_by not in FINDERS:
            raise ValueError(f"found_by={run.found_by!r} finds no subnetwork; methods that do are {', '.join(FINDERS)}")
        if run.method != "ticket" and run.found_by is not None:
            raise ValueError(
                f"found_by={run.found_by!r} says which subnetwork a ticket trains; method={run.method!r} trains none"
            )
        if run.method == "ticket" and run.precision in ("bf16-true", "16-true", "64-true"):
            raise ValueError(
                f"precision={run.precision!r} changes the weights by which a found subnetwork is recognised; "
                "tickets take 32-true, bf16-mixed or 16-mixed"
            )
        for name in ("epochs", "batch_size"):
            if getattr(run, name) < 1:
                raise ValueError(f"{name}={getattr(run, name)} trains nothing; it must be at least 1")
        if run.schedule not in SCHEDULES:
            raise ValueError(f"schedule={run.schedule!r} is unknown; schedules are {', '.join(SCHEDULES)}")
        if not run.width > 0:
            raise ValueError(f"width={run.width} leaves no channels; it must be above 0")
        if run.trace < 0:
            raise ValueError(f"trace={run.trace} is a number of steps to record; it must be at least 0")
        if run.swaps < 0:
            raise ValueError(f"swaps={run.swaps} is a number of steps to measure at; it must be at least 0")
        if run.swaps and run.method != "edge_popup":
            raise ValueError(f"swaps={run.swaps} with method={run.method!r}: edge_popup alone swaps edges by scores")

    @cached_property  # like hash: a grid asks for both thousands of times
    def resolved(self) -> "Run":
        """The same run with nothing left to defaults that depend on other fields."""
        method = self.method or ("dense" if self.density is None else "edge_popup")
        values = asdict(self) | {"method": method}
        published = {**asdict(recipe(method, self.net, self.optimizer)), **dict.fromkeys(_SEEDS, self.seed)}
        published |= {"found_by": "edge_popup"} if method == "ticket" else {}
        published |= {"image_size": IMAGENET_SIZES.get(self.data)}
        values |= {name: value for name, value in published.items() if values[name] is None}
        # 2 and 2.0, numpy's numbers and Python's, are one description.
        for name, value in values.items():
            if isinstance(value, Real) and not isinstance(value, bool):
                values[name] = _number(name, value)
        if method == "random":
            values["epochs"] = 1  # one pass sets the running statistics of norm layers; there is nothing to learn
        run = object.__new__(Run)  # not through __init__, which checks what is resolved here
        for name, value in values.items():
            object.__setattr__(run, name, value)
        return run

    @property
    def parent(self) -> "Run | None":
        """The run whose subnetwork a ticket trains; None of other runs, which need none.

        The same description with the method `found_by` and that method's published hyper-parameters, and nothing
        recorded. A batch size other than the ticket's own published one is the parent's too: it was set for both.
        """
        run = self.resolved
        if run.method != "ticket":
            return None
        own = recipe("ticket", run.net, run.optimizer)
        values = asdict(run) | {name: None for name in asdict(own) if name != "distribution"}
        values |= {"method": run.found_by, "found_by": None, "optimizer": "sgd", "trace": 0}
        if run.batch_size != own.batch_size:
            values["batch_size"] = run.batch_size
        return Run(**values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def different(self) -> dict[str, Any]:
        """The fields that differ from the defaults; these alone make the hash."""
        custom = {f.name: f.default for f in fields(self)} | dict.fromkeys(_SEEDS, self.seed)
        return {name: value for name, value in asdict(self.resolved).items() if value != custom[name]}

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that name the run's folder."""
        text = json.dumps({"schema": SCHEMA, **self.different}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A readable name, such as `conv4-k50-signed_constant-s0`; not unique."""
        run = self.resolved
        parts = [run.net if run.width == 1 else f"{run.net}x{run.width:g}"]
        parts += [run.optimizer if run.density is None else f"k{100 * run.density:g}"]
        parts += [] if run.method in ("dense", "edge_popup") else [str(run.method)]
        if run.method == "ticket":
            parts += [f"of_{run.found_by}", *([] if run.optimizer == "sgd" else [run.optimizer])]
        parts += [] if run.method == "dense" else [str(run.distribution)]
        parts += [] if run.scaled is False else ["scaled" if run.scaled is True else f"scaled_{run.scaled}"]
        return "-".join([*parts, f"s{run.seed}"])

    @property
    def num_classes(self) -> int:
        """The number of classes of its data."""
        if self.classes is None:
            return IMAGES[self.data][4]
        return CLASS_LISTS.get(self.classes) or int(self.classes.removeprefix("first-"))

    @property
    def test_images(self) -> int:
        """The number of its test images."""
        return round(IMAGES[self.data][3] * self.num_classes / IMAGES[self.data][4])

    @cached_property
    def cell(self) -> str:
        """The name without its seed, and a hash of what is not named: equal for runs that differ by seed."""
        same = Run(**{k: v for k, v in asdict(self).items() if k not in _SEEDS} | {"seed": 0})
        return f"{same.name.removesuffix('-s0')} ({same.hash})"

    def to_json(self) -> str:
        """Write the full description, one field a line."""
        return json.dumps({"schema": SCHEMA, **asdict(self.resolved)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not JSON, another schema, or fields that a Run has not.
        """
        try:
            description = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a run description: {error}") from error
        if not isinstance(description, dict) or description.pop("schema", None) != SCHEMA:
            raise ValueError(f"not a run description of schema {SCHEMA}: {text[:60]!r}")
        if unknown := sorted(description.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"not a run description: unknown fields {', '.join(unknown)}")
        return cls(**description)


def vary(base: Iterable[Run], **values: Iterable[Any]) -> list[Run]:
    """Multiply runs by the values of some fields: `vary([Run()], net=["conv2", "conv4"], seed=range(3))`."""
    runs = list(base)
    for name, choices in values.items():
        chosen = list(choices)
        runs = [replace(run, **{name: value}) for run in runs for value in chosen]
    return runs


class NoRunsError(ValueError):
    """Runs were selected of which there are none."""


Row = tuple[Run, dict[str, Any], Path | None]  # a run, its result, the folder of its curves and traces


@dataclass
class _View:
    """What results and all that is selected from them share: runs left out for a while, runs that were read."""

    left_out: frozenset[str] = frozenset()  # hashes
    read: set[str] | None = None  # hashes; None: nobody asks


class Results:
    """What came out of some runs: pairs of a Run and its result, with the folders their curves and traces are in."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = [(run.resolved, result, folder) for run, result, folder in rows]
        self._view = _View()
        self._selected: dict[tuple[Any, ...], Results] = {}

    @property
    def rows(self) -> list[Row]:
        """The runs with their results and folders."""
        rows = self._there()
        if self._view.read is not None:
            self._view.read.update(run.hash for run, _, _ in rows)
        return rows

    @property
    def runs(self) -> list[Run]:
        """The runs alone, whose results are not read."""
        return [run for run, _, _ in self._there()]

    def _there(self) -> list[Row]:
        left_out = self._view.left_out
        return [row for row in self._rows if row[0].hash not in left_out] if left_out else self._rows

    @contextmanager
    def without(self, hashes: Iterable[str]) -> Iterator[None]:
        """Leave runs out of these results, and of all that is selected from them, for a while."""
        before, self._view.left_out = self._view.left_out, frozenset(hashes)
        try:
            yield
        finally:
            self._view.left_out = before

    @contextmanager
    def reading(self) -> Iterator[set[str]]:
        """Note the hashes of the runs whose results are read meanwhile."""
        self._view.read = set()
        try:
            yield self._view.read
        finally:
            self._view.read = None

    def where(self, keep: Callable[[Run], bool]) -> "Results":
        """Keep the runs that `keep` says; maybe none."""
        kept = Results([])
        kept._rows = [row for row in self._rows if keep(row[0])]  # resolved already, which costs more than selecting
        kept._view = self._view
        return kept

    def __len__(self) -> int:
        return len(self._there())

    def __iter__(self) -> Iterator[tuple[Run, dict[str, Any]]]:
        return ((run, result) for run, result, _ in self.rows)

    @property
    def seeds(self) -> list[int]:
        """The seeds there are, ascending."""
        return sorted({run.seed for run in self.runs})

    def select(self, **where: Any) -> "Results":
        """Keep the runs whose fields equal `where`.

        Raises:
            ValueError: a name that is no field of Run.
            NoRunsError: nothing is left.
        """
        key = tuple(where.items())
        if key not in self._selected:  # judging selects the same runs again for every run that it leaves out
            if unknown := sorted(where.keys() - Run.__dataclass_fields__.keys()):
                raise ValueError(f"Run has no field {', '.join(unknown)}")
            self._selected[key] = self.where(lambda run: where.items() <= vars(run).items())
        chosen = self._selected[key]
        if not len(chosen):
            raise NoRunsError(f"no run has {where}; there are {len(self)} runs")
        return chosen

    def each(self, name: str, **where: Any) -> list[Any]:
        """List the values of a field that occur among the selected runs, ascending, without None."""
        found = {getattr(run, name) for run in self.select(**where).runs} - {None}
        return sorted(found, key=lambda value: (isinstance(value, str), value))  # `scaled` has both

    def values(self, metric: str = "accuracy", **where: Any) -> list[float]:
        """List a metric of the selected runs, by seed. `accuracy` is test top-1 after the last epoch, in percent."""
        rows = sorted(self.select(**where).rows, key=lambda row: row[0].seed)
        for run, result, _ in rows:
            if metric not in result:
                raise ValueError(f"the result of {run.name} has no {metric!r}; it has {', '.join(result)}")
        return [row[1][metric] for row in rows]

    def mean(self, metric: str = "accuracy", **where: Any) -> float:
        """Average a metric over the selected runs."""
        values = self.values(metric, **where)
        return sum(values) / len(values)

    def curve(self, metric: str, **where: Any) -> tuple[np.ndarray, np.ndarray]:
        """Read a column of `metrics.csv`: steps `(E,)` and values `(runs, E)`, by seed.

        Raises:
            ValueError: the runs have different steps, or no such column.
        """
        steps, values = [], []
        for _, _, folder in sorted(self.select(**where).rows, key=lambda row: row[0].seed):
            assert folder is not None
            with (folder / "metrics.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            if metric not in rows[0]:
                raise ValueError(f"{folder}/metrics.csv has no column {metric!r}; it has {', '.join(rows[0])}")
            steps.append([int(row["step"]) for row in rows])
            values.append([float(row[metric] or "nan") for row in rows])
        if any(s != steps[0] for s in steps):
            raise ValueError(f"the runs with {where} were measured at different steps; select runs of one length")
        return np.array(steps[0]), np.array(values)

    def trace(self, **where: Any) -> dict[str, np.ndarray]:
        """Load `trace.npz` of the one run selected; see `lit_hidden.engine.trace` for its arrays.

        Raises:
            ValueError: not exactly one run, or it was not traced.
        """
        rows = self.select(**where).rows
        if len(rows) != 1 or not rows[0][0].trace:
            raise ValueError(f"{len(rows)} runs have {where}; a trace is one run's, of a Run with trace > 0")
        assert rows[0][2] is not None
        with np.load(rows[0][2] / "trace.npz") as arrays:
            return dict(arrays)
