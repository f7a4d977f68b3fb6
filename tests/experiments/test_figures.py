"""What every experiment keeps to: its docstring, its grids, drawings that can be read; and what is special to some."""

import re
from dataclasses import replace
from functools import cache
from itertools import product

import fabricated
import numpy as np
import pytest
import torchvision.models
from fabricated import EXPERIMENTS, experiment, grid, hollow, measured, overlaps, parameters
from matplotlib.figure import Figure

from experiments import _published as published
from lit_hidden import build
from lit_hidden.judge import judge
from lit_hidden.report.tables import departures
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

EVERY = {name: experiment(name) for name in EXPERIMENTS}
# Those drawn from accuracies; the others are drawn in tests of their own.
READINGS = (
    "lottery", "random_labels", "individuals", "variance", "feedback", "predictive_coding", "similarity", "spiking",
    "cerebellum", "maturity", "critical_period", "dale", "lesion", "successors", "language",
)  # fmt: skip
NAMES = [name for name in EVERY if name not in ("fig1", "fig2", "theorem", *READINGS)]
ON_IMAGENET = ("fig8", "fig9", "fig10", "table2", "imagenet18")
PRESETS = ("smoke", "quick", "short", "paper")
fig5, fig7, table2 = (EVERY[name] for name in ("fig5", "fig7", "table2"))
README = {  # net: weights kept in millions, Kaiming normal, signed constant
    "resnet50": (7.7, 61.7, 68.6),
    "resnet101": (13.3, 66.15, 72.3),
    "wide_resnet50_2": (20.6, 67.9, 73.3),
}
TRAINED = {"resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.13, "resnet101": 77.374, "wide_resnet50_2": 78.468}


def accuracy(run: Run) -> float:
    """What others report of such a run; without that something near, and chance at random."""
    if run.method == "random":
        return 100 / run.num_classes
    where = {"net": run.net, "method": run.method}
    where |= {"density": run.density, "distribution": run.distribution} if run.density else {}
    known = (point.accuracy for point in published.points(**where))
    return next(known, 80 - 20 * abs((run.density or 0.5) - 0.5) + 3 * float(np.log2(run.width)))


@cache
def drawn(name: str, preset: str) -> tuple[Figure, Results]:
    results = measured(grid(name, preset), accuracy, lambda run: 1.0)
    return fabricated.drawn(EVERY[name], results, preset), results


# --- the contract ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_docstring_names_its_source_and_its_runs(name: str) -> None:
    text = " ".join(EVERY[name].__doc__.split())
    paper = r".*(arXiv|Communications|Neuro|ICLR)" if name in READINGS else r".*Ramanujan et al., arXiv:1911.13299"
    assert re.search(f"Source: {paper}", text)
    told = re.search(r"Cost: quick (\d+) runs, [^;]* two (?:busy )?cores; short (\d+),[^;]*; paper (\d+),? ", text)
    counts = [len(grid(name, preset)) for preset in PRESETS[1:]]
    assert [int(count) for count in told.groups()] == counts if told else name == "fig1"


@pytest.mark.parametrize("name", EVERY)
def test_a_grid_repeats_no_run_and_goes_seed_by_seed_with_parents_first(name: str) -> None:
    for preset in PRESETS:
        runs = grid(name, preset)
        assert len(set(runs)) == len(runs)
        assert name in ("fig1", "fig2") or [run.seed for run in runs] == sorted(run.seed for run in runs)
        assert all(run.parent is None or run.parent.resolved in runs[:at] for at, run in enumerate(runs))


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_about_runs_that_there_are(name: str) -> None:
    for preset in PRESETS[1:]:
        results, absent = measured(grid(name, preset), accuracy), []
        for claim in EVERY[name].CLAIMS:
            try:
                (claim.interval or claim.margin)(results)
            except NoRunsError:
                absent.append(claim.sentence)
        # Figure 3 cut down lacks densities that some claims are about.
        assert len(absent) == {("fig3", "short"): 3, ("fig3", "quick"): 1}.get((name, preset), 0)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_lies_on_another_or_outside(name: str) -> None:
    assert overlaps(drawn(name, "paper")[0]) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "table2"])
def test_every_series_is_named_and_told_apart_without_colour(name: str) -> None:
    figure, _ = drawn(name, "paper")
    (legend,) = figure.legends
    named = {text.get_text() for text in legend.get_texts()}
    for axes in figure.axes:
        labels = axes.get_legend_handles_labels()[1]
        assert labels
        assert set(labels) <= named
    looks = [
        (line.get_marker(), line.get_markersize(), str(line._dash_pattern), line.get_markerfacecolor() == "white")
        for line in legend.get_lines()
    ]
    assert len(set(looks)) == len(looks)


NORMAL = {"conv4": {83.30, 83.60, 78.98}, "conv6": {86.05, 86.78, 83.41}}  # Kaiming normal at 30, 50, 70%
ALL = {p.accuracy for p in published.points(data="cifar10")} - {77.7, 85.8, 88.1, 66.0, 72.5, 76.5}  # of no density
FROM_README = {accuracy for _, *accuracies in README.values() for accuracy in accuracies}
BY_OTHERS = {
    "fig3": ALL,
    "fig4": NORMAL["conv4"] | NORMAL["conv6"] | {86.66, 86.21, 87.82, 88.43},
    "fig5": NORMAL["conv4"] | {86.21},
    "fig6": ALL - {79.16, 86.66, 87.82, 88.81},  # dense with Adam
    "fig7": NORMAL["conv4"] | {73.78, 72.45, 84.44, 86.07, 83.20, 86.21},
    "fig8": FROM_README | set(TRAINED.values()),
    "fig9": {61.7, 68.6, 76.13},
    "fig10": FROM_README | {6.9, 6.15, 5.4},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_others_are_hollow_beside_runs_of_the_authors_protocol_alone(name: str) -> None:
    figure, _ = drawn(name, "paper")
    assert {round(accuracy, 3) for accuracy in hollow(figure)} == {round(a, 3) for a in BY_OTHERS.get(name, set())}
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert any("hollow" in label for label in labels) == (name in BY_OTHERS)
    assert hollow(drawn(name, "quick")[0]) == set(), "digits"
    if name in ("fig4", "fig5", *ON_IMAGENET):
        assert hollow(drawn(name, "short")[0]) == set(), "other widths, or a part of ImageNet"


# --- grids -------------------------------------------------------------------------------------------------------


VARIED = {"fig4": {"width"}, "fig5": {"width"}, "fig7": {"lr", "weight_decay"}, "table2": {"lr"}, "theorem": {"width"}}


def test_the_paper_presets_are_the_papers() -> None:
    for name in EVERY.keys() - {"imagenet18", *READINGS}:
        assert departures(grid(name, "paper")).keys() == VARIED.get(name, set()), name
    assert {(r.net, r.density, r.distribution) for r in grid("fig3", "paper") if r.method == "edge_popup"} == set(
        product(("conv2", "conv4", "conv6", "conv8"), (0.1, 0.3, 0.5, 0.7, 0.9), ("kaiming_normal", "signed_constant"))
    )
    assert {r.net for r in grid("fig8", "paper") if r.density is None} == set(TRAINED)
    own = [run for run in grid("table2", "paper") if run.scaled == "authors"]  # their resnet50-sc, at their 0.1
    assert [(r.net, r.distribution, r.lr) for r in own] == [("resnet50", "signed_constant", 0.1)] * 3


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_cells_of_different_figures_are_trained_once(preset: str) -> None:
    grids = {name: set(grid(name, preset)) for name in EVERY}
    assert grids["fig1"] <= grids["fig2"]
    assert grids["fig10"] == {run for run in grids["fig8"] if run.method == "edge_popup"}
    assert {run for run in grids["table2"] if run.scaled != "authors"} == grids["fig8"]
    shared = {run for run in grids["fig9"] if run.density in (0.3, None) and run.method != "supermask"}
    assert grids["fig9"] & grids["fig8"] == {run for run in shared if run.density or preset != "smoke"}
    if preset in ("short", "paper"):
        assert all(grids[name] & grids["fig3"] for name in ("fig4", "fig5", "fig6", "fig7"))
        assert {run for run in grids["tickets"] if run.method in ("dense", "edge_popup")} <= grids["fig3"]


@pytest.mark.parametrize(("name", "preset"), [*product(ON_IMAGENET, PRESETS[:3]), ("imagenet18", "paper")])
def test_no_cut_preset_passes_for_the_authors_protocol(name: str, preset: str) -> None:
    found = departures(grid(name, preset))
    data = "scikit-learn's digits" if preset in ("smoke", "quick") else "Tiny ImageNet-100"
    assert found["data"] == f"{data} for ImageNet"
    assert "lr" not in found, "rates are in proportion to the batches"
    assert found.get("epochs") == (None if preset == "paper" else f"{[1, 3, 10][PRESETS.index(preset)]} of 100 epochs")


def test_figure_5_keeps_as_many_weights_at_every_width() -> None:
    assert fig5.weights(1) == 2_425_024
    for preset in ("short", "paper"):
        kept = {round(run.density * fig5.weights(run.width), -3) for run in grid("fig5", preset) if run.density}
        assert len(kept) == 3


def test_figure_7s_control_makes_up_for_what_xavier_is_smaller() -> None:
    run = fig7.compensated(Run(density=0.5, net="conv4"))
    ratio = 1.0
    for parameter in build("conv4").parameters():
        fan_in, fan_out = parameter[0].numel(), parameter[:, 0].numel()
        ratio *= np.sqrt(2 / (fan_in + fan_out)) / np.sqrt(2 / fan_in)
    assert run.lr == pytest.approx(0.1 / ratio, rel=1e-3)
    assert run.lr * run.weight_decay == pytest.approx(0.1 * 1e-4, rel=1e-3)


# --- drawings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fig8", "imagenet18"])
def test_points_stand_at_the_number_of_weights_that_are_there(name: str) -> None:
    figure, results = drawn(name, "paper")
    plotted = {(round(x), round(float(y), 6)) for line in figure.axes[0].get_lines() for x, y in line.get_xydata()}
    for run, _ in results:
        same = results.select(net=run.net, width=run.width, method=run.method, distribution=run.distribution)
        assert run.method == "random" or (parameters(run), round(same.mean(), 6)) in plotted


def test_the_numbers_of_others_are_the_readmes_and_torchvisions() -> None:
    of_readme = {(p.net, p.distribution): p.accuracy for p in published.points(source="authors")}
    names = ("kaiming_normal", "signed_constant")
    assert of_readme == {(net, name): of[n] for net, (_, *of) in README.items() for n, name in enumerate(names)}
    found = {p.net: p.accuracy for p in published.points(source="torchvision")}
    weights = {net: torchvision.models.get_model_weights(net).IMAGENET1K_V1 for net in found}
    assert found == TRAINED == {net: w.meta["_metrics"]["ImageNet-1K"]["acc@1"] for net, w in weights.items()}


def words(results: Results) -> list[str]:
    return [text.get_text() for text in fabricated.drawn(table2, results, "paper").texts]


def test_table_2_writes_what_was_measured_and_the_readmes_numbers_beside_it() -> None:
    results = drawn("table2", "paper")[1]
    written = words(results)
    for run, _ in results:
        values = results.values(net=run.net, method=run.method, distribution=run.distribution, scaled=run.scaled)
        assert {f"{np.mean(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"} <= set(written)
    assert {f"{accuracy:g}" for accuracy in FROM_README} <= set(written)
    assert {"7.65M", "13.3M", "20.6M", "21.8M", "30%", "100%", "authors' README"} <= set(written)
    assert "nothing cut" in written[-1]


def test_table_2_leaves_the_readme_out_where_the_runs_are_not_of_its_protocol() -> None:
    cut = [replace(run, epochs=90) for run in grid("table2", "paper") if run.net == "resnet50"]
    assert not {"authors' README", "61.7", "68.6"} & set(words(measured(cut, accuracy)))
    told = [judge(claim, measured(grid("table2", "short"), accuracy)) for claim in table2.CLAIMS]
    assert [(verdict.verdict, verdict.why) for verdict in told] == [("undecided", "a margin is nan")]
