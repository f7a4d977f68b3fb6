"""Accuracies that others report, and the source of each: hollow markers in drawings, a column in the report.

The paper prints no CIFAR-10 accuracy as a number, only curves; so each point says who read or measured it. All are
test top-1 in percent, of nets of full width on whole data sets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


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


def _curve(source: str, net: str, distribution: str, *accuracies: float | None) -> list[Published]:
    """Pair accuracies with evenly spaced densities, 10% to 90%; None where there is no number."""
    densities = np.linspace(0.1, 0.9, len(accuracies)).round(1).tolist()
    pairs = zip(densities, accuracies, strict=True)
    return [Published(source, net, "edge_popup", a, distribution, density) for density, a in pairs if a is not None]


def _nets(source: str, method: str, accuracies: dict[str, float], **more: Any) -> list[Published]:
    return [Published(source, net, method, accuracy, **more) for net, accuracy in accuracies.items()]


_AUTHORS: dict[str, Any] = {"density": 0.3, "data": "imagenet"}
# Left out: the two dense nets of the paper's panel of Conv8, 88.0 and 88.3; which is which is not known.
POINTS: tuple[Published, ...] = (
    *_curve("by eye", "conv2", "kaiming_normal", 65.0, 73.1, 74.9, 75.9, 75.8, 74.7, 71.2, 65.4, 52.3),
    *_curve("by eye", "conv2", "signed_constant", 61.2, 72.9, 76.3, 77.4, 77.9, 76.8, 74.5, 70.0, 56.4),
    Published("by eye", "conv2", "dense", 78.0),
    *_curve("third party", "conv2", "kaiming_normal", 66.19, 74.93, 75.61, 71.54, None),
    *_curve("third party", "conv2", "signed_constant", 62.13, 76.19, 78.17, 74.59, None),
    *_curve("third party", "conv4", "kaiming_normal", 73.78, 83.30, 83.60, 78.98, None),
    *_curve("third party", "conv4", "signed_constant", 72.45, 84.44, 86.07, 83.20, None),
    *_curve("third party", "conv6", "kaiming_normal", 78.27, 86.05, 86.78, 83.41, None),
    *_curve("third party", "conv6", "signed_constant", 73.99, 86.51, 88.17, 86.57, None),
    *_curve("third party", "conv8", "kaiming_normal", 67.01, 87.11, 87.96, 84.63, None),
    *_curve("third party", "conv8", "signed_constant", None, 87.87, 89.20, 87.57, None),  # its run at 10% failed
    *_curve("digitised", "conv8", "kaiming_normal", 71.7, 87.2, 87.7, 84.85, None),  # at 90%: below the axis, 65
    *_curve("digitised", "conv8", "signed_constant", 67.9, 87.9, 89.15, 87.6, 71.3),
    *_nets("third party", "dense", {"conv2": 79.16, "conv4": 86.66, "conv6": 87.82, "conv8": 88.81}, optimizer="adam"),
    *_nets("third party", "dense", {"conv2": 78.13, "conv4": 86.21, "conv6": 88.43, "conv8": 89.05}),
    *_nets("quoted", "edge_popup", {"conv2": 77.7, "conv4": 85.8, "conv6": 88.1}),
    *_nets("zhou", "supermask", {"conv2": 66.0, "conv4": 72.5, "conv6": 76.5}),
    *_nets("authors", "edge_popup", {"resnet50": 61.7, "resnet101": 66.15, "wide_resnet50_2": 67.9},
           distribution="kaiming_normal", **_AUTHORS),
    *_nets("authors", "edge_popup", {"resnet50": 68.6, "resnet101": 72.3, "wide_resnet50_2": 73.3},
           distribution="signed_constant", **_AUTHORS),
    *_nets("torchvision", "dense", {"resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.130, "resnet101": 77.374,
                                    "wide_resnet50_2": 78.468}, data="imagenet"),
)  # fmt: skip


def points(**where: object) -> Iterator[Published]:
    """Give the published points whose fields equal `where`."""
    return (p for p in POINTS if where.items() <= vars(p).items())
