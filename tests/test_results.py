"""Results: runs selected by their fields, values by seed, curves and traces read from their folders."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_hidden.code import spec
from lit_hidden.results import Results
from lit_hidden.run import Run, vary


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


def results() -> Results:
    """Accuracy 10 * density + seed for hidden runs, 50 + seed for the baseline, listed in no order."""
    runs = vary([Run()], density=[0.5, None, 0.3], seed=[2, 0, 1])
    rows = [
        (run, {"accuracy": 50.0 + run.seed if run.density is None else 10 * run.density + run.seed}, None)
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


def measured(folder: Path, seed: int, text: str, **run: Any) -> tuple[Run, dict[str, Any], Path]:
    here = folder / f"s{seed}"
    here.mkdir()
    (here / "metrics.csv").write_text(text)
    return Run(seed=seed, **run), {"accuracy": 1.0}, here


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
        f"{tmp_path}/s0/metrics.csv has no column 'accuracy'; it has step, loss"
    )


def test_arrays_are_those_of_one_run_that_left_them(tmp_path: Path) -> None:
    traced = (spec("trace.Trace", updates=5),)
    rows = [measured(tmp_path, seed, "step\n1\n", callbacks=traced if seed < 2 else ()) for seed in range(3)]
    for _, _, folder in rows[:2]:
        np.savez(folder / "trace.npz", scores=np.arange(3), mask=np.ones(2, dtype=bool))
    r = Results(rows)
    found = r.arrays("trace.npz", seed=1)
    assert {name: a.tolist() for name, a in found.items()} == {"scores": [0, 1, 2], "mask": [True, True]}
    ending = "trace.npz is one run's, whose callbacks leave it behind"
    assert refusal(lambda: r.arrays("trace.npz", net="conv4")) == f"3 runs have {{'net': 'conv4'}}; {ending}"
    assert refusal(lambda: r.arrays("trace.npz", seed=2)) == f"1 runs have {{'seed': 2}}; {ending}"


def test_runs_are_selected_by_options_of_their_callbacks() -> None:
    lesions = [(spec("swaps.Swaps", updates=n), spec("trace.Trace")) for n in (3, 7)]
    r = Results(
        (Run(density=0.5, seed=s, callbacks=c), {"accuracy": 1.0}, None) for s in (0, 1) for c in (*lesions, ())
    )
    assert [run.seed for run, _ in r.select(**{"Swaps.updates": 7})] == [0, 1]
    assert len(r.select(**{"Swaps.updates": 7}, seed=1)) == 1
    assert len(r.select(**{"Trace.updates": 600})) == 4  # the default, which no run writes down
    assert len(r.select(**{"lit_hidden.callbacks.swaps.Swaps.updates": 3})) == 2
    assert r.each("Swaps.updates") == [3, 7]
    assert len(r.select(callbacks=())) == 2
    assert refusal(lambda: r.select(**{"Swaps.updates": 4})) == "no run has {'Swaps.updates': 4}; there are 6 runs"
    assert refusal(lambda: r.select(**{"Lesion.updates": 4})).startswith("no run has")


def test_an_unknown_metric_is_refused_with_what_there_is():
    results = Results([(Run(density=0.5), {"accuracy": 1.0, "loss": 2.0}, None)])
    with pytest.raises(ValueError) as error:
        results.values("accurracy")
    assert str(error.value) == ("the result of conv4-k50-signed_constant-s0 has no 'accurracy'; it has accuracy, loss")


def test_a_value_is_rounded_where_runs_are_selected_as_where_it_entered_them() -> None:
    densities = np.arange(0.1, 0.35, 0.1)
    r = Results([(run, {"accuracy": 1.0}, None) for run in vary([Run()], density=densities)])
    assert [len(r.select(density=density)) for density in densities] == [1, 1, 1]


def test_curves_leave_out_runs_that_diverged(tmp_path: Path) -> None:
    rows = []
    for seed, epochs in ((0, 2), (1, 1)):
        (tmp_path / str(seed)).mkdir()
        lines = [f"{step},{10 * step}" for step in range(epochs + 1)]
        (tmp_path / str(seed) / "metrics.csv").write_text("\n".join(["step,test_top1", *lines]) + "\n")
        rows.append((Run(seed=seed), {"accuracy": 1.0, **({"diverged": 1} if seed else {})}, tmp_path / str(seed)))
    steps, values = Results(rows).curve("test_top1")
    assert (steps.tolist(), values.tolist()) == ([0, 1, 2], [[0.0, 10.0, 20.0]])
    with pytest.raises(ValueError, match=r"^all runs with .* diverged; their curves end where they did$"):
        Results(rows[1:]).curve("test_top1")
