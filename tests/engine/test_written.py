"""What a reproduction judges and writes: tables, verdicts, conditions, summaries."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reproducing
from reproducing import add, column, judged, leave, written
from scipy import stats

from lit_hidden.engine.experiment import ReproduceError, load
from lit_hidden.engine.reproduce import reproduce
from lit_hidden.engine.store import Store
from lit_hidden.engine.written import conditions, draw, rows
from lit_hidden.results import Results
from lit_hidden.run import Run

checkout, workers, printed = reproducing.checkout, reproducing.workers, reproducing.printed  # fixtures


def test_verdicts_are_printed_and_written_and_what_an_experiment_reduces_its_runs_to(printed, monkeypatch):
    monkeypatch.setattr("lit_hidden.engine.reproduce.draw", draw)
    reduce = 'def reduce(results):\n    return {"squares": np.array([x**2 for x in results.values()])}\n\n'
    claim = 'CLAIMS = [\n    Claim("high squares", lambda r: r.summary["squares"].mean() - 4900),'
    add("fig0", ("CLAIMS = [", reduce + claim), ("results.values(), l", "results.summary['squares'], l"))
    text = printed()
    found = judged("fig0")
    squared, first, *_ = found["claims"]
    assert [one["verdict"] for one in found["claims"]] == ["undecided", "supported", "contradicted", "supported"]
    assert [one["kind"] for one in found["claims"]] == ["primary", "primary", "primary", "check"]
    assert first["margin"] == 21.0
    assert first["low"] == pytest.approx(21 - 4.302653 / 3**0.5, abs=1e-5)  # Student's t with 2 degrees of freedom
    for word in ("above [50] in [red]", "contradicted", "check", "figure.svg", "3 runs: 3 done, 0 to train"):
        assert word in text
    assert column("fig0", "accuracy") == ["70.0", "71.0", "72.0"]
    files = written("fig0")
    assert found["conditions"] in files["figure.svg"].decode().replace("&#x27;", "'")
    squares = np.array([70.0, 71.0, 72.0]) ** 2
    with np.load("results/fig0/quick/summary.npz") as arrays:
        np.testing.assert_array_equal(arrays["squares"], squares)
    # Its interval is that of the seeds: without a seed, the summary is made anew.
    low, high = stats.t.interval(0.95, 2, squares.mean(), stats.sem(squares))
    assert (squared["margin"], squared["low"], squared["high"]) == pytest.approx(
        (squares.mean() - 4900, low - 4900, high - 4900)
    )
    printed()
    assert written("fig0") == files

    large = reduce.replace("np.array([x**2 for x in results.values()])", "np.random.default_rng(0).random(300_000)")
    add("fig0", ("CLAIMS = [", large + claim), ("results.values(), l", "results.seeds, l"))
    with pytest.raises(ReproduceError, match=r"the arrays of reduce\(results\) take 2,\d+,\d+ bytes, more than 2,0"):
        reproduce("fig0")


def test_a_grid_cut_by_where_is_judged_as_a_part_of_the_whole_one_and_names_absent_cells(printed, workers):
    runs = add(
        "fig1",
        ('net="conv2", ', "net=net, "),
        ("for s in range(3)", "for net in ('conv2', 'conv4') for s in range(3)"),
        ("r.mean() - 50", "r.mean(net='conv4') - r.mean(net='conv2') + 1"),
        ("r.mean() - 90", "r.mean(net='conv2') - 90"),
    )
    printed("fig1", only=["net=conv2"])
    assert workers.jobs == [], "its runs are fig0's"
    found = judged("fig1")
    assert found["absent"] == [runs[-1].cell]
    assert found["claims"][0]["why"] == f"no run in 1 of 2 cells: {runs[-1].cell}"
    assert [claim["verdict"] for claim in found["claims"]] == ["undecided", "contradicted", "undecided"]
    assert found["conditions"].startswith("preset quick; data digits; 3 seeds (0, 1, 2); 3 of 6 runs; net conv2; ")


def test_seeds_that_fail_or_diverge_are_marked_and_counted_with_every_verdict_that_reads_them():
    # Of 360 images a guesser has 36 right; the .999 quantile is 54 of them, 15%.
    runs = add("fig1", ("range(3)", "range(6)"))
    for run, more in zip(runs[3:], ({"accuracy": 14.0}, {}, {"diverged": 1, "loss": math.nan}), strict=True):
        leave(run, **{"loss": 1.0, **more})
    reproduce("fig1", "fig0")
    assert column("fig1", "failed") == ["False", "False", "False", "True", "False", "True"]
    assert column("fig1", "diverged") == ["", "", "", "", "", "1"]
    found = judged("fig1")
    rate = found["failures"][runs[0].cell]
    assert (rate["failed"], rate["seeds"]) == (2, 6)
    assert found["diverged"] == [runs[5].name]
    assert found["claims"][0]["failed"] == {runs[0].cell: [2, 6]}
    assert found["claims"][0]["margin"] == (70 + 71 + 72 + 74) / 4 - 50
    (none,) = judged("fig0")["failures"].values()
    assert (none["failed"], none["seeds"], none["low"]) == (0, 3, 0)
    assert (1 - none["high"]) ** 3 == pytest.approx(0.025)  # the bound solves P(none of 3) = 2.5%


def test_the_best_epoch_is_the_largest_after_training_began_and_of_the_test_images_alone():
    # `leave` writes 10 + e% after epoch e, and the accuracy at the end.
    runs = [Run(density=0.5, data="digits", epochs=4, seed=s) for s in range(2)]
    runs += [Run(density=0.5, data="digits", epochs=1), Run(density=0.5, data="digits", epochs=4, held_out=100)]
    for run, accuracy in zip(runs, (9.0, 80.0, 9.0, 80.0), strict=True):
        leave(run, accuracy=accuracy)
    assert [row["best_accuracy"] for row in rows(Store("runs").results(runs))] == [13.0, 80.0, 9.0, None]


def test_a_summary_is_shown_when_the_table_is_new_whoever_trained_its_runs(workers, monkeypatch):
    shown: list[Any] = []
    done: list[Any] = []  # before
    view = SimpleNamespace(
        show=lambda run, folder, result, group, new=True: (shown if new else done).append((run.seed, group)),
        summarise=lambda group, *_: shown.append(group),
    )
    monkeypatch.setattr("lit_hidden.engine.reproduce.View", lambda say: view)
    reproduce("fig0")  # nothing is missing: the runs are an archive's, or a command's that was killed before it drew
    assert shown == ["fig0/quick"]
    assert done == [(seed, "fig0/quick") for seed in range(3)]
    reproduce("fig0")
    assert len(shown) == 1
    add("fig0", ("range(3)", "range(1, 4)"))
    reproduce("fig0")
    assert shown[1:] == [(3, "fig0/quick"), "fig0/quick"]


DIGITS = {"net": "conv4", "width": 0.25, "data": "digits", "epochs": 10}


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([Run(density=0.5, seed=seed, **DIGITS) for seed in (0, 1)] + [Run(density=0.5, method="random", **DIGITS)],
         "data digits; 2 seeds (0, 1); net conv4; "
         "cut: width x0.25, 10 of 100 epochs, scikit-learn's digits for CIFAR-10"),
        ([Run(density=0.5, batch_size=32), Run(optimizer="adam"), Run()],
         "data cifar10; 1 seed (0); net conv4; cut: batches of 32"),
        ([Run(density=0.5, width=width) for width in (2, 0.5, 1)],
         "data cifar10; 1 seed (0); net conv4; widths x0.5, x1, x2; nothing cut"),
    ],
)  # fmt: skip
def test_the_conditions_say_what_was_cut_and_what_a_gpu_computed_in_tf32(runs, told):
    assert conditions("short", Results((run, {}, None) for run in runs)) == f"preset short; {told}"
    tf32 = [["convolutions"], [], ["convolutions", "products"]]
    results = Results((run, {"provenance": {"tf32": found}}, None) for run, found in zip(runs, tf32, strict=True))
    in_tf32 = "convolutions, products in TF32 in 2 of 3 runs"
    assert conditions("short", results) == f"preset short; {told}; {in_tf32}"


def test_the_commit_of_the_claims_and_the_first_run_are_named(printed, monkeypatch):
    known = ("0123456789ab", "2026-01-03T12:00:00+00:00")
    monkeypatch.setattr("lit_hidden.engine.beforehand.changed", lambda path: known)
    for day, run in enumerate(load("fig0").grid("quick"), start=2):
        leave(run, provenance={"started": f"2026-01-0{day}T11:00:00+00:00", "finished": "2026-01-05T12:00:00+00:00"})
    assert "  claims last changed in 0123456789ab (2026-01-03), after the first run (2026-01-02)\n" in printed()
    found = judged("fig0")
    assert (found["claims_commit"], found["claims_changed"]) == known
    assert found["first_run"] == "2026-01-02T11:00:00+00:00"


def test_an_interval_without_width_is_printed_with_what_it_means(printed):
    add("fig0", ("CLAIMS = [", 'CLAIMS = [\n    Claim("always", lambda r: 1.0),'))
    assert "no width decides exact claims alone" in " ".join(printed().split())
