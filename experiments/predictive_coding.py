"""Predictive coding: a mask is found by errors that no layer sends back further than to the one before it.

In predictive coding each layer predicts the next. With the label clamped at the output, activities settle step by step
until the sum of squared prediction errors is small; then every layer changes its weights by its own error and its own
input. In the limit of small errors that is backpropagation, without a backward pass.

Ours: scores learn in this way, by `sign(s) w dW`; weights in the same way stand beside them. All errors are squared
errors to the one-hot label, also those of backpropagation; Adam trains all. Angles between a step and the gradient are
measured on 512 training images, by layer and by the number of inference steps. Controls: one inference step, after
which the first layer gets nothing, and hidden errors of other images.

Source: Quanta Magazine, Artificial Neural Nets Finally Yield Clues to How Brains Learn, 2021; Rao and Ballard, Nature
Neuroscience 2:79, 1999; Whittington and Bogacz, Neural Computation 29:1229, 2017. Settings: ours.
Cost: quick 30 runs, 3 minutes on two cores; short 50, LeNet on 30,000 images of MNIST, 8 epochs, about 1 core-hour;
paper 50, all images, 20 epochs.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

MASKS, WEIGHTS = (f"lit_hidden.callbacks.predictive.Predictive{kind}" for kind in ("Masks", "Weights"))
RULES = {  # how errors come about: inference steps, and whether hidden layers get those of other images
    "backpropagation": (0, False), "20 steps": (20, False), "5 steps": (5, False), "1 step": (1, False),
    "20 steps,\nothers' errors": (20, True),
}  # fmt: skip
LENET = Run(net="lenet", data="mnist", train_images=30_000, epochs=8, optimizer="adam", lr=1e-3, batch_size=128)
SMALL = replace(LENET, width=0.5, data="digits", train_images=None, epochs=5, batch_size=32)
PRESETS = {  # a run and the number of seeds
    "smoke": (replace(SMALL, width=0.1, epochs=1), 1),
    "quick": (SMALL, 3),
    "short": (LENET, 5),
    "paper": (replace(LENET, train_images=None, epochs=20), 5),
}


def runs(preset: str) -> list[Run]:
    base, seeds = PRESETS[preset]
    grid = []
    for seed in range(seeds):
        for steps, shuffled in RULES.values():
            callbacks = (spec("predictive.Inference", steps=steps, shuffled=shuffled),)
            run = replace(base, seed=seed, callbacks=callbacks)
            grid += [
                replace(run, method=MASKS, density=0.5, distribution="signed_constant"),
                replace(run, method=WEIGHTS, distribution="predictive.torch_default"),
            ]
    return grid


def learned(results: Results, method: str, rule: str) -> Results:
    """Keep the runs of one method and one of `RULES`."""
    steps, shuffled = RULES[rule]
    return results.select(method=method, **{"Inference.steps": steps, "Inference.shuffled": shuffled})


def better(method: str, one: str, other: str, by: float = 0.0) -> Callable[[Results], float]:
    """Give the points by which one rule is better than another, less `by`."""
    return lambda results: learned(results, method, one).mean() - learned(results, method, other).mean() - by


def both(method: str, one: str, other: str) -> Callable[[Results], list[float]]:
    """Give the accuracies of two rules: neither is as good as the other where both are at chance."""
    return lambda results: [learned(results, method, rule).mean() for rule in (one, other)]


OTHERS = "20 steps,\nothers' errors"
CLAIMS = [
    Claim(
        "masks: predictive coding is within 2 points of backpropagation of the same error",
        better(MASKS, "20 steps", "backpropagation", -2.0), floor=both(MASKS, "20 steps", "backpropagation"),
    ),
    Claim(
        "weights: predictive coding is within 2 points of backpropagation of the same error",
        better(WEIGHTS, "20 steps", "backpropagation", -2.0), floor=both(WEIGHTS, "20 steps", "backpropagation"),
    ),
    Claim(
        "masks: errors of hidden layers have to be those of the image: others' cost 1 point",
        better(MASKS, "20 steps", OTHERS, 1.0),
    ),
    Claim(
        "masks: inference has to reach the first layer: one step costs 1 point",
        better(MASKS, "20 steps", "1 step", 1.0),
    ),
    Claim(
        "masks: five steps are within 1 point of twenty", better(MASKS, "5 steps", "20 steps", -1.0),
        floor=both(MASKS, "5 steps", "20 steps"), kind="secondary",
    ),
    Claim(
        "masks: after training, steps lie within 30 degrees of the gradient, all layers but the last",
        lambda r: 30 - learned(r, MASKS, "20 steps").mean("angle"), "degrees",
    ),
    Claim(
        "predictive coding costs masks more points than weights",
        lambda r: better(WEIGHTS, "20 steps", "backpropagation")(r) - better(MASKS, "20 steps", "backpropagation")(r),
        kind="exploratory",
    ),
]  # fmt: skip

LOOKS = {
    MASKS: panels.Look("masks of half of the weights", style.NAVY, "", "o"),
    WEIGHTS: panels.Look("weights", style.ORANGE, "", "s"),
}
LAYERS = (style.NAVY, style.SKY, style.PURPLE)


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 7.6)
    (accuracy, masks), (cost, weights) = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.95, bottom=0.17, wspace=0.16, hspace=0.45)
    for method, look in LOOKS.items():
        for axes, number in ((accuracy, lambda result: result["accuracy"]), (cost, seconds)):
            same = [panels.there(results, method=method).where(of_rule(rule)) for rule in RULES]
            values = {float(n): [number(result) for _, result in part] for n, part in enumerate(same) if len(part)}
            panels.bars(axes, values, look, aside=-3 if method == WEIGHTS else 3)
    for axes, unit, title in (
        (accuracy, "test accuracy (%)", "(a) accuracy"), (cost, "seconds", "(b) time to train, where it was trained"),
    ):  # fmt: skip
        axes.set_xticks(range(len(RULES)), list(RULES), fontsize=8)
        axes.set_ylabel(unit)
        axes.set_title(title)
        axes.grid(axis="y")
    cost.set_ylim(0, None)
    draw_angles(masks, results, MASKS, "(c) masks: angle between a step and the gradient")
    draw_angles(weights, results, WEIGHTS, "(d) weights: angle between a step and the gradient")
    panels.finish(figure, [accuracy], bbox_to_anchor=(0.5, 0.045))


def of_rule(rule: str) -> Callable[[Run], bool]:
    wanted = [[value] for value in RULES[rule]]
    return lambda run: [run.option("Inference.steps"), run.option("Inference.shuffled")] == wanted


def seconds(result: dict[str, object]) -> float:
    found: dict[str, float] = result.get("provenance", {})  # type: ignore[assignment]
    return float(found.get("seconds", np.nan))


def draw_angles(axes: Axes, results: Results, method: str, title: str) -> None:
    """Draw the angle over inference steps, by layer, before training and after one with 20 inference steps."""
    part = panels.there(results, method=method).where(of_rule("20 steps"))
    found = []
    for folder in part.folders:
        with np.load(folder / "predictive.npz") as arrays:
            steps = arrays["steps"]
            found.append([arrays["before"], arrays["after"]])
    if found:
        for layer, color in enumerate(LAYERS):
            before, after = np.mean(found, axis=0)[..., layer]
            axes.plot(steps, before, color=color, linestyle=(0, (1, 2)), label=f"layer {layer + 1}, before training")
            axes.plot(steps, after, color=color, marker="o", markersize=4, label=f"layer {layer + 1}, after")
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.legend(fontsize=7.5, ncols=3, loc="upper left")
    axes.set(xlabel="inference steps", ylabel="degrees", ylim=(0, 1.35 * axes.get_ylim()[1]))
    axes.set_title(title)
    axes.grid(axis="y")
