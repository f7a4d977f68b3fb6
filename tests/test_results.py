"""Results: runs selected by their fields, values by seed, curves and traces read from their folders."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lit_hidden.code import spec
from lit_hidden.recipes import IMAGES
from lit_hidden.results import Results, failed
from lit_hidden.run import Run, vary

# Accuracy 10 * density + seed for hidden runs, 50 + seed for the baseline, listed in no order.
NINE = Results(
    (run, {"accuracy": 50.0 + run.seed if run.density is None else 10 * run.density + run.seed}, None)
    for run in vary([Run()], density=[0.5, None, 0.3], seed=[2, 0, 1])
)


def measured(folder: Path, seed: int, curve: str = "step,loss\n10,1\n", **result: Any) -> Results:
    """A run of that seed with a curve, the only one with a trace if its seed is 1."""
    folder = folder / f"s{seed}"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.csv").write_text(curve)
    if seed == 1:
        np.savez(folder / "trace.npz", scores=np.arange(3), mask=np.ones(2, dtype=bool))
    return Results([(Run(seed=seed), {"accuracy": 1.0, **result}, folder)])


def joined(*results: Results) -> Results:
    return Results(row for one in results for row in one.rows)


def test_select_compares_resolved_fields_and_none_means_none() -> None:
    assert [len(NINE.select(**where)) for where in ({}, {"density": 0.3}, {"density": None, "seed": 1})] == [9, 3, 1]
    assert all(run.density is None for run, _ in NINE.select(density=None))
    assert len(NINE.select(method="edge_popup")) == 6
    assert len(NINE.select(weight_seed=2, distribution="kaiming_normal")) == 1
    assert len(NINE.select(density=0.1 + 0.2)) == 3, "rounded as in a run"
    assert (NINE.seeds, NINE.each("density"), NINE.select(seed=1).seeds) == ([0, 1, 2], [0.3, 0.5], [1])


def test_values_come_by_seed_and_their_mean_is_the_mean() -> None:
    assert NINE.values(density=None) == [50, 51, 52]
    assert NINE.values("accuracy", density=0.5) == [5, 6, 7]
    assert (NINE.mean(density=0.3), NINE.mean("accuracy", density=None, seed=2)) == (pytest.approx(4), 52)


def test_what_is_left_out_is_left_out_of_selections_and_of_the_summary() -> None:
    lost = Run(density=0.5, seed=1).hash
    found = Results(NINE.rows)
    found.reduce_by(lambda results: {"mean": np.array(results.mean(density=0.5))})
    assert (found.values(density=0.5), found.summary["mean"]) == ([5, 6, 7], 6), "before"
    less = found.without([lost])
    assert (len(less), less.values(density=0.5), less.seeds) == (8, [5, 7], [0, 1, 2])
    assert less.select(density=0.5).values() == found.select(density=0.5).without([lost]).values() == [5, 7]
    assert less.without([Run(density=0.5).hash]).summary["mean"] == 7, "of both"
    assert less.select(density=0.3).summary["mean"] == 6, "a summary is of all runs, whichever are selected"
    assert (found.values(density=0.5), found.summary["mean"]) == ([5, 6, 7], 6), "after"


def test_runs_are_parted_by_what_a_function_gives_each_without_those_left_out() -> None:
    parts = NINE.without([run.hash for run, _ in NINE.select(density=None)]).by(lambda run: (run.density, run.seed > 0))
    assert {key: part.seeds for key, part in parts.items()} == {
        (density, later): [1, 2] if later else [0] for density in (0.3, 0.5) for later in (False, True)
    }


def test_runs_are_selected_by_options_of_their_callbacks() -> None:
    swaps = [(spec("swaps.Swaps", updates=n), spec("trace.Trace")) for n in (3, 7)]
    r = Results((Run(density=0.5, seed=s, callbacks=c), {"accuracy": 1.0}, None) for s in (0, 1) for c in (*swaps, ()))
    assert [run.seed for run, _ in r.select(**{"Swaps.updates": 7})] == [0, 1]
    assert len(r.select(**{"Swaps.updates": 7}, seed=1)) == 1
    assert len(r.select(**{"Trace.updates": 600})) == 4  # the default, which no run writes down
    assert len(r.select(**{"lit_hidden.callbacks.swaps.Swaps.updates": 3})) == 2
    assert r.each("Swaps.updates") == [3, 7]
    assert len(r.select(callbacks=())) == 2


def test_a_curve_is_a_column_of_metrics_by_seed_of_runs_that_did_not_diverge(tmp_path: Path) -> None:
    rows = [
        measured(tmp_path, 1, "epoch,step,test/accuracy\n0,10,30.5\n1,20,\n"),
        measured(tmp_path, 0, "epoch,step,test/accuracy\n0,10,20\n1,20,25\n"),
        measured(tmp_path, 2, "epoch,step,test/accuracy\n0,10,20\n", diverged=1),
    ]
    steps, values = joined(*rows).curve("test/accuracy")
    assert steps.tolist() == [10, 20]
    np.testing.assert_array_equal(values, [[20, 25], [30.5, math.nan]])


def test_arrays_are_those_of_one_run_that_left_them(tmp_path: Path) -> None:
    found = joined(*(measured(tmp_path, seed) for seed in range(3))).arrays("trace.npz", seed=1)
    assert {name: a.tolist() for name, a in found.items()} == {"scores": [0, 1, 2], "mask": [True, True]}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda at: NINE.select(depth=2), "'Run' object has no attribute 'depth'"),
        (lambda at: NINE.values(density=0.7, seed=1), "no run has {'density': 0.7, 'seed': 1}; there are 9 runs"),
        (lambda at: NINE.select(**{"Lesion.epoch": 4}), "no run has {'Lesion.epoch': 4}"),
        (lambda at: NINE.mean("accurracy", density=None, seed=1), "'accurracy'"),
        (lambda at: joined(measured(at, 0), measured(at, 1, "step,loss\n20,1\n")).curve("loss", epochs=100),
         "{'epochs': 100} were measured at different steps"),
        (lambda at: measured(at, 0).curve("accuracy"), "no field of name accuracy"),
        (lambda at: measured(at, 0, diverged=1).curve("loss"), "or all of them diverged"),
        (lambda at: joined(measured(at, 0), measured(at, 1)).arrays("trace.npz", net="conv4"),
         "2 runs with a folder have {'net': 'conv4'}; select one"),
        (lambda at: NINE.summary, "these results have no summary"),
    ],
)  # fmt: skip
def test_what_results_do_not_have_is_refused(ask: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, LookupError, AttributeError)) as error:
        ask(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("data", "classes", "most"),
    # The .999 quantile of a guesser's right answers, from the distribution function of scipy.stats.
    [
        ("cifar10", None, 10.93),
        ("digits", None, 15.0),
        ("imagenet", None, 0.14),
        ("tiny-imagenet-100", "first-10", 14.2),
    ],
)
def test_a_run_no_better_than_chance_has_failed(data: str, classes: str | None, most: float) -> None:
    run = Run(density=0.5, data=data, classes=classes).resolved
    n = IMAGES[data][3] * run.num_classes // IMAGES[data][4]
    least = 100 * stats.binom.ppf(0.999, n, 1 / run.num_classes) / n
    assert least - 100 / n == pytest.approx(most, abs=0.005 + 100 / n / 2)
    guessing, lost = {"accuracy": least - 100 / n}, {"accuracy": 90.0, "loss": math.nan}
    found = [failed(run, one) for one in (guessing, lost, lost | {"loss": math.inf}, {"accuracy": math.nan})]
    assert (found, failed(run, {"accuracy": least})) == ([True] * 4, False)
    assert not failed(Run(density=0.5, data=data, classes=classes, method="random").resolved, guessing | lost)
    guesses = {"metric": "error", "better": "lower", "error": 90.0}  # of a task, what a guesser does is not known
    task = Run(density=0.5, data=data, classes=classes, task="my.tasks.Task").resolved
    assert [failed(task, guesses | {"loss": loss}) for loss in (1.0, math.nan)] == [False, True]
