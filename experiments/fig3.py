"""Figure 3: the deeper the random network, the closer its best subnetwork comes to the trained network.

The paper's figure has a panel per net, Conv2 to Conv8: test accuracy over the percentage of weights kept, for Kaiming
normal and signed constant weights, with the dense net trained with SGD and with Adam as lines. Adds to it: a random
mask of half the weights, which says what is found and not just there.

Source: Ramanujan et al., arXiv:1911.13299, figure 3 and section 4.2; hyper-parameters from the authors' configs.
Cost: quick 108 runs, 6 minutes on two busy cores; short 156, 3 hours; paper 260, of which 240 of 100 epochs, on a
GPU.
"""

from itertools import product
from math import nan

import numpy as np
from matplotlib.figure import Figure

from lit_hidden import panels
from lit_hidden.experiment import Results, Run, vary
from lit_hidden.judge import Claim

NETS = ("conv2", "conv4", "conv6", "conv8")
DISTRIBUTIONS = ("kaiming_normal", "signed_constant")
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
PRESETS = {  # a run, the densities, and how many seeds
    "smoke": (Run(data="digits", width=0.125, epochs=1), (0.1, 0.5, 0.9), 1),
    "quick": (Run(data="digits", width=0.125, epochs=4, batch_size=32), (0.1, 0.5, 0.9), 3),
    "short": (Run(width=0.25, epochs=5, train_images=10_000), DENSITIES, 3),
    "paper": (Run(), DENSITIES, 5),
}


def runs(preset: str) -> list[Run]:
    base, densities, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds), net=NETS):  # seed by seed: half a grid is a figure with fewer seeds
        grid += vary([net], density=densities, distribution=DISTRIBUTIONS)
        grid += vary([net], optimizer=("sgd", "adam"))
        grid += vary([net], density=[0.5], distribution=["signed_constant"], method=["random"])
    return grid


def best(results: Results, net: str, distribution: str) -> float:
    """Give the accuracy at the best of all densities."""
    hidden = results.select(net=net, distribution=distribution, method="edge_popup")
    return max(hidden.mean(density=density) for density in hidden.each("density"))


def gap(results: Results, net: str, distribution: str) -> float:
    """Give the points by which the better of the two trained networks beats its best subnetwork."""
    dense = results.select(net=net, method="dense")
    return max(dense.mean(optimizer=optimizer) for optimizer in ("sgd", "adam")) - best(results, net, distribution)


def closing(results: Results, distribution: str) -> float:
    """Give the points by which the gap shrinks from one net to the next: the least-squares slope over the four."""
    gaps = [gap(results, net, distribution) for net in NETS]
    return -float(np.polyfit(range(len(NETS)), gaps, 1)[0])


def inverted(results: Results) -> list[float]:
    """List the points by which the best of the middle densities beats each end, by net and distribution."""
    margins = []
    for net, distribution in product(NETS, DISTRIBUTIONS):
        hidden = results.select(net=net, distribution=distribution, method="edge_popup")
        fewest, *middle, most = [hidden.mean(density=density) for density in hidden.each("density")]
        margins += [max(middle) - fewest, max(middle) - most]
    return margins


def constants_ahead(results: Results, nets: tuple[str, ...], low: float, high: float) -> float:
    """Give the points by which signed constants beat Kaiming normal, averaged over nets and densities."""
    hidden = results.select(method="edge_popup").where(lambda r: r.net in nets and low <= (r.density or 0) <= high)
    return hidden.mean(distribution="signed_constant") - hidden.mean(distribution="kaiming_normal")


def found(results: Results) -> list[float]:
    """List the points by which the found half beats a random half, by net."""
    half = results.select(density=0.5, distribution="signed_constant")
    return [half.mean(net=net, method="edge_popup") - half.mean(net=net, method="random") for net in NETS]


def wilder(results: Results) -> float:
    """Give how many times more Conv8's accuracy scatters between seeds at 10% than at 50%, as a logarithm to base 2."""
    hidden = results.select(net="conv8", distribution="signed_constant", method="edge_popup")
    few, half = (np.std(hidden.values(density=density), ddof=1) for density in (0.1, 0.5))
    return float(np.log2(few / half)) if few and half else nan


CLAIMS = [
    Claim("in every net the found half of the weights beats a random half, with signed constants", found),
    Claim(
        "the deeper, the smaller the gap to the trained network, with signed constants",
        lambda r: closing(r, "signed_constant"), "points from net to net",
    ),
    Claim(
        "the deeper, the smaller the gap to the trained network, with Kaiming normal weights",
        lambda r: closing(r, "kaiming_normal"), "points from net to net",
    ),
    Claim(
        "Conv8's best subnetwork of signed constants is at most 1 point below Conv8 trained",
        lambda r: 1 - gap(r, "conv8", "signed_constant"),
    ),
    Claim("in every net the best density lies between 30% and 70%, not at the ends", inverted),
    Claim(
        "from 30% to 70% signed constants beat Kaiming normal weights, on average",
        lambda r: constants_ahead(r, NETS, 0.3, 0.7),
    ),
    Claim(
        "at 10% they do not: Kaiming normal is ahead in Conv2, Conv4 and Conv6, on average",
        lambda r: -constants_ahead(r, NETS[:3], 0.1, 0.1),
    ),
    Claim(
        "Conv8 at 10% depends on luck: on signed constants its accuracy scatters more between seeds than at 50%",
        wilder, "doublings of the standard deviation", seeds=5,
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(13, 4.6)
    axes = figure.subplots(1, 4)
    figure.subplots_adjust(left=0.05, right=0.99, top=0.92, bottom=0.36, wspace=0.24)
    for ax, net in zip(axes, NETS, strict=True):
        for distribution in DISTRIBUTIONS:
            look = panels.weights(distribution)
            panels.curve(ax, results, "density", look, net=net, distribution=distribution, method="edge_popup")
            panels.others(ax, results, look.color, net=net, distribution=distribution)
        for optimizer, look in panels.DENSE.items():
            panels.level(ax, results.values(net=net, method="dense", optimizer=optimizer), look)
            edge = 0.94 if optimizer == "sgd" else 0.06
            panels.others(ax, results, look.color, at=edge, net=net, method="dense", optimizer=optimizer)
        panels.random(ax, results, net=net)
        panels.density_axis(ax, results.each("density"))
        ax.set_title(net.capitalize())
    axes[0].set_ylabel("test accuracy (%)")
    panels.legend(figure, axes, bbox_to_anchor=(0.5, 0.06))
