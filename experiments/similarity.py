"""Similarity: what the random subnetwork shares with the trained network, in its wiring and in what it does.

The discussion's note asks: is the random subnetwork similar to the trained network? All answers here are ours. All
networks of a seed have the same random weights and see the images in one order: trained; trained but stopped at the
snapshot whose held-out accuracy is nearest to the subnetworks'; subnetwork; ticket (iterative magnitude pruning, two
rounds); random mask; never trained. Two networks are of one seed or of two, so their random weights are the same or
others. The yardstick is two trained networks of other weights, both stopped.

Function: CKA of the responses, unbiased, since the plain one is near 1 where units outnumber images; RDMs (r squared);
kappa of the errors, the agreement beyond what the accuracies imply; accuracy under noise and FGSM. Wiring: each network
is reduced to the largest half of the weights of each layer, which is its mask where it has one. Degrees are counted in
these; their variance is 1 where chance places them (hypergeometric: a binomial whose sum is fixed).
Intervals leave out one seed at a time. Controls: random masks, networks never trained, overlap with other weights.

Source: Kornblith et al., arXiv:1905.00414 (CKA; unbiased by Song et al., JMLR 13:1393, 2012); Geirhos et al.,
arXiv:2006.16736 (kappa); Goodfellow et al., arXiv:1412.6572 (FGSM); Frankle and Carbin, arXiv:1803.03635 (tickets).
Cost: quick 160 runs, 3 minutes on two cores; short 160, on 15,000 images of MNIST and of CIFAR-10, about 1.2
core-hours; paper 170, full width and all images.
"""

from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments._compared import DENSITY, View, compared, draw_kappa, draw_line, draw_table
from lit_hidden.code import spec
from lit_hidden.judge import Claim, decide
from lit_hidden.report import style
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

EQUAL, CHANCE = 2.0, 20.0  # points within which accuracies are equal; a test accuracy that is hardly more than luck
SAME = True  # of pairs of networks: of the same random weights
MNIST = Run(net="lenet", data="mnist", train_images=20_000, held_out=5000, epochs=10)
CIFAR = Run(net="conv4", width=0.25, augment=False, train_images=20_000, held_out=5000, epochs=10)
DIGITS = Run(net="lenet", width=0.5, data="digits", held_out=137, epochs=8, batch_size=32)
WEAK, STRONG = ([0.05, 0.1, 0.2], [0.002, 0.005, 0.01]), ([0.1, 0.2, 0.4], [0.01, 0.03, 0.1])  # noise and FGSM
SMALL = (
    (DIGITS, 0.025, (40, 80, 120, 160, 200), STRONG),
    (replace(DIGITS, net="conv4", width=0.125), None, (40, 60, 80, 100, 130), STRONG),
)
CUT = (MNIST, None, (100, 200, 400, 600, 900), STRONG), (CIFAR, None, (150, 250, 400, 600, 800), WEAK)
WHOLE = (
    (replace(MNIST, train_images=None, epochs=50), None, (400, 1000, 2000, 5000, 10_000), STRONG),
    (Run(net="conv4", held_out=5000), None, (2000, 4000, 8000, 12_000, 16_000, 20_000, 24_000), WEAK),
)
PRESETS = {  # a run of each net, the rate at which weights learn, updates of snapshots, strengths; seeds, images
    "smoke": (((replace(DIGITS, width=0.1, epochs=1), 0.025, (20, 40), STRONG),), 1, 20),
    "quick": (SMALL, 5, 180),
    "short": (CUT, 5, 500),
    "paper": (WHOLE, 5, 1000),
}
LOOKS = {  # the groups
    "dense": panels.Look("trained", style.ORANGE, (0, (5, 1.5)), "s"),
    "stopped": panels.Look("trained, stopped", "#7d4c14", (0, (1.2, 1.2)), "^"),
    "hidden": panels.Look("subnetwork", style.NAVY, "-", "o"),
    "ticket": panels.Look("ticket (IMP)", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
    "random": panels.Look("random mask", style.GREY, (0, (1, 1)), "+"),
    "untrained": panels.Look("never trained", "#999999", (0, (1, 2)), "x"),
}


def runs(preset: str) -> list[Run]:
    nets, seeds, images = PRESETS[preset]
    grid = []
    for seed in range(seeds):
        for base, rate, stops, (noise, fgsm) in nets:
            probes = (spec("rdm.RDM", images=images), spec("similarity.Probe", images=images, noise=noise, fgsm=fgsm))
            base = replace(base, seed=seed, data_seed=0)
            dense = replace(base, lr=rate, callbacks=tuple(spec("rewind.Snapshot", update=update) for update in stops))
            first = dense.then(callbacks=(spec("rewind.Prune", density=0.7),))
            ticket = first.then(callbacks=(spec("rewind.Prune", density=DENSITY),))
            mask = replace(base, density=DENSITY, distribution="kaiming_normal")
            # With the seed of its scores a random mask is the one that the subnetwork begins with.
            random = replace(mask, method="random", score_seed=1000 + seed)
            for run in (dense, first, ticket, mask, random, replace(random, density=1.0)):
                grid += [run] if run is first else [run, run.then(epochs=0, callbacks=probes)]
            for n in range(1, len(stops) + 1):
                grid.append(dense.then(epochs=0, callbacks=(spec("similarity.Stopped", snapshot=n), *probes)))
    return grid


def group(analysis: Run) -> str:
    """Name the group of a probed network, with the number of its snapshot where it has one: `stopped 2`."""
    run = analysis.after
    assert run is not None
    if number := analysis.option("Stopped.snapshot"):
        return f"stopped {number[0]}"
    if run.method == "random":
        return "untrained" if run.density == 1 else "random"
    return "hidden" if run.density else "ticket" if run.option("Prune.density") else "dense"


def nets(results: Results) -> list[str]:
    return sorted({run.net for run in results.runs}, key=("lenet", "conv4").index)


def groups(results: Results, net: str) -> dict[str, Results]:
    """Part the probed networks; `stopped` are those nearest to the subnetworks in held-out accuracy, chosen once."""
    probed = results.where(lambda run: run.epochs == 0 and run.net == net)
    found, whole = probed.by(group), probed.whole.by(group)
    trained = [name for name in found if name == "dense" or name.startswith("stopped")]
    if trained and "hidden" in whole:
        level = {name: whole[name].mean("val_accuracy") for name in (*trained, "hidden")}
        found["stopped"] = found[min(trained, key=lambda name: abs(level[name] - level["hidden"]))]
    return {name: found[name] for name in LOOKS if name in found}


def reduce(results: Results) -> dict[str, np.ndarray]:
    """Compare the networks of each architecture: its arrays are `NET.NAME`, see `_compared.compared`."""
    found = {net: parts for net in nets(results) if (parts := groups(results, net))}
    if not found:
        raise NoRunsError("no network is probed")
    return {f"{net}.{name}": array for net, parts in found.items() for name, array in compared(parts).items()}


def view(results: Results, net: str) -> View:
    """Give what was compared of an architecture."""
    found = {name.partition(".")[2]: a for name, a in results.summary.items() if name.startswith(f"{net}.")}
    return View(found, sorted(set(found["seeds"].tolist())))


Term = tuple[str, str] | tuple[str, str, str] | tuple[str, str, str, bool]  # as `View.read` takes it
UNITS = {
    "cka": "points of CKA", "kappa": "points of kappa", "overlap": "% of the mask", "into": "of chance's variance",
    "out_of": "of chance's variance", "dead": "% of units", "negative": "% of the mask", "centre": "% of weights",
}  # fmt: skip


def claim(sentence: str, one: Term | float, other: Term | float = 0.0, by: float = 0.0, kind: Any = "primary") -> Claim:
    """Make the claim that a number, less another, is above `by` in every architecture that has it.

    Intervals leave out one seed of all networks at a time. It is open where subnetworks or stopped networks have hardly
    learned anything, and, if it is about stopped ones, where these differ in held-out accuracy from subnetworks.
    """
    terms = [term for term in (one, other) if isinstance(term, tuple)]
    equal, number = any("stopped" in term for term in terms), terms[0][0]

    def margin(seen: View) -> float:
        found = [seen.read(*term) if isinstance(term, tuple) else term for term in (one, other)]
        return found[0] - found[1] - by

    def interval(results: Results) -> tuple[float, float, float]:
        views = [view(results, net) for net in nets(results) if number != "centre" or net != "lenet"]
        there = [{seed for seed in seen.seeds if View(seen.found, [seed]).rows(of)} for seen in views for of in LOOKS]
        seeds = sorted(set.intersection(*there)) if there else []
        if len(seeds) < 3:
            raise NoRunsError(f"{len(seeds)} seeds have a network of each group")
        left = [[margin(View(seen.found, [s for s in seeds if s != out])) for seen in views] for out in seeds]
        whole = [margin(View(seen.found, seeds)) for seen in views]
        if not all(comparable(seen, equal) for seen in views) or not np.isfinite([whole, *left]).all():
            return nan, nan, nan
        found = decide(np.array(whole), [np.array(left)])
        return found.margin, found.low, found.high

    return Claim(sentence, unit=UNITS.get(number, "points"), kind=kind, interval=interval)


def comparable(seen: View, equal: bool) -> bool:
    """Tell whether stopped networks and subnetworks have learned, and, if asked, are of equal held-out accuracy."""
    levels = [[seen.read(name, group) for group in ("stopped", "hidden")] for name in ("accuracy", "val_accuracy")]
    return min(levels[0]) >= CHANCE and (not equal or abs(levels[1][0] - levels[1][1]) <= EQUAL)


CLAIMS = [
    claim("at the same accuracy, two trained networks respond more alike than a subnetwork and a trained one: "
          "by 2 points of CKA, in every net",
          ("cka", "stopped", "stopped"), ("cka", "hidden", "stopped"), by=2),
    claim("at the same accuracy, two trained networks agree more on errors than a subnetwork and a trained one: "
          "by 5 points of kappa, in every net",
          ("kappa", "stopped", "stopped"), ("kappa", "hidden", "stopped"), by=5),
    claim("a subnetwork responds more like the trained network of its weights than a random mask does: "
          "by 2 points of CKA, in every net",
          ("cka", "hidden", "dense", SAME), ("cka", "random", "dense", SAME), by=2),
    claim("a mask holds more of the weights that are largest after training than of those largest before: "
          "by 1 point, in every net",
          ("overlap", "hidden", "dense", SAME), ("overlap", "hidden", "untrained", SAME), by=1),
    claim("in-degrees vary more in subnetworks than in random masks: by half of chance's variance, in every net",
          ("into", "hidden"), ("into", "random"), by=0.5),
    claim("out-degrees vary more in subnetworks than in random masks: by half of chance's variance, in every net",
          ("out_of", "hidden"), ("out_of", "random"), by=0.5),
    claim("the same random weights make a subnetwork and a trained network respond more alike: by 2 points of CKA",
          ("cka", "hidden", "dense", SAME), ("cka", "hidden", "dense"), by=2, kind="secondary"),
    claim("a ticket responds more like the trained network of its weights than a subnetwork does: by 2 points of CKA",
          ("cka", "ticket", "dense", SAME), ("cka", "hidden", "dense", SAME), by=2, kind="secondary"),
    claim("control: a mask holds more of the largest weights of the net trained from its own weights than from others",
          ("overlap", "hidden", "dense", SAME), ("overlap", "hidden", "dense"), kind="secondary"),
    claim("control: networks never trained respond less alike than trained ones, in every net",
          ("cka", "dense", "dense"), ("cka", "untrained", "untrained"), kind="secondary"),
    claim("control: in random masks the variance of in-degrees is at most 1.2 times chance's, in every net",
          1.2, ("into", "random"), kind="secondary"),
    claim("at the same accuracy, noise costs a subnetwork more than a trained network, in every net",
          ("noise_lost", "hidden"), ("noise_lost", "stopped"), kind="exploratory"),
    claim("at the same accuracy, FGSM costs a subnetwork more than a trained network, in every net",
          ("fgsm_lost", "hidden"), ("fgsm_lost", "stopped"), kind="exploratory"),
    claim("subnetworks have more dead units than trained networks, in every net",
          ("dead", "hidden"), ("dead", "dense"), kind="exploratory"),
    claim("subnetworks keep more negative weights than positive ones, in every net",
          ("negative", "hidden"), 50.0, kind="exploratory"),
    claim("of convolutions, subnetworks keep the centres of kernels more often than the corners",
          ("centre", "hidden"), kind="exploratory"),
]  # fmt: skip


# --- drawing -------------------------------------------------------------------------------------------------------

PAIRS: dict[
    str, tuple[tuple[Any, ...], panels.Look]
] = {  # groups, whether of the same weights; and how such pairs are drawn
    "two trained": (("dense", "dense"), LOOKS["dense"]),
    "two trained, stopped": (("stopped", "stopped"), LOOKS["stopped"]),
    "two subnetworks": (("hidden", "hidden"), LOOKS["hidden"]),
    "subnetwork, stopped": (("hidden", "stopped"), panels.Look("", style.SKY, (0, (4, 1.2)), "v")),
    "subnetwork, trained, same weights": (("hidden", "dense", SAME), panels.Look("", style.BLACK, "-", "v", "white")),
    "ticket, trained, same weights": (("ticket", "dense", SAME), LOOKS["ticket"]),
    "random mask, trained, same weights": (("random", "dense", SAME), LOOKS["random"]),
    "two never trained": (("untrained", "untrained"), LOOKS["untrained"]),
}
COLUMNS = {  # of the table: numbers of `View`
    "accuracy": "accuracy", "CKA": "cka", "RDM": "rdm", "kappa": "kappa", "lost to\nnoise": "noise_lost",
    "lost to\nFGSM": "fgsm_lost", "weights\nin use": "kept", "dead\nunits": "dead", "negative": "negative",
    "centre -\ncorners": "centre", "in-\ndegrees": "into", "out-\ndegrees": "out_of",
    "in the\nmask": "overlap", "of largest\nchange": "changed",
}  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    views = {net: view(results, net) for net in nets(results) if f"{net}.groups" in results.summary}
    figure.set_size_inches(12.5, 12)
    grid = figure.add_gridspec(2, 6, left=0.055, right=0.985, top=0.965, bottom=0.455, wspace=0.55, hspace=0.58)
    places = [(n // 3, slice(2 * (n % 3), 2 * (n % 3) + 2)) for n in range(5)]
    first, second, errors, *robust = (figure.add_subplot(grid[place]) for place in places)
    wired = [figure.add_subplot(grid[1, n]) for n in (4, 5)]
    for axes, letter, net in zip((first, second), "ab", views, strict=False):
        for name, (pair, look) in PAIRS.items():
            draw_line(axes, views[net].pairs("cka", *pair), replace(look, label=name))
        axes.set(xlabel="layer", ylabel="CKA (%)", title=f"({letter}) {net}: how alike are responses?")
    second.set_visible(len(views) > 1)
    draw_kappa(errors, views, PAIRS)
    net, last = list(views.items())[-1]
    for axes, letter, name, word in zip(robust, "de", ("noise", "fgsm"), ("noise", "FGSM"), strict=True):
        for group, look in LOOKS.items():
            draw_line(axes, np.append(last.mean("accuracy", group), last.mean(name, group)), look)
        (strengths,) = {run.option(f"Probe.{name}")[0] for run in groups(results, net).popitem()[1].runs}
        axes.set_xticks(range(1, len(strengths) + 2), [f"{strength:g}" for strength in (0, *strengths)])
        axes.set(xlabel="strength, of pixels in [0, 1]", ylabel="test accuracy (%)")
        axes.set_title(f"({letter}) {net}: accuracy under {word}")
    for axes, letter, name, word in zip(wired, "fg", ("into", "kept"), ("in-degrees", "% in use"), strict=True):
        for group, look in LOOKS.items():
            draw_line(axes, last.mean(name, group), look)
        axes.set(xlabel="layer", title=f"({letter}) {word}")
    for axes, height, ncols in ((first, 0.684, 4), (wired[0], 0.393, 6)):
        figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=ncols, bbox_to_anchor=(0.5, height))
    rows = {look.label: (group, "stopped", "hidden") for group, look in LOOKS.items()}
    for n, (net, seen) in enumerate(views.items()):
        title = f"{net}: CKA, RDM and kappa with stopped networks of other weights; in the mask of the same weights"
        draw_table(figure.add_axes((0.03, 0.215 - 0.175 * n, 0.955, 0.15)), seen, COLUMNS, rows, title)
