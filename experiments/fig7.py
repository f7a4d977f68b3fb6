"""Figure 7: the distribution of the random weights matters, and signed constants are best.

The paper's figure has Conv4: test accuracy over the percentage of weights kept, for Kaiming normal and signed constant
weights, each unscaled and scaled (times 1/sqrt(k)), and for Kaiming uniform and Xavier normal weights. Added here: a
control. A net without biases whose weights shrink by a factor has logits that shrink, and the same best subnetwork; so
Xavier normal weights, whose product over Conv4's layers is 24 times smaller, are also searched at 24 times the rate.

Source: Ramanujan et al., arXiv:1911.13299, figure 7 and section 4.5 (the caption from memory, to be checked);
hyper-parameters from the authors' configs.
The paper preset adds the scale of the authors' code, 1/sqrt(1 - k), which for other distributions than these two it
ignores.
Cost: quick 66 runs, 4 minutes on two busy cores; short 66, all images and 10 epochs, 4 core-hours, a third of it other
figures'; paper 230, of 100 epochs, on a GPU.
"""

from dataclasses import replace
from itertools import product
from math import prod, sqrt
from typing import Any

from matplotlib.figure import Figure

from experiments import _curves as curves
from experiments import _panels as panels
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
KAIMING = ("kaiming_normal", "signed_constant")
OTHERS = ("kaiming_uniform", "xavier_normal")
PRESETS = {  # a run, the densities, and how many seeds
    "smoke": (Run(data="digits", width=0.125, epochs=1), (0.1, 0.5, 0.9), 1),
    "quick": (Run(data="digits", width=0.125, epochs=4, batch_size=32), (0.1, 0.5, 0.9), 3),
    "short": (Run(width=0.25, epochs=10), (0.3, 0.5, 0.7), 3),
    "paper": (Run(), DENSITIES, 5),
}
CONTROL = panels.Look("Xavier normal, rate raised to match", "#ddb3d0", (0, (1.2, 1.2)), "d")


def compensated(run: Run) -> Run:
    """Raise the learning rate by the factor that Xavier normal's weights are smaller, multiplied over the layers.

    The ratio of their standard deviations is `sqrt(fan_in / (fan_in + fan_out))`. The weight
    decay falls by the same factor, so that its effect on a score at a step stays.
    """
    narrow, wide, full = (int(channels * run.width) for channels in (64, 128, 256))
    fans = [(9 if run.data == "digits" else 27, 9 * narrow), (9 * narrow, 9 * narrow)]
    fans += [(9 * narrow, 9 * wide), (9 * wide, 9 * wide), (64 * wide, full), (full, full), (full, 10)]
    times = prod(sqrt((fan_in + fan_out) / fan_in) for fan_in, fan_out in fans)
    return replace(run, distribution="xavier_normal", lr=round(0.1 * times, 4), weight_decay=round(1e-4 / times, 8))


def runs(preset: str) -> list[Run]:
    base, densities, seeds = PRESETS[preset]
    grid = []
    for net in vary([base], seed=range(seeds), net=["conv4"]):
        hidden = vary([net], density=densities)
        scales = (False, True, "authors") if preset == "paper" else (False, True)
        grid += vary(hidden, distribution=KAIMING, scaled=scales)
        grid += vary(hidden, distribution=OTHERS)
        grid += map(compensated, hidden)
        grid += [net]
    return grid


def middle(results: Results) -> Results:
    """Keep the subnetworks of 30% to 70%."""
    return results.where(lambda run: run.method == "edge_popup" and 0.3 <= (run.density or 0) <= 0.7)


def accuracy(results: Results, distribution: str, lr: float = 0.1, **where: Any) -> float:
    """Average the accuracies from 30% to 70%, at the published learning rate and not scaled unless asked for."""
    return middle(results).mean(**{"distribution": distribution, "scaled": False, "lr": lr} | where)


def kaiming_ahead(results: Results) -> list[float]:
    """List the points by which Kaiming normal and signed constants, scaled or not, beat each of the others."""
    pairs = product(KAIMING, (False, True), OTHERS)
    return [accuracy(results, kaiming, scaled=scaled) - accuracy(results, other) for kaiming, scaled, other in pairs]


def within_a_point(difference: float) -> list[float]:
    """List the points left to a difference of 1, either way."""
    return [1 - difference, 1 + difference]


def scaling(results: Results) -> list[float]:
    """List the points left to a change of 1 by scaling, either way, by distribution."""
    moved = (accuracy(results, kaiming, scaled=True) - accuracy(results, kaiming) for kaiming in KAIMING)
    return [margin for difference in moved for margin in within_a_point(difference)]


def raised(results: Results) -> float:
    """Average the accuracies of Xavier normal weights at the raised rate."""
    return accuracy(results, "xavier_normal", max(results.each("lr", method="edge_popup")))


def control(results: Results) -> list[float]:
    """List the points left to a difference of 1 between Xavier normal at the raised rate and Kaiming normal."""
    return within_a_point(raised(results) - accuracy(results, "kaiming_normal"))


CLAIMS = [
    Claim(
        "Kaiming normal and signed constants, scaled or not, beat Kaiming uniform and Xavier normal, 30% to 70%",
        kaiming_ahead,
    ),
    Claim(
        "Kaiming uniform falls behind Kaiming normal on average, though their standard deviations are equal",
        lambda r: accuracy(r, "kaiming_normal") - accuracy(r, "kaiming_uniform"),
    ),
    Claim(
        "signed constants beat Kaiming normal weights, from 30% to 70% on average",
        lambda r: accuracy(r, "signed_constant") - accuracy(r, "kaiming_normal"),
    ),
    Claim(
        "scaling by 1/sqrt(k) moves the accuracy by less than 1 point, from 30% to 70% on average", scaling,
        floor=lambda r: [accuracy(r, kaiming, scaled=scaled) for kaiming, scaled in product(KAIMING, (False, True))],
    ),
    Claim(
        "control: at a rate that makes up for their scale, Xavier normal weights come within 1 point", control,
        floor=lambda r: [raised(r), accuracy(r, "kaiming_normal")],
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(9, 5.2)
    axes = figure.add_axes((0.085, 0.34, 0.895, 0.58))
    raised = {run for run, _ in results if run.method == "edge_popup" and run.lr != 0.1}
    curves.panel(axes, results.where(lambda run: run not in raised), "conv4", KAIMING + OTHERS)
    panels.curve(axes, results.where(raised.__contains__), "density", CONTROL)
    curves.finish(figure, {"conv4": axes}, results)
