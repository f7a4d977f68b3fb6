"""Figures 8 to 10 and table 2, on ImageNet and without it: one grid, claims that can fail, like beside like."""

import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.models
from matplotlib.figure import Figure

from experiments import _imagenet as imagenet_grid
from lit_hidden.judge import judge
from lit_hidden.report import panels, published
from lit_hidden.report.tables import departures
from lit_hidden.results import Results
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
NAMES = ("fig8", "fig9", "fig10", "table2", "imagenet18")
FIGURES = {name: made["experiment"](name) for name in NAMES}
fig8, fig9, fig10, table2, imagenet18 = FIGURES.values()
measured, overlaps, verdicts, hollow = (made[name] for name in ("measured", "overlaps", "verdicts", "hollow"))
README = {  # net: weights kept in millions, Kaiming normal, signed constant
    "resnet50": (7.7, 61.7, 68.6),
    "resnet101": (13.3, 66.15, 72.3),
    "wide_resnet50_2": (20.6, 67.9, 73.3),
}
TRAINED = {"resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.13, "resnet101": 77.374, "wide_resnet50_2": 78.468}


def reported(run: Run) -> float:
    """The README's accuracies, torchvision's of dense nets, a thousandth at random; falling away from 30%."""
    if run.method in ("dense", "random"):
        return TRAINED[run.net] if run.method == "dense" else 0.1
    best = README.get(run.net, (0, 61.7, 68.6))[1 if run.distribution == "kaiming_normal" else 2]
    return best - 20 * abs((run.density or 0) - 0.3) - (8 if run.method == "supermask" else 0)


def narrow(run: Run) -> float:
    """ResNet-18's accuracies as figure 8's claims would have them: half the width costs 10 points."""
    if run.method == "random":
        return 1.0
    base = {"dense": 75.5, "edge_popup": 75.0 if run.distribution == "signed_constant" else 69.0}[str(run.method)]
    return float(base + 10 * np.log2(run.width))


def accuracy(name: str) -> Callable[[Run], float]:
    return narrow if name == "imagenet18" else reported


def upside_down(run: Run) -> float:
    """Everything the paper claims, the other way round."""
    if run.method in ("dense", "random"):
        return 95.0
    best = 60.0 - 3 * np.log2(run.width) - 5 * list(imagenet_grid.NETS).index(run.net)
    best += (3 if run.distribution == "kaiming_normal" else 0) + (15 if run.method == "supermask" else 0)
    return float(best + 20 * abs((run.density or 0) - 0.3))


@cache
def drawn(name: str, preset: str) -> tuple[Figure, Results]:
    results = measured(FIGURES[name].runs(preset), accuracy(name), lambda run: 1.0)
    return made["drawn"](FIGURES[name], results, preset), results


# --- grids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "preset"), [*product(NAMES, ("smoke", "quick", "short", "paper"))])
def test_every_seed_has_the_same_cells_one_seed_after_the_other(name: str, preset: str) -> None:
    runs = FIGURES[name].runs(preset)
    seeds = [run.seed for run in runs]
    assert seeds == sorted(seeds)
    assert set(seeds) == set(range({"smoke": 1, "paper": 5 if name == "imagenet18" else 3}.get(preset, 3)))
    cells = [{replace(run, seed=0).hash for run in runs if run.seed == seed} for seed in set(seeds)]
    assert all(cell == cells[0] for cell in cells)


@pytest.mark.parametrize("preset", ["smoke", "quick", "short", "paper"])
def test_figure_10_and_table_2_train_nothing_after_figure_8_and_figure_9_little(preset: str) -> None:
    eighth = set(fig8.runs(preset))
    as_the_authors = [run for run in table2.runs(preset) if run.scaled == "authors"]
    assert {(run.net, run.distribution, run.lr) for run in as_the_authors} == (
        {("resnet50", "signed_constant", 0.1)} if preset == "paper" else set()
    )
    assert set(table2.runs(preset)) - set(as_the_authors) == eighth
    assert set(fig10.runs(preset)) == {run for run in eighth if run.resolved.method == "edge_popup"}
    shared = {run for run in fig9.runs(preset) if run.resolved.density in (0.3, None) and run.method != "supermask"}
    if preset == "smoke":  # whose only dense net is ResNet-34
        shared = {run for run in shared if run.density}
    assert set(fig9.runs(preset)) & eighth == shared
    assert len(shared) == len({run.seed for run in eighth}) * {"smoke": 1, "paper": 3}.get(preset, 2)


def test_the_paper_preset_is_the_authors_protocol() -> None:
    grid = [run.resolved for figure in (fig8, fig9, fig10, table2) for run in figure.runs("paper")]
    own = [run for run in grid if run.scaled == "authors"]  # their resnet50-sc, at their 0.1
    grid = [run for run in grid if run not in own]
    assert len(own) == 3
    assert departures(grid) == {}
    settings = {
        (r.data, r.epochs, r.batch_size, r.lr, r.momentum, r.weight_decay, r.warmup_epochs, r.label_smoothing)
        for r in grid
        if r.method in ("edge_popup", "dense")
    }
    assert settings == {("imagenet", 100, 256, 0.256, 0.875, 1 / 32768, 5, 0.1)}
    zhou = {(r.epochs, r.batch_size, r.lr, r.momentum, r.weight_decay, r.warmup_epochs, r.label_smoothing)
            for r in grid if r.method == "supermask"}  # fmt: skip
    assert zhou == {(100, 256, 400, 0.9, 0, 0, 0)}
    assert {(r.net, r.density, r.distribution) for r in fig10.runs("paper")} == set(
        product(README, [0.3], ["kaiming_normal", "signed_constant"])
    )
    assert {r.net for r in fig8.runs("paper") if r.density is None} == set(TRAINED)


@pytest.mark.parametrize(("name", "preset"), [*product(NAMES, ("smoke", "quick", "short")), ("imagenet18", "paper")])
def test_no_cut_preset_passes_for_the_authors_protocol(name: str, preset: str) -> None:
    found = departures(run.resolved for run in FIGURES[name].runs(preset))
    data = "scikit-learn's digits" if preset in ("smoke", "quick") else "Tiny ImageNet-100"
    assert found["data"] == f"{data} for ImageNet"
    assert "lr" not in found
    if not (name == "imagenet18" and preset in ("short", "paper")):
        batches = 32 if preset == "quick" else 64
        assert found["batch_size"] == f"batches of {batches}, rates in proportion"
    if preset == "short":
        assert found["epochs"] == "10 of 100 epochs"
        assert found["image_size"] == ("32 pixels" if name == "imagenet18" else "64 pixels")
        assert found.get("classes") == (None if name == "imagenet18" else "10 classes")
    assert found.get("warmup_epochs") == {"smoke": "0 of 5 warm-up epochs", "paper": None}.get(
        preset, "1 of 5 warm-up epochs"
    )


def test_figure_8_without_a_gpu_is_what_its_docstring_says() -> None:
    tiny = {"data": "tiny-imagenet-100", "image_size": 32, "augment": "square"}
    base = Run(net="resnet18", epochs=10, warmup_epochs=1, **tiny)
    grid = [
        replace(base, width=width, seed=seed, **more)
        for width, seed in product((0.25, 0.125), range(3))
        for more in ({}, *({"density": 0.3, "distribution": d} for d in ("kaiming_normal", "signed_constant")))
    ]
    grid += [replace(base, width=0.25, density=0.3, method="random", seed=seed) for seed in range(3)]
    assert set(imagenet18.runs("short")) == set(grid)
    found, trained = (made["parameters"](run.resolved) for run in (grid[1], grid[9]))
    assert (grid[1].width, grid[9].width, grid[9].density) == (0.25, 0.125, None)
    words = " ".join(imagenet18.__doc__.split())
    assert f"30% of ResNet-18 x0.25 are {found / 1e3:.0f}k weights" in words
    assert f"ResNet-18 x0.125 has {trained / 1e3:.0f}k parameters" in words


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_says_its_source_its_cost_and_what_is_from_memory(name: str) -> None:
    text = " ".join(FIGURES[name].__doc__.split())
    assert re.search(r"Source: Ramanujan et al., arXiv:1911.13299, .*from memory, to be checked.* Cost: quick", text)
    assert re.search(r"Cost: quick .* two (busy )?cores", text)


# --- claims -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_published_accuracies_bear_the_claims_out_and_reversed_ones_contradict_them(name: str) -> None:
    assert set(verdicts(FIGURES[name], accuracy(name))) == {"supported"}
    assert set(verdicts(FIGURES[name], upside_down, parameters=7)) == {"contradicted"}


def test_one_net_of_three_is_enough_to_fail_a_claim_about_all() -> None:
    headline, _, constants, larger, found = range(5)

    def changed(figure: Any, change: Callable[[Run], bool], value: float) -> list[int]:
        told = verdicts(figure, lambda run: value if change(run) else reported(run), spread=lambda run: 0.02)
        return [claim for claim, verdict in enumerate(told) if verdict == "contradicted"]

    def is_101(run: Run) -> bool:
        return (run.net, run.method, run.distribution) == ("resnet101", "edge_popup", "kaiming_normal")

    assert changed(fig8, is_101, 74.0) == [constants]
    assert changed(fig8, is_101, 59.0) == [larger]
    assert changed(fig8, lambda run: run.net == "resnet34", 75.0) == [headline]
    assert changed(fig8, lambda run: run.method == "random", 68.9) == [found]
    assert changed(fig10, is_101, 69.6) == [1]  # a gain of 2.7 points
    assert changed(table2, is_101, 64.8) == [0]
    assert changed(table2, is_101, 67.5) == [0]
    assert changed(fig9, lambda run: (run.density, run.distribution) == (0.7, "signed_constant"), 68.9) == [0]
    assert changed(fig9, lambda run: run.density == 0.5 and run.method == "edge_popup", 69.0) == []  # about 30%
    assert changed(fig9, lambda run: run.method == "supermask" and run.distribution == "kaiming_normal", 62.0) == [1, 2]


def test_a_subnetwork_with_more_weights_than_the_smaller_net_contradicts_figure_8() -> None:
    rows = measured(fig8.runs("paper"), reported).rows
    more = [(run, result | {"parameters": 22e6 if run.density else 21.8e6}, folder) for run, result, folder in rows]
    assert [judge(claim, Results(more)).verdict for claim in fig8.CLAIMS].count("contradicted") == 1
    assert judge(fig8.CLAIMS[1], Results(more)).verdict == "contradicted"


@pytest.mark.parametrize(("name", "preset"), [*product(("fig8", "fig9", "fig10", "imagenet18"), ("quick", "short"))])
def test_cut_presets_decide_every_claim(name: str, preset: str) -> None:
    def wider_is_better(run: Run) -> float:  # as accuracy(name), at these widths
        return accuracy(name)(replace(run, width=4 * run.width)) if name == "imagenet18" else accuracy(name)(run)

    assert set(verdicts(FIGURES[name], wider_is_better, preset)) == {"supported"}
    assert set(verdicts(FIGURES[name], upside_down, preset, parameters=7)) == {"contradicted"}


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_decides_only_what_can_be_counted(name: str) -> None:
    told = verdicts(FIGURES[name], accuracy(name), "smoke")
    assert told == ["supported" if claim.every else "undecided" for claim in FIGURES[name].CLAIMS]


def test_table_2_is_held_against_the_readme_by_the_authors_protocol_alone() -> None:
    for preset in ("quick", "short"):
        (verdict,) = (judge(claim, measured(table2.runs(preset), reported)) for claim in table2.CLAIMS)
        assert (verdict.verdict, verdict.why) == ("undecided", "a margin is nan")


def test_supermasks_below_10_percent_of_the_weights_are_compared_with_nothing() -> None:
    rows = measured(fig9.runs("quick"), reported).rows
    few = [(run, result | {"density_sampled": 0.05}, folder) for run, result, folder in rows]
    assert judge(fig9.CLAIMS[1], Results(few)).why == "a margin is nan"


# --- drawings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "preset"), [*product(NAMES, ("smoke", "short", "paper"))])
def test_no_text_lies_on_another_or_outside(name: str, preset: str) -> None:
    figure, _ = drawn(name, preset)
    assert overlaps(figure) == []


@pytest.mark.parametrize("name", ["fig8", "imagenet18"])
def test_names_stand_beside_their_points_whatever_came_out(name: str) -> None:
    """No name lies on another or on a marker, and none is far from its point."""
    for seed in range(3):

        def anything(run: Run, seed: int = seed) -> float:
            cell = f"{seed} {run.net} {run.width} {run.method} {run.distribution}"
            return float(np.random.default_rng(list(cell.encode())).uniform(40, 80))

        results = measured(FIGURES[name].runs("paper"), anything, lambda run: 2.0)
        figure = made["drawn"](FIGURES[name], results, "paper")
        assert overlaps(figure) == []
        (axes,) = figure.axes
        markers = np.concatenate([line.get_transform().transform(line.get_xydata()) for line in axes.get_lines()])
        names = [text for text in axes.texts if "%" not in text.get_text()]
        nets = {(r.net, r.width, r.method == "dense") for r, _ in results if r.method != "random"}
        assert len(names) == len(nets)
        for text in names:
            box = text.get_window_extent()
            assert box.count_contains(markers) == 0
            x, y = axes.transData.transform(text.xy)
            away = np.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
            assert away < 35  # pixels


@pytest.mark.parametrize("name", ["fig8", "imagenet18"])
@pytest.mark.parametrize("preset", ["short", "paper"])
def test_points_stand_at_the_number_of_weights_that_are_there(name: str, preset: str) -> None:
    figure, results = drawn(name, preset)
    (axes,) = figure.axes
    plotted = {(round(x), round(float(y), 6)) for line in axes.get_lines() for x, y in line.get_xydata()}
    for run, _ in results:
        same = results.select(net=run.net, width=run.width, method=run.method, distribution=run.distribution)
        if run.method != "random":
            assert (made["parameters"](run), round(same.mean(), 6)) in plotted
    assert axes.get_xscale() == "log"
    bars = [path.vertices for bars in axes.collections for path in bars.get_paths()]
    seeds = results.select(method="dense", net=results.rows[-1][0].net, width=results.each("width")[0]).values()
    assert any(np.allclose(sorted(bar[:, 1]), [min(seeds), max(seeds)]) for bar in bars)


def test_figure_8_keeps_as_many_weights_as_the_readme_says() -> None:
    _, results = drawn("fig8", "paper")
    hidden = results.select(method="edge_popup")
    for net, (millions, *_) in README.items():
        assert round(hidden.mean("parameters", net=net) / 1e6, 1) == millions
    assert round(results.mean("parameters", net="resnet34") / 1e6, 1) == 21.8


def test_the_numbers_of_others_are_the_readmes_and_torchvisions() -> None:
    of_readme = {(p.net, p.distribution): p.accuracy for p in published.points(source="authors")}
    assert of_readme == {
        (net, distribution): accuracy
        for net, (_, *accuracies) in README.items()
        for distribution, accuracy in zip(("kaiming_normal", "signed_constant"), accuracies, strict=True)
    }
    for point in published.points(source="torchvision"):
        weights = torchvision.models.get_model_weights(point.net).IMAGENET1K_V1
        assert point.accuracy == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert {p.net: p.accuracy for p in published.points(source="torchvision")} == TRAINED


FROM_README = {accuracy for _, *accuracies in README.values() for accuracy in accuracies}
BY_OTHERS = {
    "fig8": FROM_README | set(TRAINED.values()),
    "fig9": {61.7, 68.6, 76.13},
    "fig10": FROM_README | {6.9, 6.15, 5.4},
    "table2": set(),
    "imagenet18": set(),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_others_are_shown_hollow_on_whole_imagenet_alone(name: str) -> None:
    figure, _ = drawn(name, "paper")
    assert {round(accuracy, 3) for accuracy in hollow(figure)} == BY_OTHERS[name]
    for preset in ("smoke", "quick", "short"):
        assert hollow(drawn(name, preset)[0]) == set()


@pytest.mark.parametrize(
    "part", [{"classes": "first-10"}, {"images_per_class": 50}, {"image_size": 64}, {"data": "imagenet100"}]
)
def test_a_part_of_imagenet_stands_beside_no_published_number(part: dict[str, Any]) -> None:
    def theirs(**changed: Any) -> list[published.Published]:
        run = Run(**{"net": "resnet50", "data": "imagenet", "density": 0.3} | changed)
        return panels.theirs(Results([(run, {}, None)]))

    assert {point.accuracy for point in theirs()} == FROM_README | set(TRAINED.values())
    assert theirs(**part) == []


def test_narrow_nets_on_imagenet_stand_beside_no_published_net() -> None:
    grid = [replace(run, width=0.5) for run in fig8.runs("paper") if run.net in ("resnet34", "resnet50")]
    assert hollow(made["drawn"](fig8, measured(grid, reported), "paper")) == set()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "table2"])
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_every_series_is_named_and_told_apart_without_colour(name: str, preset: str) -> None:
    figure, _ = drawn(name, preset)
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
    assert len([text for text in named if text.endswith("smallest to largest seed")]) == 1


def test_random_weights_far_below_stand_at_the_foot_in_words() -> None:
    (axes,) = drawn("fig8", "paper")[0].axes
    results = drawn("fig8", "paper")[1]
    (words,) = (text.get_text() for text in axes.texts if "%" in text.get_text())
    assert words == f"{results.mean(method='random'):.1f}% ↓"
    assert axes.get_ylim()[0] > 55
    near = measured(fig8.runs("paper"), lambda run: 50 if run.method == "random" else reported(run), lambda run: 1.0)
    (axes,) = made["drawn"](fig8, near, "paper").axes
    points = {
        float(y) for line in axes.get_lines() if line.get_label() == panels.RANDOM.label for y in line.get_ydata()
    }
    assert points == {near.mean(method="random")}


def test_figure_10_draws_each_nets_gain_with_its_range_over_seeds() -> None:
    figure, results = drawn("fig10", "paper")
    _, axes = figure.axes
    every = []
    for net in README:
        normal, constants = (results.values(net=net, distribution=d) for d in imagenet_grid.DISTRIBUTIONS)
        every.append([c - n for c, n in zip(constants, normal, strict=True)])
    bars = [path.vertices[:, 1] for bars in axes.collections for path in bars.get_paths()]
    np.testing.assert_allclose(bars, [(min(gains), max(gains)) for gains in every])
    assert [text.get_text() for text in axes.texts] == [f"{np.mean(gains):+.1f}" for gains in every]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_table_2_writes_what_was_measured_and_the_readmes_numbers_beside_it() -> None:
    figure, results = drawn("table2", "paper")
    written = words(figure)
    for run, _ in results:
        values = results.values(net=run.net, method=run.method, distribution=run.distribution, scaled=run.scaled)
        assert f"{np.mean(values):.2f}" in written
        assert f"{min(values):.2f} to {max(values):.2f}" in written
    for net, (_, *accuracies) in README.items():
        assert {f"{accuracy:g}" for accuracy in accuracies} <= set(written)
        assert written.count(imagenet_grid.NETS[net]) == 1
    assert {"7.65M", "13.3M", "20.6M", "21.8M", "30%", "100%"} <= set(written)
    assert "nothing cut" in written[-1]


def test_table_2_has_no_number_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    other = tuple(replace(point, accuracy=11.5 + n) for n, point in enumerate(published.POINTS))
    monkeypatch.setattr(published, "POINTS", other)
    results = measured(table2.runs("paper"), lambda run: 5.0, lambda run: 0.0)
    written = set(words(made["drawn"](table2, results, "paper")))
    assert {f"{point.accuracy:g}" for point in other if point.source == "authors"} <= written
    assert not {"61.7", "68.6", "66.15", "72.3", "67.9", "73.3"} & written


def test_table_2_leaves_the_readme_out_where_the_runs_are_not_of_its_protocol() -> None:
    _, results = drawn("table2", "paper")
    assert "authors' README" in words(drawn("table2", "paper")[0])
    for part in ({"epochs": 90}, {"classes": "first-10"}, {"image_size": 64}, {"lr": 0.1}):
        cut = measured([replace(run, **part) for run, _ in results if run.net == "resnet50"], reported)
        written = words(made["drawn"](table2, cut, "paper"))
        assert "authors' README" not in written
        assert not {"61.7", "68.6"} & set(written)
