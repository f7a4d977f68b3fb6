"""Learning without weight transport: a mask is found although errors travel back through other weights.

Backpropagation sends errors back through the weights that activity went forward through, which no synapse can. The
reading tells of ways without: fixed random weights B (feedback alignment), B with the signs of the forward weights, B
from the output straight to each layer (direct feedback). They work because trained weights align with B. Weights under
a mask cannot align: they never change. Only the mask can, by keeping those that agree with B.

Ours: scores learn in all these ways, beside weights in the same ways. Angles are to the true gradient on 512 training
images (128 in quick); alignment is the correlation of the weights used forward with B, against B permuted within
layers. Each way has two rates, that of backpropagation and three tenths of it, and counts with the one that gives the
better training accuracy; a claim stays open where seeds fail at either. Controls: only the last layer learns; errors of
the wrong sign; and the first layer, through which no error travels, so that its mask has nothing to align with.

Source: Quanta Magazine, Artificial Neural Nets Finally Yield Clues to How Brains Learn, 2021; Lillicrap et al., Nature
Communications 7:13276, 2016; Nokland, arXiv:1609.01596; Moskovitz et al., arXiv:1812.06488.
Cost: quick 168 runs, 4 minutes on two cores; short 252, on 20,000 images of MNIST and 10,000 of CIFAR-10, about 2
core-hours; paper 420, full width and all images.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import nan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

SCORES = ("masked", "whole", "random", "sign", "masked_sign", "direct", "none", "minus")
WEIGHTS = ("masked", "random", "sign", "direct", "none", "minus")  # no mask: the others are the same
WORDS = {
    "masked": "masked\n$W^T$", "whole": "whole\n$W^T$", "random": "random\n$B$", "sign": "$|B|$\nsign$(W)$",
    "masked_sign": "$|B|$\nsign$(WM)$", "direct": "direct\n$B$", "none": "last\nonly", "minus": "wrong\nsign",
}  # fmt: skip
LENET = Run(net="lenet", data="mnist", train_images=20_000, epochs=5)
CONV = Run(net="conv2", width=0.25, augment=False, train_images=10_000, epochs=4)
SMALL = Run(net="lenet", width=0.5, data="digits", epochs=5, batch_size=32)
RATES = {"edge_popup": [0.1, 0.03], "dense": [0.01, 0.003]}  # of all ways
CHANCE = 20.0  # percent of test images, and 10 points more than by chance
PRESETS = {  # a run of each net, the number of seeds, and of images that angles are measured on
    "smoke": ([replace(SMALL, width=0.1, epochs=1)], 1, 128),
    "quick": ([SMALL, replace(SMALL, net="conv2", width=0.125, epochs=3)], 3, 128),
    "short": ([LENET, CONV, replace(CONV, net="conv4")], 3, 512),
    "paper": (
        [
            replace(LENET, train_images=None, epochs=50),
            *(Run(net=net, augment=False, epochs=100) for net in ("conv2", "conv4")),
        ],
        5,
        512,
    ),
}


def runs(preset: str) -> list[Run]:
    nets, seeds, images = PRESETS[preset]
    grid = []
    for seed in range(seeds):
        for net in nets:
            for through in SCORES:
                callbacks = (spec("feedback.FeedbackAlignment", through=through, angles=images),)
                run = replace(net, seed=seed, callbacks=callbacks)
                grid += [replace(run, density=0.5, lr=lr) for lr in RATES["edge_popup"]]
                grid += [replace(run, lr=lr) for lr in RATES["dense"] if through in WEIGHTS]
    return grid


def learned(results: Results, net: str, method: str, through: str) -> Results:
    """Keep a net's runs by what learns and the way of its errors, at the rate with the best training accuracy."""
    same = results.select(net=net, method=method, **{"FeedbackAlignment.through": through})
    rates = same.whole.by(lambda run: run.lr)  # chosen once, by all seeds
    return same.select(lr=max(rates, key=lambda rate: rates[rate].mean("train_accuracy")))


def nets(results: Results) -> list[str]:
    return sorted({run.net for run in results.runs}, key=("lenet", "conv2", "conv4").index)


def cost(results: Results, net: str, method: str, through: str) -> float:
    """Give the points of accuracy that another way back costs."""
    return learned(results, net, method, "masked").mean() - learned(results, net, method, through).mean()


def dearer(results: Results) -> list[float]:
    """List the points by which a random feedback costs scores more than weights, by net; NaN where neither learns."""
    found = []
    for net in nets(results):
        both = [learned(results, net, method, "random").mean() for method in RATES]
        points = cost(results, net, "edge_popup", "random") - cost(results, net, "dense", "random")
        found.append(points if max(both) >= CHANCE else nan)
    return found


def better(results: Results, one: str, other: str, method: str = "edge_popup") -> list[float]:
    """List the points by which one way is better than another, by net."""
    both = ([learned(results, net, method, way).mean() for net in nets(results)] for way in (one, other))
    return [first - second for first, second in zip(*both, strict=True)]


def scores(results: Results, number: str, through: str = "random") -> list[float]:
    """List a number of the masks, by net."""
    return [learned(results, net, "edge_popup", through).mean(number) for net in nets(results)]


CLAIMS = [
    Claim(
        "a random feedback costs scores at least 2 points more than it costs weights, in every net",
        lambda r: [points - 2 for points in dearer(r)],
    ),
    Claim(
        "scores learn by a random feedback: 2 points more than with the last layer alone, in every net",
        lambda r: [points - 2 for points in better(r, "random", "none")],
    ),
    Claim(
        "weights learn by a random feedback: 2 points more than with the last layer alone, in every net",
        lambda r: [points - 2 for points in better(r, "random", "none", "dense")],
    ),
    Claim(
        "the signs of the weights are worth 2 points of the scores' accuracy, in every net",
        lambda r: [points - 2 for points in better(r, "sign", "random")],
    ),
    Claim(
        "the whole transpose costs scores less than 2 points, in every net",
        lambda r: [2 - cost(r, net, "edge_popup", "whole") for net in nets(r)], kind="secondary",
        floor=lambda r: [learned(r, net, "edge_popup", way).mean() for net in nets(r) for way in ("masked", "whole")],
    ),
    Claim(
        "the mask aligns with a random feedback: its weights correlate with B more than with B permuted",
        lambda r: [100 * (a - b) for a, b in zip(scores(r, "correlation"), scores(r, "permuted"), strict=True)],
        "points of correlation",
    ),
    Claim(
        "weights that are kept have the sign of B more often than those that are dropped",
        lambda r: [a - b for a, b in zip(scores(r, "kept"), scores(r, "dropped"), strict=True)],
        "% of weights", "secondary",
    ),
    Claim(
        "at the end the scores' steps lie within 90 degrees of the true ones, in every net",
        lambda r: [90 - angle for angle in scores(r, "angle")], "degrees", "secondary",
    ),
    Claim(
        "direct feedback costs scores less than random feedback from layer to layer, in every net",
        lambda r: better(r, "direct", "random"), kind="exploratory",
    ),
    Claim(
        "control: errors of the wrong sign are worse for scores than none, in every net",
        lambda r: better(r, "none", "minus"), kind="secondary",
    ),
    Claim(
        "control: the first layer's mask does not align (within 3 standard deviations of the permuted, on average)",
        lambda r: [3 - abs(found) for found in scores(r, "first_layer")], "standard deviations", "secondary",
    ),
]  # fmt: skip

LOOKS = {
    "edge_popup": panels.Look("scores learn", style.NAVY, "", "o"),
    "dense": panels.Look("weights learn", style.ORANGE, "", "s"),
}
LINES = {  # of angles
    "whole": (style.SKY, "-"), "random": (style.BLACK, "-"), "sign": (style.PURPLE, (0, (4, 1.2))),
    "masked_sign": ("#145c40", (0, (1.2, 1.2))), "direct": (style.ORANGE, (0, (6, 1.2, 1.2, 1.2))),
}  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8.4)
    top, bottom = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.95, bottom=0.15, wspace=0.2, hspace=0.36)
    found = nets(results)
    for axes, letter, net in zip(top, "abc", found, strict=False):
        draw_accuracy(axes, results, net)
        axes.set_title(f"({letter}) {net}: errors travel back through")
    for axes in top[len(found) : 2]:
        axes.axis("off")
    if len(found) < 3:
        draw_angles(top[2], results, found[-1], "edge_popup")
        top[2].set_title(f"(c) {found[-1]}, scores learn: angle of steps")
    for axes, letter, method in zip(bottom, "de", LOOKS, strict=False):
        draw_angles(axes, results, found[0], method)
        axes.set_title(f"({letter}) {found[0]}, {LOOKS[method].label}: angle of steps")
    draw_alignment(bottom[2], results, found)
    panels.finish(figure, [top[0]], bbox_to_anchor=(0.5, 0.045))


def draw_accuracy(axes: Axes, results: Results, net: str) -> None:
    """Draw accuracy for each way back, scores beside weights, at both rates."""
    for method, look in LOOKS.items():
        aside = -3 if method == "dense" else 3
        for rate, face in zip(RATES[method], (None, "white"), strict=True):
            same = panels.there(results, net=net, method=method, lr=rate).by(way)
            values = {float(SCORES.index(name)): part.values() for name, part in same.items()}
            label = look.label if face is None else f"{look.label}, at 0.3 of the rate"
            panels.bars(axes, values, replace(look, label=label, face=face), aside=aside * (1 if face is None else 2))
    axes.set_xticks(range(len(SCORES)), [WORDS[name] for name in SCORES], fontsize=6.5)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(axis="y")


def way(run: Run) -> str:
    """Give the way of a run's errors."""
    return str(run.option("FeedbackAlignment.through")[0])


def arrays(results: Results) -> Iterator[dict[str, np.ndarray]]:
    for folder in results.folders:
        with np.load(folder / "feedback.npz") as found:
            yield dict(found)


def draw_angles(axes: Axes, results: Results, net: str, method: str) -> None:
    """Draw the angle to the true gradient over epochs: a mean over seeds that train and layers before the last."""
    for name in panels.there(results, net=net, method=method).by(way):
        part = panels.trained(learned(results, net, method, name))
        seeds = [(found["epoch"], found["angle"][:, :-1].mean(1)) for found in arrays(part)]
        if name in LINES and seeds:
            color, line = LINES[name]
            axes.plot(seeds[0][0], np.mean([angle for _, angle in seeds], axis=0), color=color, linestyle=line,
                      label=WORDS[name].replace("\n", " "))  # fmt: skip
    axes.axhline(90, color=style.COLORS["muted"], linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="degrees", ylim=(0, 120))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, ncols=2, loc="lower right")
    axes.grid(axis="y")


def draw_alignment(axes: Axes, results: Results, found: list[str]) -> None:
    """Draw the correlation with B layer by layer under a random feedback, beside the permuted ones."""
    at, ticks = 0, []
    for net in found:
        for method, look in LOOKS.items():
            there = panels.there(results, net=net, method=method).where(lambda run: way(run) == "random")
            rows = list(arrays(panels.trained(learned(there, net, method, "random")))) if len(there) else []
            if rows:
                by_layer = 100 * np.array([row["correlation"] for row in rows])
                panels.bars(axes, {float(at + n): column.tolist() for n, column in enumerate(by_layer.T)}, look)
                spread = 200 * np.mean([row["permuted"].std(1) for row in rows], axis=0)
                places = at + np.arange(len(spread))
                axes.vlines(places, -spread, spread, color=style.COLORS["random"], linewidth=4, alpha=0.4, zorder=1)
                ticks += [(at + n, str(n + 1)) for n in range(len(spread))]
                axes.text(at + (len(spread) - 1) / 2, 0.96, net, fontsize=7.5, ha="center",
                          transform=axes.get_xaxis_transform())  # fmt: skip
                at += len(spread) + 1
    axes.axhline(0, color=style.COLORS["muted"], linewidth=0.8)
    axes.set_xticks(*zip(*ticks, strict=True) if ticks else ([],), fontsize=7)
    axes.set(xlabel="layer", ylabel="correlation of weights with B (%)")
    axes.set_title("(f) random B, layer by layer; grey: permuted")
    axes.grid(axis="y")
