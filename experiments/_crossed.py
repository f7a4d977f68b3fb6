"""Masks and weights crossed, for `lottery`: which masks work untrained, which trained, and how far they overlap.

All masks of a seed have one density in each layer and lie on the same initial weights. Iterative pruning goes down to
the densities in a few steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments import _panels as panels
from lit_hidden.code import spec
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

CHAIN = (0.7, 0.5, 0.35, 0.25)  # iterative pruning goes through these to its first density
MASKS = {
    "imp": panels.Look("iterative magnitude pruning", style.NAVY, "-", "o"),
    "one_shot": panels.Look("magnitude, at once", style.SKY, (0, (4, 1.2)), "s"),
    "edge_popup": panels.Look("edge-popup", style.PURPLE, (0, (6, 1.2, 1.2, 1.2)), "D"),
    "random": panels.Look("random", style.GREY, (0, (1.2, 1.2)), "x"),
    "rescaled": panels.Look(r"random, times $1/\sqrt{k}$", style.ORANGE, (0, (5, 1.5)), "^"),
}


def crossed(dense: Run, densities: Sequence[float]) -> Iterator[Run]:
    """List the runs of a dense one's net: each mask at each density, its weights as they were drawn and trained."""
    if not densities:
        return
    first = replace(dense, held_out=0, distribution="kaiming_normal")
    yield first
    run, hidden = first, replace(first, optimizer="sgd", batch_size=None, lr=None)
    for density in (*CHAIN, *densities):
        run = run.then(callbacks=(spec("rewind.Prune", density=density, leave=density not in CHAIN),))
        if density in CHAIN:
            yield run
            continue
        at_once = first.then(callbacks=(spec("rewind.Prune", density=density),))
        for trained in (run, at_once):
            yield trained
            yield replace(trained, epochs=0)
        popup = replace(hidden, density=density)
        yield replace(popup, score_seed=1000 + popup.seed)
        for method, scaled in (("edge_popup", False), ("random", False), ("random", True)):
            yield replace(popup, method=method, scaled=scaled)
            yield replace(first, density=density, method="ticket", found_by=method, scaled=scaled)


def options(run: Run) -> dict[str, object]:
    """Give the options of a run's Prune; nothing of a run without."""
    return next((dict(one.options) for one in run.callbacks if one.class_path.endswith(".Prune")), {})


def mask(results: Results, name: str, trained: bool) -> Results:
    """Keep the runs with one of `MASKS` and weights as drawn or trained."""

    def there(run: Run) -> bool:
        if run.held_out or run.score_seed != run.seed:
            return False
        if name in ("imp", "one_shot"):
            chained = run.after is not None and bool(options(run.after))
            return bool(options(run)) and chained == (name == "imp") and (run.epochs > 0) == trained
        found = (run.found_by if trained else run.method, bool(run.scaled))
        wanted = ("random", name == "rescaled") if name != "edge_popup" else ("edge_popup", False)
        return run.density is not None and (run.method == "ticket") == trained and found == wanted

    return results.where(there)


def density_of(run: Run) -> float:
    """Give the density of a run with one of `MASKS`."""
    return float(str(options(run)["density"])) if options(run) else float(run.density or 1)


def by_density(results: Results) -> dict[float, Results]:
    """Part runs by density, the largest first."""
    parts = results.by(density_of)
    return {density: parts[density] for density in sorted(parts.keys() - set(CHAIN), reverse=True)}


@cache
def chosen(run: Run, folder: Path) -> dict[str, np.ndarray]:
    """Give the mask of each layer, bool `(n,)`, of a run that was pruned or hidden."""
    if options(run):
        with np.load(folder / "masks.npz") as bits:
            return {name: np.unpackbits(bits[name]).astype(bool) for name in bits}
    parts = Results([(run, {}, folder)]).network(run).named_modules()
    masks = {name: part.mask().flatten().numpy() for name, part in parts if hasattr(part, "set_mask")}
    return {name.partition(".parametrizations")[0]: mask for name, mask in masks.items()}


def overlap(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[float, float]:
    """Give the Jaccard index of two masks over all layers, and that of the mean overlap of independent ones.

    In a layer of n weights, of which they keep k and l, the mean is that of the hypergeometric distribution, k l / n.
    """
    # Packed masks end with up to 7 zeros.
    kept = [(m.sum(), other[name].sum(), len(m), (m & other[name][: len(m)]).sum()) for name, m in one.items()]
    ours, theirs, _, both = np.sum(kept, 0)
    chance = sum(k * m / n for k, m, n, _ in kept)
    return float(both / (ours + theirs - both)), float(chance / (ours + theirs - chance))


def overlaps(results: Results) -> dict[str, np.ndarray]:
    """Compare masks found on the same weights: `density` (D,); `pruned`, `scores` and `chance`, Jaccard (D, seeds)."""
    popup, imp = (by_density(part) for part in (results.where(searched), mask(results, "imp", trained=True)))
    found = {name: np.full((len(popup), len(results.seeds)), np.nan) for name in ("pruned", "scores", "chance")}
    for row, (density, same) in enumerate(popup.items()):
        masks = same.by(lambda run: (run.seed, run.score_seed))
        pruned = imp[density].by(lambda run: run.seed) if density in imp else {}
        for column, seed in enumerate(results.seeds):
            for name, other in (("scores", masks.get((seed, 1000 + seed))), ("pruned", pruned.get(seed))):
                if other and (first := masks.get((seed, seed))):
                    one, two = (chosen(part.runs[0], part.folders[0]) for part in (first, other))
                    found[name][row, column], found["chance"][row, column] = overlap(one, two)
    return {"density": np.array(list(popup)), **found}


def searched(run: Run) -> bool:
    """Tell whether edge-popup found a run's mask."""
    return run.method == "edge_popup"


def draw_crossed(axes: Axes, results: Results, trained: bool, title: str) -> None:
    """Draw accuracy over density for each of our masks."""
    found: dict[float, Results] = {}
    for name, look in MASKS.items():
        parts = by_density(mask(results, name, trained))
        panels.cells(axes, parts, look)
        found |= parts
    panels.density_axis(axes, found)
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title)


def draw_overlap(axes: Axes, results: Results) -> None:
    """Draw the Jaccard index of masks found on the same weights, over density, beside chance."""
    found = results.summary
    for name, label, look in (
        ("pruned", "iterative pruning and edge-popup", MASKS["imp"]),
        ("scores", "edge-popup, twice, from other scores", MASKS["edge_popup"]),
        ("chance", "chance", MASKS["random"]),
    ):
        rows = zip(found["density"], found[name], strict=True)
        values = {density: row[np.isfinite(row)].tolist() for density, row in rows if np.isfinite(row).any()}
        panels.bars(axes, values, replace(look, label=label))
    panels.density_axis(axes, found["density"])
    axes.set_ylabel("Jaccard index")
    axes.set_title("ours, overlap of masks on the same weights")
    if axes.get_lines():
        axes.legend(fontsize=6.5, loc="lower left")
