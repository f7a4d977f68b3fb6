"""Individual differences: networks that are equally good, found or trained, represent images differently.

The reading trains networks that differ by the seed of their initial weights alone, compares the responses to test
images in each layer by representational dissimilarity matrices (RDMs: 1 - Pearson's correlation for each pair of
images), and calls the share of variance that the RDMs of two networks have in common (r squared) their consistency. It
falls with depth although accuracies are equal; class centroids are more consistent than images.

Ours: the same for subnetworks of random weights. Groups of 8 networks: trained from Kaiming normal and from signed
constant weights; trained in as many epochs, with a rate that falls to 0, as come nearest to the subnetworks' accuracy;
subnetworks of either distribution, of other weights or of one set of weights with other scores. The order of images is
the same for all. Controls: networks that were never trained, and random masks. Intervals leave out one network at a
time, since pairs that share a network are not independent. Responses are those before the nonlinearity.

Source: Mehrer, Spoerer, Kriegeskorte and Kietzmann, Individual differences among deep neural network models, Nature
Communications 11:5725, 2020 (figures from memory, to be checked; All-CNN-C, 10 seeds, 350 epochs).
Cost: quick 160 runs, half of them analyses, 4 minutes on two cores; short 128, six groups (weights of one distribution
each), 48 of which train on 45,000 images, about 2 core-hours; paper 160, most of 350 epochs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments._intervals import jackknifed
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

SEEDS = 8
PRESETS = {  # a run, how many images are compared, and the epochs of shorter trainings
    "smoke": (Run(net="conv2", data="digits", width=0.125, epochs=1), 20, ()),
    "quick": (Run(net="conv4", data="digits", width=0.125, epochs=4, batch_size=32), 180, (1, 2, 3)),
    "short": (Run(net="conv6", width=0.25, train_images=45_000, epochs=5), 1000, (1, 2, 3)),
    "paper": (Run(net="allcnn.all_cnn_c", epochs=350), 1000, (20, 50, 120)),
}
LOOKS = {  # the groups
    "dense": panels.Look("trained, from Kaiming normal", style.ORANGE, (0, (5, 1.5)), "s"),
    "dense, constants": panels.Look("trained, from signed constants", "#7d4c14", (0, (1.2, 1.2)), "^"),
    "dense, stopped": panels.Look("trained, nearest in accuracy", style.BLACK, (0, (3, 1, 1, 1)), "v"),
    "masks, normal": panels.Look("subnetworks, Kaiming normal", style.SKY, (0, (4, 1.2)), "s"),
    "masks": panels.Look("subnetworks, signed constants", style.NAVY, "-", "o"),
    "masks, same weights": panels.Look("subnetworks of one set of weights", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
    "untrained": panels.Look("never trained", "#999999", (0, (1, 2)), "x"),
    "random masks": panels.Look("random masks", style.GREY, (0, (1, 1)), "+"),
}


def networks(base: Run, seed: int, stops: Iterable[int], whole: bool) -> Iterable[Run]:
    """List the networks of a seed, one of each group, and those of `stops` epochs; not `whole`: of six groups."""
    dense = replace(base, seed=seed, data_seed=0)
    mask = replace(dense, density=0.5)
    yield dense
    yield from (replace(dense, epochs=epochs) for epochs in stops)
    yield mask
    if whole:
        yield replace(dense, distribution="signed_constant")
        yield replace(mask, distribution="kaiming_normal")
    yield replace(mask, weight_seed=1000)
    yield replace(dense, method="random", density=1.0, distribution="kaiming_normal")
    yield replace(mask, method="random")


def runs(preset: str) -> list[Run]:
    base, images, stops = PRESETS[preset]
    analysis = (spec("rdm.RDM", images=images),)
    grid = []
    for seed in range(1 if preset == "smoke" else SEEDS):
        for run in networks(base, seed, stops, preset != "short"):
            grid += [run, run.then(epochs=0, callbacks=analysis)]
    return grid


def group(analysis: Run, last: int) -> str:
    """Name the group of an analysis' parent; `last` is the length of the trainings that are not stopped."""
    run = analysis.after
    assert run is not None
    if run.method == "dense":
        if run.epochs < last:
            return f"dense, {run.epochs}"
        return "dense" if run.distribution == "kaiming_normal" else "dense, constants"
    if run.method == "random":
        return "untrained" if run.density == 1 else "random masks"
    if run.weight_seed != run.seed:
        return "masks, same weights"
    return "masks" if run.distribution == "signed_constant" else "masks, normal"


def groups(results: Results) -> dict[str, Results]:
    """Part the analyses by group; `dense, stopped` are those nearest to the accuracy of signed constant masks."""
    analyses = results.where(lambda run: run.epochs == 0)
    last = max((run.after.epochs for run in analyses.runs if run.after), default=0)
    found = analyses.by(lambda run: group(run, last))
    if "masks" in found:
        dense = {name: part for name, part in found.items() if name.startswith("dense") and "constants" not in name}
        near = min(dense, key=lambda name: abs(dense[name].mean() - found["masks"].mean()), default=None)
        if near:
            found["dense, stopped"] = dense[near]
    return found


def reduce(results: Results) -> dict[str, np.ndarray]:
    """Compare the RDMs of all pairs of networks: r squared.

    Returns:
        `runs` (N,), hashes of the analyses; `layers` (L,), names in order; `images` and `centroids` `(L, N, N)`.
    """
    analyses = results.where(lambda run: run.epochs == 0)
    if not analyses.folders:
        raise NoRunsError("no analysis is done")
    files = [folder / "rdm.npz" for folder in analyses.folders]
    with np.load(files[0]) as arrays:
        layers = [name for name in arrays if name != "labels" and not name.endswith(".centroids")]

    def matrices(end: str) -> np.ndarray:
        return np.array(
            [np.atleast_2d(np.corrcoef([_array(file, layer + end) for file in files])) ** 2 for layer in layers]
        )

    found = {"images": matrices(""), "centroids": matrices(".centroids")}
    return {"runs": np.array([run.hash for run in analyses.runs]), "layers": np.array(layers), **found}


def _array(file: Path, name: str) -> np.ndarray:
    """Load one array of a file: all of them together may not fit into memory."""
    with np.load(file) as arrays:
        return np.asarray(arrays[name])


def consistency(summary: dict[str, np.ndarray], one: Sequence[int], other: Sequence[int], of: str) -> np.ndarray:
    """Average r squared over pairs of networks, in percent by layer `(L,)`: of two groups, or within one and itself.

    Networks are rows of `summary`; a network is no pair with itself.
    """
    pairs = [(i, j) for i in one for j in other if i != j]
    if not pairs:
        return np.full(len(summary["layers"]), nan)
    return np.asarray(100 * summary[of][:, *np.transpose(pairs)].mean(1))


def members(results: Results) -> dict[str, list[int]]:
    """Give the rows of each group's networks in `summary`."""
    place = {name: at for at, name in enumerate(results.summary["runs"].tolist())}
    return {name: [place[run.hash] for run in part.runs] for name, part in groups(results).items()}


Term = tuple[float, str, str, str, slice]  # a factor, two groups, images or centroids, layers


def claimed(*terms: Term, equal: bool = False) -> Callable[[Results], tuple[float, float, float]]:
    """Make the interval of a claim: a sum of consistencies, averaged over layers, leaving out one network at a time.

    `equal`: it is NaN where subnetworks and trained networks are a point or more apart.
    """

    def interval(results: Results) -> tuple[float, float, float]:
        parts, rows = groups(results), members(results)
        names = list(dict.fromkeys(name for _, one, other, _, _ in terms for name in (one, other)))
        if any(name not in rows for name in names):
            raise NoRunsError(f"no network is done of {', '.join(name for name in names if name not in rows)}")
        if equal and abs(parts["dense, stopped"].mean() - parts["masks"].mean()) > 1:
            return nan, nan, nan
        summary = results.summary

        def margin(cells: list[list[int]]) -> float:
            at = dict(zip(names, cells, strict=True))
            found = (factor * consistency(summary, at[one], at[other], of)[layers].mean()
                     for factor, one, other, of, layers in terms)  # fmt: skip
            return float(sum(found))

        return jackknifed(margin, [rows[name] for name in names])

    return interval


FIRST, LAST, HIDDEN = slice(0, 1), slice(-2, -1), slice(0, -1)  # of the hidden layers: the first, the last, all


def falls(name: str, by: float = 1.0) -> tuple[Term, Term]:
    """Give the terms of the fall of a group's consistency from the first layer to the last hidden one."""
    return (by, name, name, "images", FIRST), (-by, name, name, "images", LAST)


def gains(name: str, by: float = 1.0) -> tuple[Term, Term]:
    """Give the terms of how much more consistent centroids are than images, in the last hidden layer."""
    return (by, name, name, "centroids", LAST), (-by, name, name, "images", LAST)


def within(by: float, name: str, layers: slice = LAST) -> Term:
    return by, name, name, "images", layers


def across(by: float, name: str) -> Term:
    return by, name, "dense, stopped", "images", LAST


SHARED = "% of variance"
CLAIMS = [
    Claim("trained networks: consistency falls from the first layer to the last hidden one", unit=SHARED,
          interval=claimed(*falls("dense"))),
    Claim("subnetworks: consistency falls from the first layer to the last hidden one", unit=SHARED,
          interval=claimed(*falls("masks"))),
    Claim("control: it falls less in trained networks than in networks that were never trained", unit=SHARED,
          kind="secondary", interval=claimed(*falls("untrained"), *falls("dense", -1.0))),
    Claim("trained networks: class centroids are more consistent than images, in the last hidden layer", unit=SHARED,
          interval=claimed(*gains("dense"))),
    Claim("subnetworks: class centroids are more consistent than images, in the last hidden layer", unit=SHARED,
          interval=claimed(*gains("masks"))),
    Claim("control: centroids gain more over images in trained networks than in networks that were never trained",
          unit=SHARED, kind="secondary", interval=claimed(*gains("dense"), *gains("untrained", -1.0))),
    Claim("trained to the same accuracy, networks are more consistent than subnetworks, in the last hidden layer",
          unit=SHARED, interval=claimed(within(1.0, "dense, stopped"), within(-1.0, "masks"), equal=True)),
    Claim("subnetworks of one set of weights are more consistent than those of other weights, over the hidden layers",
          unit=SHARED,
          interval=claimed(within(1.0, "masks, same weights", HIDDEN), within(-1.0, "masks", HIDDEN))),
    Claim("a subnetwork and a trained network of the same accuracy share less than two trained ones, there",
          unit=SHARED, interval=claimed(within(1.0, "dense, stopped"), across(-1.0, "masks"), equal=True)),
    Claim("a subnetwork and a trained network share more than a random mask and a trained network, there", unit=SHARED,
          interval=claimed(across(1.0, "masks"), across(-1.0, "random masks"))),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 8.6)
    layers, parts, rows = results.summary["layers"].tolist(), groups(results), members(results)
    shown = [name for name in LOOKS if name in parts]
    grid = figure.add_gridspec(2, 3, left=0.055, right=0.985, top=0.95, bottom=0.16, wspace=0.2, hspace=0.36)
    inside, centroids, outside = (figure.add_subplot(cell) for cell in (grid[0, 0], grid[0, 1], grid[0, 2]))
    for axes, of, title in ((inside, "images", "(a) within a group"), (centroids, "centroids", "(b) class centroids")):
        for name in shown:
            draw_line(axes, consistency(results.summary, rows[name], rows[name], of), LOOKS[name])
        layer_axis(axes, layers, title)
    for name in ("dense, stopped", "masks", "untrained", "random masks"):
        if {name, "dense, stopped"} <= rows.keys():
            shared = consistency(results.summary, rows[name], rows["dense, stopped"], "images")
            draw_line(outside, shared, LOOKS[name])
    layer_axis(outside, layers, "(c) with those trained to the nearest accuracy")
    whole = figure.add_subplot(grid[1, :2])
    whole.set_title("(d) an RDM of each group, last hidden layer, images sorted by class", pad=20)
    whole.axis("off")
    small = grid[1, :2].subgridspec(2, 4, wspace=0.08, hspace=0.24)
    for n, name in enumerate(shown):
        draw_matrix(figure.add_subplot(small[n // 4, n % 4]), parts[name], layers[-2], LOOKS[name].label)
    draw_map(figure.add_subplot(grid[1, 2]), results, parts)
    panels.finish(figure, [inside], bbox_to_anchor=(0.5, 0.045))


def draw_line(axes: Axes, values: np.ndarray, look: panels.Look) -> None:
    axes.plot(values, color=look.color, linestyle=look.linestyle, marker=look.marker, markersize=4.5,
              label=look.label)  # fmt: skip


def layer_axis(axes: Axes, layers: list[str], title: str) -> None:
    axes.set_xticks(range(len(layers)), [str(n + 1) for n in range(len(layers))])
    axes.set(xlabel="layer", ylabel="shared variance (%)", ylim=(0, 102))
    axes.set_title(title)
    axes.grid(axis="y")


def draw_matrix(axes: Axes, part: Results, layer: str, title: str) -> None:
    """Draw a group's first RDM of a layer, images sorted by class; the colors end at 0 and 1.2."""
    from scipy.spatial.distance import squareform  # a second of imports

    vector, labels = (_array(part.folders[0] / "rdm.npz", name) for name in (layer, "labels"))
    matrix, order = squareform(vector), np.argsort(labels, kind="stable")
    shown = axes.imshow(matrix[order][:, order], cmap="viridis", vmin=0, vmax=1.2)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=6.5, pad=3)
    bar = axes.figure.colorbar(shown, ax=axes, ticks=[0, 1], pad=0.03, shrink=0.9)
    bar.ax.tick_params(labelsize=6, length=2)


def draw_map(axes: Axes, results: Results, parts: dict[str, Results]) -> None:
    """Place all networks in a plane by what they share in the last hidden layer: classical multidimensional scaling."""
    summary = results.summary
    at = {name: row for row, name in enumerate(summary["runs"].tolist())}
    twice = [name for name in ("dense, stopped",) if name in parts and parts[name].runs == parts["dense"].runs]
    shown = [name for name in LOOKS if name in parts and name not in twice]
    rows = {name: [at[run.hash] for run in parts[name].runs] for name in shown}
    every = [row for group in rows.values() for row in group]
    if len(every) < 3:
        return
    # Outputs that are equal for all images have no correlation: such networks share nothing.
    distance = 1 - np.sqrt(np.nan_to_num(summary["images"][-2][np.ix_(every, every)]))
    centre = np.eye(len(every)) - 1 / len(every)
    values, vectors = np.linalg.eigh(-0.5 * centre @ distance**2 @ centre)
    places = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    for name in shown:
        here = [every.index(row) for row in rows[name]]
        axes.plot(*places[here].T, linestyle="", marker=LOOKS[name].marker, color=LOOKS[name].color, markersize=5)
    axes.set(xlabel="networks that share more are nearer", xticks=[], yticks=[])
    axes.set_title("(e) all networks, last hidden layer")
