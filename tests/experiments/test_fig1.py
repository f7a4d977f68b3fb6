import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_hidden.judge import judge
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
fig1, fig2 = made["experiment"]("fig1"), made["experiment"]("fig2")
simulated = made["simulated"]


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Figure:
    results: Results = made["results"](fig1.runs("smoke"), tmp_path_factory.mktemp("runs"))
    with style.context():
        figure = Figure()
        fig1.draw(results, figure)
        FigureCanvasAgg(figure).draw()
    return figure


def results(dense: float, edge_popup: float, random: float = 10.0) -> Results:
    """Three seeds, half a point apart, the dense network the other way."""
    rows: list[tuple[Run, dict[str, Any], None]] = []
    for seed in range(3):
        shift = 0.1 * (seed - 1)
        rows.append((Run(seed=seed), {"accuracy": dense - shift}, None))
        rows.append((Run(density=0.5, seed=seed), {"accuracy": edge_popup + shift}, None))
        rows.append((Run(density=0.5, method="random", seed=seed), {"accuracy": random}, None))
    return Results(rows)


@pytest.mark.parametrize("preset", ["smoke", "quick", "short", "paper"])
def test_nothing_is_trained_that_figure_2_does_not_train(preset: str) -> None:
    assert set(fig1.runs(preset)) <= set(fig2.runs(preset))


@pytest.mark.parametrize(
    ("dense", "edge_popup", "verdict"),
    [(90, 90, "supported"), (90, 95, "supported"), (90, 89.1, "undecided"), (90, 88, "contradicted")],
)
def test_within_a_point_is_judged_by_its_interval(dense: float, edge_popup: float, verdict: str) -> None:
    assert judge(fig1.CLAIMS[0], results(dense, edge_popup)).verdict == verdict


def test_a_subnetwork_that_a_random_one_equals_does_not_beat_it() -> None:
    assert judge(fig1.CLAIMS[1], results(90, 80, random=80)).verdict == "undecided"
    assert judge(fig1.CLAIMS[1], results(90, 80, random=79)).verdict == "supported"
    assert judge(fig1.CLAIMS[1], results(90, 80, random=81)).verdict == "contradicted"


def test_the_accuracies_printed_are_the_runs(figure: Figure) -> None:
    printed = [text.get_text() for axes in figure.axes for text in axes.texts if "%" in text.get_text()]
    assert printed == [
        "trained: 91.0%", "a random 50% of every layer: 11.0%", "chosen, no weight trained: 81.0%"
    ]  # fmt: skip
    ranges = [text.get_text() for axes in figure.axes for text in axes.texts if "seeds" in text.get_text()]
    assert [r.split(" over")[0] for r in ranges] == ["90.0 to 92.0", "10.0 to 12.0", "80.0 to 82.0"]


def test_the_panels_show_trained_random_and_chosen_weights(figure: Figure) -> None:
    trace = simulated(0)
    weight, chosen = trace["weight"][:5, :8], trace["chosen_after"][-1][:5, :8]
    trained = (trace["weight"] + trace["after"][-1])[:5, :8]

    def widths(panel: int, kind: str) -> list[float]:
        lines = [c for c in figure.axes[panel].collections if c.get_gid() == kind]
        return [float(w) for c in lines for w in c.get_linewidths()]  # type: ignore[attr-defined]

    np.testing.assert_allclose(widths(0, "positive"), 3.5 * trained[trained > 0] / np.abs(trained).max(), rtol=1e-5)
    assert widths(1, "positive") == pytest.approx([1.4] * int((weight > 0).sum()))
    assert len(widths(1, "absent")) == 0
    assert len(widths(2, "positive")) == (chosen & (weight > 0)).sum()
    assert len(widths(2, "negative")) == (chosen & (weight < 0)).sum()
