import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments import _diagram as diagram
from lit_hidden.judge import judge
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
fig2 = made["experiment"]("fig2")
hidden, simulated = made["hidden"], made["simulated"]
KEPT, UNCHANGED, REENTER, BEATS = fig2.CLAIMS


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    found: Results = made["results"](fig2.runs("smoke"), tmp_path_factory.mktemp("runs"))
    return found


def drawing(results: Results) -> Figure:
    with style.context():
        figure = Figure()
        fig2.draw(results, figure)
        style.footer(
            figure, "preset smoke; data digits; 3 seeds (0, 1, 2); net conv2; cut: width x0.1, 2 of 100 epochs"
        )
        FigureCanvasAgg(figure).draw()
    return figure


@pytest.fixture(scope="module")
def figure(results: Results) -> Figure:
    return drawing(results)


def judged(claim: Any, edge_popup: dict[str, Any], random: dict[str, Any] | None = None) -> str:
    """Judge three seeds, of which the last has `edge_popup` and `random` changed."""
    rows = []
    for seed in range(3):
        last = seed == 2
        found = {"accuracy": 60.0 + seed, **(edge_popup if last else {})}
        rows.append((Run(density=0.5, seed=seed), hidden(**found), None))
        rows.append(
            (
                Run(density=0.5, method="random", seed=seed),
                hidden(accuracy=10.0, **(random or {}) if last else {}),
                None,
            )
        )
        rows.append((Run(seed=seed), {"accuracy": 90.0}, None))
    return judge(claim, Results(rows)).verdict


def layers(least: int, most: int) -> dict[str, Any]:
    good, other = hidden()["layers"]
    return {"layers": [good, other | {"kept_min": least, "kept_max": most}]}


def test_a_run_in_which_nothing_is_wrong_bears_every_claim_out() -> None:
    assert [judged(claim, {}) for claim in fig2.CLAIMS] == ["supported"] * 4


@pytest.mark.parametrize(("least", "most"), [(50, 51), (51, 52), (0, 51), (50, 50)])
def test_one_weight_too_many_or_too_few_in_one_layer_of_one_seed_contradicts(least: int, most: int) -> None:
    assert judged(KEPT, layers(least, most)) == "contradicted"
    assert judged(KEPT, {}, layers(least, most)) == "contradicted"


def test_exactly_is_counted_as_the_authors_do() -> None:
    assert judged(KEPT, layers(51, 51)) == "supported"  # 101 - int(0.5 * 101)


def test_another_hash_of_one_run_contradicts() -> None:
    assert judged(UNCHANGED, {"weights_after": "ab13"}) == "contradicted"
    assert judged(UNCHANGED, {}, {"weights_after": "ab13"}) == "contradicted"


def test_one_edge_back_from_the_dead_is_enough_and_none_contradicts() -> None:
    assert judged(REENTER, {"reentered": 1}) == "supported"
    assert judged(REENTER, {"reentered": 0}) == "contradicted"


def test_a_subnetwork_no_better_than_a_random_mask_is_not_called_better() -> None:
    assert judged(BEATS, {"accuracy": 16.0}) == "undecided"  # two seeds of three are better: too wide an interval
    rows = [(run, {"accuracy": 60.0 + run.seed % 2 * (run.method == "random")}, None) for run in fig2.runs("smoke")]
    assert judge(BEATS, Results(rows)).verdict == "undecided"
    rows = [(run, {"accuracy": 60.0 + run.seed + 9 * (run.method == "random")}, None) for run in fig2.runs("smoke")]
    assert judge(BEATS, Results(rows)).verdict == "contradicted"


@pytest.mark.parametrize("preset", ["smoke", "quick", "short", "paper"])
def test_each_preset_has_all_methods_at_the_same_seeds_and_enough_of_them(preset: str) -> None:
    found = [run.resolved for run in fig2.runs(preset)]
    seeds = {method: [r.seed for r in found if r.method == method] for method in ("edge_popup", "random", "dense")}
    assert seeds["edge_popup"] == seeds["random"] == seeds["dense"]
    assert len(seeds["dense"]) >= 3
    assert len(set(found)) == len(found)
    assert len({(r.net, r.width, r.data, r.train_images) for r in found}) == 1
    assert {r.density for r in found} == {0.5, None}


def test_the_paper_preset_is_the_papers() -> None:
    run = fig2.runs("paper")[0].resolved
    assert (run.net, run.width, run.data, run.epochs, run.train_images, run.lr) == (
        "conv4",
        1,
        "cifar10",
        100,
        None,
        0.1,
    )


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
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == [f"(a) forward pass of update {swap.step + 1}: top 50% by $|s|$",
                          f"(b) backward pass: after update {swap.step + 1}"]  # fmt: skip


def test_the_two_passes_show_the_mask_before_and_after(figure: Figure) -> None:
    trace = simulated(0)
    swap = diagram.find_swap(trace)
    assert swap is not None
    inside = np.ix_(*diagram.window((10, 25), [swap.entered, swap.died]))
    for axes, time in zip(figure.axes, ("before", "after"), strict=False):
        lines = [c for c in axes.collections if (c.get_gid() or "").startswith(("positive", "negative"))]
        solid = sum(len(c.get_segments()) for c in lines)
        assert solid == trace[f"chosen_{time}"][swap.record][inside].sum()


def test_the_curves_are_the_runs_means_and_ranges(figure: Figure, results: Results) -> None:
    accuracy, swaps = figure.axes[3:5]
    curves = {line.get_label(): np.asarray(line.get_xydata()) for line in accuracy.lines}
    assert curves["edge-popup subnetwork"].tolist() == [[0, 10], [12, 40.5], [24, 81]]
    assert curves["dense, trained"].tolist() == [[0, 10], [12, 45.5], [24, 91]]
    assert curves["random mask, same density"].tolist() == [[0, 11], [24, 11]]
    random = accuracy.collections[-1].get_paths()[0].vertices
    assert {float(y) for _, y in random} == {10, 12}
    counts = [line for line in swaps.lines if line.get_label() == "out, and as many in"]
    expected = np.mean([simulated(seed)["swapped"] for seed in range(3)], axis=0)
    np.testing.assert_allclose(counts[0].get_ydata(), expected)


UNITS = ("unit-in", "unit-out")


def test_no_text_lies_on_another_or_outside(figure: Figure) -> None:
    assert made["overlaps"](figure, UNITS) == []


def test_without_a_swap_the_figure_says_so(results: Results, tmp_path: Path) -> None:
    still = simulated(0)
    still["chosen_after"] = still["chosen_before"] = np.repeat(still["chosen_before"][:1], 24, 0)
    figure = drawing(made["results"](fig2.runs("smoke"), tmp_path, {0: still}))
    said = [text.get_text() for text in figure.texts if text.get_gid() == "rule"]
    assert said == ["No edge of this layer was swapped\nat any of the 24 recorded updates."]


def test_equal_results_are_equal_bytes(results: Results, figure: Figure) -> None:
    def svg(figure: Figure) -> bytes:
        out = io.BytesIO()
        with style.context():
            figure.savefig(out, format="svg", metadata={"Date": None})
        return out.getvalue()

    assert svg(figure) == svg(drawing(results))


def test_the_page_is_the_players(results: Results) -> None:
    assert fig2.page(results).startswith("<!DOCTYPE html>")
