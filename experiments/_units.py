"""A chart of nets and nervous systems, parameters over units, from _units.csv; and what language models write."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_hidden.report import style


def chart(axes: Axes, ours: list[tuple[int, int]]) -> None:
    """Draw parameters or synapses over units or neurons; lines are of equal numbers per unit."""
    with Path(__file__).with_name("_units.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    looks = {"model": (style.ORANGE, "s"), "brain": (style.PURPLE, "o")}
    for row in rows:
        x, y, (color, marker) = float(row["units"]), float(row["parameters"]), looks[row["kind"]]
        axes.plot(x, y, marker=marker, color=color, markerfacecolor="white" if row["about"] else color, linestyle="")
        left, words = row["name"] not in ("GPT-2", "mouse", "C. elegans"), [row["name"], *filter(None, [row["about"]])]
        away = (-6 if left else 6, -10 if row["name"] in ("GPT-3", "C. elegans") else -3)
        axes.annotate(", ".join(words), (x, y), away, textcoords="offset points", fontsize=7.5, color=color,
                      ha="right" if left else "left")  # fmt: skip
    if ours:
        axes.plot(*zip(*sorted(ours), strict=True), linestyle="", marker="o", markersize=3, color=style.NAVY)
        axes.annotate("weights kept here", max(ours), (6, 4), textcoords="offset points", fontsize=7.5,
                      color=style.NAVY)  # fmt: skip
    reach = np.array([1e1, 1e12])
    for each in (10, 1000, 100_000):
        axes.plot(reach, each * reach, color=style.COLORS["muted"], linewidth=0.6, linestyle=(0, (1, 3)), zorder=0)
    axes.set(xscale="log", yscale="log", xlim=reach, ylim=(1e2, 1e15), xlabel="units or neurons")
    axes.set(ylabel="parameters or synapses", title="(f) dotted: 10, 1,000, 100,000 a unit")


def samples(figure: Figure, summary: Mapping[str, np.ndarray], labels: Mapping[str, str]) -> None:
    """Write what each model makes of the first window of the test, of 64 characters."""
    figure.text(0.01, 0.25, f"What each writes after the first window of the test ({summary['text']}):", fontsize=8.5)
    for n, name in enumerate(name for name in labels if name in summary):
        printable = (one if one.isprintable() else " " for one in str(summary[name])[64:])  # an SVG holds no others
        words = " ".join("".join(printable).split())[:150]
        figure.text(0.01, 0.222 - 0.028 * n, labels[name], fontsize=8)
        figure.text(0.1, 0.222 - 0.028 * n, words, fontsize=7.5, family="monospace", parse_math=False)
