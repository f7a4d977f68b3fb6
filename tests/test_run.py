"""A Run is its description: its hash, what it resolves to, its parent, its JSON, and what cannot be described."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_hidden import run as run_module
from lit_hidden.code import Spec, spec
from lit_hidden.recipes import FINDERS, METHODS, Recipe
from lit_hidden.run import SCHEMA, Run, vary

HIDDEN = Run(density=0.5, net="conv2")
TICKET = replace(HIDDEN, method="ticket")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


# --- a run is its description ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (Run(), "f40039a49218"),
        (Run(density=0.5), "c5013b5d20cb"),
    ],
)
def test_hashes_are_pinned_so_that_no_folder_is_renamed_by_accident(run: Run, name: str) -> None:
    assert run.hash == name


def test_hashes_are_the_same_in_another_process(python: Callable[..., str]) -> None:
    code = "from lit_hidden.run import Run\nfor k in (None, 0.1, 0.5): print(Run(density=k, net='conv2', seed=3).hash)"
    expected = [Run(density=k, net="conv2", seed=3).hash for k in (None, 0.1, 0.5)]
    assert python(code, PYTHONHASHSEED="5").split() == expected


def test_descriptions_that_resolve_to_the_same_are_equal() -> None:
    spelled_out = Run(
        density=0.5,
        method="edge_popup",
        net="conv2",
        distribution="signed_constant",
        batch_size=128,
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        warmup_epochs=0,
        label_smoothing=0.0,
        seed=2,
        weight_seed=2,
        score_seed=2,
        data_seed=2,
    )
    short = Run(density=0.5, net="conv2", seed=2)
    assert spelled_out == short == short.resolved
    assert spelled_out.hash == short.hash == short.resolved.hash
    assert len({spelled_out, short, short.resolved}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"density": 0.3},
        {"net": "conv6"},
        {"method": "supermask"},
        {"distribution": "kaiming_normal"},
        {"width": 2.0},
        {"scaled": True},
        {"scaled": "authors"},
        {"data": "digits"},
        {"train_images": 100},
        {"held_out": 5},
        {"augment": False},
        {"data": "imagenet", "augment": "square"},
        {"epochs": 10},
        {"batch_size": 64},
        {"lr": 0.2},
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"schedule": "constant"},
        {"warmup_epochs": 1},
        {"label_smoothing": 0.1},
        {"precision": "bf16-mixed"},
        {"seed": 1},
        {"weight_seed": 1},
        {"score_seed": 1},
        {"data_seed": 1},
        {"callbacks": (spec("trace.Trace"),)},
        {"callbacks": (spec("trace.Trace", updates=10),)},
        {"after": HIDDEN},
        {"masker": "supermask.Supermask"},
        {"task": "my.tasks.Task"},
        {"data": "imagenet", "classes": "first-10"},
        {"data": "tiny-imagenet", "images_per_class": 10},
        {"data": "imagenette", "image_size": 160},
    ],
    ids=str,
)
def test_every_field_makes_another_run(change: dict[str, Any]) -> None:
    other = replace(HIDDEN, **change)
    assert other != HIDDEN
    assert other.hash != HIDDEN.hash
    assert other.name != HIDDEN.name
    assert set(change) <= set(other.different)


def test_every_field_is_changed_above() -> None:
    changed = test_every_field_makes_another_run.pytestmark[0].args[1]  # type: ignore[attr-defined]
    here = {"optimizer", "found_by"}
    assert {name for change in changed for name in change} | here == {f.name for f in fields(Run)}
    assert Run(optimizer="adam") != Run()
    assert len({replace(TICKET, found_by=finder) for finder in FINDERS}) == len(FINDERS)
    assert len({replace(TICKET, found_by=finder).name for finder in FINDERS}) == len(FINDERS)


def test_of_small_subsets_of_imagenet_a_hash_without_augmentation_still_means_the_middle_square() -> None:
    for data, size in (("imagenette", None), ("tiny-imagenet-100", 32)):
        run = Run(data=data, image_size=size, net="resnet18")
        square = replace(run, augment="square")
        assert run.resolved.augment is True, "as the authors do"
        assert run != square
        assert "augment" not in square.different
        written = json.loads(square.to_json())
        assert Run.from_json(json.dumps(written | {"augment": None})) == square, "written before there was a choice"
        assert Run.from_row(square.row | {"augment": None}) == square
        assert (Run.from_json(run.to_json()), Run.from_row(run.row)) == (run, run)
    whole = Run(data="tiny-imagenet-100", net="resnet18")
    assert whole == replace(whole, augment="square"), "images of that size are the square"
    imagenet = Run(data="imagenet", net="resnet18")
    assert "augment" not in imagenet.different


@pytest.mark.parametrize(("data", "augment"), [("cifar10", "square"), ("imagenet", "crop"), ("mnist", "on")])
def test_an_augmentation_that_there_is_not_is_refused(data: str, augment: Any) -> None:
    with pytest.raises(ValueError, match=rf"^augment={augment!r} with data='{data}' is unknown; it is True, False or "):
        Run(data=data, augment=augment)


def test_the_name_of_every_kind_tells_what_is_not_the_recipes() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"optimizer": "adam"}, {"distribution": "signed_xavier"}, {"lr": 0.123456789}, {"lr": 0.123456788},
        {"density": 0.3000001}, {"width": 1.0000001}, {"momentum": 0.5}, {"epochs": 7}, {"batch_size": 64},
    ]  # fmt: skip
    for run in (Run(density=0.3), Run(), TICKET, Run(density=0.3, method="supermask")):
        others = [c for c in changes if run.kind != "dense" or "density" not in c]
        others = [c for c in others if run.kind != "hidden" or "optimizer" not in c]
        assert len({replace(run, **change).name for change in others}) == len(others)
    published = Run(lr=0.01, momentum=0.9, weight_decay=1e-4, batch_size=128, schedule="cosine", epochs=100)
    assert published.name == "conv4-sgd-s0", "what is the recipe's is not told"


@pytest.mark.parametrize(
    ("whole", "real"),
    [
        ({"density": 1}, {"density": 1.0}),
        ({"width": 2}, {"width": 2.0}),
        ({"weight_decay": 0}, {"weight_decay": 0.0}),
    ],
)
def test_a_whole_number_is_the_same_as_a_real_one(whole: dict[str, Any], real: dict[str, Any]) -> None:
    assert replace(HIDDEN, **whole) == replace(HIDDEN, **real)


def test_a_numpy_number_is_the_same_as_a_python_one() -> None:
    assert replace(HIDDEN, density=np.float64(0.3), seed=np.int64(3)) == replace(HIDDEN, density=0.3, seed=3)


def test_a_run_is_no_other_kind_of_thing() -> None:
    assert Run() != "f40039a49218"
    assert Run() != None  # noqa: E711


def test_a_field_added_later_with_a_default_does_not_rename_old_runs() -> None:
    @dataclass(frozen=True, kw_only=True, eq=False)
    class Later(Run):
        dropout: float = 0.0
        note: str | None = None

        @property
        def resolved(self) -> "Later":
            run = object.__new__(Later)
            values = {f.name: getattr(self, f.name) for f in fields(self)}
            known = {f.name for f in fields(Run)}
            old = Run(**{n: v for n, v in values.items() if n in known}).resolved
            for name in values:
                object.__setattr__(run, name, getattr(old, name) if name in known else values[name])
            return run

    for change in ({}, {"density": 0.3}, {"density": 0.3, "method": "supermask", "seed": 4}):
        assert Later(**change).hash == Run(**change).hash
    assert Later(dropout=0.1).hash != Run().hash


def test_the_schema_number_renames_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Run().hash
    monkeypatch.setattr(run_module, "SCHEMA", SCHEMA + 1)
    assert Run().hash != before


def test_a_run_is_frozen() -> None:
    with pytest.raises(AttributeError, match="cannot assign to field 'seed'"):
        Run().seed = 3  # type: ignore[misc]


# --- what is resolved ------------------------------------------------------------------------------------


def test_a_run_with_a_density_is_edge_popup_and_without_is_dense() -> None:
    assert Run(density=0.5).resolved.method == "edge_popup"
    assert Run().resolved.method == "dense"


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ({}, (0, 0, 0)),
        ({"seed": 7}, (7, 7, 7)),
        ({"seed": 7, "score_seed": 1}, (7, 1, 7)),
        ({"weight_seed": 1, "data_seed": 0}, (1, 0, 0)),
        ({"seed": 7, "weight_seed": 0, "score_seed": 0, "data_seed": 0}, (0, 0, 0)),
    ],
)
def test_the_seed_gives_the_three_seeds_unless_one_is_set(
    seeds: dict[str, int], expected: tuple[int, int, int]
) -> None:
    run = Run(density=0.5, **seeds).resolved  # type: ignore[arg-type]
    assert (run.weight_seed, run.score_seed, run.data_seed) == expected


def test_what_is_set_wins_over_the_recipe_even_a_zero() -> None:
    run = Run(density=0.5, lr=0.7, momentum=0.0, weight_decay=0.0, batch_size=1).resolved
    assert (run.lr, run.momentum, run.weight_decay, run.batch_size) == (0.7, 0, 0, 1)


def test_a_random_subnetwork_passes_over_the_data_once() -> None:
    assert Run(density=0.5, method="random", epochs=50).resolved.epochs == 1
    assert Run(density=0.5, method="random", epochs=50) == Run(density=0.5, method="random", epochs=7)


@pytest.mark.parametrize("method", METHODS)
def test_resolving_twice_is_resolving_once(method: str) -> None:
    run = Run(method=method, density=None if method == "dense" else 0.3, net="resnet18", seed=3)
    assert run.resolved.resolved is run.resolved
    assert asdict(Run(**asdict(run.resolved)).resolved) == asdict(run.resolved)
    open_ = {"density", "train_images", "augment", "classes", "images_per_class", "image_size"}
    open_ |= {"after", "masker", "task"}
    open_ |= {"found_by"} if method != "ticket" else set()
    assert None not in {v for n, v in asdict(run.resolved).items() if n not in open_}


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (Run(), "conv4-sgd-s0"),
        (Run(optimizer="adam", seed=3), "conv4-adam-s3"),
        (Run(density=0.5), "conv4-k50-signed_constant-s0"),
        (Run(density=0.125, net="conv2", width=0.5), "conv2x0.5-k12.5-signed_constant-s0"),
        (Run(density=0.3, scaled=True), "conv4-k30-signed_constant-scaled-s0"),
        (Run(density=0.3, scaled="authors"), "conv4-k30-signed_constant-scaled_authors-s0"),
        (Run(density=0.3, method="supermask"), "conv4-k30-supermask-signed_constant-s0"),
        (
            Run(density=0.3, method="random", distribution="kaiming_normal"),
            "conv4-k30-random-kaiming_normal-s0",
        ),
        (Run(density=0.3, method="ticket"), "conv4-k30-ticket-of_edge_popup-signed_constant-s0"),
        (
            Run(density=0.3, method="ticket", found_by="random", optimizer="adam", seed=2),
            "conv4-k30-ticket-of_random-adam-signed_constant-s2",
        ),
        (Run(lr=1e9, epochs=3, score_seed=7), "conv4-sgd-epochs=3-lr=1000000000-score_seed=7-s0"),
        (Run(data="mnist", net="lenet"), "lenet-sgd-mnist-s0"),
        (Run(density=0.3, method="random", epochs=5), "conv4-k30-random-signed_constant-s0"),
        (Run(data="imagenette", net="resnet18", image_size=160), "resnet18-sgd-imagenette-image_size=160-s0"),
    ],
)
def test_names_are_readable(run: Run, name: str) -> None:
    assert run.name == name


# --- a ticket has a parent -------------------------------------------------------------------------------


def test_a_tickets_subnetwork_is_edge_popups_unless_said() -> None:
    assert TICKET.resolved.found_by == "edge_popup"
    assert replace(TICKET, found_by="edge_popup") == TICKET


@pytest.mark.parametrize("method", [m for m in METHODS if m != "ticket"])
def test_only_tickets_have_a_parent(method: str) -> None:
    assert Run(method=method, density=None if method == "dense" else 0.5).parent is None


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("net", ["conv2", "conv8", "lenet", "cifar_resnet18", "resnet50"])
def test_the_parent_is_the_published_search_in_the_same_random_net(net: str, optimizer: str, finder: str) -> None:
    shared = {"density": 0.3, "net": net, "width": 0.5, "epochs": 7, "data": "digits", "train_images": 900, "seed": 4}
    shared |= {"distribution": "kaiming_normal", "scaled": True, "held_out": 100, "augment": True, "score_seed": 9}
    ticket = Run(method="ticket", found_by=finder, optimizer=optimizer, precision="bf16-mixed", **shared)
    parent = Run(method=finder, precision="bf16-mixed", **shared)
    assert ticket.parent == parent
    assert ticket.resolved.parent == parent


def test_how_the_weights_are_trained_does_not_touch_the_parent() -> None:
    ticket = replace(
        TICKET, lr=0.3, momentum=0.5, weight_decay=0.1, schedule="constant", warmup_epochs=2, label_smoothing=0.1,
        optimizer="adam", callbacks=(spec("trace.Trace", updates=5),),
    )  # fmt: skip
    assert ticket.parent == TICKET.parent == HIDDEN


def test_the_size_of_imagenets_images_is_the_sets_custom_unless_said() -> None:
    assert (Run(data="imagenet").resolved.image_size, Run(data="tiny-imagenet").resolved.image_size) == (224, 64)
    assert Run(data="imagenet", image_size=224) == Run(data="imagenet") != Run(data="imagenet", image_size=160)
    assert Run(data="cifar10").resolved.image_size is None


def test_a_batch_size_of_ones_own_is_the_parents_too() -> None:
    assert replace(TICKET, batch_size=32).parent == replace(HIDDEN, batch_size=32)
    assert replace(TICKET, optimizer="adam", batch_size=60).parent == HIDDEN  # the published one, of Adam


def test_a_field_added_to_run_is_the_parents_or_is_the_tickets_alone() -> None:
    # A new field has to be put here, and so thought of in Run.parent.
    inherited = {
        "density", "net", "width", "distribution", "scaled", "data", "train_images", "held_out", "augment", "epochs",
        "precision", "seed", "weight_seed", "score_seed", "data_seed", "classes", "images_per_class", "image_size",
        "masker", "task",
    }  # fmt: skip
    own = {
        "method", "found_by", "optimizer", "batch_size", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs",
        "label_smoothing", "callbacks", "after",
    }  # fmt: skip
    assert inherited | own == {f.name for f in fields(Run)}


# --- callbacks, and runs after runs ----------------------------------------------------------------------

DENSE = Run(net="conv2")
LESION = spec("lesion.Lesion", epoch=2)
OTHER = Spec("mine.gone.Idea", (("rate", 0.5),), 2)  # of code that is not here
LESIONED = replace(HIDDEN, callbacks=(LESION,))
ANALYSED = LESIONED.then(epochs=0, callbacks=(spec("rdm.RDM", images=9), OTHER))


def test_a_hash_is_of_what_differs_callbacks_with_their_versions_and_the_run_before() -> None:
    assert ANALYSED.different.keys() == HIDDEN.different.keys() | {"epochs", "callbacks", "after"}
    callbacks = [one.entry | {"version": one.version} for one in ANALYSED.callbacks]
    described = {"schema": SCHEMA, **ANALYSED.different, "callbacks": callbacks, "after": LESIONED.hash}
    assert ANALYSED.hash == hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    first = spec("trace.Trace", updates=3)
    lists = [(), (LESION,), (spec("lesion.Lesion", epoch=3),), (replace(LESION, version=2),)]
    runs = [replace(HIDDEN, callbacks=one) for one in (*lists, (LESION, first), (first, LESION))]
    runs += [run.then() for run in (*runs, replace(HIDDEN, seed=1), HIDDEN.then())]
    assert len({run.hash for run in runs}) == len(runs)


@pytest.mark.parametrize(
    "same",
    [
        {"callbacks": [spec("lit_hidden.callbacks.lesion.Lesion", epoch=np.int64(2), of="units", fraction=0.5)]},
        {"callbacks": (spec("lesion.Lesion", epoch=2.0),)},
        {"callbacks": (LESION,), "after": None, "masker": None, "task": None},
    ],
)
def test_what_is_said_otherwise_is_the_same_run(same: dict[str, Any]) -> None:
    assert replace(HIDDEN, **same) == LESIONED
    assert replace(HIDDEN, **same).to_json() == LESIONED.to_json()


def test_short_and_full_names_of_code_are_one_run() -> None:
    short = replace(HIDDEN, masker="supermask.Supermask", task="arm.Angles", data="arm.ArmData")
    full = {n: f"lit_hidden.{getattr(short, n)}" for n in ("masker",)}
    full |= {n: f"lit_hidden.callbacks.{getattr(short, n)}" for n in ("task", "data")}
    assert replace(HIDDEN, **full) == short
    assert short.names == [full["masker"], full["data"], full["task"]]
    assert ANALYSED.names == ["lit_hidden.callbacks.rdm.RDM", "mine.gone.Idea", "lit_hidden.callbacks.lesion.Lesion"]
    assert Run(net="timm:a.b").names == HIDDEN.names == []


def test_a_field_with_a_neutral_value_renames_only_runs_that_differ_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True, eq=False)
    class Later(Run):
        nesterov: bool | None = field(default=None, metadata={"neutral": False})

    runs = [HIDDEN, replace(LESIONED, seed=3), TICKET, DENSE]
    later = [Later(**run._values) for run in runs]
    assert [one.hash for one in later] == [run.hash for run in runs]
    assert [one.nesterov for one in (later[0].resolved, later[0].then().resolved, later[2].parent)] == [False] * 3
    assert replace(later[0], nesterov=True).hash != HIDDEN.hash == replace(later[0], nesterov=False).hash
    recipe = make_dataclass("Recipe", [("nesterov", bool)], bases=(Recipe,), frozen=True, kw_only=True)
    published = run_module.recipe
    monkeypatch.setattr(  # a recipe has a value of its own, told from what all earlier runs had
        run_module, "recipe", lambda name, *rest: recipe(**asdict(published(name, *rest)), nesterov=name == "dense")
    )
    assert Later(density=0.5, net="conv2").hash == HIDDEN.hash
    assert Later(net="conv2").hash != DENSE.hash == Later(net="conv2", nesterov=False).hash


@pytest.mark.parametrize(
    ("before", "changes", "takes"),
    [
        (HIDDEN, {}, {"method": "edge_popup"}),
        (HIDDEN, {"density": 0.2}, {"method": "edge_popup", "density": 0.2}),
        (replace(HIDDEN, method="supermask"), {}, {"method": "supermask", "lr": 200.0}),
        (replace(HIDDEN, method="random", lr=0.3), {"method": "ticket"}, {"found_by": "random", "lr": 0.3}),
        (HIDDEN, {"method": "ticket"}, {"found_by": "edge_popup", "distribution": "signed_constant", "lr": 0.01}),
        (replace(TICKET, found_by="random"), {}, {"method": "ticket", "found_by": "random"}),
        (DENSE, {"seed": 4}, {"method": "dense", "weight_seed": 4}),
        (DENSE, {"density": 0.3}, {"method": "edge_popup", "distribution": "kaiming_normal", "lr": 0.1}),
        (replace(DENSE, distribution="xavier_normal"), {"density": 0.3, "method": "supermask"},
         {"distribution": "xavier_normal", "lr": 200.0}),
    ],
)  # fmt: skip
def test_a_run_then_another_copies_what_was_set_and_has_its_own_recipe(before: Run, changes: Any, takes: Any) -> None:
    run = before.then(**changes).resolved
    assert {name: getattr(run, name) for name in takes} == takes
    assert run.parent == run.after == before
    rest = before.resolved._values.items() - takes.items() - {"after": None}.items()
    same = {"width", "net", "epochs", "batch_size", "held_out", "precision", "callbacks", "data"}
    assert all(getattr(run, name) == value for name, value in rest if name in same)


AFTER = (
    "allowed are hidden after hidden (takes scores, weights and buffers); ticket after hidden (takes the mask and the "
    "weights); ticket after ticket (takes the mask and the weights); dense after dense (takes the weights); hidden "
    "after dense (takes the weights, which are frozen)"
)
IMAGENET = Run(density=0.5, data="imagenette")
TAKEN = ", whose net it takes; keep it"


@pytest.mark.parametrize(
    ("before", "changes", "message"),
    [
        (HIDDEN, {"density": None}, f"method='dense' after 'edge_popup' cannot be; {AFTER}"),
        (TICKET, {"method": "dense", "density": None}, f"method='dense' after 'ticket' cannot be; {AFTER}"),
        (TICKET, {"method": "random"}, f"method='random' after 'ticket' cannot be; {AFTER}"),
        (DENSE, {"method": "ticket", "density": 0.5}, f"method='ticket' after 'dense' cannot be; {AFTER}"),
        (HIDDEN, {"net": "conv4"}, f"net='conv4' after a run with net='conv2'{TAKEN}"),
        (DENSE, {"width": 2}, f"width=2.0 after a run with width=1.0{TAKEN}"),
        (IMAGENET, {"classes": "first-3"}, f"num_classes=3 after a run with num_classes=10{TAKEN}"),
        (IMAGENET, {"image_size": 64}, f"image_size=64 after a run with image_size=224{TAKEN}"),
        (HIDDEN, {"masker": "a.b"}, f"masker='a.b' after a run with masker=None{TAKEN}"),
        (HIDDEN, {"distribution": "xavier_normal"},
         f"distribution='xavier_normal' after a run with distribution='signed_constant'{TAKEN}"),
        (DENSE, {"density": 0.5, "scaled": True}, f"scaled=True after a run with scaled=False{TAKEN}"),
        (HIDDEN, {"method": "supermask"},
         "method='supermask' after 'edge_popup': their scores mean different things; keep the method"),
        *((before, {"method": "ticket", "found_by": "random"},
           "found_by='random' after a run with the subnetwork of 'edge_popup'; leave it out")
          for before in (HIDDEN, TICKET)),
        (HIDDEN, {"epochs": -1}, "epochs=-1 trains nothing; it must be at least 0"),
        (HIDDEN, {"after": HIDDEN.hash}, f"after='{HIDDEN.hash}' is no Run"),
        (HIDDEN, {"callbacks": LESION}, f"callbacks={LESION!r}: they are a tuple, such as (spec('module.Class'),)"),
        (HIDDEN, {"callbacks": ["lesion.Lesion"]},
         "callbacks='lesion.Lesion': it is no callback of a run; give spec('module.Class', option=1)"),
        (HIDDEN, {"callbacks": [LESION, OTHER, LESION]},
         "callbacks=Lesion(epoch=2), Idea(rate=0.5), Lesion(epoch=2): one of them stands there twice"),
        (HIDDEN, {"task": 3}, "task=3 is no name"),
    ],
)  # fmt: skip
def test_what_cannot_follow_a_run_is_refused(before: Run, changes: dict[str, Any], message: str) -> None:
    assert refusal(lambda: before.then(**changes)) == message


def test_a_run_of_no_epochs_needs_something_to_do() -> None:
    assert refusal(lambda: replace(HIDDEN, epochs=0)) == "epochs=0 trains nothing; it must be at least 1"
    assert replace(HIDDEN, method="random", epochs=0, callbacks=(LESION,)).resolved.epochs == 0
    assert HIDDEN.then(epochs=0).epochs == 0
    looking = replace(HIDDEN, epochs=0, callbacks=(spec("rdm.RDM"),))
    assert looking.unrecorded.cell == replace(looking, callbacks=(spec("trace.Trace"),), seed=3).unrecorded.cell


def test_a_cell_is_told_by_what_changes_the_numbers_and_not_by_seeds() -> None:
    trace, rdm = spec("trace.Trace"), spec("rdm.RDM")
    same = [
        replace(LESIONED, seed=seed, callbacks=(LESION, *more)).then(callbacks=more, seed=2 * seed, score_seed=3)
        for seed, more in enumerate([(), (trace,), (rdm, trace)])
    ]
    assert len({run.unrecorded.cell for run in same}) == 1
    others = [LESIONED.then(), HIDDEN.then(), LESIONED, replace(HIDDEN, callbacks=(OTHER,)), HIDDEN, same[0]]
    assert len({run.unrecorded.cell for run in others}) == len(others)
    # What is recorded tells cells apart for a claim, or one training would be several seeds.
    traced = replace(HIDDEN, callbacks=(trace,))
    assert traced.cell != HIDDEN.cell
    assert traced.unrecorded.hash == HIDDEN.hash


def test_the_name_tells_code_options_and_the_run_before() -> None:
    own = Run(density=0.5, net="a.b.Net", method="c.Lit", distribution="d.draw", masker="e.Top", task="f.Task",
              callbacks=(LESION, spec("trace.Trace"), OTHER))  # fmt: skip
    assert own.name == "Net-k50-Lit-draw-Top-Task-Lesion(epoch=2)-Idea(rate=0.5)-Trace-s0"
    assert HIDDEN.then(seed=1).name == f"conv2-k50-signed_constant-after_{HIDDEN.hash[:6]}-s1"


def test_options_are_found_by_the_class_with_as_much_of_its_name_as_is_given() -> None:
    run = replace(HIDDEN, callbacks=(LESION, spec("lesion.Lesion", epoch=5, of="edges"), OTHER))
    for name in ("Lesion", "lesion.Lesion", "lit_hidden.callbacks.lesion.Lesion"):
        assert (run.option(f"{name}.epoch"), run.option(f"{name}.of")) == ([2, 5], ["units", "edges"])
    assert (run.option("Idea.rate"), run.option("esion.epoch"), run.option("Idea.of")) == ([0.5], [], [])


# --- json ------------------------------------------------------------------------------------------------

VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers(), max_size=2).map(tuple)
CALLBACKS = st.lists(
    st.builds(
        lambda name, options, version: Spec(f"mine.gone.{name}", tuple(sorted(options.items())), version),
        st.sampled_from("ABC"), st.dictionaries(st.sampled_from("xyz"), VALUES), st.integers(1, 3),
    ),
    max_size=2, unique_by=lambda one: one.class_path,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(chain=st.lists(CALLBACKS, min_size=1, max_size=3))
def test_callbacks_and_runs_before_come_back_from_json_and_from_a_table(chain: list[list[Spec]]) -> None:
    run = replace(HIDDEN, callbacks=chain[0])
    for callbacks in chain[1:]:
        run = run.then(callbacks=callbacks, seed=run.seed + 1)
    for again in (Run.from_json(run.to_json()), Run.from_row(run.row | {"accuracy": 1.0})):
        assert (again, again.to_json(), again.row) == (run, run.to_json(), run.row)
        assert again.callbacks == run.resolved.callbacks


def test_json_has_callbacks_as_lightnings_command_line_takes_them_and_versions_apart() -> None:
    plain = json.loads(ANALYSED.to_json())
    assert plain["callbacks"] == [
        {"class_path": "lit_hidden.callbacks.rdm.RDM", "init_args": {"images": 9}},
        {"class_path": "mine.gone.Idea", "init_args": {"rate": 0.5}},
    ]
    assert plain["versions"] == {"mine.gone.Idea": 2}
    assert plain["after"] == json.loads(LESIONED.to_json())
    assert ANALYSED.row["callbacks"] == "lit_hidden.callbacks.rdm.RDM(images=9); mine.gone.Idea[2](rate=0.5)"
    assert (HIDDEN.row["callbacks"], HIDDEN.row["after"]) == (None, None)


def test_names_in_a_file_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    fields = dict.fromkeys(("net", "masker", "distribution", "method", "data", "task"), "raising.thing")
    callbacks = [{"class_path": f"{module}.Idea", "init_args": {}} for module in ("raising", "gone")]
    monkeypatch.setattr("lit_hidden.code._class", lambda path: pytest.fail(f"{path} is looked up"))
    run = Run.from_json(json.dumps({"schema": SCHEMA, **fields, "callbacks": callbacks}))
    assert Run.from_row(run.row) == Run.from_json(run.to_json()) == run
    assert run.names == ["raising.thing", "raising.Idea", "gone.Idea"]


@settings(max_examples=100, deadline=None)
@given(
    density=st.none() | st.floats(0, 1, exclude_min=True),
    width=st.floats(0.01, 10),
    seed=st.integers(0, 2**31),
    lr=st.none() | st.floats(0, 1000),
    epochs=st.integers(1, 1000),
    scaled=st.sampled_from([False, True, "authors"]),
)
def test_json_comes_back_as_the_same_run(density: float | None, scaled: Any, **rest: Any) -> None:
    run = Run(density=density, scaled=scaled, **rest)
    again = Run.from_json(run.to_json())
    assert again == run
    assert again.hash == run.hash
    assert again.to_json() == run.to_json()
    assert asdict(again) == asdict(run.resolved)


def test_json_holds_every_field_resolved_one_a_line() -> None:
    text = HIDDEN.to_json()
    assert json.loads(text) == {"schema": SCHEMA, **asdict(HIDDEN.resolved), "callbacks": []}
    assert len(text.splitlines()) == len(fields(Run)) + 3
    assert list(json.loads(text)) == ["schema", *(f.name for f in fields(Run))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{",
            "not a run description: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ("", "not a run description: Expecting value: line 1 column 1 (char 0)"),
        ("[1]", "not a run description of schema 1: '[1]'"),
        ('{"net": "conv4"}', 'not a run description of schema 1: \'{"net": "conv4"}\''),
        ('{"schema": 2}', "not a run description of schema 1: '{\"schema\": 2}'"),
        (
            json.dumps({"schema": 0, "x": "y" * 99}),
            'not a run description of schema 1: \'{"schema": 0, "x": "' + "y" * 40 + "'",
        ),
        (
            '{"schema": 1, "prune_rate": 0.5, "arch": "conv4", "net": "conv2"}',
            "not a run description: unknown fields arch, prune_rate",
        ),
        (
            '{"schema": 1, "density": 2.0}',
            "density=2.0 is the fraction of weights kept and must lie in (0, 1]",
        ),
        ('{"schema": 1, "swaps": 20}', "not a run description: swaps is a callback now; train the run again"),
        (
            '{"schema": 1, "after": {"net": "conv4"}}',
            'not a run description of schema 1: \'{"schema": 1, "after": {"net": "conv4"}}\'',
        ),
        (
            '{"schema": 1, "callbacks": [{"class_path": "a.B"}]}',
            "not a run description: callbacks [{'class_path': 'a.B'}]",
        ),
        ('{"schema": 1, "callbacks": null}', "not a run description: callbacks None"),
    ],
)
def test_what_is_no_description_is_refused(text: str, message: str) -> None:
    assert refusal(lambda: Run.from_json(text)) == message


def test_a_description_of_when_trace_and_swaps_were_fields_is_read_where_they_were_not_used() -> None:
    plain = json.loads(HIDDEN.to_json()) | {"trace": 0, "swaps": 0}
    for name in ("callbacks", "after", "masker", "task"):
        del plain[name]
    assert Run.from_json(json.dumps(plain)) == HIDDEN


# --- what cannot be --------------------------------------------------------------------------------------

NEEDS = "the dense baseline has no density (None), every other method needs one in (0, 1]"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "dense", "density": 0.5}, f"method='dense' with density=0.5: {NEEDS}"),
        ({"method": "edge_popup"}, f"method='edge_popup' with density=None: {NEEDS}"),
        ({"method": "random"}, f"method='random' with density=None: {NEEDS}"),
        ({"density": 0.0}, "density=0.0 is the fraction of weights kept and must lie in (0, 1]"),
        ({"density": 1.01}, "density=1.01 is the fraction of weights kept and must lie in (0, 1]"),
        ({"density": math.nan}, "density=nan is the fraction of weights kept and must lie in (0, 1]"),
        ({"epochs": 0}, "epochs=0 trains nothing; it must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 trains nothing; it must be at least 1"),
        ({"schedule": "step"}, "schedule='step' is unknown; schedules are cosine, constant"),
        ({"width": 0.0}, "width=0.0 leaves no channels; it must be above 0"),
        ({"width": -1.5}, "width=-1.5 leaves no channels; it must be above 0"),
        ({"width": math.nan}, "width=nan leaves no channels; it must be above 0"),
        (
            {"method": "popup"},
            "method='popup' is unknown; methods are edge_popup, dense, supermask, random, ticket",
        ),
        ({"optimizer": "lion"}, "optimizer='lion' is unknown; optimizers are sgd, adam"),
        (
            {"optimizer": "adam", "density": 0.5},
            "optimizer='adam' is for the weights of dense and ticket; method='edge_popup' takes 'sgd'",
        ),
        ({"method": "ticket"}, f"method='ticket' with density=None: {NEEDS}"),
        (
            {"method": "ticket", "density": 0.5, "found_by": "dense"},
            "found_by='dense' finds no subnetwork; methods that do are edge_popup, supermask, random",
        ),
        (
            {"density": 0.5, "found_by": "random"},
            "found_by='random' says which subnetwork a ticket trains; method='edge_popup' trains none",
        ),
        (
            {"method": "ticket", "density": 0.5, "precision": "bf16-true"},
            "precision='bf16-true' changes the weights by which a found subnetwork is recognised; "
            "tickets take 32-true, bf16-mixed or 16-mixed",
        ),
        (
            {"classes": "first-10", "image_size": 64},
            "data='cifar10' takes no classes='first-10', image_size=64; "
            "imagenet, imagenet100, imagenette, imagewoof, tiny-imagenet, tiny-imagenet-100 do",
        ),
        (
            {"data": "imagenet", "images_per_class": 0},
            "images_per_class=0 leaves nothing to train on; it must be at least 1",
        ),
        (
            {"data": "imagenet", "image_size": -64},
            "image_size=-64 leaves nothing to train on; it must be at least 1",
        ),
        (
            {"data": "imagenet", "images_per_class": 10, "train_images": 100},
            "images_per_class and train_images say the same thing twice; give one of them",
        ),
        *(
            (
                {"data": "imagenet", "classes": classes},
                f"classes={classes!r} is no list that a run's hash can stand for; "
                "there are imagenette, imagewoof, tiny-imagenet-100 and first-N",
            )
            for classes in ("all", "mine.txt", "first-0", "first-", "imagenette2")
        ),
    ],
    ids=str,
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_trained(values: dict[str, Any], message: str) -> None:
    assert refusal(lambda: Run(**values)) == message
    assert refusal(lambda: replace(Run(), **values)) == message


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'prune_rate'"):
        Run(prune_rate=0.5)  # type: ignore[call-arg]


def test_vary_multiplies_in_the_order_given() -> None:
    runs = vary([Run(), HIDDEN], net=["conv2", "conv4"], seed=range(2))
    assert [(r.density, r.net, r.seed) for r in runs] == [
        (k, n, s) for k in (None, 0.5) for n in ("conv2", "conv4") for s in (0, 1)
    ]
    assert vary(iter([HIDDEN])) == [HIDDEN]
    assert vary([HIDDEN], seed=[]) == []


def test_vary_reads_a_generator_once_for_all_runs() -> None:
    assert len(vary([Run(), HIDDEN], seed=(s for s in range(3)))) == 6


def test_a_count_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError) as error:
        Run(epochs=2.5)
    assert str(error.value) == "epochs=2.5 is no whole number; it counts something"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "distribution",
            "gauss",
            "distribution='gauss' is unknown; there are kaiming_normal, signed_constant, unsigned_constant, "
            "kaiming_uniform, xavier_normal, signed_xavier",
        ),
        (
            "precision",
            "fp32",
            "precision='fp32' is unknown; there are 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, 64-true",
        ),
        ("scaled", "paper", "scaled='paper' is unknown; it is False, True or 'authors'"),
        ("lr", -1, "lr=-1.0 is not a finite number of at least 0"),
        ("label_smoothing", float("nan"), "label_smoothing=nan is not a finite number of at least 0"),
        ("lr", "0.1", "lr='0.1' is not a finite number of at least 0"),
        (
            ("distribution", "scaled"),
            ("xavier_normal", "authors"),
            "scaled='authors' with distribution='xavier_normal', which the authors' code never scales; use "
            "scaled=False, or True for the scale of the paper's text",
        ),
        ("train_images", 0, "train_images=0 trains on nothing; it must be at least 1, or None for all"),
    ],
)
def test_a_value_that_no_worker_could_train_is_refused_when_described(field, value, message) -> None:
    given = {field: value} if isinstance(field, str) else dict(zip(field, value, strict=True))
    with pytest.raises(ValueError) as error:
        Run(density=0.5, **given)
    assert str(error.value) == message


def test_seeds_of_a_chain_vary_together() -> None:
    chain = HIDDEN.then(epochs=5).then(epochs=0)
    varied = vary([chain], seed=[3, 4])
    assert varied == [vary([HIDDEN], seed=[s])[0].then(epochs=5).then(epochs=0) for s in (3, 4)]
    assert len({run.parent.parent for run in varied}) == 2  # type: ignore[union-attr]
    apart = HIDDEN.then(epochs=5, seed=7)  # on purpose
    assert [run.parent for run in vary([apart], seed=[3, 4])] == [HIDDEN, HIDDEN]


def test_a_number_that_only_its_last_bits_tell_from_another_is_that_number() -> None:
    densities = [float(k) for k in np.arange(0.1, 1.0, 0.1)]
    assert 0.30000000000000004 in densities
    assert [Run(density=k) for k in densities] == [Run(density=n / 10) for n in range(1, 10)]
    assert Run(density=0.1 + 0.2).resolved.density == 0.3
    assert Run(density=0.3 + 1e-9) != Run(density=0.3)
    assert Run(net="resnet18").resolved.weight_decay == 2**-15
    options = [spec("labels.RandomLabels", fraction=k) for k in (0.1 + 0.2, 0.3)]
    assert options[0] == options[1]
