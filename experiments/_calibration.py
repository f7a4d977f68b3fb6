"""How often verdicts are wrong: grids of known truth, simulated and judged as the engine judges.

    python experiments/_calibration.py [--grids 4000] [--out experiments/results/calibration]

A row is a kind of claim, a kind of noise and a number of seeds. An accuracy is its true mean plus noise with a standard
deviation of 1 point, unless the row says otherwise (0.3 for the best of five densities). "Coverage" is how often the
95% interval of a part holds the truth. "False support": one part of the claim is exactly at 0, and the others hold by
far. "False contradiction": every part is at 0. "Power": every part holds by 3 standard deviations of the difference of
two runs (F test: one cell scatters 4 times as much); how often the claim is supported.

The method is made for well-posed rows: no run fails, the noise of both arms is of one family, of equal variances if it
is skewed, and a maximum has no ties. The other rows show what happens outside. Where runs fail, false support is rare
because fewer than three seeds that train decide nothing; Fisher's test helps only in arms of many cells.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments._intervals import more_scatter
from lit_hidden.engine.store import write_atomically
from lit_hidden.engine.written import as_csv
from lit_hidden.judge import Array, Claim, decide, half_widths, judge, spread
from lit_hidden.results import Results
from lit_hidden.run import Run

NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {  # of variance 1
    "normal": lambda random, shape: random.normal(size=shape),
    "t3": lambda random, shape: random.standard_t(3, shape) / np.sqrt(3),
    "skewed": lambda random, shape: random.exponential(size=shape) - 1,
}
SEEDS = (3, 5)
RATES = ("coverage", "false_support", "false_contradiction", "power")


@dataclass(frozen=True)
class Case:
    """A claim about means of C cells, where its truth lies, and the noise of the cells."""

    name: str
    statistic: Callable[[Array], Array]  # from means `(..., C)` to margins `(..., P)`
    edge: Array  # means where one part is at 0 and the others hold by far
    null: Array  # where every part is at 0
    holds: Array  # where every part holds by 3 standard deviations
    scale: Array  # of the noise of each cell
    noise: tuple[str, ...] = ("normal",)  # of the cells, in turn
    well_posed: bool = True

    def draw(self, random: np.random.Generator, means: Array, n: int) -> Array:
        noise = [NOISE[self.noise[cell % len(self.noise)]](random, (n,)) for cell in range(len(means))]
        return means[:, None] + self.scale[:, None] * np.stack(noise)


def leave_out(values: Array, statistic: Callable[[Array], Array]) -> tuple[Array, list[Array]]:
    """Give margins `(P,)` of accuracies `(C, n)`, and for each cell those without each run `(n, P)`."""
    cells, n = values.shape
    means = np.repeat(values.mean(1)[None], cells * n, 0).reshape(cells, n, cells)
    at = np.arange(cells)
    means[at, :, at] = (values.sum(1, keepdims=True) - values) / (n - 1)
    return statistic(values.mean(1)), list(statistic(means))


def differences(
    parts: int, *noise: str, arms: tuple[float, float] = (1, 1), first: float = 1.0, name: str = "", **more: bool
) -> Case:
    """Two cells differ, in each of several parts; `first` multiplies the noise of the first part."""
    scale = np.tile(np.array(arms, float), (parts, 1))
    scale[0] *= first
    three = 3 * np.sqrt(np.square(scale).sum(1))

    def means(margins: Array) -> Array:
        return np.stack([60 + margins, np.full(parts, 60.0)], 1).ravel()

    name = name or f"{parts} difference{'s' if parts > 1 else ''}"
    name += f", arms {arms[0]:g} to {arms[1]:g}" if arms[0] != arms[1] else ""
    name += f", one part's noise x{first:g}" if first != 1 else ""
    far = np.append(0, 20 * three[1:])
    return Case(name, lambda m: m[..., ::2] - m[..., 1::2], means(far), means(np.zeros(parts)), means(three),
                scale.ravel(), noise or ("normal",), **more)  # fmt: skip


def best_of_several(name: str, means: list[float]) -> Case:
    """The best of five densities is at most 1 point below a dense net."""
    edge = np.array([*means, max(means) + 1])
    holds = edge - np.array([0] * 5 + [3 * 0.3 * np.sqrt(2)])
    return Case(f"best of 5 densities, {name}", lambda m: 1 - (m[..., 5:] - m[..., :5].max(-1, keepdims=True)), edge,
                edge, holds, np.full(6, 0.3))  # fmt: skip


THREE = 3 * np.sqrt(2)  # standard deviations of a difference
BEST = best_of_several("peak as in figure 3", [62.13, 76.19, 78.17, 74.59, 56.4])  # Conv2's: see _published.csv
TIES = replace(best_of_several("3 of them equal", [70, 78.17, 78.17, 78.17, 60]), well_posed=False)
PEAK = Case(
    "best of 3 densities above both ends", lambda m: m[..., 1:4].max(-1, keepdims=True) - m[..., [0, 4]],
    np.array([78, 78, 70, 70, 20.0]), np.full(5, 78.0), np.array([78 - THREE, 75, 78, 75, 78 - THREE]), np.ones(5),
)  # fmt: skip
SLOPE = Case(  # a gap between two cells closes over four nets; sqrt(2 / 5) is the slope's standard deviation
    "slope over 4 nets", lambda m: -((m[..., :4] - m[..., 4:]) @ ((np.arange(4) - 1.5) / 5))[..., None],
    np.full(8, 80.0), np.full(8, 80.0), 80 + np.append(-3 * np.sqrt(2 / 5) * np.arange(4), np.zeros(4)), np.ones(8),
)  # fmt: skip
CASES = [
    *(differences(parts, noise) for parts in (1, 4, 8, 16, 24) for noise in NOISE),
    *(differences(parts, arms=(1, 3)) for parts in (1, 4, 8, 16, 24)),
    *(differences(parts, first=first) for parts in (4, 8, 24) for first in (3.0, 10.0)),
    *(replace(case, noise=(noise,)) for case in (BEST, PEAK, SLOPE) for noise in NOISE),
    *(differences(parts, arms=(1, 3), first=10.0) for parts in (4, 8, 24)),
    *(replace(TIES, noise=(noise,)) for noise in NOISE),
    *(differences(parts, "skewed", arms=arms, well_posed=False) for parts in (1, 4) for arms in ((1, 3), (3, 1))),
    differences(1, "skewed", "normal", name="1 difference, the arm ahead skewed", well_posed=False),
    differences(1, "normal", "skewed", name="1 difference, the arm behind skewed", well_posed=False),
]
SIMULATED = list(product(CASES, SEEDS))  # the place of a row is the seed of its simulation


def row(claim: str, noise: str, n: int, well_posed: bool, rates: dict[str, float]) -> dict[str, Any]:
    return {"claim": claim, "noise": noise, "seeds": n, **dict.fromkeys(RATES), **rates, "well_posed": well_posed}


def rates(at: int, grids: int) -> dict[str, Any]:
    """Simulate one of the rows of `SIMULATED`."""
    case, n = SIMULATED[at]
    random, truth = np.random.default_rng(at), case.statistic(case.holds)
    found = np.zeros(len(RATES))
    for _ in range(grids):
        drawn = (case.draw(random, means, n) for means in (case.edge, case.null, case.holds))
        edge, null, (margins, left_out) = (leave_out(values, case.statistic) for values in drawn)
        estimate, variance, free = spread(margins, left_out)
        found += (
            (np.abs(estimate - truth) <= half_widths(variance, free, len(margins))).mean(),
            decide(*edge).word == "supported",
            decide(*null).word == "contradicted",
            decide(margins, left_out).word == "supported",
        )
    noise = "mixed" if len(case.noise) > 1 else case.noise[0]
    return row(case.name, noise, n, case.well_posed, dict(zip(RATES, (found / grids).tolist(), strict=True)))


def scatter(noise: str, n: int, grids: int, seed: int) -> dict[str, Any]:
    """More scatter in one cell than in three others, by the F test; power at a ratio of 4."""
    random = np.random.default_rng(seed)

    def bounds(ratio: float) -> Array:
        drawn = [NOISE[noise](random, (4, n)) for _ in range(grids)]
        return np.array([more_scatter(ratio * values[0], list(values[1:])) for values in drawn])[:, 1:].T

    (low, high), (above, _) = bounds(1.0), bounds(4.0)
    found = {"coverage": (low <= 0) & (high >= 0), "false_support": low > 0, "false_contradiction": high < 0}
    found = {name: float(each.mean()) for name, each in (found | {"power": above > 0}).items()}
    return row("scatter of one cell, F test against 3", noise, n, noise == "normal", found)


def failing(n: int, grids: int, seed: int, rates: tuple[float, float]) -> dict[str, Any]:
    """Two arms that are equal where they train, and in which runs stay at chance; judged whole, by `judge`."""
    random = np.random.default_rng(seed)
    runs = [Run(density=k, net="conv2", seed=s).resolved for k in (0.5, 0.3) for s in range(n)]
    claim = Claim("ahead", lambda r: r.mean(density=0.5) - r.mean(density=0.3))

    def words(margin: float) -> list[str]:
        found = []
        for _ in range(grids):
            values = 60 + random.normal(size=(2, n)) + np.array([[margin], [0]])
            values = np.where(random.uniform(size=(2, n)) < np.array(rates)[:, None], 10.0, values)
            results = Results(
                (run, {"accuracy": a}, None) for run, a in zip(runs, values.ravel().tolist(), strict=True)
            )
            found.append(judge(claim, results).verdict)
        return found

    null, holds = words(0.0), words(THREE)
    found = {"false_support": null.count("supported"), "false_contradiction": null.count("contradicted"),
             "power": holds.count("supported")}  # fmt: skip
    told = " and ".join(f"{100 * rate:g}%" for rate in rates)
    return row(f"1 difference, {told} of the arms' seeds fail", "normal", n, False,
               {name: count / grids for name, count in found.items()})  # fmt: skip


def table(grids: int) -> list[dict[str, Any]]:
    """Simulate every row."""
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(partial(rates, grids=grids), range(len(SIMULATED))))
    rows += [scatter(noise, 5, grids, 1000 + i) for i, noise in enumerate(NOISE)]
    fails = ((0.1, 0.1), (0.0, 0.1), (0.1, 0.0), (0.4, 0.0))
    return rows + [failing(n, grids // 2, 2000 + n, arms) for n in SEEDS for arms in fails]


def main() -> None:
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("--grids", type=int, default=4000, help="a row; half as many where runs fail")
    given.add_argument("--out", type=Path, default=Path("experiments/results/calibration"))
    arguments = given.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "calibration.csv", as_csv(table(arguments.grids)))


if __name__ == "__main__":
    main()
