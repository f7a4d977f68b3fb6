"""A window of a layer, drawn from its tensors: units, edges, and which of the edges a step swapped.

Weights, scores and masks are `(O, I)`: outputs by inputs. An edge is `(output, input)`. Traces are described in
`lit_hidden.callbacks.trace`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from lit_hidden.report.style import COLORS

Edge = tuple[int, int]
Trace = Mapping[str, np.ndarray]

WIDEST = 4.5  # points; the width of the edge with the largest |score| of a window
_DASHES = (0, (4, 3))


@dataclass(frozen=True)
class Swap:
    """One edge that came in and one that went out, at the same recorded update."""

    record: int  # index of the update in the trace's arrays
    step: int  # index of the update in training
    entered: Edge
    died: Edge
    rule: str  # how it was found, for the drawing
    again: bool  # `entered` had been chosen before, and had died


def find_swap(trace: Trace) -> Swap | None:
    """Find the swap to draw, by rule and not by eye; None if no recorded update swapped an edge of the layer.

    Wanted is the first recorded update at which an edge that had died comes back while another dies, both by the
    gradient: in the top k of `before - lr * gradient`, without momentum and weight decay, the same happens, and the
    gradient is the larger part of both moves. If there is none, the smaller part will do; else any swap. Of several
    edges the first, row by row, is taken; of those that die, one of the same output if there is one, as in the paper's
    section 3.1.
    """
    before, after = trace["chosen_before"], trace["chosen_after"]
    by_gradient = -trace["lr"][:, None, None] * trace["gradient"]
    larger = np.abs(by_gradient) >= np.abs(trace["after"] - trace["before"] - by_gradient)
    alone = np.abs(trace["before"] + by_gradient)
    drop = before[0].size - int(before[0].sum())
    alone = alone >= np.sort(alone.reshape(len(alone), -1))[:, drop, None, None]
    enters, dies = after & ~before, before & ~after
    back, gone, wanted = enters & trace["seen"] & alone, dies & ~alone, "a dead edge re-enters and another dies"
    rules = [
        (back & larger, gone & larger, f"first recorded update at which {wanted}, both moved by the gradient more than "
         "by momentum"),
        (back, gone, f"first recorded update at which {wanted}, both by the gradient alone"),
        (enters, dies, f"first swap of all, made with momentum: at no recorded update {wanted} by their gradients "
         "alone"),
    ]  # fmt: skip
    for comes, goes, rule in rules:
        both = comes.any((1, 2)) & goes.any((1, 2))
        if both.any():
            r = int(both.argmax())
            entered = _edges(comes[r])[0]
            died = min(_edges(goes[r]), key=lambda edge: (edge[0] != entered[0], edge))
            return Swap(r, int(trace["step"][r]), entered, died, rule, bool(trace["seen"][r][entered]))
    return None


def move(trace: Trace, record: int, edge: Edge) -> dict[str, float]:
    """Read how update number `record` moved the score of `edge`: `before + by_gradient + by_rest` is `after`."""
    before, after, gradient = (float(trace[name][record][edge]) for name in ("before", "after", "gradient"))
    by_gradient = -float(trace["lr"][record]) * gradient
    by_rest = after - before - by_gradient  # by momentum and weight decay
    found = {"weight": float(trace["weight"][edge]), "gradient": gradient, "before": before, "after": after}
    return found | {"by_gradient": by_gradient, "by_rest": by_rest}


def threshold(scores: np.ndarray, chosen: np.ndarray) -> float:
    """Give the smallest |score| that is chosen."""
    return float(np.abs(scores)[chosen].min())


def window(
    shape: tuple[int, int], edges: Iterable[Edge] = (), outputs: int = 5, inputs: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the outputs and inputs to draw: those of `edges`, filled up with the units that follow; ascending.

    These are the units after the first one needed, then, past the last unit, those before it.
    """
    ends = list(edges)

    def fill(needed: set[int], count: int, total: int) -> np.ndarray:
        start = min(needed, default=0)
        rest = [unit for unit in (*range(start, total), *range(start - 1, -1, -1)) if unit not in needed]
        return np.array(sorted([*needed, *rest[: max(count - len(needed), 0)]]))

    return fill({o for o, _ in ends}, outputs, shape[0]), fill({i for _, i in ends}, inputs, shape[1])


def draw_layer(
    axes: Axes,
    weight: np.ndarray,
    size: np.ndarray,
    chosen: np.ndarray,
    units: tuple[np.ndarray, np.ndarray],
    *,
    highlight: Mapping[Edge, str] | None = None,
    widest: float = WIDEST,
) -> None:
    """Draw the edges between the output and input `units` of a layer, as from `window`, the inputs on the left.

    `weight`, `size` and `chosen` (bool) are `(O, I)`. Chosen edges are solid, coloured by the sign of `weight`; their
    widths show |size|, the largest of these edges `widest` points. The others are dashed, thin and grey. Edges in
    `highlight` are drawn above the others, with their labels.
    """
    outputs, inputs = units
    highlight = highlight or {}
    y_in, y_out = (dict(zip(units.tolist(), np.linspace(1, 0, len(units)), strict=True)) for units in (inputs, outputs))
    largest = float(np.abs(size[np.ix_(outputs, inputs)]).max())
    kinds: dict[tuple[str, bool], list[Edge]]
    kinds = {each: [] for each in product(("absent", "negative", "positive"), (False, True))}
    for edge in product(y_out, y_in):
        kind = "absent" if not chosen[edge] else "positive" if weight[edge] > 0 else "negative"
        kinds[kind, edge in highlight].append(edge)
    for order, ((kind, special), edges) in enumerate(kinds.items()):
        if not edges:
            continue
        lines = [[(0.0, y_in[i]), (1.0, y_out[o])] for o, i in edges]
        if kind == "absent":
            looks: dict[str, Any] = {"linestyles": [_DASHES], "alpha": 0.75, "linewidths": 1.4 if special else 0.7}
        else:
            looks = {"alpha": 0.9, "linewidths": [widest * abs(float(size[edge])) / largest for edge in edges]}
        if special:  # a white rim sets it off from the others
            rims = 3 + np.array(looks["linewidths"]) if kind != "absent" else 3.7
            axes.add_collection(LineCollection(lines, colors="white", linewidths=rims, zorder=3.9))
        elif highlight:
            looks["alpha"] = 0.3
        color = "black" if special and kind == "absent" else COLORS[kind]
        gid = f"{kind}-highlight" if special else kind
        axes.add_collection(
            LineCollection(lines, colors=color, zorder=4 if special else order / 2, capstyle="butt", gid=gid, **looks)
        )
    for x, ys, side in ((0, y_in, "in"), (1, y_out, "out")):
        axes.scatter(
            [x] * len(ys), list(ys.values()), s=150, color="white", edgecolor=COLORS["ink"], zorder=5, clip_on=False
        )
        for index, y in ys.items():
            axes.text(x, y, str(index), ha="center", va="center", fontsize=6.8, zorder=6, gid=f"unit-{side}")
        if len(ys) < weight.shape[1 - x]:
            axes.text(x, -0.075, "\u22ee", ha="center", va="center", fontsize=11, color=COLORS["muted"])
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.1, 1.05))
    axes.axis("off")
    for (o, i), label in highlight.items():
        at = 0.62 if chosen[o, i] else 0.3  # two labels on edges of one unit stay apart
        axes.text(
            at, y_in[i] + at * (y_out[o] - y_in[i]), label, ha="center", va="center", fontsize=8, zorder=7,
            bbox={"facecolor": "white", "edgecolor": COLORS["ink"], "linewidth": 0.6, "boxstyle": "round,pad=0.2"},
        )  # fmt: skip


def draw_scores(axes: Axes, trace: Trace, swap: Swap) -> None:
    """Draw how one update moved the |scores| of a swap's two edges across the threshold of their layer.

    A row for each edge: a ring where it was, a dot where it is, in between an arrow for the share of the gradient
    and one for that of momentum and weight decay. In thousandths.
    """
    r, reach, ink = swap.record, list[float](), COLORS["ink"]
    for time, dashes in (("before", ":"), ("after", "-")):
        reach.append(1e3 * threshold(trace[time][r], trace[f"chosen_{time}"][r]))
        axes.axvline(reach[-1], color=ink, linestyle=dashes, linewidth=1.1, label=f"threshold {time}")
    for y, edge in ((1, swap.entered), (0, swap.died)):
        m = move(trace, r, edge)
        start, middle, end = (1e3 * abs(s) for s in (m["before"], m["before"] + m["by_gradient"], m["after"]))
        reach += [start, middle, end]
        color = COLORS["positive" if m["weight"] > 0 else "negative"]
        for time, x, face in (("before", start, "white"), ("after", end, color)):
            label = f"$|s|$ {time}" if y else None
            axes.plot(x, y, "o", color=ink, markerfacecolor=face, markersize=7, label=label, zorder=4)
        axes.plot([start, end], [y, y], color=color, linewidth=3, solid_capstyle="butt", zorder=2)
        shares = (("gradient", start, middle, 0.3, "-"), ("momentum, decay", middle, end, -0.3, (0, (2, 1))))
        for share, x0, x1, dy, line in shares:
            look: dict[str, Any] = {"color": ink, "linestyle": line, "linewidth": 1.3}
            arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
            axes.annotate("", (x1, y + dy), (x0, y + dy), zorder=3, arrowprops=arrow | look)
            if y:  # the legend cannot name an annotation
                axes.plot([], [], label=f"by {share}", **look)
    pad = 0.06 * (max(reach) - min(reach) or 1.0)
    axes.set(xlim=(min(reach) - pad, max(reach) + pad), ylim=(-0.6, 1.6), xlabel=r"$1000\,|s|$")
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="x", pad=1)


def edge_legend() -> list[Line2D]:
    """Give the handles that name the kinds of edges."""
    return [
        Line2D([], [], color=COLORS["positive"], linewidth=3, label="weight $w>0$"),
        Line2D([], [], color=COLORS["negative"], linewidth=3, label="weight $w<0$"),
        Line2D([], [], color=COLORS["absent"], linewidth=1, linestyle=_DASHES, label="not chosen"),
    ]


def number(value: float, digits: int = 3) -> str:
    """Write a signed number with a true minus."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def _edges(mask: np.ndarray) -> list[Edge]:
    return [(int(o), int(i)) for o, i in np.argwhere(mask)]
