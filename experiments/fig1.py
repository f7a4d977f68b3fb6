"""Figure 1: a random network hides a subnetwork that is as good as a trained network.

The paper's figure is a sketch: a trained dense network; a random one; within it, untrained, a subnetwork with
competitive accuracy. Here it is drawn from the last layers of the runs of figure 2 (nothing more is trained), with
the accuracies that were measured.

Source: Ramanujan et al., arXiv:1911.13299, figure 1. Cost: figure 2's, and nothing after figure 2.
"""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from lit_hidden import diagram, style
from lit_hidden.experiment import Results, Run, vary
from lit_hidden.judge import Claim

DENSITY = 0.5
TRACE = 600
PRESETS = {  # figure 2's, to the letter, or they would be trained again; a test compares them
    "smoke": (Run(density=DENSITY, data="digits", net="conv2", width=0.1, epochs=2, trace=TRACE), 3),
    "quick": (Run(density=DENSITY, data="digits", net="conv4", width=0.25, epochs=12, trace=TRACE), 3),
    "short": (Run(density=DENSITY, net="conv4", width=0.5, epochs=10, train_images=20_000, trace=TRACE), 3),
    "paper": (Run(density=DENSITY, net="conv4", trace=TRACE), 5),
}
# "Competitive accuracy" is a sentence in the paper, which prints no accuracy on CIFAR-10. A third party's single runs
# of the authors' code have Conv4, Conv6 and Conv8 with signed constants at 50% within a point of dense SGD.
MARGIN = 1.0


def runs(preset: str) -> list[Run]:
    hidden, seeds = PRESETS[preset]
    methods = [hidden, replace(hidden, method="random", trace=0), replace(hidden, density=None)]
    return vary(methods, seed=range(seeds))


def behind(results: Results) -> float:
    """Give the points by which the dense network, trained, beats the subnetwork."""
    return results.mean(method="dense") - results.mean(method="edge_popup")


CLAIMS = [
    Claim(
        f"the subnetwork is at most {MARGIN:g} point below the trained network", lambda r: MARGIN - behind(r),
        floor=lambda r: [r.mean(method="dense"), r.mean(method="edge_popup")],
    ),
    Claim(
        "the subnetwork found beats one chosen at random",
        lambda r: r.mean(method="edge_popup") - r.mean(method="random"),
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12, 5)
    seed = min(run.seed for run, _ in results.select(method="edge_popup"))
    dense, hidden = (results.trace(method=method, seed=seed) for method in ("dense", "edge_popup"))
    weight, every = hidden["weight"], np.ones(hidden["weight"].shape, bool)
    units = diagram.window(weight.shape, inputs=8)
    percent = f"{100 * DENSITY:g}%"
    scores, found = hidden["after"][-1], hidden["chosen_after"][-1]
    layers = [  # weight, what the width shows, which edges are there, the width of the largest
        (dense["trained"], dense["trained"], every, 3.5),
        (weight, weight, every, 1.4),
        (weight, scores, found, 3.5),
    ]
    words = [  # title, method whose accuracy stands below, what that is, what the width shows
        ("a dense network, trained", "dense", "trained", "$|w|$"),
        ("a random network", "random", f"a random {percent} of every layer", "$|w|$"),
        (f"its subnetwork: {percent} of every layer", "edge_popup", "chosen, no weight trained", "$|s|$"),
    ]
    for n, (layer, (title, method, what, width)) in enumerate(zip(layers, words, strict=True)):
        axes = figure.add_axes((0.025 + 0.335 * n, 0.3, 0.28, 0.59))
        diagram.draw_layer(axes, *layer[:3], units, widest=layer[3])
        axes.set_title(title)
        values = results.values(method=method)
        spread = f"{min(values):.1f} to {max(values):.1f}"
        axes.text(0.5, -0.08, f"{what}: {np.mean(values):.1f}%", ha="center", fontsize=12, transform=axes.transAxes)
        axes.text(0.5, -0.15, f"{spread} over {len(values)} seeds;  width: {width}", ha="center", fontsize=8.5,
                  color=style.COLORS["muted"], transform=axes.transAxes)  # fmt: skip
    net = results.rows[0][0].net
    figure.text(
        0.025, 0.095, f"Test accuracy: mean, smallest and largest over the seeds. Drawn: the first "
        f"{len(units[0])} of {weight.shape[0]} outputs and {len(units[1])} of {weight.shape[1]} inputs of the last "
        f"layer of {net}, seed {seed}.", color=style.COLORS["muted"], fontsize=8.5,
    )  # fmt: skip
    figure.legend(handles=diagram.edge_legend(), loc="center", bbox_to_anchor=(0.5, 0.165), ncols=3)
