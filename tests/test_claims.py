"""Claims judged: exact ones seed by seed, the others by the jackknife and Student's interval."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_hidden.experiment import MIN_SEEDS, Claim, Results, Run, Verdict, confidence_interval, jackknife, judge, vary


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


def results() -> Results:
    """Accuracy 10 * density + seed, listed in no order."""
    runs = vary([Run()], density=[0.5, 0.3], seed=[2, 0, 1])
    return Results((run, {"accuracy": 10 * (run.density or 0) + run.seed}, None) for run in runs)


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


def parts(*margins: tuple[float, ...], every: bool = False) -> Verdict:
    """Judge the claim whose part i has margins[i][j] at seed j."""
    runs = [
        (Run(seed=s, width=i + 1), {"accuracy": m}, None) for i, row in enumerate(margins) for s, m in enumerate(row)
    ]
    claim = Claim("all hold", lambda r: (r.mean(width=w) for w in r.each("width")), every=every)
    return judge(claim, Results(runs))


def test_a_claim_of_several_parts_is_supported_if_each_is() -> None:
    v = parts((8.0, 9.0, 10.0), (3.0, 4.0, 5.0), (20.0, 50.0, 80.0))
    # The part that holds least: the third has the larger mean and the wider interval, 50 +- 74.5.
    assert (v.verdict, v.margin, v.why) == ("undecided", pytest.approx(50), "the least of 3 parts holds 0")
    assert v.low == pytest.approx(50 - 30 * 2.484138, abs=1e-4)
    v = parts((8.0, 9.0, 10.0), (3.0, 4.0, 5.0))
    assert (v.verdict, v.margin, v.why) == ("supported", pytest.approx(4), "the least of 2 parts lies above 0")
    assert v.low == pytest.approx(4 - 2.484138, abs=1e-6)


def test_one_part_contradicts_a_claim_by_an_interval_widened_for_their_number() -> None:
    ahead = (8.0, 9.0, 10.0)
    # t(2) at 0.99167 is 7.648804 (for three parts), so that of a half interval of 7.648804 / sqrt(3) = 4.416039.
    v = parts(ahead, (-5.0, -4.0, -6.0), ahead)
    assert (v.verdict, v.margin, v.why) == ("contradicted", pytest.approx(-5), "one of 3 parts lies below 0")
    assert v.high == pytest.approx(-5 + 4.416039, abs=1e-5)
    assert parts((-3.0, -4.0, -5.0)).verdict == "contradicted"  # alone; its 95% interval ends at -1.5
    assert parts(ahead, (-3.0, -4.0, -5.0), ahead).verdict == "undecided"


def test_an_exact_claim_of_several_parts_holds_where_all_do() -> None:
    v = parts((1.0, 2.0, 3.0), (5.0, -1.0, 0.0), every=True)
    assert (v.verdict, v.why, v.low, v.high) == ("contradicted", "held for 2 of 3 seeds", -1.0, 1.0)


@pytest.mark.parametrize(("cells", "most"), [(1, 0.04), (8, 0.04)])
def test_a_claim_that_just_does_not_hold_is_seldom_judged(cells: int, most: float) -> None:
    """At a true margin of 0 in every part, 2.5% contradicted and at most 2.5% supported, however many parts."""
    random = np.random.default_rng(0)
    words = [parts(*map(tuple, random.normal(0, 1, (cells, 5)))).verdict for _ in range(400)]
    assert words.count("supported") <= most * len(words)
    assert words.count("contradicted") <= most * len(words)


def test_a_claim_may_ask_for_more_seeds() -> None:
    r = Results([(Run(seed=s), {"accuracy": 5.0 + s}, None) for s in range(4)])
    v = judge(Claim("it holds", lambda one: one.mean(), seeds=5), r)
    assert (v.verdict, v.why) == ("undecided", "too few seeds: 4 of at least 5")
    assert judge(Claim("it holds", lambda one: one.mean(), seeds=4), r).verdict == "supported"


def test_the_jackknife_of_a_ratio_of_variances_by_hand() -> None:
    # Variances of (1, 3, 8): 13; of its pairs (3, 8), (1, 8), (1, 3): 12.5, 24.5, 2. log 13 = 2.5649, and so on.
    r = Results([(Run(seed=s), {"accuracy": a}, None) for s, a in enumerate((1.0, 3.0, 8.0))])
    (shares,) = jackknife(lambda several: [math.log(np.var(several.values(), ddof=1))], r)
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
    assert np.mean(jackknife(lambda several: [best(several)], r)) == pytest.approx(3 * 62 - 2 * 63)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=12))
def test_the_jackknife_of_a_mean_gives_the_values_back(values: list[float]) -> None:
    r = Results([(Run(seed=s), {"accuracy": v}, None) for s, v in enumerate(values)])
    assert jackknife(lambda several: [several.mean()], r) == [pytest.approx(values, abs=1e-9)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 8))
def test_the_jackknife_agrees_with_one_written_in_numpy(seed: int, n: int) -> None:
    values = np.random.default_rng(seed).normal(50, 5, n)
    r = Results([(Run(seed=s), {"accuracy": float(v)}, None) for s, v in enumerate(values)])
    left_out = [np.median(np.delete(values, i)) for i in range(n)]
    expected = n * np.median(values) - (n - 1) * np.array(left_out)
    (shares,) = jackknife(lambda several: [float(np.median(several.values()))], r)
    assert shares == pytest.approx(expected, abs=1e-9)


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


def test_no_results_judge_nothing():
    with pytest.raises(ValueError) as error:
        judge(Claim("it works", lambda results: results.mean()), Results([]))
    assert str(error.value) == "no run is done that could judge 'it works'; train some first"
