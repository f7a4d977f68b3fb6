"""Random labels: how much a subnetwork of random weights can learn by heart, beside trained weights.

The reading's figure 1 has a training loss that reaches 0 on true labels, random labels, shuffled, random and Gaussian
pixels; the time that takes, over the fraction of labels that are drawn anew; and the test error over that fraction.
Weights memorise anything, in a few times the time of true labels. Here each panel has masks beside weights. Fit is
measured in eval mode after the last step, on images with a drawn and with a true label apart; the time to fit is the
first epoch whose running training accuracy reaches 95%. Nothing is augmented and no weight or score decays. Weights
learn at a rate of 0.01, masks at 0.1.

Ours: masks, densities, widths, and the question whether masks that do not fit lack capacity or are not found. A mask
has many more bits than the labels; it is "search, not capacity" only if four times the epochs, or three times the
rate, raise the fit by 5 points, and undecided otherwise. Control: the same trainings on true labels, and in those where
half of the labels are drawn, the images that keep theirs. A time of a run that never fits is its length, so differences
of times may be too small.

Source: Zhang et al., arXiv:1611.03530, figure 1 and table 1 (Inception fits random labels to 100%, at 9.78% on test
images; a perceptron of one hidden layer to 99.34%; their rates and networks, not ours).
Cost: quick 54 runs, 4 minutes on two cores; short 31, 200 epochs on 2,000 images, one seed of spoiled pixels and
widths, so that the claim about widths stays open and that about pixels rests on one run each, no longer training, about
2 core-hours; paper 150, of 100 and 400 epochs: the reading's data with our Conv6,
batches of 128 and a cosine, without its crop to 28 pixels and its whitening.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import log2

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments._intervals import jackknifed
from lit_hidden.code import Spec, spec
from lit_hidden.judge import Claim
from lit_hidden.recipes import IMAGES
from lit_hidden.report import style
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run, vary

PIXELS = ("shuffled", "random", "gaussian")


def corrupt(fraction: float, pixels: str = "kept") -> tuple[Spec, ...]:
    return (spec("labels.RandomLabels", fraction=fraction, pixels=pixels),)


SMALL = Run(net="lenet", data="digits", train_images=320, held_out=137, epochs=50, batch_size=32, weight_decay=0.0)
SHORT = Run(net="conv4", width=0.25, train_images=2000, held_out=200, epochs=200, augment=False, weight_decay=0.0)
PRESETS = {  # a run; seeds, and of spoiled pixels and widths; fractions of drawn labels; densities; widths; lengths
    "smoke": (replace(SMALL, epochs=2), 1, 1, (0.0, 0.5, 1.0), (0.1,), (0.5,), (4,)),
    "quick": (SMALL, 3, 3, (0.0, 0.5, 1.0), (0.1,), (0.5,), (4,)),
    "short": (SHORT, 3, 1, (0.0, 0.5, 1.0), (0.1,), (0.125,), ()),
    "paper": (
        Run(net="conv6", epochs=100, augment=False, weight_decay=0.0), 5, 5, (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0),
        (0.1, 0.3), (0.5, 2.0), (4,),
    ),
}  # fmt: skip


def runs(preset: str) -> list[Run]:
    base, seeds, fewer, fractions, densities, widths, lengths = PRESETS[preset]
    grid = []
    for seed in vary([base], seed=range(seeds)):
        both = [replace(seed, density=0.5), replace(seed, lr=0.01)]
        grid += vary(both, callbacks=[corrupt(fraction) for fraction in fractions])
        mask = replace(both[0], callbacks=corrupt(1.0))
        grid += vary([replace(mask, callbacks=corrupt(0.5))], density=densities)
        grid += [replace(mask, lr=0.3), *vary([mask], epochs=[length * mask.epochs for length in lengths])]
        if seed.seed < fewer:
            grid += vary(both, callbacks=[corrupt(0.0, pixels) for pixels in PIXELS])
            weights = replace(both[1], callbacks=corrupt(1.0))
            grid += vary([mask, weights] if lengths else [mask], width=widths) + vary(
                [mask], density=densities if lengths else ()
            )
    return grid


LABELS, KIND = "RandomLabels.fraction", "RandomLabels.pixels"


def alike(results: Results, method: str, fraction: float, pixels: str = "kept") -> Results:
    """Keep one method's runs of the first density, width, length and rate: those of its runs on true labels."""
    base = results.select(method=method, **{LABELS: 0.0, KIND: "kept"}).runs[0]
    same = {name: getattr(base, name) for name in ("density", "width", "epochs", "lr")}
    return results.select(method=method, **same, **{LABELS: fraction, KIND: pixels})


def fractions(results: Results) -> list[float]:
    """List the fractions of labels drawn, ascending."""
    return results.each(LABELS)


def fit(results: Results, method: str, fraction: float = 1.0, number: str = "fit") -> float:
    """Average the percentage of training labels that are fitted."""
    return alike(results, method, fraction).mean(number)


def later(results: Results, method: str) -> float:
    """Give the epochs by which random labels are fitted later than true ones."""
    return fit(results, method, 1.0, "epochs_to_fit") - fit(results, method, 0.0, "epochs_to_fit")


def error_grows(results: Results, method: str) -> list[float]:
    """List the points of test accuracy lost from one fraction of drawn labels to the next."""
    accuracies = [alike(results, method, fraction).mean() for fraction in fractions(results)]
    return [before - after for before, after in pairwise(accuracies)]


def varied(results: Results, name: str, fraction: float = 1.0, number: str = "fit") -> list[float]:
    """List a number of masks at each value of a field, ascending, all else as in `alike`."""
    base = alike(results, "edge_popup", 0.0).runs[0]
    same = {field: getattr(base, field) for field in ("density", "width", "epochs", "lr") if field != name}
    same |= {LABELS: fraction}
    found = results.select(method="edge_popup", **same)
    return [found.mean(number, **{name: value}) for value in found.each(name)]


def grows(values: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(values)]


def raised(results: Results) -> tuple[float, float, float]:
    """Give the points beyond 5 by which more epochs, or a higher rate, raise the fit."""
    base = alike(results, "edge_popup", 1.0)
    run = base.runs[0]
    drawn = results.select(method="edge_popup", density=run.density, width=run.width, **{LABELS: 1.0})
    others = [part.values("fit") for part in drawn.by(lambda one: (one.epochs, one.lr)).values()]
    others.remove(base.values("fit"))
    return jackknifed(
        lambda cells: max(float(np.mean(cell)) for cell in cells[1:]) - float(np.mean(cells[0])) - 5,
        [base.values("fit"), *others],
    )


CLAIMS = [
    Claim("trained weights fit random labels: at least 95% of them", lambda r: fit(r, "dense") - 95, every=True),
    Claim("a mask of half the weights fits them: at least 95%", lambda r: fit(r, "edge_popup") - 95, every=True),
    Claim("trained weights fit true labels sooner than random ones", lambda r: later(r, "dense"), "epochs"),
    Claim("masks fit true labels sooner than random ones", lambda r: later(r, "edge_popup"), "epochs"),
    Claim(
        "weights: the more labels are drawn, the lower the test accuracy", lambda r: error_grows(r, "dense"),
    ),
    Claim(
        "masks: the more labels are drawn, the lower the test accuracy", lambda r: error_grows(r, "edge_popup"),
    ),
    Claim(
        "trained weights fit shuffled, random and Gaussian pixels: at least 95%",
        lambda r: [alike(r, "dense", 0.0, pixels).mean("fit") - 95 for pixels in PIXELS], kind="secondary", every=True,
    ),
    Claim(
        "where half of the labels are drawn, masks fit fewer of the drawn ones than weights do",
        lambda r: fit(r, "dense", 0.5, "fit_replaced") - fit(r, "edge_popup", 0.5, "fit_replaced"),
    ),
    Claim(
        "where half of the labels are drawn, masks are better on test images than weights",
        lambda r: alike(r, "edge_popup", 0.5).mean() - alike(r, "dense", 0.5).mean(),
    ),
    Claim(
        "the fewer weights a mask keeps, the fewer drawn labels it fits, where half of them are drawn",
        lambda r: grows(varied(r, "density", 0.5, "fit_replaced")), kind="secondary",
    ),
    Claim(
        "where half of the labels are drawn, a mask of 10% of the weights is better on test images than one of 50%",
        lambda r: (found := varied(r, "density", 0.5, "accuracy"))[0] - found[-1], kind="exploratory",
    ),
    Claim(
        "the wider the net, the more random labels its mask fits",
        lambda r: grows(varied(r, "width")), kind="secondary",
    ),
    Claim(
        "search, not capacity: four times the epochs, or three times the rate, raise a mask's fit by 5 points",
        interval=raised, kind="exploratory", one_sided=True,
    ),
]  # fmt: skip


LOOKS = {
    "edge_popup": panels.Look("mask, half of the weights", style.NAVY, "-", "o"),
    "dense": panels.Look("weights, trained", style.ORANGE, (0, (5, 1.5)), "s"),
    "sparse": panels.Look("mask, a tenth of the weights", style.PURPLE, (0, (1.2, 1.2)), "D"),
}
CONDITIONS = {  # of figure 1 (a): fraction and pixels
    "true labels": (0.0, "kept", style.BLACK),
    "random labels": (1.0, "kept", style.ORANGE),
    "shuffled pixels": (0.0, "shuffled", style.SKY),
    "random pixels": (0.0, "random", style.PURPLE),
    "Gaussian pixels": (0.0, "gaussian", style.GREY),
}


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8)
    (losses, masks), (times, tests), (learned, sizes) = figure.subplots(2, 3).T
    figure.subplots_adjust(left=0.055, right=0.985, top=0.95, bottom=0.15, wspace=0.2, hspace=0.36)
    draw_losses(losses, results, "dense", "(a) weights: training loss")
    draw_losses(masks, results, "edge_popup", "(b) masks: training loss")
    for name, look in LOOKS.items():
        there = {f: same for f in fractions(results) if len(same := there_is(results, name, f))}
        if name != "sparse":
            panels.bars(times, {f: same.values("epochs_to_fit") for f, same in there.items()}, look)
        panels.bars(tests, {f: [100 - accuracy for accuracy in same.values()] for f, same in there.items()}, look)
        for number, marker in (("fit_replaced", look.marker), ("fit_kept", "_")):
            parts = {f: same.values(number) for f, same in there.items() if all(number in r for _, r in same)}
            panels.bars(learned, parts, replace(look, label="", marker=marker))
    draw_sizes(sizes, results)
    for axes, unit, title in (
        (times, "epoch", "(c) when 95% are fitted; the last if never"),
        (tests, "test error (%)", "(d) test error"),
        (learned, "fitted (%)", "(e) fit of drawn labels; dashes: of true ones"),
    ):
        axes.set(xlabel="fraction of labels drawn anew", ylabel=unit)
        axes.set_title(title)
        axes.grid(axis="y")
    panels.finish(figure, [times, tests], bbox_to_anchor=(0.5, 0.05))


def there_is(results: Results, name: str, fraction: float, pixels: str = "kept") -> Results:
    """Keep the runs of one of `LOOKS`, as `alike` does; maybe none."""
    try:
        if name != "sparse":
            return alike(results, name, fraction, pixels)
        base = alike(results, "edge_popup", 0.0).runs[0]
        same = {"density": 0.1, "width": base.width, "epochs": base.epochs, "lr": base.lr}
        return results.select(method="edge_popup", **same, **{LABELS: fraction})
    except NoRunsError:
        return results.where(lambda run: False)


def draw_losses(axes: Axes, results: Results, method: str, title: str) -> None:
    """Draw the mean training loss over epochs, for each of `CONDITIONS`."""
    for label, (fraction, pixels, color) in CONDITIONS.items():
        if len(same := there_is(results, method, fraction, pixels)):
            _, values = same.curve("train_loss")
            axes.plot(values.mean(0), color=color, linewidth=1.2, label=label)
    axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    axes.set_title(title)
    if axes.get_lines():
        axes.legend(fontsize=7.5)
    axes.grid(axis="y")


def draw_sizes(axes: Axes, results: Results) -> None:
    """Draw a mask's fit of random labels: by density, by width, for longer and at a higher rate; and count the bits."""
    if not len(same := there_is(results, "edge_popup", 1.0)):
        return
    base = same.runs[0]
    drawn = results.select(method="edge_popup", **{LABELS: 1.0})
    words: dict[str, Callable[[Run], str]] = {
        "density": lambda run: f"{100 * (run.density or 1):g}%",
        "width": lambda run: f"width x{run.width:g}",
        "epochs": lambda run: f"{run.epochs} epochs",
        "lr": lambda run: f"rate {run.lr:g}",
    }
    cells: dict[str, list[float]] = {"as in (b)": same.values("fit")}
    for name, told in words.items():
        for value in drawn.each(name):
            if value != getattr(base, name):
                same = drawn.select(**{name: value})
                cells[told(same.runs[0])] = same.values("fit")
    panels.bars(
        axes, {float(x): values for x, values in enumerate(cells.values())}, replace(LOOKS["edge_popup"], linestyle="")
    )
    if len(there_is(results, "dense", 1.0)):
        weights = panels.each(results.select(method="dense", **{LABELS: 1.0}), "width")
        named = {"as in (b)" if width == base.width else words["width"](same.runs[0]): same
                  for width, same in weights.items()}  # fmt: skip
        places = {
            float(list(cells).index(label)): same.values("fit") for label, same in named.items() if label in cells
        }
        panels.bars(axes, places, replace(LOOKS["dense"], linestyle=""))
    axes.set_xticks(range(len(cells)), list(cells), rotation=20, ha="right", fontsize=8)
    bits = sum(layer["numel"] for layer in there_is(results, "edge_popup", 1.0).rows[0][1]["layers"])
    size = log2(10) * (base.train_images or IMAGES[base.data][2])
    axes.set(ylabel="random labels fitted (%)", ylim=(0, 103))
    axes.set_title(f"(f) the mask has {panels.count(bits)} bits, the labels {panels.count(size)}")
    axes.grid(axis="y")
