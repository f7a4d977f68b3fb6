"""Figure 7: the distribution of the random weights matters, and signed constants are best.

The paper's figure has Conv4: test accuracy over the percentage of weights kept, for Kaiming normal and signed constant
weights, each unscaled and scaled (times 1/sqrt(k)), and for Kaiming uniform and Xavier normal weights. Adds to it: a
control. A net without biases whose weights shrink by a factor has logits that shrink, and the same best subnetwork; so
Xavier normal weights, whose product over Conv4's layers is 24 times smaller, are also searched at 24 times the rate.

Source: Ramanujan et al., arXiv:1911.13299, figure 7 and section 4.5 (the caption from memory, to be checked);
hyper-parameters from the authors' configs.
Cost: quick 3 minutes on two cores, short an hour, less after figure 3; paper: 195 runs of 100 epochs, on a GPU.
"""

from dataclasses import replace
from math import prod, sqrt

from matplotlib.figure import Figure

from lit_hidden import panels
from lit_hidden.experiment import Claim, Results, Run, vary

DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
KAIMING = ("kaiming_normal", "signed_constant")
OTHERS = ("kaiming_uniform", "xavier_normal")
PRESETS = {  # a run, the densities, and how many seeds
    "smoke": (Run(data="digits", width=0.125, epochs=1), (0.1, 0.5, 0.9), 1),
    "quick": (Run(data="digits", width=0.125, epochs=4, batch_size=32), (0.1, 0.5, 0.9), 3),
    "short": (Run(width=0.25, epochs=5, train_images=10_000), DENSITIES, 3),
    "paper": (Run(), DENSITIES, 5),
}
CONTROL = panels.Look("Xavier normal, rate raised to match", "#c58ab3", (0, (1.2, 1.2)), "d")


def compensated(run: Run) -> Run:
    """Raise the learning rate as Xavier normal's weights are smaller than Kaiming normal's, multiplied over layers.

    The ratio of their standard deviations is `sqrt(fan_in / (fan_in + fan_out))`. The decay falls as the rate grows, so
    that what it takes off a score at a step stays.
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
        grid += vary(hidden, distribution=KAIMING, scaled=(False, True))
        grid += vary(hidden, distribution=OTHERS)
        grid += map(compensated, hidden)
        grid += [net]
    return grid


def middle(results: Results, distribution: str, scaled: bool = False) -> float:
    """Average the accuracies from 30% to 70%, at the published learning rate."""
    same = results.select(distribution=distribution, scaled=scaled, lr=0.1, method="edge_popup")
    return same.where(lambda run: 0.3 <= (run.density or 0) <= 0.7).mean()


def kaiming_ahead(results: Results) -> float:
    """Give the points by which the worst of the Kaiming normal and constant weights beats the best of the others."""
    ours = min(middle(results, distribution, scaled) for distribution in KAIMING for scaled in (False, True))
    return ours - max(middle(results, distribution) for distribution in OTHERS)


def scaling(results: Results) -> float:
    """Give the points by which scaling moves the accuracy, in the distribution that it moves most."""
    return max(abs(middle(results, d, True) - middle(results, d, False)) for d in KAIMING)


CLAIMS = [
    Claim("Kaiming normal and signed constants beat Kaiming uniform and Xavier normal, from 30% to 70%", kaiming_ahead),
    Claim(
        "Kaiming uniform falls behind Kaiming normal, though their standard deviations are equal",
        lambda r: middle(r, "kaiming_normal") - middle(r, "kaiming_uniform"),
    ),
    Claim(
        "signed constants beat Kaiming normal weights",
        lambda r: middle(r, "signed_constant") - middle(r, "kaiming_normal"),
    ),
    Claim("scaling by 1/sqrt(k) moves the accuracy by less than 1 point", lambda r: 1 - scaling(r)),
]


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(7.6, 5.2)
    axes = figure.add_axes((0.085, 0.34, 0.895, 0.58))
    hidden = results.select(method="edge_popup")
    for distribution in KAIMING:
        for scaled in (False, True):
            look = panels.weights(distribution, scaled)
            panels.curve(axes, hidden, "density", look, distribution=distribution, scaled=scaled)
        panels.others(axes, results, look.color, net="conv4", distribution=distribution)
    for distribution in OTHERS:
        panels.curve(axes, hidden, "density", panels.weights(distribution), distribution=distribution, lr=0.1)
    panels.curve(axes, hidden, "density", CONTROL, lr=max(hidden.each("lr")))
    panels.level(axes, results.values(method="dense"), panels.DENSE["sgd"])
    panels.others(axes, results, panels.DENSE["sgd"].color, at=0.94, net="conv4", method="dense", optimizer="sgd")
    panels.density_axis(axes, results.each("density"))
    axes.set(ylabel="test accuracy (%)")
    axes.set_title("Conv4")
    panels.legend(figure, [axes], ncols=3, bbox_to_anchor=(0.5, 0.06))
