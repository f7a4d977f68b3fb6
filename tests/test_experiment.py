import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_hidden import experiment
from lit_hidden.experiment import (
    MIN_SEEDS,
    SCHEMA,
    Claim,
    Results,
    Run,
    Verdict,
    confidence_interval,
    jackknife,
    judge,
    vary,
)
from lit_hidden.recipes import FINDERS, METHODS

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
    code = (
        "from lit_hidden.experiment import Run\n"
        "for k in (None, 0.1, 0.5): print(Run(density=k, net='conv2', seed=3).hash)"
    )
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
        {"trace": 10},
        {"swaps": 10},
    ],
    ids=str,
)
def test_every_field_makes_another_run(change: dict[str, Any]) -> None:
    other = replace(HIDDEN, **change)
    assert other != HIDDEN
    assert other.hash != HIDDEN.hash
    assert set(change) <= set(other.different)


def test_every_field_is_changed_above() -> None:
    changed = test_every_field_makes_another_run.pytestmark[0].args[1]  # type: ignore[attr-defined]
    here = {"optimizer", "found_by"}
    assert {name for change in changed for name in change} | here == {f.name for f in fields(Run)}
    assert Run(optimizer="adam") != Run()
    assert len({replace(TICKET, found_by=finder) for finder in FINDERS}) == len(FINDERS)


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
    monkeypatch.setattr(experiment, "SCHEMA", SCHEMA + 1)
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
    assert asdict(run.resolved.resolved) == asdict(run.resolved)
    open_ = {"density", "train_images", "augment"} | ({"found_by"} if method != "ticket" else set())
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
        optimizer="adam", trace=5,
    )  # fmt: skip
    assert ticket.parent == TICKET.parent == HIDDEN


def test_a_batch_size_of_ones_own_is_the_parents_too() -> None:
    assert replace(TICKET, batch_size=32).parent == replace(HIDDEN, batch_size=32)
    assert replace(TICKET, optimizer="adam", batch_size=60).parent == HIDDEN  # the published one, of Adam


def test_a_field_added_to_run_is_the_parents_or_is_the_tickets_alone() -> None:
    # A new field has to be put here, and so thought of in Run.parent.
    inherited = {
        "density", "net", "width", "distribution", "scaled", "data", "train_images", "held_out", "augment", "epochs",
        "precision", "seed", "weight_seed", "score_seed", "data_seed",
    }  # fmt: skip
    own = {
        "method", "found_by", "optimizer", "batch_size", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs",
        "label_smoothing", "trace", "swaps",
    }  # fmt: skip
    assert inherited | own == {f.name for f in fields(Run)}


# --- json ------------------------------------------------------------------------------------------------


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
    assert json.loads(text) == {"schema": SCHEMA, **asdict(HIDDEN.resolved)}
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
    ],
)
def test_what_is_no_description_is_refused(text: str, message: str) -> None:
    assert refusal(lambda: Run.from_json(text)) == message


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
        ({"trace": -1}, "trace=-1 is a number of steps to record; it must be at least 0"),
        ({"swaps": -1, "density": 0.5}, "swaps=-1 is a number of steps to measure at; it must be at least 0"),
        ({"swaps": 3}, "swaps=3 with method='dense': edge_popup alone swaps edges by scores"),
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


# --- results ---------------------------------------------------------------------------------------------


def results(*, folder: Path | None = None) -> Results:
    """Accuracy 10 * density + seed for hidden runs, 50 + seed for the baseline, listed in no order."""
    runs = vary([Run()], density=[0.5, None, 0.3], seed=[2, 0, 1])
    rows = [
        (run, {"accuracy": 50.0 + run.seed if run.density is None else 10 * run.density + run.seed}, folder)
        for run in runs
    ]
    return Results(rows)


def test_select_keeps_what_is_equal_and_none_means_none() -> None:
    r = results()
    assert (len(r), len(r.select(density=0.3)), len(r.select(density=None, seed=1)), len(r.select())) == (
        9,
        3,
        1,
        9,
    )
    assert all(run.density is None for run, _ in r.select(density=None))
    assert r.seeds == [0, 1, 2]


def test_select_reads_resolved_fields() -> None:
    assert len(results().select(method="edge_popup")) == 6
    assert len(results().select(weight_seed=2, distribution="kaiming_normal")) == 1


def test_values_come_by_seed_and_their_mean_is_the_mean() -> None:
    r = results()
    assert r.values(density=None) == [50, 51, 52]
    assert r.values("accuracy", density=0.5) == [5, 6, 7]
    assert r.mean(density=0.3) == pytest.approx(4)
    assert r.mean("accuracy", density=None, seed=2) == 52


def test_a_field_that_a_run_has_not_is_refused() -> None:
    assert refusal(lambda: results().select(depth=2, arch="x")) == "Run has no field arch, depth"


def test_nothing_left_is_refused() -> None:
    message = "no run has {'density': 0.7, 'seed': 1}; there are 9 runs"
    assert refusal(lambda: results().select(density=0.7, seed=1)) == message
    assert refusal(lambda: results().values(density=0.7, seed=1)) == message
    assert refusal(lambda: results().mean(density=0.7, seed=1)) == message


def measured(folder: Path, seed: int, text: str, trace: int = 0) -> tuple[Run, dict[str, Any], Path]:
    here = folder / f"s{seed}-{trace}"
    here.mkdir()
    (here / "metrics.csv").write_text(text)
    return Run(seed=seed, trace=trace), {"accuracy": 1.0}, here


def test_a_curve_is_a_column_of_metrics_by_seed(tmp_path: Path) -> None:
    rows = [
        measured(tmp_path, 1, "epoch,step,test/accuracy\n0,10,30.5\n1,20,\n"),
        measured(tmp_path, 0, "epoch,step,test/accuracy\n0,10,20\n1,20,25\n"),
    ]
    steps, values = Results(rows).curve("test/accuracy")
    assert steps.tolist() == [10, 20]
    np.testing.assert_array_equal(values, [[20, 25], [30.5, math.nan]])


def test_curves_of_different_lengths_or_columns_are_refused(tmp_path: Path) -> None:
    rows = [measured(tmp_path, 0, "step,loss\n10,1\n"), measured(tmp_path, 1, "step,loss\n20,1\n")]
    r = Results(rows)
    assert refusal(lambda: r.curve("loss", epochs=100)) == (
        "the runs with {'epochs': 100} were measured at different steps; select runs of one length"
    )
    assert refusal(lambda: r.curve("accuracy", seed=0)) == (
        f"{tmp_path}/s0-0/metrics.csv has no column 'accuracy'; it has step, loss"
    )


def test_a_trace_is_one_traced_runs(tmp_path: Path) -> None:
    rows = [measured(tmp_path, seed, "step\n1\n", trace) for seed, trace in ((0, 5), (1, 5), (2, 0))]
    for _, _, folder in rows:
        np.savez(folder / "trace.npz", scores=np.arange(3), mask=np.ones(2, dtype=bool))
    r = Results(rows)
    found = r.trace(seed=1)
    assert {name: a.tolist() for name, a in found.items()} == {"scores": [0, 1, 2], "mask": [True, True]}
    ending = "a trace is one run's, of a Run with trace > 0"
    assert refusal(lambda: r.trace(trace=5)) == f"2 runs have {{'trace': 5}}; {ending}"
    assert refusal(lambda: r.trace(seed=2)) == f"1 runs have {{'seed': 2}}; {ending}"


# --- claims ----------------------------------------------------------------------------------------------


def verdict(*margins: float, every: bool = False) -> Verdict:
    """Judge the claim whose margin at seed i is margins[i]."""
    r = Results([(Run(seed=s), {"accuracy": m}, None) for s, m in enumerate(margins)])
    return judge(Claim("it holds", lambda one: one.mean(), unit="points", every=every), r)


def test_a_claim_whose_interval_lies_above_zero_is_supported() -> None:
    # By hand: mean 4, standard error 1 / sqrt(3), t(2) = 4.302653, so the interval is 4 +- 2.484138.
    v = verdict(3.0, 4.0, 5.0)
    assert (v.verdict, v.margin, v.seeds, v.unit) == ("supported", 4.0, 3, "points")
    assert (v.low, v.high) == (pytest.approx(4 - 2.484138, abs=1e-6), pytest.approx(4 + 2.484138, abs=1e-6))
    assert (v.sentence, v.why) == ("it holds", "the 95% interval lies above 0")


def test_a_claim_whose_interval_lies_below_zero_is_contradicted() -> None:
    v = verdict(-3.0, -4.0, -5.0)
    assert (v.verdict, v.margin, v.why) == ("contradicted", -4.0, "the 95% interval lies below 0")
    assert v.high == pytest.approx(-4 + 2.484138, abs=1e-6)


@pytest.mark.parametrize("margins", [(1.0, 2.0, 3.0), (-1.0, -2.0, -3.0), (-1.0, 0.0, 1.0)])
def test_a_claim_whose_interval_holds_zero_is_undecided(margins: tuple[float, ...]) -> None:
    v = verdict(*margins)
    assert (v.verdict, v.why) == ("undecided", "the 95% interval holds 0")
    assert v.low < 0 < v.high


def test_equals_do_not_beat_each_other() -> None:
    v = verdict(0.0, 0.0, 0.0)
    assert (v.verdict, v.why) == ("undecided", "the 95% interval holds 0")
    assert verdict(1e-9, 1e-9, 1e-9).verdict == "supported"
    assert verdict(-1e-9, -1e-9, -1e-9).verdict == "contradicted"


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing(seeds: int) -> None:
    v = verdict(*[100.0] * seeds)
    assert (v.verdict, v.why) == ("undecided", f"too few seeds: {seeds} of at least 3")
    assert (v.low, v.high, v.margin, v.seeds) == (-math.inf, math.inf, 100.0, seeds)
    assert MIN_SEEDS == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", [True, False])
def test_a_margin_that_is_no_number_decides_nothing(bad: float, every: bool) -> None:
    v = verdict(1.0, bad, 1.0, 1.0, every=every)
    assert (v.verdict, v.why, v.seeds) == ("undecided", f"a margin is {bad}", 4)


def test_an_exact_claim_is_decided_by_a_single_seed() -> None:
    v = verdict(0.0, every=True)
    assert (v.verdict, v.why, v.low, v.high) == ("supported", "held for 1 of 1 seeds", 0.0, 0.0)


def test_an_exact_claim_falls_with_a_single_seed() -> None:
    v = verdict(5.0, -0.1, 7.0, 8.0, every=True)
    assert (v.verdict, v.why, v.low, v.high) == ("contradicted", "held for 3 of 4 seeds", -0.1, 8.0)


def test_the_margin_of_an_exact_claim_sees_one_seed_at_a_time() -> None:
    seen = []

    def margin(one: Results) -> float:
        seen.append(one.seeds)
        return one.mean(density=0.5) - one.mean(density=0.3)

    v = judge(Claim("denser is better", margin, every=True), results())
    assert seen == [[0], [1], [2]]
    assert (v.verdict, v.margin) == ("supported", pytest.approx(2))


def test_other_margins_see_all_seeds_and_then_all_but_one() -> None:
    seen = []

    def margin(several: Results) -> float:
        seen.append(several.seeds)
        return several.mean(density=0.5) - several.mean(density=0.3)

    v = judge(Claim("denser is better", margin), results())
    assert sorted(map(tuple, seen)) == [(0, 1), (0, 1, 2), (0, 1, 2), (0, 2), (1, 2)]
    assert (v.verdict, v.margin) == ("supported", pytest.approx(2))


def test_the_jackknife_of_a_ratio_of_variances_by_hand() -> None:
    # Variances of (1, 3, 8): 13; of its pairs (3, 8), (1, 8), (1, 3): 12.5, 24.5, 2. log 13 = 2.5649, and so on.
    r = Results([(Run(seed=s), {"accuracy": a}, None) for s, a in enumerate((1.0, 3.0, 8.0))])
    shares = jackknife(lambda several: math.log(np.var(several.values(), ddof=1)), r)
    expected = [3 * 2.564949 - 2 * log for log in (2.525729, 3.198673, 0.693147)]
    assert shares == pytest.approx(expected, abs=1e-5)


def test_the_best_density_is_that_of_the_mean_and_not_of_each_seed() -> None:
    """At every seed another density is best, by noise alone: seed by seed, the best would be 3 points above."""
    rows = [
        (Run(density=d, seed=s), {"accuracy": 60.0 + (6 if i == s else 0)}, None)
        for i, d in enumerate((0.3, 0.5, 0.7))
        for s in range(3)
    ]
    r = Results(rows)

    def best(several: Results) -> float:
        return max(several.mean(density=d) for d in (0.3, 0.5, 0.7))

    assert best(r) == 62
    assert np.mean([best(r.select(seed=s)) for s in range(3)]) == 66
    assert np.mean(jackknife(best, r)) == pytest.approx(3 * 62 - 2 * 63)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=12))
def test_the_jackknife_of_a_mean_gives_the_values_back(values: list[float]) -> None:
    r = Results([(Run(seed=s), {"accuracy": v}, None) for s, v in enumerate(values)])
    assert jackknife(lambda several: several.mean(), r) == pytest.approx(values, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 8))
def test_the_jackknife_agrees_with_one_written_in_numpy(seed: int, n: int) -> None:
    values = np.random.default_rng(seed).normal(50, 5, n)
    r = Results([(Run(seed=s), {"accuracy": float(v)}, None) for s, v in enumerate(values)])
    left_out = [np.median(np.delete(values, i)) for i in range(n)]
    expected = n * np.median(values) - (n - 1) * np.array(left_out)
    assert jackknife(lambda several: float(np.median(several.values())), r) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20).filter(lambda v: np.std(v) > 1e-6),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_the_interval_is_students(values: list[float], level: float) -> None:
    expected = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert confidence_interval(values, level) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_equal_values_have_an_interval_of_one_point() -> None:
    assert confidence_interval([2.5, 2.5, 2.5]) == (2.5, 2.5)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_value_has_no_interval(values: list[float]) -> None:
    message = f"{len(values)} values have no confidence interval; give at least 2"
    assert refusal(lambda: confidence_interval(values)) == message


def test_a_count_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError) as error:
        Run(epochs=2.5)
    assert str(error.value) == "epochs=2.5 is no whole number; it counts something"


def test_an_unknown_metric_is_refused_with_what_there_is():
    results = Results([(Run(density=0.5), {"accuracy": 1.0, "loss": 2.0}, None)])
    with pytest.raises(ValueError) as error:
        results.values("accurracy")
    assert str(error.value) == ("the result of conv4-k50-signed_constant-s0 has no 'accurracy'; it has accuracy, loss")


def test_no_results_judge_nothing():
    with pytest.raises(ValueError) as error:
        judge(Claim("it works", lambda results: results.mean()), Results([]))
    assert str(error.value) == "no run is done that could judge 'it works'; train some first"


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
        ("train_images", 0, "train_images=0 trains on nothing; it must be at least 1, or None for all"),
    ],
)
def test_a_value_that_no_worker_could_train_is_refused_when_described(field, value, message) -> None:
    with pytest.raises(ValueError) as error:
        Run(density=0.5, **{field: value})
    assert str(error.value) == message
