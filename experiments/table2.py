"""Table 2: the subnetworks of ResNets on ImageNet in numbers.

The appendix's table has, for 30% of ResNet-50, ResNet-101 and Wide ResNet-50, of Kaiming normal and of signed constant
weights, the number of weights kept and ImageNet's top-1 accuracy; the authors' README prints it too. The runs are
figure 8's. Added here: the dense nets, a random mask, and the range over seeds; at the paper preset also ResNet-50 with
the authors' settings of `resnet50-sc`, whose constants are scaled as in their code and whose rate is 0.1.

Source: Ramanujan et al., arXiv:1911.13299, appendix A (the table as in the README; its heading from memory, to be
checked); hyper-parameters from the authors' configs.
Cost: quick 24 runs, 3 minutes on two busy cores; short 24, an estimated hour; paper 39, of which 36 of 100 epochs,
each of them days of one GPU. After figure 8 the last three alone.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import nan
from typing import Any

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from experiments import _imagenet as imagenet_grid
from lit_hidden.judge import Claim
from lit_hidden.report import panels, style
from lit_hidden.report.published import points
from lit_hidden.report.tables import like_for_like
from lit_hidden.results import Results
from lit_hidden.run import Run

NEAR = 1.0  # points
METHODS = {"dense": "dense, trained", "random": "random mask", "edge_popup": "edge-popup"}
HEADINGS = (
    "net", "method", "random weights", "kept", "parameters", "accuracy (%)", "over seeds that train", "authors' README"
)  # fmt: skip
LINE, FOOT = 0.26, 0.45  # inches


def runs(preset: str) -> list[Run]:
    grid = imagenet_grid.runs(preset)
    if preset == "paper":
        constants = [run for run in imagenet_grid.hidden(preset) if run.distribution == "signed_constant"]
        # As their resnet50-sc.
        grid += [replace(run, scaled="authors", lr=0.1) for run in constants if run.net == "resnet50"]
    return imagenet_grid.by_seed(grid)


def cells(results: Results) -> list[Results]:
    """Part results into the table's lines: net by net, dense before random before found."""
    fields, nets, methods = ("net", "method", "distribution", "scaled"), list(imagenet_grid.NETS), list(METHODS)
    parts: Iterable[tuple[Any, ...]] = dict.fromkeys(
        tuple(getattr(run, name) for name in fields) for run in results.runs
    )
    parts = sorted(parts, key=lambda part: (nets.index(part[0]), methods.index(str(part[1])), *map(str, part[2:])))
    return [results.select(**dict(zip(fields, part, strict=True))) for part in parts]


def published(results: Results) -> float | None:
    """Give the accuracy that the authors report of these runs, if those are of their protocol."""
    run = results.runs[0]
    where = {name: getattr(run, name) for name in ("net", "method", "distribution", "density", "data")}
    return next((point.accuracy for point in points(**where) if like_for_like(point, run)), None)


def off(results: Results) -> list[float]:
    """List the points to the margin, either way, of each published accuracy; NaN where there is none."""
    found = cells(results.select(method="edge_popup"))
    known = [(cell, accuracy) for cell in found if (accuracy := published(cell)) is not None]
    differences = [cell.mean() - accuracy for cell, accuracy in known]
    return [NEAR + side * difference for difference in differences for side in (1, -1)] or [nan]


CLAIMS = [
    Claim(
        f"by the authors' protocol, each accuracy is within {NEAR:g} point of the one in their README", off,
        floor=lambda r: [cell.mean() for cell in cells(r.select(method="edge_popup"))],
    ),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    parts = cells(results)
    nets = [part.runs[0].net for part in parts]
    lines = [line(part, net != above) for part, net, above in zip(parts, nets, ["", *nets], strict=False)]
    known = any(published(part) is not None for part in parts)
    headings = HEADINGS if known else HEADINGS[:-1]
    height = FOOT + LINE * (len(parts) + 1)
    figure.set_size_inches(11.25, height)
    axes = figure.add_axes((0.01, FOOT / height, 0.98, 1 - FOOT / height))
    axes.axis("off")
    rows = [words[: len(headings)] for words in lines]
    table = axes.table(rows, colLabels=headings, cellLoc="right", loc="center", edges="", bbox=Bbox.unit())
    table.auto_set_font_size(False)
    table.auto_set_column_width(range(len(headings)))
    for (row, column), cell in table.get_celld().items():
        cell.set_text_props(weight="bold" if row == 0 else "normal", ha="left" if column < 3 else "right")
        cell.visible_edges = "B" if row in (0, len(lines)) or nets[row - 1 : row] != nets[row : row + 1] else ""
        cell.set_edgecolor(style.COLORS["ink"])


def line(cell: Results, first: bool) -> list[str]:
    """Write one line's cells; the net is named in its first line."""
    run, known, found = cell.runs[0], published(cell), panels.trained(cell)
    spread = f"{min(found.values()):.2f} to {max(found.values()):.2f}" if len(found) else ""
    return [
        imagenet_grid.NETS[run.net] if first else "",
        METHODS[str(run.method)],
        "" if run.method == "dense" else panels.weights(str(run.distribution), bool(run.scaled)).label,
        f"{100 * (run.density or 1):g}%",
        panels.count(cell.mean("parameters")),
        f"{found.mean():.2f}" if len(found) else "\u2013",
        "; ".join(filter(None, (panels.lost(cell), spread))),
        "\u2013" if known is None else f"{known:g}",
    ]
