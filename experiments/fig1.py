"""Figure 1: a random network hides a subnetwork that is as good as a trained network.

The paper's figure is a sketch: a trained dense network, a random network, and in it an untrained subnetwork with
competitive accuracy. Here the last layers of figure 2's runs are drawn, with the accuracies measured.

Source: Ramanujan et al., arXiv:1911.13299, figure 1. Cost: figure 2's, and nothing after figure 2.
"""

import numpy as np
from matplotlib.figure import Figure

from experiments import _diagram as diagram
from experiments import _panels as panels
from experiments.fig2 import DENSITY
from experiments.fig2 import runs as runs  # the same runs
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results

# "Competitive accuracy" is a sentence in the paper, which prints no accuracy on CIFAR-10. A third party's single runs
# of the authors' code have Conv4, Conv6 and Conv8 with signed constants at 50% within a point of dense SGD.
MARGIN = 1.0


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
    percent = f"{100 * DENSITY:g}%"
    seeds = panels.there(results, method="edge_popup").seeds
    hidden = results.arrays("trace.npz", method="edge_popup", seed=seeds[0]) if seeds else None
    dense = None
    if seeds and len(panels.there(results, method="dense", seed=seeds[0])):  # the same seed, so the same layer
        dense = results.arrays("trace.npz", method="dense", seed=seeds[0])
    words = [  # title, trace, the method whose accuracy stands below, its description, what the width shows
        ("a dense network, trained", dense, "dense", "trained", "$|w|$"),
        ("a random network", hidden, "random", f"a random {percent} of every layer", "$|w|$"),
        (f"its subnetwork: {percent} of every layer", hidden, "edge_popup", "chosen, no weight trained", "$|s|$"),
    ]
    for n, (title, trace, method, what, width) in enumerate(words):
        axes = figure.add_axes((0.025 + 0.335 * n, 0.3, 0.28, 0.59))
        axes.set_title(title)
        if trace is None:
            axes.text(0.5, 0.5, "no traced run yet", ha="center", color=style.COLORS["muted"])
            axes.set_axis_off()
        else:
            layer, widest = shown(trace, method)
            diagram.draw_layer(axes, *layer, diagram.window(trace["weight"].shape, inputs=8), widest=widest)
        runs = panels.there(results, method=method)
        values, fails = [result["accuracy"] for _, result in panels.trained(runs)], panels.lost(runs)
        told = f"{what}: {np.mean(values):.1f}%" if values else f"{what}: {fails or 'no run yet'}"
        spread = f"{min(values):.1f} to {max(values):.1f} over {len(values)} seeds;  " if values else ""
        spread += f"{fails};  " if values and fails else ""
        axes.text(0.5, -0.08, told, ha="center", fontsize=12, transform=axes.transAxes)
        axes.text(0.5, -0.15, f"{spread}width: {width}", ha="center", fontsize=8.5,
                  color=style.COLORS["muted"], transform=axes.transAxes)  # fmt: skip
    text = "Test accuracy: mean, smallest and largest over the seeds."
    if hidden is not None:
        (outputs, inputs), units = hidden["weight"].shape, diagram.window(hidden["weight"].shape, inputs=8)
        text += f" Drawn: the first {len(units[0])} of {outputs} outputs and {len(units[1])} of {inputs} inputs of the "
        text += f"last layer of {results.rows[0][0].net}, seed {seeds[0]}."
    figure.text(0.025, 0.095, text, color=style.COLORS["muted"], fontsize=8.5)
    figure.legend(handles=diagram.edge_legend(), loc="center", bbox_to_anchor=(0.5, 0.165), ncols=3)


def shown(trace: diagram.Trace, method: str) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """Return a method's weights, what the widths show, which edges there are; and the largest width."""
    weight, every = trace["weight"], np.ones(trace["weight"].shape, bool)
    if method == "dense":
        return (trace["trained"], trace["trained"], every), 3.5
    if method == "random":
        return (weight, weight, every), 1.4
    return (weight, trace["after"][-1], trace["chosen_after"][-1]), 3.5
