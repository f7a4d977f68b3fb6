"""Theorem 1: swapping one edge lowers the loss of the mini-batch that asked for it, if the step is small enough.

The paper argues it to first order. Here the loss is measured, in float64, before and after swaps at some steps of
ordinary trainings: one swap alone, all swaps of a layer, all swaps of the network, as plain gradient descent would make
them at learning rates from 1e-4 to 1; and the first swap of each layer, at the smallest rate that swaps anything. The
protocol is that of `lit_hidden.callbacks.swaps`. There are two limits. A small learning rate swaps fewer edges at once,
but a single swap stays as large as its weights. A wide net makes a single swap small, which is what the proof needs.
The claims about rates test the theorem as read; the claim about width tests its proof.

At small rates only large layers swap, so panel (a) has different layers at different rates; the claims about rates
compare a layer with itself at the same step. Bars are Wilson's 95% intervals, which take swaps of one step as
independent; they are not quite, so claims are judged by seeds.

Source: Ramanujan et al., arXiv:1911.13299, theorem 1, section 3 and appendix B.
Cost: quick 15 runs, 3 minutes on two busy cores; short 15, an estimated half hour; paper 15, of 100 epochs, on a GPU.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments._panels import Look
from experiments.fig4 import width_axis
from lit_hidden.code import Spec, spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run, vary


def swaps(updates: int) -> tuple[Spec, ...]:
    return (spec("swaps.Swaps", updates=updates),)


KINDS = ("first", "pair", "unit", "layer", "network")  # in the order of swaps.npz
PRESETS = {  # a run, the widths, and how many seeds
    "smoke": (Run(density=0.5, data="digits", net="conv2", epochs=1, callbacks=swaps(2)), (0.0625, 0.125), 1),
    "quick": (
        Run(density=0.5, data="digits", net="conv4", epochs=4, batch_size=32, callbacks=swaps(10)),
        (0.0625, 0.125, 0.25),
        5,
    ),
    "short": (Run(density=0.5, net="conv4", epochs=5, train_images=10_000, callbacks=swaps(20)), (0.125, 0.25, 0.5), 5),
    "paper": (Run(density=0.5, net="conv4", callbacks=swaps(50)), (0.25, 0.5, 1.0), 5),
}
LOOKS = {
    "first": Look("the first swap of a layer, alone", style.BLACK, "", "*"),
    "pair": Look("one swap of a layer, alone", style.NAVY, "-", "o"),
    "unit": Look("one swap within a unit, alone", style.SKY, (0, (4, 1.2)), "s"),
    "layer": Look("all swaps of a layer", style.ORANGE, (0, (1.2, 1.2)), "v"),
    "network": Look("all swaps of the network", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
}


def runs(preset: str) -> list[Run]:
    base, widths, seeds = PRESETS[preset]
    return vary([base], seed=range(seeds), width=widths)


def widest(results: Results) -> Results:
    return results.select(width=results.each("width")[-1])


def counts(results: Results, kind: str) -> np.ndarray:
    """Count `(2, rates)` changes: those measured and those that lowered the loss, over all layers and runs."""
    found = [result["swaps"][kind] for _, result in results]
    return np.array([[np.sum(c[name], axis=1) for name in ("measured", "lowered")] for c in found]).sum(0)  # type: ignore[no-any-return]


def share(results: Results, kind: str) -> float:
    """Give the percent of changes that lowered the loss, at all rates; NaN if nothing swapped."""
    measured, lowered = counts(results, kind).sum(1)
    return float(100 * lowered / measured) if measured else math.nan


def trend(results: Results, kind: str) -> float:
    """Give the points by which the share grows per decade that the rate shrinks; NaN if nothing swaps at two rates.

    Least squares within one layer at one step (for the network, one step), over the rates at which it swaps.
    """
    rows = table(results)
    of = rows["kind"] == KINDS.index(kind)
    _, cell = np.unique(np.stack([rows["step"], rows["layer"]])[:, of], axis=1, return_inverse=True)
    x, y = np.log10(rows["rate"][of]), 100.0 * (rows["measured"][of] < 0)
    x = x - (np.bincount(cell, x) / np.bincount(cell))[cell]
    # Rounded, so that a constant share has no trend.
    return round(-float(x @ y / (x @ x)), 6) if np.abs(x).max(initial=0) > 1e-9 else math.nan


def uphill(results: Results) -> float:
    """Count single swaps that first order does not expect to lower the loss; NaN if nothing swapped."""
    return float(sum(results.values("uphill"))) if counts(results, "first").sum() else math.nan


def wider(results: Results) -> float:
    """Give the points by which first swaps lower the loss more often in the widest net than in the narrowest."""
    narrowest = results.select(width=results.each("width")[0])
    return share(widest(results), "first") - share(narrowest, "first")


CLAIMS = [
    Claim(
        "while no score changes sign, first order expects every single swap to lower the loss",
        lambda r: 0.0 - uphill(r), "swaps", "check", every=True,
    ),
    Claim(
        "of first swaps, at the smallest learning rate that swaps anything, more than 95% lower the loss",
        lambda r: share(widest(r), "first") - 95,
    ),
    Claim(
        "the smaller the learning rate, the more often one swap alone lowers the loss",
        lambda r: trend(widest(r), "pair"), "points per decade",
    ),
    Claim(
        "the smaller the learning rate, the more often all swaps of a layer lower the loss",
        lambda r: trend(widest(r), "layer"), "points per decade",
    ),
    Claim(
        "one swap alone lowers the loss more often than all swaps of its layer at once",
        lambda r: share(widest(r), "pair") - share(widest(r), "layer"),
    ),
    Claim("first swaps lower the loss more often in the widest net than in the narrowest", wider),
]  # fmt: skip


def table(results: Results) -> dict[str, np.ndarray]:
    """Load the rows of `swaps.npz` of all runs; see `lit_hidden.callbacks.swaps` for its columns."""
    tables = []
    for _, _, folder in results.rows:
        assert folder is not None
        with np.load(folder / "swaps.npz") as arrays:
            tables.append(dict(arrays))
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12, 8)
    wide = widest(results)
    if not counts(wide, "first").sum():
        figure.text(0.06, 0.9, "At no step would any learning rate have swapped an edge.", fontsize=10)
        return
    (a, b), (c, d) = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.875, bottom=0.115, wspace=0.17, hspace=0.36)
    draw_shares(a, wide)
    draw_numbers(b, wide)
    draw_orders(c, wide)
    draw_widths(d, results)
    figure.legend(*a.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.05, 0.965), ncols=5)
    run = wide.rows[0][0]
    (steps,) = run.option("Swaps.updates")
    figure.text(
        0.055, 0.978, f"Panels (a) to (c): {run.net}, width x{run.width:g}, {steps} steps a training; all changes "
        "are from the net as it is, on the mini-batch to come. Bar across the star: where 80% of first swaps are.",
        va="top", fontsize=8.5, color=style.COLORS["muted"],
    )  # fmt: skip


def bars(axes: Axes, x: np.ndarray, counted: np.ndarray, look: Look, **more: Any) -> None:
    """Draw percentages of `(2, X)` changes measured and lowering, with their intervals, where any were measured."""
    from scipy.stats import binomtest  # slow to import: not while planning

    there = counted[0] > 0
    measured, lowered = counted[:, there]
    bounds = [binomtest(int(k), int(n)).proportion_ci(method="wilson") for n, k in counted[:, there].T]
    at, low, high = 100 * lowered / measured, *(100 * np.transpose(bounds))
    axes.errorbar(
        x[there], at, yerr=np.maximum([at - low, high - at], 0), color=look.color, linestyle=look.linestyle,
        linewidth=1.3, elinewidth=0.9, marker=look.marker, label=look.label, **{"markersize": 4.5} | more,
    )  # fmt: skip


def draw_shares(axes: Axes, results: Results) -> None:
    """Draw the percentage of changes that lower the loss over the learning rate."""
    rates = np.array(results.values("swaps")[0]["rates"])
    for kind, aside in zip(KINDS[1:], (0.88, 0.96, 1.04, 1.13), strict=True):  # bars stand beside each other
        bars(axes, aside * rates, counts(results, kind), LOOKS[kind])
    rows = table(results)
    low, middle, high = np.quantile(rows["rate"][rows["kind"] == KINDS.index("first")], (0.1, 0.5, 0.9))
    spread = [[middle - low], [high - middle]]
    bars(axes, np.array([middle]), counts(results, "first"), LOOKS["first"], xerr=spread, markersize=9, zorder=3)
    rate_axis(axes, results)
    axes.annotate(
        "the training's, at its start", (results.rows[0][0].lr, 0), (3, 4), xycoords=("data", "axes fraction"),
        textcoords="offset points", rotation=90, fontsize=7.5, color=style.COLORS["muted"],
    )  # fmt: skip
    axes.set(ylabel="lower the loss (%)", ylim=(-3, 103), title="(a) how often the loss falls")


def draw_numbers(axes: Axes, results: Results) -> None:
    """Draw how many edges an update swaps, over the learning rate; steps at which nothing swaps count as 0."""
    rows, first = table(results), results.values("swaps")[0]
    steps = sum(run.option("Swaps.updates")[0] for run, _ in results)
    for kind, times in (("layer", steps * len(first["layer"]["measured"][0])), ("network", steps)):
        of, look = rows["kind"] == KINDS.index(kind), LOOKS[kind]
        numbers = {rate: rows["swaps"][of & (rows["rate"] == rate)].sum() / times for rate in first["rates"]}
        drawn = {rate: number for rate, number in numbers.items() if number > 0}
        axes.plot(*zip(*drawn.items(), strict=True), color=look.color, ls=look.linestyle, marker=look.marker, ms=4.5)
    axes.set_yscale("log")
    rate_axis(axes, results)
    axes.set(ylabel="edges that enter, mean", title="(b) how many edges swap at once")


def rate_axis(axes: Axes, results: Results) -> None:
    """Label the axis of learning rates, and mark the training's own."""
    rates = results.values("swaps")[0]["rates"]
    axes.set(xscale="log", xlabel="learning rate of the step", xlim=(rates[0] / 2, rates[-1] * 2))
    axes.grid(axis="y")
    axes.axvline(results.each("lr")[0], color=style.COLORS["absent"], linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.5)


def draw_orders(axes: Axes, results: Results, most: int = 600) -> None:
    """Draw the measured change over the one that first order predicts, of one swap and of all swaps of a layer."""
    rows, bounds = table(results), (-2.0, 3.0)
    for kind, zorder in (("layer", 2.0), ("pair", 2.1)):
        of = np.flatnonzero((rows["kind"] == KINDS.index(kind)) & (rows["predicted"] < 0))
        of = of[:: max(1, math.ceil(len(of) / most))]
        ratio, look = rows["measured"][of] / rows["predicted"][of], LOOKS[kind]
        axes.plot(
            -rows["predicted"][of], np.clip(ratio, *bounds), linestyle="", marker=look.marker, markersize=3.2,
            markeredgewidth=0, color=look.color, alpha=0.55, zorder=zorder,
        )  # fmt: skip
    for height, text in ((1, "as first order says"), (0, "below: the loss rises")):
        axes.axhline(height, color=style.COLORS["ink"], linewidth=0.9, linestyle="-" if height else (0, (2, 2)))
        axes.annotate(
            text, (1, height), (-2, 3 if height else -3), xycoords=("axes fraction", "data"), ha="right",
            textcoords="offset points", va="bottom" if height else "top", fontsize=7.5, color=style.COLORS["ink"],
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    axes.set(xscale="log", xlabel="fall of the loss that first order predicts")
    axes.set(ylabel="measured / predicted", ylim=(-2.2, 3.2), title="(c) how much of it is first order")
    axes.set_yticks(range(-2, 4), ["\u2264 \u22122", "\u22121", "0", "1", "2", "\u2265 3"])


def draw_widths(axes: Axes, results: Results) -> None:
    """Draw the percentage of first swaps that lower the loss over the width of the net, and that of each seed."""
    widths = results.each("width")
    counted = np.concatenate([counts(results.select(width=width), "first") for width in widths], axis=1)
    for width in widths:
        seeds = [share(results.select(width=width, seed=seed), "first") for seed in results.select(width=width).seeds]
        axes.plot([0.97 * width] * len(seeds), seeds, linestyle="", marker="_", color=style.COLORS["muted"])
    bars(axes, np.array(widths), counted, replace(LOOKS["first"], linestyle="-"), markersize=9)
    width_axis(axes, widths)
    axes.set(ylabel="lower the loss (%)", ylim=(None, 101))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("(d) first swaps, by width: all (star), each seed (dash)")
