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
from matplotlib.lines import Line2D

from experiments import _imagenet as imagenet_grid
from experiments import _panels as panels
from experiments._published import like_for_like, points
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

NEAR = 1.0  # points
METHODS = {"dense": "dense, trained", "random": "random mask", "edge_popup": "edge-popup"}
COLUMNS = (  # where each is, in inches, its side, and its heading
    (0.15, "left", "net"), (1.5, "left", "method"), (2.85, "left", "random weights"), (5.35, "right", "kept"),
    (6.4, "right", "parameters"), (7.5, "right", "accuracy (%)"), (9.7, "right", "over seeds that train"),
    (11.1, "right", "authors' README"),
)  # fmt: skip
LINE, MARGIN, FOOT = 0.26, 0.15, 0.45  # inches


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
    columns = COLUMNS if any(published(part) is not None for part in parts) else COLUMNS[:-1]
    width, height = columns[-1][0] + MARGIN, FOOT + LINE * (len(parts) + 1)
    figure.set_size_inches(width, height)
    nets = ["", *(part.runs[0].net for part in parts), ""]
    lines = [[heading for *_, heading in columns]]
    lines += [line(part, net != above) for part, net, above in zip(parts, nets[1:], nets, strict=False)]
    for row, words in enumerate(lines):
        y = height - LINE * (row + 1)
        for (x, side, _), text in zip(columns, words, strict=False):  # the last column may be left out
            figure.text(x / width, y / height, text, ha=side, va="baseline", weight="normal" if row else "bold")
        if nets[row] != nets[row + 1] or row == 0:  # a rule below
            ends, thickness = (MARGIN / width, 1 - MARGIN / width), 1.0 if row in (0, len(parts)) else 0.4
            rule = Line2D(ends, [(y - 0.09) / height] * 2, color=style.COLORS["ink"], linewidth=thickness)
            figure.add_artist(rule)


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
