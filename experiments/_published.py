"""Accuracies that others report, and the source of each: hollow markers in drawings, a column in the report.

The paper prints no CIFAR-10 accuracy as a number, only curves; so each point says who read or measured it. All are
test top-1 in percent, of nets of full width on whole data sets. `published.csv` leaves out the two dense nets of the
paper's panel of Conv8, 88.0 and 88.3 (which is which is not known), a third party's failed run of Conv8 at 10%, and a
point of Conv8 at 90% that lies below the figure's axis.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lit_hidden.recipes import SUBSET
from lit_hidden.report.tables import departures
from lit_hidden.run import Run


@dataclass(frozen=True)
class Source:
    """Who reports accuracies: a name for legends, what they are, and whether they follow the authors' protocol."""

    name: str
    what: str
    alike: bool = True


SOURCES = {
    "digitised": Source("the paper, digitised", "read from the paper's figure 3, Conv8, axis taken as 65 to 90; +-0.2"),
    "third party": Source(
        "third party, authors' code", "numbers typed into a third party's plotting script; single runs, it seems"
    ),
    "by eye": Source("third party, read by eye", "read off a third party's plot, made with the authors' code; +-0.3"),
    "quoted": Source(
        "quoted by Slot Machines",
        "the paper's best per net, by table 2 of Aladago & Torresani, arXiv:2101.06475",
    ),
    "zhou": Source(
        "Zhou et al., own protocol",
        "their best supermask per net, from notes on arXiv:1905.01067: no augmentation, other weights and schedule",
        alike=False,
    ),
    "authors": Source("the authors' README", "ImageNet top-1 printed in the README of the authors' code"),
    "torchvision": Source(
        "torchvision's weights",
        "of IMAGENET1K_V1, trained by its own recipe; from memory: the paper's figure 8 has 73.3 for ResNet-34 too",
        alike=False,
    ),
}


@dataclass(frozen=True)
class Published:
    """An accuracy and the fields of its Run; `density` of a hidden net is None where it is the best of several."""

    source: str
    net: str
    method: str
    accuracy: float
    distribution: str | None = None
    density: float | None = None
    optimizer: str = "sgd"
    data: str = "cifar10"


def _point(row: dict[str, str]) -> Published:
    numbers = {name: float(row[name]) for name in ("accuracy", "density") if row[name]}
    return Published(**{name: cell for name, cell in row.items() if cell} | numbers)  # type: ignore[arg-type]


with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
    POINTS = tuple(map(_point, csv.DictReader(file)))


def points(**where: object) -> Iterator[Published]:
    """Give the published points whose fields equal `where`."""
    return (p for p in POINTS if where.items() <= vars(p).items())


def same_images(run: Run) -> bool:
    """Tell whether a run has the authors' images: their data set, all its classes, as many and as large images."""
    return not {"data", *SUBSET} & departures([run]).keys()


def like_for_like(point: Published, run: Run) -> bool:
    """Tell whether a published accuracy and a run both follow the authors' protocol, uncut."""
    return SOURCES[point.source].alike and not departures([run])
