"""Panels that several figures share: accuracy over a field of the Run, baselines as lines, others' points hollow."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from lit_hidden import style
from lit_hidden.experiment import Results, Run
from lit_hidden.published import SOURCES, Published, points
from lit_hidden.tables import same_images


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
    "torchvision": "p",
}  # a source's marker; no Look's

# Of a text beside a point: to the right or left, above or below, and how far in points; the first are preferred.
SIDES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
PLACES = [(right, up, away) for away in (6, 10, 16) for right, up in SIDES]


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
    if not at_foot(axes, means, RANDOM):
        curve(axes, results, "density", RANDOM, method="random", **where)


def at_foot(axes: Axes, means: Mapping[float, float], look: Look) -> bool:
    """Draw points that lie far below all else at the foot, with their height in words; False if they lie near."""
    bottom, top = axes.dataLim.intervaly
    if bottom - min(means.values(), default=bottom) <= top - bottom:
        return False
    axes.set_ylim(bottom - 0.16 * (top - bottom), top + 0.05 * (top - bottom))
    foot = axes.get_xaxis_transform()  # x in data, y as a fraction of the axes
    axes.plot(
        list(means), [0.05] * len(means), color=look.color, linestyle="", marker=look.marker, markersize=4.5,
        label=look.label, transform=foot,
    )  # fmt: skip
    for x, mean in means.items():
        axes.annotate(f"{mean:.1f}% \u2193", (x, 0.05), xycoords=foot, xytext=(5, 0), textcoords="offset points",
                      va="center", fontsize=7.5, color=style.COLORS["muted"])  # fmt: skip
    return True


def supermasks(axes: Axes, results: Results, look: Look) -> None:
    """Draw sampled supermasks where they ended, joined by where they began: both coordinates are results.

    A small point is a seed, a large one the mean.
    """
    starts = results.each("density")
    for start in starts:
        axes.plot(results.values("density_sampled", density=start), results.values(density=start), linestyle="",
                  marker=look.marker, markersize=2.2, color=look.color, alpha=0.6,
                  label="Zhou et al., a seed")  # fmt: skip
    axes.plot(
        [results.mean("density_sampled", density=s) for s in starts], [results.mean(density=s) for s in starts],
        color=look.color, linestyle=(0, (1, 2)), linewidth=1.1, marker=look.marker, markersize=5.5,
        markerfacecolor="white", label=look.label,
    )  # fmt: skip


def others(axes: Axes, results: Results, color: str, at: float | None = None, **where: Any) -> None:
    """Draw what others report on the data of `results`, hollow, a marker a source; `legend` names them.

    Args:
        axes: where.
        results: what is drawn there.
        color: that of the series they belong to.
        at: where they stand; None: at their density.
        where: the fields of `Published` that they have.
    """
    for point in theirs(results, **where):
        x = point.density if at is None else at
        if x is not None:
            hollow_point(axes, x, point.accuracy, point.source, color)


def theirs(results: Results, **where: Any) -> list[Published]:
    """List what others report on the data of `results`; nothing where those are but a part of it."""
    run = results.rows[0][0]
    return list(points(data=run.data, **where)) if same_images(run) else []


def hollow_point(axes: Axes, x: float, y: float, source: str, color: str) -> None:
    """Draw one point of others'."""
    axes.plot(
        [x], [y], linestyle="", marker=HOLLOW[source], markersize=5.5, markerfacecolor="none", markeredgecolor=color,
        markeredgewidth=0.9, zorder=1.9, clip_on=False, label=f"_{source}",
    )  # fmt: skip


def sizes(axes: Axes, results: Results, name: Callable[[Run], str]) -> None:
    """Draw accuracy over the number of parameters, a point a net: subnetworks (their weights kept), dense, random.

    Points above one another are of one net; `name` gives its name, from any of its runs.
    """
    axes.set_xscale("log")
    axes.margins(x=0.14, y=0.12)
    looks = {d: weights(d, words="edge-popup, ") for d in results.each("distribution", method="edge_popup")}
    series = [(look, results.select(method="edge_popup", distribution=d)) for d, look in looks.items()]
    series.append((replace(DENSE["sgd"], marker="D"), results.select(method="dense")))
    named: dict[float, tuple[float, str]] = {}  # at the highest of its points
    for look, nets in [(look, _by_size(same)) for look, same in series]:
        for x, net in nets.items():
            run = net.rows[0][0]
            named[x] = max(named.get(x, (0.0, "")), (max(net.values()), name(run)))
            if run.width == 1:  # others' nets have the published width
                fields = ("optimizer",) if run.method == "dense" else ("distribution", "density")
                others(axes, net, look.color, at=x, **{f: getattr(run, f) for f in ("net", "method", *fields)})
        axes.plot(list(nets), [net.mean() for net in nets.values()], color=look.color, linestyle=look.linestyle,
                  linewidth=1)  # fmt: skip
        bars(axes, {x: net.values() for x, net in nets.items()}, look)
    chance = _by_size(results.where(lambda run: run.method == "random"))
    if chance and not at_foot(axes, {x: net.mean() for x, net in chance.items()}, RANDOM):
        bars(axes, {x: net.values() for x, net in chance.items()}, RANDOM)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.set_xlabel("parameters; of a subnetwork, the weights kept")
    axes.grid(axis="y")
    beside(axes, [(x, y, words) for x, (y, words) in named.items()])


def _by_size(results: Results) -> dict[float, Results]:
    """Part results by net and width, and order them by their number of parameters."""
    nets = dict.fromkeys((run.net, run.width) for run, _ in results)
    parts = [results.select(net=net, width=width) for net, width in nets]
    return dict(sorted(((part.mean("parameters"), part) for part in parts), key=lambda item: item[0]))


def bars(axes: Axes, values: Mapping[float, list[float]], look: Look) -> None:
    """Draw means over seeds as points, each with a bar from the smallest to the largest seed."""
    axes.vlines(list(values), [min(v) for v in values.values()], [max(v) for v in values.values()], color=look.color,
                linewidth=1.1)  # fmt: skip
    axes.plot(
        list(values), [float(np.mean(v)) for v in values.values()], linestyle="", marker=look.marker, markersize=5.5,
        color=look.color, markerfacecolor=look.face or look.color, label=look.label,
    )  # fmt: skip


def count(number: float) -> str:
    """Write a number of weights: `7.65M`, `214k`."""
    return f"{number / 1e6:.3g}M" if number >= 999_500 else f"{number / 1e3:.3g}k"


def beside(axes: Axes, texts: Iterable[tuple[float, float, str]]) -> None:
    """Write texts beside points `(x, y, text)`: on no other text, hardly on markers, on few lines, and near.

    To be called last, when the axes have their size and limits and all else is drawn.
    """
    axes.autoscale_view()
    pixels = float(axes.figure.dpi) / 72  # of a point
    (markers, lines), taken = _pixels(axes), [text.get_window_extent() for text in axes.texts]
    for x, y, words in texts:
        text = axes.annotate(
            words, (x, y), (0, 0), textcoords="offset points", fontsize=7.5, color=style.COLORS["muted"]
        )
        at, size = axes.transData.transform((x, y)), text.get_window_extent().size

        def cost(place: tuple[int, int, int], at: Any = at, size: Any = size) -> int:
            *side, away = place
            corner = at + np.multiply(side, away * pixels) + np.subtract(side, 1) / 2 * size
            room = Bbox.from_bounds(*corner, *size).padded(4)  # half a marker
            bad = (axes.bbox.count_contains(room.corners()) < 4) + room.count_overlaps(taken)
            return int(1000 * bad + 50 * room.count_contains(markers) + room.count_contains(lines) + away)

        right, up, away = min(PLACES, key=cost)
        text.set(position=(away * right, away * up))
        text.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])
        taken.append(text.get_window_extent())


def _pixels(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Give pixels `(N, 2)` of markers and corners, and a few apart on lines and bars."""
    paths = [(line.get_xydata(), line.get_transform(), line.get_linestyle() != "None") for line in axes.get_lines()]
    paths += [(path.vertices, bars.get_transform(), True) for bars in axes.collections for path in bars.get_paths()]
    corners = [transform.transform(vertices) for vertices, transform, _ in paths]
    ends = [pair for at, (_, _, joined) in zip(corners, paths, strict=True) if joined for pair in pairwise(at)]
    dots = [np.linspace(one, other, 2 + int(np.hypot(*(other - one)) / 3)) for one, other in ends]
    return np.concatenate(corners), np.concatenate([np.empty((0, 2)), *dots])


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
                hollow[f"hollow: {SOURCES[source].name}"] = Line2D(
                    [], [], linestyle="", marker=HOLLOW[source], markersize=5.5, markerfacecolor="none",
                    markeredgecolor=style.COLORS["ink"], markeredgewidth=0.9,
                )  # fmt: skip
    handles |= hollow
    drawn = [collection for ax in axes for collection in ax.collections]
    if any(isinstance(collection, PolyCollection) for collection in drawn):
        handles["shaded: smallest to largest seed"] = Patch(color=style.GREY, alpha=0.3, linewidth=0)
    if any(isinstance(collection, LineCollection) for collection in drawn):
        handles["bar: smallest to largest seed"] = Line2D([], [], linestyle="", marker="|", color=style.GREY)
    figure.legend(handles.values(), handles.keys(), **{"loc": "lower center", "ncols": 4, **place})
