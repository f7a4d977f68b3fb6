"""Figure 3: the deeper the random network, the closer its best subnetwork comes to the trained network.

The paper's figure has a panel per net, Conv2 to Conv8: test accuracy over the percentage of weights kept, for Kaiming
normal and signed constant weights, with the dense net trained with SGD and with Adam as lines. Added here: a random
mask of half the weights, as a control. Quick and short leave Adam out: no claim reads it there.

Source: Ramanujan et al., arXiv:1911.13299, figure 3 and section 4.2; hyper-parameters from the authors' configs.
Short cuts the width (x0.25) and the epochs (the whole cosine in 10), not the images: half of the weights, dense nets
trained with SGD and random masks with 5 seeds, signed constants at 30% and 70% with 3.
Cost: quick 96 runs, 4 minutes on two cores; short 104, of which 84 train, 6 core-hours; paper 260, of which 240
of 100 epochs, about 4 hours of an H200.
"""

from collections.abc import Callable
from itertools import pairwise, product
from statistics import mean

import numpy as np
from matplotlib.figure import Figure

from experiments import _curves as curves
from experiments._intervals import more_scatter
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

NETS = ("conv2", "conv4", "conv6", "conv8")
DISTRIBUTIONS = ("kaiming_normal", "signed_constant")
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
HALF = 0.5  # named beforehand: claims about the best of several densities are secondary
PRESETS = {  # a run, the densities, and how many seeds
    "smoke": (Run(data="digits", width=0.125, epochs=1), (0.1, 0.5, 0.9), 1),
    "quick": (Run(data="digits", width=0.125, epochs=4, batch_size=32), (0.1, 0.5, 0.9), 3),
    "short": (Run(width=0.25, epochs=10), (HALF,), 5),
    "paper": (Run(), DENSITIES, 5),
}


def runs(preset: str) -> list[Run]:
    base, densities, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds), net=NETS):  # seed by seed: half a grid is a figure with fewer seeds
        grid += vary([net], density=densities, distribution=DISTRIBUTIONS)
        grid += vary([net], optimizer=("sgd",) if preset in ("quick", "short") else ("sgd", "adam"))
        grid += vary([net], density=[HALF], distribution=["signed_constant"], method=["random"])
    if preset == "short":
        grid += vary([base], seed=range(3), net=NETS, density=(0.3, 0.7), distribution=["signed_constant"])
    return sorted(grid, key=lambda run: run.seed)


def order(run: Run) -> tuple[int, int]:
    """Train seed by seed; in each seed come first the runs that most claims read."""
    half = run.density == HALF and run.method == "edge_popup"
    stages = (
        (half and run.distribution == "signed_constant") or (run.method == "dense" and run.optimizer == "sgd"),
        half,
        run.density in (0.3, 0.7),
        run.method == "random",
        True,
    )
    return run.seed, stages.index(True)


def hidden(results: Results, net: str, distribution: str, density: float = HALF) -> float:
    """Give the accuracy of found subnetworks."""
    return results.mean(net=net, distribution=distribution, density=density, method="edge_popup")


def trained(results: Results, net: str) -> float:
    """Give the better trained network's accuracy; in cut presets SGD's, because Adam there makes twice the updates."""
    dense = results.select(net=net, method="dense")
    uncut = dense.each("epochs") == [Run().epochs]
    return max(dense.mean(optimizer=optimizer) for optimizer in (("sgd", "adam") if uncut else ("sgd",)))


def best(results: Results, net: str, distribution: str) -> float:
    """Give the accuracy at the best of all densities."""
    densities = results.each("density", net=net, distribution=distribution, method="edge_popup")
    return max(hidden(results, net, distribution, density) for density in densities)


def slope(values: list[float]) -> float:
    """Give the growth of a value from one net to the next: the least-squares slope over the four."""
    return float(np.polyfit(range(len(NETS)), values, 1)[0])


def closing(results: Results, distribution: str, accuracy: Callable[[Results, str, str], float] = hidden) -> float:
    """Give the points by which the gap between trained and found shrinks from one net to the next."""
    return slope([accuracy(results, net, distribution) - trained(results, net) for net in NETS])


def deeper(results: Results) -> list[float]:
    """List the points by which the half found in each net beats that of the next shallower net."""
    found = [hidden(results, net, "signed_constant") for net in NETS]
    return [deep - shallow for shallow, deep in pairwise(found)]


def inverted(results: Results) -> list[float]:
    """List the points by which half of the weights beats 10% and 90%, by net and distribution."""
    return [
        hidden(results, net, distribution) - hidden(results, net, distribution, end)
        for net, distribution, end in product(NETS, DISTRIBUTIONS, (0.1, 0.9))
    ]


def constants_ahead(results: Results, nets: tuple[str, ...] = NETS, density: float = HALF) -> float:
    """Give the points by which signed constants beat Kaiming normal, averaged over nets."""
    constants, normal = ([hidden(results, net, d, density) for net in nets] for d in DISTRIBUTIONS[::-1])
    return mean(constants) - mean(normal)


def found(results: Results) -> list[float]:
    """List the points by which the found half beats a random half, by net."""
    half = results.select(density=HALF, distribution="signed_constant")
    return [half.mean(net=net, method="edge_popup") - half.mean(net=net, method="random") for net in NETS]


def wilder(results: Results) -> tuple[float, float, float]:
    """Bound how many times more Conv8's accuracy scatters between seeds at 10% than from 30% to 70%, in doublings."""
    seeds = results.select(net="conv8", distribution="signed_constant", method="edge_popup")
    few, *others = (seeds.values(density=density) for density in (0.1, 0.3, 0.5, 0.7))
    return more_scatter(few, others)


CLAIMS = [
    Claim("in every net the found half of the weights beats a random half, with signed constants", found),
    Claim("the deeper the net, the better its subnetwork: half of the weights, signed constants", deeper),
    Claim(
        "the deeper, the smaller the gap from half of the weights to the trained network, with signed constants",
        lambda r: closing(r, "signed_constant"), "points from net to net",
    ),
    Claim(
        "the deeper, the smaller the gap from half of the weights to the trained network, with Kaiming normal weights",
        lambda r: closing(r, "kaiming_normal"), "points from net to net",
    ),
    Claim(
        "half of Conv8, of signed constants, is at most 1 point below Conv8 trained",
        lambda r: 1 - (trained(r, "conv8") - hidden(r, "conv8", "signed_constant")),
        floor=lambda r: [trained(r, "conv8"), hidden(r, "conv8", "signed_constant")],
    ),
    Claim("in every net and with either distribution half of the weights is better than 10% and than 90%", inverted),
    Claim("half of signed constants beats half of Kaiming normal weights, on average over the nets", constants_ahead),
    Claim(
        "the deeper, the smaller the gap from the best density to the trained network, with signed constants",
        lambda r: closing(r, "signed_constant", best), "points from net to net", "secondary",
    ),
    Claim(
        "Conv8's best density of signed constants is at most 1 point below Conv8 trained",
        lambda r: 1 - (trained(r, "conv8") - best(r, "conv8", "signed_constant")), kind="secondary",
        floor=lambda r: [trained(r, "conv8"), best(r, "conv8", "signed_constant")],
    ),
    Claim(
        "Conv8 at 10% depends on luck: its accuracy scatters more between seeds than from 30% to 70%, signed constants",
        unit="doublings of the standard deviation", kind="secondary", interval=wilder, seeds=4,
    ),
    Claim(
        "at 10% Kaiming normal weights are ahead in Conv2, Conv4 and Conv6, on average",
        lambda r: -constants_ahead(r, NETS[:3], 0.1), kind="exploratory",  # one third party's single runs say so
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(13, 4.6)
    axes = dict(zip(NETS, figure.subplots(1, 4, sharey=True), strict=True))
    figure.subplots_adjust(left=0.05, right=0.98, top=0.92, bottom=0.36, wspace=0.14)
    for net, panel in axes.items():
        curves.panel(panel, results, net)
    curves.finish(figure, axes, results, ncols=4)
