"""Dale's principle: subnetworks of random nets in which each unit excites all others, or inhibits all of them.

The meeting's note: inhibitory and excitatory properties. Nearly all neurons have one sign; about four in five excite.
In a net that is trained, Dale's principle impairs learning; feed-forward inhibition, which centres and scales the
excitation, mends that (the reading). Under a mask no weight changes: only the mask can bring inhibition into balance.

Ours: signs by presynaptic unit (those of pixels are free), half or a fifth of the units inhibitory, or none; weights of
a fifth made four times as large; and the mean over units subtracted from each hidden layer, which is feed-forward
inhibition without its scaling. Magnitudes are constant, or those of Kaiming normal. Each arm counts with the best of
three rates by held-out images, since an arm that collapses at one may learn at another. Controls: free signs, with and
without subtraction; half and half, in balance as drawn. Net drive: sum of kept weights over sum of their magnitudes.

Source: Cornford et al., Learning to live with Dale's principle, ICLR 2021. Feed-forward inhibition there is scaled too.
Cost: quick 144 runs, MNIST, 4 minutes on two cores; short 432, on 20,000 images of MNIST and 10,000 of CIFAR-10, about
1.5 core-hours; paper 1440, full width and all images.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
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

ARMS: dict[str, dict[str, Any]] = {  # options of the callback
    "free": {"inhibitory": None},
    "half": {"inhibitory": 0.5},
    "fifth": {"inhibitory": 0.2},
    "balanced": {"inhibitory": 0.2, "balanced": True},
    "none": {"inhibitory": 0.0},
    "free, subtracted": {"inhibitory": None, "subtract": True},
    "fifth, subtracted": {"inhibitory": 0.2, "subtract": True},
    "none, subtracted": {"inhibitory": 0.0, "subtract": True},
}
ALL, FEW = tuple(ARMS), ("free", "fifth", "fifth, subtracted")
Cell = tuple[str, str]  # net, distribution
Values = Callable[[Results], list[float]]
# Errors grow from layer to layer where excitation prevails: in six layers behind the first by many powers of ten.
RATES = {"lenet": (0.2, 0.05, 0.01), "conv4": (0.3, 0.1, 1e-3), "conv6": (0.3, 0.1, 1e-3)}
BOTH = ("signed_constant", "kaiming_normal")
HALF = 0.5  # the density of all claims


@dataclass(frozen=True)
class Design:
    """What a preset trains of a net: at half of the weights, and at other densities."""

    run: Run
    distributions: tuple[str, ...] = BOTH
    arms: tuple[str, ...] = ALL
    densities: tuple[float, ...] = ()  # of signed constants, beside half
    others: tuple[str, ...] = ALL  # the arms there

    def runs(self, seed: int) -> Iterator[Run]:
        """List the runs of a seed."""
        for distribution in self.distributions:
            yield from self.trained(distribution, self.arms, HALF, seed)
        for density in self.densities:
            yield from self.trained("signed_constant", self.others, density, seed)

    def trained(self, distribution: str, arms: tuple[str, ...], density: float, seed: int) -> Iterator[Run]:
        """List the runs of some arms, at each rate."""
        for name in arms:
            run = replace(self.run, distribution=distribution, density=density, seed=seed)
            yield from (replace(run, lr=lr, callbacks=(spec("dale.Dale", **ARMS[name]),)) for lr in RATES[run.net])


LENET = Run(net="lenet", data="mnist", train_images=20_000, held_out=5000, epochs=5)
CONV = Run(net="conv4", width=0.25, train_images=10_000, held_out=2000, epochs=4, augment=False)
FIRST = replace(LENET, train_images=5000, held_out=1000, epochs=4)
LOOK = replace(CONV, data="mnist", train_images=5000, held_out=1000, epochs=2, augment=None)
PRESETS = {  # and the number of seeds
    "smoke": ([Design(replace(FIRST, data="digits", width=0.2, train_images=300, held_out=100, epochs=1),
                      BOTH[:1], FEW)], 1),
    "quick": ([Design(FIRST, BOTH[:1], ALL, (0.3,), FEW[:2]), Design(FIRST, BOTH[1:], FEW),
               Design(LOOK, BOTH[:1], FEW)], 3),
    "short": ([Design(LENET, densities=(0.3, 0.7)), Design(CONV)], 3),
    "paper": ([Design(replace(LENET, train_images=None, epochs=50), densities=(0.3, 0.7)),
               *(Design(Run(net=net, held_out=5000), densities=(0.3, 0.7)) for net in ("conv4", "conv6"))], 5),
}  # fmt: skip


def runs(preset: str) -> list[Run]:
    designs, seeds = PRESETS[preset]
    return [run for seed in range(seeds) for design in designs for run in design.runs(seed)]


def at(results: Results, net: str, distribution: str, name: str, density: float = HALF) -> Results:
    """Keep the runs of an arm, at the rate with the best accuracy on held-out images; NoRunsError: there are none."""
    same = results.select(net=net, distribution=distribution, density=density, **options(name))
    rates = {run.lr: same.whole.select(lr=run.lr).mean("val_accuracy") for run in same.whole.runs}  # by all seeds
    return same.select(lr=max(rates, key=lambda rate: rates[rate]))


@cache
def options(name: str) -> dict[str, Any]:
    """Give the options of an arm, as `Results.select` takes them."""
    full = {"inhibitory": None, "balanced": False, "subtract": False} | ARMS[name]
    return {f"Dale.{option}": value for option, value in full.items()}


@cache
def arm(run: Run) -> str:
    """Name the arm of a run."""
    return next(name for name in ARMS if all(run.option(option) == [value] for option, value in options(name).items()))


def cells(results: Results, *arms: str) -> list[Cell]:
    """List the nets and distributions that have all these arms at half of the weights."""
    found = []
    for net, distribution in product(("lenet", "conv4", "conv6"), BOTH):
        with suppress(NoRunsError):
            for name in arms or ("free",):
                results.whole.select(net=net, distribution=distribution, density=HALF, **options(name))
            found.append((net, distribution))
    if not found:
        raise NoRunsError(f"no net has {' and '.join(arms)}")
    return found


def gain(results: Results, one: str, other: str, *more: str) -> np.ndarray:
    """Give the points by which an arm is better than another, for each net and distribution that has `more` too."""
    found = cells(results, one, other, *more)
    return np.array([at(results, *cell, one).mean() - at(results, *cell, other).mean() for cell in found])


def wins_back(results: Results, treated: str, bare: str) -> np.ndarray:
    """Give the points that an arm costs against free signs, and those that a treatment gains beyond half of that."""
    cost = gain(results, "free", bare, treated)
    return np.concatenate([cost, gain(results, treated, bare, "free") - cost / 2])


def unequal(results: Results, name: str, *more: str) -> np.ndarray:
    """Give the points by which more of the inhibitory edges are kept, for each net where arms learn."""
    arms, whole = (name, *more), results.whole
    found = [cell for cell in cells(whole, *arms) if min(at(whole, *cell, one).mean() for one in arms) >= 20]
    if not found:
        raise NoRunsError(f"no net learns with {name}")
    return np.array([np.mean(more_often(at(results, *cell, name))) for cell in found])


def levels(name: str, *more: str) -> Values:
    """Make the floor of a claim: an arm must have learned, in each net that has `more` too."""
    return lambda results: [at(results, *cell, name).mean() for cell in cells(results, name, *more)]


CLAIMS = [
    Claim("one sign a unit, a fifth of them inhibitory, costs at least 2 points, in every net",
          lambda r: gain(r, "free", "fifth") - 2, floor=levels("free", "fifth")),
    Claim("no inhibition is at least 5 points worse than a fifth inhibitory, in every net",
          lambda r: gain(r, "fifth", "none") - 5, floor=levels("fifth", "none")),
    Claim("half inhibitory, in balance as drawn, is at least 1 point better than a fifth, in every net",
          lambda r: gain(r, "half", "fifth") - 1, floor=levels("half", "fifth")),
    Claim("a fifth has a cost, and weights four times as large win back at least half of it, in every net",
          lambda r: wins_back(r, "balanced", "fifth"), floor=levels("balanced", "fifth")),
    Claim("a fifth inhibitory has a cost, and subtracting the mean wins back at least half of it, in every net",
          lambda r: wins_back(r, "fifth, subtracted", "fifth"), floor=levels("fifth, subtracted", "fifth")),
    Claim("no inhibition has a cost, and subtracting the mean wins back at least half of it, in every net",
          lambda r: wins_back(r, "none, subtracted", "none"), floor=levels("none, subtracted", "none")),
    Claim("with a fifth the mask keeps at least 5 points more of inhibitory edges than of excitatory, where nets learn",
          lambda r: unequal(r, "fifth") - 5),
    Claim("control: free signs gain less than half as much by subtraction as a fifth inhibitory, in every net",
          lambda r: gain(r, "fifth, subtracted", "fifth", "free, subtracted") / 2
          - gain(r, "free, subtracted", "free", "fifth, subtracted"), kind="secondary"),
    Claim("control: with half inhibitory the mask keeps the two kinds more alike than with a fifth, there",
          lambda r: abs(unequal(r, "fifth", "half")) - abs(unequal(r, "half", "fifth")), kind="secondary"),
    Claim("where units have one sign, no unit's kept weights have two",
          lambda r: -max(result["mixed"] for run, result in r if "free" not in arm(run)),
          "units", "check", every=True),
]  # fmt: skip

LOOKS = {
    "free": panels.Look("free signs", style.BLACK, "-", "o"),
    "half": panels.Look("half inhibitory", style.SKY, (0, (4, 1.2)), "s"),
    "fifth": panels.Look("a fifth inhibitory", style.NAVY, (0, (6, 1.2, 1.2, 1.2)), "D"),
    "balanced": panels.Look("a fifth, four times as large", style.PURPLE, (0, (3, 1, 1, 1, 1, 1)), "v"),
    "none": panels.Look("no inhibition", style.ORANGE, (0, (1.2, 1.2)), "^"),
}
LOOKS |= {
    f"{name}, subtracted": replace(LOOKS[name], label=f"{LOOKS[name].label}, mean subtracted", face="white")
    for name in ("free", "fifth", "none")
}


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8.6)
    (accuracy, density, scatter), (share, before, after) = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.95, bottom=0.19, wspace=0.2, hspace=0.36)
    found = cells(results)
    draw_arms(accuracy, results, found, lambda part: part.values(), ARMS)
    accuracy.set(ylabel="test accuracy (%)", title="(a) half of the weights, each arm at its best rate")
    draw_density(density, results, found[0][0])
    for name, part in ((name, part) for cell in found for name, part in present(results, cell).items()):
        scatter.plot(part.values("drive"), part.values(), linestyle="", marker=LOOKS[name].marker,
                     color=LOOKS[name].color, markerfacecolor=LOOKS[name].face or LOOKS[name].color)  # fmt: skip
    scatter.set(xlabel="net drive at the end", ylabel="test accuracy (%)", title="(c) accuracy of each run")
    draw_arms(share, results, found, more_often, [name for name in ARMS if not name.startswith("none")])
    share.axhline(0, color=style.COLORS["muted"], linewidth=0.8)
    share.set(ylabel="points", title="(d) % of inhibitory edges kept, above excitatory")
    draw_drive(before, results, found[-1], "drive_before", f"(e) {found[-1][0]}, before learning")
    draw_drive(after, results, found[-1], "drive", f"(f) {found[-1][0]}, at the end")
    for axes in (accuracy, density, scatter, share, before, after):
        axes.grid(axis="y")
    panels.finish(figure, [accuracy], bbox_to_anchor=(0.5, 0.045))


def present(results: Results, cell: Cell) -> dict[str, Results]:
    """Give the arms of a net and distribution at half of the weights, each at its best rate."""
    there = {arm(run) for run in panels.there(results, net=cell[0], distribution=cell[1], density=HALF).runs}
    return {name: at(results, *cell, name) for name in ARMS if name in there}


def more_often(part: Results) -> list[float]:
    """List, by seed, the points by which the percentage of inhibitory edges kept is above that of excitatory ones."""
    kept = (part.values(f"kept_{kind}") for kind in ("inhibitory", "excitatory"))
    return [more - less for more, less in zip(*kept, strict=True)]


def draw_arms(axes: Axes, results: Results, found: list[Cell], values: Values, names: Collection[str]) -> None:
    """Draw a number of each of these arms, net by net."""
    for number, name in enumerate(names):
        parts = {x: present(results, cell).get(name) for x, cell in enumerate(found)}
        at_x = {x + 0.1 * (number - (len(names) - 1) / 2): values(part) for x, part in parts.items() if part}
        panels.bars(axes, at_x, replace(LOOKS[name], linestyle=""))
    words = {"signed_constant": "constants", "kaiming_normal": "normal"}
    axes.set_xticks(range(len(found)), [f"{net}\n{words[distribution]}" for net, distribution in found])
    axes.set_xlim(-0.5, len(found) - 0.5)


def draw_density(axes: Axes, results: Results, net: str) -> None:
    """Draw accuracy over density for each arm that has several."""
    same = panels.there(results, net=net, distribution="signed_constant")
    for name, part in same.by(arm).items():
        densities = sorted({run.density for run in part.runs if run.density})
        if len(densities) > 1:
            panels.bars(axes, {k: at(results, net, BOTH[0], name, k).values() for k in densities}, LOOKS[name])
    panels.density_axis(axes, {run.density for run in same.runs if run.density})
    axes.set(ylabel="test accuracy (%)", title=f"(b) {net}, constants")


def draw_drive(axes: Axes, results: Results, cell: Cell, when: str, title: str) -> None:
    """Draw the net drive of the layers behind the first, a mean over seeds."""
    for name, part in present(results, cell).items():
        rows, look = [np.load(folder / "dale.npz")[when] for folder in part.folders], LOOKS[name]
        if rows:
            layers = range(2, len(rows[0]) + 2)
            axes.plot(layers, np.mean(rows, axis=0), color=look.color, linestyle=look.linestyle, marker=look.marker,
                      markersize=4.5, markerfacecolor=look.face or look.color)  # fmt: skip
            axes.set_xticks(layers)
    axes.axhline(0, color=style.COLORS["muted"], linewidth=0.8)
    axes.set(xlabel="layer", ylabel="net drive", ylim=(-0.4, 1.1), title=title)
