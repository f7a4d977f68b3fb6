"""A Run describes what is trained, and its hash names it.

No framework is imported here: experiments, the report and `--help` must not wait for torch.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import product
from numbers import Integral, Real
from typing import Any, Literal

from lit_hidden import code
from lit_hidden.code import Spec
from lit_hidden.recipes import (
    CLASS_LISTS,
    DISTRIBUTIONS,
    FINDERS,
    IMAGENET_SIZES,
    IMAGES,
    PRECISIONS,
    SCHEDULES,
    SQUARES,
    UNSCALED,
    recipe,
)
from lit_hidden.recipes import method as find_method

SCHEMA = 1  # raise it when equal descriptions no longer mean equal results
PRESETS = ("smoke", "quick", "short", "paper")  # of every experiment: from seconds to the published protocol

_REALS = ("density", "width", "lr", "momentum", "weight_decay", "label_smoothing")
SUBSET = ("classes", "images_per_class", "image_size")  # what part of ImageNet, and how large
_SEEDS = ("weight_seed", "score_seed", "data_seed")
_NAMED = ("net", "masker", "distribution", "method", "data", "task")  # fields that may name code of one's own
# What the first part of a name tells of every run; it tells the optimizer or the distribution of some.
_TITLED = {
    "density", "method", "found_by", "net", "width", "scaled", "data", "masker", "task", "callbacks", "after", "seed",
}  # fmt: skip
_AFTER = {  # what a run may begin with: the kinds of its parent and of itself
    ("hidden", "hidden"): "scores, weights and buffers",
    ("hidden", "ticket"): "the mask and the weights",
    ("ticket", "ticket"): "the mask and the weights",
    ("dense", "dense"): "the weights",
    ("dense", "hidden"): "the weights, which are frozen",
}


def _number(name: str, value: Real) -> float | int:
    if name in _REALS:
        return code.real(value)
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
    without renaming old runs: with a default, or where the recipe has the value, with `neutral` in the field's
    metadata, the value that all earlier runs had.

    `net`, `masker`, `distribution`, `method`, `data` and `task` may be code of one's own, by its dotted name: see
    `lit_hidden.code`.

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
        augment: random crop and flip; None is the authors' way with such data: a crop after padding by 4 pixels for
            CIFAR-10, of ImageNet and its subsets a random part of the whole image, resized; nothing for MNIST and the
            digits. `square`: of ImageNet and its subsets a part of the middle square, which is decoded once.
        epochs: passes over the training images. The paper's is 100. A run of none is an analysis, by its callbacks.
        optimizer: `sgd` or, where weights are trained (dense, ticket), `adam`.
        batch_size: images per step, over all devices.
        schedule: `cosine`, stepped per epoch as the authors', or `constant`.
        precision: Lightning's name for the arithmetic, `32-true` or `bf16-mixed`.
        seed: gives the weight, score and data seeds, each of which can be set alone.
        callbacks: what the run does besides, made by `lit_hidden.code.spec`; see `lit_hidden.callbacks`.
        after: the run with whose net this one begins, see `then`.
        masker: what chooses the weights that stay, by its dotted name; None is the method's own.
        task: loss and metric, by their dotted name; None is classification. See `lit_hidden.classifier.Task`.

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
    augment: bool | Literal["square"] | None = None
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
    classes: str | None = None
    images_per_class: int | None = None
    image_size: int | None = None
    callbacks: tuple[Spec, ...] = ()
    after: "Run | None" = None
    masker: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if wrong := [name for name in _NAMED if not isinstance(getattr(self, name), str | None)]:
            raise ValueError(f"{wrong[0]}={getattr(self, wrong[0])!r} is no name")
        if not isinstance(self.callbacks, tuple | list):
            raise ValueError(f"callbacks={self.callbacks!r}: they are a tuple, such as (spec('module.Class'),)")
        if not isinstance(self.after, Run | None):
            raise ValueError(f"after={self.after!r} is no Run")
        run = self.resolved
        for name, allowed in (("distribution", DISTRIBUTIONS), ("precision", PRECISIONS)):
            if getattr(run, name) not in allowed and not (name == "distribution" and _dotted(run.distribution)):
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
        if not (isinstance(run.augment, bool | None) or (run.augment == "square" and run.data in IMAGENET_SIZES)):
            raise ValueError(
                f"augment={run.augment!r} with data={run.data!r} is unknown; it is True, False or None (as authors), "
                f"and with {', '.join(IMAGENET_SIZES)} it may be 'square'"
            )
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
        if (run.density is None) != (not find_method(str(run.method)).hides) and not _dotted(run.method):
            raise ValueError(
                f"method={run.method!r} with density={run.density}: the dense baseline has no density (None), "
                "every other method needs one in (0, 1]"
            )
        if run.density is not None and not 0 < run.density <= 1:
            raise ValueError(f"density={run.density} is the fraction of weights kept and must lie in (0, 1]")
        if run.after is not None:
            self._check_after(run, run.after)
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
        for name, least in (("epochs", 0 if run.callbacks or run.after else 1), ("batch_size", 1)):
            if getattr(run, name) < least:
                raise ValueError(f"{name}={getattr(run, name)} trains nothing; it must be at least {least}")
        if run.schedule not in SCHEDULES:
            raise ValueError(f"schedule={run.schedule!r} is unknown; schedules are {', '.join(SCHEDULES)}")
        if not run.width > 0:
            raise ValueError(f"width={run.width} leaves no channels; it must be above 0")
        if strange := [one for one in run.callbacks if not isinstance(one, Spec)]:
            raise ValueError(
                f"callbacks={strange[0]!r}: it is no callback of a run; give spec('module.Class', option=1)"
            )
        if len(set(run.callbacks)) < len(run.callbacks):
            named = ", ".join(one.short for one in run.callbacks)
            raise ValueError(f"callbacks={named}: one of them stands there twice")

    @staticmethod
    def _check_after(run: "Run", before: "Run") -> None:
        pair = before.kind, run.kind
        if pair not in _AFTER:
            allowed = "; ".join(f"{then} after {first} (takes {what})" for (first, then), what in _AFTER.items())
            raise ValueError(f"method={run.method!r} after {before.method!r} cannot be; allowed are {allowed}")
        same = ["net", "width", "image_size", "distribution", "scaled"]
        same += ["masker"] if pair == ("hidden", "hidden") else []
        same += ["density"] if before.density is not None and (run.kind == "ticket" or not run.epochs) else []
        if run.data in IMAGES and before.data in IMAGES:
            same += ["num_classes"] + (["data"] if IMAGES[run.data][:2] != IMAGES[before.data][:2] else [])
        for name in same:
            ours, theirs = getattr(run, name), getattr(before, name)
            if ours != theirs:
                raise ValueError(f"{name}={ours!r} after a run with {name}={theirs!r}, whose net it takes; keep it")
        if pair == ("hidden", "hidden") and run.method != before.method:
            raise ValueError(
                f"method={run.method!r} after {before.method!r}: their scores mean different things; keep the method"
            )
        found = before.found_by or before.method
        if run.method == "ticket" and run.found_by != found:
            raise ValueError(f"found_by={run.found_by!r} after a run with the subnetwork of {found!r}; leave it out")

    @cached_property  # like hash: a grid asks for both thousands of times
    def resolved(self) -> "Run":
        """The same run with nothing left to defaults that depend on other fields."""
        method = self.method or ("dense" if self.density is None else "edge_popup")
        values = self._values | {"method": method, "callbacks": tuple(self.callbacks)}
        values |= {"after": self.after.resolved} if self.after is not None else {}
        values |= {name: code.full(values[name]) for name in _NAMED if isinstance(values[name], str)}
        values |= {name: value for name, value in self._published(values).items() if values[name] is None}
        # 2 and 2.0, numpy's numbers and Python's, are one description.
        for name, value in values.items():
            if isinstance(value, Real) and not isinstance(value, bool):
                values[name] = _number(name, value)
        before = _augmented_before(values)
        if values["augment"] is None and before is not None:
            values["augment"] = True  # a hash without it means what was
        elif values["augment"] == "square" and values["data"] in SQUARES and before is None:
            values["augment"] = None
        if find_method(method).learns is None and values["epochs"] != 0:
            values["epochs"] = 1  # one pass sets the running statistics of norm layers; there is nothing to learn
        run = self._unchecked(values)  # which are checked once they are resolved
        object.__setattr__(run, "resolved", run)  # not worked out again of each run that a grid has resolved
        return run

    def _unchecked(self, values: dict[str, Any]) -> "Run":
        run = object.__new__(type(self))
        for name, value in values.items():
            object.__setattr__(run, name, value)
        return run

    def _published(self, values: dict[str, Any]) -> dict[str, Any]:
        """Give what a field takes that is None; `values` are those of the others."""
        found: dict[str, Any] = asdict(recipe(values["method"], values["net"], values["optimizer"]))
        found |= dict.fromkeys(_SEEDS, values["seed"])
        found |= {"image_size": IMAGENET_SIZES.get(values["data"])}
        before: Run | None = values["after"]
        if before is not None:
            found["distribution"] = before.distribution  # of which its weights come
        if values["method"] == "ticket":
            found["found_by"] = "edge_popup" if before is None else before.found_by or before.method
        return {f.name: f.metadata["neutral"] for f in fields(self) if "neutral" in f.metadata} | found

    @property
    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def kind(self) -> str:
        """Whether its net is `dense`, `hidden` or a `ticket`."""
        run = self.resolved
        return "ticket" if run.method == "ticket" else "dense" if run.density is None else "hidden"

    @property
    def parent(self) -> "Run | None":
        """The run that comes before: `after`, or of a ticket without one the run that finds its subnetwork.

        That is the same description with the method `found_by` and that method's published hyper-parameters, without
        callbacks. A batch size other than the ticket's own published one is the parent's too: it was set for both.
        """
        run = self.resolved
        if run.method != "ticket" or run.after is not None:
            return run.after
        own = recipe("ticket", run.net, run.optimizer)
        values: dict[str, Any] = {name: None for name in asdict(own) if name != "distribution"}
        values |= {"method": run.found_by, "found_by": None, "optimizer": "sgd", "callbacks": ()}
        if run.batch_size != own.batch_size:
            values["batch_size"] = run.batch_size
        return replace(run, **values)

    def then(self, **changes: Any) -> "Run":
        """Describe a run that begins with the net of this one, and is like it but for `changes`.

        Hyper-parameters that are the published ones of this run are those of the next one's method too. Optimizer and
        schedule begin anew.

        Raises:
            ValueError: as Run; and another net, width, image size or number of classes, or kinds that do not follow.
        """
        run = self.resolved
        published = self._published(run._values)
        values: dict[str, Any] = {k: None for k, v in run._values.items() if v == published.get(k)}
        if run.method in ("dense", "edge_popup"):
            values["method"] = None  # as the density says
        return replace(run, **values | {"after": self} | changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def different(self) -> dict[str, Any]:
        """The fields that differ from the defaults; these alone make the hash."""
        custom = {f.name: f.metadata.get("neutral", f.default) for f in fields(self)} | dict.fromkeys(_SEEDS, self.seed)
        custom |= {"augment": _augmented_before(self.resolved._values)}
        return {name: value for name, value in self.resolved._values.items() if value != custom[name]}

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that name the run's folder."""
        described = {"schema": SCHEMA, **self.different}
        if self.callbacks:
            described["callbacks"] = [one.entry | {"version": one.version} for one in self.resolved.callbacks]
        if self.after is not None:
            described["after"] = self.after.hash
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def names(self) -> list[str]:
        """The full names of code that its fields and callbacks give, its parents' too."""
        run = self.resolved
        found = [str(getattr(run, name)) for name in _NAMED]
        found = [name.replace(":", ".") for name in found if _dotted(name)] + [one.class_path for one in run.callbacks]
        return list(dict.fromkeys(found + (run.parent.names if run.parent is not None else [])))

    def option(self, name: str) -> list[Any]:
        """List an option, `Class.option`, of the callbacks of that class."""
        path, _, option = name.rpartition(".")
        found = [one for one in self.callbacks if f".{one.class_path}".endswith(f".{path}")]
        return [one.option(option) for one in found if one.takes(option)]

    @property
    def name(self) -> str:
        """A readable name: `conv4-k50-signed_constant-s0`, or `conv4-sgd-lr=1-s0` where the rate is not the recipe's.

        All that is neither the recipe's nor a default stands in it; code by the last part of its name.
        """
        run = self.resolved
        titled = _TITLED | ({"optimizer"} if run.kind != "hidden" else set())
        titled |= {"distribution"} if run.method != "dense" else set()
        other = [f.name for f in fields(run) if f.name not in titled]
        usual = run._unchecked(run._values | {f.name: f.default for f in fields(run) if f.name in other}).resolved
        parts = [] if run.data == "cifar10" else [_short(run.data)]
        parts += [f"{n}={code.text(v)}" for n in other if (v := getattr(run, n)) != getattr(usual, n)]
        parts += [one.short for one in run.callbacks if one.records]
        return "-".join([run._title, *parts, f"s{run.seed}"])

    @property
    def _title(self) -> str:
        """What stands first in a name."""
        run = self.resolved
        parts = [_short(run.net) + ("" if run.width == 1 else f"x{code.text(run.width)}")]
        parts += [run.optimizer if run.density is None else f"k{code.text(100 * run.density)}"]
        parts += [] if run.method in ("dense", "edge_popup") else [_short(run.method)]
        if run.method == "ticket":
            parts += [f"of_{run.found_by}", *([] if run.optimizer == "sgd" else [run.optimizer])]
        parts += [] if run.method == "dense" else [_short(run.distribution)]
        parts += [] if run.scaled is False else ["scaled" if run.scaled is True else f"scaled_{run.scaled}"]
        parts += [_short(name) for name in (run.masker, run.task) if name is not None]
        parts += [one.short for one in run.callbacks if not one.records]
        parts += [f"after_{run.after.hash[:6]}"] if run.after is not None else []
        return "-".join(parts)

    @property
    def num_classes(self) -> int:
        """The number of classes of its data; 0 of data of one's own, which is not known here."""
        if self.classes is None:
            return IMAGES[self.data][4] if self.data in IMAGES else 0
        return CLASS_LISTS.get(self.classes) or int(self.classes.removeprefix("first-"))

    @property
    def test_images(self) -> int:
        """The number of its test images; 0 of data of one's own."""
        if self.data not in IMAGES:
            return 0
        return round(IMAGES[self.data][3] * self.num_classes / IMAGES[self.data][4])

    @cached_property
    def cell(self) -> str:
        """What is named first and a hash of all but the seeds: equal for runs that differ by seed."""
        same = self._unseeded
        return f"{same._title} ({same.hash})"

    @property
    def _unseeded(self) -> "Run":
        return self._unchecked(
            self._values | dict.fromkeys(_SEEDS) | {"seed": 0, "after": self.after and self.after._unseeded}
        )

    @property
    def unrecorded(self) -> "Run":
        """The same training without the callbacks that only record something, of the runs before too."""
        callbacks = tuple(one for one in self.callbacks if not one.records)
        # Unchecked: without what it records, a run of no epochs does nothing.
        return self._unchecked(self._values | {"callbacks": callbacks, "after": self.after and self.after.unrecorded})

    def to_json(self, indent: int | None = 1) -> str:
        """Write the full description, one field a line."""
        return json.dumps(self._plain(self.resolved._values), indent=indent)

    @staticmethod
    def _plain(values: dict[str, Any]) -> dict[str, Any]:
        """Give values as JSON has them; versions stand apart, so that a callback pastes into a LightningCLI's YAML."""
        plain = {"schema": SCHEMA, **values}
        callbacks: tuple[Spec, ...] = values.get("callbacks", ())
        if "callbacks" in values:
            plain["callbacks"] = [one.entry for one in callbacks]
        if versions := {one.class_path: one.version for one in callbacks if one.version != 1}:
            plain["versions"] = versions
        if values.get("after") is not None:
            plain["after"] = Run._plain(values["after"].resolved._values)
        return plain

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """Read what `to_json` wrote; nothing that it names is imported or looked up.

        Raises:
            ValueError: not JSON, another schema, or fields that a Run has not.
        """
        try:
            description = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a run description: {error}") from error
        return cls._from_plain(description, text)

    @classmethod
    def _from_plain(cls, description: Any, text: str) -> "Run":
        if not isinstance(description, dict) or description.pop("schema", None) != SCHEMA:
            raise ValueError(f"not a run description of schema {SCHEMA}: {text[:60]!r}")
        for name in ("trace", "swaps"):  # fields that are callbacks now
            if description.pop(name, 0) != 0:
                raise ValueError(f"not a run description: {name} is a callback now; train the run again")
        versions = description.pop("versions", {})
        if unknown := sorted(description.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"not a run description: unknown fields {', '.join(unknown)}")
        try:
            callbacks = tuple(
                Spec(
                    str(entry["class_path"]),
                    tuple(sorted((str(k), code.canonical(v)) for k, v in entry["init_args"].items())),
                    versions.get(entry["class_path"], 1),
                )
                for entry in description.get("callbacks", ())
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a run description: callbacks {description['callbacks']!r}") from error
        after = description.get("after")
        description |= {"callbacks": callbacks, "after": None if after is None else cls._from_plain(after, text)}
        return cls._as_it_was(description)

    @classmethod
    def _as_it_was(cls, description: dict[str, Any]) -> "Run":
        """Make a run of what was written down: no augmentation is that of the runs before there was a choice."""
        run = cls(**description)
        before = _augmented_before(run.resolved._values) if run.augment is None else None
        return run if before is None else replace(run, augment=before)

    @property
    def row(self) -> dict[str, Any]:
        """The full description with one cell a field, as `results.csv` has it: callbacks and `after` are text."""
        run = self.resolved
        after = None if run.after is None else json.dumps(self._plain(run.after.different))
        return run._values | {"callbacks": "; ".join(map(str, run.callbacks)) or None, "after": after}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Run":
        """Read what `row` gave, from a row that may have more.

        Raises:
            ValueError, TypeError: the row describes no run.
        """
        values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        values["callbacks"] = code.read(values.get("callbacks") or "")
        values["after"] = cls.from_json(after) if (after := values.get("after")) else None
        return cls._as_it_was(values)


def _augmented_before(values: Mapping[str, Any]) -> Literal["square"] | None:
    """Give what resolved runs of such data and size were augmented by when they could not choose: the neutral value."""
    data, size = values["data"], values["image_size"]
    return "square" if data in SQUARES and SQUARES[data] != size else None


def _dotted(name: str | None) -> bool:
    return name is not None and re.search("[.:]", name) is not None and not name.startswith("timm:")


def _short(name: str | None) -> str:
    return re.split("[.:]", str(name))[-1] if _dotted(name) else str(name)


def vary(base: Iterable[Run], **values: Iterable[Any]) -> list[Run]:
    """Multiply runs by the values of some fields: `vary([Run()], net=["conv2", "conv4"], seed=range(3))`.

    Where a run and the run before it share a seed, both get the new one: three analyses of one run are not three seeds.
    """
    chosen = [dict(zip(values, each, strict=True)) for each in product(*values.values())]
    return [_changed(run, each) for run in base for each in chosen]


def _changed(run: Run, values: dict[str, Any]) -> Run:
    if "seed" in values and run.after is not None and run.after.seed == run.seed:
        values = {"after": _changed(run.after, {"seed": values["seed"]})} | values
    return replace(run, **values)
