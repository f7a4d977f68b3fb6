"""Figure 4: the wider the random network, the better its best subnetwork.

The paper's figure has a panel each for Conv4 and Conv6: test accuracy over the width multiplier, for subnetworks of
Kaiming normal weights at 30%, 50% and 70%, beside the dense net of the same width. The widths are ours: the authors'
configs leave them to the command line. Of those configs, left out are dense nets at a higher rate, scaled weights and
Zhou et al.'s supermasks of wide nets.

Source: Ramanujan et al., arXiv:1911.13299, figure 4 and section 4.3 (the caption from memory, to be checked);
hyper-parameters from the authors' configs.
Short has half of the weights and SGD alone, all images and the whole cosine in 10 epochs.
Cost: quick 60 runs, 3 minutes on two busy cores; short 36, 3.5 core-hours, a third of it figure 3's; paper 250, of 100
epochs, on a GPU.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

NETS = ("conv4", "conv6")
DENSITIES = (0.3, 0.5, 0.7)
HALF = 0.5
KEPT = {  # of figure 5 too
    0.3: panels.Look("30%", "#8cc0f0", (0, (1.2, 1.2)), "v"),
    0.5: panels.Look("50%", style.NAVY, "-", "o"),
    0.7: panels.Look("70%", "#2f6fb5", (0, (4, 1.2)), "s"),
}
HIDDEN = Run(density=0.5, distribution="kaiming_normal")
PRESETS = {  # a run, widths, and how many seeds
    "smoke": (replace(HIDDEN, data="digits", epochs=1), (0.0625, 0.125), 1),
    "quick": (replace(HIDDEN, data="digits", epochs=4, batch_size=32), (0.0625, 0.125), 3),
    "short": (replace(HIDDEN, epochs=10), (0.125, 0.25, 0.5), 3),
    "paper": (HIDDEN, (0.25, 0.5, 1.0, 1.5, 2.0), 5),
}


def runs(preset: str) -> list[Run]:
    base, widths, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds), net=NETS, width=widths):
        short = preset == "short"
        grid += vary([net], density=(HALF,) if short else DENSITIES)
        grid += vary([replace(net, density=None, distribution=None)], optimizer=("sgd",) if short else ("sgd", "adam"))
    return grid


def per_doubling(results: Results, value: Callable[[float], float]) -> float:
    """Give by how much a value of the width grows with each doubling: the least-squares slope."""
    widths = results.each("width")
    return float(np.polyfit(np.log2(widths), [value(width) for width in widths], 1)[0])


def wider(results: Results) -> list[float]:
    """List the points gained by twice the width, by net and density."""
    hidden = [results.select(net=net, density=density) for net in NETS for density in results.each("density")]
    return [per_doubling(same, lambda width, same=same: same.mean(width=width)) for same in hidden]  # type: ignore[misc]


def gap(results: Results, net: str, width: float) -> float:
    """Give the points by which the network, trained with SGD, beats its subnetwork of half the weights."""
    same = results.select(net=net, width=width)
    return same.mean(method="dense", optimizer="sgd") - same.mean(density=HALF)


def widest(results: Results) -> Results:
    """Keep Conv6 at the largest width."""
    return results.select(net="conv6", width=results.each("width")[-1])


def closing(results: Results) -> list[float]:
    """List the points by which the gap shrinks with twice the width, by net."""
    return [-per_doubling(results, lambda width, net=net: gap(results, net, width)) for net in NETS]  # type: ignore[misc]


CLAIMS = [
    Claim("in both nets and at every density, wider is better", wider, "points per doubling"),
    Claim(
        "in both nets the gap of the 50% subnetwork to the trained network shrinks with width", closing,
        "points per doubling",
    ),
    Claim(
        "at the largest width, Conv6's 50% subnetwork is at most 1 point below Conv6 trained",
        lambda r: 1 - gap(r, "conv6", r.each("width")[-1]),
        floor=lambda r: [widest(r).mean(density=HALF), widest(r).mean(method="dense", optimizer="sgd")],
    ),
]  # fmt: skip


def width_axis(axes: Axes, widths: Iterable[float]) -> None:
    """Label a logarithmic axis with the width multipliers."""
    ticks = sorted(widths)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"x{width:g}" for width in ticks], minor=False)
    axes.set_xlim(ticks[0] / 1.06, ticks[-1] * 1.06)
    axes.minorticks_off()
    axes.set_xlabel("width multiplier")
    axes.grid(axis="y")


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(9.6, 4.4)
    axes = figure.subplots(1, 2)
    published = panels.there(results, width=1.0)  # others' nets have that width
    figure.subplots_adjust(left=0.065, right=0.985, top=0.92, bottom=0.32, wspace=0.18)
    for ax, net in zip(axes, NETS, strict=True):
        for optimizer, look in panels.DENSE.items():
            panels.curve(ax, results, "width", look, net=net, method="dense", optimizer=optimizer)
            panels.others(ax, published, look.color, at=1, net=net, method="dense", optimizer=optimizer)
        for density, look in KEPT.items():
            look = replace(look, label=f"subnetwork of {look.label}")
            panels.curve(ax, results, "width", look, net=net, density=density)
            panels.others(ax, published, look.color, at=1, net=net, density=density, distribution="kaiming_normal")
        width_axis(ax, results.each("width"))
        ax.set_title(net.capitalize())
    axes[0].set_ylabel("test accuracy (%)")
    panels.finish(figure, axes, ncols=3, bbox_to_anchor=(0.5, 0.06))
