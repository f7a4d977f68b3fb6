"""A Run is its description: its hash, what it resolves to, its parent, its JSON, and what cannot be described."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_hidden.code import Spec, canonical, spec
from lit_hidden.recipes import FINDERS, METHODS
from lit_hidden.run import DEPRECATED, GONE, SCHEMA, Run, vary

DENSE = Run(net="conv2")
HIDDEN = Run(density=0.5, net="conv2")
TICKET = replace(HIDDEN, method="ticket")
IMAGENETTE = Run(density=0.5, data="imagenette")
LESION, TRACE, RDM = spec("lesion.Lesion", epoch=2), spec("trace.Trace"), spec("rdm.RDM")
OTHER = Spec("mine.gone.Idea", (("rate", 0.5),), 2)  # of code that is not here
LESIONED = replace(HIDDEN, callbacks=(LESION,))
ANALYSED = LESIONED.then(epochs=0, callbacks=(spec("rdm.RDM", images=9), OTHER))


# --- the hash --------------------------------------------------------------------------------------------


SAME: list[tuple[Run, dict[str, Any]]] = [
    (HIDDEN, {"method": "edge_popup", "distribution": "signed_constant", "batch_size": 128, "lr": 0.1, "momentum": 0.9,
              "weight_decay": 1e-4, "schedule": "cosine", "warmup_epochs": 0, "label_smoothing": 0.0, "seed": 0,
              "weight_seed": 0, "score_seed": 0, "data_seed": 0}),
    (Run(density=1.0), {"density": 1}),
    (replace(HIDDEN, width=2.0), {"width": 2}),
    (replace(HIDDEN, weight_decay=0.0), {"weight_decay": 0}),
    (replace(HIDDEN, density=0.3, seed=3), {"density": np.float64(0.1 + 0.2), "seed": np.int64(3)}),
    (Run(data="imagenet"), {"image_size": 224, "augment": None}),
    (TICKET, {"found_by": "edge_popup"}),
    (replace(HIDDEN, method="random"), {"epochs": 7}),  # one pass; there is nothing to learn
    (LESIONED, {"callbacks": [spec("lit_hidden.callbacks.lesion.Lesion", epoch=np.int64(2), of="units")]}),
    (LESIONED, {"callbacks": (spec("lesion.Lesion", epoch=2.0),), "after": None, "masker": None, "task": None}),
    (replace(HIDDEN, masker="supermask.Supermask", task="arm.Angles", data="arm.ArmData"),
     {"masker": "lit_hidden.supermask.Supermask", "task": "lit_hidden.callbacks.arm.Angles",
      "data": "lit_hidden.callbacks.arm.ArmData"}),
]  # fmt: skip


@pytest.mark.parametrize(("run", "same"), SAME)
def test_what_resolves_to_the_same_is_one_run(run: Run, same: dict[str, Any]) -> None:
    other = replace(run, **same)
    assert len({run, other, other.resolved}) == len({run.hash, other.hash, other.resolved.hash}) == 1
    assert other.to_json() == run.to_json()


CHANGES: list[dict[str, Any]] = [
    {"density": 0.3}, {"density": 0.5 + 1e-9}, {"net": "conv6"}, {"method": "supermask"}, {"masker": "my.Masker"},
    {"distribution": "kaiming_normal"}, {"width": 2.0}, {"scaled": True}, {"scaled": "authors"}, {"data": "digits"},
    {"train_images": 100}, {"held_out": 5}, {"augment": False}, {"data": "imagenet", "augment": "square"},
    {"epochs": 10}, {"batch_size": 64}, {"lr": 0.2}, {"lr": 0.123456788}, {"momentum": 0.0}, {"weight_decay": 0.0},
    {"schedule": "constant"}, {"warmup_epochs": 1}, {"label_smoothing": 0.1}, {"precision": "bf16-mixed"}, {"seed": 1},
    {"weight_seed": 1}, {"score_seed": 1}, {"data_seed": 1}, {"callbacks": (TRACE,)}, {"task": "my.tasks.Task"},
    {"callbacks": (spec("trace.Trace", updates=10),)}, {"after": HIDDEN}, {"data": "imagenet", "classes": "first-10"},
    {"data": "tiny-imagenet", "images_per_class": 10}, {"data": "imagenette", "image_size": 160},
]  # fmt: skip


def test_every_field_makes_another_run_of_another_name() -> None:
    others = [replace(HIDDEN, **change) for change in CHANGES]
    assert all(set(change) <= set(other.different) for change, other in zip(CHANGES, others, strict=True))
    others += [replace(TICKET, found_by=finder) for finder in FINDERS]
    others += [DENSE, replace(DENSE, optimizer="adam"), replace(DENSE, distribution="signed_xavier"), HIDDEN]
    assert len(set(others)) == len({run.name for run in others}) == len(others)
    assert {name for change in CHANGES for name in change} | {"found_by", "optimizer"} == {f.name for f in fields(Run)}


def test_a_hash_is_of_what_differs_callbacks_with_their_versions_and_the_run_before() -> None:
    assert ANALYSED.different.keys() == HIDDEN.different.keys() | {"epochs", "callbacks", "after"}
    callbacks = [one.entry | {"version": one.version} for one in ANALYSED.callbacks]
    described = {"schema": SCHEMA, **ANALYSED.different, "callbacks": callbacks, "after": LESIONED.hash}
    assert ANALYSED.hash == hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    lists = [(), (LESION,), (replace(LESION, version=3),), (LESION, TRACE), (TRACE, LESION)]
    runs = [replace(HIDDEN, callbacks=one) for one in lists]
    runs += [run.then() for run in (*runs, replace(HIDDEN, seed=1), HIDDEN.then())]
    assert len({run.hash for run in runs}) == len(runs)


def test_of_small_subsets_of_imagenet_a_hash_without_augmentation_still_means_the_middle_square() -> None:
    for data, size in (("imagenette", None), ("tiny-imagenet-100", 32)):
        run = Run(data=data, image_size=size, net="resnet18")
        square = replace(run, augment="square")
        assert run.resolved.augment is True, "as the authors do"
        assert run != square
        assert "augment" not in square.different
        written = json.loads(square.to_json())
        assert Run.from_json(json.dumps(written | {"augment": None})) == square, "written before there was a choice"
        assert (Run.from_json(run.to_json()), Run.from_row(run.row)) == (run, run)
    whole = Run(data="tiny-imagenet-100", net="resnet18")
    assert whole == replace(whole, augment="square"), "images of that size are the square"
    assert "augment" not in Run(data="imagenet", net="resnet18").different


# --- what is resolved, and the name ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_resolving_leaves_nothing_open_and_what_is_set_wins_even_a_zero(method: str) -> None:
    run = Run(method=method, density=None if method == "dense" else 0.3, net="resnet18", seed=3)
    assert asdict(Run(**asdict(run.resolved)).resolved) == asdict(run.resolved)
    names = "density train_images augment classes images_per_class image_size after masker task found_by"
    assert None not in {value for name, value in asdict(run.resolved).items() if name not in names.split()}
    assert Run(density=run.density).resolved.method == ("dense" if method == "dense" else "edge_popup")
    given = {"lr": 0.7, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1, "weight_seed": 0}
    own = replace(run, **given).resolved
    assert {name: getattr(own, name) for name in given} == given
    assert (own.score_seed, own.data_seed) == (3, 3)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (Run(lr=0.01, momentum=0.9, weight_decay=1e-4, batch_size=128, schedule="cosine", epochs=100), "conv4-sgd-s0"),
        (Run(density=0.125, width=0.5, scaled="authors"), "conv4x0.5-k12.5-signed_constant-scaled_authors-s0"),
        (Run(density=0.3, method="ticket", found_by="random", optimizer="adam", seed=2),
         "conv4-k30-ticket-of_random-adam-signed_constant-s2"),
        (Run(lr=1e9, epochs=3, score_seed=7), "conv4-sgd-epochs=3-lr=1000000000-score_seed=7-s0"),
        (Run(data="imagenette", net="resnet18", image_size=160), "resnet18-sgd-imagenette-image_size=160-s0"),
        (Run(density=0.5, net="a.b.Net", method="c.Lit", distribution="d.draw", masker="e.Top", task="f.Task",
             callbacks=(LESION, TRACE, OTHER)),
         "Net-k50-Lit-draw-Top-Task-Lesion(epoch=2)-Idea(rate=0.5)-Trace-s0"),
        (HIDDEN.then(seed=1), f"conv2-k50-signed_constant-after_{HIDDEN.hash[:6]}-s1"),
    ],
)  # fmt: skip
def test_a_name_is_readable_and_tells_what_is_not_the_recipes(run: Run, name: str) -> None:
    assert run.name == name


def test_a_cell_is_told_by_what_changes_the_numbers_and_not_by_seeds() -> None:
    same = [
        replace(LESIONED, seed=seed, callbacks=(LESION, *more)).then(callbacks=more, seed=2 * seed, score_seed=3)
        for seed, more in enumerate([(), (TRACE,), (RDM, TRACE)])
    ]
    assert len({run.unrecorded.cell for run in same}) == 1
    others = [LESIONED.then(), HIDDEN.then(), LESIONED, replace(HIDDEN, callbacks=(OTHER,)), HIDDEN, same[0]]
    assert len({run.unrecorded.cell for run in others}) == len(others)
    # What is recorded tells cells apart for a claim, or one training would be several seeds.
    traced = replace(HIDDEN, callbacks=(TRACE,))
    assert (traced.cell != HIDDEN.cell, traced.unrecorded.hash) == (True, HIDDEN.hash)
    looking = replace(HIDDEN, epochs=0, callbacks=(RDM,))  # which without what it records does nothing
    assert looking.unrecorded.cell == replace(looking, callbacks=(TRACE,), seed=3).unrecorded.cell


def test_names_and_options_of_code_are_found() -> None:
    assert ANALYSED.names == ["lit_hidden.callbacks.rdm.RDM", "mine.gone.Idea", "lit_hidden.callbacks.lesion.Lesion"]
    own = replace(HIDDEN, masker="supermask.Supermask", net="my.nets:Net")
    assert own.names == ["my.nets.Net", "lit_hidden.supermask.Supermask"]
    assert Run(net="timm:a.b").names == HIDDEN.names == []
    run = replace(HIDDEN, callbacks=(LESION, spec("lesion.Lesion", epoch=5, of="edges"), OTHER))
    for name in ("Lesion", "lesion.Lesion", "lit_hidden.callbacks.lesion.Lesion"):
        assert (run.option(f"{name}.epoch"), run.option(f"{name}.of")) == ([2, 5], ["units", "edges"])
    assert (run.option("Idea.rate"), run.option("esion.epoch"), run.option("Idea.of")) == ([0.5], [], [])


# --- parents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("net", ["conv8", "resnet50"])
def test_the_parent_of_a_ticket_is_the_published_search_in_the_same_random_net(
    net: str, optimizer: str, finder: str
) -> None:
    shared = {"density": 0.3, "net": net, "width": 0.5, "epochs": 7, "data": "digits", "train_images": 900, "seed": 4}
    shared |= {"distribution": "kaiming_normal", "scaled": True, "held_out": 100, "augment": True, "score_seed": 9}
    ticket = Run(method="ticket", found_by=finder, optimizer=optimizer, precision="bf16-mixed", **shared)
    parent = Run(method=finder, precision="bf16-mixed", **shared)
    assert ticket.parent == ticket.resolved.parent == parent
    assert parent.parent is None
    trained = {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.1, "schedule": "constant", "warmup_epochs": 2}
    assert replace(ticket, **trained, label_smoothing=0.1, callbacks=(TRACE,)).parent == parent
    assert replace(ticket, batch_size=32).parent == replace(parent, batch_size=32), "it was set for both"
    assert replace(ticket, batch_size=ticket.resolved.batch_size).parent == parent


@pytest.mark.parametrize(
    ("before", "changes", "takes"),
    [
        (HIDDEN, {}, {"method": "edge_popup"}),
        (HIDDEN, {"density": 0.2, "epochs": 5}, {"method": "edge_popup", "density": 0.2, "epochs": 5}),
        (replace(HIDDEN, method="random", lr=0.3), {"method": "ticket"}, {"found_by": "random", "lr": 0.3}),
        (HIDDEN, {"method": "ticket"}, {"found_by": "edge_popup", "distribution": "signed_constant", "lr": 0.01}),
        (replace(TICKET, found_by="random"), {}, {"method": "ticket", "found_by": "random"}),
        (DENSE, {"seed": 4}, {"method": "dense", "weight_seed": 4}),
        (DENSE, {"density": 0.3}, {"method": "edge_popup", "distribution": "kaiming_normal", "lr": 0.1}),
    ],
)  # fmt: skip
def test_a_run_then_another_copies_what_was_set_and_has_its_own_recipe(before: Run, changes: Any, takes: Any) -> None:
    run = before.then(**changes).resolved
    assert {name: getattr(run, name) for name in takes} == takes
    assert run.parent == run.after == before
    same = {"width", "net", "epochs", "batch_size", "held_out", "precision", "callbacks", "data"} - takes.keys()
    assert all(getattr(run, name) == getattr(before.resolved, name) for name in same)


# --- json and tables -------------------------------------------------------------------------------------

VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = (VALUE | st.lists(VALUE, max_size=2)).map(canonical)
CALLBACKS = st.lists(
    st.builds(
        lambda name, options, version: Spec(f"mine.gone.{name}", tuple(sorted(options.items())), version),
        st.sampled_from("ABC"), st.dictionaries(st.sampled_from("xyz"), VALUES), st.integers(1, 3),
    ),
    max_size=2, unique_by=lambda one: one.class_path,
)  # fmt: skip
FIELDS = {
    "density": st.none() | st.floats(0, 1, exclude_min=True), "width": st.floats(0.01, 10),
    "seed": st.integers(0, 2**31), "lr": st.none() | st.floats(0, 1000), "epochs": st.integers(1, 1000),
    "scaled": st.sampled_from([False, True, "authors"]),
}  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(values=st.fixed_dictionaries(FIELDS), chain=st.lists(CALLBACKS, min_size=1, max_size=3))
def test_runs_come_back_from_json_and_from_a_table(values: dict[str, Any], chain: list[list[Spec]]) -> None:
    run = Run(**values, callbacks=tuple(chain[0]))
    for callbacks in chain[1:]:
        run = run.then(callbacks=callbacks, seed=run.seed + 1)
    for again in (Run.from_json(run.to_json()), Run.from_row(run.row | {"accuracy": 1.0})):
        assert (again, again.to_json(), again.row) == (run, run.to_json(), run.row)


def test_json_has_every_field_a_line_and_callbacks_as_lightnings_command_line_takes_them() -> None:
    text = HIDDEN.to_json()
    assert json.loads(text) == {"schema": SCHEMA, **asdict(HIDDEN.resolved), "callbacks": []}
    assert len(text.splitlines()) == len(fields(Run)) + 3
    plain = json.loads(ANALYSED.to_json())
    assert plain["callbacks"] == [
        {"class_path": "lit_hidden.callbacks.rdm.RDM", "init_args": {"images": 9}},
        {"class_path": "mine.gone.Idea", "init_args": {"rate": 0.5}},
    ]
    assert plain["versions"] == {"lit_hidden.callbacks.rdm.RDM": 2, "mine.gone.Idea": 2}
    assert plain["after"] == json.loads(LESIONED.to_json())
    assert ANALYSED.row["callbacks"] == "lit_hidden.callbacks.rdm.RDM[2](images=9); mine.gone.Idea[2](rate=0.5)"
    assert (HIDDEN.row["callbacks"], HIDDEN.row["after"]) == (None, None)


def test_a_field_that_went_is_read_for_good_where_it_said_nothing() -> None:
    later = {"callbacks", "after", "masker", "task"}  # when trace and swaps were fields
    plain = {name: value for name, value in json.loads(HIDDEN.to_json()).items() if name not in later}
    neutral = {"trace": 0, "swaps": 0}
    assert Run.from_json(json.dumps(plain | neutral)) == HIDDEN
    assert {name: value for name, (value, _) in GONE.items()} == neutral
    assert not GONE.keys() & {f.name for f in fields(Run)}, "a name is not used again"
    for name in neutral:
        with pytest.raises(ValueError, match=rf"{name}=600 is no field any more; write callbacks="):
            Run.from_json(json.dumps(plain | {name: 600}))


def test_a_deprecated_field_works_and_warns_where_it_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    run, written = replace(HIDDEN, warmup_epochs=2), replace(HIDDEN, warmup_epochs=2).to_json()
    monkeypatch.setitem(DEPRECATED, "warmup_epochs", 'schedule="warm"')
    with pytest.warns(FutureWarning, match=r'warmup_epochs is deprecated; write schedule="warm"') as told:
        assert Run(density=0.5, net="conv2", warmup_epochs=2).hash == run.hash
    assert told[0].filename == __file__, "the line that is to be changed"
    with pytest.warns(FutureWarning, match="warmup_epochs"):
        assert Run.from_json(written) == run
    assert Run.from_json(HIDDEN.to_json()) == replace(HIDDEN, warmup_epochs=0), "which states the default"


def test_names_in_a_file_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    names = dict.fromkeys(("net", "masker", "distribution", "method", "data", "task"), "raising.thing")
    callbacks = [{"class_path": f"{module}.Idea", "init_args": {}} for module in ("raising", "gone")]
    monkeypatch.setattr("lit_hidden.code._class", lambda path: pytest.fail(f"{path} is looked up"))
    run = Run.from_json(json.dumps({"schema": SCHEMA, **names, "callbacks": callbacks}))
    assert Run.from_row(run.row) == Run.from_json(run.to_json()) == run
    assert run.names == ["raising.thing", "raising.Idea", "gone.Idea"]


# --- what cannot be --------------------------------------------------------------------------------------

AFTER = "after a hidden run come hidden and ticket"
REFUSED: list[tuple[Run, dict[str, Any], str]] = [
    (Run(), {"method": "dense", "density": 0.5}, "method='dense' with density=0.5: the dense baseline has no density"),
    (Run(), {"method": "edge_popup"}, "method='edge_popup' with density=None"),
    *((Run(), {"density": k}, f"density={k} is the fraction of weights kept") for k in (0.0, 1.01, math.nan)),
    (Run(), {"width": math.nan}, "width=nan multiplies the channels"),
    *((Run(), {name: value}, f"{name}={value!r} is not a finite number of at least {least}")
      for name, value, least in (
          ("epochs", 0, 1), ("batch_size", 0, 1), ("lr", -1.0, 0), ("lr", "0.1", 0), ("label_smoothing", math.nan, 0),
          ("momentum", math.inf, 0), ("held_out", None, 0))),
    (IMAGENETTE, {"images_per_class": 0}, "images_per_class=0 is not a finite number of at least 1"),
    (Run(), {"epochs": 2.5}, "epochs=2.5 must be a whole number"),
    (Run(), {"method": "popup"}, "methods are edge_popup, dense, supermask, random, ticket"),
    (replace(HIDDEN, method="random"), {"optimizer": "adam"}, "method='random' takes sgd"),
    *((Run(), {name: "odd"}, f"{name}='odd' is unknown; there are ")
      for name in ("schedule", "distribution", "precision", "scaled", "augment", "net", "data")),
    (Run(), {"scaled": 1}, "scaled=1 is of the wrong type"),
    (Run(), {"augment": "square"}, "data='cifar10' takes no augment='square'"),
    (Run(), {"classes": "first-10", "image_size": 64}, "data='cifar10' takes no classes='first-10', image_size=64"),
    *((IMAGENETTE, {"classes": one}, f"classes={one!r} is no list") for one in ("all", "first-0", "imagenette2")),
    (TICKET, {"found_by": "dense"}, "found_by='dense' with method='ticket'"),
    (HIDDEN, {"found_by": "random"}, "found_by='random' with method='edge_popup'; it must be None"),
    (HIDDEN, {"task": 3}, "task=3 is of the wrong type"),
    (HIDDEN, {"after": HIDDEN.hash}, f"after='{HIDDEN.hash}' is of the wrong type"),
    (HIDDEN, {"callbacks": ["lesion.Lesion"]}, "callbacks='lesion.Lesion' is no callback"),
    (HIDDEN, {"callbacks": [LESION, LESION]}, "one of them is listed"),
]  # fmt: skip
REFUSED_AFTER: list[tuple[Run, dict[str, Any], str]] = [
    (HIDDEN, {"density": None}, f"method='dense' after 'edge_popup' cannot be; {AFTER}"),
    (TICKET, {"method": "dense", "density": None}, "method='dense' after 'ticket' cannot be"),
    (DENSE, {"method": "ticket", "density": 0.5}, "method='ticket' after 'dense' cannot be"),
    *((before, changes, f"{told}, whose net it takes; keep it") for before, changes, told in (
        (HIDDEN, {"net": "conv4"}, "net='conv4' after a run with net='conv2'"),
        (DENSE, {"width": 2}, "width=2.0 after a run with width=1.0"),
        (IMAGENETTE, {"classes": "first-3"}, "num_classes=3 after a run with num_classes=10"),
        (IMAGENETTE, {"image_size": 64}, "image_size=64 after a run with image_size=224"),
        (HIDDEN, {"masker": "a.b"}, "masker='a.b' after a run with masker=None"),
        (HIDDEN, {"data": "mnist"}, "data='mnist' after a run with data='cifar10'"),
        (HIDDEN, {"density": 0.3, "epochs": 0}, "density=0.3 after a run with density=0.5"),
        (DENSE, {"density": 0.5, "scaled": True}, "scaled=True after a run with scaled=False"))),
    (TICKET, {"method": "ticket", "found_by": "random"}, "after a run with the subnetwork of 'edge_popup'"),
    (HIDDEN, {"method": "supermask"}, "method='supermask' after a run with method='edge_popup'"),
    (HIDDEN, {"epochs": -1}, "epochs=-1 is not a finite number of at least 0"),
]  # fmt: skip
UNREAD = [
    (text, "not a run description of schema 1: ")
    for text in (
        "{", "null", '{"net": "conv4"}', '{"schema": 2}', '{"schema": 1, "prune_rate": 0.5}',
        '{"schema": 1, "callbacks": [{"class_path": "a.B"}]}', '{"schema": 1, "density": "0.5"}',
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda run=run, values=values: replace(run, **values), message) for run, values, message in REFUSED),
        *((lambda run=run, values=values: run.then(**values), message) for run, values, message in REFUSED_AFTER),
        *((lambda text=text: Run.from_json(text), message) for text, message in UNREAD),
        (lambda: Run.from_json('{"schema": 1, "net": []}'), "net=[] is of the wrong type"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_is(make: Callable[[], Run], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


# --- many runs -------------------------------------------------------------------------------------------


def test_vary_multiplies_in_the_order_given_and_reads_a_generator_once() -> None:
    runs = vary([Run(), HIDDEN], net=["conv2", "conv4"], seed=(s for s in range(2)))
    assert [(r.density, r.net, r.seed) for r in runs] == [
        (k, n, s) for k in (None, 0.5) for n in ("conv2", "conv4") for s in (0, 1)
    ]
    assert (vary(iter([HIDDEN])), vary([HIDDEN], seed=[])) == ([HIDDEN], [])
    densities = np.arange(0.1, 1.0, 0.1)  # of which the third is 0.30000000000000004
    assert vary([Run()], density=densities) == [Run(density=n / 10) for n in range(1, 10)]


def test_seeds_of_a_chain_vary_together() -> None:
    chain = HIDDEN.then(epochs=5).then(epochs=0)
    varied = vary([chain], seed=[3, 4])
    assert varied == [vary([HIDDEN], seed=[s])[0].then(epochs=5).then(epochs=0) for s in (3, 4)]
    assert len({run.parent.parent for run in varied}) == 2  # type: ignore[union-attr]
    apart = HIDDEN.then(epochs=5, seed=7)  # on purpose
    assert [run.parent for run in vary([apart], seed=[3, 4])] == [HIDDEN, HIDDEN]
