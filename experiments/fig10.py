"""Figure 10: on ImageNet too, signed constants hide better subnetworks than Kaiming normal weights.

The paper's figure has the effect of signed constants on ResNet-50, ResNet-101 and Wide ResNet-50, of which 30% are
kept. The runs are figure 8's. Added here: the gain seed by seed. At one seed both distributions have the same scores to
begin with, and the same order of images.

Source: Ramanujan et al., arXiv:1911.13299, figure 10 (the caption from memory, to be checked); hyper-parameters from
the authors' configs.
Cost: quick 12 runs, 2 minutes on two busy cores; short 12, an estimated 40 minutes; paper 18, of 100 epochs, each of
them days of one GPU. Nothing after figure 8.
"""

from dataclasses import replace
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _imagenet as imagenet_grid
from experiments import _margins as margins
from experiments import _panels as panels
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results

runs = imagenet_grid.hidden
LEAST = 3.0  # points, which three seeds can tell from 0; the authors' README has 6.9, 6.15 and 5.4
GAIN = panels.Look("gain, mean over seeds", style.PURPLE, "", "D")


CLAIMS = [
    Claim("in every net signed constants beat Kaiming normal weights", margins.constants_ahead),
    Claim(
        f"in every net by at least {LEAST:g} points", lambda r: [gain - LEAST for gain in margins.constants_ahead(r)]
    ),
]


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(9.6, 4.6)
    axes = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.subplots_adjust(left=0.065, right=0.985, top=0.92, bottom=0.34, wspace=0.18)
    parts = panels.each(results, "net")
    nets = {net: parts[net] for net in imagenet_grid.NETS if net in parts}
    draw_accuracies(axes[0], nets)
    draw_gains(axes[1], nets)
    for ax in axes:
        sizes = [panels.count(same.mean("parameters")) for same in nets.values()]
        names = [f"{imagenet_grid.NETS[net]}\n{size} kept" for net, size in zip(nets, sizes, strict=True)]
        ax.set_xticks(range(len(nets)), names)
        ax.set_xlim(-0.5, len(nets) - 0.5)
        ax.grid(axis="y")
    panels.finish(figure, axes, ncols=3, bbox_to_anchor=(0.5, 0.06))


def draw_accuracies(axes: Axes, nets: dict[str, Results]) -> None:
    """Draw both distributions of each net beside each other."""
    for distribution, aside in zip(imagenet_grid.DISTRIBUTIONS, (-0.12, 0.12), strict=True):
        look = panels.weights(distribution)
        for at, (net, same) in enumerate(nets.items()):
            panels.others(axes, same, look.color, at=at + 1.7 * aside, net=net, distribution=distribution)
        cells = {at + aside: panels.there(same, distribution=distribution) for at, same in enumerate(nets.values())}
        panels.cells(axes, cells, replace(look, linestyle=""))
    axes.set(ylabel="test accuracy (%)", title=f"(a) subnetworks of {100 * imagenet_grid.DENSITY:g}%")


def draw_gains(axes: Axes, nets: dict[str, Results]) -> None:
    """Draw by how much signed constants beat Kaiming normal weights at the same seed."""
    gains: dict[float, list[float]] = {}
    for at, (net, same) in enumerate(nets.items()):
        normal, constants = (
            {run.seed: result["accuracy"] for run, result in panels.trained(panels.there(same, distribution=d))}
            for d in imagenet_grid.DISTRIBUTIONS
        )
        if both := normal.keys() & constants.keys():
            gains[at] = [constants[seed] - normal[seed] for seed in sorted(both)]
        known = {point.distribution: point for point in panels.theirs(same, source="authors", net=net)}
        if known:
            n, c = (known[distribution].accuracy for distribution in imagenet_grid.DISTRIBUTIONS)
            panels.hollow_point(axes, at - 0.12, c - n, "authors", GAIN.color)
    panels.bars(axes, gains, GAIN)
    for x, gain in gains.items():
        axes.plot([x] * len(gain), gain, color=GAIN.color, linestyle="", marker="o", markersize=3, label="gain, a seed")
        axes.annotate(f"{mean(gain):+.1f}".replace("-", "\u2212"), (x, mean(gain)), (7, 0), fontsize=8,
                      textcoords="offset points", va="center")  # fmt: skip
    axes.axhline(0, color=style.COLORS["muted"], linewidth=0.8)
    axes.set(ylabel="points", title="(b) gain of signed constants, seed by seed")
