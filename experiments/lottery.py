"""Lottery tickets: weights that are pruned after training and rewound train as well as the whole net.

The reading prunes iteratively: train, drop the smallest weights of each layer, rewind the others to their initial
values, train again. Its figures have the test accuracy at early stopping, and the update of early stopping, over the
weights left, for these tickets, for the same masks on weights drawn anew, and for random masks of the same sizes.
Early stopping is at the smallest loss on 5,000 held-out images, evaluated every 100 updates. LeNet is rewound to its
initial weights, Conv2 to Conv6 to those after 500 updates. The output layer is pruned at half the rate.

Ours, the last row: masks and weights crossed. Masks are from iterative pruning, pruning at once, edge-popup, and
chance (as it is, and times 1/sqrt(k)), all of one density in each layer and on the same initial weights; the weights
are left as they are or trained. Controls: random masks, and the overlap of masks against that of chance and of two
edge-popup masks found from other scores. Masks have not cost the same: that of iterative pruning comes from five
trainings or more, that of edge-popup from one, that of chance from none. In the last row no images are held out.

Source: Frankle and Carbin, arXiv:1803.03635, figures 1, 3 and 5 and the table in figure 2 (rates, batch of 60, Adam);
rewinding: Frankle et al., arXiv:1912.05671.
Cost: quick 129 runs, 4 minutes on two cores; short 192, LeNet on 20,000 images, 15 rounds of 20 epochs, about 2
core-hours; paper 820, LeNet and Conv2 to Conv6, 20 rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments._crossed import by_density, crossed, density_of, draw_crossed, draw_overlap, mask, options
from experiments._crossed import overlaps as reduce  # noqa: F401  the engine looks for it
from lit_hidden.code import Spec, spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run


@dataclass(frozen=True)
class Protocol:
    """What a preset trains of a net: the dense run, and how it is pruned."""

    run: Run
    rounds: int
    controls: tuple[int, ...]  # the rounds with controls
    conv: float | None = None  # rates: what a round keeps of convolutions; of linear layers 0.8, of the output 0.9
    rewind: int = 0
    crossed: tuple[float, ...] = ()  # densities of the last row
    every: int = 100  # updates between two evaluations

    @property
    def early(self) -> Spec:
        """The callback that evaluates held-out images."""
        return spec("early.Early", every=self.every)


ADAM = Run(optimizer="adam", distribution="xavier_normal")
LENET = replace(ADAM, net="lenet", data="mnist", held_out=5000)
CONV = replace(ADAM, data="cifar10", held_out=5000, augment=False)
SIZES = (0.2, 0.1, 0.05)
PRESETS = {  # the nets and how many seeds
    "smoke": ([Protocol(replace(LENET, data="digits", held_out=137, epochs=1), 2, (2,), crossed=(0.2,), every=10)], 1),
    "quick": (
        [Protocol(replace(LENET, data="digits", held_out=137, epochs=10), 9, (3, 6, 9), crossed=SIZES[:2], every=10)],
        3,
    ),
    "short": ([Protocol(replace(LENET, train_images=20_000, epochs=20), 15, (3, 6, 9, 12, 15), crossed=SIZES)], 3),
    "paper": (
        [
            Protocol(replace(LENET, epochs=55), 20, (3, 6, 9, 12, 15, 18), crossed=SIZES),
            Protocol(replace(CONV, net="conv2", epochs=27), 20, (4, 8, 12, 16, 20), 0.9, 500),
            Protocol(replace(CONV, net="conv4", epochs=34), 20, (4, 8, 12, 16, 20), 0.9, 500),
            Protocol(replace(CONV, net="conv6", epochs=40), 20, (4, 8, 12, 16, 20), 0.85, 500),
        ],
        5,
    ),
}


def prune(run: Run, protocol: Protocol, done: int, **more: str) -> Run:
    """Give the run after a dense one that keeps what `done` rounds keep."""
    rates = {"density": 0.8, "conv": protocol.conv, "output": 0.9}
    kept = {name: round(rate**done, 6) for name, rate in rates.items() if rate is not None}
    rewind = {"rewind": protocol.rewind} if protocol.rewind else {}
    return run.then(callbacks=(protocol.early, spec("rewind.Prune", **kept, **rewind, **more)))


def read(protocol: Protocol) -> Iterator[Run]:
    """List the reading's runs: the chain, and its controls."""
    dense = run = replace(protocol.run, callbacks=(protocol.early, *snapshot(protocol)))
    yield dense
    for done in range(1, protocol.rounds + 1):
        run = prune(run, protocol, done)
        yield run
        if done in protocol.controls:
            yield prune(run, protocol, done, weights="fresh")
            yield prune(dense, protocol, done, choice="random")


def snapshot(protocol: Protocol) -> tuple[Spec, ...]:
    return (spec("rewind.Snapshot", update=protocol.rewind),) if protocol.rewind else ()


def runs(preset: str) -> list[Run]:
    protocols, seeds = PRESETS[preset]
    grid = []
    for seed in range(seeds):
        for protocol in protocols:
            own = replace(protocol, run=replace(protocol.run, seed=seed))
            grid += [*read(own), *crossed(own.run, own.crossed)]
    return grid


# --- the reading ---------------------------------------------------------------------------------------------------

LINES = {  # of runs with early stopping: by how Prune chooses weights and what they become
    "ticket": panels.Look("ticket: largest weights, rewound", style.NAVY, "-", "o"),
    "fresh": panels.Look("the ticket's mask, weights drawn anew", style.ORANGE, (0, (5, 1.5)), "s"),
    "random": panels.Look("random mask, rewound", style.GREY, (0, (1.2, 1.2)), "x"),
}


def line(results: Results, kind: str, net: str = "lenet") -> Results:
    """Keep a net's runs of one of `LINES`; `dense` are those before any pruning."""

    def there(run: Run) -> bool:
        given = options(run)
        found = "dense" if not given else given.get("choice") or given.get("weights") or "ticket"
        return any(one.class_path.endswith(".Early") for one in run.callbacks) and found == kind and run.net == net

    return results.where(there)


def sizes(results: Results) -> list[float]:
    """List the densities at which there are controls, LeNet's, the largest first."""
    return line(results, "fresh").each("Prune.density")[::-1]


def at(results: Results, kind: str, density: float, number: str = "early_accuracy") -> float:
    """Average a number of LeNet's runs of one kind at a density of the hidden layers."""
    return line(results, kind).mean(number, **{"Prune.density": density})


def whole(results: Results, number: str = "early_accuracy") -> float:
    return line(results, "dense").mean(number)


def small(results: Results) -> float:
    """Give the density with controls that is nearest to 13.4%, nine rounds: the reading's tickets of 10 to 20%."""
    return min(sizes(results), key=lambda density: abs(density - 0.8**9))


def ahead(results: Results, kind: str) -> list[float]:
    """List the points by which tickets beat a control of nine rounds or more, by density."""
    few = [density for density in sizes(results) if density <= small(results)]
    return [at(results, "ticket", density) - at(results, kind, density) for density in few]


def beats(results: Results, better: str, worse: str, trained: bool) -> list[float]:
    """List the points by which one mask beats another, by density."""
    ours, theirs = (by_density(mask(results, name, trained)) for name in (better, worse))
    return [ours[density].mean() - theirs[density].mean() for density in theirs]


def above_chance(results: Results, name: str) -> list[float]:
    """List by how many points the Jaccard index of a pair of masks lies above that of chance, by density."""
    found = results.summary
    return [100 * float(x) for x in np.nanmean(found[name] - found["chance"], axis=1)]


CLAIMS = [
    Claim(
        "of LeNet, a ticket of 13% of the weights is at least as good as the whole net, at early stopping",
        lambda r: at(r, "ticket", small(r)) - whole(r),
    ),
    Claim(
        "of 13% of the weights and fewer, tickets beat their masks on weights drawn anew", lambda r: ahead(r, "fresh")
    ),
    Claim("of 13% of the weights and fewer, tickets beat random masks", lambda r: ahead(r, "random")),
    Claim(
        "a ticket of 13% of the weights stops earlier than the whole net",
        lambda r: whole(r, "early_update") - at(r, "ticket", small(r), "early_update"), "updates",
    ),
    Claim(
        "weights drawn anew under its mask stop later than the ticket",
        lambda r: at(r, "fresh", small(r), "early_update") - at(r, "ticket", small(r), "early_update"), "updates",
    ),
    Claim(
        "untrained weights: edge-popup's mask beats that of iterative pruning, at every density",
        lambda r: beats(r, "edge_popup", "imp", trained=False),
    ),
    Claim(
        "trained weights: the mask of iterative pruning beats edge-popup's, at every density",
        lambda r: beats(r, "imp", "edge_popup", trained=True),
    ),
    Claim(
        "trained weights: edge-popup's mask beats a random one times 1/sqrt(k), at every density",
        lambda r: beats(r, "edge_popup", "rescaled", trained=True),
    ),
    Claim(
        "trained weights: iterative pruning beats pruning at once, at every density",
        lambda r: beats(r, "imp", "one_shot", trained=True), kind="secondary",
    ),
    Claim(
        "masks of iterative pruning and of edge-popup overlap more than chance, at every density",
        lambda r: above_chance(r, "pruned"), "points of the Jaccard index", "secondary",
    ),
    Claim(
        "two masks that edge-popup finds from other scores overlap more than chance, at every density",
        lambda r: above_chance(r, "scores"), "points of the Jaccard index", "secondary",
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    nets = [net for net in ("lenet", "conv2", "conv4", "conv6") if len(line(results, "dense", net))]
    height = 1.5 + 3.5 * (1 + len(nets))
    figure.set_size_inches(12.5, height)
    rows = figure.subplots(1 + len(nets), 3, squeeze=False)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.955, bottom=1.5 / height, wspace=0.2, hspace=0.42)
    for (accuracy, update, curves), net in zip(rows, nets, strict=False):
        draw_left(accuracy, results, net, "early_accuracy", "test accuracy (%)", "at early stopping")
        draw_left(update, results, net, "early_update", "update", "when it would stop early")
        draw_curves(curves, results, net)
    untrained, trained, overlap = rows[-1]
    draw_crossed(untrained, results, trained=False, title="ours, weights as drawn")
    draw_crossed(trained, results, trained=True, title="ours, weights trained")
    draw_overlap(overlap, results)
    panels.finish(figure, [*rows[:, 0], *rows[:, 1]], bbox_to_anchor=(0.5, 0.35 / height), ncols=5)


def draw_left(axes: Axes, results: Results, net: str, number: str, unit: str, title: str) -> None:
    """Draw a number over the weights left: tickets, their controls, and the whole net as a line."""
    dense = line(results, "dense", net)
    axes.axhline(dense.mean(number), color=style.COLORS["ink"], linewidth=1, label="the whole net")
    for kind, look in LINES.items():
        parts = line(results, kind, net).by(density_of)
        panels.bars(axes, {density: part.values(number) for density, part in parts.items()}, look)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.minorticks_off()
    densities = list(line(results, "ticket", net).by(density_of))[::3]
    axes.set_xticks(densities, [f"{100 * density:.3g}" for density in densities])
    axes.set(xlabel="% of weights left in linear layers", ylabel=unit)
    axes.set_title(f"{net}: {title}")
    axes.grid(axis="y")


def draw_curves(axes: Axes, results: Results, net: str) -> None:
    """Draw mean held-out accuracy over updates: of the whole net, and of tickets of three, six and nine rounds."""
    tickets = line(results, "ticket", net).by(density_of)
    shown = {f"{100 * k:.3g}%": tickets[k] for n in (3, 6, 9) if (k := round(0.8**n, 6)) in tickets}
    parts, lows = {"100%": line(results, "dense", net), **shown}, list[float]()
    for shade, (label, part) in zip(("#000000", style.SKY, style.NAVY, style.PURPLE), parts.items(), strict=False):
        curves = []
        for folder in part.folders:
            with np.load(folder / "early.npz") as arrays:
                update, accuracy = arrays["update"], arrays["accuracy"]
            curves.append(accuracy)
        axes.plot(update, np.mean(curves, axis=0), color=shade, label=label, linewidth=1.2)
        lows.append(np.quantile(curves, 0.1))
    axes.set_ylim(min(lows, default=0), None)
    axes.set(xlabel="update", ylabel="held-out accuracy (%)")
    axes.set_title(f"{net}: training, by weights left")
    axes.legend(fontsize=7.5)
    axes.grid(axis="y")
