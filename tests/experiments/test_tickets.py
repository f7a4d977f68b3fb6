"""Tickets: the grid's parents, claims that can hold and can fail, a drawing that can be read."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_hidden.engine.reproduce import conditions
from lit_hidden.judge import judge
from lit_hidden.recipes import recipe
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
tickets, fig3 = made["experiment"]("tickets"), made["experiment"]("fig3")
PRESETS = ["smoke", "quick", "short", "paper"]
UNDECIDED = ["undecided"] * 4


def results(preset: str = "paper", spread: float = 0.01, **accuracies: float) -> Results:
    """Accuracies of dense, found, random, and of tickets: trained, trained_random, trained_rescaled."""
    usual = {
        "dense": 86,
        "edge_popup": 80,
        "random": 10,
        "trained": 84,
        "trained_random": 83.5,
        "trained_rescaled": 83.8,
    }

    def accuracy(run: Run) -> float:
        kind = str(run.method)
        if run.method == "ticket":
            kind = "trained" if run.found_by == "edge_popup" else f"trained_{'rescaled' if run.scaled else 'random'}"
        return float((usual | accuracies)[kind])

    measured: Results = made["measured"](tickets.runs(preset), accuracy, lambda run: spread)
    return measured


def verdicts(**accuracies: float) -> list[str]:
    return [judge(claim, results(**accuracies)).verdict for claim in tickets.CLAIMS]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_subnetwork_of_every_ticket_is_in_the_grid_before_it(preset: str) -> None:
    before: set[Run] = set()
    for run in tickets.runs(preset):
        assert run.parent is None or run.parent in before
        before.add(run)


@pytest.mark.parametrize("preset", ["short", "paper"])
def test_found_subnetworks_and_dense_nets_are_figure_3s(preset: str) -> None:
    shared = {run for run in tickets.runs(preset) if run.resolved.method in ("dense", "edge_popup")}
    assert shared <= set(fig3.runs(preset))
    found = {run.parent for run in tickets.runs(preset) if run.resolved.found_by == "edge_popup"}
    assert found < shared
    half = {run.parent for run in tickets.runs(preset) if run.found_by == "random" and run.density == 0.5}
    assert half & set(fig3.runs(preset)), "its random half of signed constants"


@pytest.mark.parametrize("preset", PRESETS)
def test_tickets_are_trained_as_the_dense_net_is_from_the_weights_of_their_subnetwork(preset: str) -> None:
    for run in (run.resolved for run in tickets.runs(preset)):
        if run.parent is not None:
            dense = recipe("dense", run.net)
            assert (run.lr, run.momentum, run.weight_decay) == (dense.lr, dense.momentum, dense.weight_decay)
            assert run.epochs == tickets.PRESETS[preset][0].epochs
            assert (run.distribution, run.scaled) == (run.parent.distribution, run.parent.scaled)


def test_the_paper_preset_has_the_runs_that_its_docstring_counts() -> None:
    grid = {run.resolved for run in tickets.runs("paper")}
    assert (len(grid), sum(run.epochs == 100 for run in grid)) == (190, 130)


def test_the_claims_hold_where_the_paper_is_right() -> None:
    assert verdicts() == ["supported"] * 4


@pytest.mark.parametrize(
    ("change", "claim", "verdict"),
    [
        ({"trained": 87}, 0, "contradicted"),
        ({"trained": 84, "trained_random": 70}, 1, "contradicted"),
        ({"trained_random": 90}, 1, "supported"),  # worse than a random one is not better by more than a point
        ({"trained_rescaled": 80}, 2, "contradicted"),
        ({"edge_popup": 85}, 3, "contradicted"),
    ],
)
def test_each_claim_fails_where_the_paper_is_wrong(change: dict[str, float], claim: int, verdict: str) -> None:
    assert verdicts(**change)[claim] == verdict


def test_seeds_that_differ_by_more_than_the_margin_decide_nothing() -> None:
    wide = results("quick", spread=8.0, trained=85.5, trained_random=85, trained_rescaled=85, edge_popup=85)
    assert [judge(claim, wide).verdict for claim in tickets.CLAIMS] == UNDECIDED


def test_one_density_that_reaches_the_dense_net_is_enough_against_the_first_claim() -> None:
    def accuracy(run: Run) -> float:
        return 86.0 if run.method == "dense" else 87.0 if (run.method, run.density) == ("ticket", 0.5) else 80.0

    assert judge(tickets.CLAIMS[0], made["measured"](tickets.runs("short"), accuracy)).verdict == "contradicted"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_drawing_shows_every_series_of_every_net_and_nothing_overlaps(preset: str) -> None:
    shown = results(preset)
    with style.context():
        figure = Figure()
        tickets.draw(shown, figure)
        style.footer(figure, conditions(preset, shown))
        FigureCanvasAgg(figure).draw()
    assert made["overlaps"](figure) == []
    for axes, net in zip(figure.axes, shown.each("net"), strict=True):
        assert axes.get_title("left") == net.capitalize()
        lines = {str(line.get_label()): line for line in axes.lines}
        assert list(lines) == [
            "dense, trained with SGD", "found, weights trained", r"random, times $1/\sqrt{k}$, weights trained",
            "random, weights trained", "found, no weight trained",
        ]  # fmt: skip
        expected = [84.0] * len(shown.each("density"))
        assert list(lines["found, weights trained"].get_ydata()) == pytest.approx(expected, abs=0.02)  # type: ignore[arg-type]
        assert "random, no weight trained: 10.0 to 10.0%" in axes.get_xlabel()
