"""Drawings: of any part of a grid, with failures counted, others' points beside ours, greys that differ."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from fabricated import drawn, experiment, grid, measured, overlaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from experiments import _panels as panels
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

NAMES = ("fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "imagenet18", "mnist", "resnet18", "tickets")
FIGURES = {name: experiment(name) for name in (*NAMES, "table2", "fig1", "fig2")}
ROUNDED = "Zhou et al., most probable mask"


def accuracy(run: Run) -> float:
    """Different in every cell, and far from chance but for random masks."""
    spread = 30 * (int(run.cell.rpartition("(")[2][:4], 16) / 0xFFFF)
    return 100 / run.num_classes if run.method == "random" else 50 + spread


def size(run: Run) -> float:
    """About as many parameters as the net has, for a drawing."""
    nets = {"resnet18": 12e6, "resnet34": 22e6, "resnet50": 26e6, "resnet101": 45e6, "wide_resnet50_2": 69e6}
    return nets.get(run.net, 1e6) * run.width**2 * (run.density or 1)


@cache
def whole(name: str, preset: str) -> Results:
    return measured(grid(name, preset), accuracy, parameters=size)


@cache
def paper(name: str) -> Figure:
    """Draw the whole paper preset, once for all who only look at it."""
    return drawn(FIGURES[name], whole(name, "paper"), "paper")


def part(name: str) -> Results:
    """A random part of the paper's grid."""
    every = sorted({run.cell for run, _ in whole(name, "paper")})
    kept = {cell for cell, n in zip(every, np.random.default_rng(0).random(len(every)), strict=True) if n < 0.4}
    return whole(name, "paper").where(lambda run: run.cell in kept)


def points(drawing: Sequence[Axes]) -> list[float]:
    """Heights of our points and levels, which are named in the legend, rounded."""
    named = [line for axes in drawing for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    theirs = ("Zhou et al., a seed", ROUNDED, panels.RANDOM.label)
    ours = [line for line in named if line.get_label() not in theirs]
    ends = [line.get_ydata()[:1] if line.get_gid() == "level" else line.get_ydata() for line in ours]
    return sorted(round(float(y), 6) for heights in ends for y in np.asarray(heights, float))


@pytest.mark.parametrize("name", NAMES)
def test_any_part_of_a_grid_is_drawn_and_of_what_is_absent_nothing_is(name: str) -> None:
    some = part(name)
    figure = drawn(FIGURES[name], some, "paper")
    assert overlaps(figure) == []
    there = {run.cell for run, _ in some if run.method != "random"}
    means = [round(some.where(lambda run, cell=cell: run.cell == cell).mean(), 6) for cell in there]
    assert points(figure.axes[:1] if name == "fig10" else figure.axes) == sorted(means)  # (b) shows gains
    named = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    control = name != "tickets" and any(run.method == "random" for run, _ in some)  # which writes it below the axis
    assert (panels.RANDOM.label in named) == control


@pytest.mark.parametrize("name", ["fig1", "fig2"])
def test_without_a_traced_run_a_note_says_so(name: str) -> None:
    grid = whole(name, "quick")
    figure = drawn(FIGURES[name], grid.where(lambda run: run.method == "random"), "quick")
    words = [text.get_text() for text in figure.texts] + [
        text.get_text() for axes in figure.axes for text in axes.texts
    ]
    assert any("no traced run yet" in text or "no subnetwork has been searched yet" in text for text in words)


def test_the_most_probable_mask_of_a_supermask_stands_where_it_was_measured() -> None:
    (axes,) = paper("mnist").axes
    (cross,) = [line for line in axes.get_lines() if line.get_label() == ROUNDED]
    sampled = whole("mnist", "paper").select(method="supermask")
    assert cross.get_xydata().tolist() == [[sampled.mean("density_rounded"), sampled.mean("accuracy_rounded")]]


def failing(run: Run) -> float:
    """At 10% every seed fails, at 30% the first two; dense Conv2 trained with SGD: the first."""
    lost = {0.1: 5, 0.3: 2}.get(
        run.density or 0, run.net == "conv2" and run.method == "dense" and run.optimizer == "sgd"
    )
    return 10.0 if run.seed < lost or run.method == "random" else 60.0 + run.seed


def test_a_mean_is_of_the_seeds_that_train_and_the_others_are_counted_at_the_foot() -> None:
    figure = drawn(FIGURES["fig3"], measured(FIGURES["fig3"].runs("paper"), failing, lambda run: 0.0), "paper")
    for axes, net in zip(figure.axes, FIGURES["fig3"].NETS, strict=True):
        for look in (panels.DISTRIBUTIONS["kaiming_normal"], panels.DISTRIBUTIONS["signed_constant"]):
            (curve,) = [line for line in axes.get_lines() if line.get_label() == look.label]
            assert curve.get_xydata().tolist() == [[0.3, 63], [0.5, 62], [0.7, 62], [0.9, 62]]
            (bars,) = [bar for bar in axes.collections if to_rgb(look.color) == tuple(bar.get_color()[0][:3])]
            assert [path.vertices[:, 1].tolist() for path in bars.get_paths()] == [[62, 64], *[[60, 64]] * 3]
        said = [(text.xy[0], text.get_text()) for text in axes.texts if "fail" in text.get_text()]
        both = [(0.1, "5/5 fail"), (0.3, "2/5 fail")]
        assert said == [*both, *both, *([(0.95, "1/5 fail")] if net == "conv2" else [])]
        (sgd,) = [line for line in axes.get_lines() if line.get_label() == panels.DENSE["sgd"].label]
        assert sgd.get_ydata()[0] == (62.5 if net == "conv2" else 62)
    assert overlaps(figure) == []


@pytest.mark.parametrize("name", ["fig3", "fig7", "fig8", "table2"])
def test_where_every_seed_of_every_series_fails_it_is_said_and_nothing_lies_on_anything(name: str) -> None:
    grid = whole(name, "quick")
    lost = Results((run, result | {"accuracy": 100 / run.num_classes}, None) for run, result, _ in grid.rows)
    figure = drawn(FIGURES[name], lost, "quick")
    assert overlaps(figure) == []
    assert points(figure.axes) == []
    words = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    assert sum("3/3 fail" in text.get_text() for text in words) >= len({run.cell for run, _ in grid if run.density}) / 2


def heights(axes: Axes, color: str = "") -> list[float]:
    """Heights of the points of others' in a panel, all or those of a colour."""
    lines = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
    return [float(line.get_ydata()[0]) for line in lines if color in ("", line.get_markeredgecolor())]


def test_others_stand_at_our_densities_and_dense_nets_beyond_the_last_of_them() -> None:
    grid = [run for run in FIGURES["fig3"].runs("paper") if run.density is None or 0.3 <= run.density <= 0.7]
    narrow = drawn(FIGURES["fig3"], measured(grid, accuracy), "paper")
    for figure, low, high in ((paper("fig3"), 0.1, 0.9), (narrow, 0.3, 0.7)):
        for axes in figure.axes:
            lines = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
            for line in lines:
                (x,), right = line.get_xdata(), min(axes.get_xlim())
                dense = line.get_markeredgecolor() in {look.color for look in panels.DENSE.values()}
                assert right < x < low if dense else low <= x <= high
            assert len(heights(axes, style.ORANGE)) >= 1
        assert len({axes.get_ylim() for axes in figure.axes}) == 1


BOTH, DENSE = ("kaiming_normal", "signed_constant"), [look.color for look in panels.DENSE.values()]
TOGETHER = {
    "fig3, mnist, resnet18, fig8": [*(panels.DISTRIBUTIONS[d].color for d in BOTH), *DENSE, panels.RANDOM.color],
    "fig4, fig5": [*(look.color for look in FIGURES["fig4"].KEPT.values()), *DENSE],
    "fig6": [*(panels.DISTRIBUTIONS[d].color for d in FIGURES["fig6"].ZHOU), DENSE[0]],
    "fig7": [*(panels.DISTRIBUTIONS[d].color for d in (*BOTH, *FIGURES["fig7"].OTHERS)), DENSE[0],
             FIGURES["fig7"].CONTROL.color],
    "tickets": [*(look.color for _, look in FIGURES["tickets"].SERIES), DENSE[0]],
}  # fmt: skip


def lightness(color: str) -> float:
    """CIE L*, 0 to 100: what is left of a colour in a grey copy."""
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return 116 * float(linear @ (0.2126, 0.7152, 0.0722)) ** (1 / 3) - 16


@pytest.mark.parametrize("names", TOGETHER)
def test_series_of_one_panel_differ_in_a_grey_copy_and_from_paper(names: str) -> None:
    for one, other in combinations(TOGETHER[names], 2):
        assert abs(lightness(one) - lightness(other)) > 7.5, (one, other)
    assert all(lightness(color) < 80 for color in TOGETHER[names])


def test_the_context_ignores_and_restores_the_users_settings_and_a_footer_fits() -> None:
    figure, text = Figure(figsize=(6, 4)), "preset short; data cifar10; 3 seeds (0, 1, 2); net conv4; cut: much " * 3
    with mpl.rc_context({"font.size": 33, "lines.linewidth": 9}):
        with style.context():
            assert (mpl.rcParams["font.size"], mpl.rcParams["lines.linewidth"]) == (9, 1.8)
            style.footer(figure, text)
            assert overlaps(figure) == []
        assert (mpl.rcParams["font.size"], mpl.rcParams["lines.linewidth"]) == (33, 9)
    assert " ".join(figure.texts[0].get_text().split()) == text.strip()


@pytest.mark.parametrize("label", ["loss of score per epoch", ""])
def test_a_footer_gets_room_below_axes_that_nobody_has_placed(label: str) -> None:
    figure = Figure()
    with style.context():
        axes = figure.add_subplot(xlabel=label)
        before = axes.get_position().y0
        style.footer(figure, "preset quick; data digits; 3 seeds (0, 1, 2); net conv2; cut: width x0.25 " * 2)
        figure.draw_without_rendering()
        assert overlaps(figure) == []
    assert (axes.get_position().y0 > before) == bool(label)
