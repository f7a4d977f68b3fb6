"""The drawings' common style: one look for every figure, legible in print, in grey and to the colour-blind."""

import math
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib.style
from matplotlib import rcParams
from matplotlib.figure import Figure

# Blue, orange and purple stay apart for the colour-blind, and differ in lightness in a grey copy.
NAVY, SKY, PURPLE, ORANGE, GREY, BLACK = "#0b3c7a", "#6aaae4", "#b33d88", "#cc6d12", "#8c8c8c", "#1a1a1a"
COLORS = {
    "edge_popup": NAVY,
    "dense": ORANGE,
    "random": "#bfbfbf",
    "reentered": SKY,
    "positive": "#0b4f8a",
    "negative": "#f0a030",
    "absent": GREY,
    "ink": BLACK,
    "muted": "#5a5a5a",
}


def context() -> AbstractContextManager[None]:
    """Draw with this style inside `with`, whatever the user's own settings are."""
    return matplotlib.style.context(Path(__file__).with_name("drawing.mplstyle"), after_reset=True)


def footer(figure: Figure, text: str) -> None:
    """Write `text` at the foot of `figure`, wrapped to its width; axes that nobody has placed make room for it."""
    width = int(figure.get_figwidth() * 72 / (6.8 * 0.56)) - 2
    lines = "\n".join(textwrap.wrap(text, width))
    foot = figure.text(0.006, 0.006, lines, fontsize=6.8, color=COLORS["muted"], va="bottom", gid="footer")
    if figure.get_layout_engine() is None and figure.subplotpars.bottom == rcParams["figure.subplot.bottom"]:
        boxes = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
        lowest = min((box.y0 for box in boxes), default=math.inf)
        if (missing := foot.get_window_extent().y1 - lowest) > 0:
            figure.subplots_adjust(bottom=figure.subplotpars.bottom + missing / figure.bbox.height + 0.01)
