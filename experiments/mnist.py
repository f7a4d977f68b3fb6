"""MNIST: the authors' fully connected net (784-300-100-10) hides subnetworks that classify digits, nothing cut.

Test accuracy over the percentage of weights kept, for Kaiming normal and signed constant weights, with the dense net
trained with SGD and with Adam as lines: figure 3's question on the one net of the authors' code that a laptop trains at
the published settings. Added here: a random mask of half the weights, and Zhou et al.'s sampled supermask, begun at
half; for it the authors publish no setting on this net, so its rate of 200 (theirs on Conv2 to Conv6) is our choice.

Source: hyper-parameters from the authors' configs (Ramanujan et al., arXiv:1911.13299); the paper has no such figure.
Cost: quick 42 runs, a minute on two cores; short 68, the paper's; paper 68, of which 63 of 100 epochs, 5 core-hours.
"""

from matplotlib.figure import Figure

from experiments import _curves as curves
from experiments import _margins as margins
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

DISTRIBUTIONS = ("kaiming_normal", "signed_constant")
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
PRESETS = {  # a run, the densities, how many seeds, and how many of them with a supermask
    "smoke": (Run(net="lenet", data="digits", epochs=1), (0.1, 0.5, 0.9), 1, 1),
    "quick": (Run(net="lenet", data="digits", epochs=20), DENSITIES, 3, 3),
    "paper": (Run(net="lenet", data="mnist"), DENSITIES, 5, 3),
}
PRESETS["short"] = PRESETS["paper"]  # which needs no GPU


def runs(preset: str) -> list[Run]:
    base, densities, seeds, sampled = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds)):
        grid += vary([net], optimizer=("sgd", "adam"))
        grid += vary([net], density=densities, distribution=DISTRIBUTIONS)
        methods = ("random", "supermask") if net.seed < sampled else ("random",)
        grid += vary([net], density=[0.5], distribution=["signed_constant"], method=methods)
    return grid


def hidden(results: Results, distribution: str = "signed_constant", density: float = 0.5) -> float:
    return results.mean(distribution=distribution, density=density, method="edge_popup")


def trained(results: Results) -> float:
    return results.mean(method="dense", optimizer="sgd")


def inverted(results: Results) -> list[float]:
    """List the points by which half of the weights beats 10% and 90%, by distribution."""
    return [hidden(results, d) - hidden(results, d, end) for d in DISTRIBUTIONS for end in (0.1, 0.9)]


CLAIMS = [
    Claim("the found half of the weights beats a random half, with signed constants", margins.found_ahead),
    Claim(
        "half of the weights, of signed constants, is at most 1 point below the net trained",
        lambda r: 1 - (trained(r) - hidden(r)), floor=lambda r: [trained(r), hidden(r)],
    ),
    Claim("with either distribution half of the weights is better than 10% and than 90%", inverted),
    Claim(
        "half of signed constants beats half of Kaiming normal weights",
        lambda r: hidden(r) - hidden(r, "kaiming_normal"),
    ),
    Claim(
        "at as many weights kept, edge-popup beats Zhou et al.'s sampled supermask, at our rate for it",
        lambda r: margins.supermasks_behind(r.select(distribution="signed_constant")), kind="secondary",
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(7.6, 4.9)
    axes = figure.add_axes((0.085, 0.33, 0.895, 0.59))
    curves.panel(axes, results, "lenet", zhou=("signed_constant",))
    axes.set_title("The fully connected net, 300-100-10")
    curves.finish(figure, {"lenet": axes}, results)
