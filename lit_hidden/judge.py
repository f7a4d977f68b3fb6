"""Judging: a Claim is a sentence with a margin, which results support, contradict or leave undecided.

`make calibration` simulates how often that is wrong; the numbers are in `experiments/results/calibration`.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from lit_hidden.recipes import method
from lit_hidden.results import NoRunsError, Results, Row, diverged, failed, quality
from lit_hidden.run import Run

DIGITS = 9  # of a margin: rounding errors in the difference of equals must not decide

Array = np.ndarray[Any, np.dtype[np.float64]]
Cells = dict[str, list[Row]]  # the runs of each cell: those that differ by seed alone


@dataclass(frozen=True)
class Claim:
    """A sentence, and the margin by which results bear it out: above 0, or, of exact claims, at least 0."""

    sentence: str
    # Of a claim that holds only if every part does ("in every net"), it gives the margin of each part.
    margin: Callable[[Results], float | Iterable[float]] = lambda results: math.nan
    unit: str = "points"
    kind: Literal["primary", "secondary", "exploratory", "check"] = "primary"  # see docs/judging.md
    every: bool = False  # exact: it must hold for every seed; `margin` is given one seed's results at a time
    # Accuracies (%) that must beat chance by 10 points (by 3 from 100 classes on): nets that learn nothing are alike.
    floor: Callable[[Results], Iterable[float]] | None = None
    # Gives margin, low and high, from the runs that train; in place of `margin`.
    interval: Callable[[Results], tuple[float, float, float]] | None = None
    seeds: int = 3  # fewer in a cell decide nothing, except for exact claims
    one_sided: bool = False  # an interval below 0 is no finding: the claim stays undecided

    def margins(self, results: Results) -> list[float]:
        """Give the margin of each part."""
        found = self.margin(results) if self.interval is None else self.interval(results)[0]
        return [float(part) for part in found] if isinstance(found, Iterable) else [float(found)]

    def floors(self, results: Results) -> list[float]:
        """Give by how much each accuracy of the floor exceeds the level that it must beat; none of unknown data."""
        if self.floor is None or not (classes := results.runs[0].num_classes):
            return []
        least = 100 / classes + (10 if classes < 100 else 3)
        return [float(accuracy) - least for accuracy in self.floor(results)]


@dataclass(frozen=True)
class Verdict:
    """A claim judged: `supported`, `contradicted` or `undecided`, and why.

    `low` and `high` bound the margin with 95% confidence over seeds, that of the part that decided; of an exact claim
    they are the smallest and the largest. `seeds` is the smallest number of seeds that train in a cell. `failed` gives
    failures and seeds of the cells in which some fail.
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


@dataclass(frozen=True)
class Decision:
    """The word of a verdict, why, the margin that decided with its bounds, and the part that it is of."""

    word: str
    why: str
    margin: float = math.nan
    low: float = -math.inf
    high: float = math.inf
    part: int = 0


_undecided = partial(Decision, "undecided")


def spread(whole: Array, left_out: Iterable[Array]) -> tuple[Array, Array, Array]:
    """Estimate statistics, their variance over seeds and its degrees of freedom: the jackknife, cell by cell.

    `whole` are the P statistics of all runs `(P,)`, `left_out` for each cell the same without each of its n runs
    `(n, P)`. Returns three arrays `(P,)`; of a difference of two means these are the difference and Welch's. The bias
    of a maximum, as far as this shows it, is removed.
    Source: Miller, Biometrika 61 (1974), 1-15; Satterthwaite, Biometrics Bulletin 2 (1946), 110-114.
    """
    estimate, variance, below = whole.copy(), np.zeros_like(whole), np.zeros_like(whole)
    for values in left_out:
        n, mean = len(values), values.mean(0)
        away = (values - mean).round(DIGITS)  # the mean of equals may differ from them
        share = (n - 1) / n * np.square(away).sum(0)
        estimate -= (n - 1) * (mean - whole)
        variance += share
        below += np.square(share) / (n - 1)
    freedom = np.divide(np.square(variance), below, out=np.ones_like(whole), where=below > 0)
    return estimate.round(DIGITS), variance, freedom


def half_widths(own: Array, freedom: Array, parts: int, among: int = 1) -> Array:
    """Give half of the 95% interval of each part of a claim, and of each floor behind the parts.

    `own` are variances `(parts + floors,)` with degrees of freedom `freedom`; the interval is widened for `among` parts
    (Bonferroni). A part that scatters less than the median part borrows from it, with one degree of freedom (after
    Smyth 2004): with few seeds that may be luck.
    """
    from scipy.special import stdtrit

    lent = np.median(own[:parts]) - own
    lent[parts:] = 0
    prior = (lent > 0).astype(float)
    variance = own + prior * lent / (prior + freedom)
    return np.asarray(stdtrit(freedom + prior, 1 - 0.025 / among) * np.sqrt(variance))


def decide(whole: Array, left_out: Sequence[Array], floors: int = 0) -> Decision:
    """Judge the parts of a claim by their intervals; shapes as in `spread`.

    It is supported if every part's interval lies above 0. One part alone contradicts it; since chance does that more
    readily the more parts there are, its interval is widened. An interval of no width decides nothing. The last
    `floors` margins are no parts: a floor contradicts nothing.
    """
    parts = len(whole) - floors
    margins, own, freedom = spread(whole, left_out)
    half, wide = (half_widths(own, freedom, parts, among) for among in (1, parts))
    weakest = int(np.argmin(margins - half))
    worst = int(np.argmin(np.where(own > 0, margins + wide, math.inf)[:parts]))

    def decision(word: str, why: str, part: int = weakest, half: Array = half) -> Decision:
        at, side = float(margins[part]), float(half[part])
        return Decision(word, why, at, at - side, at + side, part)

    one, least = (f"one of {parts} parts", f"the least of {parts} parts") if parts > 1 else ["the 95% interval"] * 2
    if (margins - half > 0).all() and own[:parts].all():
        return decision("supported", f"{least} lies above 0")
    if own[worst] > 0 and margins[worst] + wide[worst] < 0:
        return decision("contradicted", f"{one} lies below 0", worst, wide)
    if weakest >= parts:
        return decision("undecided", "the nets do not beat chance by as much as they must")
    if not own[weakest]:
        return decision("undecided", "the seeds do not differ: an interval of no width decides exact claims alone")
    return decision("undecided", f"{least} holds 0")


def judge(claim: Claim, results: Results, grid: Iterable[Run] | None = None) -> Verdict:
    """Judge a claim by results: an exact one seed by seed, the others by confidence intervals over seeds.

    Claims about accuracies are about seeds that train (see `failed`), but survivors alone decide nothing: not where
    fewer than `claim.seeds` of a cell train, nor where the arm that is ahead fails more often than the other (Fisher's
    exact test, 10%). `grid` are the runs there should be, by default those done: absent cells leave a claim undecided.
    """
    if not len(results):
        raise ValueError(f"no run is done that could judge {claim.sentence!r}; train some first")
    grid = [run.resolved for run in (results.runs if grid is None else grid)]
    verdict = partial(Verdict, claim.sentence, unit=claim.unit, every=claim.every, kind=claim.kind)
    try:
        cells = {cell: [row for row in results.rows if row[0].cell == cell] for cell in _cells_read(claim, grid)}
    except NoRunsError as error:
        return verdict("undecided", math.nan, -math.inf, math.inf, 0, why=f"not asked at this preset: {error}")
    trains = {cell: [row for row in rows if not failed(*row[:2])] for cell, rows in cells.items()}
    finite = {cell: [row for row in rows if not diverged(row[1])] for cell, rows in cells.items()}
    counted = finite if claim.every else trains
    found = _found(claim, results, cells, counted)
    total, there = (sum(map(len, each.values())) for each in (cells, finite))
    why = found.why + (f"; diverged: {total - there} of {total} runs" if there < total else "")
    lost = {c: (len(rows) - len(trains[c]), len(rows)) for c, rows in cells.items() if len(trains[c]) < len(rows)}
    seeds = min(map(len, counted.values()))
    return verdict(found.word, found.margin, found.low, found.high, seeds, why=why, failed=lost)


def _found(claim: Claim, results: Results, cells: Cells, trains: Cells) -> Decision:
    """Decide by the runs of each cell that train; of an exact claim, those whose loss is finite."""
    if absent := [cell for cell, rows in cells.items() if not rows]:
        more = ", ..." if len(absent) > 4 else ""
        return _undecided(f"no run in {len(absent)} of {len(cells)} cells: {', '.join(absent[:4])}{more}")
    if claim.every:
        return _exact(claim, results, trains)
    if (fewest := min(map(len, trains.values()))) < claim.seeds:
        return _undecided(f"too few seeds: {fewest} of at least {claim.seeds}")
    there, good = ({row[0].hash for rows in each.values() for row in rows} for each in (cells, trains))
    training = results.without(there - good)
    if claim.interval is not None:
        try:
            found = _by_interval(*claim.interval(training))
        except NoRunsError as error:
            return _undecided(f"too few runs: {error}")
        no_finding = claim.one_sided and found.word == "contradicted"
        return replace(found, word="undecided", why=f"{found.why}, which is no finding") if no_finding else found

    def statistics(without: Iterable[str] = ()) -> Array:
        left = training.without(without)
        return np.array(claim.margins(left) + claim.floors(left)).round(DIGITS)

    try:
        whole, floors = statistics(), len(claim.floors(training))
        left_out = [np.stack([statistics([run.hash]) for run, _, _ in rows]) for rows in trains.values()]
    except NoRunsError as error:
        return _undecided(f"too few runs to leave any out: {error}")
    if bad := [float(value) for values in (whole, *left_out) for value in values.flat if not math.isfinite(value)]:
        return _undecided(f"a margin is {bad[0]}", float(np.min(whole)), bad[0], bad[0])
    found = decide(whole, left_out, floors)
    if found.word != "undecided" and (fails := _survivors(found, len(whole) - floors, cells, trains, left_out)):
        return replace(found, word="undecided", why=f"only among survivors, {found.why}: {fails}")
    return found


def _survivors(found: Decision, parts: int, cells: Cells, trains: Cells, left_out: Sequence[Array]) -> str | None:
    """Say how many seeds fail in the arm that is ahead, if significantly more than in the other.

    An arm is all cells whose accuracy raises the margin, or lowers it; a random mask, always at chance, is in none.
    """
    decided = list(range(parts)) if found.word == "supported" else [found.part]
    arms = np.zeros((2, 2), int)  # ahead, behind; seeds that fail, seeds that train
    for (name, rows), values in zip(trains.items(), left_out, strict=True):
        accuracies = np.array([quality(row[1]) for row in rows])
        # Without a run, the better it is, the lower is the mean of its cell.
        slopes = -(values[:, decided] - values[:, decided].mean(0)).T @ (accuracies - accuracies.mean())
        side = np.sign(slopes.round(DIGITS)).sum()
        if side and method(str(rows[0][0].method)).learns:
            arms[int((side > 0) != (found.word == "supported"))] += len(cells[name]) - len(rows), len(rows)
    if not arms[0, 0]:
        return None
    from scipy.stats import fisher_exact

    if fisher_exact(arms, alternative="greater").pvalue >= 0.1:
        return None
    (bad, good), (others, good_others) = arms
    return f"{bad} of {bad + good} seeds fail where it is ahead, {others} of {others + good_others} where it is not"


def _by_interval(margin: float, low: float, high: float) -> Decision:
    if low == high:
        return _undecided("the 95% interval has no width", margin, low, high)
    word, lies = ("supported", "lies above") if low > 0 else ("undecided", "holds")
    word, lies = ("contradicted", "lies below") if high < 0 else (word, lies)
    why = f"the 95% interval {lies} 0" if math.isfinite(margin) else f"a margin is {margin}"
    return Decision(word, why, margin, low, high)


def _exact(claim: Claim, results: Results, finite: Cells) -> Decision:
    seeds = set.intersection(*({row[0].seed for row in rows} for rows in finite.values()))
    each = [round(min(claim.margins(results.select(seed=seed))), DIGITS) for seed in sorted(seeds)]
    if not each:
        return _undecided("no seed has all of its runs")
    if bad := [margin for margin in each if not math.isfinite(margin)]:
        return _undecided(f"a margin is {bad[0]}", bad[0], bad[0], bad[0])
    word = "supported" if min(each) >= 0 else "contradicted"
    why = f"held for {sum(margin >= 0 for margin in each)} of {len(each)} seeds"
    return Decision(word, why, sum(each) / len(each), min(each), max(each))


def _cells_read(claim: Claim, grid: Sequence[Run]) -> list[str]:
    """List the cells whose results a claim reads, by having it judge made-up results of the whole grid."""
    read: set[str] = set()

    def number(cell: str) -> float:
        read.add(cell)
        return 50.0

    made_up = Results((run, defaultdict(partial(number, run.cell)), None) for run in grid)
    cells = list(dict.fromkeys(run.cell for run in grid))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            claim.margins(made_up), claim.floors(made_up)
        except NoRunsError:
            raise
        except Exception:  # it reads more than numbers: all cells, then
            return cells
    return [cell for cell in cells if cell in read] or cells
