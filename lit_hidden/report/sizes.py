"""A panel of accuracy over the number of parameters, with the names of the nets beside their points."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from lit_hidden.report import panels, style
from lit_hidden.results import Results
from lit_hidden.run import Run

# Where a text stands beside a point: right or left, above or below, how far in points; the first are preferred.
SIDES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
PLACES = [(right, up, away) for away in (6, 10, 16) for right, up in SIDES]


def draw(axes: Axes, results: Results, name: Callable[[Run], str]) -> None:
    """Draw accuracy over the number of parameters, one point per net; `name` names a net from any of its runs.

    A subnetwork has the number of weights kept.
    """
    axes.set_xscale("log")
    axes.set_autoscalex_on(False)  # it cannot show a single size
    axes.margins(y=0.12)
    looks = {d: panels.weights(d, words="edge-popup, ") for d in panels.DISTRIBUTIONS}
    series = [(look, panels.there(results, method="edge_popup", distribution=d)) for d, look in looks.items()]
    series.append((replace(panels.DENSE["sgd"], marker="D"), panels.there(results, method="dense")))
    named: dict[float, tuple[float, str]] = {}  # the highest point at each x
    for look, same in series:
        nets = _by_size(same)
        for x, net in nets.items():
            run = net.rows[0][0]
            for accuracy in panels.trained(net).values() if len(panels.trained(net)) else []:
                named[x] = max(named.get(x, (0.0, "")), (accuracy, name(run)))
            if run.width == 1:  # others' nets have the published width
                fields = ("optimizer",) if run.density is None else ("distribution", "density")
                panels.others(axes, net, look.color, at=x, **{f: getattr(run, f) for f in ("net", "method", *fields)})
        panels.cells(axes, nets, look)
    panels.control(axes, _by_size(panels.there(results, method="random")))
    low, high = axes.dataLim.intervalx
    room = max((high / low) ** 0.14, math.sqrt(4.8 * low / high))  # for names; two ticks around a single size
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: panels.count(value)))
    axes.set_xlabel("parameters; of a subnetwork, the weights kept")
    axes.grid(axis="y")
    panels.stack([axes])
    _beside(axes, [(x, y, words) for x, (y, words) in named.items()])


def _by_size(results: Results) -> dict[float, Results]:
    """Group results by net and width, in the order of their number of parameters."""
    nets = dict.fromkeys((run.net, run.width) for run, _ in results)
    parts = [results.select(net=net, width=width) for net, width in nets]
    return dict(sorted(((part.mean("parameters"), part) for part in parts), key=lambda item: item[0]))


def _beside(axes: Axes, texts: Iterable[tuple[float, float, str]]) -> None:
    """Write texts beside points `(x, y, text)`: not on other texts, hardly on markers, on few lines, and near."""
    axes.autoscale_view()
    taken = [text.get_window_extent() for text in axes.texts]
    paths = [(line.get_xydata(), line.get_transform()) for line in axes.get_lines()]
    paths += [(path.vertices, bars.get_transform()) for bars in axes.collections for path in bars.get_paths()]
    corners = [transform.transform(vertices) for vertices, transform in paths]
    ends = [pair for path in corners for pair in pairwise(path)]
    dots = [np.linspace(one, other, 2 + int(np.hypot(*(other - one)) / 3)) for one, other in ends]
    markers, lines = np.concatenate(corners), np.concatenate([np.empty((0, 2)), *dots])
    for x, y, words in texts:
        text = axes.annotate(
            words, (x, y), (0, 0), textcoords="offset points", fontsize=7.5, color=style.COLORS["muted"]
        )
        at, size = axes.transData.transform((x, y)), text.get_window_extent().size

        def cost(place: tuple[int, int, int], at: Any = at, size: Any = size) -> int:
            *side, away = place
            corner = at + np.multiply(side, away * axes.figure.dpi / 72) + np.subtract(side, 1) / 2 * size
            room = Bbox.from_bounds(*corner, *size).padded(4)  # half a marker
            bad = (axes.bbox.count_contains(room.corners()) < 4) + room.count_overlaps(taken)
            return int(1000 * bad + 50 * room.count_contains(markers) + room.count_contains(lines) + away)

        right, up, away = min(PLACES, key=cost)
        text.set(position=(away * right, away * up))
        text.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])
        taken.append(text.get_window_extent())
