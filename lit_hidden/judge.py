"""Judging: a Claim is a sentence with a margin, which results support, contradict or leave undecided.

How often that is wrong is simulated by `make calibration`; the numbers are in `experiments/results/calibration`.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lit_hidden.recipes import IMAGES, method
from lit_hidden.results import NoRunsError, Results, Row, diverged, quality
from lit_hidden.run import Run

MIN_SEEDS = 3
KINDS = ("primary", "secondary", "exploratory", "check")
PRIOR = 1.0  # degrees of freedom that the other parts of a claim lend to each; see `decide`
DIGITS = 9  # of a margin: what rounding errors leave of a difference of equals must not decide

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Claim:
    """A sentence, and the margin by which results bear it out: above 0 they do, of exact claims from 0 on.

    Args:
        sentence: what is claimed.
        margin: from results to the margin, in `unit`; or to several, one for each part of a claim that holds only if
            every part does ("in every net", "by less than a point either way").
        unit: what the margin counts, for the table.
        kind: `primary`; `secondary`, such as the best of several settings; `exploratory`, such as what one run of
            somebody else suggests; `check`: it must hold by construction, and says nothing of nature.
        every: the claim is exact and must hold for every single seed, so one seed can decide it: `margin` is given
            one seed's results at a time. Otherwise its 95% confidence interval over seeds decides, see `judge`.
        floor: accuracies, in percent, that must beat chance by 10 points (by 3 where there are 100 classes or more)
            for the claim to be supported: nets that learn nothing are alike, and that supports nothing.
        by: a field of the Run that the design crosses with others, such as `weight_seed`: then all runs that share a
            value of it are left out together. None: seeds are redrawn in each cell, and pair nothing.
        interval: gives margin, low and high itself, from the runs that train; in place of `margin`.
        seeds: fewer in a cell decide nothing, but for exact claims.
    """

    sentence: str
    margin: Callable[[Results], float | Iterable[float]] = lambda results: math.nan
    unit: str = "points"
    kind: str = "primary"
    every: bool = False
    floor: Callable[[Results], Iterable[float]] | None = None
    by: str | None = None
    interval: Callable[[Results], tuple[float, float, float]] | None = None
    seeds: int = MIN_SEEDS

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} of a claim is unknown; kinds are {', '.join(KINDS)}")

    def margins(self, results: Results) -> list[float]:
        """Give the margin of each part."""
        if self.interval is not None:
            return [self.interval(results)[0]]
        found = self.margin(results)
        return [float(part) for part in found] if isinstance(found, Iterable) else [float(found)]

    def floors(self, results: Results) -> list[float]:
        """Give by how much each accuracy of the floor beats what chance and the demanded points give."""
        if self.floor is None:
            return []
        if not (classes := results.runs[0].num_classes):  # what a guesser does is not known
            return []
        least = 100 / classes + (10 if classes < 100 else 3)
        return [float(accuracy) - least for accuracy in self.floor(results)]


@dataclass(frozen=True)
class Verdict:
    """A claim judged: `supported`, `contradicted` or `undecided`, and why.

    `low` and `high` bound the margin with 95% confidence over seeds; for an exact claim they are the smallest and the
    largest margin. Of a claim of several parts they are those of the part that decided. `seeds` is the number of seeds
    that train, in the cell that has fewest; `failed` says of the cells read in which some seeds fail and some do not
    how many of how many fail.
    """

    sentence: str
    verdict: str
    margin: float
    low: float
    high: float
    seeds: int
    unit: str
    every: bool
    why: str
    kind: str = "primary"
    failed: dict[str, tuple[int, int]] = field(default_factory=dict)


def failed(run: Run, result: Mapping[str, Any]) -> bool:
    """Tell whether a run did not learn: it diverged, or its test accuracy is no better than chance.

    That is below the .999 quantile of a guesser's: of 10,000 images of 10 classes, 10.94%. A random mask does not learn
    and so cannot fail. Of tasks and data of one's own, what a guesser does is not known.

    Args:
        run: resolved.
        result: of the run, or its row of `results.csv`.
    """
    accuracy = quality(result)
    if method(str(run.method)).learns is None:
        return False
    if diverged(result) or not math.isfinite(accuracy):
        return True
    if run.task is not None or not run.num_classes:
        return False
    from scipy.special import bdtrik

    _, _, _, images, classes = IMAGES[run.data]
    images = round(images * run.num_classes / classes)
    least = math.ceil(bdtrik(0.999, images, 1 / run.num_classes))
    return bool(round(accuracy * images / 100) < least)


def confidence_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Bound the mean of at least 2 values with Student's t.

    Raises:
        ValueError: fewer than 2 values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} values have no confidence interval; give at least 2")
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    half = float(stdtrit(n - 1, 0.5 + level / 2) * np.std(values, ddof=1) / math.sqrt(n))
    mean = sum(values) / n
    return mean - half, mean + half


def clopper_pearson(failures: int, of: int) -> tuple[float, float]:
    """Bound a failure rate with 95% confidence (Clopper & Pearson 1934)."""
    from scipy.special import betaincinv

    low = betaincinv(failures, of - failures + 1, 0.025) if failures else 0.0
    high = betaincinv(failures + 1, of - failures, 0.975) if failures < of else 1.0
    return float(low), float(high)


def more_scatter(few: Sequence[float], others: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Bound by how many doublings the standard deviation of `few` exceeds that pooled over `others`, by the F test.

    It wants normal noise: of skewed noise it supports equals in 9% of cases and not in 2.5%.

    Returns:
        the logarithm to base 2 of the ratio, and its 95% bounds.
    """
    from scipy.special import fdtri

    free = len(few) - 1, sum(len(values) - 1 for values in others)
    pooled = sum((len(values) - 1) * np.var(values, ddof=1) for values in others) / free[1]
    ratio = float(np.var(few, ddof=1) / pooled) if pooled else math.nan
    low, high = (ratio / float(fdtri(*free, quantile)) for quantile in (0.975, 0.025))
    if not ratio > 0:
        return math.nan, math.nan, math.nan
    return 0.5 * math.log2(ratio), 0.5 * math.log2(low), 0.5 * math.log2(high)


def spread(whole: Array, left_out: Iterable[Array]) -> tuple[Array, Array, Array]:
    """Estimate statistics, their variance over seeds and its degrees of freedom: the jackknife, cell by cell.

    Of a difference of two means these are the difference and Welch's. Of a largest of several means, of a slope or a
    logarithm they say how much hangs on each run, and take off the bias that this shows. Source: Miller, Biometrika 61
    (1974), 1-15; Satterthwaite, Biometrics Bulletin 2 (1946), 110-114.

    Args:
        whole: the P statistics of all runs `(P,)`.
        left_out: of each cell, the same without each of its n runs `(n, P)`.

    Returns:
        estimates, variances (0 where nothing moves) and degrees of freedom, each `(P,)`.
    """
    estimate, variance, below = whole.copy(), np.zeros_like(whole), np.zeros_like(whole)
    for values in left_out:
        n, mean = len(values), values.mean(0)
        share = (
            (n - 1) / n * np.square((values - mean).round(DIGITS)).sum(0)
        )  # of equals the mean may be another number
        estimate -= (n - 1) * (mean - whole)
        variance += share
        below += np.square(share) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate.round(DIGITS), variance, np.where(below > 0, np.square(variance) / below, 1.0)


def half_widths(own: Array, freedom: Array, parts: int, among: int = 1) -> Array:
    """Give half of the 95% interval of each part of a claim, and of each floor behind them.

    A part whose scatter seems smaller than that of the others by luck makes a claim of many parts hard to support. So
    each whose variance lies below their median borrows from it with one degree of freedom (after Smyth 2004).

    Args:
        own: variances `(P + floors,)`.
        freedom: their degrees of freedom.
        parts: P.
        among: widen the interval for so many (Bonferroni).
    """
    from scipy.special import stdtrit

    lent = np.median(own[:parts]) - own
    lent[parts:] = 0
    prior = PRIOR * (lent > 0)
    variance = own + prior * lent / (prior + freedom)
    half: Array = stdtrit(freedom + prior, 1 - 0.025 / among) * np.sqrt(variance)
    return half


@dataclass(frozen=True)
class Decision:
    """A verdict by intervals: the word, the part that decided with its estimate and 95% interval, and why."""

    word: str
    part: int
    margin: float
    low: float
    high: float
    why: str


def decide(whole: Array, left_out: Sequence[Array], floors: int = 0) -> Decision:
    """Judge the parts of a claim by their intervals.

    It is supported if every part's interval lies above 0: that needs no correction, since all must. One part is enough
    to contradict it, which chance gives more readily the more there are: for that the intervals are widened
    (Bonferroni), so that a true claim is contradicted at most as often as one of a single part. An interval of no width
    decides nothing.

    Args:
        whole: margins `(P + floors,)`.
        left_out: of each cell, the same `(n, P + floors)` without each of its n runs.
        floors: how many of the last ones are no parts but a floor, which contradicts nothing.
    """
    parts = len(whole) - floors
    margins, own, freedom = spread(whole, left_out)
    half, wide = (half_widths(own, freedom, parts, among) for among in (1, parts))
    weakest = int(np.argmin(margins - half))
    worst = int(np.argmin(np.where(own > 0, margins + wide, math.inf)[:parts]))

    def decision(word: str, part: int, half: Array, why: str) -> Decision:
        at, side = float(margins[part]), float(half[part])
        return Decision(word, part, at, at - side, at + side, why)

    several = f"of {parts} parts " if parts > 1 else ""
    the_least = f"the least {several}" if several else "the 95% interval "
    if (margins - half > 0).all() and own[:parts].all():
        return decision("supported", weakest, half, f"{the_least}lies above 0")
    if own[worst] > 0 and margins[worst] + wide[worst] < 0:
        return decision("contradicted", worst, wide, f"{f'one {several}' if several else the_least}lies below 0")
    why = f"{the_least}holds 0"
    if weakest >= parts:
        why = "the nets do not beat chance by as much as they must"
    elif not own[weakest]:
        why = "the seeds do not differ: an interval of no width decides exact claims alone"
    return decision("undecided", weakest, half, why)


def judge(claim: Claim, results: Results, grid: Iterable[Run] | None = None) -> Verdict:
    """Judge a claim by results: an exact one seed by seed, the others by confidence intervals over seeds.

    Each run is left out in turn within its cell (the runs that differ by seed alone); see `spread` and `decide`. Claims
    about accuracies are about seeds that train (`failed` tells which do not), but nothing is decided on survivors
    alone: not where fewer than `claim.seeds` of a cell train, nor where the arm that is ahead fails more often than
    the other (Fisher's exact test, 10%).

    Args:
        claim: what to judge.
        results: what is done of the grid.
        grid: the runs there should be; None: those that are done. A claim some of whose cells are absent is undecided.
    """
    if not len(results):
        raise ValueError(f"no run is done that could judge {claim.sentence!r}; train some first")
    grid = [run.resolved for run in grid] if grid is not None else [run for run, _ in results]
    try:
        reads = _reads(claim, grid)
    except NoRunsError as error:
        return Verdict(claim.sentence, "undecided", math.nan, -math.inf, math.inf, 0, claim.unit, claim.every,
                       f"not asked at this preset: {error}", claim.kind)  # fmt: skip
    cells: dict[str, list[Row]] = {run.cell: [] for run in grid if reads(run)}
    for row in results.rows:
        if row[0].cell in cells:
            cells[row[0].cell].append(row)
    trains = {name: [row for row in rows if not _failed(row)] for name, rows in cells.items()}
    fails = {name: (len(rows) - len(trains[name]), len(rows)) for name, rows in cells.items()}
    called = _called(run.cell for run in grid)
    mixed = {called[name]: some for name, some in fails.items() if 0 < some[0] < some[1]}
    whole = {name: [row for row in rows if not diverged(row[1])] for name, rows in cells.items()}
    total = sum(map(len, cells.values()))
    lost = total - sum(map(len, whole.values()))
    seeds = min(len(rows) for rows in (whole if claim.every else trains).values())

    def verdict(
        word: str, why: str, margin: float = math.nan, low: float = -math.inf, high: float = math.inf
    ) -> Verdict:
        why += f"; diverged: {lost} of {total} runs" if lost else ""
        return Verdict(claim.sentence, word, margin, low, high, seeds, claim.unit, claim.every, why, claim.kind, mixed)

    if absent := [called[name] for name, rows in cells.items() if not rows]:
        return verdict("undecided", f"{_several(len(absent), 'cell')} absent: {_listed(absent)}")
    if claim.every:
        return _exact(
            claim, results, set.intersection(*({row[0].seed for row in rows} for rows in whole.values())), verdict
        )
    if claim.by is None and seeds < claim.seeds:
        few = {name: fails[name] for name, rows in trains.items() if len(rows) < claim.seeds}
        told = [f"{called[name]}: {bad} of {of} seeds fail" for name, (bad, of) in few.items() if bad]
        why = f"too few seeds: {seeds} of at least {claim.seeds}"
        return verdict("undecided", f"{why} train: {_listed(told)}" if told else why)
    stuck = {row[0].hash for rows in cells.values() for row in rows if _failed(row)}
    if claim.interval is not None:
        with results.without(stuck):
            return _by_interval(*claim.interval(results), verdict)
    if claim.by is not None and stuck:
        return verdict("undecided", f"runs that fail: {len(stuck)}; a design that crosses {claim.by} needs all")
    try:
        return _by_leaving_out(claim, results, trains, stuck, verdict)
    except NoRunsError as error:
        return verdict("undecided", f"too few runs to leave any out: {error}")


def _by_leaving_out(
    claim: Claim, results: Results, trains: dict[str, list[Row]], stuck: set[str], verdict: Callable[..., Verdict]
) -> Verdict:
    def statistics(without: Iterable[str] = ()) -> Array:
        with results.without(stuck.union(without)):
            return np.array(claim.margins(results) + claim.floors(results)).round(DIGITS)

    whole = statistics()
    units = [[[row[0].hash] for row in rows] for rows in trains.values()]
    if claim.by is not None:
        levels: dict[Any, list[str]] = {}
        for run, _, _ in (row for rows in trains.values() for row in rows):
            levels.setdefault(getattr(run, claim.by), []).append(run.hash)
        units = [list(levels.values())]
        if len(levels) < claim.seeds:
            return verdict("undecided", f"too few values of {claim.by}: {len(levels)} of at least {claim.seeds}")
    left_out = [np.stack([statistics(unit) for unit in group]) for group in units]
    if not all(np.isfinite(values).all() for values in (whole[None], *left_out)):
        bad = next(float(v) for values in (whole[None], *left_out) for v in values.flat if not math.isfinite(v))
        return verdict("undecided", f"a margin is {bad}", float(np.min(whole)), bad, bad)
    found = decide(whole, left_out, floors=len(claim.floors(results)))
    if stuck and found.word != "undecided":
        parts = slice(len(claim.margins(results))) if found.word == "supported" else slice(found.part, found.part + 1)
        if told := _survivors(parts, found.word, results, trains, left_out):
            found = replace(found, word="undecided", why=f"only among survivors, {found.why}: {told}")
    return verdict(found.word, found.why, found.margin, found.low, found.high)


def _survivors(
    parts: slice, word: str, results: Results, trains: dict[str, list[Row]], left_out: Sequence[Array]
) -> str | None:
    """Say how many seeds fail of the arm that is ahead in parts of a claim, if more than of the other.

    An arm is all cells whose accuracy raises the margin, or lowers it; a random mask, always at chance, is in none.
    """
    arms = np.zeros((2, 2), int)  # ahead, behind; seeds that fail, seeds
    for (name, rows), values in zip(trains.items(), left_out, strict=True):
        accuracies = np.array([quality(row[1]) for row in rows])
        # Without a run, its cell's mean is the lower the better the run.
        slopes = -(values[:, parts] - values[:, parts].mean(0)).T @ (accuracies - accuracies.mean())
        side = np.sign(slopes.round(DIGITS)).sum()
        if side and method(str(rows[0][0].method)).learns:
            seeds = sum(row[0].cell == name for row in results.rows)
            arms[int((side > 0) != (word == "supported"))] += seeds - len(rows), seeds
    if not _fails_more(*arms.flat):
        return None
    (bad, of), (others, of_others) = arms
    return f"{bad} of {of} seeds fail where it is ahead, {others} of {of_others} where it is not"


def _fails_more(failures: int, of: int, others: int, of_others: int) -> bool:
    """Tell whether one arm fails more often than another, by Fisher's exact test at 10%."""
    if not (of and of_others and failures):
        return False
    from scipy.stats import hypergeom

    chance = hypergeom.sf(failures - 1, of + of_others, failures + others, of)
    return bool(chance < 0.1)


def _by_interval(margin: float, low: float, high: float, verdict: Callable[..., Verdict]) -> Verdict:
    if not all(map(math.isfinite, (margin, low, high))):
        return verdict("undecided", f"a margin is {margin}", margin, low, high)
    word = "supported" if low > 0 else "contradicted" if high < 0 else "undecided"
    side = {"supported": "lies above 0", "contradicted": "lies below 0", "undecided": "holds 0"}[word]
    return verdict(word, f"the 95% interval {side}", margin, low, high)


def _exact(claim: Claim, results: Results, seeds: Iterable[int], verdict: Callable[..., Verdict]) -> Verdict:
    each = [round(min(claim.margins(results.select(seed=seed))), DIGITS) for seed in sorted(seeds)]
    if not each:
        return verdict("undecided", "no seed has all of its runs")
    if bad := [margin for margin in each if not math.isfinite(margin)]:
        return verdict("undecided", f"a margin is {bad[0]}", bad[0], bad[0], bad[0])
    word = "supported" if min(each) >= 0 else "contradicted"
    held = f"held for {sum(margin >= 0 for margin in each)} of {len(each)} seeds"
    return verdict(word, held, sum(each) / len(each), min(each), max(each))


def _failed(row: Row) -> bool:
    return failed(row[0], row[1])


class _Anything(dict[str, Any]):
    """A result that has every number."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> float:
        return 50.0


def _reads(claim: Claim, grid: Sequence[Run]) -> Callable[[Run], bool]:
    """Find the cells whose results a claim reads, by having it judge made-up results of the whole grid."""
    made_up = Results([(run, _Anything(), None) for run in grid])
    with made_up.reading() as read, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            claim.margins(made_up), claim.floors(made_up)
        except NoRunsError:
            raise
        except Exception:  # it reads more than numbers: all cells, then
            return lambda run: True
    cells = {run.cell for run in grid if run.hash in read}
    return lambda run: run.cell in cells if cells else True


def _called(cells: Iterable[str]) -> dict[str, str]:
    """Call cells by their names without hashes, where those are theirs alone."""
    every = set(cells)
    times = Counter(cell.partition(" ")[0] for cell in every)
    return {cell: name if times[name := cell.partition(" ")[0]] == 1 else cell for cell in every}


def _several(count: int, word: str) -> str:
    return f"{count} {word} is" if count == 1 else f"{count} {word}s are"


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
