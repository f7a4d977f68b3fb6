"""Sources of variability: what of a subnetwork comes from the wiring, from where learning began, from chance.

The reading asked what makes rats wait longer or shorter from trial to trial: a slow, deterministic part, found in two
areas of the frontal cortex, and a part of chance, found in the later one alone, so that chance enters late. Its
question, not its method, is carried over to networks.

Ours, first: every random weights with every first scores and every order of the images. A random-effects analysis of
variance gives the shares of each, of pairs, and of the rest (runs are deterministic, so the rest is the interaction of
all three), in the accuracy, in the margins of single test images, and in the bits of the mask. Intervals leave out one
level of a factor at a time. Control: the same with the runs permuted, 20 times, whose shares are all rest.

Second: trial noise. Zhou's supermasks are sampled anew at each pass. Noise is put into one layer, as much as costs 2
points on held-out images beyond the noise of training. At equal accuracy, is it early or late noise that makes
decisions differ between trials?

Source: Murakami, Shteingart, Loewenstein and Mainen, Neuron 94:908, 2017. Variance components: Searle, Casella and
McCulloch, Variance Components, 1992, chapter 4 (expected mean squares of balanced data).
Cost: quick 135 runs, 4 minutes on two cores; short 141, LeNet on 20,000 images of MNIST, 10 epochs, about 1 core-hour;
paper 528, all images, eight levels.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import product
from math import nan, prod
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import _panels as panels
from lit_hidden.code import spec
from lit_hidden.judge import Claim, half_widths, spread
from lit_hidden.report import style
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run, vary

LENET = Run(net="lenet", data="mnist", density=0.5, train_images=20_000, epochs=10)
SMALL = replace(LENET, width=0.5, data="digits", train_images=None, epochs=4, batch_size=32)
PRESETS = {  # a run, the levels of each factor, the images held out to set noise by, the number of supermasks
    "smoke": (replace(SMALL, epochs=1), 2, 137, 1),
    "quick": (SMALL, 5, 137, 5),
    "short": (LENET, 5, 5000, 8),
    "paper": (replace(LENET, train_images=None), 8, 5000, 8),
}
FACTORS = ("weight_seed", "score_seed", "data_seed")
EFFECTS = tuple(product((0, 1), repeat=3))[1:]  # whether each factor takes part, such as (0, 1, 1)
MEASURES = ("accuracy", "margins", "mask")
PERMUTATIONS = 20


def runs(preset: str) -> list[Run]:
    base, levels, held_out, seeds = PRESETS[preset]
    one = replace(base, callbacks=(spec("margins.Margins"),))
    grid = vary([one], **{factor: range(levels) for factor in FACTORS})
    for seed in range(seeds):
        sampled = replace(base, method="supermask", held_out=held_out, seed=seed)
        grid += [sampled, sampled.then(epochs=0, callbacks=(spec("noise.MaskNoise"),))]
    return grid


def crossed(results: Results) -> Results:
    """Keep the runs of the crossed design."""
    return results.where(lambda run: run.method == "edge_popup")


# --- analysis of variance ------------------------------------------------------------------------------------------


Effect = tuple[int, ...]


def components(values: np.ndarray) -> np.ndarray:
    """Estimate the variance components of a crossed design without replication, by expected mean squares.

    `values` is `(a, b, c, ...)`, and components add up over the last axes: `(7,)`, as in `EFFECTS`; the last one, the
    interaction of all three, is the rest. They are unbiased, so that those of nothing may be below 0.
    """
    levels = np.array(values.shape[:3])
    means: dict[Effect, np.ndarray] = {(1, 1, 1): values.astype(np.float64)}
    for effect in reversed(list(product((0, 1), repeat=3))[:-1]):
        axis = effect.index(0)  # averaged last; the mean without it is there already
        means[effect] = means[tuple(np.where(np.arange(3) == axis, 1, effect))].mean(axis, keepdims=True)
    squares = {}
    for effect in EFFECTS:
        parts = [other for other in means if all(np.array(other) <= effect)]
        contrast: Any = sum((-1) ** (sum(effect) - sum(other)) * means[other] for other in parts)
        within, free = prod(levels[np.array(effect) == 0]), prod(levels[np.array(effect) == 1] - 1)
        squares[effect] = within * np.square(contrast).sum() / free if free else nan
    found = []
    for effect in EFFECTS:  # E[mean square] sums the components of all effects with these factors
        above = (other for other in EFFECTS if all(np.array(other) >= effect))
        signed = sum((-1) ** (sum(other) - sum(effect)) * squares[other] for other in above)
        found.append(signed / prod(levels[np.array(effect) == 0]))
    return np.array(found)


def shares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the components of a design `(7,)` and those without each level of each factor, `(3, levels, 7)`."""
    levels = range(len(values))
    left = [[components(np.delete(values, level, axis)) for level in levels] for axis in range(3)]
    return components(values), np.array(left)


# --- reading the runs ------------------------------------------------------------------------------------------------


@cache
def bits(run: Run, folder: Path) -> np.ndarray:
    """Give the mask of a run, all layers one after another, packed."""
    masks = [part.mask() for part in Results([(run, {}, folder)]).network(run).modules() if hasattr(part, "set_mask")]
    return np.packbits(np.concatenate([mask.flatten().numpy() for mask in masks]))


def margins(folder: Path) -> np.ndarray:
    with np.load(folder / "margins.npz") as arrays:
        return np.asarray(arrays["margin"])


def pieces(results: Results, order: list[int]) -> dict[str, Iterable[np.ndarray]]:
    """Give each measure of the runs in such an order, `(runs, numbers)`, piece by piece."""
    rows = [results.rows[at] for at in order]
    packed = np.stack([bits(run, folder) for run, _, folder in rows if folder])
    return {
        "accuracy": [np.array([[result["accuracy"]] for _, result, _ in rows])],
        "margins": [np.stack([margins(folder) for _, _, folder in rows if folder])],
        "mask": (np.unpackbits(packed[:, at : at + 2000], axis=1) for at in range(0, packed.shape[1], 2000)),
    }


def reduce(results: Results) -> dict[str, np.ndarray]:
    """Part the variances: `NAME` `(7,)`, `NAME.left` `(3, levels, 7)` for each measure and for `permuted` margins.

    All are NaN where runs are missing or did not train.
    """
    design = crossed(results)
    place = {tuple(getattr(run, factor) for factor in FACTORS): at for at, run in enumerate(design.runs)}
    levels = len({seeds[0] for seeds in place})
    if levels < 2 or len(place) != levels**3:
        empty = {name: np.full(7, nan) for name in (*MEASURES, "permuted")}
        return empty | {f"{name}.left": np.full((3, 1, 7), nan) for name in empty}
    order = [place[seeds] for seeds in sorted(place)]
    found = {}
    measures, random = pieces(design, order), np.random.default_rng(0)
    (ours,) = measures["margins"]
    measures["permuted"] = (random.permutation(ours) for _ in range(PERMUTATIONS))
    for name, parts in measures.items():
        each = [shares(part.reshape(levels, levels, levels, -1)) for part in parts]
        found[name], found[f"{name}.left"] = (np.sum(column, axis=0) for column in zip(*each, strict=True))
    return found


def estimated(results: Results, name: str, weights: Iterable[float]) -> tuple[float, float, float]:
    """Give a sum of shares in percent, with its 95% interval; `weights` are of `EFFECTS`."""
    summary, weight = results.summary, np.array(list(weights))

    def share(found: np.ndarray) -> np.ndarray:
        return np.asarray(100 * found @ weight / found.sum(-1))[..., None]

    estimate, variance, freedom = spread(share(summary[name]), share(summary[f"{name}.left"]))
    (half,) = half_widths(variance, freedom, parts=1)
    (value,) = estimate
    return float(value), float(value - half), float(value + half)


def claimed(name: str, plus: Iterable[int] = (), minus: Iterable[int] = (), more: float = 0.0) -> Any:
    """Make the interval of a claim: shares of the effects `plus` less those of `minus`, and `more` points."""
    weights = [float(n in set(plus)) - float(n in set(minus)) for n in range(len(EFFECTS))]

    def interval(results: Results) -> tuple[float, float, float]:
        if results.summary[f"{name}.left"].shape[1] < 4 and np.isfinite(results.summary[name]).all():
            raise NoRunsError("fewer than four levels of a factor decide nothing")
        value, low, high = estimated(results, name, weights)
        return value + more, low + more, high + more

    return interval


ORDER, SCORES, WEIGHTS = (EFFECTS.index(effect) for effect in ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
ALONE, PERCENT = (ORDER, SCORES, WEIGHTS), "% of variance"


def later(results: Results) -> float:
    """Give the points by which noise in the last layer flips more decisions; NaN if accuracies differ by a point."""
    noisy = results.where(lambda run: run.epochs == 0)
    if abs(noisy.mean("accuracy_last") - noisy.mean("accuracy_first")) > 1:
        return nan
    return noisy.mean("flips_last") - noisy.mean("flips_first")


CLAIMS = [
    Claim(
        "margins of single images: the random weights explain more than the first scores", unit=PERCENT,
        interval=claimed("margins", [WEIGHTS], [SCORES]),
    ),
    Claim(
        "margins of single images: the random weights explain more than the order of the images", unit=PERCENT,
        interval=claimed("margins", [WEIGHTS], [ORDER]),
    ),
    Claim(
        "bits of the mask: the first scores explain more than the random weights", unit=PERCENT,
        interval=claimed("mask", [SCORES], [WEIGHTS]),
    ),
    Claim(
        "bits of the mask: the random weights alone explain some", unit=PERCENT, kind="secondary",
        interval=claimed("mask", [WEIGHTS]),
    ),
    Claim(
        "accuracy: the three sources alone explain less than half", unit=PERCENT,
        interval=claimed("accuracy", (), ALONE, 50.0),
    ),
    Claim(
        "control: of permuted runs the three sources explain less than 5% of the margins", unit=PERCENT,
        kind="secondary", interval=claimed("permuted", (), ALONE, 5.0),
    ),
    Claim("noise in the last layer flips more decisions than noise in the first, at equal accuracy", later),
]  # fmt: skip

WORDS = {  # of EFFECTS
    "order of\nimages": style.SKY, "first\nscores": style.NAVY, "scores\nx order": "#9db7e0", "weights": style.ORANGE,
    "weights\nx order": "#e8b98a", "weights\nx scores": style.PURPLE, "all three:\nthe rest": "#cccccc",
}  # fmt: skip
ROWS = {"accuracy": "accuracy", "margins": "margins of\nsingle images", "mask": "bits of\nthe mask",
        "permuted": "margins,\nruns permuted"}  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8)
    (stacked, intervals), (flips, accuracies) = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.09, right=0.985, top=0.95, bottom=0.16, wspace=0.2, hspace=0.36)
    draw_stacked(stacked, results)
    draw_intervals(intervals, results)
    draw_noise(flips, results, "flips", "decisions that flip (%)", "(c) trial noise in one layer: decisions that flip")
    draw_noise(
        accuracies, results, "accuracy", "test accuracy (%)", "(d) its accuracy; dotted: as noisy as in training"
    )
    panels.finish(figure, [stacked], bbox_to_anchor=(0.5, 0.04), ncols=5)


def draw_stacked(axes: Axes, results: Results) -> None:
    """Draw the shares of each measure as a bar; estimates below 0 are left out."""
    for row, name in enumerate(ROWS):
        found = np.maximum(results.summary[name], 0)
        ends = 100 * np.cumsum(found / found.sum())
        for effect, (word, color) in enumerate(WORDS.items()):
            start = ends[effect - 1] if effect else 0
            axes.barh(-row, ends[effect] - start, left=start, color=color, height=0.6,
                      label=word.replace("\n", " ") if row == 0 else None)  # fmt: skip
    axes.set_yticks([-row for row in range(len(ROWS))], list(ROWS.values()))
    axes.set(xlabel=PERCENT, xlim=(0, 100))
    axes.set_title("(a) where differences come from (no estimates below 0)")


def draw_intervals(axes: Axes, results: Results) -> None:
    """Draw each share with its interval."""
    names = list(WORDS)
    for number, (name, marker, color) in enumerate(
        (("accuracy", "o", style.BLACK), ("margins", "s", style.ORANGE), ("mask", "D", style.NAVY))
    ):
        for effect in range(len(names)):
            value, low, high = estimated(results, name, np.eye(len(names))[effect])
            at = effect + 0.2 * (number - 1)
            axes.plot([at, at], [low, high], color=color, linewidth=1.1)
            axes.plot(at, value, color=color, marker=marker, markersize=4.5, linestyle="",
                      label=ROWS[name].replace("\n", " ") if effect == 0 else None)  # fmt: skip
    axes.axhline(0, color=style.COLORS["muted"], linewidth=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(ylabel=PERCENT, ylim=(-45, 130))
    axes.set_title("(b) the same with 95% intervals")
    axes.legend(fontsize=7.5, loc="upper left")
    axes.grid(axis="y")


def draw_noise(axes: Axes, results: Results, number: str, unit: str, title: str) -> None:
    """Draw a number of `noise.npz` over layers, a line for each seed."""
    noisy = results.where(lambda run: run.epochs == 0)
    for folder in noisy.folders:
        with np.load(folder / "noise.npz") as arrays:
            layers = 1 + np.arange(len(arrays[number]))
            axes.plot(layers, arrays[number], color=style.NAVY, marker="o", markersize=4, linewidth=0.9)
            if number == "accuracy":
                axes.plot(layers, arrays["before"], color=style.NAVY, linestyle=(0, (1, 2)), linewidth=0.9)
    axes.set(xlabel="layer with noise", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title)
    axes.grid(axis="y")
