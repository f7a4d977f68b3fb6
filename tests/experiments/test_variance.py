"""Variance components of designs with known shares; claims about variance, feedback and predictive coding."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import drawn, overlaps

from experiments import feedback, predictive_coding, variance
from lit_hidden.judge import judge
from lit_hidden.results import Results
from lit_hidden.run import Run

TRUE = dict(zip(variance.EFFECTS, (0.2, 1.0, 0.3, 2.0, 0.1, 0.6, 0.5), strict=True))


def design(levels: tuple[int, int, int], numbers: int, seed: int, true: dict[Any, float] = TRUE) -> np.ndarray:
    """A crossed design whose effects are normal, with these variances."""
    random, values = np.random.default_rng(seed), np.zeros((*levels, numbers))
    for effect, size in true.items():
        shape = [n if takes else 1 for n, takes in zip(levels, effect, strict=True)]
        values = values + np.sqrt(size) * random.normal(size=(*shape, numbers))
    return values


@pytest.mark.parametrize("levels", [(5, 5, 5), (3, 4, 6)])
def test_components_of_a_simulated_design_are_the_known_ones_on_average(levels):
    found = variance.components(design(levels, 4000, 0)) / 4000
    assert found == pytest.approx(list(TRUE.values()), abs=0.15)
    nothing = variance.components(design(levels, 4000, 1, {(1, 1, 1): 1.0})) / 4000
    assert nothing == pytest.approx([0.0] * 6 + [1.0], abs=0.05)


def test_components_are_those_of_mean_squares_by_hand():
    values = design((3, 4, 2), 1, 2)[..., 0]
    main = 8 * np.var(values.mean((1, 2)), ddof=1)  # mean square of the first factor
    ab = values.mean(2) - values.mean((1, 2))[:, None] - values.mean((0, 2))[None] + values.mean()
    ac = values.mean(1) - values.mean((1, 2))[:, None] - values.mean((0, 1))[None] + values.mean()
    bc = values.mean(0) - values.mean((0, 2))[:, None] - values.mean((0, 1))[None] + values.mean()
    means = [values.mean(axes) for axes in ((1, 2), (0, 2), (0, 1))]
    whole = np.array(values - values.mean())
    whole -= ab[:, :, None] + ac[:, None] + bc[None]
    for axis, mean in enumerate(means):
        shape = [1, 1, 1]
        shape[axis] = -1
        whole -= (mean - values.mean()).reshape(shape)
    squares = 2 * (ab**2).sum() / 6, 4 * (ac**2).sum() / 2, (whole**2).sum() / 6
    expected = (main - squares[0] - squares[1] + squares[2]) / 8
    found = dict(zip(variance.EFFECTS, variance.components(values), strict=True))
    assert found[1, 0, 0] == pytest.approx(expected)
    assert found[1, 1, 1] == pytest.approx(squares[2])


def test_intervals_leave_out_a_level_at_a_time_and_hold_the_true_share():
    share, held = TRUE[1, 0, 0] / sum(TRUE.values()), 0
    for seed in range(40):
        results = Results([(Run(density=0.5).resolved, {}, None)])
        whole, left = variance.shares(design((6, 6, 6), 30, 100 + seed))
        results.reduce_by(lambda _, arrays={"x": whole, "x.left": left}: arrays)
        value, low, high = variance.estimated(results, "x", np.eye(7)[variance.WEIGHTS])
        held += low <= 100 * share <= high
        assert low < value < high
    assert held >= 34
    left_out = variance.components(design((6, 6, 6), 30, 100)[:, 1:])
    assert variance.shares(design((6, 6, 6), 30, 100))[1][1, 0] == pytest.approx(left_out)


def variance_results(case: int, spread: float = 0.05, folder: Path | None = None) -> Results:
    """Quick results where the claims hold (0) or fail (1)."""
    grid = [run.resolved for run in variance.runs("quick")]
    rows = []
    for run in grid:
        noise = spread * np.random.default_rng(int(run.hash, 16)).uniform(-1, 1, 2)
        flips = (5.0, 9.0) if case == 0 else (9.0, 5.0)
        result = {"accuracy": 90 + noise[0], "accuracy_rounded": 92.0, "accuracy_first": 90.0, "accuracy_last": 90.0}
        rows.append((run, result | {"flips_first": flips[0] + noise[0], "flips_last": flips[1] + noise[1]}, folder))
    order, scores, weights = (0.1, 0.5, 3.0) if case == 0 else (3.0, 0.5, 0.1)
    true = {(0, 0, 1): order, (0, 1, 0): scores, (1, 0, 0): weights, (1, 1, 1): 1.0}
    wide = {"accuracy": {(1, 1, 1): 1.0} if case == 0 else {(1, 0, 0): 9.0, (1, 1, 1): 1.0}, "margins": true,
            "mask": {(0, 1, 0): 2.0, (1, 0, 0): 1.0} if case == 0 else {(0, 1, 0): 0.1, (1, 0, 0): 1.0},
            "permuted": {(1, 1, 1): 1.0} if case == 0 else true}  # fmt: skip
    summary = {}
    for n, (name, effects) in enumerate(wide.items()):
        summary[name], summary[f"{name}.left"] = variance.shares(design((5, 5, 5), 400, n, effects))
    results = Results(rows)
    results.reduce_by(lambda _: summary)
    return results


def judged(experiment: Any, results: Results) -> list[str]:
    return [judge(claim, results, results.runs).verdict for claim in experiment.CLAIMS]


def test_claims_about_sources_of_variability_can_hold_fail_and_stay_open():
    some = [claim.sentence.startswith("bits of the mask: the random weights alone") for claim in variance.CLAIMS]
    assert set(judged(variance, variance_results(0))) == {"supported"}
    failing = judged(variance, variance_results(1))
    assert {word for word, one in zip(failing, some, strict=True) if not one} == {"contradicted"}
    results = variance_results(0, 60.0)
    results.reduce_by(lambda _: {
        name: value for name in (*variance.MEASURES, "permuted")
        for name, value in zip((name, f"{name}.left"), variance.shares(design((5, 5, 5), 1, 3)), strict=True)
    })  # fmt: skip
    assert "supported" not in judged(variance, results)[:5:4] + judged(variance, results)[-1:]


def test_a_design_with_a_run_missing_is_undecided(tmp_path):
    results = variance_results(0)
    lacking = results.without([results.runs[0].hash])
    lacking.reduce_by(variance.reduce)
    words = [judge(claim, lacking, results.runs).why for claim in variance.CLAIMS[:-1]]
    assert set(words) == {"a margin is nan"}


# --- feedback and predictive coding ----------------------------------------------------------------------------------


def feedback_results(case: int, spread: float = 0.1, folder: Path | None = None) -> Results:
    if folder is not None:
        layers = 5
        np.savez(folder / "feedback.npz", epoch=np.arange(3), angle=np.full((3, layers), 40.0),
                 correlation=np.full(layers, 0.1), permuted=np.random.default_rng(0).normal(0, 0.01, (layers, 30)),
                 kept=np.full(layers, 60.0), dropped=np.full(layers, 40.0))  # fmt: skip
    accuracy = {  # scores and weights, where the claims hold and where they fail
        "masked": ((90, 92), (90, 92)), "whole": ((89.5, 0), (80, 0)), "random": ((70, 88), (60, 50)),
        "sign": ((85, 90), (50, 90)), "masked_sign": ((88, 0), (88, 0)), "direct": ((75, 80), (55, 80)),
        "none": ((50, 60), (65, 60)), "minus": ((10, 10), (70, 10)),
    }  # fmt: skip
    rows = []
    for run in (run.resolved for run in feedback.runs("quick")):
        noise = spread * np.random.default_rng(int(run.hash, 16)).uniform(-1, 1, 6)
        level = accuracy[feedback.way(run)][case][run.method == "dense"]
        good = {"correlation": 0.2, "permuted": 0.0, "kept": 60.0, "dropped": 40.0, "angle": 60.0, "first_layer": 0.5}
        bad = {"correlation": -0.2, "permuted": 0.0, "kept": 40.0, "dropped": 60.0, "angle": 120.0, "first_layer": 9.0}
        scale = dict.fromkeys(good, 1.0) | {"correlation": 0.1, "permuted": 0.1}
        extra = {n: v + scale[n] * noise[i] for i, (n, v) in enumerate(((good, bad)[case]).items())}
        level -= 5.0 if run.lr == min(feedback.RATES[str(run.method)]) else 0.0
        result = {"accuracy": level + noise[0], "train_accuracy": level + noise[0], "fails_below": 0.0}
        rows.append((run, result | extra, folder))
    if folder is not None:  # one diverged in its first epoch
        random, short = rows[5], folder / "short"
        short.mkdir(exist_ok=True)
        np.savez(short / "feedback.npz", epoch=[0], angle=np.full((1, 5), np.nan))
        rows[5] = random[0], random[1] | {"diverged": 1}, short
    return Results(rows)


def test_claims_about_feedback_can_hold_fail_and_stay_open():
    assert set(judged(feedback, feedback_results(0))) == {"supported"}
    assert set(judged(feedback, feedback_results(1))) == {"contradicted"}
    assert set(judged(feedback, feedback_results(0, 150.0))) == {"undecided"}


def predictive_results(case: int, spread: float = 0.1, folder: Path | None = None) -> Results:
    if folder is not None:
        np.savez(folder / "predictive.npz", steps=[1, 2, 5], before=np.ones((3, 3)), after=np.ones((3, 3)))
    accuracy = {  # masks and weights, by inference steps and whether errors are others'
        (0, False): ((95, 97), (95, 97)), (20, False): ((94.5, 97), (80, 78)), (5, False): ((94.4, 97), (70, 97)),
        (1, False): ((90, 96), (85, 96)), (20, True): ((60, 90), (85, 90)),
    }  # fmt: skip
    rows = []
    for run in (run.resolved for run in predictive_coding.runs("quick")):
        noise = spread * np.random.default_rng(int(run.hash, 16)).uniform(-1, 1, 2)
        key = run.option("Inference.steps")[0], run.option("Inference.shuffled")[0]
        level = accuracy[key][case][run.density is None]
        result = {"accuracy": level + noise[0], "angle": (10.0, 60.0)[case] + noise[1], "fails_below": 0.0}
        rows.append((run, result | {"provenance": {"seconds": 1.0}}, folder))
    return Results(rows)


def test_claims_about_predictive_coding_can_hold_fail_and_stay_open():
    assert set(judged(predictive_coding, predictive_results(0))) == {"supported"}
    assert set(judged(predictive_coding, predictive_results(1))) == {"contradicted"}
    assert set(judged(predictive_coding, predictive_results(0, 150.0))) == {"undecided"}


@pytest.mark.parametrize(
    ("experiment", "results"),
    [(variance, variance_results), (feedback, feedback_results), (predictive_coding, predictive_results)],
)
def test_a_drawing_can_be_read(experiment, results, tmp_path):
    np.savez(tmp_path / "noise.npz", flips=[4.0, 6.0, 8.0], accuracy=[90.0, 91.0, 90.0], before=[92.0, 93.0, 92.0])
    found = results(0, folder=tmp_path)
    figure = drawn(experiment, found, "quick")
    assert not overlaps(figure)
    assert sum(len(axes.get_lines()) for axes in figure.axes) > 12


def test_a_crossed_design_has_each_level_of_each_factor_with_all_others():
    runs = variance.crossed(Results([(run.resolved, {}, None) for run in variance.runs("short")])).runs
    seeds = [tuple(getattr(run, factor) for factor in variance.FACTORS) for run in runs]
    assert sorted(seeds) == sorted(product(range(5), repeat=3))
