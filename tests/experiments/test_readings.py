"""The reading list: each claim can hold, fail and stay open; overlap and consistency against scipy and by hand."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import drawn, overlaps
from scipy.spatial.distance import squareform
from scipy.stats import hypergeom, pearsonr

from experiments import _crossed, individuals, lottery, random_labels
from lit_hidden.judge import judge
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run


def noise(run: Run, name: str = "") -> float:
    """Between -1 and 1, of a run."""
    return float(np.random.default_rng(int(run.hash, 16) + len(name)).uniform(-1, 1))


def judged(experiment: Any, results: Results) -> list[str]:
    return [judge(claim, results, results.runs).verdict for claim in experiment.CLAIMS]


# --- lottery -------------------------------------------------------------------------------------------------------

Told = tuple[float, float, float]  # accuracy, early accuracy, early update
READ = {  # of the reading: early accuracy and update, where it holds and where it fails
    "dense": ((97.0, 1000), (97.0, 1000)), "ticket": ((98.0, 700), (92.0, 1500)),
    "fresh": ((95.0, 1200), (96.0, 900)), "random": ((94.0, 1300), (97.0, 900)),
}  # fmt: skip
OURS = {  # masks, untrained and trained
    "imp": ((20.0, 97.0), (95.0, 80.0)), "one_shot": ((20.0, 95.0), (95.0, 90.0)),
    "edge_popup": ((90.0, 94.0), (30.0, 84.0)), "random": ((10.0, 91.0), (10.0, 95.0)),
    "rescaled": ((10.0, 92.0), (10.0, 96.0)),
}  # fmt: skip


def lottery_results(
    case: int, spread: float = 0.1, jaccard: tuple[float, float] = (0.4, 0.35), folder: Path | None = None
) -> Results:
    """Quick results where the claims hold (0) or fail (1), with the two kinds of masks' overlaps; chance is 0.3."""
    if folder is not None:
        curve = np.arange(3.0)
        np.savez(folder / "early.npz", update=curve, loss=curve, accuracy=curve)
    grid = [run.resolved for run in lottery.runs("quick")]
    all_of_it = Results([(run, {}, None) for run in grid])
    kinds = {run: READ[kind][case] for kind in READ for run in lottery.line(all_of_it, kind).runs}
    ours = {
        run: OURS[name][case][trained]
        for name in OURS
        for trained in (False, True)
        for run in lottery.mask(all_of_it, name, bool(trained)).runs
    }
    rows = []
    for run in grid:
        accuracy, update = kinds.get(run, (ours.get(run, 97.0), 0))
        accuracy, update = accuracy + spread * noise(run), update * (1 + spread * noise(run, "update") / 5)
        rows.append((run, {"accuracy": accuracy, "early_accuracy": accuracy, "early_update": update}, folder))
    results = Results(rows)

    def reduce(left: Results) -> dict[str, np.ndarray]:
        there = {
            (run.density, run.seed) for run in left.runs if run.method == "edge_popup" and run.score_seed == run.seed
        }
        own = np.array(
            [[noise(Run(density=k, seed=s)) if (k, s) in there else np.nan for s in range(3)] for k in (0.2, 0.1)]
        )
        pairs = dict(zip(("pruned", "scores"), jaccard, strict=True))
        return {"density": np.array([0.2, 0.1]), "chance": np.where(np.isfinite(own), 0.3, own)} | {
            name: level + spread * own / 20 for name, level in pairs.items()
        }

    results.reduce_by(reduce)
    return results


def test_claims_about_tickets_can_hold_fail_and_stay_open():
    assert set(judged(lottery, lottery_results(0))) == {"supported"}
    assert set(judged(lottery, lottery_results(1, jaccard=(0.2, 0.25)))) == {"contradicted"}
    assert set(judged(lottery, lottery_results(0, 40.0))) == {"undecided"}


def test_every_mask_of_the_crossed_design_has_one_density_in_each_layer_and_the_same_initial_weights():
    results = Results([(run.resolved, {}, None) for run in lottery.runs("short")])
    for trained in (False, True):
        for name in _crossed.MASKS:
            parts = lottery.by_density(lottery.mask(results, name, trained))
            assert list(parts) == [0.2, 0.1, 0.05]
            for part in parts.values():
                assert part.seeds == [0, 1, 2]
                assert len(part) == 3
                assert {(run.weight_seed, run.distribution) for run in part.runs} == {
                    (seed, "kaiming_normal") for seed in range(3)
                }


def test_the_published_chains_keep_what_the_reading_says():
    chain = [run.resolved for run in lottery.runs("paper") if run.net == "conv6" and run.seed == 0]
    kept = [lottery.options(run) for run in chain if lottery.options(run) and "weights" not in lottery.options(run)]
    assert [one["conv"] for one in kept if "choice" not in one][:3] == [0.85, 0.7225, round(0.85**3, 6)]
    assert all(run.batch_size == 60 and run.lr == 3e-4 for run in chain)


def test_overlap_is_that_of_sets_and_its_chance_that_of_the_hypergeometric_distribution():
    random = np.random.default_rng(0)
    sizes = {"first": (40, 10, 20), "second": (30, 6, 3)}
    one, other = ({name: random.permutation(n) < (k, m)[i] for name, (n, k, m) in sizes.items()} for i in (0, 1))
    found, chance = _crossed.overlap(one, other)
    sets = [{(name, i) for name, bits in masks.items() for i in np.flatnonzero(bits)} for masks in (one, other)]
    assert found == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    both = sum(hypergeom(n, k, m).mean() for n, k, m in sizes.values())
    assert chance == pytest.approx(both / (10 + 20 + 6 + 3 - both))


# --- random labels ---------------------------------------------------------------------------------------------------


def labels_results(folder: Path, case: int, spread: float = 0.1) -> Results:
    """Quick results where the claims hold (0) or fail (1); epochs of a curve at which 95% are fitted."""
    rows = []
    for run in (run.resolved for run in random_labels.runs("quick")):
        options = dict(run.callbacks[0].options)
        fraction, mask = float(options.get("fraction", 1.0)), run.method == "edge_popup"
        small = mask and (run.width < 1 or (run.density or 1) < 0.5)
        if case == 0:
            fit, replaced = (96.5, 60.0) if mask else (99.0, 95.0)
            fit, replaced = (fit - 20, replaced - 20) if small else (fit + 8 * (run.epochs > 50), replaced)
            accuracy, when = (90 if mask else 80) + 5 * small - 70 * fraction, round(10 + 20 * fraction)
        else:
            fit, replaced = (80.0, 90.0) if small else (50.0, 80.0 if mask else 70.0)
            accuracy, when = (30 if mask else 60) - 5 * small + 30 * fraction, round(40 - 20 * fraction)
        scatter = {name: spread * noise(run, name) for name in ("accuracy", "fit", "replaced")}
        result = {"accuracy": accuracy + scatter["accuracy"], "fit": fit + scatter["fit"], "fails_below": 0.0,
                  "fit_replaced": replaced + scatter["replaced"], "layers": [{"numel": 100}]}  # fmt: skip
        where = folder / run.hash
        where.mkdir(parents=True, exist_ok=True)
        when = int(np.clip(when + run.seed + 20 * spread * noise(run, "when"), 1, run.epochs))
        result["epochs_to_fit"] = when
        with (where / "metrics.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "train_loss"))
            writer.writerows((n, 2.0 / (n + 1)) for n in range(run.epochs + 1))
        rows.append((run, result, where))
    return Results(rows)


def test_claims_about_random_labels_can_hold_fail_and_stay_open(tmp_path):
    exact = [claim.every for claim in random_labels.CLAIMS]
    for case, spread, verdict in ((0, 0.1, "supported"), (1, 0.1, "contradicted"), (0, 80.0, "undecided")):
        *found, search = judged(random_labels, labels_results(tmp_path / f"{case} {spread}", case, spread))
        assert search == verdict.replace("contradicted", "undecided")  # a fit that no search raises decides nothing
        assert {word for word, every in zip(found, exact, strict=False) if spread < 1 or not every} == {verdict}


def test_every_preset_asks_all_claims_about_random_labels():
    for preset in ("quick", "short", "paper"):
        runs = random_labels.runs(preset)
        if preset == "short":  # without longer trainings
            assert len({run.epochs for run in runs}) == 1
        results = Results([(run.resolved, {"accuracy": 50.0, "fit": 50.0, "fit_replaced": 50.0, "epochs_to_fit": 9.0},
                            None) for run in runs])  # fmt: skip
        for claim in random_labels.CLAIMS:
            assert len(claim.margins(results)) >= 1


# --- individuals -----------------------------------------------------------------------------------------------------


def test_consistency_is_the_squared_correlation_of_rdms_averaged_over_pairs(tmp_path):
    grid = [run for run in individuals.runs("smoke") if run.epochs == 0][:3]
    dense = [run.then(epochs=0, callbacks=grid[0].callbacks) for run in (Run(seed=s, epochs=1) for s in range(3))]
    random, rows, matrices = np.random.default_rng(0), [], []
    for run in dense:
        folder = tmp_path / run.hash
        folder.mkdir()
        arrays = {f"{layer}{end}": random.random(6) for layer in ("a", "b") for end in ("", ".centroids")}
        np.savez(folder / "rdm.npz", labels=np.arange(4), **arrays)
        matrices.append({name: squareform(vector) for name, vector in arrays.items()})
        rows.append((run, {"accuracy": 50.0}, folder))
    results = Results(rows)
    results.reduce_by(individuals.reduce)
    upper = np.triu_indices(4, 1)
    for of, end in (("images", ""), ("centroids", ".centroids")):
        rows = individuals.members(results)["dense"]
        for n, found in enumerate(individuals.consistency(results.summary, rows, rows, of)):
            layer = "ab"[n]
            flat = [one[layer + end][upper] for one in matrices]
            pairs = [pearsonr(flat[i], flat[j]).statistic ** 2 for i, j in ((0, 1), (0, 2), (1, 2))]
            assert found == pytest.approx(100 * np.mean(pairs))
            one = individuals.consistency(results.summary, rows[:1], rows[2:], of)[n]
            assert one == pytest.approx(100 * pairs[1])


WITHIN = {  # of a group, in four layers: where the claims hold, and where they fail
    "dense": ((0.98, 0.9, 0.8, 0.7), (0.5, 0.6, 0.7, 0.8)), "dense, constants": ((0.9,) * 4, (0.9,) * 4),
    "masks": ((0.95, 0.8, 0.6, 0.5), (0.6, 0.7, 0.9, 0.9)), "masks, normal": ((0.9,) * 4, (0.9,) * 4),
    "masks, same weights": ((0.99, 0.9, 0.7, 0.6), (0.4, 0.7, 0.7, 0.7)),
    "untrained": ((0.95, 0.8, 0.5, 0.4), (0.5, 0.7, 0.9, 0.9)), "random masks": ((0.9,) * 4, (0.9,) * 4),
}  # fmt: skip
ACROSS = {"masks": (0.5, 0.8), "random masks": (0.1, 0.85)}  # with trained networks


def individuals_results(
    case: int, spread: float = 0.005, accuracy: float = 90.0, folder: Path | None = None
) -> Results:
    grid = [run.resolved for run in individuals.runs("quick")]
    if folder is not None:
        np.savez(folder / "rdm.npz", labels=np.arange(4), **{layer: np.arange(6.0) for layer in "abcd"})
    rows = [(run, {"accuracy": accuracy if run.method == "dense" else 90.0}, folder) for run in grid]
    results = Results(rows)

    def reduce(left: Results) -> dict[str, np.ndarray]:
        runs = [run for run in left.runs if run.epochs == 0]
        names = ["dense" if (name := individuals.group(run, 4)).startswith("dense, ") and "const" not in name
                 else name for run in runs]  # fmt: skip
        own = np.array([[noise(run, "layer" + layer) for run in runs] for layer in ("", "a", "ab", "abc")])
        scatter = spread * (own[:, None] + own[..., None])
        images = np.empty((4, len(runs), len(runs)))
        for (i, one), (j, other) in ((a, b) for a in enumerate(names) for b in enumerate(names)):
            level = WITHIN[one][case] if one == other else (ACROSS.get(one, ACROSS.get(other, (0.3, 0.3)))[case],) * 4
            images[:, i, j] = level
        untrained = np.array([name == "untrained" for name in names])
        centroids = images + np.where(untrained, 0.05, 0.1 if case == 0 else -0.1)
        return {"runs": np.array([run.hash for run in runs]), "layers": np.array(list("abcd")),
                "images": images + scatter, "centroids": centroids + 2 * scatter}  # fmt: skip

    results.reduce_by(reduce)
    return results


def test_claims_about_individuals_can_hold_fail_and_stay_open():
    assert set(judged(individuals, individuals_results(0))) == {"supported"}
    assert set(judged(individuals, individuals_results(1))) == {"contradicted"}
    assert set(judged(individuals, individuals_results(0, 2.0))) == {"undecided"}
    apart = judged(individuals, individuals_results(0, accuracy=95.0))
    at_equal_accuracy = ["the same accuracy" in claim.sentence for claim in individuals.CLAIMS]
    assert apart == ["undecided" if equal else "supported" for equal in at_equal_accuracy]


# --- drawings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", [lottery, random_labels, individuals])
def test_a_drawing_can_be_read(experiment, tmp_path):
    make = {lottery: lottery_results, individuals: individuals_results}.get(experiment)
    results = make(0, folder=tmp_path) if make else labels_results(tmp_path, 0)
    figure = drawn(experiment, results, "quick")
    assert not overlaps(figure)
    assert sum(len(axes.get_lines()) for axes in figure.axes) > 15


def test_half_a_grid_is_drawn_or_says_what_is_missing(tmp_path):
    lotteries, labels = lottery_results(0, folder=tmp_path), labels_results(tmp_path, 0)
    drawn(lottery, lotteries.where(lambda run: not run.held_out), "quick")
    drawn(random_labels, labels.where(lambda run: run.method == "edge_popup"), "quick")
    one = Results(individuals_results(0, folder=tmp_path).where(lambda run: run.epochs == 0).rows[:1])
    layers = [f"{layer}{end}" for layer in "ab" for end in ("", ".centroids")]
    np.savez(tmp_path / "rdm.npz", labels=np.arange(4), **{name: np.arange(6.0) for name in layers})
    one.reduce_by(individuals.reduce)
    drawn(individuals, one, "quick")
    parents = individuals_results(0).where(lambda run: run.epochs > 0)
    parents.reduce_by(individuals.reduce)
    with pytest.raises(NoRunsError, match="no analysis is done"):
        drawn(individuals, parents, "quick")
