"""Figure 5: with equally many weights kept, choosing them from a wider random network is better.

The paper's figure has Conv4, Kaiming normal weights, and three curves of constant size: as many weights as 30%, 50%
and 70% of Conv4 at width 1. As the net widens, the density falls accordingly. The widths are ours, from x1 to x3: at
x0.75 already the net has fewer weights than the largest of the three sizes.

Source: Ramanujan et al., arXiv:1911.13299, figure 5 and section 4.3 (the caption from memory, to be checked);
hyper-parameters from the authors' configs.
Cost: quick 39 runs, 3 minutes on two busy cores; short 30, all images and 10 epochs, 3 core-hours, a fifth of it
other figures'; paper 65, of 100 epochs, on a GPU.
"""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments.fig4 import KEPT, width_axis
from lit_hidden.judge import Claim
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

DENSITIES = (0.3, 0.5, 0.7)  # at the first width of all
HIDDEN = Run(density=0.5, distribution="kaiming_normal", net="conv4")
PRESETS = {  # a run of the first width, the other widths as its multiples, and how many seeds
    "smoke": (replace(HIDDEN, data="digits", width=0.0625, epochs=1), (2.0,), 1),
    "quick": (replace(HIDDEN, data="digits", width=0.125, epochs=4, batch_size=32), (1.5, 2.0, 3.0), 3),
    "short": (replace(HIDDEN, width=0.25, epochs=10), (1.5, 2.0), 3),
    "paper": (HIDDEN, (1.5, 2.0, 3.0), 5),
}


def weights(width: float, channels: int = 3, size: int = 32) -> int:
    """Count the weights of Conv4: 2,425,024 at width 1 on CIFAR-10."""
    narrow, wide, full = int(64 * width), int(128 * width), int(256 * width)
    convolutions = 9 * (channels * narrow + narrow * narrow + narrow * wide + wide * wide)
    return convolutions + wide * (size // 4) ** 2 * full + full * full + full * 10


def thinned(run: Run, multiple: float) -> Run:
    """Widen a run, keeping as many weights: the density falls."""
    assert run.density is not None
    channels, wider = 1 if run.data == "digits" else 3, multiple * run.width
    density = run.density * weights(run.width, channels) / weights(wider, channels)
    return replace(run, width=wider, density=round(density, 6))


def runs(preset: str) -> list[Run]:
    base, multiples, seeds = PRESETS[preset]
    grid = []
    for narrowest in vary([base], seed=range(seeds)):
        for run in vary([narrowest], density=DENSITIES):
            grid += [run, *(thinned(run, multiple) for multiple in multiples)]
        grid.append(replace(narrowest, density=None, distribution=None))
    return grid


def size(results: Results, density: float) -> Results:
    """Keep the runs with as many weights as the narrowest net has at `density`."""
    narrowest = results.select(width=min(results.each("width")), density=density).rows[0][0]
    densities = {thinned(narrowest, width / narrowest.width).density for width in results.each("width")} | {density}
    return results.where(lambda run: run.density in densities)


def per_doubling(results: Results, density: float) -> float:
    """Give the points gained where the net has twice the width and keeps as many weights, for one of the sizes."""
    widths = results.each("width")
    same = size(results, density)
    return float(np.polyfit(np.log2(widths), [same.mean(width=width) for width in widths], 1)[0])


# Size by size: 70% of the narrowest lies beyond the best density, so that any smaller density is better there.
CLAIMS = [
    Claim(
        f"with as many weights kept as {100 * density:g}% of the narrowest, a wider random network is better",
        lambda r, density=density: per_doubling(r, density), "points per doubling of width",  # type: ignore[misc]
        "primary" if density == 0.5 else "secondary",
    )
    for density in (0.5, 0.3, 0.7)
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(6.4, 4.8)
    axes = figure.add_axes((0.1, 0.35, 0.8, 0.57))
    hidden, published = panels.there(results, method="edge_popup"), panels.there(results, width=1.0)
    widths, dense = results.each("width"), panels.DENSE["sgd"]
    for density, look in KEPT.items():
        look = replace(look, label=f"as many weights as {look.label} of the narrowest")
        panels.curve(axes, as_many(hidden, density), "width", look)
        panels.others(axes, published, look.color, at=1, net="conv4", density=density, distribution="kaiming_normal")
    narrowest = replace(dense, label="dense, the narrowest, trained with SGD")
    panels.level(axes, results, narrowest, method="dense")
    panels.others(axes, published, dense.color, at=1, net="conv4", method="dense", optimizer="sgd")
    width_axis(axes, widths)
    thinner = (", ".join(f"{100 * d:.3g}" for d in panels.each(hidden, "density", width=width)) for width in widths)
    axes.set_xticks(widths, [f"x{width:g}\n{percents}%" for width, percents in zip(widths, thinner, strict=True)])
    axes.set(xlabel="width multiplier; the densities of the three curves", ylabel="test accuracy (%)")
    axes.set_title("Conv4, Kaiming normal weights")
    panels.finish(figure, [axes], ncols=2, bbox_to_anchor=(0.5, 0.06))


def as_many(results: Results, density: float) -> Results:
    """Keep the runs with as many weights as a preset's narrowest net, which may be absent, has at `density`."""
    bases = [(replace(base, density=density), (1.0, *multiples)) for base, multiples, _ in PRESETS.values()]
    same = [thinned(base, multiple) for base, multiples in bases for multiple in multiples]
    fields = {(run.data, run.width, run.density) for run in same}
    return results.where(lambda run: (run.data, run.width, run.density) in fields)
