"""Lesions: half of a net removed at some age, and how much it recovers.

The meeting's note: half of the brain removed, and it functions normally; recovery by age. Children recover better than
adults. Do nets, and is it their age, or only that late in training the learning rate is low and little time is left?

Ours: a hemisphere (the same half of each layer's units, with all edges into them and out of them) or half of the edges
goes at an age of 0, 1/4, 1/2, 3/4 or all of the training, for good. Afterwards the budget is what remains, or a whole
training anew; the rate goes on as it was (resumed) or falls from its start again (restarted). At the end nothing
remains, and a resumed rate is 0. Masks learn (edge-popup, half of the living edges), or weights. Control: the restarted
rate, since what looks like a critical period may be the schedule. Others: a net lesioned at age 0; a sham lesion that
cuts nothing, with a second training. Epochs to 95% of the accuracy without a lesion: one more than there were if never.

Source: the note; cyclic rates remove effects of critical periods: arXiv:2510.09687. The lesions are ours.
Cost: quick 180 runs, digits, 3 minutes on two cores; short 276, on 20,000 images of MNIST and 10,000 of CIFAR-10, about
1.5 core-hours; paper 600, all images.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
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

BOTH = ("hemisphere", "edges")
METHODS: dict[str, dict[str, Any]] = {"edge_popup": {"density": 0.5}, "dense": {"lr": 0.03}}  # at 0.1 narrow nets fail
AGES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the training without a lesion
REACHED = 0.95  # of the accuracy without a lesion
DIGITS = Run(net="lenet", width=0.25, data="digits", batch_size=32, epochs=8)
MNIST = Run(net="lenet", data="mnist", train_images=20_000, epochs=8)
CONV = Run(net="conv2", width=0.25, train_images=10_000, augment=False)
Nets = list[tuple[Run, tuple[str, ...]]]  # a run of each net without a lesion, and the lesions there are
PRESETS: dict[str, tuple[Nets, int]] = {  # and the number of seeds
    "smoke": ([(replace(DIGITS, width=0.1, train_images=300, epochs=4), BOTH[:1])], 1),
    "quick": ([(DIGITS, BOTH)], 3),
    "short": ([(MNIST, BOTH), (replace(CONV, epochs=4), BOTH[:1])], 3),
    "paper": ([(replace(MNIST, train_images=None, epochs=48), BOTH), (Run(net="conv4", epochs=100), BOTH)], 5),
}


def lesioned(run: Run, of: str, age: float, restarted: bool, anew: bool, fraction: float = 0.5) -> Run:
    """Describe a run that goes on after a lesion, for what remains of its epochs or, `anew`, for as many again."""
    epoch = round(age * run.epochs)
    cut = spec("lesion.Lesion", epoch=epoch, of=of, fraction=fraction, measure=True)
    schedule = spec("schedule.SecondCosine", epoch=epoch, before=run.epochs, restarted=restarted)
    return replace(run, epochs=run.epochs + (epoch if anew else 0), callbacks=(cut, schedule))


def arms(age: float) -> list[tuple[bool, bool]]:
    """List what differs after a lesion at an age: whether the rate is restarted, whether the budget is anew."""
    return {0.0: [(False, False)], 1.0: [(True, True)]}.get(age, list(LOOKS))


def runs(preset: str) -> list[Run]:
    nets, seeds = PRESETS[preset]
    grid = []
    for seed, (net, lesions), method in product(range(seeds), nets, METHODS):
        run = replace(net, seed=seed, **METHODS[method])
        grid += [lesioned(run, BOTH[0], age, *arms(age)[0], fraction=0.0) for age in (0.0, 1.0)]
        grid += [lesioned(run, of, age, *arm) for of in lesions for age in AGES for arm in arms(age)]
    return grid


Cell = tuple[str, str, str]  # net, method, lesion


def cells(results: Results, *, of: Collection[str] = BOTH, methods: Collection[str] = tuple(METHODS)) -> list[Cell]:
    """List the nets, methods and lesions there are."""
    found = list[Cell]()
    for cell in product(("lenet", "conv2", "conv4"), methods, of):
        with suppress(NoRunsError):
            results.whole.select(net=cell[0], method=cell[1], **{"Lesion.of": cell[2], "Lesion.fraction": 0.5})
            found.append(cell)
    if not found:
        raise NoRunsError(f"no run has a lesion of {' or '.join(of)}")
    return found


def cut(results: Results) -> Results:
    """Keep the runs that lose something."""
    return results.select(**{"Lesion.fraction": 0.5})


def epochs(results: Results, net: str) -> int:
    """Give the epochs of a net's training without a lesion."""
    return int(results.whole.select(net=net).runs[0].option("SecondCosine.before")[0])


def at(results: Results, cell: Cell, age: float, restarted: bool = True, anew: bool = True) -> Results:
    """Keep the runs with a lesion at an age, and what follows it; at ages at which all are one, that."""
    (net, method, of), whole = cell, epochs(results, cell[0])
    restarted, anew = (restarted, anew) if (restarted, anew) in arms(age) else arms(age)[0]
    epoch = round(age * whole)
    where = {"Lesion.epoch": epoch, "Lesion.of": of, "Lesion.fraction": 0.5, "SecondCosine.restarted": restarted}
    return results.select(net=net, method=method, epochs=whole + (epoch if anew else 0), **where)


def sham(results: Results, cell: Cell, age: float = 0.0) -> Results:
    """Keep the runs without a lesion; `age=1`: trained as long again."""
    where = {"Lesion.fraction": 0.0, "Lesion.epoch": round(age * epochs(results, cell[0]))}
    return results.select(net=cell[0], method=cell[1], **where)


def later(results: Results, age: float, restarted: bool, anew: bool) -> list[float]:
    """List the points by which a lesion at an age ends below one at age 0, by net, method and lesion."""
    return [at(results, c, 0.0).mean() - at(results, c, age, restarted, anew).mean() for c in cells(results)]


def lost(results: Results, of: str, method: str) -> list[float]:
    """List the points lost for good by a lesion at 1/2, schedule restarted and budget anew, by net."""
    return [sham(results, c).mean() - at(results, c, 0.5).mean() for c in cells(results, of=(of,), methods=(method,))]


def worth(results: Results, better: tuple[bool, bool], worse: tuple[bool, bool]) -> list[float]:
    """List the points by which one sequel is better than another after a lesion at 3/4."""
    return [at(results, c, 0.75, *better).mean() - at(results, c, 0.75, *worse).mean() for c in cells(results)]


def reduce(results: Results) -> dict[str, np.ndarray]:
    """Count epochs from a lesion to 95% of the accuracy without, one more if never: `runs`, hashes, `epochs` `(N,)`."""
    rows, found = [row for row in cut(results).rows if row[2] is not None], []
    for run, _, folder in rows:
        curve = np.genfromtxt(f"{folder}/metrics.csv", delimiter=",", names=True, deletechars="")["test_top1"]
        level = REACHED * sham(results.whole, (run.net, str(run.method), "")).mean()
        after = curve[int(run.option("Lesion.epoch")[0]) + 1 :] >= level
        found.append(1.0 + (after.argmax() if after.any() else len(after)))
    return {"runs": np.array([run.hash for run, _, _ in rows]), "epochs": np.array(found)}


def reached(results: Results, part: Results) -> list[float]:
    """List, by seed, the epochs from the lesion to 95%; NaN where a curve is missing."""
    known = dict(zip(*(results.summary[name].tolist() for name in ("runs", "epochs")), strict=True))
    return [known.get(run.hash, np.nan) for run in part.runs]


def learned(*ages: float) -> Callable[[Results], Iterator[float]]:
    """Make the floor of a claim: nets with a lesion at these ages must have learned."""
    return lambda results: (at(results, cell, age).mean() for cell in cells(results) for age in ages)


CLAIMS = [
    Claim("resumed, in the budget that remains, a lesion at 3/4 ends at least 1 point below one at age 0, everywhere",
          lambda r: [points - 1 for points in later(r, 0.75, restarted=False, anew=False)]),
    Claim("restarted, with a budget anew, a lesion at any age ends at most 1 point below one at age 0, everywhere",
          lambda r: [1 - points for age in AGES[1:] for points in later(r, age, restarted=True, anew=True)],
          floor=learned(0.0)),
    Claim("in the budget that remains after a lesion at 3/4 the restarted rate is worth at least 1 point, everywhere",
          lambda r: [points - 1 for points in worth(r, (True, False), (False, False))]),
    Claim("restarted, with a budget anew, half of the edges lost at 1/2 cost at most 1 point for good, everywhere",
          lambda r: [1 - points for method in METHODS for points in lost(r, "edges", method)], floor=learned(0.5)),
    Claim("restarted, with a budget anew, a hemisphere lost at 1/2 costs at most 2 points for good, everywhere",
          lambda r: [2 - points for method in METHODS for points in lost(r, "hemisphere", method)], floor=learned(0.5)),
    Claim("a hemisphere lost at 1/2 costs masks at most 1 point more for good than it costs weights, in every net",
          lambda r: [1 + weights - masks for masks, weights in
                     zip(*(lost(r, "hemisphere", method) for method in METHODS), strict=True)], floor=learned(0.5)),
    Claim("after a lesion at 3/4 a restarted rate is worth more than a budget anew, everywhere",
          lambda r: worth(r, (True, False), (False, True)), kind="exploratory"),
    Claim("restarted, with a budget anew, 95% is reached an epoch sooner or more after one at the end than at age 0",
          lambda r: [float(np.mean(reached(r, at(r, c, 0.0))) - np.mean(reached(r, at(r, c, 1.0)))) - 1
                     for c in cells(r)],
          "epochs", "secondary"),
    Claim("control: at once, a lesion at the end costs at least 10 points, everywhere",
          lambda r: [sham(r, c).mean() - at(r, c, 1.0).mean("immediate") - 10 for c in cells(r)], kind="secondary"),
    Claim("control: without a lesion, a training as long again gains at most 1 point, everywhere",
          lambda r: [1 - sham(r, c, 1.0).mean() + sham(r, c).mean() for c in cells(r, of=BOTH[:1])],
          kind="secondary", floor=lambda r: [sham(r, c).mean() for c in cells(r, of=BOTH[:1])]),
    Claim("no lesioned edge is used again", lambda r: -max(cut(r).values("revived")), "edges", "check", every=True),
    Claim("after a lesion half of the living edges are kept, within 4 edges",
          lambda r: min(4 - abs(part["parameters"] - part["living"] / 2)
                        for _, part in cut(r).select(method="edge_popup")),
          "edges", "check", every=True),
]  # fmt: skip

LOOKS = {  # by whether the rate is restarted and the budget anew
    (False, False): panels.Look("rate resumed, budget that remains", style.NAVY, "-", "o"),
    (True, False): panels.Look("rate restarted, budget that remains", style.SKY, (0, (4, 1.2)), "s"),
    (False, True): panels.Look("rate resumed, budget anew", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
    (True, True): panels.Look("rate restarted, budget anew", style.ORANGE, (0, (5, 1.5)), "^"),
}
AT_ONCE = panels.Look("right after the lesion", style.GREY, (0, (1.2, 1.2)), "x")
SHADES = dict(zip(AGES, (style.BLACK, style.SKY, style.NAVY, style.PURPLE, style.ORANGE), strict=True))
WORDS = dict(zip(AGES, ("0", "1/4", "1/2", "3/4", "end"), strict=True))
NAMES = {"edge_popup": "masks", "dense": "weights"}


def draw(results: Results, figure: Figure) -> None:
    rows = list(dict.fromkeys((net, of) for net, _, of in cells(results)))
    figure.set_size_inches(14, height := 1.6 + 3.5 * len(rows))
    panes = figure.subplots(len(rows), 4, squeeze=False)
    figure.subplots_adjust(left=0.05, right=0.99, top=1 - 0.35 / height, bottom=1.6 / height, wspace=0.22, hspace=0.4)
    for (net, of), (masks, weights, curves, relearned) in zip(rows, panes, strict=True):
        for axes, method in ((masks, "edge_popup"), (weights, "dense")):
            if (net, method, of) in cells(results):
                draw_ages(axes, results, (net, method, of))
        draw_curves(curves, results, (net, "edge_popup", of))
        draw_reached(relearned, results, net, of)
    panels.finish(figure, panes[:, 0], bbox_to_anchor=(0.5, 0.3 / height))


def parts(results: Results, cell: Cell, arm: tuple[bool, bool]) -> dict[float, Results]:
    """Give the runs that are there of a cell and a sequel, by age."""
    found = {}
    for age in AGES:
        with suppress(NoRunsError):
            if arm in arms(age) or age == 0:
                found[age] = at(results, cell, age, *arm)
    return found


def draw_ages(axes: Axes, results: Results, cell: Cell) -> None:
    """Draw accuracy over the age of the lesion, at the end and right after it."""
    with suppress(NoRunsError):
        axes.axhline(sham(results, cell).mean(), color=style.COLORS["ink"], linewidth=1, label="no lesion")
    for number, (arm, look) in enumerate(LOOKS.items()):
        found = parts(results, cell, arm)
        panels.bars(axes, {age: part.values() for age, part in found.items()}, look, aside=2 * number - 3)
    at_once = {age: part.values("immediate") for age, part in parts(results, cell, (True, True)).items() if age}
    panels.bars(axes, at_once, AT_ONCE)
    age_axis(axes, f"{cell[0]}, {NAMES[cell[1]]}: {cell[2]} lost", "test accuracy (%)")


def draw_curves(axes: Axes, results: Results, cell: Cell) -> None:
    """Draw mean test accuracy over epochs, schedule restarted and budget anew, for each age."""
    lows = []
    for age, part in parts(results, cell, (True, True)).items():
        if part.folders:
            curve = part.curve("test_top1")[1].mean(0)
            lows.append(np.quantile(curve, 0.1))  # the beginning, near chance, would press the rest together
            axes.plot(curve, color=SHADES[age], label=f"age {WORDS[age]}", linewidth=1.2)
    axes.set(xlabel="epoch", ylabel="test accuracy (%)", title=f"{cell[0]}, masks, over time: {cell[2]} lost")
    if lows:
        axes.set_ylim(min(lows) - 5, None)
        axes.legend(fontsize=7.5, loc="lower right")
    axes.grid(axis="y")


def draw_reached(axes: Axes, results: Results, net: str, of: str) -> None:
    """Draw the epochs from a lesion to 95%, schedule restarted and budget anew."""
    for method, color, marker in (("edge_popup", style.NAVY, "o"), ("dense", style.ORANGE, "s")):
        found = {age: reached(results, part) for age, part in parts(results, (net, method, of), (True, True)).items()}
        panels.bars(axes, found, panels.Look(NAMES[method], color, "-", marker))
    axes.axhline(epochs(results, net) + 1, color=style.COLORS["muted"], linestyle=":", label="not reached")
    axes.set_ylim(0, 1.25 * (epochs(results, net) + 1))
    axes.legend(fontsize=7.5, ncols=3, loc="upper center")
    age_axis(axes, f"{net}, {of} lost: back at 95%", "epochs from the lesion")


def age_axis(axes: Axes, title: str, unit: str) -> None:
    axes.set_xticks(AGES, list(WORDS.values()))
    axes.set(xlabel="age at the lesion", ylabel=unit, title=title)
    axes.grid(axis="y")
