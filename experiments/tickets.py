"""Tickets: a subnetwork that is good before its weights are trained need not train better than a random one.

The paper's appendix asks whether found subnetworks are lottery tickets, on ImageNet and with ResNets whose norm layers
learn. Here it is asked on Conv4 and Conv6, which have none: in a random subnetwork the signal shrinks by sqrt(k) from
layer to layer and may be too faint to train. So there are two controls: a random subnetwork as it is, and one whose
weights are multiplied by 1/sqrt(k), which keeps the signal's variance. All three start from the same random weights,
but for that factor, and are trained as the dense net is; dropped weights stay 0.

Source: Ramanujan et al., arXiv:1911.13299, appendix C.2 (from memory, to be checked); the authors' `FixedSubnetConv`.
Its configs, `configs/largescale/fixedsubnet`, are in their history alone: commits f622058, adca30f and bd6977f at a
rate of 0.256, 7b22bba at 0.01. What these call `prune_rate` is the share that is dropped: their 0.3, on a subnetwork of
30%, trains 70% of the weights. Here a ticket keeps what its subnetwork keeps. Added here: nets without norm layers, the
densities, the second control.
Cost: quick 57 runs, 2 minutes on two busy cores; short 57, all images and 10 epochs, 3 core-hours, a quarter of it
figure 3's; paper 190, of which 130 of 100 epochs, the others of one.
"""

from itertools import product
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

PRESETS = {  # a run, the nets, the densities, and how many seeds
    "smoke": (Run(data="digits", width=0.125, epochs=1), ("conv4",), (0.3, 0.5), 1),
    "quick": (Run(data="digits", width=0.125, epochs=4, batch_size=32), ("conv4",), (0.3, 0.5, 0.7), 3),
    "short": (Run(width=0.25, epochs=10), ("conv4",), (0.3, 0.5, 0.7), 3),
    "paper": (Run(), ("conv4", "conv6"), (0.1, 0.3, 0.5), 5),
}
# Fields of the runs compared; weights are trained in all but the last.
FOUND = {"method": "ticket", "found_by": "edge_popup"}
RANDOM = {"method": "ticket", "found_by": "random", "scaled": False}
RESCALED = {"method": "ticket", "found_by": "random", "scaled": True}
UNTRAINED = {"method": "edge_popup"}
SERIES = (
    (FOUND, panels.Look("found, weights trained", style.NAVY, "-", "o")),
    (RESCALED, panels.Look(r"random, times $1/\sqrt{k}$, weights trained", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D")),
    (RANDOM, panels.Look("random, weights trained", panels.RANDOM.color, (0, (3, 1)), "s")),
    (UNTRAINED, panels.Look("found, no weight trained", style.SKY, (0, (1.2, 1.2)), "o", "white")),
)


def runs(preset: str) -> list[Run]:
    base, nets, densities, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds), net=nets):
        found = vary([net], density=densities)
        random = vary(found, method=["random"], scaled=[False, True])
        grid += [net, *found, *random]
        grid += [*vary(found, method=["ticket"]), *vary(random, method=["ticket"], found_by=["random"])]
    return grid


def ahead(results: Results, other: dict[str, Any]) -> list[float]:
    """List the points by which the found subnetwork, its weights trained, beats `other` of the same net and density."""
    found, beaten = results.select(**FOUND), results.select(**other)
    cells = product(found.each("net"), found.each("density"))
    return [found.mean(net=net, density=k) - beaten.mean(net=net, density=k) for net, k in cells]


def short_of_dense(results: Results) -> list[float]:
    """List the points by which that subnetwork stays below the dense net, by net and density."""
    found = results.select(**FOUND)
    cells = product(found.each("net"), found.each("density"))
    return [results.mean(net=net, method="dense") - found.mean(net=net, density=k) for net, k in cells]


def average(results: Results, which: dict[str, Any]) -> float:
    """Average accuracies over nets and densities."""
    same = results.select(**which)
    return mean(same.mean(net=net, density=k) for net, k in product(same.each("net"), same.each("density")))


CLAIMS = [
    Claim("a found subnetwork, its weights trained, stays below the dense net at every density", short_of_dense),
    Claim(
        "a found subnetwork trains at most 1 point better than a random one, on average",
        lambda r: 1 - mean(ahead(r, RANDOM)), floor=lambda r: [average(r, FOUND), average(r, RANDOM)],
    ),
    Claim(
        "a found subnetwork trains at most 1 point better than a random one times 1/sqrt(k), on average",
        lambda r: 1 - mean(ahead(r, RESCALED)), floor=lambda r: [average(r, FOUND), average(r, RESCALED)],
    ),
    Claim("training its weights makes a found subnetwork better at every density", lambda r: ahead(r, UNTRAINED)),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    nets = results.each("net")
    figure.set_size_inches(2.6 + 4.4 * len(nets), 5.2)
    axes = figure.subplots(1, len(nets), squeeze=False)[0]
    figure.subplots_adjust(left=0.62 / figure.get_figwidth(), right=0.985, top=0.93, bottom=0.37, wspace=0.16)
    for ax, net in zip(axes, nets, strict=True):
        panels.level(ax, results, panels.DENSE["sgd"], net=net, method="dense")
        for where, look in SERIES:
            panels.curve(ax, results, "density", look, net=net, **where)
        panels.density_axis(ax, results.each("density"))
        # In words: at chance, far below, it would press the other curves together.
        if len(still := panels.there(results, net=net, method="random", scaled=False)):
            low, high = min(still.values()), max(still.values())
            ax.set_xlabel(f"{ax.get_xlabel()}\n(random, no weight trained: {low:.1f} to {high:.1f}%)")
        ax.set_title(net.capitalize())
    axes[0].set_ylabel("test accuracy (%)")
    panels.finish(figure, axes, bbox_to_anchor=(0.5, 0.06), ncols=1 + len(nets))
