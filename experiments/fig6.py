"""Figure 6: edge-popup finds better subnetworks than the sampled supermasks of Zhou et al.

The paper's figure has test accuracy over the percentage of weights kept, for edge-popup and for Zhou et al.'s algorithm
on several distributions. What a supermask keeps is a result and not a setting, since its probabilities are learned: its
points stand where it ended, and it is compared with edge-popup interpolated there. The share kept is weighted by the
layers' sizes; the authors' log has the unweighted mean over layers. Supermasks are sampled at test, as in both
published codes; their most probable (rounded) masks are judged and drawn beside them. Of the authors' two settings for
Zhou et al.'s algorithm this is the first; left out is the second (batches of 60, rates of 100, 50 and 20).

Source: Ramanujan et al., arXiv:1911.13299, figure 6 and section 4.4 (the caption from memory, to be checked); Zhou et
al., arXiv:1905.01067; hyper-parameters of both from the authors' configs.
Cost: quick 66 runs, 3 minutes on two busy cores; short 39, of Conv4 on all images for 10 epochs, 3 core-hours, a
third of it figure 3's; paper 620, of 100 epochs, 220 of them figure 3's.
"""

from dataclasses import replace
from statistics import mean

from matplotlib.figure import Figure

from experiments import _curves as curves
from experiments import _margins as margins
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

POPUP = ("kaiming_normal", "signed_constant")
ZHOU = (*POPUP, "xavier_normal", "signed_xavier")
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
DIGITS = Run(data="digits", width=0.125)
PRESETS = {  # a run, the nets, the densities of edge-popup and where supermasks start, and how many seeds
    "smoke": (replace(DIGITS, epochs=1), ("conv2",), (0.1, 0.5, 0.9), (0.5,), 1),
    "quick": (replace(DIGITS, epochs=4, batch_size=32), ("conv2", "conv4"), (0.1, 0.5, 0.9), (0.5,), 3),
    "short": (Run(width=0.25, epochs=10), ("conv4",), (0.3, 0.5, 0.7), (0.3, 0.5, 0.7), 3),
    "paper": (Run(), ("conv2", "conv4", "conv6", "conv8"), DENSITIES, DENSITIES, 5),
}


def runs(preset: str) -> list[Run]:
    base, nets, densities, starts, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds), net=nets):
        grid += vary([net], density=densities, distribution=POPUP)
        zhou = POPUP if preset == "short" else ZHOU
        grid += vary([net], density=starts, distribution=zhou, method=["supermask"])
        grid += [net]
    return grid


def ahead(results: Results, distribution: str, *rounded: str) -> list[float]:
    """List the points by which edge-popup beats supermasks at as many weights kept, by net."""
    same = results.select(distribution=distribution)
    return [margins.supermasks_behind(same.select(net=net), *rounded) for net in same.each("net")]


def constants_ahead(results: Results, method: str) -> float:
    """Give the points by which signed constants beat Kaiming normal at half of the weights, averaged over nets."""
    half = results.select(method=method, density=0.5)
    return mean(margins.constants_ahead(half, method=method))


CLAIMS = [
    Claim(
        f"at as many weights kept, edge-popup beats sampled supermasks in every net, {words}",
        lambda r, distribution=distribution: ahead(r, distribution),  # type: ignore[misc]
    )
    for distribution, words in (("signed_constant", "signed constants"), ("kaiming_normal", "Kaiming normal weights"))
] + [
    Claim(
        f"{words} do better on signed constants than on Kaiming normal weights, on average",
        lambda r, method=method: constants_ahead(r, method),  # type: ignore[misc]
    )
    for method, words in (
        ("edge_popup", "edge-popup's subnetworks of half the weights"),
        ("supermask", "sampled supermasks begun at half of the weights"),
    )
] + [
    Claim(
        "at as many weights kept, edge-popup beats the supermasks' most probable masks in every net, signed constants",
        lambda r: ahead(r, "signed_constant", "density_rounded", "accuracy_rounded"), kind="secondary",
    )
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    nets = results.each("net")
    figure.set_size_inches(3.2 * max(len(nets), 3), 4.9)
    axes = dict(zip(nets, figure.subplots(1, len(nets), squeeze=False)[0], strict=True))
    figure.subplots_adjust(left=0.065, right=0.96, top=0.92, bottom=0.38, wspace=0.2)
    for net, panel in axes.items():
        curves.panel(panel, results, net, zhou=ZHOU)
    curves.finish(figure, axes, results)
