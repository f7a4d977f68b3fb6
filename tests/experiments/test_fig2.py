"""Figures 1 and 2: claims that are exact, and drawings whose numbers are the traces'."""

from pathlib import Path
from typing import Any

import fabricated
import numpy as np
import pytest
from fabricated import hidden, overlaps, simulated
from matplotlib.figure import Figure

from experiments import _diagram as diagram
from lit_hidden.judge import judge
from lit_hidden.results import Results
from lit_hidden.run import Run

fig1, fig2 = fabricated.experiment("fig1"), fabricated.experiment("fig2")
UNITS = ("unit-in", "unit-out")
KEPT, UNCHANGED, REENTER, BEATS = fig2.CLAIMS


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    found: Results = fabricated.results(fig2.runs("smoke"), tmp_path_factory.mktemp("runs"))
    return found


@pytest.fixture(scope="module")
def figure(results: Results) -> Figure:
    drawn: Figure = fabricated.drawn(fig2, results, "smoke")
    return drawn


@pytest.fixture(scope="module")
def sketch(results: Results) -> Figure:
    drawn: Figure = fabricated.drawn(fig1, results, "smoke")
    return drawn


# --- claims ------------------------------------------------------------------------------------------------------


def judged(claim: Any, edge_popup: dict[str, Any], random: dict[str, Any]) -> str:
    """Judge three seeds, of which the last has `edge_popup` and `random` changed."""
    rows: list[tuple[Run, dict[str, Any], None]] = []
    for seed in range(3):
        changes, others = (edge_popup, random) if seed == 2 else ({}, {})
        rows.append((Run(density=0.5, seed=seed), hidden(**{"accuracy": 60.0 + seed} | changes), None))
        rows.append((Run(density=0.5, method="random", seed=seed), hidden(**{"accuracy": 10.0} | others), None))
    return judge(claim, Results(rows)).verdict


def layers(least: int, most: int) -> dict[str, Any]:
    """Count the weights kept of 101, of which the authors' code keeps 101 - int(0.5 * 101) = 51."""
    good, other = hidden()["layers"]
    return {"layers": [good, other | {"kept_min": least, "kept_max": most}]}


@pytest.mark.parametrize(
    ("claim", "change", "verdict"),
    [
        *((claim, {}, "supported") for claim in fig2.CLAIMS),
        *((KEPT, layers(*kept), "contradicted") for kept in ((50, 51), (51, 52))),
        (UNCHANGED, {"weights_after": "ab13"}, "contradicted"),
        (REENTER, {"reentered": 0}, "contradicted"),
        (BEATS, {"accuracy": 16.0}, "undecided"),  # two seeds of three are better: too wide an interval
    ],
)
def test_one_run_of_one_seed_is_enough_against_what_must_be_exact(claim: Any, change: Any, verdict: str) -> None:
    assert judged(claim, change, {}) == verdict
    if claim in (KEPT, UNCHANGED):
        assert judged(claim, {}, change) == verdict


# --- drawings ----------------------------------------------------------------------------------------------------


def test_the_numbers_printed_are_the_traces(figure: Figure) -> None:
    trace = simulated(0)
    swap = diagram.find_swap(trace)
    assert swap is not None
    printed = [text.get_text() for text in figure.texts if text.get_gid() == "number"]
    r, (o, i), (p, j) = swap.record, swap.entered, swap.died
    expected = [f"{i} \u2192 {o}, re-enters", f"{j} \u2192 {p}, dies"]
    values = [
        (trace["weight"], 1, 4), (trace["gradient"][r], 1000, 3), (trace["before"][r], 1000, 3),
        (-0.1 * trace["gradient"][r], 1000, 3),
        (trace["after"][r] - trace["before"][r] + 0.1 * trace["gradient"][r], 1000, 3), (trace["after"][r], 1000, 3),
    ]  # fmt: skip
    for array, times, digits in values:
        expected += [f"{times * float(array[e]):+.{digits}f}".replace("-", "\u2212") for e in (swap.entered, swap.died)]
    assert printed == expected


def test_the_curves_are_the_runs_means_and_ranges(figure: Figure) -> None:
    accuracy, swaps = figure.axes[3:5]
    curves = {line.get_label(): np.asarray(line.get_xydata()) for line in accuracy.lines}
    assert curves["edge-popup subnetwork"].tolist() == [[0, 10], [12, 40.5], [24, 81]]
    assert curves["dense, trained"].tolist() == [[0, 10], [12, 45.5], [24, 91]]
    assert curves["random mask, same density"].tolist() == [[0, 11], [24, 11]]
    assert {float(y) for _, y in accuracy.collections[-1].get_paths()[0].vertices} == {10, 12}
    counts = [line for line in swaps.lines if line.get_label() == "out, and as many in"]
    expected = np.mean([simulated(seed)["swapped"] for seed in range(3)], axis=0)
    np.testing.assert_allclose(counts[0].get_ydata(), expected)


def test_figure_1_prints_the_runs_accuracies_and_shows_trained_random_and_chosen_weights(sketch: Figure) -> None:
    said = [text.get_text() for axes in sketch.axes for text in axes.texts]
    assert [words for words in said if "%" in words] == [
        "trained: 91.0%", "a random 50% of every layer: 11.0%", "chosen, no weight trained: 81.0%",
    ]  # fmt: skip
    ranges = [words.split(" over")[0] for words in said if "seeds" in words]
    assert ranges == ["90.0 to 92.0", "10.0 to 12.0", "80.0 to 82.0"]
    trace = simulated(0)
    weight, chosen = trace["weight"][:5, :8], trace["chosen_after"][-1][:5, :8]
    trained = (trace["weight"] + trace["after"][-1])[:5, :8]

    def widths(panel: int, kind: str) -> list[float]:
        lines = [c for c in sketch.axes[panel].collections if c.get_gid() == kind]
        return [float(w) for c in lines for w in c.get_linewidths()]  # type: ignore[attr-defined]

    np.testing.assert_allclose(widths(0, "positive"), 3.5 * trained[trained > 0] / np.abs(trained).max(), rtol=1e-5)
    assert widths(1, "positive") == pytest.approx([1.4] * int((weight > 0).sum()))
    assert len(widths(1, "absent")) == 0
    assert len(widths(2, "positive")) == (chosen & (weight > 0)).sum()
    assert len(widths(2, "negative")) == (chosen & (weight < 0)).sum()


def test_without_a_swap_figure_2_says_so_and_no_text_lies_on_another(
    figure: Figure, sketch: Figure, tmp_path: Path
) -> None:
    still = simulated(0)
    still["chosen_after"] = still["chosen_before"] = np.repeat(still["chosen_before"][:1], 24, 0)
    there = fabricated.results(fig2.runs("smoke")[:1], tmp_path, {0: still})
    drawings = [fabricated.drawn(experiment, there, "smoke") for experiment in (fig1, fig2)]
    said = [text.get_text() for text in drawings[1].texts if text.get_gid() == "rule"]
    assert said == ["No edge of this layer was swapped\nat any of the 24 recorded updates."]
    for drawing in (*drawings, figure, sketch):
        assert overlaps(drawing, UNITS) == []
