"""The drawings' common style: one look for every figure, legible in print, in grey and to the colour-blind."""

import textwrap
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Blue, orange and purple stay apart for the colour-blind, and differ in lightness in a grey copy.
NAVY, SKY, PURPLE, ORANGE, GREY, BLACK = "#0b3c7a", "#6aaae4", "#b33d88", "#cc6d12", "#8c8c8c", "#1a1a1a"
COLORS = {
    "edge_popup": NAVY,
    "supermask": PURPLE,
    "dense": ORANGE,
    "random": "#bfbfbf",
    "reentered": SKY,
    "positive": "#0b4f8a",
    "negative": "#f0a030",
    "absent": GREY,
    "ink": BLACK,
    "muted": "#5a5a5a",
}
LINESTYLES: dict[str, Any] = {
    "edge_popup": "-",
    "supermask": "-.",
    "dense": (0, (5, 1.5)),
    "random": (0, (1.2, 1.2)),
    "reentered": (0, (3, 1)),
}
NAMES = {
    "edge_popup": "edge-popup subnetwork",
    "supermask": "sampled supermask (Zhou et al.)",
    "dense": "dense, trained",
    "random": "random mask",
}

_RC: dict[str, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 150,
    "svg.hashsalt": "lit_hidden",  # equal drawings are equal bytes
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 9,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": COLORS["muted"],
    "axes.labelcolor": COLORS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def context() -> AbstractContextManager[None]:
    """Draw with this style inside `with`, whatever the user's own settings are."""
    return mpl.style.context(_RC, after_reset=True)


def footer(figure: Figure, text: str) -> None:
    """Write `text` at the foot of `figure`, wrapped to its width."""
    width = int(figure.get_figwidth() * 72 / (6.8 * 0.56)) - 2
    lines = "\n".join(textwrap.wrap(text, width))
    figure.text(0.006, 0.006, lines, fontsize=6.8, color=COLORS["muted"], va="bottom", gid="footer")


def band(axes: Axes, x: Any, runs: Any, method: str, **overrides: Any) -> None:
    """Draw the mean of `runs` `(runs, E)` over `x` `(E,)` and shade from the smallest to the largest run."""
    look = {"color": COLORS[method], "linestyle": LINESTYLES[method], "label": NAMES[method], **overrides}
    axes.fill_between(x, runs.min(0), runs.max(0), color=look["color"], alpha=0.22, linewidth=0)
    axes.plot(x, runs.mean(0), **look)
