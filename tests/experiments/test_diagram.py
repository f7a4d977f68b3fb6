from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from fabricated import planted, simulated
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from experiments import _diagram as diagram
from experiments._diagram import Swap
from lit_hidden.report.style import COLORS


def rows(trace: dict[str, np.ndarray], *keep: int) -> dict[str, np.ndarray]:
    """The trace with some of its recorded updates only."""
    recorded = ("step", "before", "after", "gradient", "chosen_before", "chosen_after", "seen", "lr")
    return trace | {name: trace[name][list(keep)] for name in recorded}


def drawn(axes: Axes, kind: str) -> LineCollection:
    (found,) = [c for c in axes.collections if c.get_gid() == kind]
    assert isinstance(found, LineCollection)
    return found


@pytest.mark.parametrize(
    ("trace", "expected", "rule"),
    [
        (planted(), (2, 9, (0, 2), (0, 1), True), "both moved by the gradient more than by momentum"),
        # No dead edge re-enters; it does by momentum; its gradient has the wrong direction.
        (rows(planted(), 0, 1), (0, 3, (0, 2), (0, 1), False), "made with momentum"),
        (rows(planted(), 1), (0, 7, (0, 1), (0, 2), True), "made with momentum"),
        (planted() | {"gradient": -planted()["gradient"]}, (0, 3, (0, 2), (0, 1), False), "made with momentum"),
        (planted() | {"chosen_after": planted()["chosen_before"]}, None, ""),
    ],
)
def test_the_swap_drawn_is_found_by_rule(trace: dict[str, np.ndarray], expected: Any, rule: str) -> None:
    swap = diagram.find_swap(trace)
    assert (swap and (swap.record, swap.step, swap.entered, swap.died, swap.again)) == expected
    assert swap is None or rule in swap.rule


def test_the_edge_that_dies_is_one_of_the_same_output_if_there_is_one() -> None:
    for seed in range(5):
        trace = simulated(seed)
        swap = diagram.find_swap(trace)
        assert swap is not None
        alone = np.abs(trace["before"][swap.record] - 0.1 * trace["gradient"][swap.record])
        gate = np.sort(alone.ravel())[-125]
        dies = trace["chosen_before"][swap.record] & ~trace["chosen_after"][swap.record] & (alone < gate)
        assert dies[swap.died]
        assert swap.died[0] == swap.entered[0] or not dies[swap.entered[0]].any()
        assert alone[swap.entered] >= gate


@pytest.mark.parametrize(
    ("edges", "outputs", "inputs"),
    [
        ([(4, 7), (2, 7)], [2, 3, 4], [7, 8, 9, 10]),
        ([(9, 24), (8, 3)], [7, 8, 9], [3, 4, 5, 24]),  # past the last unit, those before
        ([], [0, 1, 2], [0, 1, 2, 3]),
    ],
)
def test_a_window_holds_the_edges_and_the_units_that_follow(
    edges: list[tuple[int, int]], outputs: list[int], inputs: list[int]
) -> None:
    chosen = diagram.window((10, 25), edges, outputs=3, inputs=4)
    assert [list(units) for units in chosen] == [outputs, inputs]


def test_lines_show_choice_by_dashes_sign_by_colour_and_score_by_width() -> None:
    trace, axes = simulated(), Figure().subplots()
    weight, scores, chosen = trace["weight"], trace["before"][0], trace["chosen_before"][0]
    outputs, inputs = units = diagram.window(weight.shape, outputs=4, inputs=6)
    diagram.draw_layer(axes, weight, scores, chosen, units, widest=5.0)
    inside = np.ix_(outputs, inputs)
    largest = np.abs(scores[inside]).max()
    y_out, y_in = np.linspace(1, 0, 4), np.linspace(1, 0, 6)
    expected = {"positive": chosen & (weight > 0), "negative": chosen & (weight < 0), "absent": ~chosen}
    for kind, where in expected.items():
        lines, edges = drawn(axes, kind), np.argwhere(where[inside])
        ends = [np.array([[0, y_in[i]], [1, y_out[o]]]) for o, i in edges]
        np.testing.assert_allclose(lines.get_segments(), ends)
        assert matplotlib.colors.to_hex(lines.get_colors()[0]) == COLORS[kind]
        dashed = [pattern is not None for _, pattern in lines.get_linestyles()]
        assert dashed == [kind == "absent"] * len(dashed)
        if kind != "absent":
            widths = [5.0 * abs(scores[inside][o, i]) / largest for o, i in edges]
            np.testing.assert_allclose(lines.get_linewidths(), widths, rtol=1e-5)
    drawn_edges = sum(len(drawn(axes, kind).get_segments()) for kind in expected)
    assert drawn_edges == 24


def test_highlighted_edges_are_drawn_apart_and_units_and_edges_named() -> None:
    trace, axes = planted(), Figure().subplots()
    names, units = {(0, 2): "re-entered", (0, 1): "died"}, diagram.window((2, 3), [(0, 1), (0, 2)], inputs=2)
    diagram.draw_layer(axes, trace["weight"], trace["after"][2], trace["chosen_after"][2], units, highlight=names)
    assert {"re-entered", "died"} < {text.get_text() for text in axes.texts}
    assert len(drawn(axes, "positive-highlight").get_segments()) == 1  # (0, 2) has weight 0.25
    assert len(drawn(axes, "absent-highlight").get_segments()) == 1
    labels = {side: [t.get_text() for t in axes.texts if t.get_gid() == f"unit-{side}"] for side in ("in", "out")}
    assert labels == {"in": ["1", "2"], "out": ["0", "1"]}


def test_scores_are_drawn_where_they_are_and_the_arrows_meet() -> None:
    trace, axes = planted(), Figure().subplots()
    diagram.draw_scores(axes, trace, Swap(1, 7, (0, 1), (0, 2), "", True))  # moved by momentum alone
    gates = [line.get_xdata()[0] for line in axes.lines if str(line.get_label()).startswith("threshold")]
    assert gates == pytest.approx([2200, 2100])
    dots = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert dots == pytest.approx([900, 2100, 2200, 800])
    arrows = [(note.xyann[0], note.xy[0]) for note in axes.texts]
    assert np.ravel(arrows) == pytest.approx([900, 900, 900, 2100, 2200, 2200, 2200, 800])
