"""Spiking nets: a random net of integrate-and-fire neurons hides a subnetwork that works.

The meeting's notes ask about spiking neural networks. The ReLUs of LeNet and Conv2 become leaky integrate-and-fire
neurons, the image a constant current for T steps, the answer the voltages of ten membranes that do not spike. The
synapses are random, of one size, and stay so; edge-popup finds half of them, by a surrogate of the spike's derivative.
Currents shrink with the root of the density, and so does the threshold.

Ours: all of it; we know of no hidden spiking network that was published. Beside it stand the same net with its weights
trained, and the ReLU net, hidden and trained. Adam trains all at two rates; the one with the better training accuracy
counts. Is the threshold found or tuned: what do a quarter, half, twice and four times of it cost? Controls: random
halves, and 10% of the synapses with a threshold that is not scaled. Spikes are counted where hidden and trained nets
are equally accurate; a number of spikes is no energy.

Source: Neftci, Mostafa and Zenke, arXiv:1901.09948 (surrogate gradients, IEEE Signal Processing Magazine 36(6):51).
Settings: ours.
Cost: quick 159 runs, without eight steps in Conv2, 3 minutes on two cores; short 174, on 5,000 images of MNIST and of
CIFAR-10, about 1.4 core-hours; paper 290, all images.
"""

from dataclasses import replace
from itertools import chain
from math import nan, sqrt
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

ROOM = "lit_hidden.callbacks.spiking."
STEPS, USUAL = (1, 4, 8), 4
THRESHOLD, SPARSE = 0.7, 0.1  # near the root of 1/2; of the synapses
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the threshold, in LeNet
KINDS: list[dict[str, Any]] = [{"steps": steps} for steps in STEPS] + [{"factor": f} for f in FACTORS if f != 1]
RATES = {"lenet": (1e-3, 3e-4), "conv2": (3e-3, 1e-3)}
ADAM = Run(optimizer="adam", schedule="cosine", augment=False)
LENET = replace(ADAM, net="lenet", data="mnist", train_images=5000, epochs=6, batch_size=32)
CONV = replace(ADAM, net="conv2", width=0.25, train_images=5000, epochs=4, batch_size=32)
SMALL = replace(ADAM, net="lenet", width=0.5, data="digits", epochs=5, batch_size=32)
LONG: dict[str, Any] = {"train_images": None, "batch_size": 128}
PRESETS = {  # a run of each net, and the number of seeds
    "smoke": ([replace(SMALL, width=0.1, epochs=1)], 1),
    "quick": ([SMALL, replace(SMALL, net="conv2", width=0.125, train_images=720, epochs=4)], 3),
    "short": ([LENET, CONV], 3),
    "paper": ([replace(LENET, **LONG, epochs=20), replace(CONV, **LONG, epochs=30)], 5),
}


def spiking(run: Run, steps: int = USUAL, factor: float = 1.0, scaled: bool = True) -> Run:
    """Give a ReLU net's run with neurons that spike."""
    neurons = spec("spiking.Neurons", threshold=factor * THRESHOLD, scaled=scaled)
    return replace(run, net=f"{ROOM}{run.net}_{steps}", callbacks=(neurons,))


def runs(preset: str) -> list[Run]:
    bases, seeds = PRESETS[preset]
    grid = []
    for seed in range(seeds):
        for base in (replace(base, seed=seed) for base in bases):
            steps = STEPS if base.net == "lenet" or preset in ("short", "paper") else STEPS[:2]  # eight take their time
            nets = [spiking(base, each) for each in steps]
            grid += [replace(net, method="random", density=0.5, optimizer="sgd", schedule=None) for net in nets]
            if base.net == "lenet":
                nets += [spiking(base, factor=factor) for factor in FACTORS if factor != 1]
            learning = [replace(net, density=density) for net in (base, *nets) for density in (0.5, None)]
            if base.net == "lenet":
                learning += [spiking(replace(base, density=SPARSE), scaled=scaled) for scaled in (True, False)]
            grid += [replace(run, lr=lr) for run in learning for lr in RATES[base.net]]
    return grid


def learned(
    results: Results, net: str, method: str = "edge_popup", steps: int = USUAL, factor: float = 1.0,
    density: float = 0.5, scaled: bool = True,
) -> Results:  # fmt: skip
    """Keep the runs of a net, at the rate with the best training accuracy; of 0 `steps`, those with ReLUs."""
    where: dict[str, Any] = {"net": f"{ROOM}{net}_{steps}" if steps else net, "method": method}
    where |= {"Neurons.threshold": factor * THRESHOLD, "Neurons.scaled": scaled} if steps else {}
    same = results.select(**where, density=None if method == "dense" else density)
    if method == "random":
        return same
    rates = same.whole.by(lambda run: run.lr)  # chosen once, by all seeds
    return same.select(lr=max(rates, key=lambda rate: rates[rate].mean("train_accuracy")))


def nets(results: Results) -> list[str]:
    found = {run.net.rpartition(".")[2].partition("_")[0] for run in results.runs}
    return [net for net in ("lenet", "conv2") if net in found]


def both(results: Results, one: dict[str, Any], other: dict[str, Any]) -> list[list[float]]:
    """List the accuracies of two kinds of runs, by net."""
    return [[learned(results, net, **kind).mean() for net in nets(results)] for kind in (one, other)]


def ahead(results: Results, one: dict[str, Any], other: dict[str, Any], by: float = 0.0) -> list[float]:
    """List the points by which runs of one kind are better than those of another, less `by`, by net."""
    return [first - second - by for first, second in zip(*both(results, one, other), strict=True)]


def off(results: Results, factor: float, method: str = "edge_popup") -> float:
    """Give the points that a threshold costs LeNet which is so many times the usual one."""
    return learned(results, "lenet", method).mean() - learned(results, "lenet", method, factor=factor).mean()


def sparse(results: Results, scaled: bool) -> Results:
    return learned(results, "lenet", density=SPARSE, scaled=scaled)


def at_equal_accuracy(results: Results) -> dict[str, Results]:
    """Give hidden and trained LeNets with the fewest spikes, of those at most 1 point below the lower of both bests."""
    found = {m: [learned(results, "lenet", m, **kind) for kind in KINDS] for m in ("edge_popup", "dense")}
    level = min(max(cell.whole.mean("train_accuracy") for cell in cells) for cells in found.values()) - 1
    reached = {m: [c for c in cells if c.whole.mean("train_accuracy") >= level] for m, cells in found.items()}
    return {m: min(cells, key=lambda cell: cell.whole.mean("spikes")) for m, cells in reached.items()}


def fewer_spikes(results: Results) -> float:
    """Give the percentage of spikes that hidden nets save at equal accuracy; NaN if tests differ by 2 points."""
    hidden, dense = at_equal_accuracy(results).values()
    saved = 100 * (1 - hidden.mean("spikes") / dense.mean("spikes"))
    return saved if abs(hidden.mean() - dense.mean()) <= 2 else nan


HIDDEN: dict[str, Any] = {}
DENSE, RANDOM, RELU = {"method": "dense"}, {"method": "random"}, {"steps": 0}
CLAIMS = [
    Claim("in every net the found half of the synapses beats a random half by 10 points",
          lambda r: ahead(r, HIDDEN, RANDOM, 10.0)),
    Claim("in every net the found half is at most 5 points below the same net with its weights trained",
          lambda r: ahead(r, HIDDEN, DENSE, -5.0), floor=lambda r: chain(*both(r, HIDDEN, DENSE))),
    Claim("in every net the found half is at most 5 points below that of the ReLU net",
          lambda r: ahead(r, HIDDEN, RELU, -5.0), floor=lambda r: chain(*both(r, HIDDEN, RELU))),
    Claim("in every net four steps of time are 1 point better than one for the found half",
          lambda r: ahead(r, HIDDEN, {"steps": 1}, 1.0)),
    Claim("found, not tuned: half and twice the threshold cost the found half less than 2 points, in LeNet",
          lambda r: [2 - off(r, factor) for factor in (0.5, 2.0)],
          floor=lambda r: [learned(r, "lenet", factor=factor).mean() for factor in (0.5, 1.0, 2.0)]),
    Claim("four times the threshold costs the found half 2 points, in LeNet",
          lambda r: off(r, 4.0) - 2, kind="secondary"),
    Claim("of 10% of the synapses, a threshold that shrinks with them is 2 points better than one that does not",
          lambda r: sparse(r, scaled=True).mean() - sparse(r, scaled=False).mean() - 2, kind="secondary"),
    Claim("a wrong threshold, a quarter or four times, costs the found half more than trained weights",
          lambda r: [off(r, factor) - off(r, factor, "dense") for factor in (0.25, 4.0)], kind="exploratory"),
    Claim("at equal accuracy the found half spikes less than the trained net, in LeNet",
          fewer_spikes, "% of spikes", "exploratory"),
]  # fmt: skip

# --- drawing ---------------------------------------------------------------------------------------------------------

LOOKS = {
    "edge_popup": panels.Look("half of the synapses, found", style.NAVY, "-", "o"),
    "dense": panels.Look("weights trained", style.ORANGE, (0, (5, 1.5)), "s"),
}


def there(results: Results, *which: Any, **kind: Any) -> Results:
    try:
        return learned(results, *which, **kind)
    except NoRunsError:
        return Results([])


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8)
    (first, second, threshold), (spikes, *others) = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.95, bottom=0.16, wspace=0.22, hspace=0.36)
    for axes, letter, net in zip((first, second), "ab", nets(results), strict=False):
        draw_over(axes, results, net, {float(n): {"steps": steps} for n, steps in enumerate(STEPS)})
        for method, look in LOOKS.items():
            look = replace(look, label=f"ReLU net: {look.label}", linestyle=(0, (1, 2)))
            panels.level(axes, there(results, net, method, steps=0), look)
        random = {float(n): there(results, net, "random", steps=steps) for n, steps in enumerate(STEPS)}
        panels.control(axes, {x: part for x, part in random.items() if len(part)})
        axes.set_xticks(range(len(STEPS)), [str(steps) for steps in STEPS])
        axes.set(xlabel="steps of time", xlim=(-0.35, len(STEPS) - 0.65))
        axes.set_title(f"({letter}) {net} over time")
    second.set_visible(len(nets(results)) > 1)
    draw_over(threshold, results, "lenet", {factor: {"factor": factor} for factor in FACTORS})
    # Without the root of the density, the threshold is so many times the usual one.
    few = {x: there(results, "lenet", density=SPARSE, scaled=x == 1) for x in (1.0, sqrt(1 / SPARSE))}
    panels.cells(threshold, few, panels.Look("10% of the synapses, found", style.SKY, "", "D"))
    factor_axis(threshold)
    threshold.set_title(f"(c) lenet, {USUAL} steps, over the threshold")
    for panel, axes in zip((draw_spikes, draw_layers, draw_raster), (spikes, *others), strict=True):
        panel(axes, results)
    panels.finish(figure, [first, second, threshold, spikes], bbox_to_anchor=(0.5, 0.04))


def draw_over(axes: Axes, results: Results, net: str, kinds: dict[float, dict[str, Any]]) -> None:
    """Draw accuracy over kinds of runs, for each method."""
    for aside, (method, look) in zip((2.5, -2.5), LOOKS.items(), strict=True):
        panels.cells(axes, {x: there(results, net, method, **kind) for x, kind in kinds.items()}, look, aside=aside)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(axis="y")


def factor_axis(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks(FACTORS, ["1/4", "1/2", "1", "2", "4"])
    axes.set_xlabel(f"threshold, of {THRESHOLD} times the root of the density")


def draw_spikes(axes: Axes, results: Results) -> None:
    """Draw accuracy over spikes: a point for each time and threshold, a ring where both are equally accurate."""
    for method, look in LOOKS.items():
        cells = [part for kind in KINDS if len(part := there(results, "lenet", method, **kind))]
        axes.plot([cell.mean("spikes") for cell in cells], [cell.mean() for cell in cells], linestyle="",
                  marker=look.marker, color=look.color, markersize=5)  # fmt: skip
    try:
        for cell in at_equal_accuracy(results).values():
            axes.plot(cell.mean("spikes"), cell.mean(), marker="o", markersize=11, color=style.BLACK,
                      markerfacecolor="none", linestyle="", label="fewest spikes at one training accuracy")  # fmt: skip
    except (NoRunsError, ValueError):  # half a grid
        pass
    axes.set(xlabel="spikes on an image (no energy)", ylabel="test accuracy (%)")
    axes.set_title("(d) lenet: times and thresholds of (a) and (c)")
    axes.grid(axis="y")


def arrays(results: Results) -> list[dict[str, np.ndarray]]:
    return [results.arrays("spiking.npz", seed=seed) for seed in results.seeds] if results.folders else []


def draw_layers(axes: Axes, results: Results) -> None:
    """Draw how often each layer of the hidden LeNet spikes, before and after training, over the threshold."""
    cells = {factor: rows for factor in FACTORS if (rows := arrays(there(results, "lenet", factor=factor)))}
    for layer, color in enumerate((style.NAVY, style.PURPLE)):
        for when, line in (("before", (0, (1, 2))), ("after", "-")):
            rates = [np.mean([row[when][layer] for row in rows]) for rows in cells.values()]
            axes.plot(list(cells), rates, color=color, linestyle=line, marker="os"[layer], markersize=4,
                      label=f"layer {layer + 1}, {when} training")  # fmt: skip
    factor_axis(axes)
    axes.set(ylabel="% of neurons and steps with a spike", ylim=(0, None))
    axes.set_title("(e) lenet, half of the synapses: who spikes")
    axes.legend(fontsize=7.5)
    axes.grid(axis="y")


def draw_raster(axes: Axes, results: Results) -> None:
    """Draw the spikes on the first test picture, hidden net beside trained net: a row a neuron, a column a step."""
    steps = max(STEPS)
    for at, (method, look) in enumerate(LOOKS.items()):
        for one in arrays(there(results, "lenet", method, steps=steps))[:1]:
            first = 0
            for layer in ("raster_1", "raster_2"):
                when, neuron = np.nonzero(one[layer])
                axes.plot(1 + when + at * (steps + 2), first + neuron, linestyle="", marker=".", markersize=1.8,
                          color=look.color)  # fmt: skip
                first += one[layer].shape[1] + 12
            axes.set_ylim(-4, first)
    axes.set_xticks([1, steps, steps + 3, 2 * steps + 2], map(str, (1, steps, 1, steps)))
    axes.set(xlim=(0, 2 * steps + 3), xlabel="step: found half (left), weights trained (right)", ylabel="neuron")
    axes.set_title("(f) lenet: one picture, layer 2 above layer 1")
