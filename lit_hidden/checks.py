"""Which runs can be trained."""

import math
import re
from collections.abc import Iterator
from typing import Any

from lit_hidden import recipes
from lit_hidden.code import Spec

_CHOICES: dict[str, tuple[Any, ...]] = {
    "distribution": recipes.DISTRIBUTIONS, "precision": recipes.PRECISIONS, "schedule": recipes.SCHEDULES,
    "scaled": (False, True, "authors"), "augment": (None, False, True, "square"),
    "net": recipes.NETS, "data": tuple(recipes.IMAGES),
}  # fmt: skip
_LEAST = dict.fromkeys(("lr", "momentum", "weight_decay", "label_smoothing", "held_out", "warmup_epochs"), 0)
_LEAST |= dict.fromkeys(("train_images", "images_per_class", "image_size", "batch_size"), 1)
_AFTER = {"hidden": ("hidden", "ticket"), "ticket": ("ticket",), "dense": ("dense", "hidden")}  # kinds, by the parent's


def faults(run: Any) -> Iterator[str]:
    """Say why a run cannot be trained: a resolved `lit_hidden.run.Run`, which lies above."""
    for name, allowed in _CHOICES.items():
        value = getattr(run, name)
        own = name in ("distribution", "net", "data")
        if value not in allowed and not (own and re.search("[.:]", str(value))):
            more = ", or package.module.name" if own else ""
            yield f"{name}={value!r} is unknown; there are {', '.join(map(str, allowed))}{more}"
    for name, least in (_LEAST | {"epochs": 0 if run.callbacks or run.after else 1}).items():
        value, default = getattr(run, name), getattr(type(run), name)
        if value != default and not (isinstance(value, int | float) and least <= value < math.inf):
            yield f"{name}={value!r} is not a finite number of at least {least}"
    if run.density is not None and not 0 < run.density <= 1:
        yield f"density={run.density} is the fraction of weights kept and must lie in (0, 1]"
    if not 0 < run.width < math.inf:
        yield f"width={run.width} multiplies the channels and must be above 0"
    if recipes.method(run.method).hides is (run.density is None):
        needs = "the dense baseline has no density (None), every other method needs one in (0, 1]"
        yield f"method={run.method!r} with density={run.density}: {needs}"
    subset = {name: getattr(run, name) for name in (*recipes.SUBSET, "augment")}
    given = [f"{name}={value!r}" for name, value in subset.items() if not isinstance(value, bool | None)]
    if given and run.data not in recipes.IMAGENET_SIZES:
        yield f"data={run.data!r} takes no {', '.join(given)}; {', '.join(recipes.IMAGENET_SIZES)} do"
    lists = (*recipes.CLASS_LISTS, "first-N")
    if run.classes is not None and not re.fullmatch("|".join(lists).replace("N", "[1-9][0-9]*"), run.classes):
        yield f"classes={run.classes!r} is no list that a hash can stand for; there are {', '.join(lists)}"
    if run.after is not None:
        yield from _faults_after(run, run.after)
    if run.found_by not in (finders := recipes.FINDERS if run.method == "ticket" else (None,)):
        yield f"found_by={run.found_by!r} with method={run.method!r}; it must be {' or '.join(map(str, finders))}"
    if strange := [one for one in run.callbacks if not isinstance(one, Spec)]:
        yield f"callbacks={strange[0]!r} is no callback; give spec('module.Class', option=1)"
    if len(set(run.callbacks)) < len(run.callbacks):
        yield f"callbacks={', '.join(one.short for one in run.callbacks)}: one of them is listed twice"


def _faults_after(run: Any, before: Any) -> Iterator[str]:
    if run.kind not in _AFTER[before.kind]:
        after = f"after a {before.kind} run come {' and '.join(_AFTER[before.kind])}"
        yield f"method={run.method!r} after {before.method!r} cannot be; {after}"
    searches = (before.kind, run.kind) == ("hidden", "hidden")
    same = ["net", "width", "image_size", "distribution", "scaled"]
    same += ["masker", "method"] if searches else []
    same += ["density"] if before.density is not None and (run.kind == "ticket" or not run.epochs) else []
    if run.data in recipes.IMAGES and before.data in recipes.IMAGES:
        same += ["num_classes"]
        same += ["data"] if recipes.IMAGES[run.data][:2] != recipes.IMAGES[before.data][:2] else []
    for name in same:
        ours, theirs = getattr(run, name), getattr(before, name)
        if ours != theirs:
            yield f"{name}={ours!r} after a run with {name}={theirs!r}, whose net it takes; keep it"
    found = before.found_by or before.method
    if run.method == "ticket" and run.found_by != found:
        yield f"found_by={run.found_by!r} after a run with the subnetwork of {found!r}; leave it out"
