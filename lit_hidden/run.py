"""A Run describes what is trained, and its hash names it. Nothing here imports torch, which takes seconds."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import product
from numbers import Real
from typing import Any, Literal

from lit_hidden import code, recipes
from lit_hidden.checks import faults
from lit_hidden.code import Spec

SCHEMA = 1  # raise it when equal descriptions no longer mean equal results
# Fields on their way out, and what to write instead: docs/releases.md has the rule.
DEPRECATED: dict[str, str] = {}
# Fields that went: the neutral value, which old descriptions may state for good, and what to write instead.
GONE = {"trace": (0, 'callbacks=[spec("trace.Trace")]'), "swaps": (0, 'callbacks=[spec("swaps.Swaps")]')}
PRESETS = ("smoke", "quick", "short", "paper")  # of every experiment: from seconds to the published protocol

_SEEDS = ("weight_seed", "score_seed", "data_seed")
_REALS = ("density", "width", "lr", "momentum", "weight_decay", "label_smoothing")
_NAMED = ("net", "masker", "distribution", "method", "data", "task")  # fields that may name code of your own
# What the first part of a name tells.
_TITLED = {*_NAMED, "density", "found_by", "width", "scaled", "optimizer", "callbacks", "after", "seed"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One training run, described completely: two descriptions that resolve to the same are equal.

    A field that is None takes the paper's value for the method, net and optimizer (`lit_hidden.recipes`). The hash of
    the fields that differ from the defaults names the run's folder, so a field added later needs a default. The fields
    `_NAMED` may name code of your own (`lit_hidden.code`). What cannot be trained raises a ValueError.
    """

    density: float | None = None  # fraction of weights kept, in (0, 1]; None for the dense baseline
    # `edge_popup` (the default with a density), `dense` (the default without), `supermask` (Zhou's), `random` (an
    # untrained random mask), or `ticket` (the weights of a subnetwork are trained; `found_by` is the method that finds
    # it, by default edge_popup, see `parent`).
    method: str | None = None
    found_by: str | None = None
    net: str = "conv4"  # a name for `lit_hidden.build`
    width: float = 1.0  # channel multiplier
    distribution: str | None = None  # of the weights, see `lit_hidden.distributions`
    scaled: bool | Literal["authors"] = False  # weights times 1/sqrt(density); "authors": times 1/sqrt(1 - density)
    data: str = "cifar10"  # or `mnist`, `digits`, or a set of `lit_hidden.recipes.IMAGENET_SIZES`
    train_images: int | None = None  # use only so many
    held_out: int = 0  # training images to validate on; 0, as in the paper, validates on the test set
    # Random crop and flip. None follows the authors: a crop after padding by 4 pixels (CIFAR-10), a resized random part
    # of the whole image (ImageNet), nothing (MNIST, digits). "square" crops from ImageNet's middle squares.
    augment: bool | Literal["square"] | None = None
    epochs: int = 100  # a run of 0 is an analysis, by its callbacks
    batch_size: int | None = None  # images per step, over all devices
    optimizer: str = "sgd"  # or `adam`, except for supermasks and random masks
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None  # `cosine`, stepped per epoch, or `constant`
    warmup_epochs: int | None = None
    label_smoothing: float | None = None
    precision: str = "32-true"  # Lightning's name
    seed: int = 0  # gives the three seeds below, each of which can be set alone
    weight_seed: int | None = None
    score_seed: int | None = None
    data_seed: int | None = None
    classes: str | None = None  # of ImageNet: a list of `lit_hidden.recipes.CLASS_LISTS`, or `first-N`
    images_per_class: int | None = None  # of ImageNet: use only so many training images of each class
    image_size: int | None = None  # of ImageNet: height and width in pixels
    callbacks: tuple[Spec, ...] = ()  # what it does besides training, see `lit_hidden.code.spec`
    after: "Run | None" = None  # the run whose net this one begins with, see `then`
    masker: str | None = None  # the class that chooses the weights to keep; None is the method's own
    task: str | None = None  # loss and metric, see `lit_hidden.metrics.Task`; None is classification

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = dict.fromkeys(_NAMED, str | None) | {"callbacks": tuple | list, "after": Run | None}
        for name, kind in (kinds | {"scaled": bool | str, "augment": bool | str | None}).items():
            if not isinstance(value := getattr(self, name), kind):
                raise ValueError(f"{name}={value!r} is of the wrong type; it must be {kind}")
        if fault := next(faults(self.resolved), None):
            raise ValueError(fault)
        for name, default in [(f.name, f.default) for f in fields(self) if f.name in DEPRECATED]:
            if getattr(self.resolved, name) != getattr(self._but(**{name: default}).resolved, name):
                warnings.warn(f"{name} is deprecated; write {DEPRECATED[name]}", FutureWarning, stacklevel=3)

    @cached_property  # a grid asks for it, and for the hash, thousands of times
    def resolved(self) -> "Run":
        """The same run with nothing left to defaults that depend on other fields."""
        method = self.method or ("dense" if self.density is None else "edge_popup")
        after = self.after and self.after.resolved
        values = self._values | {"method": method, "callbacks": tuple(self.callbacks), "after": after}
        values |= {name: code.full(values[name]) for name in _NAMED if values[name] is not None}
        values |= {name: value for name, value in self._published(values).items() if values[name] is None}
        for name, value in values.items():  # 2 and 2.0, numpy's numbers and Python's, are one description
            if isinstance(value, Real) and not isinstance(value, bool):
                if name not in _REALS and value % 1 != 0:
                    raise ValueError(f"{name}={value} must be a whole number")
                values[name] = code.real(value) if name in _REALS else int(values[name])
        if values["data"] in recipes.SQUARES:  # whose images may all be squares of that size
            same = {None: True} if _neutral_augment(values) else {"square": None}
            values["augment"] = same.get(values["augment"], values["augment"])
        if recipes.method(method).learns is None and values["epochs"] != 0:
            values["epochs"] = 1  # one pass sets the running statistics of norm layers; there is nothing to learn
        run = self._but(**values)
        vars(run)["resolved"] = run
        return run

    def _but(self, **values: Any) -> "Run":
        """The same run with other values, unchecked."""
        run = object.__new__(type(self))
        vars(run).update(self._values | values)
        return run

    def _published(self, values: dict[str, Any]) -> dict[str, Any]:
        """Give the values that fields take where they are None."""
        found = asdict(recipes.recipe(values["method"], values["net"], values["optimizer"]))
        found |= dict.fromkeys(_SEEDS, values["seed"]) | {"image_size": recipes.IMAGENET_SIZES.get(values["data"])}
        if (before := values["after"]) is not None:
            found["distribution"] = before.distribution
        if values["method"] == "ticket":
            found["found_by"] = "edge_popup" if before is None else before.found_by or before.method
        return found

    @property
    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def kind(self) -> str:
        """Whether its net is `dense`, `hidden` or a `ticket`."""
        return "ticket" if self.resolved.method == "ticket" else "dense" if self.density is None else "hidden"

    @property
    def parent(self) -> "Run | None":
        """The run before: `after`, or, of a ticket without one, the run that finds its subnetwork.

        That one has its own published hyper-parameters and no callbacks; a batch size that was set is for both.
        """
        run = self.resolved
        if run.method != "ticket" or run.after is not None:
            return run.after
        own = asdict(recipes.recipe("ticket", run.net, run.optimizer))
        values = dict.fromkeys(own.keys() - {"distribution"}) | {"method": run.found_by, "found_by": None}
        if run.batch_size != own["batch_size"]:
            del values["batch_size"]
        return replace(run, **values | {"optimizer": "sgd", "callbacks": ()})  # type: ignore[arg-type]

    def then(self, **changes: Any) -> "Run":
        """Describe a run that begins with the net of this one, and is like it but for `changes`.

        Where this run has its method's published hyper-parameters, the next one has those of its own method.
        """
        run = self.resolved
        published = self._published(run._values)
        values: dict[str, Any] = {k: None for k, v in run._values.items() if v == published.get(k)}
        if run.method in ("dense", "edge_popup"):
            values["method"] = None  # the density says which
        return replace(run, **values | {"after": self} | changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def different(self) -> dict[str, Any]:
        """The fields that differ from the defaults; these alone make the hash."""
        values = self.resolved._values
        usual = {f.name: f.default for f in fields(self)} | dict.fromkeys(_SEEDS, self.seed)
        usual["augment"] = _neutral_augment(values)
        return {name: value for name, value in values.items() if value != usual[name]}

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that name the run's folder."""
        described = {"schema": SCHEMA, **self.different}
        if self.callbacks:
            described["callbacks"] = [one.entry | {"version": one.version} for one in self.callbacks]
        if self.after is not None:
            described["after"] = self.after.hash
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def names(self) -> list[str]:
        """The dotted names of code in its fields and callbacks, and in those of its parents."""
        run = self.resolved
        found = [name.replace(":", ".") for field in _NAMED if code.dotted(name := getattr(run, field))]
        found += [one.class_path for one in run.callbacks]
        return list(dict.fromkeys(found + (run.parent.names if run.parent is not None else [])))

    def option(self, name: str) -> list[Any]:
        """List an option, `Class.option`, of the callbacks of that class."""
        path, _, option = name.rpartition(".")
        found = [one.all_options for one in self.callbacks if f".{one.class_path}".endswith(f".{path}")]
        return [options[option] for options in found if option in options]

    @property
    def name(self) -> str:
        """A readable name of what is neither the recipe's nor a default: `conv4-k50-signed_constant-lr=1-s0`."""
        run = self.resolved
        defaults = {f.name: f.default for f in fields(run) if f.name not in _TITLED}
        usual = run._but(**defaults).resolved
        parts = [] if run.data == "cifar10" else [_short(run.data)]
        parts += [f"{n}={code.text(getattr(run, n))}" for n in defaults if getattr(run, n) != getattr(usual, n)]
        parts += [one.short for one in run.callbacks if one.records]
        return "-".join([run._title, *parts, f"s{run.seed}"])

    @property
    def _title(self) -> str:
        run = self.resolved
        parts = [
            _short(run.net) + ("" if run.width == 1 else f"x{code.text(run.width)}"),
            run.optimizer if run.density is None else f"k{code.text(100 * run.density)}",
            run.method not in ("dense", "edge_popup") and _short(run.method),
            run.found_by and f"of_{run.found_by}",
            run.density is not None and run.optimizer != "sgd" and run.optimizer,
            (run.method, run.distribution) != ("dense", "kaiming_normal") and _short(run.distribution),
            run.scaled and ("scaled" if run.scaled is True else f"scaled_{run.scaled}"),
            *(_short(name) for name in (run.masker, run.task) if name is not None),
            *(one.short for one in run.callbacks if not one.records),
            run.after is not None and f"after_{run.after.hash[:6]}",
        ]
        return "-".join(part for part in parts if part)

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 where the data are your own, since it is not known here."""
        if self.classes is None:
            return recipes.IMAGES[self.data][4] if self.data in recipes.IMAGES else 0
        return recipes.CLASS_LISTS.get(self.classes) or int(self.classes.removeprefix("first-"))

    @cached_property
    def cell(self) -> str:
        """The first part of the name and a hash of all but the seeds: equal for runs that differ by seed."""
        same = self._unseeded
        return f"{same._title} ({same.hash})"

    @property
    def _unseeded(self) -> "Run":
        return self._but(**dict.fromkeys(_SEEDS), seed=0, after=self.after and self.after._unseeded)

    @property
    def unrecorded(self) -> "Run":
        """The same training without callbacks that only record something, of the runs before too."""
        callbacks = tuple(one for one in self.callbacks if not one.records)
        # Unchecked: without what it records, a run of no epochs does nothing.
        return self._but(callbacks=callbacks, after=self.after and self.after.unrecorded)

    def to_json(self) -> str:
        """Write the full description, one field a line."""
        return json.dumps(self, indent=1, default=_plain)

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """Read what `to_json` wrote, without importing what it names; anything else raises a ValueError."""
        try:
            return cls._from_plain(json.loads(text))
        except (TypeError, AttributeError, LookupError, json.JSONDecodeError) as error:
            raise ValueError(f"not a run description of schema {SCHEMA}: {text[:60]!r} ({error})") from error

    @classmethod
    def _from_plain(cls, plain: dict[str, Any]) -> "Run":
        if plain.pop("schema") != SCHEMA:
            raise LookupError("another schema")
        versions, after = plain.pop("versions", {}), plain.get("after")
        callbacks = []
        for entry in plain.get("callbacks", ()):
            version = versions.get(entry["class_path"], 1)
            callbacks.append(Spec.of(str(entry["class_path"]), entry["init_args"], version))
        for name, (neutral, instead) in GONE.items():
            if (value := plain.pop(name, neutral)) != neutral:
                raise LookupError(f"{name}={value!r} is no field any more; write {instead}")
        run = cls(**plain | {"callbacks": callbacks, "after": None if after is None else cls._from_plain(after)})
        # The oldest descriptions state no augmentation, and mean the neutral one.
        return run if run.augment is not None else replace(run, augment=_neutral_augment(run.resolved._values))

    @property
    def row(self) -> dict[str, Any]:
        """The full description with one cell a field, as `results.csv` has it: callbacks and `after` are text."""
        run = self.resolved
        after = None if run.after is None else json.dumps(_plain(run.after.different), default=_plain)
        return run._values | {"callbacks": "; ".join(map(str, run.callbacks)) or None, "after": after}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Run":
        """Read what `row` gave, from a row that may have more; a ValueError or TypeError if it is no run."""
        values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        values["callbacks"] = code.read(values.get("callbacks") or "")
        values["after"] = cls.from_json(after) if (after := values.get("after")) else None
        return cls(**values)


def _plain(part: Any) -> dict[str, Any]:
    """Give a callback, a run or its values for JSON; versions stand apart, so that callbacks paste into YAML."""
    if isinstance(part, Spec):
        return part.entry
    values = part.resolved._values if isinstance(part, Run) else part
    versions = {one.class_path: one.version for one in values.get("callbacks", ()) if one.version != 1}
    return {"schema": SCHEMA, **values} | ({"versions": versions} if versions else {})


def _neutral_augment(values: dict[str, Any]) -> Literal["square"] | None:
    """Give the augmentation that a hash leaves out: the only one of such data and size when old runs were hashed."""
    data, size = values["data"], values["image_size"]
    return "square" if data in recipes.SQUARES and recipes.SQUARES[data] != size else None


def _short(name: str | None) -> str:
    return re.split("[.:]", str(name))[-1] if code.dotted(name) else str(name)


def vary(base: Iterable[Run], **values: Iterable[Any]) -> list[Run]:
    """Multiply runs by the values of some fields: `vary([Run()], net=["conv2", "conv4"], seed=range(3))`."""
    found = []
    chosen = [dict(zip(values, each, strict=True)) for each in product(*values.values())]
    for run, each in product(base, chosen):
        after = run.after
        if "seed" in each and after is not None and after.seed == run.seed:  # else one run would count as several seeds
            (after,) = vary([after], seed=[each["seed"]])
        found.append(replace(run, **{"after": after} | each))
    return found
