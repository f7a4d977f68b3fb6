"""A granule layer: how many inputs a cell should have, if they are random and if they are chosen.

The meeting's notes say that most neurons are in the cerebellum, which coordinates movement. Most of these are granule
cells with about four inputs each. Litwin-Kumar et al. found that such a layer's dimension is largest at few inputs if
the wiring is random, and that dense wiring is better where learning changes the input synapses.

Ours: a layer of granule cells with exactly K inputs each, whose weights are random, of one sign, and stay so, and a
readout whose weights learn. The inputs are random, or chosen by edge-popup in each cell, or all. A cell answers to the
tenth of the images that drive it most: for real granule cells other numbers than a tenth are argued for, and for motor
tasks more (Xie et al., eLife 12:e82914, 2023). Two tasks: digits, and which angles of shoulder and elbow bring the hand
to a place that 100 Gaussian units tell, with noise. Dimension is the participation ratio of the cells' activity on test
images. The best K, ringed, is chosen on held-out images. Controls: weights of both signs, as under inhibition that
balances, with which cells that share inputs do not become alike; and one size of the layer beside another.

Source: Litwin-Kumar, Harris, Axel, Sompolinsky and Abbott, Optimal Degrees of Synaptic Connectivity, Neuron 93:1153,
2017. Tasks and settings are ours.
Cost: quick 168 runs, 4 minutes on two cores; short 168, on 10,000 images of MNIST, about 1 core-hour; paper 280, all
images.
"""

from dataclasses import replace
from math import log2
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

ROOM = "lit_hidden.callbacks.cerebellum."
CHOICES = {"random": f"{ROOM}RandomPerUnit", "chosen": f"{ROOM}TopPerUnit"}
SIGNS = {"one": f"{ROOM}excitatory", "both": "kaiming_normal"}
FEW = (1, 2, 4, 8, 32)  # inputs of a cell
INPUTS = {"digits": 1024, "mnist": 784, "lit_hidden.callbacks.arm.CodedArmData": 100}  # that there are
TASKS = ("classes", "arm")
CELLS = Run(
    net="cerebellum.granules", optimizer="adam", lr=1e-2, schedule="cosine", batch_size=32,
    callbacks=(spec("cerebellum.Granules"),),
)  # fmt: skip
DIGITS = replace(CELLS, data="digits", held_out=137, epochs=10)
MNIST = replace(CELLS, data="mnist", held_out=2000, train_images=10_000, epochs=5)
ARM = replace(
    CELLS, data="arm.CodedArmData", task="arm.Angles", held_out=400, epochs=8,
    callbacks=(*CELLS.callbacks, spec("arm.Endpoint")),
)  # fmt: skip
PRESETS = {  # a run of each task, the small and the large layer in thousands of cells, the number of seeds
    "smoke": ([replace(DIGITS, epochs=1), replace(ARM, epochs=1)], (0.02, 0.05), 1),
    "quick": ([DIGITS, ARM], (0.1, 0.5), 3),
    "short": ([MNIST, replace(ARM, epochs=20)], (0.2, 2.0), 3),
    "paper": ([replace(MNIST, held_out=5000, train_images=None, epochs=10), replace(ARM, epochs=50)], (0.2, 4.0), 5),
}


def runs(preset: str) -> list[Run]:
    tasks, widths, seeds = PRESETS[preset]
    grid = []
    for seed in range(seeds):
        for base in tasks:
            there = INPUTS[base.resolved.data]
            for width in widths:
                run = replace(base, width=width, seed=seed)
                for count in (*FEW, there):
                    few = replace(run, density=count / there, distribution=SIGNS["one"])
                    maskers = [*CHOICES.values()][: 2 if count < there else 1]
                    grid += [replace(few, masker=masker) for masker in maskers]
                    if width == max(widths):
                        grid.append(replace(few, masker=CHOICES["random"], distribution=SIGNS["both"]))
    return grid


def size(results: Results, which: str) -> float:
    return (min if which == "small" else max)(run.width for run in results.whole.runs)


def layer(
    results: Results, task: str, count: int | None, choice: str = "random", which: str = "large", signs: str = "one"
) -> Results:
    """Keep the runs of a task with so many inputs of a cell; None is all."""
    data = next((run.data for run in results.whole.runs if (run.task is None) == (task == "classes")), "none")
    masker = CHOICES["random" if count is None else choice]
    density = 1.0 if count is None else count / INPUTS.get(data, 1)
    return results.select(
        data=data, density=density, masker=masker, width=size(results, which), distribution=SIGNS[signs]
    )


def merit(results: Results, task: str, *which: Any) -> float:
    """Give the accuracy in percent, or the error of the angles in degrees below 0."""
    value = layer(results, task, *which).mean()
    return value if task == "classes" else -value


def dimension(results: Results, task: str, count: int | None, signs: str = "one") -> float:
    """Give the dimension of a large layer with random inputs, as a power of 2."""
    return log2(layer(results, task, count, signs=signs).mean("dimension"))


def gain(results: Results, task: str, which: str = "large", count: int = 4) -> float:
    """Give by how much chosen inputs are better than random ones."""
    chosen, random = (merit(results, task, count, choice, which) for choice in ("chosen", "random"))
    return chosen - random


def peak(results: Results, task: str) -> float:
    """Give how much larger the dimension is at 4 or 8 random inputs than at any other number, in doublings."""
    found = {count: dimension(results, task, count) for count in (*FEW, None)}
    return max(found[4], found[8]) - max(value for count, value in found.items() if count not in (4, 8))


def uneven(results: Results) -> int:
    """Count the inputs that the cells of any run have too many or too few."""
    told = [(round(float(run.density or 0) * INPUTS[run.data]), result) for run, result in results]
    return sum(abs(result["fewest"] - count) + abs(result["most"] - count) for count, result in told)


BOTH = "points, degrees"
CLAIMS = [
    Claim("every cell has exactly K inputs", lambda r: -uneven(r), "inputs", "check", every=True),
    Claim("random inputs: the dimension of a large layer is largest at 4 or 8 inputs a cell, in both tasks",
          lambda r: [peak(r, task) for task in TASKS], "doublings"),
    Claim("random inputs: 4 a cell give a large layer twice the dimension of all, in both tasks",
          lambda r: [dimension(r, task, 4) - dimension(r, task, None) - 1 for task in TASKS], "doublings"),
    Claim("random inputs: 4 a cell are 1 point and 1 degree better than all, in a large layer",
          lambda r: [merit(r, task, 4) - merit(r, task, None) - 1 for task in TASKS], BOTH),
    Claim("4 inputs chosen by edge-popup are 1 point and 1 degree better than 4 random ones, in both layers",
          lambda r: [gain(r, task, which) - 1 for task in TASKS for which in ("small", "large")], BOTH),
    Claim("chosen inputs gain more than random ones, or lose less, from 4 to 32 a cell, in both tasks, large layer",
          lambda r: [gain(r, task, count=32) - gain(r, task) for task in TASKS], BOTH),
    Claim("a small layer gains more from 4 chosen inputs than a large one, in both tasks",
          lambda r: [gain(r, task, "small") - gain(r, task) for task in TASKS], BOTH, "secondary"),
    Claim("control: with weights of both signs, all inputs give a large layer at least the dimension of 4",
          lambda r: [dimension(r, task, None, "both") - dimension(r, task, 4, "both") for task in TASKS],
          "doublings", "secondary"),
    Claim("the hand ends 0.05 segments nearer with 4 chosen inputs a cell than with 4 random ones, small layer",
          lambda r: nearer(r) - 0.05, "segments", "secondary"),
]  # fmt: skip


def nearer(results: Results) -> float:
    random, chosen = (layer(results, "arm", 4, choice, "small").mean("endpoint") for choice in ("random", "chosen"))
    return random - chosen


# --- drawing ---------------------------------------------------------------------------------------------------------

SERIES = {  # choice, layer, signs
    ("random", "small", "one"): panels.Look("random inputs, small layer", style.ORANGE, (0, (5, 1.5)), "s", "white"),
    ("random", "large", "one"): panels.Look("random inputs, large layer", style.ORANGE, "-", "s"),
    ("chosen", "small", "one"): panels.Look("chosen inputs, small layer", style.NAVY, (0, (5, 1.5)), "o", "white"),
    ("chosen", "large", "one"): panels.Look("chosen inputs, large layer", style.NAVY, "-", "o"),
    ("random", "large", "both"): panels.Look(
        "random inputs, large layer, both signs", style.PURPLE, (0, (1.2, 1.2)), "D"
    ),
}


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8)
    rows = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.95, bottom=0.17, wspace=0.2, hspace=0.36)
    unsigned = [which for which in SERIES if which[2] == "one"]
    draw_over(
        rows[0, 0],
        results,
        "classes",
        None,
        "test accuracy (%)",
        "(a) digits: accuracy (ring: best held out)",
        unsigned,
    )
    draw_over(rows[0, 1], results, "classes", "dimension", "dimension", "(b) digits: dimension of the layer", [*SERIES])
    draw_over(rows[0, 2], results, "classes", None, "test accuracy (%)", "(c) digits: weights of one sign and of both",
              [which for which in SERIES if which[:2] == ("random", "large")])  # fmt: skip
    draw_over(
        rows[1, 0],
        results,
        "arm",
        None,
        "error of an angle (degrees)",
        "(d) arm: error (ring: best held out)",
        unsigned,
    )
    draw_over(rows[1, 1], results, "arm", "dimension", "dimension", "(e) arm: dimension of the layer", [*SERIES])
    draw_over(rows[1, 2], results, "arm", "endpoint", "distance of the hand (segments)", "(f) arm: where the hand ends",
              unsigned)  # fmt: skip
    panels.finish(figure, [*rows[:, 1], *rows[:, 0]], bbox_to_anchor=(0.5, 0.04))


def draw_over(
    axes: Axes, results: Results, task: str, number: str | None, unit: str, title: str, series: list[Any]
) -> None:
    """Draw a number over the inputs of a cell; a ring is at the best of a line by held-out images."""
    there = next((INPUTS[run.data] for run in results.runs if (run.task is None) == (task == "classes")), 100)
    for n, (choice, which, signs) in enumerate(series):
        parts = {}
        for count in (*FEW, None):
            try:
                parts[float(count or there)] = layer(results, task, count, choice, which, signs)
            except (NoRunsError, ValueError):  # half a grid
                continue
        look = SERIES[choice, which, signs]
        panels.bars(axes, {x: part.values(number) for x, part in parts.items()}, look, aside=2 * (n - 1.5))
        if number is None and parts:
            best = (max if task == "classes" else min)(parts, key=lambda x: parts[x].mean("held_out_metric"))
            axes.plot(best, parts[best].mean(), marker="o", markersize=11, markerfacecolor="none", color=look.color,
                      linestyle="", label="_ring")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks([*FEW, there], [*map(str, FEW), "all"])
    axes.set(xlabel="inputs of a cell", ylabel=unit, ylim=(0, None) if number or task == "arm" else None)
    axes.set_title(title)
    axes.grid(axis="y")
