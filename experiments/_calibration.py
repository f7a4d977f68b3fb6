"""How often verdicts are wrong: grids of known truth, simulated and judged as the engine judges.

    python experiments/_calibration.py [--grids 4000] [--out experiments/results/calibration]

A row is a kind of claim, of noise and a number of seeds. Accuracies are a true mean and noise whose standard
deviation is 1 point, unless the row says otherwise (0.3 for the best of five densities). Asked is: how often the 95%
interval of a part holds the truth; how often a claim is called supported where one part is exactly at 0 and the
others hold by far; how often it is called contradicted where every part is at 0; and how often it is called supported
where every part holds by 3 standard deviations of the difference of two runs (power; of the F test: where one cell
scatters 4 times as much). "Power paired" is that of the method used before: seeds paired across cells, a t test for
each part.

Well posed is what the method is made for: no run fails, both arms have noise of one family, of equal variances where
it is skewed, and a maximum has no ties. The other rows show what happens outside. Where runs fail, what keeps false
support low is that fewer than three seeds that train decide nothing; Fisher's test adds to it only for arms of many
cells.
"""

import argparse
import csv
import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from lit_hidden.engine.store import write_atomically
from lit_hidden.judge import Array, Claim, decide, half_widths, judge, more_scatter, spread
from lit_hidden.results import Results
from lit_hidden.run import Run

Statistic = Callable[[Array], Array]  # from means of cells `(..., C)` to margins `(..., P)`
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {  # of variance 1
    "normal": lambda random, shape: random.normal(size=shape),
    "t3": lambda random, shape: random.standard_t(3, shape) / np.sqrt(3),
    "skewed": lambda random, shape: random.exponential(size=shape) - 1,
}
SEEDS = (3, 5)
RATES = ("coverage", "false_support", "false_contradiction", "power", "power_paired")
PEAK = np.array([62.13, 76.19, 78.17, 74.59, 56.4])  # Conv2 on signed constants, 10% to 90%: see published.py


@dataclass(frozen=True)
class Case:
    """A claim, where its truth lies, and the noise of its cells."""

    name: str
    statistic: Statistic
    edge: Array  # means of the cells `(C,)` where one part is at 0 and the others hold by far
    null: Array  # where every part is at 0
    holds: Array  # where every part holds by 3 sd
    scale: Array  # of the noise `(C,)`
    noise: str | list[str] = "normal"  # of all cells, or of each
    well_posed: bool = True


def leave_out(values: Array, statistic: Statistic) -> tuple[Array, list[Array]]:
    """Give margins `(P,)` of accuracies `(C, n)`, and for each cell those without each run `(n, P)`."""
    cells, n = values.shape
    means = np.repeat(values.mean(1)[None], cells * n, 0).reshape(cells, n, cells)
    at = np.arange(cells)
    means[at, :, at] = (values.sum(1, keepdims=True) - values) / (n - 1)
    return statistic(values.mean(1)), list(statistic(means))


def drawn(random: np.random.Generator, case: Case, means: Array, n: int) -> Array:
    kinds = [case.noise] * len(means) if isinstance(case.noise, str) else case.noise
    noise = np.stack([NOISE[kind](random, (n,)) for kind in kinds])
    return means[:, None] + case.scale[:, None] * noise


def rates(case: Case, n: int, grids: int, seed: int) -> dict[str, Any]:
    """Simulate one row of the table."""
    random = np.random.default_rng(seed)
    counted = dict.fromkeys(RATES, 0.0)
    truth = case.statistic(case.holds)
    for _ in range(grids):
        margins, left_out = leave_out(drawn(random, case, case.edge, n), case.statistic)
        counted["false_support"] += decide(margins, left_out).word == "supported"
        margins, left_out = leave_out(drawn(random, case, case.null, n), case.statistic)
        counted["false_contradiction"] += decide(margins, left_out).word == "contradicted"
        values = drawn(random, case, case.holds, n)
        margins, left_out = leave_out(values, case.statistic)
        counted["power"] += decide(margins, left_out).word == "supported"
        estimate, variance, free = spread(margins, left_out)
        within = np.abs(estimate - truth) <= half_widths(variance, free, len(margins))
        counted["coverage"] += float(within.mean())
        counted["power_paired"] += paired(values, case.statistic)
    return {"claim": case.name, "noise": "mixed" if isinstance(case.noise, list) else case.noise, "seeds": n,
            **{name: count / grids for name, count in counted.items()}, "well_posed": case.well_posed}  # fmt: skip


def paired(values: Array, statistic: Statistic) -> bool:
    """Judge as before: the jackknife over seeds that pair cells, a t interval for each part."""
    n = values.shape[1]
    whole = statistic(values.mean(1))
    without = np.stack([statistic(np.delete(values, i, 1).mean(1)) for i in range(n)])
    shares = n * whole - (n - 1) * without
    half = stdtrit(n - 1, 0.975) * shares.std(0, ddof=1) / np.sqrt(n)
    return bool((shares.mean(0) - half > 0).all())


def differences(parts: int, noise: str = "normal", arms: tuple[float, float] = (1, 1), first: float = 1.0) -> Case:
    """A claim of differences between two cells, in each of several parts; the noise of the first part is multiplied."""
    scale = np.tile(np.array(arms, float), (parts, 1))
    scale[0] *= first
    three = 3 * np.sqrt(np.square(scale).sum(1))

    def means(margins: Array) -> Array:
        return np.stack([60 + margins, np.full(parts, 60.0)], 1).ravel()

    far = 20 * three
    far[0] = 0
    name = f"{parts} difference{'s' if parts > 1 else ''}"
    name += f", arms {arms[0]:g} to {arms[1]:g}" if arms[0] != arms[1] else ""
    name += f", one part's noise x{first:g}" if first != 1 else ""
    return Case(
        name, lambda m: m[..., ::2] - m[..., 1::2], means(far), means(np.zeros(parts)), means(three), scale.ravel(),
        noise,
    )  # fmt: skip


def best_of_several(noise: str, ties: bool = False) -> Case:
    """The best of five densities is at most 1 point below a dense net."""
    sd, margin = 0.3, 3 * 0.3 * np.sqrt(2)

    def statistic(m: Array) -> Array:
        best: Array = m[..., :5].max(-1, keepdims=True)
        return 1 - (m[..., 5:] - best)

    means = np.array([70, 78.17, 78.17, 78.17, 60]) if ties else PEAK
    edge = np.append(means, means.max() + 1)
    name = f"best of 5 densities, {'3 of them equal' if ties else 'peak as in figure 3'}"
    return Case(name, statistic, edge, edge, edge - np.array([0] * 5 + [margin]), np.full(6, sd), noise, not ties)


def peak(noise: str) -> Case:
    """The best of the middle densities beats both ends."""

    def statistic(m: Array) -> Array:
        best: Array = m[..., 1:4].max(-1, keepdims=True)
        return best - m[..., [0, 4]]

    three = 3 * np.sqrt(2)
    return Case("best of 3 densities above both ends", statistic, np.array([78, 78, 70, 70, 20.0]), np.full(5, 78.0),
                np.array([78 - three, 75, 78, 75, 78 - three]), np.ones(5), noise)  # fmt: skip


def slope(noise: str) -> Case:
    """A gap between two cells closes over four nets: the least-squares slope."""
    weights = (np.arange(4) - 1.5) / 5

    def statistic(m: Array) -> Array:
        return -((m[..., :4] - m[..., 4:]) @ weights)[..., None]

    sd = np.sqrt(2 / 5)  # of the slope of one run each
    gaps = -3 * sd * np.arange(4)
    level = np.full(8, 80.0)
    return Case("slope over 4 nets", statistic, level, level, level + np.append(gaps, np.zeros(4)), np.ones(8), noise)


def scatter(noise: str, n: int, grids: int, seed: int) -> dict[str, Any]:
    """More scatter in one cell than in three others, by the F test; power at a ratio of 4."""
    random = np.random.default_rng(seed)
    found: dict[float, list[tuple[float, float, float]]] = {1.0: [], 4.0: []}
    for ratio, words in found.items():
        for _ in range(grids):
            values = NOISE[noise](random, (4, n))
            words.append(more_scatter(ratio * values[0], list(values[1:])))
    null, holds = (np.array(bounds) for bounds in found.values())
    return {"claim": "scatter of one cell, F test against 3", "noise": noise, "seeds": n,
            "coverage": ((null[:, 1] <= 0) & (null[:, 2] >= 0)).mean(), "false_support": (null[:, 1] > 0).mean(),
            "false_contradiction": (null[:, 2] < 0).mean(), "power": (holds[:, 1] > 0).mean(), "power_paired": None,
            "well_posed": noise == "normal"}  # fmt: skip


def failing(n: int, grids: int, seed: int, rates: tuple[float, float]) -> dict[str, Any]:
    """Two arms that are equal where they train, and in which runs stay at chance; judged whole, by `judge`."""
    random = np.random.default_rng(seed)
    words: dict[float, list[str]] = {0.0: [], 3 * np.sqrt(2): []}
    runs = [[Run(density=k, net="conv2", seed=s).resolved for s in range(n)] for k in (0.5, 0.3)]
    claim = Claim("ahead", lambda r: r.mean(density=0.5) - r.mean(density=0.3))
    for margin, found in words.items():
        for _ in range(grids):
            values = 60 + random.normal(size=(2, n)) + np.array([[margin], [0]])
            values = np.where(random.uniform(size=(2, n)) < np.array(rates)[:, None], 10.0, values)
            rows = [(run, {"accuracy": float(a)}, None) for arm, v in zip(runs, values, strict=True)
                    for run, a in zip(arm, v, strict=True)]  # fmt: skip
            found.append(judge(claim, Results(rows)).verdict)
    null, holds = words.values()
    told = " and ".join(f"{100 * rate:g}%" for rate in rates)
    return {"claim": f"1 difference, {told} of the arms' seeds fail", "noise": "normal", "seeds": n, "coverage": None,
            "false_support": null.count("supported") / grids, "false_contradiction": null.count("contradicted") / grids,
            "power": holds.count("supported") / grids, "power_paired": None, "well_posed": False}  # fmt: skip


def every() -> list[tuple[int, Case, int]]:
    """List seed, case and number of runs of each row that `rates` simulates."""
    cases = [differences(parts, noise) for parts in (1, 4, 8, 16, 24) for noise in NOISE]
    cases += [differences(parts, arms=(1, 3)) for parts in (1, 4, 8, 16, 24)]
    cases += [differences(parts, first=first) for parts in (4, 8, 24) for first in (3.0, 10.0)]
    cases += [make(noise) for make in (best_of_several, peak, slope) for noise in NOISE]
    cases += [differences(parts, arms=(1, 3), first=10.0) for parts in (4, 8, 24)]
    cases += [best_of_several(noise, ties=True) for noise in NOISE]
    skewed = [differences(parts, "skewed", arms) for parts in (1, 4) for arms in ((1, 3), (3, 1))]
    cases += [replace(case, well_posed=False) for case in skewed]
    for arm, kinds in (("ahead", ["skewed", "normal"]), ("behind", ["normal", "skewed"])):
        cases.append(replace(differences(1), name=f"1 difference, the arm {arm} skewed", noise=kinds, well_posed=False))
    return [(seed, case, n) for seed, (case, n) in enumerate(product(cases, SEEDS))]


def row(at: int, grids: int) -> dict[str, Any]:
    """Simulate one of the rows that `every` lists."""
    seed, case, n = every()[at]
    return rates(case, n, grids, seed)


def table(grids: int) -> list[dict[str, Any]]:
    """Simulate every row."""
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(row, range(len(every())), [grids] * len(every())))
    rows += [scatter(noise, 5, grids, 1000 + i) for i, noise in enumerate(NOISE)]
    rows += [
        failing(n, grids // 2, 2000 + n, r) for n in SEEDS for r in ((0.1, 0.1), (0.0, 0.1), (0.1, 0.0), (0.4, 0.0))
    ]
    return rows


def markdown(rows: list[dict[str, Any]], grids: int) -> str:
    """Write the table for people."""
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    text = [f"# How often verdicts are wrong\n\n{about}\n\n`make calibration`: {grids:,} grids a row "
            f"({grids // 2:,} where runs fail), rates in percent."]  # fmt: skip
    heading = ("claim", "noise", "seeds", *(name.replace("_", " ") for name in RATES))
    for title, kept in (("Well posed", True), ("Outside", False)):
        lines = [heading, ("---", "---", *["---:"] * (1 + len(RATES)))]
        for row in (row for row in rows if row["well_posed"] is kept):
            shown = ("" if row[name] is None else f"{100 * row[name]:.1f}" for name in RATES)
            lines.append((row["claim"], row["noise"], str(row["seeds"]), *shown))
        text.append(f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(text) + "\n"


def main() -> None:
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("--grids", type=int, default=4000, help="a row")
    given.add_argument("--out", default="experiments/results/calibration")
    arguments = given.parse_args()
    rows, out = table(arguments.grids), Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    write_atomically(out / "calibration.csv", text.getvalue())
    write_atomically(out / "README.md", markdown(rows, arguments.grids))


if __name__ == "__main__":
    main()
