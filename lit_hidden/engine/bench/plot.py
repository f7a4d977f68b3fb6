"""The bench as one drawing: what others take beside what ours takes, section by section."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lit_hidden.engine.bench.epoch import TINY
from lit_hidden.engine.bench.rows import Section, written
from lit_hidden.engine.bench.selection import KINDS
from lit_hidden.engine.bench.start import FIRST
from lit_hidden.style import COLORS, GREY, NAVY, ORANGE, PURPLE, SKY, context, footer

WAYS = {  # colour, line and marker
    "ours": (NAVY, "-", "o"),
    "partition": (SKY, (0, (5, 1.5)), "s"),
    "kthvalue": (PURPLE, (0, (1.2, 1.2)), "D"),
    "topk": (ORANGE, "-.", "^"),
    "sort": (GREY, "-", "v"),
}
NAMES = {
    "partition": "numpy.partition", "kthvalue": "torch.kthvalue", "topk": "torch.topk", "sort": "torch.sort"
}  # fmt: skip
PASSES = 3.0  # the target

Panel = tuple[int, Callable[[Axes], None]]  # how wide it is beside others, and what paints it


def draw(sections: list[Section], said: str, out: Path) -> str | None:
    """Draw `bench.svg` and `bench.png` in `out`; give the SVG's name, or None if nothing is to be drawn.

    Args:
        sections: what was measured.
        said: the machine, for the foot.
        out: the folder.
    """
    lines = [line for device in ("cpu", "cuda") for line in _lines([s for s in sections if s.device == device])]
    if not lines:
        return None
    with context():
        height = 3.0 * len(lines) + 0.4
        figure = Figure(figsize=(11, height), layout="constrained")
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(rect=(0.005, 0.35 / height, 0.99, 1 - 0.4 / height), hspace=0.08, wspace=0.03)  # above the foot
        grid = GridSpec(len(lines), 1, figure)
        for row, panels in enumerate(lines):
            places = grid[row].subgridspec(1, len(panels), width_ratios=[wide for wide, _ in panels])
            for place, (_, paint) in enumerate(panels):
                paint(figure.add_subplot(places[place]))
        footer(figure, said)
        for kind in ("svg", "png"):
            figure.savefig(out / f"bench.{kind}", metadata={"Date": None} if kind == "svg" else None)
    return "bench.svg"


def _lines(sections: list[Section]) -> list[list[Panel]]:
    """Lay out what was measured on a device: panels in lines."""
    there = {section.key: section for section in sections}
    lines: list[list[Panel]] = []
    if section := there.get("selection"):
        lines.append([(4, lambda axes, kind=kind: _selection(axes, section, kind)) for kind in KINDS])  # type: ignore[misc]
    for pair in ((("steps", 7, _steps), ("input", 5, _input)), (("epoch", 6, _epoch), ("start", 6, _start))):
        panels: list[Panel] = [
            (wide, lambda axes, paint=paint, section=there[key]: paint(axes, section))  # type: ignore[misc]
            for key, wide, paint in pair
            if key in there
        ]
        lines += [panels] if panels else []
    return lines


def _selection(axes: Axes, section: Section, kind: str) -> None:
    """Draw what each way takes, in passes over the memory, by the number of scores."""
    groups = [group for group in section.groups() if group.endswith(kind)]
    sizes = [float(group.split()[0]) for group in groups]
    for way, (color, line, marker) in WAYS.items():
        found = [section.find(f"{way} / pass", group) for group in groups]
        passes = [row.median for row in found if row]
        if passes:
            label = NAMES.get(way, way)
            wide = 2.2 if way == "ours" else 1.4
            axes.plot(sizes, passes, color=color, linestyle=line, marker=marker, ms=4, lw=wide, label=label)
            if way == "ours":
                for size, number in zip(sizes, passes, strict=True):
                    place: dict[str, Any] = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center"}
                    place["bbox"] = {"color": "white", "pad": 0.5}  # a number may lie on the target's line
                    axes.annotate(written(number), (size, number), color=NAVY, fontsize=7.5, **place)
    axes.axhline(PASSES, color=COLORS["muted"], lw=0.8, ls=(0, (4, 3)))
    axes.text(0.01, PASSES * 1.08, "target: 3", transform=axes.get_yaxis_transform(), fontsize=7, color=COLORS["muted"])
    axes.set(xscale="log", yscale="log", ylim=(0.6, 20_000), xlabel="million scores", title=f"Selection: {kind}")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.grid(axis="y")
    if kind == KINDS[0]:
        axes.set_ylabel(f"passes over the memory, {section.device}")
        axes.legend(fontsize=7.5, ncols=2, loc="upper left", borderaxespad=0, columnspacing=1)


def _steps(axes: Axes, section: Section) -> None:
    """Draw the table's two ratios: what hiding costs, and how much longer the published algorithm takes."""
    nets = section.groups()
    for shift, what, digits, color, name in (
        (-0.2, "hidden / dense", 3, NAVY, "hidden, ours / dense"),
        (0.2, "plain / hidden", 2, GREY, "hidden, published algorithm written plainly / hidden, ours"),
    ):
        there = {place + shift: row for place, net in enumerate(nets) if (row := section.find(what, net))}
        axes.bar(list(there), [row.median for row in there.values()], 0.38, color=color, label=name)
        for place, row in there.items():
            axes.text(place, row.median, f"{row.median:.{digits}f}", ha="center", va="bottom", fontsize=8)
    axes.axhline(1, color=ORANGE, lw=1.2)
    dense = [row.median for net in nets if (row := section.find("dense", net))]
    axes.set_xticks(range(len(nets)), [f"{n}\ndense: {written(ms)} ms" for n, ms in zip(nets, dense, strict=True)])
    axes.set(ylabel=f"ratio of steps, {section.device}", title="A training step: ratios, paired by round")
    axes.margins(y=0.22)
    axes.legend(fontsize=7.5, loc="upper left")


def _input(axes: Axes, section: Section) -> None:
    """Draw images a second."""
    rows = [row for row in section.rows if row.unit == "images/s"]
    names, colors = [row.what.replace(", ", ",\n") for row in rows], [NAVY] + [GREY] * (len(rows) - 1)
    _bars(axes, names, [row.median for row in rows], "", colors)
    axes.set(xlabel=f"images/s, {section.device}", title="Augmented batches of 32x32 images")


def _epoch(axes: Axes, section: Section) -> None:
    """Draw the share of the peak, and say Lightning's part."""
    nets = [net for net in section.groups() if net != TINY]
    found = {what: [section.find(what, net) for net in nets] for what in ("share of the peak", "Lightning's share")}
    busy, added = ([row.median for row in rows if row] for rows in found.values())
    names = [f"{net}\nLightning's part:\n{written(share)}% of a step" for net, share in zip(nets, added, strict=True)]
    _bars(axes, names, busy, "%", [NAVY] * len(nets))
    axes.set(xlim=(0, max(100, *busy)), title="Trainer.fit: how much of the peak it reaches")
    axes.set_xlabel(f"operations a second, % of a large matrix product's, {section.device}")


def _start(axes: Axes, section: Section) -> None:
    """Draw how long processes take, and below the first step each of its stages, whose medians need not add up."""
    rows = section.rows
    names = [row.what if row.group else row.what.replace(" training", "\ntraining") for row in rows]
    _bars(axes, names, [row.median for row in rows], " s", [SKY if row.group == FIRST else NAVY for row in rows])
    axes.set(xlabel="seconds", title="From the start of a process; pale: the first step's stages")


def _bars(axes: Axes, names: list[str], numbers: list[float], unit: str, colors: list[str]) -> None:
    """Draw bars from the top down, each with its number and unit."""
    axes.barh(range(len(names)), numbers, 0.6, color=colors)
    for place, number in enumerate(numbers):
        axes.text(number, place, f" {written(number)}{unit}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.14)
