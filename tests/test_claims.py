"""Claims judged: exact ones seed by seed, the others by leaving out each run in its cell."""

import csv
import math
import runpy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_hidden.judge import (
    KINDS,
    MIN_SEEDS,
    Claim,
    Verdict,
    clopper_pearson,
    confidence_interval,
    decide,
    failed,
    judge,
    more_scatter,
)
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parent.parent
made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).with_name("fabricated.py")))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


def table(cells: dict[float, Sequence[float]], net: str = "conv4", **result: Any) -> Results:
    """Accuracies by width, a seed each."""
    return Results(
        (Run(net=net, width=width, density=0.5, seed=seed), {"accuracy": accuracy, **result}, None)
        for width, accuracies in cells.items()
        for seed, accuracy in enumerate(accuracies)
    )


def alone(*accuracies: float, least: float = 50.0, **options: Any) -> Verdict:
    """Judge the claim that one cell's mean is above `least`."""
    claim = Claim("it holds", lambda r: (r.mean() - least,), **options)
    return judge(claim, table({1: accuracies}))


def against(one: Sequence[float], other: Sequence[float], **options: Any) -> Verdict:
    """Judge the claim that one cell's mean is above another's."""
    return judge(Claim("ahead", lambda r: r.mean(width=2) - r.mean(width=1), **options), table({2: one, 1: other}))


def test_a_claim_whose_interval_lies_above_zero_is_supported() -> None:
    # By hand: mean 4, standard error 1 / sqrt(3), t(2) = 4.302653, so the interval is 4 +- 2.484138.
    v = alone(53.0, 54.0, 55.0)
    assert (v.verdict, v.margin, v.seeds, v.unit, v.kind) == ("supported", 4.0, 3, "points", "primary")
    assert (v.low, v.high) == (pytest.approx(4 - 2.484138, abs=1e-6), pytest.approx(4 + 2.484138, abs=1e-6))
    assert (v.sentence, v.why) == ("it holds", "the 95% interval lies above 0")


def test_a_claim_whose_interval_lies_below_zero_is_contradicted() -> None:
    v = alone(47.0, 46.0, 45.0)
    assert (v.verdict, v.margin, v.why) == ("contradicted", -4.0, "the 95% interval lies below 0")
    assert v.high == pytest.approx(-4 + 2.484138, abs=1e-6)


@pytest.mark.parametrize("accuracies", [(51.0, 52.0, 53.0), (49.0, 48.0, 47.0), (49.0, 50.0, 51.0)])
def test_a_claim_whose_interval_holds_zero_is_undecided(accuracies: tuple[float, ...]) -> None:
    v = alone(*accuracies)
    assert (v.verdict, v.why) == ("undecided", "the 95% interval holds 0")
    assert v.low < 0 < v.high


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 7), st.integers(3, 7))
def test_a_difference_has_welchs_interval(seed: int, n: int, m: int) -> None:
    random = np.random.default_rng(seed)
    one, other = random.normal(62, 1, n).tolist(), random.normal(60, 3, m).tolist()
    v, expected = against(one, other), stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert v.margin == pytest.approx(np.mean(one) - np.mean(other), abs=1e-6)
    assert (v.low, v.high) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert v.verdict == ("supported" if expected.low > 0 else "contradicted" if expected.high < 0 else "undecided")


def test_seeds_pair_nothing_unless_the_design_crosses_them() -> None:
    one, other = (60.0, 70.0, 80.0), (50.1, 59.9, 70.0)  # 10 points apart at every seed, and far apart between seeds
    assert against(one, other).verdict == "undecided"
    v = against(one, other, by="seed")
    expected = stats.ttest_rel(one, other).confidence_interval()
    assert v.verdict == "supported"
    assert (v.low, v.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    v = against(one[:2], other[:2], by="seed")
    assert (v.verdict, v.why) == ("undecided", "too few values of seed: 2 of at least 3")


@pytest.mark.parametrize("side", [1, -1, 0.1, -0.1, 1 / 3])  # of equal decimals the mean may be another number
@pytest.mark.parametrize("seeds", [3, 5, 6, 7])
def test_seeds_that_do_not_differ_decide_exact_claims_alone(side: float, seeds: int) -> None:
    v = alone(*[50.0 + side] * seeds)
    assert (v.verdict, v.why) == (
        "undecided", "the seeds do not differ: an interval of no width decides exact claims alone"
    )  # fmt: skip
    assert alone(50.0 + side, 50.0 + side, 50.0 + side, every=True).verdict == (
        "supported" if side > 0 else "contradicted"
    )


def test_what_rounding_leaves_of_equals_is_no_margin() -> None:
    nets = {1.0: 0.1, 2.0: 0.2, 3.0: 0.3, 4.0: 0.4}

    def slope(r: Results) -> float:
        return float(
            np.polyfit(list(nets), [r.mean(width=w) * (0.1 + 0.2) - r.mean(width=w) * 0.3 for w in nets], 1)[0]
        )

    r = table(dict.fromkeys(nets, (60.0, 61.0, 62.0)))
    assert slope(r) != 0
    assert judge(Claim("flat", slope), r).verdict == "undecided"
    assert judge(Claim("flat", lambda r: min(0.0, slope(r), -slope(r)), every=True), r).verdict == "supported"


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing(seeds: int) -> None:
    v = alone(*[90.0, 91.0][:seeds])
    assert (v.verdict, v.why) == ("undecided", f"too few seeds: {seeds} of at least 3")
    assert (v.low, v.high, v.seeds) == (-math.inf, math.inf, seeds)
    assert MIN_SEEDS == 3


def test_the_cell_with_fewest_seeds_counts() -> None:
    v = against((70.0, 71.0, 72.0, 73.0), (60.0, 61.0))
    assert (v.verdict, v.why, v.seeds) == ("undecided", "too few seeds: 2 of at least 3", 2)


def test_a_claim_may_ask_for_more_seeds() -> None:
    accuracies = (55.0, 56.0, 57.0, 58.0)
    v = alone(*accuracies, seeds=5)
    assert (v.verdict, v.why) == ("undecided", "too few seeds: 4 of at least 5")
    assert alone(*accuracies, seeds=4).verdict == "supported"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", [True, False])
def test_a_margin_that_is_no_number_decides_nothing(bad: float, every: bool) -> None:
    r = table({1: (60.0, 61.0, 62.0)}, odd=bad)
    v = judge(Claim("it holds", lambda one: one.mean() + one.values("odd")[0], every=every), r)
    assert (v.verdict, v.why, v.seeds) == ("undecided", f"a margin is {bad}", 3)


def test_an_exact_claim_is_decided_by_a_single_seed() -> None:
    v = alone(50.0, every=True, kind="check")
    assert (v.verdict, v.why, v.low, v.high, v.kind) == ("supported", "held for 1 of 1 seeds", 0.0, 0.0, "check")


def test_an_exact_claim_falls_with_a_single_seed() -> None:
    v = alone(55.0, 49.9, 57.0, 58.0, every=True)
    assert (v.verdict, v.why) == ("contradicted", "held for 3 of 4 seeds")
    assert (v.low, v.high) == pytest.approx((-0.1, 8.0))


def test_the_margin_of_an_exact_claim_sees_one_seed_at_a_time() -> None:
    seen = []

    def margin(one: Results) -> float:
        seen.append(one.seeds)
        return one.mean(width=2) - one.mean(width=1)

    v = judge(Claim("wider is better", margin, every=True), table({1: (1.0, 2.0, 3.0), 2: (3.0, 4.0, 5.0)}))
    assert seen[-3:] == [[0], [1], [2]]
    assert (v.verdict, v.margin) == ("supported", pytest.approx(2))


def test_other_margins_see_all_runs_and_then_all_but_one_run_of_one_cell() -> None:
    seen = []

    def margin(r: Results) -> float:
        seen.append((tuple(r.values(width=2)), tuple(r.values(width=1))))
        return r.mean(width=2) - r.mean(width=1)

    judge(Claim("wider is better", margin), table({1: (60.0, 61.0, 62.0), 2: (70.0, 71.0, 72.0)}))
    one, other = (70.0, 71.0, 72.0), (60.0, 61.0, 62.0)
    pairs = [one[1:], one[::2], one[:2]], [other[1:], other[::2], other[:2]]
    assert {*seen[1:]} == {(one, other), *((p, other) for p in pairs[0]), *((one, p) for p in pairs[1])}


def parts(*margins: tuple[float, ...], **options: Any) -> Verdict:
    """Judge the claim whose part i has 50 + margins[i][j] at seed j."""
    claim = Claim("all hold", lambda r: (r.mean(width=w) - 50 for w in r.each("width")), **options)
    return judge(claim, table({i + 1: [50 + m for m in row] for i, row in enumerate(margins)}))


def test_a_claim_of_several_parts_is_supported_if_each_is() -> None:
    v = parts((8.0, 9.0, 10.0), (3.0, 4.0, 5.0), (15.0, 20.0, 25.0))
    assert (v.verdict, v.margin, v.why) == ("supported", pytest.approx(4), "the least of 3 parts lies above 0")
    v = parts((8.0, 9.0, 10.0), (3.0, 4.0, 5.0), (0.0, 20.0, 40.0))
    assert (v.verdict, v.margin, v.why) == ("undecided", pytest.approx(20), "the least of 3 parts holds 0")
    # The part that holds least: the third has the larger mean and the wider interval, and borrows nothing.
    assert v.low == pytest.approx(20 - 20 * 4.302653 / math.sqrt(3), abs=1e-4)


def test_a_part_that_scatters_little_by_luck_borrows_from_the_others() -> None:
    v = parts((3.0, 4.0, 5.0), (20.0, 22.0, 24.0), (30.0, 33.0, 36.0))
    # Variances of the means: 1/3, 4/3, 9/3; their median lends one degree of freedom to the first's two.
    half = 3.182446 * math.sqrt((4 / 3 + 2 * 1 / 3) / 3)
    assert (v.margin, v.low) == (pytest.approx(4), pytest.approx(4 - half, abs=1e-5))


def test_a_point_either_way_is_two_parts_of_one_scatter_and_borrows_nothing() -> None:
    r = table({1: (50.2, 49.9, 50.1)})
    v = judge(Claim("within a point", lambda r: [1 - (r.mean() - 50), 1 + (r.mean() - 50)]), r)
    assert v.low == pytest.approx(1 - (confidence_interval(r.values())[1] - 50), abs=1e-6)


def test_one_part_contradicts_a_claim_by_an_interval_widened_for_their_number() -> None:
    ahead = (8.0, 9.0, 10.0)
    # Its variance is the median, 1/3. t(2) at 1 - 0.025 / 3 is 7.648804; times sqrt(1/3), that is 4.416039.
    v = parts(ahead, (-5.0, -4.0, -6.0), (7.0, 8.0, 9.5))
    assert (v.verdict, v.margin, v.why) == ("contradicted", pytest.approx(-5), "one of 3 parts lies below 0")
    assert v.high == pytest.approx(-5 + 4.416039, abs=1e-5)
    assert parts((-1.7, -2.7, -3.7)).verdict == "contradicted"  # alone; its 95% interval ends at -0.2
    assert parts(ahead, (-1.7, -2.7, -3.7), (7.0, 8.0, 9.5)).verdict == "undecided"


def test_an_exact_claim_of_several_parts_holds_where_all_do() -> None:
    v = parts((1.0, 2.0, 3.0), (5.0, -1.0, 0.0), every=True)
    assert (v.verdict, v.why, v.low, v.high) == ("contradicted", "held for 2 of 3 seeds", -1.0, 1.0)


def test_a_largest_of_several_means_loses_the_bias_that_leaving_out_shows() -> None:
    cells = {1.0: (60.0, 60.0, 66.0), 2.0: (60.0, 66.0, 60.0), 3.0: (62.0, 62.0, 62.5)}
    v = judge(Claim("best", lambda r: max(r.mean(width=w) for w in cells) - 50), table(cells))
    means = {w: np.mean(x) for w, x in cells.items()}
    without = {
        w: [max([np.mean(np.delete(x, i)), *(m for o, m in means.items() if o != w)]) for i in range(3)]
        for w, x in cells.items()
    }
    whole = max(means.values())
    assert v.margin == pytest.approx(whole - 50 - sum(2 * (np.mean(x) - whole) for x in without.values()), abs=1e-6)
    variance = sum(2 / 3 * np.square(x - np.mean(x)).sum() for x in without.values())
    free = variance**2 / sum((2 / 3 * np.square(x - np.mean(x)).sum()) ** 2 / 2 for x in without.values())
    assert v.high - v.margin == pytest.approx(stats.t.ppf(0.975, free) * math.sqrt(variance), abs=1e-5)


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
    n = run.test_images
    least = 100 * stats.binom.ppf(0.999, n, 1 / run.num_classes) / n
    assert failed(run, {"accuracy": least - 100 / n})
    assert not failed(run, {"accuracy": least})
    assert least - 100 / n == pytest.approx(most, abs=0.005 + 100 / n / 2)
    assert failed(run, {"accuracy": 90.0, "loss": math.nan})
    assert failed(run, {"accuracy": 90.0, "loss": math.inf})
    assert failed(run, {"accuracy": math.nan})
    random = Run(density=0.5, data=data, classes=classes, method="random").resolved
    assert not failed(random, {"accuracy": least - 100 / n, "loss": math.nan})
    guesses = {"metric": "error", "better": "lower", "error": 90.0}  # of a task, what a guesser does is not known
    task = Run(density=0.5, data=data, classes=classes, task="my.tasks.Task").resolved
    assert [failed(task, guesses | {"loss": loss}) for loss in (1.0, math.nan)] == [False, True]


def test_claims_are_judged_without_runs_that_diverged_and_say_how_many() -> None:
    r = table({1: (60.0, 61.0, 62.0, 90.0), 2: (70.0, 71.0, 72.0, 73.0)})
    r.select(width=1, seed=3).rows[0][1]["diverged"] = 2
    v = judge(Claim("wider is better", lambda one: one.mean(width=2) - one.mean(width=1)), r)
    assert (v.verdict, v.margin, v.seeds) == ("supported", pytest.approx(71.5 - 61), 3)
    assert v.why == "the 95% interval lies above 0; diverged: 1 of 8 runs"
    v = judge(Claim("wider is better", lambda one: one.mean(width=2) - one.mean(width=1), every=True), r)
    assert (v.verdict, v.seeds) == ("supported", 3), "of seed 3 the wider net is worse, and it diverged"
    assert v.why == "held for 3 of 3 seeds; diverged: 1 of 8 runs"


FAILS = (10.0, 10.1, 9.9)


def test_means_are_of_seeds_that_train_and_the_verdict_says_which_do_not() -> None:
    one, other = (70.0, 71.0, 72.0, 10.0), (60.0, 61.0, 62.0, 61.0)
    v, expected = against(one, other), stats.ttest_ind(one[:3], other, equal_var=False).confidence_interval()
    assert (v.verdict, v.seeds, v.failed) == ("supported", 3, {"conv4x2-k50-signed_constant": (1, 4)})
    assert v.low == pytest.approx(expected.low, abs=1e-6)


def test_nothing_is_decided_by_fewer_than_three_survivors() -> None:
    v = against((70.0, 71.0, 10.0), (60.0, 61.0, 62.0))
    assert (v.verdict, v.failed) == ("undecided", {"conv4x2-k50-signed_constant": (1, 3)})
    assert v.why == "too few seeds: 2 of at least 3 train: conv4x2-k50-signed_constant: 1 of 3 seeds fail"
    v = against((70.0, 71.0, 72.0), FAILS)
    assert (v.verdict, v.seeds, v.failed) == ("undecided", 0, {})  # all of a cell: it is no cell of which some fail


@pytest.mark.parametrize("up", [True, False])
def test_an_arm_that_fails_more_often_than_the_other_is_not_ahead(up: bool) -> None:
    good, worse = (70.0, 71.0, 72.0, *FAILS, 10.0), tuple(60.0 + i for i in range(7))
    v = against(good, worse) if up else against(worse, good)
    assert (v.verdict, v.seeds) == ("undecided", 3)
    side = "above" if up else "below"
    assert v.why == (
        f"only among survivors, the 95% interval lies {side} 0: 4 of 7 seeds fail where it is ahead, "
        "0 of 7 where it is not"
    )
    assert stats.fisher_exact([[4, 3], [0, 7]], alternative="greater").pvalue < 0.1
    # The other way about, the arm that fails is behind all the same.
    assert against((*(80.0 + i for i in range(7)),), good).verdict == "supported"


def test_failures_are_counted_over_all_parts_of_a_claim() -> None:
    """Two of five seeds against none are chance in one part, and are not in eight."""
    good, other = (70.0, 71.0, 72.0, *FAILS[:2]), tuple(60.0 + i for i in range(5))
    cells = {w: good if w % 2 else other for w in range(1, 17)}

    def ahead(r: Results, parts: int) -> list[float]:
        return [r.mean(width=w) - r.mean(width=w + 1) for w in range(1, 2 * parts, 2)]

    assert judge(Claim("ahead", lambda r: ahead(r, 1)), table(cells)).verdict == "supported"
    v = judge(Claim("ahead", lambda r: ahead(r, 8)), table(cells))
    assert v.verdict == "undecided"
    assert v.why.endswith("above 0: 16 of 40 seeds fail where it is ahead, 0 of 40 where it is not")


def test_cells_of_one_name_are_told_apart() -> None:
    runs = vary([Run(density=0.5, net="conv2")], lr=[0.1, 0.2], seed=range(4))
    r = Results((run, {"accuracy": 10.0 if run.seed == 3 else 60.0 + run.seed}, None) for run in runs)
    v = judge(Claim("alike", lambda r: r.mean(lr=0.1) - r.mean(lr=0.2)), r)
    assert sorted(v.failed) == sorted({run.resolved.cell for run in runs})
    assert set(v.failed.values()) == {(1, 4)}


def test_a_crossed_design_needs_all_its_runs() -> None:
    v = against((70.0, 71.0, 72.0, 10.0), (60.0, 61.0, 62.0, 63.0), by="seed")
    assert (v.verdict, v.why) == ("undecided", "runs that fail: 1; a design that crosses seed needs all")
    runs = vary([Run(density=0.5, seed=1)], weight_seed=range(3), width=[1, 2])
    r = Results((run, {"accuracy": 60.0 + run.width + run.weight_seed}, None) for run in runs if run.seed == 1)
    claim = Claim("wider", lambda r: r.mean(width=2) - r.mean(width=1, weight_seed=0), by="weight_seed")
    v = judge(claim, r)
    assert (v.verdict, v.why[:31]) == ("undecided", "too few runs to leave any out: ")


def test_a_random_mask_cannot_fail() -> None:
    runs = vary([Run(density=0.5)], method=["edge_popup", "random"], seed=range(3))
    r = Results(
        (run, {"accuracy": (60.0 if run.method == "edge_popup" else 10.0) + run.seed / 10}, None) for run in runs
    )
    v = judge(Claim("found", lambda r: r.mean(method="edge_popup") - r.mean(method="random")), r)
    assert (v.verdict, v.seeds, v.failed) == ("supported", 3, {})


@pytest.mark.parametrize(("data", "chance", "more"), [("cifar10", 10, 10), ("imagenet", 0.1, 3)])
def test_alike_is_worth_something_above_chance_alone(data: str, chance: float, more: float) -> None:
    def within(level: float) -> Verdict:
        runs = vary([Run(density=0.5, data=data)], width=[1, 2], seed=range(3))
        rows = ((run, {"accuracy": level + 0.01 * run.seed + 0.001 * run.width}, None) for run in runs)
        claim = Claim(
            "within a point",
            lambda r: 1 - (r.mean(width=2) - r.mean(width=1)),
            floor=lambda r: (r.mean(width=1), r.mean(width=2)),
        )
        return judge(claim, Results(rows))

    assert within(chance + more + 0.5).verdict == "supported"
    v = within(chance + more - 0.5)
    assert (v.verdict, v.why) == ("undecided", "the nets do not beat chance by as much as they must")


def test_absent_cells_are_named_and_decide_nothing() -> None:
    grid = vary([Run(density=0.5, net="conv2")], width=[1, 2, 3], seed=range(3))
    r = table({1: (60.0, 61.0, 62.0)}, net="conv2")
    claim = Claim("wider", lambda r: r.mean(width=2) - r.mean(width=1))
    v = judge(claim, r, grid)
    assert (v.verdict, v.why) == ("undecided", "1 cell is absent: conv2x2-k50-signed_constant")
    v = judge(Claim("all", lambda r: [r.mean(width=w) for w in r.each("width")]), r, grid)
    assert v.why == "2 cells are absent: conv2x2-k50-signed_constant, conv2x3-k50-signed_constant"
    v = judge(Claim("exact", lambda r: r.mean(width=3), every=True), r, grid)
    assert (v.verdict, v.why) == ("undecided", "1 cell is absent: conv2x3-k50-signed_constant")
    there = Claim("there", lambda r: r.mean(width=1) - 50, floor=lambda r: [r.mean(width=1)])
    assert judge(there, r, grid).verdict == "supported"


def test_a_claim_that_reads_more_than_numbers_wants_all_cells() -> None:
    grid = vary([Run(density=0.5, net="conv2")], width=[1, 2], seed=range(3))
    r = table({1: (60.0, 61.0, 62.0)}, net="conv2", layers=[{"numel": 1}])

    def layers(r: Results) -> float:
        return float(sum(layer["numel"] for layer in r.values("layers", width=1)[0]))

    assert judge(Claim("layers", layers, every=True), r).verdict == "supported"
    v = judge(Claim("layers", layers, every=True), r, grid)
    assert v.why == "1 cell is absent: conv2x2-k50-signed_constant"


def test_an_interval_of_its_own_decides_alone() -> None:
    r = table({1: (60.0, 61.0, 62.0)})
    for bounds, word in (
        ((1.0, 0.5, 2.0), "supported"),
        ((1.0, -0.5, 2.0), "undecided"),
        ((-1.0, -2.0, -0.5), "contradicted"),
    ):
        v = judge(Claim("scatter", interval=lambda r, bounds=bounds: (r.mean() - r.mean(), *bounds)[1:]), r)
        assert (v.verdict, v.margin, v.low, v.high) == (word, *bounds)
    v = judge(Claim("scatter", interval=lambda r: (math.nan,) * 3), r)
    assert (v.verdict, v.why) == ("undecided", "a margin is nan")


def test_more_scatter_is_the_f_test() -> None:
    random = np.random.default_rng(3)
    few, others = random.normal(0, 4, 5), [random.normal(i, 1, 5) for i in range(3)]
    ratio, low, high = more_scatter(list(few), [list(values) for values in others])
    pooled = np.mean([np.var(values, ddof=1) for values in others])
    assert 2**ratio == pytest.approx(math.sqrt(np.var(few, ddof=1) / pooled))
    # At the bounds, the F distribution has 2.5% beyond the ratio of variances.
    found = np.var(few, ddof=1) / pooled
    assert stats.f.sf(found / 4**low, 4, 12) == pytest.approx(0.025)
    assert stats.f.cdf(found / 4**high, 4, 12) == pytest.approx(0.025)
    assert all(map(math.isnan, more_scatter([1.0, 1.0], [[1.0, 2.0]])))
    assert all(map(math.isnan, more_scatter([1.0, 2.0], [[1.0, 1.0]])))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.data())
def test_clopper_and_pearsons_interval(of: int, data: st.DataObject) -> None:
    failures = data.draw(st.integers(0, of))
    expected = stats.binomtest(failures, of).proportion_ci(method="exact")
    assert clopper_pearson(failures, of) == pytest.approx((expected.low, expected.high), abs=1e-9)


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


def test_no_results_judge_nothing() -> None:
    claim = Claim("it works", lambda results: results.mean())
    assert refusal(lambda: judge(claim, Results([]))) == "no run is done that could judge 'it works'; train some first"


def test_an_unknown_kind_is_refused() -> None:
    message = "kind='sure' of a claim is unknown; kinds are primary, secondary, exploratory, check"
    assert refusal(lambda: Claim("it works", lambda r: 1.0, kind="sure")) == message
    assert KINDS[0] == "primary"


def rows() -> Iterable[dict[str, str]]:
    with (ROOT / "experiments" / "results" / "calibration" / "calibration.csv").open() as file:
        yield from csv.DictReader(file)


def test_the_committed_calibration_meets_its_bounds() -> None:
    found = [row for row in rows() if row["well_posed"] == "True"]
    assert len(found) > 60
    for row in found:
        assert float(row["false_support"]) <= (0.04 if row["noise"] == "skewed" else 0.03), row
        assert float(row["power"]) >= float(row["power_paired"] or 0), row
    (many,) = (r for r in found if (r["claim"], r["noise"], r["seeds"]) == ("8 differences", "normal", "3"))
    assert float(many["power"]) > float(many["power_paired"]) + 0.3
    assert float(many["power_paired"]) < 0.15


def test_the_committed_calibration_is_what_the_code_gives() -> None:
    calibration = made["experiment"]("_calibration")
    name = "1 difference, arms 1 to 3"
    told, _ = (row for row in rows() if (row["claim"], row["noise"]) == (name, "normal"))
    (seed, case, n), _ = (r for r in calibration.every() if (r[1].name, r[1].noise) == (name, "normal"))
    found = calibration.rates(case, n, 4000, seed)
    assert {name: told[name] for name in calibration.RATES} == {name: str(found[name]) for name in calibration.RATES}


def test_the_readme_quotes_the_calibration() -> None:
    text = " ".join((ROOT / "docs" / "judging.md").read_text().split())

    def percent(name: str, rate: str = "false_support", **where: str) -> list[float]:
        found = [r for r in rows() if r["claim"].startswith(name) and where.items() <= r.items()]
        return sorted(100 * float(row[rate]) for row in found)

    assert f"in at most {percent('', well_posed='True')[-1]:.1f}% of cases" in text
    single = percent("1 difference", well_posed="True")
    assert f"({single[0]:.1f}% to {single[-1]:.1f}% of single differences" in text
    (many,) = (row for row in rows() if (row["claim"], row["noise"], row["seeds"]) == ("8 differences", "normal", "3"))
    power, paired = (100 * float(many[name]) for name in ("power", "power_paired"))
    assert f"three seeds, {power:.0f}% are called supported; paired by seed, as before, {paired:.0f}% were" in text
    assert f"{percent('best of 5 densities, 3')[-1]:.1f}% for the best of several densities" in text
    assert f"{percent('1 difference, the arm behind')[-1]:.1f}% where only the arm behind" in text
    assert f"{percent('scatter', noise='skewed')[0]:.0f}% for the claim about scatter" in text


def test_the_calibration_judges_as_claims_are_judged() -> None:
    calibration = made["experiment"]("_calibration")
    random = np.random.default_rng(0)
    values = 60 + random.normal(size=(4, 3))
    case = calibration.differences(2)
    found = decide(*calibration.leave_out(values, case.statistic))
    claim = Claim("ahead", lambda r: [r.mean(width=1) - r.mean(width=2), r.mean(width=3) - r.mean(width=4)])
    v = judge(claim, table(dict(zip((1, 2, 3, 4), values.tolist(), strict=True))))
    assert (v.verdict, v.why) == (found.word, found.why)
    assert (v.margin, v.low, v.high) == pytest.approx((found.margin, found.low, found.high), abs=1e-6)
