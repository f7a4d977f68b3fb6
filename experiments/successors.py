"""What came after edge-popup: six other searches of a random network, in one harness, beside edge-popup.

The meeting's paper had successors. Global top-k ranks the scores of all layers together. IteRand draws dropped weights
anew from time to time. Biprop gives the kept weights of a layer one size. A signed supermask may turn signs. Zhou's
supermask, an older one, samples. Relaxed gates follow the exact gradient through noise and pay for open gates. Each is
tried against what its paper says of itself beside edge-popup: claims 1 to 6, in this order.

Ours: one harness. Nets, first weights, images, batches and updates are equal; weights are signed constants, and Kaiming
normal ones for biprop and an edge-popup beside it, because on constants the two are one. Each rule has two rates, 0.1
of edge-popup's paper and 0.3 of IteRand's code (gates: Adam, 0.03 and 0.1; Zhou's: 200, published), and counts with the
one that gives the better training accuracy in its cell; a claim stays open where seeds fail at either. Where a rule
does not set how many weights it keeps, its points stand where it ended, and edge-popup is interpolated there. IteRand
draws every 300 updates in the paper, more often in cut presets, whose trainings are shorter. Controls: random masks;
IteRand that draws all dropped weights anew.

Source: arXiv:1911.13299 (edge-popup), 2106.09129 (global top-k, appendix C), 2106.09269 (IteRand), 2103.09377 (biprop),
2201.13361 (signed supermask), 1905.01067 (Zhou et al.), 2603.08914 (gates; its abstract).
Cost: quick 170 runs, 4 minutes on two cores; short 216, on 10,000 images of CIFAR-10, about 2 core-hours; paper 530,
full width and all images.
"""

from dataclasses import replace
from math import nan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments._searches import RULES, Protocol, of, settings, share, update
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

SMALL = Run(net="conv2", data="digits", width=0.125, epochs=4, batch_size=32)
CUT = Run(net="conv4", width=0.25, train_images=10_000, augment=False, epochs=4)
FULL = Run(net="conv4")
PRESETS = {
    "smoke": Protocol((replace(SMALL, width=0.05, epochs=1),), 1, (0.2, 0.5), (0.2, 0.5), (1.0,), (0.5,), 10),
    "quick": Protocol((SMALL,), 5, (0.2, 0.5), (0.1, 0.2, 0.5, 0.7), (0.1, 1.0, 3.0), (0.5,), 10),
    "short": Protocol(
        (CUT, replace(CUT, net="conv6")), 3, (0.1, 0.5), (0.05, 0.1, 0.2, 0.5, 0.7), (0.1, 1.0, 3.0), (0.5,), 12,
    ),
    "paper": Protocol(
        (FULL, replace(FULL, net="conv6")), 5, (0.1, 0.3, 0.5), (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
        (0.1, 0.3, 1.0, 3.0), (0.3, 0.5, 0.7), 300,
    ),
}  # fmt: skip


def runs(preset: str) -> list[Run]:
    protocol = PRESETS[preset]
    seeds = [replace(net, seed=seed) for seed in range(protocol.seeds) for net in protocol.nets]
    return [run for net in seeds for run in protocol.grid(net)]


def nets(results: Results) -> list[str]:
    return sorted({run.net for run in results.runs})


def popup(results: Results, net: str, kept: float) -> float:
    """Give edge-popup's accuracy with such a share of weights, interpolated; NaN outside of what was tried."""
    parts = settings(results, net, "edge_popup")
    densities = [float(part.runs[0].density or 1) for part in parts]
    inside = densities[0] <= kept <= densities[-1]
    return float(np.interp(kept, densities, [part.mean() for part in parts])) if inside else nan


def few(results: Results) -> float:
    """Give the density of the claims about few weights."""
    found: float = results.whole.each("density", masker=RULES["biprop"]["masker"])[0]
    return found


def better(results: Results, rule: str, other: str, density: float) -> list[float]:
    """List the points by which one rule beats another at a density, by net."""
    return [of(results, n, rule, density=density).mean() - of(results, n, other, density=density).mean()
            for n in nets(results)]  # fmt: skip


def ahead(results: Results, rule: str) -> list[float]:
    """List the points by which a rule beats edge-popup at as many weights kept, by net; a mean over its settings.

    Settings that end where edge-popup was not tried are left out; NaN if all are.
    """
    found = []
    for net in nets(results):
        parts = settings(results, net, rule)
        points = [part.mean() - popup(results, net, share(results, part)) for part in parts]
        inside = [point for point in points if np.isfinite(point)]
        found.append(float(np.mean(inside)) if inside else nan)
    return found


def gates(results: Results, net: str, most: float = 1.0) -> float:
    """Give the accuracy of gates that keep at most such a share, of the price that trains best; NaN without any."""
    parts = [part for part in settings(results, net, "gates") if share(results, part) <= most]
    return max(parts, key=lambda part: part.whole.mean("train_accuracy")).mean() if parts else nan


def sparse_gates(results: Results) -> list[float]:
    """List by how much gates that keep a tenth or less beat edge-popup's half, by net; NaN if all keep more."""
    return [gates(results, n, 0.1) - of(results, n, "edge_popup", density=0.5).mean() for n in nets(results)]


def halves(results: Results, *rules: str) -> list[float]:
    """List the accuracies of rules at half of the weights, of all nets."""
    return [of(results, net, rule, density=0.5).mean() for net in nets(results) for rule in rules]


def dense(results: Results) -> list[float]:
    """List the accuracies of the trained nets."""
    return [results.mean(net=net, method="dense") for net in nets(results)]


def above_random(results: Results) -> list[float]:
    """List the points by which rules beat a random mask of the density that they begin at, by rule and net."""
    found = [a - b for rule in ("global", "iterand", "signed", "zhou")
             for a, b in zip(halves(results, rule), halves(results, "random"), strict=True)]  # fmt: skip
    found += [gates(results, n) - of(results, n, "random", density=0.5).mean() for n in nets(results)]
    return found + better(results, "biprop", "random", few(results))


def unequal(results: Results) -> float:
    """Give minus the number of updates by which the longest training of a net exceeds its shortest."""
    learning = results.where(lambda run: run.method != "random")
    by_net = [part.values("steps") for part in learning.by(lambda run: run.net).values()]
    return -float(max(max(steps) - min(steps) for steps in by_net))


CLAIMS = [
    Claim(
        "of few weights (10%; quick: 20%) global top-k beats edge-popup in every net",
        lambda r: better(r, "global", "edge_popup", few(r)),
    ),
    Claim(
        "of half of the weights IteRand beats edge-popup in every net",
        lambda r: better(r, "iterand", "edge_popup", 0.5),
    ),
    Claim(
        "of few Kaiming normal weights (10%; quick: 20%) biprop beats edge-popup in every net",
        lambda r: better(r, "biprop", "normal", few(r)),
    ),
    Claim(
        "at as many weights kept, signed supermasks beat edge-popup in every net", lambda r: ahead(r, "signed")
    ),
    Claim(
        "at as many weights kept, edge-popup beats Zhou's sampled supermasks in every net",
        lambda r: [-points for points in ahead(r, "zhou")],
    ),
    Claim(
        "relaxed gates with a tenth of the weights or less are at most 1 point below edge-popup's half, in every net",
        lambda r: [1 + points for points in sparse_gates(r)], floor=lambda r: halves(r, "edge_popup"),
    ),
    Claim(
        "a signed supermask begun at half of the weights is at most 1 point below the trained net, in every net",
        lambda r: [1 + a - b for a, b in zip(halves(r, "signed"), dense(r), strict=True)], kind="secondary",
        floor=lambda r: halves(r, "signed") + dense(r),
    ),
    Claim(
        "of half of the weights global top-k beats edge-popup in every net",
        lambda r: better(r, "global", "edge_popup", 0.5), kind="exploratory",
    ),
    Claim(
        "control: IteRand that draws all dropped weights anew is worse than one that draws a tenth, in every net",
        lambda r: better(r, "iterand", "iterand_all", 0.5), kind="secondary",
    ),
    Claim(
        "control: each rule beats a random mask by 10 points, in every net",
        lambda r: [points - 10 for points in above_random(r)], kind="secondary",
    ),
    Claim("all trainings of a net take as many updates", unequal, "updates", "check", every=True),
]  # fmt: skip

LOOKS = {
    "edge_popup": panels.Look("edge-popup", style.NAVY, "-", "o"),
    "global": panels.Look("global top-k", style.SKY, (0, (4, 1.2)), "s"),
    "iterand": panels.Look("IteRand", style.PURPLE, "", "D"),
    "iterand_all": panels.Look("IteRand, all drawn anew", style.PURPLE, "", "d", "white"),
    "signed": panels.Look("signed supermask", "#145c40", (0, (1.2, 1.2)), "v"),
    "gates": panels.Look("relaxed gates", style.BLACK, (0, (2, 0.8)), "^"),
    "zhou": panels.Look("Zhou's supermask", "#7d4c14", (0, (1, 1.6)), "P"),
    "normal": panels.Look("edge-popup, Kaiming normal", style.NAVY, (0, (3, 1, 1, 1)), "o", "white"),
    "biprop": panels.Look("biprop, Kaiming normal", "#4b5500", (0, (6, 1.2, 1.2, 1.2)), "X"),
}


def draw(results: Results, figure: Figure) -> None:
    found = nets(results)
    figure.set_size_inches(12.5, 5.6)
    axes = figure.subplots(1, len(found) + 1, squeeze=False, width_ratios=[*[1.6] * len(found), 1])[0]
    figure.subplots_adjust(left=0.055, right=0.985, top=0.92, bottom=0.33, wspace=0.36)
    for panel, letter, net in zip(axes, "ab", found, strict=False):
        draw_accuracy(panel, results, net)
        panel.set_title(f"({letter}) {net}: accuracy over weights kept")
    draw_cost(axes[-1], results, found)
    panels.finish(figure, axes[:-1], bbox_to_anchor=(0.5, 0.055), ncols=5)


def draw_accuracy(axes: Axes, results: Results, net: str) -> None:
    """Draw each rule's accuracy where its runs ended, mean over seeds that train."""
    for number, (rule, look) in enumerate(LOOKS.items()):
        try:
            parts = [panels.trained(part) for part in settings(results, net, rule)]
            ends = {share(results, part): part.values() for part in parts if len(part)}
        except NoRunsError:  # not there yet
            continue
        panels.bars(axes, dict(sorted(ends.items())), look, aside=1.2 * (number - 4))
    if len(trained := panels.trained(panels.there(results, net=net, method="dense"))):
        panels.level(axes, trained, panels.DENSE["sgd"])
    random = panels.each(results, "density", net=net, method="random")
    panels.control(axes, {density: random[density] for density in {min(random), max(random)}} if random else {})
    axes.set_xscale("log")
    axes.set_xticks(ticks := [0.02, 0.05, 0.1, 0.2, 0.5, 1], [f"{100 * tick:g}%" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="weights kept", ylabel="test accuracy (%)")
    axes.grid(axis="y")


def draw_cost(axes: Axes, results: Results, found: list[str]) -> None:
    """Draw the time of an update beside edge-popup's in the same grid, a point for each net."""
    shown = [rule for rule in LOOKS if rule not in ("iterand_all", "normal")]
    for net, marker in zip(found, "os", strict=False):
        means = {rule: update(panels.there(results, net=net), rule) for rule in shown}
        ratios = [means[rule] / means["edge_popup"] for rule in shown]
        axes.plot(ratios, range(len(shown)), marker, color=style.NAVY, label=net,
                  markerfacecolor=style.NAVY if marker == "o" else "white")  # fmt: skip
    axes.axvline(1, color=style.COLORS["muted"], linewidth=0.8)
    axes.set_yticks(range(len(shown)), [LOOKS[rule].label.partition(",")[0] for rule in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="time of an update / edge-popup's", title=f"({'abc'[len(found)]}) cost of an update")
    axes.legend(fontsize=7.5)
    axes.grid(axis="x")
