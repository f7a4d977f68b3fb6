import itertools
from pathlib import Path

import matplotlib as mpl
import matplotlib.colors
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_hidden.report import style


def lightness(color: str) -> float:
    """CIE L*, 0 to 100: what is left of a colour in a grey copy."""
    channels = np.array(matplotlib.colors.to_rgb(style.COLORS[color]))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    y = float(linear @ (0.2126, 0.7152, 0.0722))
    return 116 * y ** (1 / 3) - 16


def test_a_methods_colour_differs_in_lightness_or_its_line_does() -> None:
    for one, other in itertools.combinations(style.NAMES, 2):
        assert style.LINESTYLES[one] != style.LINESTYLES[other]
        assert abs(lightness(one) - lightness(other)) > 10, (one, other)


def test_signs_are_told_apart_in_a_grey_copy_and_all_lines_from_paper() -> None:
    assert lightness("negative") - lightness("positive") > 30
    assert all(lightness(color) < 80 for color in style.COLORS)


def test_the_context_ignores_and_restores_the_users_settings() -> None:
    with mpl.rc_context({"font.size": 33, "lines.linewidth": 9}):
        with style.context():
            assert (mpl.rcParams["font.size"], mpl.rcParams["lines.linewidth"]) == (9, 1.8)
            assert mpl.rcParams["svg.hashsalt"] == "lit_hidden"
        assert (mpl.rcParams["font.size"], mpl.rcParams["lines.linewidth"]) == (33, 9)


@pytest.mark.parametrize("width", [6, 12])
def test_a_long_footer_is_wrapped_into_the_figure(width: int) -> None:
    figure = Figure(figsize=(width, 4))
    text = "preset short; data cifar10; 3 seeds (0, 1, 2); net conv4; cut: 10 of 100 epochs, 20000 training images " * 2
    with style.context():
        style.footer(figure, text)
        FigureCanvasAgg(figure)
        box = figure.texts[0].get_window_extent()
    assert " ".join(figure.texts[0].get_text().split()) == " ".join(text.split())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 >= 0


def test_a_band_is_the_mean_and_the_range() -> None:
    axes = Figure().subplots()
    runs = np.array([[1.0, 2.0], [3.0, 8.0], [2.0, 2.0]])
    style.band(axes, [0, 1], runs, "dense")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2, 4])
    box = axes.collections[0].get_paths()[0].vertices
    assert {tuple(map(float, point)) for point in box} == {(0, 1), (0, 3), (1, 2), (1, 8)}
    assert axes.lines[0].get_label() == "dense, trained"


def test_the_style_is_drawn_without_a_display() -> None:
    assert "pyplot" not in Path(style.__file__).read_text()
