"""Panels that several figures share: accuracy over a field of the Run, baselines as lines, others' points hollow.

Means are over the seeds that train, bars from the smallest to the largest of them; the number that fail stands at the
foot. Results that are not there yet are not drawn: half a grid is a figure too.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation

from experiments._published import SOURCES, Published, points
from lit_hidden.recipes import method
from lit_hidden.report import style
from lit_hidden.report.tables import departures, order
from lit_hidden.results import Results, failed


@dataclass(frozen=True)
class Look:
    """How a series is drawn: lightness, line style and marker all differ, so that a grey copy reads the same."""

    label: str
    color: str
    linestyle: Any = "-"
    marker: str = "o"
    face: str | None = None  # of the marker; None is `color`


DISTRIBUTIONS = {
    "kaiming_normal": Look(r"Kaiming normal, $N_k$", style.SKY, (0, (4, 1.2)), "s"),
    "signed_constant": Look(r"signed constant, $U_k$", style.NAVY, "-", "o"),
    "kaiming_uniform": Look("Kaiming uniform", "#145c40", (0, (1.2, 1.2)), "v"),
    "xavier_normal": Look(r"Xavier normal, $N_x$", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
    "signed_xavier": Look(r"signed Xavier constant, $U_x$", "#4b5500", (0, (3, 1, 1, 1, 1, 1)), "^"),
}
DENSE = {
    "sgd": Look("dense, trained with SGD", style.ORANGE, (0, (5, 1.5)), ""),
    "adam": Look("dense, trained with Adam", "#7d4c14", (0, (1.2, 1.2)), ""),
}
RANDOM = Look("random mask, same density", style.COLORS["random"], "", "x")
# Of curves over training, by method or kind of edge.
LINESTYLES: dict[str, Any] = {
    "edge_popup": "-",
    "dense": (0, (5, 1.5)),
    "random": (0, (1.2, 1.2)),
    "reentered": (0, (3, 1)),
}
NAMES = {"edge_popup": "edge-popup subnetwork", "dense": "dense, trained", "random": "random mask"}
# Markers of sources; no series has them.
HOLLOW = {"digitised": "<", "third party": ">", "by eye": "X", "quoted": "*", "authors": "P", "torchvision": "p"}
ROW = 10.0  # points: the height of a row of notes at the foot
NARROWEST = 4.0  # points of accuracy that a panel spans at least
_OPEN: dict[str, Any] = {"linestyle": "", "markersize": 5.5, "markerfacecolor": "none", "markeredgewidth": 0.9}


def weights(distribution: str, scaled: bool | str = False, words: str = "") -> Look:
    """Give the look of a distribution, with white markers where it is scaled; `words` come before its name."""
    look = DISTRIBUTIONS[distribution]
    kind = {False: "", True: ", scaled", "authors": ", scaled as authors"}[scaled]
    line = (0, (1, 1.6)) if scaled == "authors" else look.linestyle
    return replace(look, label=words + look.label + kind, linestyle=line, face="white" if scaled else None)


def there(results: Results, **where: Any) -> Results:
    """Keep the runs whose fields equal `where`; maybe none."""
    return results.where(lambda run: where.items() <= vars(run).items())


def each(results: Results, x: str, **where: Any) -> dict[Any, Results]:
    """Group the runs with `where` by field `x`, ascending; runs with None are left out."""
    parts = there(results, **where).by(lambda run: getattr(run, x))
    return {value: parts[value] for value in sorted(parts.keys() - {None}, key=order)}


def trained(results: Results) -> Results:
    """Keep the runs that did not fail to train, see `lit_hidden.results.failed`; maybe none."""
    return Results(row for row in results.rows if not failed(row[0], row[1]))


def lost(results: Results) -> str:
    """Say how many runs fail to train: `2/3 fail`; nothing if none does."""
    fails = len(results) - len(trained(results))
    return f"{fails}/{len(results)} fail" if fails else ""


def curve(axes: Axes, results: Results, x: str, look: Look, **where: Any) -> None:
    """Draw accuracy over field `x`, shifted a little so that its bars do not hide those of other curves."""
    number = len(axes.collections)
    cells(axes, each(results, x, **where), look, aside=2.5 * ((number + 1) // 2) * (-1) ** number)


def cells(axes: Axes, parts: Mapping[float, Results], look: Look, *, aside: float = 0.0) -> None:
    """Draw the accuracy of runs that differ by their seeds, over x, shifted by `aside` points."""
    _notes(axes, {x: lost(part) for x, part in parts.items()}, look.color)
    bars(axes, {x: kept.values() for x, part in parts.items() if len(kept := trained(part))}, look, aside=aside)


def bars(axes: Axes, values: Mapping[float, list[float]], look: Look, *, aside: float = 0.0) -> None:
    """Draw means over seeds with bars from the smallest to the largest, shifted by `aside` points."""
    if not values:
        return
    ranges = axes.vlines(list(values), [min(v) for v in values.values()], [max(v) for v in values.values()],
                         color=look.color, linewidth=1.1)  # fmt: skip
    (means,) = axes.plot(
        list(values), [float(np.mean(v)) for v in values.values()], color=look.color, linestyle=look.linestyle,
        marker=look.marker, markersize=4.5, markerfacecolor=look.face or look.color, label=look.label,
    )  # fmt: skip
    for artist in (ranges, means):  # shifted after they have set the limits of the data
        artist.set_transform(axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans))


def band(axes: Axes, x: Any, runs: Any, method: str, label: str) -> None:
    """Draw the mean of `runs` `(runs, E)` over `x` `(E,)` and shade from the smallest to the largest run."""
    axes.fill_between(x, runs.min(0), runs.max(0), color=style.COLORS[method], alpha=0.22, linewidth=0)
    axes.plot(x, runs.mean(0), color=style.COLORS[method], linestyle=LINESTYLES[method], label=label)


def level(axes: Axes, results: Results, look: Look, **where: Any) -> None:
    """Draw a baseline as a horizontal line, with a bar from the smallest to the largest seed near its right end."""
    same = there(results, **where)
    _notes(axes, {0.95: lost(same)}, look.color, axes.transAxes)
    if len(kept := trained(same)):
        low, high = min(kept.values()), max(kept.values())
        axes.axhline(kept.mean(), color=look.color, linestyle=look.linestyle, label=look.label, gid="level")
        at = 0.99 - 0.02 * sum(found.get_gid() == "level" for found in axes.collections)
        aside = axes.get_yaxis_transform()  # x as a fraction of the axes, y in data
        axes.vlines(at, low, high, color=look.color, linewidth=1.1, gid="level", transform=aside)


def control(axes: Axes, parts: Mapping[float, Results]) -> None:
    """Draw random masks over x, or note their accuracy at the foot if they lie far below everything else.

    Call it last: what is drawn before sets the scale, so that chance does not press the curves together.
    """
    means = {x: part.mean() for x, part in parts.items()}
    bottom, top = _heights(axes)
    if bottom - min(means.values(), default=bottom) <= top - bottom or bottom > top:
        cells(axes, parts, RANDOM)
        return
    axes.plot([], [], color=RANDOM.color, linestyle="", marker=RANDOM.marker, markersize=4.5, label=RANDOM.label)
    _notes(axes, {x: f"\u00d7 {mean:.1f}% \u2193" for x, mean in means.items()}, style.COLORS["muted"])


def _notes(axes: Axes, words: Mapping[float, str], color: str, place: Any = None) -> None:
    """Write words over x at the foot of a panel, those of each series in a row of their own."""
    height = ROW * (_rows(axes) + 0.6)
    for x, text in words.items():
        if text:
            axes.annotate(text, (x, 0), (0, height), xycoords=place or axes.get_xaxis_transform(), ha="center",
                          textcoords="offset points", va="center", fontsize=7.5, color=color, gid="foot")  # fmt: skip
            if place is None:
                axes.update_datalim([(x, 0)], updatey=False)


def _rows(axes: Axes) -> int:
    return len({text.get_position() for text in axes.texts if text.get_gid() == "foot"})


def _heights(axes: Axes) -> tuple[float, float]:
    """Give the lowest and highest y drawn in all panels that share the axis; inf, -inf if there is nothing."""
    drawn = [panel.dataLim.intervaly for panel in axes.get_shared_y_axes().get_siblings(axes)]
    return float(min(low for low, _ in drawn)), float(max(high for _, high in drawn))


def stack(panels: Collection[Axes]) -> None:
    """Make room for the notes at the foot of each panel, below the data."""
    for axes in panels:
        rows = max(_rows(panel) for panel in axes.get_shared_y_axes().get_siblings(axes))
        bottom, top = _heights(axes)
        if bottom > top:
            axes.set_ylim(0, 100)  # nothing is drawn: percent
        elif rows or top - bottom < NARROWEST:
            middle, half = (bottom + top) / 2, 0.55 * max(top - bottom, NARROWEST)
            share = rows * ROW * axes.figure.dpi / 72 / axes.bbox.height
            axes.set_ylim(middle + half - 2 * half / (1 - share), middle + half)
            axes.set_yticks([tick for tick in axes.get_yticks() if middle - half <= tick <= middle + half])


def supermasks(axes: Axes, results: Results, look: Look, **where: Any) -> None:
    """Draw sampled supermasks at the density where they ended, which is a result, joined by where they began.

    A small point is a seed, a large one the mean, a cross the mean of the most probable (rounded) masks.
    """
    starts = each(results, "density", method="supermask", **where).values()
    _notes(axes, {start.mean("density_sampled"): lost(start) for start in starts}, look.color)
    ends = []
    for start in starts:
        if len(kept := trained(start)):
            axes.plot(kept.values("density_sampled"), kept.values(), linestyle="", marker=look.marker, markersize=2.2,
                      color=look.color, alpha=0.6, label="Zhou et al., a seed")  # fmt: skip
            axes.plot(kept.mean("density_rounded"), kept.mean("accuracy_rounded"), linestyle="", marker="+",
                      markersize=6, color=look.color, label="Zhou et al., most probable mask")  # fmt: skip
            ends.append((kept.mean("density_sampled"), kept.mean()))
    if ends:
        axes.plot(
            *zip(*ends, strict=True), color=look.color, linestyle=(0, (1, 2)), linewidth=1.1, marker=look.marker,
            markersize=5.5, markerfacecolor="white", label=look.label,
        )  # fmt: skip


def others(
    axes: Axes, results: Results, color: str, at: float | None = None, beyond: float | None = None, **where: Any
) -> None:
    """Draw others' accuracies with the fields `where`, hollow in `color`, one marker per source; `finish` names them.

    They stand at x = `at`, or `beyond` our lowest density by so much, or at their density if it lies among ours.
    """
    ours = [run.density for run, _ in results if run.density is not None] or [0.0]
    at = at if beyond is None else min(ours) - beyond
    for point in theirs(results, **where):
        x = point.density if at is None else at
        if x is not None and (x == at or min(ours) <= x <= max(ours)):
            hollow_point(axes, x, point.accuracy, point.source, color)


def theirs(results: Results, **where: Any) -> list[Published]:
    """List what others report on the data of `results`; nothing where none of ours follows the authors' protocol."""
    trainings = (run for run, _ in results if method(str(run.method)).learns)
    run = next((run for run in trainings if not departures([run])), None)
    return list(points(data=run.data, **where)) if run else []


def hollow_point(axes: Axes, x: float, y: float, source: str, color: str) -> None:
    """Draw one accuracy of others."""
    axes.plot([x], [y], marker=HOLLOW[source], markeredgecolor=color, zorder=1.9, clip_on=False, label=f"_{source}",
              **_OPEN)  # fmt: skip


def count(number: float) -> str:
    """Write a number of weights: `7.65M`, `214k`."""
    return f"{number / 1e6:.3g}M" if number >= 999_500 else f"{number / 1e3:.3g}k"


def density_axis(axes: Axes, densities: Iterable[float]) -> None:
    """Label the axis as the paper does: percent of weights kept, from many to few."""
    ticks = sorted(densities)
    drawn = [x for x in axes.dataLim.intervalx if np.isfinite(x)]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_xlim(max([*ticks, *drawn], default=1) + 0.06, min([*ticks, *drawn], default=0) - 0.06)
    axes.set_xlabel("% of weights kept")
    axes.grid(axis="y")


def finish(figure: Figure, axes: Collection[Axes], **place: Any) -> None:
    """Stack the notes of all panels and name each series, mark and source once; call it last."""
    stack(axes)
    handles: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for label in dict.fromkeys(str(line.get_label()).removeprefix("_") for ax in axes for line in ax.get_lines()):
        if label in SOURCES:
            marker = Line2D([], [], marker=HOLLOW[label], markeredgecolor=style.COLORS["ink"], **_OPEN)
            handles[f"hollow: {SOURCES[label].name}"] = marker
    if any(isinstance(collection, LineCollection) for ax in axes for collection in ax.collections):
        handles["bar: smallest to largest seed"] = Line2D([], [], linestyle="", marker="|", color=style.COLORS["muted"])
    figure.legend(handles.values(), handles.keys(), **{"loc": "lower center", "ncols": 4, **place})
