"""The bench's drawing shows the numbers of its table."""

import json
import re
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_hidden.engine.bench import plot
from lit_hidden.engine.bench.rows import Row, Section

BENCH = Path(__file__).parents[3] / "experiments" / "results" / "bench"
SECTIONS = {
    each["section"]: Section(
        each["title"], each["about"],
        [Row(row["what"], row["unit"], tuple(row["rounds"]), row.get("group", "")) for row in each["rows"]],
        each["findings"], each["section"], each["device"],
    )
    for each in json.loads((BENCH / "bench.json").read_text())["sections"]
}  # fmt: skip


def table(title: str) -> dict[str, dict[str, str]]:
    """Read a table of `bench.md`: by the first cell of a line, its cells by column."""
    (part,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", (BENCH / "bench.md").read_text(), re.DOTALL | re.MULTILINE)
    heading, _, *lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return {cells[0]: dict(zip(heading, cells, strict=True)) for cells in lines}


def painted(name: str) -> Axes:
    axes = Figure().subplots()
    getattr(plot, f"_{name}")(axes, SECTIONS[name])
    return axes


def said(axes: Axes) -> list[str]:
    return [text.get_text().strip() for text in axes.texts]


def close(text: str, height: float) -> bool:
    """Whether a height is the number written, but for what was rounded off."""
    digits = text.replace(",", "")
    return height == pytest.approx(float(digits), rel=0.006)


def test_the_bars_of_training_steps_are_the_tables_ratios_in_its_order_and_digits() -> None:
    axes, lines = painted("steps"), table("Training steps, cpu")
    expected = [cells[what] for what in ("hidden / dense", "plain / hidden") for cells in lines.values()]
    assert said(axes) == expected
    assert all(close(text, bar.get_height()) for text, bar in zip(expected, axes.patches, strict=True))
    assert [label.get_text().split("\n")[0] for label in axes.get_xticklabels()] == list(lines)
    assert [re.findall(r"dense: (.*) ms", label.get_text())[0] for label in axes.get_xticklabels()] == [
        cells["dense ms"] for cells in lines.values()
    ]


@pytest.mark.parametrize(
    ("name", "title", "kept", "unit"),
    [
        ("input", "Input, cpu", "images/s", ""),
        ("epoch", "An epoch, cpu", "share of the peak", "%"),
        ("start", "Start", "", " s"),
    ],
)
def test_the_other_bars_are_the_tables_medians(name: str, title: str, kept: str, unit: str) -> None:
    axes = painted(name)
    lines = [cells for cells in table(title).values() if kept in cells["what"] + cells["unit"]]
    assert said(axes) == [f"{cells['median']}{unit}" for cells in lines]
    assert all(close(cells["median"], bar.get_width()) for cells, bar in zip(lines, axes.patches, strict=True))
    names = [label.get_text().replace(",\n", ", ").replace("\n", " ") for label in axes.get_yticklabels()]
    for shown, cells in zip(names, lines, strict=True):
        assert shown.split(" Lightning")[0] in cells["what"]


@pytest.mark.parametrize("kind", plot.KINDS)
def test_the_numbers_beside_ours_in_a_selection_are_the_tables_passes(kind: str) -> None:
    axes = Figure().subplots()
    plot._selection(axes, SECTIONS["selection"], kind)
    text = (BENCH / "bench.md").read_text()
    expected = re.findall(rf"^\| \S+ \| {kind} \|(?: \S+ \|){{3}} (\S+) \|", text, re.MULTILINE)
    assert [word for word in said(axes) if word != "target: 3"] == expected
