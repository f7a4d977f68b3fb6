"""Panels that several figures share: accuracy over a field of the Run, baselines as lines, others' points hollow.

A mean is of the seeds that train, a bar from the smallest to the largest of them; how many fail stands at the foot.
What has no results yet is not drawn: half a grid is a figure too.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox, ScaledTranslation, Transform

from lit_hidden.judge import failed
from lit_hidden.recipes import method
from lit_hidden.report import style
from lit_hidden.report.published import SOURCES, Published, points
from lit_hidden.report.tables import departures, same_images
from lit_hidden.results import Results
from lit_hidden.run import Run


@dataclass(frozen=True)
class Look:
    """How a series is drawn: lightness, line style and marker all differ, so that a grey copy reads the same."""

    label: str
    color: str
    linestyle: Any = "-"
    marker: str = "o"
    face: str | None = None  # of the marker; None is its colour


DISTRIBUTIONS = {
    "kaiming_normal": Look(r"Kaiming normal, $N_k$", style.SKY, (0, (4, 1.2)), "s"),
    "signed_constant": Look(r"signed constant, $U_k$", style.NAVY, "-", "o"),
    "kaiming_uniform": Look("Kaiming uniform", "#145c40", (0, (1.2, 1.2)), "v"),
    "xavier_normal": Look(r"Xavier normal, $N_x$", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
    "signed_xavier": Look(r"signed Xavier constant, $U_x$", "#4b5500", (0, (3, 1, 1, 1, 1, 1)), "^"),
}
KEPT = {  # densities told apart within a panel
    0.3: Look("30%", "#8cc0f0", (0, (1.2, 1.2)), "v"),
    0.5: Look("50%", style.NAVY, "-", "o"),
    0.7: Look("70%", "#2f6fb5", (0, (4, 1.2)), "s"),
}
DENSE = {
    "sgd": Look("dense, trained with SGD", style.ORANGE, (0, (5, 1.5)), ""),
    "adam": Look("dense, trained with Adam", "#7d4c14", (0, (1.2, 1.2)), ""),
}
RANDOM = Look("random mask, same density", style.COLORS["random"], "", "x")
HOLLOW = {
    "digitised": "<",
    "third party": ">",
    "by eye": "X",
    "quoted": "*",
    "authors": "P",
    "torchvision": "p",
}  # a source's marker; no Look's
FAILED = "1"  # the marker of seeds that fail to train; no Look's
ROW = 10.0  # points: the height of a line of words at the foot
NARROWEST = 4.0  # points of accuracy that a panel spans at least

# Of a text beside a point: to the right or left, above or below, and how far in points; the first are preferred.
SIDES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
PLACES = [(right, up, away) for away in (6, 10, 16) for right, up in SIDES]


def weights(distribution: str, scaled: bool | str = False, words: str = "") -> Look:
    """Give the look of a distribution, its markers white where it is scaled; `words` come before its name."""
    look = DISTRIBUTIONS[distribution]
    if scaled:
        look = replace(look, label=f"{look.label}, scaled", face="white")
    if scaled == "authors":
        look = replace(look, label=f"{look.label} as authors", linestyle=(0, (1, 1.6)))
    return replace(look, label=words + look.label)


def there(results: Results, **where: Any) -> Results:
    """Keep the runs whose fields equal `where`; maybe none."""
    return results.where(lambda run: where.items() <= vars(run).items())


def each(results: Results, x: str, **where: Any) -> dict[Any, Results]:
    """Part the runs that have `where` by the values of field `x`, ascending; a run that has None is in no part."""
    same = there(results, **where)
    return {value: there(same, **{x: value}) for value in (same.each(x) if len(same) else [])}


def trained(results: Results) -> Results:
    """Keep the runs that train, see `lit_hidden.judge.failed`; maybe none."""
    return Results(row for row in results.rows if not failed(row[0], row[1]))


def curve(axes: Axes, results: Results, x: str, look: Look, **where: Any) -> None:
    """Draw accuracy over field `x`, a little aside of the curves that are there, so that no bar hides another."""
    number = len(axes.collections)
    cells(axes, each(results, x, **where), look, aside=2.5 * ((number + 1) // 2) * (-1) ** number)


def cells(axes: Axes, parts: Mapping[float, Results], look: Look, *, aside: float = 0.0) -> None:
    """Draw the accuracy of runs that differ by their seeds, over x, `aside` points beside it."""
    for x, part in parts.items():
        failures(axes, x, part, look)
    bars(axes, {x: kept.values() for x, part in parts.items() if len(kept := trained(part))}, look, aside=aside)


def bars(axes: Axes, values: Mapping[float, list[float]], look: Look, *, aside: float = 0.0) -> None:
    """Draw means over seeds, each with a bar from the smallest to the largest seed, all `aside` points beside x."""
    if not values:
        return
    ranges = axes.vlines(list(values), [min(v) for v in values.values()], [max(v) for v in values.values()],
                         color=look.color, linewidth=1.1)  # fmt: skip
    (means,) = axes.plot(
        list(values), [float(np.mean(v)) for v in values.values()], color=look.color, linestyle=look.linestyle,
        marker=look.marker, markersize=4.5, markerfacecolor=look.face or look.color, label=look.label,
    )  # fmt: skip
    for artist in (ranges, means):  # moved when the limits are known, which are those of the data
        moved = ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
        artist.set_transform(axes.transData + moved)


def level(axes: Axes, results: Results, look: Look, **where: Any) -> None:
    """Draw a baseline as a line across, with a bar from the smallest to the largest seed near its right end."""
    same = there(results, **where)
    failures(axes, 1.0, same, look, axes.transAxes)
    if len(kept := trained(same)):
        low, high = min(kept.values()), max(kept.values())
        axes.axhline(kept.mean(), color=look.color, linestyle=look.linestyle, label=look.label, gid="level")
        at = 0.99 - 0.02 * sum(found.get_gid() == "level" for found in axes.collections)
        bar = LineCollection([[(at, low), (at, high)]], color=look.color, linewidth=1.1, gid="level")
        bar.set_transform(axes.get_yaxis_transform())  # x as a fraction of the axes, y in data
        axes.add_collection(bar, autolim=False)
        axes.update_datalim([(0, low), (0, high)], updatex=False)


def random(axes: Axes, results: Results, **where: Any) -> None:
    """Draw random masks over density as `control` does."""
    control(axes, each(results, "density", method="random", **where))


def control(axes: Axes, parts: Mapping[float, Results]) -> None:
    """Draw random masks over x; where they lie far below all else, at the foot with their accuracy in words.

    To be called last: what is drawn so far sets the scale, so that chance does not press the curves together.
    """
    means = {x: part.mean() for x, part in parts.items()}
    bottom, top = _heights(axes)
    if bottom - min(means.values(), default=bottom) <= top - bottom or bottom > top:
        cells(axes, parts, RANDOM)
        return
    for x, mean in means.items():
        words = note(axes, x, f"{mean:.1f}% \u2193", RANDOM.color, RANDOM.marker, RANDOM.label)
        words.set_color(style.COLORS["muted"])


def failures(axes: Axes, x: float, results: Results, look: Look, place: Transform | None = None) -> None:
    """Say at the foot how many seeds of a point fail to train, if any does."""
    if words := lost(results):
        note(axes, x, words, look.color, FAILED, "_failed", place)


def lost(results: Results) -> str:
    """Say how many of these runs fail to train: `2/3 fail`; nothing if none does."""
    fails = len(results) - len(trained(results))
    return f"{fails}/{len(results)} fail" if fails else ""


def note(
    axes: Axes, x: float, words: str, color: str, marker: str, label: str, place: Transform | None = None
) -> Annotation:
    """Put a mark and words at the foot of a panel; `finish` stacks those that would lie on one another."""
    place = place or axes.get_xaxis_transform()  # x in data, y as a fraction of the axes
    axes.plot([x], [0], color=color, linestyle="", marker=marker, markersize=4.5, label=label, transform=place,
              gid="foot")  # fmt: skip
    return axes.annotate(words, (x, 0), (0, 0), xycoords=place, textcoords="offset points", va="center", fontsize=7.5,
                         color=color, gid="foot")  # fmt: skip


def _heights(axes: Axes) -> tuple[float, float]:
    """Give the lowest and the highest y of what is drawn in all panels that share the axis; inf, -inf of nothing."""
    drawn = [panel.dataLim.intervaly for panel in axes.get_shared_y_axes().get_siblings(axes)]
    return float(min(low for low, _ in drawn)), float(max(high for _, high in drawn))


def _stack(panels: Collection[Axes]) -> None:
    """Stack what stands at the foot of each panel, with its words on the inner side, and make room for it below."""
    for axes in panels:
        siblings = axes.get_shared_y_axes().get_siblings(axes)
        rows = max(_rows(panel) for panel in siblings)
        bottom, top = _heights(axes)
        if bottom > top:
            axes.set_ylim(0, 100)  # nothing is drawn: percent
        elif rows or top - bottom < NARROWEST:
            middle, span = (bottom + top) / 2, max(top - bottom, NARROWEST)
            bottom, top, share = (
                middle - span / 2,
                middle + span / 2,
                rows * ROW * axes.figure.dpi / 72 / axes.bbox.height,
            )
            bottom, top = bottom - 0.05 * span, top + 0.05 * span
            axes.set_ylim(top - (top - bottom) / (1 - share), top)
            axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= top])


def _rows(axes: Axes) -> int:
    """Stack what stands at the foot of a panel, and give the number of rows that it takes."""
    row = ROW * axes.figure.dpi / 72 / axes.bbox.height  # as a fraction of the axes
    marks = [line for line in axes.get_lines() if line.get_gid() == "foot"]
    words = [text for text in axes.texts if isinstance(text, Annotation) and text.get_gid() == "foot"]
    taken: list[Bbox] = []
    for mark, text in zip(marks, words, strict=True):
        x = float(np.asarray(mark.get_xdata())[0])
        left = mark.get_transform().transform((x, 0))[0] > (axes.bbox.x0 + axes.bbox.x1) / 2
        text.set(position=(-5 if left else 5, 0), ha="right" if left else "left")
        for place in range(len(marks)):
            y = (place + 0.6) * row
            mark.set_ydata([y])
            text.xy = (x, y)
            box = Bbox.union([text.get_window_extent(), mark.get_window_extent()])
            if not box.count_overlaps(taken):
                break
        taken.append(box)
    return math.ceil(max((box.y1 - axes.bbox.y0 for box in taken), default=0) / (row * axes.bbox.height))


def supermasks(axes: Axes, results: Results, look: Look, **where: Any) -> None:
    """Draw sampled supermasks where they ended, joined by where they began: both coordinates are results.

    A small point is a seed, a large one the mean, a cross the mean of the most probable masks, as rounding gives them.
    """
    ends = []
    for start in each(results, "density", method="supermask", **where).values():
        failures(axes, start.mean("density_sampled"), start, look)
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
    axes: Axes, results: Results, color: str, at: float | None = None, margin: float | None = None, **where: Any
) -> None:
    """Draw what others report on the data of `results`, hollow, a marker a source; `finish` names them.

    Where no run of `results` is of the authors' protocol theirs are of other nets or longer trainings, and would press
    ours together: they go into a panel of their own above.

    Args:
        axes: where.
        results: what is drawn there.
        color: that of the series they belong to.
        at: where they stand; None: at their density.
        margin: where they stand as a fraction of the axes, such as 1.03, beyond the right end.
        where: the fields of `Published` that they have.
    """
    if not (known := theirs(results, **where)):
        return
    if all(departures([run]) for run, _ in results if method(str(run.method)).learns):  # else no training is cut
        axes = _inset(axes)
    place = axes.transData if margin is None else axes.get_yaxis_transform()
    for point in known:
        x = next((x for x in (margin, at, point.density) if x is not None), None)
        if x is not None:
            hollow_point(axes, x, point.accuracy, point.source, color, place)


def _inset(axes: Axes) -> Axes:
    """Give the panel above for others' points, on the full range; the first time room is made for it."""
    if not axes.child_axes:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0, box.width, 0.68 * box.height))
        inset = axes.inset_axes((0.0, 1.12, 1.0, 0.35), sharex=axes)
        inset.set(ylim=(0, 100), yticks=(0, 50, 100))
        inset.tick_params(labelbottom=False, labelleft=axes.yaxis.get_tick_params()["labelleft"], labelsize=7.5)
        inset.grid(axis="y")
    return cast(Axes, axes.child_axes[0])


def theirs(results: Results, **where: Any) -> list[Published]:
    """List what others report on the data of `results`; nothing where those are but a part of it, or not there."""
    run = next((run for run, _ in results), None)
    return list(points(data=run.data, **where)) if run and same_images(run) else []


def hollow_point(axes: Axes, x: float, y: float, source: str, color: str, place: Transform | None = None) -> None:
    """Draw one point of others', its coordinates those of `place`: the data's, if not given."""
    axes.plot(
        [x], [y], linestyle="", marker=HOLLOW[source], markersize=5.5, markerfacecolor="none", markeredgecolor=color,
        markeredgewidth=0.9, zorder=1.9, clip_on=False, label=f"_{source}", transform=place or axes.transData,
    )  # fmt: skip


def sizes(axes: Axes, results: Results, name: Callable[[Run], str]) -> None:
    """Draw accuracy over the number of parameters, a point a net: subnetworks (their weights kept), dense, random.

    Points above one another are of one net; `name` gives its name, from any of its runs.
    """
    axes.set_xscale("log")
    axes.set_autoscalex_on(False)  # which cannot show a single size
    axes.margins(y=0.12)
    looks = {d: weights(d, words="edge-popup, ") for d in DISTRIBUTIONS}
    series = [(look, there(results, method="edge_popup", distribution=d)) for d, look in looks.items()]
    series.append((replace(DENSE["sgd"], marker="D"), there(results, method="dense")))
    named: dict[float, tuple[float, str]] = {}  # at the highest of its points
    for look, nets in [(look, _by_size(same)) for look, same in series]:
        for x, net in nets.items():
            run = net.rows[0][0]
            for accuracy in trained(net).values() if len(trained(net)) else []:
                named[x] = max(named.get(x, (0.0, "")), (accuracy, name(run)))
            if run.width == 1:  # others' nets have the published width
                fields = ("optimizer",) if run.density is None else ("distribution", "density")
                others(axes, net, look.color, at=x, **{f: getattr(run, f) for f in ("net", "method", *fields)})
        cells(axes, nets, look)
    control(axes, _by_size(there(results, method="random")))
    low, high = axes.dataLim.intervalx
    beyond = max((high / low) ** 0.14, math.sqrt(4.8 * low / high))  # room for names; two ticks around a single size
    axes.set_xlim(low / beyond, high * beyond)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.set_xlabel("parameters; of a subnetwork, the weights kept")
    axes.grid(axis="y")
    _stack([axes])
    beside(axes, [(x, y, words) for x, (y, words) in named.items()])


def _by_size(results: Results) -> dict[float, Results]:
    """Part results by net and width, and order them by their number of parameters."""
    nets = dict.fromkeys((run.net, run.width) for run, _ in results)
    parts = [results.select(net=net, width=width) for net, width in nets]
    return dict(sorted(((part.mean("parameters"), part) for part in parts), key=lambda item: item[0]))


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
    drawn = [x for panel in (axes, *axes.child_axes) for x in panel.dataLim.intervalx]
    shown = [*ticks, *(float(x) for x in drawn if np.isfinite(x))]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_xlim(max(shown, default=1) + 0.06, min(shown, default=0) - 0.06)
    axes.set_xlabel("% of weights kept")
    axes.grid(axis="y")


def width_axis(axes: Axes, widths: Iterable[float]) -> None:
    """Label a logarithmic axis with the width multipliers."""
    ticks = sorted(widths)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"x{width:g}" for width in ticks], minor=False)
    axes.set_xlim(ticks[0] / 1.06, ticks[-1] * 1.06)
    axes.minorticks_off()
    axes.set_xlabel("width multiplier")
    axes.grid(axis="y")


def finish(figure: Figure, axes: Collection[Axes], **place: Any) -> None:
    """Stack what stands at the foot of the panels and name each series, mark and source once, for all of them.

    To be called last.
    """
    _stack(axes)
    handles: dict[str, Artist] = {}
    sources: dict[str, None] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        if ax.child_axes:
            _ours(ax, _inset(ax))
        lines = [line for panel in (ax, *ax.child_axes) for line in panel.get_lines()]
        sources |= dict.fromkeys(str(line.get_label()).removeprefix("_") for line in lines)  # it hides them elsewhere
    grey = style.COLORS["muted"]
    for source in [source for source in sources if source in SOURCES]:
        handles[f"hollow: {SOURCES[source].name}"] = Line2D(
            [], [], linestyle="", marker=HOLLOW[source], markersize=5.5, markerfacecolor="none",
            markeredgecolor=style.COLORS["ink"], markeredgewidth=0.9,
        )  # fmt: skip
    if any(isinstance(collection, LineCollection) for ax in axes for collection in ax.collections):
        handles["bar: smallest to largest seed"] = Line2D([], [], linestyle="", marker="|", color=grey)
    if "failed" in sources:
        handles["seeds that fail to train"] = Line2D([], [], linestyle="", marker=FAILED, color=grey)
    figure.legend(handles.values(), handles.keys(), **{"loc": "lower center", "ncols": 4, **place})


def _ours(axes: Axes, inset: Axes) -> None:
    """Draw the curves and levels of a panel thin in the one above it, which takes its title."""
    inset.set_title(axes.get_title(loc="left"), loc="left")
    axes.set_title("", loc="left")
    for line in axes.get_lines():
        place = inset.get_yaxis_transform() if line.get_gid() == "level" else inset.transData
        inset.plot(*line.get_data(), color=line.get_color(), ls=line.get_linestyle(), linewidth=0.8, transform=place)
