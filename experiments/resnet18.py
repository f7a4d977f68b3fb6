"""Appendix C.1: ResNet-18 on CIFAR-10 hides good subnetworks too.

Test accuracy over the percentage of weights kept, for Kaiming normal and signed constant weights, each unscaled and
scaled (the four that the authors' configs have), with the dense net as a line. Norm layers have no parameters while
hidden; the dense net's have. Adds to it: a random mask of half the weights.

Source: Ramanujan et al., arXiv:1911.13299, appendix C.1 (figure number from memory, to be checked; no accuracy is
printed); hyper-parameters from the authors' configs.
Cost: quick 24 runs, 3 minutes on two busy cores; short 36, hours; paper 110, of 100 epochs, on a GPU.
"""

from dataclasses import replace

from matplotlib.figure import Figure

from lit_hidden import panels
from lit_hidden.experiment import Results, Run, vary
from lit_hidden.judge import Claim

DISTRIBUTIONS = ("kaiming_normal", "signed_constant")
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
NET = Run(net="cifar_resnet18")
PRESETS = {  # a run, the densities, whether scaled too, and how many seeds
    "smoke": (replace(NET, data="digits", width=0.0625, epochs=1), (0.5,), (False,), 1),
    "quick": (
        replace(NET, data="digits", width=0.0625, epochs=4, batch_size=32),
        (0.1, 0.5, 0.9),
        (False,),
        3,
    ),
    "short": (replace(NET, width=0.125, epochs=5, train_images=10_000, batch_size=128), DENSITIES, (False,), 3),
    "paper": (NET, DENSITIES, (False, True), 5),
}


def runs(preset: str) -> list[Run]:
    base, densities, scaled, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds)):
        grid += vary([net], density=densities, distribution=DISTRIBUTIONS, scaled=scaled)
        grid += [net, replace(net, density=0.5, method="random")]
    return grid


def middle(results: Results, distribution: str) -> float:
    """Average the accuracies from 30% to 70%."""
    hidden = results.select(distribution=distribution, scaled=False, method="edge_popup")
    return hidden.where(lambda run: 0.3 <= (run.density or 0) <= 0.7).mean()


def gap(results: Results) -> float:
    """Give the points by which the trained network beats its best subnetwork."""
    hidden = results.select(method="edge_popup")
    cells = [(d, how, k) for d in DISTRIBUTIONS for how in hidden.each("scaled") for k in hidden.each("density")]
    best = max(hidden.mean(distribution=d, scaled=how, density=k) for d, how, k in cells)
    return results.mean(method="dense") - best


def found(results: Results) -> float:
    """Give the points by which the found half beats a random half."""
    half = results.select(density=0.5, distribution="signed_constant", scaled=False)
    return half.mean(method="edge_popup") - half.mean(method="random")


CLAIMS = [
    Claim("the found half of the weights beats a random half", found),
    Claim("the best subnetwork is at most 1 point below ResNet-18 trained", lambda r: 1 - gap(r)),
    Claim(
        "from 30% to 70% signed constants beat Kaiming normal weights, on average",
        lambda r: middle(r, "signed_constant") - middle(r, "kaiming_normal"),
    ),
]


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(7.6, 4.9)
    axes = figure.add_axes((0.085, 0.33, 0.895, 0.59))
    hidden = results.select(method="edge_popup")
    for distribution in DISTRIBUTIONS:
        for scaled in hidden.each("scaled"):
            look = panels.weights(distribution, scaled)
            panels.curve(axes, hidden, "density", look, distribution=distribution, scaled=scaled)
    panels.level(axes, results.values(method="dense"), panels.DENSE["sgd"])
    panels.random(axes, results)
    panels.density_axis(axes, results.each("density"))
    axes.set(ylabel="test accuracy (%)")
    axes.set_title("ResNet-18")
    panels.legend(figure, [axes], ncols=3, bbox_to_anchor=(0.5, 0.06))
