"""A panel of accuracy over the number of parameters, with the names of the nets beside their points."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from experiments import _panels as panels
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

# Where a text stands beside a point: how far in points, right or left, above or below; the first are preferred.
SIDES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
PLACES = list(product((6, 10, 16), SIDES))


def draw(figure: Figure, results: Results, name: Callable[[Run], str]) -> Axes:
    """Draw accuracy over the number of parameters (of a subnetwork, weights kept), one point per net.

    `name` names a net from any of its runs.
    """
    figure.set_size_inches(8.6, 5.6)
    axes = figure.add_axes((0.075, 0.3, 0.905, 0.64))
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
            for row in panels.trained(net).rows:
                named[x] = max(named.get(x, (0.0, "")), (row[1]["accuracy"], name(run)))
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
    axes.set(xlabel="parameters; of a subnetwork, the weights kept", ylabel="test accuracy (%)")
    axes.grid(axis="y")
    panels.finish(figure, [axes], ncols=3, bbox_to_anchor=(0.5, 0.07))
    _beside(axes, named)
    return axes


def _by_size(results: Results) -> dict[float, Results]:
    """Group results by net and width, in the order of their number of parameters."""
    nets = dict.fromkeys((run.net, run.width) for run, _ in results)
    parts = [results.select(net=net, width=width) for net, width in nets]
    return dict(sorted(((part.mean("parameters"), part) for part in parts), key=lambda item: item[0]))


def _beside(axes: Axes, named: Mapping[float, tuple[float, str]]) -> None:
    """Write names beside points `x: (y, name)`: inside the panel, not on other texts or markers, and near."""
    axes.autoscale_view()
    taken = [text.get_window_extent() for text in axes.texts]
    drawn = [(line.get_xydata(), line.get_transform()) for line in axes.get_lines()]
    drawn += [(path.vertices, bars.get_transform()) for bars in axes.collections for path in bars.get_paths()]
    markers = np.concatenate([transform.transform(points) for points, transform in drawn])
    for x, (y, words) in named.items():
        text = axes.annotate(words, (x, y), (0, 0), textcoords="offset points", fontsize=7.5)
        at, size = axes.transData.transform((x, y)), text.get_window_extent().size
        costs = []
        for away, side in PLACES:
            corner = at + np.multiply(side, away * axes.figure.dpi / 72) + np.subtract(side, 1) / 2 * size
            box = Bbox([corner, corner + size]).padded(4)  # half a marker
            bad = (axes.bbox.count_contains(box.corners()) < 4) + box.count_overlaps(taken)
            costs.append(1000 * bad + 50 * box.count_contains(markers) + away)
        away, (right, up) = PLACES[int(np.argmin(costs))]
        text.set(position=(away * right, away * up), color=style.COLORS["muted"])
        text.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])
        taken.append(text.get_window_extent())
