"""Claims judged: exact ones seed by seed, the others by leaving out each run in its cell."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import experiment
from scipy import stats

from experiments._intervals import jackknifed, more_scatter
from lit_hidden.judge import Claim, Verdict, decide, half_widths, judge
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parent.parent
FAILS = (10.0, 10.1, 9.9)


def table(cells: dict[float, Sequence[float]], net: str = "conv4", **result: Any) -> Results:
    """Accuracies by width, a seed each."""
    return Results(
        (Run(net=net, width=width, density=0.5, seed=seed), {"accuracy": accuracy, **result}, None)
        for width, accuracies in cells.items()
        for seed, accuracy in enumerate(accuracies)
    )


def alone(*accuracies: float, **options: Any) -> Verdict:
    """Judge the claim that one cell's mean is above 50."""
    return judge(Claim("it holds", lambda r: (r.mean() - 50,), **options), table({1: accuracies}))


def wider(r: Results) -> float:
    return r.mean(width=2) - r.mean(width=1)


def against(one: Sequence[float], other: Sequence[float], **options: Any) -> Verdict:
    """Judge the claim that one cell's mean is above another's."""
    return judge(Claim("ahead", wider, **options), table({2: one, 1: other}))


def parts(*margins: tuple[float, ...], **options: Any) -> Verdict:
    """Judge the claim whose part i has 50 + margins[i][j] at seed j."""
    claim = Claim("all hold", lambda r: (r.mean(width=w) - 50 for w in r.each("width")), **options)
    return judge(claim, table({i + 1: [50 + m for m in row] for i, row in enumerate(margins)}))


def test_the_side_of_zero_on_which_the_interval_lies_decides() -> None:
    # By hand: mean 4, standard error 1 / sqrt(3), t(2) = 4.302653, so the interval is 4 +- 2.484138.
    v = alone(53.0, 54.0, 55.0)
    assert (v.verdict, v.margin, v.seeds, v.unit, v.kind) == ("supported", 4.0, 3, "points", "primary")
    assert (v.low, v.high) == (pytest.approx(4 - 2.484138, abs=1e-6), pytest.approx(4 + 2.484138, abs=1e-6))
    assert (v.sentence, v.why) == ("it holds", "the 95% interval lies above 0")
    v = alone(47.0, 46.0, 45.0)
    assert (v.verdict, v.margin, v.why) == ("contradicted", -4.0, "the 95% interval lies below 0")
    for accuracies in ((51.0, 52.0, 53.0), (49.0, 48.0, 47.0), (49.0, 50.0, 51.0)):
        v = alone(*accuracies)
        assert (v.verdict, v.why, v.low < 0 < v.high) == ("undecided", "the 95% interval holds 0", True)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (3, 7), (6, 4)])
def test_a_difference_has_welchs_interval(n: int, m: int) -> None:
    random = np.random.default_rng(n)
    one, other = random.normal(62, 1, n).tolist(), random.normal(60, 3, m).tolist()
    v, expected = against(one, other), stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert v.margin == pytest.approx(np.mean(one) - np.mean(other), abs=1e-6)
    assert (v.low, v.high) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert v.verdict == ("supported" if expected.low > 0 else "contradicted" if expected.high < 0 else "undecided")


@pytest.mark.parametrize("side", [1, -0.1, 1 / 3])  # of equal decimals the mean may be another number
def test_seeds_that_do_not_differ_decide_exact_claims_alone(side: float) -> None:
    v = alone(*[50.0 + side] * 6)
    assert v.verdict == "undecided"
    assert v.why == "the seeds do not differ: an interval of no width decides exact claims alone"
    assert alone(*[50.0 + side] * 3, every=True).verdict == ("supported" if side > 0 else "contradicted")


def test_what_rounding_leaves_of_equals_is_no_margin() -> None:
    def nothing(r: Results) -> float:
        return r.mean() * (0.1 + 0.2) - r.mean() * 0.3

    r = table({1.0: (60.0, 61.0, 62.0)})
    assert nothing(r) != 0
    assert judge(Claim("flat", nothing), r).verdict == "undecided"
    assert judge(Claim("flat", lambda r: -abs(nothing(r)), every=True), r).verdict == "supported"


def test_too_few_seeds_in_any_cell_decide_nothing() -> None:
    v = against((70.0, 71.0, 72.0, 73.0), (60.0, 61.0))
    assert (v.verdict, v.why, v.seeds) == ("undecided", "too few seeds: 2 of at least 3", 2)
    assert (v.low, v.high) == (-math.inf, math.inf)
    assert [alone(55.0, 56.0, 57.0, 58.0, seeds=n).verdict for n in (4, 5)] == ["supported", "undecided"]
    with pytest.raises(ValueError, match="no run is done that could judge 'it works'"):
        judge(Claim("it works", wider), Results([]))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("every", [True, False])
def test_a_margin_that_is_no_number_decides_nothing(bad: float, every: bool) -> None:
    r = table({1: (60.0, 61.0, 62.0)}, odd=bad)
    v = judge(Claim("it holds", lambda one: one.mean() + one.values("odd")[0], every=every), r)
    assert (v.verdict, v.why, v.seeds) == ("undecided", f"a margin is {bad}", 3)


def test_an_exact_claim_holds_where_every_seed_and_every_part_does() -> None:
    v = alone(50.0, every=True, kind="check")
    assert (v.verdict, v.why, v.low, v.high, v.kind) == ("supported", "held for 1 of 1 seeds", 0.0, 0.0, "check")
    v = alone(60.0, 61.0, 10.0, every=True)
    assert (v.verdict, v.why) == ("contradicted", "held for 2 of 3 seeds"), "a seed at chance counts"
    v = parts((1.0, 2.0, 3.0), (5.0, -1.0, 0.0), every=True)
    assert (v.verdict, v.why, v.low, v.high) == ("contradicted", "held for 2 of 3 seeds", -1.0, 1.0)


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
    r = table({1: (50.2, 49.9, 50.1)})  # two parts of one scatter borrow nothing
    v = judge(Claim("within a point", lambda r: [1 - (r.mean() - 50), 1 + (r.mean() - 50)]), r)
    assert v.low == pytest.approx(51 - np.mean(r.values()) - stats.t.ppf(0.975, 2) * stats.sem(r.values()), abs=1e-6)
    two = np.full(3, 2.0)  # degrees of freedom of two parts and a floor, which borrows nothing
    assert half_widths(np.array([1.0, 4.0, 0.01]), two, parts=2)[2] == pytest.approx(0.1 * stats.t.ppf(0.975, 2))


def test_one_part_contradicts_a_claim_by_an_interval_widened_for_their_number() -> None:
    ahead = (8.0, 9.0, 10.0)
    # Its variance is the median, 1/3. t(2) at 1 - 0.025 / 3 is 7.648804; times sqrt(1/3), that is 4.416039.
    v = parts(ahead, (-5.0, -4.0, -6.0), (7.0, 8.0, 9.5))
    assert (v.verdict, v.margin, v.why) == ("contradicted", pytest.approx(-5), "one of 3 parts lies below 0")
    assert v.high == pytest.approx(-5 + 4.416039, abs=1e-5)
    assert alone(48.3, 47.3, 46.3).verdict == "contradicted"  # its 95% interval ends at -0.2
    assert parts(ahead, (-1.7, -2.7, -3.7), (7.0, 8.0, 9.5)).verdict == "undecided"


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


def test_claims_are_judged_without_runs_that_diverged_and_say_how_many() -> None:
    r = table({1: (60.0, 61.0, 62.0, 90.0), 2: (70.0, 71.0, 72.0, 73.0)})
    r.select(width=1, seed=3).rows[0][1]["diverged"] = 2
    v = judge(Claim("wider is better", wider), r)
    assert (v.verdict, v.margin, v.seeds) == ("supported", pytest.approx(71.5 - 61), 3)
    assert v.why == "the 95% interval lies above 0; diverged: 1 of 8 runs"
    v = judge(Claim("wider is better", wider, every=True), r)
    assert (v.verdict, v.seeds) == ("supported", 3), "of seed 3 the wider net is worse, and it diverged"
    assert v.why == "held for 3 of 3 seeds; diverged: 1 of 8 runs"


def test_means_are_of_three_seeds_at_least_that_train_and_the_verdict_says_which_do_not() -> None:
    one, other = (70.0, 71.0, 72.0, 10.0), (60.0, 61.0, 62.0, 61.0)
    v, expected = against(one, other), stats.ttest_ind(one[:3], other, equal_var=False).confidence_interval()
    ahead, behind = (Run(density=0.5, width=width).cell for width in (2, 1))
    assert (v.verdict, v.seeds, v.failed) == ("supported", 3, {ahead: (1, 4)})
    assert v.low == pytest.approx(expected.low, abs=1e-6)
    v = against((70.0, 71.0, 10.0), (60.0, 61.0, 62.0))
    assert (v.verdict, v.failed) == ("undecided", {ahead: (1, 3)})
    assert v.why == "too few seeds: 2 of at least 3"
    v = against((70.0, 71.0, 72.0), FAILS)
    assert (v.verdict, v.seeds, v.failed) == ("undecided", 0, {behind: (3, 3)})


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
    # The other way about, the arm that fails is behind all the same.
    best = (*(80.0 + i for i in range(7)),)
    assert against(best, good).verdict == "supported"


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


def test_a_random_mask_cannot_fail_and_a_claim_that_needs_each_run_can_leave_none_out() -> None:
    runs = vary([Run(density=0.5)], method=["edge_popup", "random"], seed=range(3))
    r = Results(
        (run, {"accuracy": (60.0 if run.method == "edge_popup" else 10.0) + run.seed / 10}, None) for run in runs
    )
    v = judge(Claim("found", lambda r: r.mean(method="edge_popup") - r.mean(method="random")), r)
    assert (v.verdict, v.seeds, v.failed) == ("supported", 3, {})
    v = judge(Claim("first", lambda r: r.mean(method="edge_popup", seed=0) - r.mean(method="random")), r)
    assert (v.verdict, v.why[:31]) == ("undecided", "too few runs to leave any out: ")


@pytest.mark.parametrize(("data", "chance", "more"), [("cifar10", 10, 10), ("imagenet", 0.1, 3)])
def test_alike_is_worth_something_above_chance_alone(data: str, chance: float, more: float) -> None:
    def within(level: float) -> Verdict:
        runs = vary([Run(density=0.5, data=data)], width=[1, 2], seed=range(3))
        rows = ((run, {"accuracy": level + 0.01 * run.seed + 0.001 * run.width}, None) for run in runs)
        claim = Claim("within a point", lambda r: 1 - wider(r), floor=lambda r: (r.mean(width=1), r.mean(width=2)))
        return judge(claim, Results(rows))

    assert within(chance + more + 0.5).verdict == "supported"
    v = within(chance + more - 0.5)
    assert (v.verdict, v.why) == ("undecided", "the nets do not beat chance by as much as they must")


def test_absent_cells_are_named_and_decide_nothing() -> None:
    grid = vary([Run(density=0.5, net="conv2")], width=[1, 2, 3], seed=range(3))
    r = table({1: (60.0, 61.0, 62.0)}, net="conv2", layers=[{"numel": 1}])
    second, third = grid[3].cell, grid[6].cell

    def layers(r: Results) -> float:
        return float(sum(layer["numel"] for layer in r.values("layers", width=1)[0]))

    for claim, why in (
        (Claim("wider", wider), f"1 of 2 cells: {second}"),
        (Claim("all", lambda r: [r.mean(width=w) for w in r.each("width")]), f"2 of 3 cells: {second}, {third}"),
        (Claim("exact", lambda r: r.mean(width=3), every=True), f"1 of 1 cells: {third}"),
        # A claim that reads more than numbers wants all cells.
        (Claim("layers", layers, every=True), f"2 of 3 cells: {second}, {third}"),
    ):
        v = judge(claim, r, grid)
        assert (v.verdict, v.why) == ("undecided", f"no run in {why}")
    assert judge(Claim("layers", layers, every=True), r).verdict == "supported"
    there = Claim("there", lambda r: r.mean(width=1) - 50, floor=lambda r: [r.mean(width=1)])
    assert judge(there, r, grid).verdict == "supported"
    v = judge(Claim("none", lambda r: r.mean(width=4)), r, grid)
    assert (v.verdict, v.why) == ("undecided", "not asked at this preset: no run has {'width': 4}; there are 9 runs")


@pytest.mark.parametrize(
    ("bounds", "word", "why"),
    [
        ((1.0, 0.5, 2.0), "supported", "the 95% interval lies above 0"),
        ((1.0, -0.5, 2.0), "undecided", "the 95% interval holds 0"),
        ((-1.0, -2.0, -0.5), "contradicted", "the 95% interval lies below 0"),
        ((math.nan, math.nan, math.nan), "undecided", "a margin is nan"),
    ],
)
def test_an_interval_of_its_own_decides_alone(bounds: tuple[float, float, float], word: str, why: str) -> None:
    v = judge(Claim("scatter", interval=lambda r: bounds), table({1: (60.0, 61.0, 62.0)}))
    assert (v.verdict, v.why) == (word, why)
    np.testing.assert_equal((v.margin, v.low, v.high), bounds)


def test_more_scatter_is_the_f_test() -> None:
    random = np.random.default_rng(3)
    few, others = random.normal(0, 4, 5), [random.normal(i, 1, 5) for i in range(3)]
    ratio, low, high = more_scatter(list(few), [list(values) for values in others])
    found = np.var(few, ddof=1) / np.mean([np.var(values, ddof=1) for values in others])
    assert 2**ratio == pytest.approx(math.sqrt(found))
    # At the bounds, the F distribution has 2.5% beyond the ratio of variances.
    assert stats.f.sf(found / 4**low, 4, 12) == pytest.approx(0.025)
    assert stats.f.cdf(found / 4**high, 4, 12) == pytest.approx(0.025)
    assert all(map(math.isnan, more_scatter([1.0, 1.0], [[1.0, 2.0]])))
    assert all(map(math.isnan, more_scatter([1.0, 2.0], [[1.0, 1.0]])))


@pytest.fixture(scope="module")
def calibration() -> Any:
    return experiment("_calibration")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (ROOT / "experiments" / "results" / "calibration" / "calibration.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_committed_calibration_meets_its_bounds(rows: list[dict[str, str]]) -> None:
    found = [row for row in rows if row["well_posed"] == "True"]
    assert len(found) > 60
    for row in found:
        assert float(row["false_support"]) <= (0.04 if row["noise"] == "skewed" else 0.03), row


def test_the_committed_calibration_is_what_the_code_gives(calibration: Any, rows: list[dict[str, str]]) -> None:
    """By the F test, whose simulation is the quickest."""
    (told,) = (row for row in rows if row["claim"].startswith("scatter") and row["noise"] == "normal")
    found = calibration.scatter("normal", 5, 4000, 1000)
    assert {name: told[name] for name in calibration.RATES} == {
        name: "" if found[name] is None else str(found[name]) for name in calibration.RATES
    }


def test_the_docs_quote_the_calibration(rows: list[dict[str, str]]) -> None:
    worst = max(100 * float(row["false_support"]) for row in rows if row["well_posed"] == "True")
    many = {"claim": "8 differences", "noise": "normal", "seeds": "3"}
    (power,) = (100 * float(row["power"]) for row in rows if many.items() <= row.items())
    text = " ".join((ROOT / "docs" / "judging.md").read_text().split())
    assert f"in at most {worst:.1f}% of cases" in text
    assert f"three seeds, {power:.0f}% are called supported" in text


def test_the_calibration_judges_as_claims_are_judged(calibration: Any) -> None:
    values = 60 + np.random.default_rng(0).normal(size=(4, 3))
    found = decide(*calibration.leave_out(values, calibration.differences(2).statistic))
    claim = Claim("ahead", lambda r: [r.mean(width=1) - r.mean(width=2), r.mean(width=3) - r.mean(width=4)])
    v = judge(claim, table(dict(zip((1, 2, 3, 4), values.tolist(), strict=True))))
    assert (v.verdict, v.why) == (found.word, found.why)
    assert (v.margin, v.low, v.high) == pytest.approx((found.margin, found.low, found.high), abs=1e-6)


def test_an_interval_of_no_width_or_on_the_side_that_is_no_finding_decides_nothing():
    for bounds, one_sided, word in (((5.0, 5.0, 5.0), False, "undecided"), ((-5.0, -6.0, -4.0), True, "undecided"),
                                    ((-5.0, -6.0, -4.0), False, "contradicted")):  # fmt: skip
        claim = Claim("more", interval=lambda r, bounds=bounds: bounds, one_sided=one_sided)
        v = judge(claim, table({1: (60.0, 61.0, 62.0)}))
        assert (v.verdict, v.margin, v.low, v.high) == (word, *bounds)


def test_an_interval_that_leaves_out_items_is_welchs_for_two_means():
    one, other = [3.0, 4.5, 5.0, 7.0], [1.0, 1.5, 4.0]
    found = jackknifed(lambda cells: float(np.mean(cells[0]) - np.mean(cells[1])), [one, other])
    bounds = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert found == pytest.approx((np.mean(one) - np.mean(other), *bounds))
