"""Appendix C.1: ResNet-18 on CIFAR-10 hides good subnetworks too.

Test accuracy over the percentage of weights kept, for Kaiming normal and signed constant weights, each unscaled and
scaled (the four that the authors' configs have), with the dense net as a line. Norm layers have no parameters while
hidden; the dense net's have. Added here: a random mask of half the weights.

Source: Ramanujan et al., arXiv:1911.13299, appendix C.1 (figure number from memory, to be checked; no accuracy is
printed); hyper-parameters from the authors' configs.
The paper preset adds the scale of the authors' code, 1/sqrt(1 - k).
Cost: quick 24 runs, 3 minutes on two busy cores; short 24, 10 epochs of all images, 3 core-hours; paper 160, of which
155 of 100 epochs, on a GPU.
"""

from dataclasses import replace

from matplotlib.figure import Figure

from experiments import _curves as curves
from experiments import _margins as margins
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

DISTRIBUTIONS = ("kaiming_normal", "signed_constant")
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
NET = Run(net="cifar_resnet18")
PRESETS = {  # a run, the densities, whether scaled too, and how many seeds
    "smoke": (replace(NET, data="digits", width=0.0625, epochs=1), (0.5,), (False,), 1),
    "quick": (replace(NET, data="digits", width=0.0625, epochs=4, batch_size=32), (0.1, 0.5, 0.9), (False,), 3),
    "short": (replace(NET, width=0.125, epochs=10), (0.3, 0.5, 0.7), (False,), 3),
    "paper": (NET, DENSITIES, (False, True, "authors"), 5),
}


def runs(preset: str) -> list[Run]:
    base, densities, scaled, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds)):
        grid += vary([net], density=densities, distribution=DISTRIBUTIONS, scaled=scaled)
        grid += [net, replace(net, density=0.5, method="random")]
    return grid


def hidden(results: Results, distribution: str, density: float = 0.5) -> float:
    return results.mean(distribution=distribution, density=density, scaled=False, method="edge_popup")


def best(results: Results) -> float:
    """Give the accuracy of the best subnetwork, of all weights and densities."""
    found = results.select(method="edge_popup")
    names = ("distribution", "scaled", "density")
    cells = dict.fromkeys(tuple(getattr(run, name) for name in names) for run, _ in found)
    return max(found.mean(**dict(zip(names, cell, strict=True))) for cell in cells)


def below(results: Results, accuracy: float) -> float:
    """Give the points left until an accuracy lies 1 below the trained network's."""
    return 1 - (results.mean(method="dense") - accuracy)


CLAIMS = [
    Claim("the found half of the weights beats a random half", margins.found_ahead),
    Claim(
        "half of the weights, of signed constants, is at most 1 point below ResNet-18 trained",
        lambda r: below(r, hidden(r, "signed_constant")),
        floor=lambda r: [r.mean(method="dense"), hidden(r, "signed_constant")],
    ),
    Claim(
        "half of signed constants beats half of Kaiming normal weights",
        lambda r: hidden(r, "signed_constant") - hidden(r, "kaiming_normal"),
    ),
    Claim(
        "the best subnetwork of all is at most 1 point below ResNet-18 trained", lambda r: below(r, best(r)),
        kind="secondary", floor=lambda r: [r.mean(method="dense"), best(r)],
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(9, 4.9)
    axes = figure.add_axes((0.085, 0.33, 0.895, 0.59))
    curves.panel(axes, results, NET.net)
    axes.set_title("ResNet-18")
    curves.finish(figure, {NET.net: axes}, results)
