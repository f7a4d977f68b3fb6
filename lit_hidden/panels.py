"""Panels that several figures share: accuracy over a field of the Run, baselines as lines, others' points hollow."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from lit_hidden import style
from lit_hidden.experiment import Results
from lit_hidden.published import SOURCES, points


@dataclass(frozen=True)
class Look:
    """How a series is drawn: colour, line style and marker all differ, so that a grey copy reads the same."""

    label: str
    color: str
    linestyle: Any = "-"
    marker: str = "o"
    face: str | None = None  # of the marker; None is its colour


DISTRIBUTIONS = {
    "kaiming_normal": Look(r"Kaiming normal, $N_k$", style.SKY, (0, (4, 1.2)), "s"),
    "signed_constant": Look(r"signed constant, $U_k$", style.NAVY, "-", "o"),
    "kaiming_uniform": Look("Kaiming uniform", "#2a8f6a", (0, (1.2, 1.2)), "v"),
    "xavier_normal": Look(r"Xavier normal, $N_x$", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
    "signed_xavier": Look(r"signed Xavier constant, $U_x$", "#7a9a01", (0, (3, 1, 1, 1, 1, 1)), "^"),
}
KEPT = {  # densities told apart within a panel
    0.3: Look("30%", "#8cc0f0", (0, (1.2, 1.2)), "v"),
    0.5: Look("50%", style.NAVY, "-", "o"),
    0.7: Look("70%", "#4a86c8", (0, (4, 1.2)), "s"),
}
DENSE = {
    "sgd": Look("dense, trained with SGD", style.ORANGE, (0, (5, 1.5)), ""),
    "adam": Look("dense, trained with Adam", "#7d4c14", (0, (1.2, 1.2)), ""),
}
RANDOM = Look("random mask, same density", style.GREY, "", "x")
HOLLOW = {
    "digitised": "<",
    "third party": ">",
    "by eye": "X",
    "quoted": "*",
    "authors": "P",
}  # a source's marker; no Look's


def weights(distribution: str, scaled: bool = False, words: str = "") -> Look:
    """Give the look of a distribution, its markers white where it is scaled; `words` come before its name."""
    look = DISTRIBUTIONS[distribution]
    if scaled:
        look = replace(look, label=f"{look.label}, scaled", face="white")
    return replace(look, label=words + look.label)


def curve(axes: Axes, results: Results, x: str, look: Look, *, metric: str = "accuracy", **where: Any) -> None:
    """Draw the mean over seeds of a metric over field `x`, shaded from the smallest to the largest seed."""
    chosen, xs = results.select(**where), results.each(x, **where)
    style.mean_and_range(
        axes, xs, [chosen.values(metric, **{x: value}) for value in xs], shade=0.18, color=look.color,
        linestyle=look.linestyle, marker=look.marker, markersize=4.5, markerfacecolor=look.face or look.color,
        label=look.label,
    )  # fmt: skip


def level(axes: Axes, values: list[float], look: Look) -> None:
    """Draw a baseline as a line across, shaded from the smallest to the largest seed."""
    axes.axhspan(min(values), max(values), color=look.color, alpha=0.13, linewidth=0)
    axes.axhline(float(np.mean(values)), color=look.color, linestyle=look.linestyle, label=look.label)


def random(axes: Axes, results: Results, **where: Any) -> None:
    """Draw random masks over density; where they lie far below all else, at the foot with their accuracy in words.

    To be called last: what is drawn so far sets the scale, so that chance does not press the curves together.
    """
    means = {d: results.mean(method="random", density=d, **where) for d in results.each("density", method="random")}
    bottom, top = axes.dataLim.intervaly
    if bottom - min(means.values(), default=bottom) <= top - bottom:
        curve(axes, results, "density", RANDOM, method="random", **where)
        return
    axes.set_ylim(bottom - 0.16 * (top - bottom), top + 0.05 * (top - bottom))
    foot = axes.get_xaxis_transform()  # x in data, y as a fraction of the axes
    axes.plot(
        list(means), [0.05] * len(means), color=RANDOM.color, linestyle="", marker=RANDOM.marker, markersize=4.5,
        label=RANDOM.label, transform=foot,
    )  # fmt: skip
    for density, mean in means.items():
        axes.annotate(f"{mean:.1f}% \u2193", (density, 0.05), xycoords=foot, xytext=(5, 0), textcoords="offset points",
                      va="center", fontsize=7.5, color=style.COLORS["muted"])  # fmt: skip


def others(axes: Axes, results: Results, color: str, at: float | None = None, **where: Any) -> None:
    """Draw what others report on the data of `results`, hollow, a marker a source; `legend` names them.

    Args:
        axes: where.
        results: what is drawn there.
        color: that of the series they belong to.
        at: where they stand; None: at their density.
        where: the fields of `Published` that they have.
    """
    for point in points(data=results.rows[0][0].data, **where):
        x = point.density if at is None else at
        if x is not None:
            axes.plot(
                [x], [point.accuracy], linestyle="", marker=HOLLOW[point.source], markersize=5.5,
                markerfacecolor="none", markeredgecolor=color, markeredgewidth=0.9, zorder=1.9, clip_on=False,
                label=f"_{point.source}",
            )  # fmt: skip


def density_axis(axes: Axes, densities: Iterable[float]) -> None:
    """Label the axis as the paper does: percent of weights kept, from many to few."""
    ticks = sorted(densities)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_xlim(max(ticks) + 0.06, min(ticks) - 0.06)
    axes.set_xlabel("% of weights kept")
    axes.grid(axis="y")


def width_axis(axes: Axes, widths: Iterable[float]) -> None:
    """Label a logarithmic axis with the width multipliers."""
    ticks = sorted(widths)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"x{width:g}" for width in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("width multiplier")
    axes.grid(axis="y")


def legend(figure: Figure, axes: Collection[Axes], **place: Any) -> None:
    """Name each series once for all panels, each source of hollow markers, and what shades are."""
    handles: dict[str, Artist] = {}
    hollow: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        for line in ax.get_lines():
            source = str(line.get_label()).removeprefix("_")  # which hides it from matplotlib's own legends
            if source in SOURCES:
                hollow[f"hollow: {SOURCES[source][0]}"] = Line2D(
                    [], [], linestyle="", marker=HOLLOW[source], markersize=5.5, markerfacecolor="none",
                    markeredgecolor=style.COLORS["ink"], markeredgewidth=0.9,
                )  # fmt: skip
    handles |= hollow
    if any(ax.collections for ax in axes):
        handles["shaded: smallest to largest seed"] = Patch(color=style.GREY, alpha=0.3, linewidth=0)
    figure.legend(handles.values(), handles.keys(), **{"loc": "lower center", "ncols": 4, **place})
