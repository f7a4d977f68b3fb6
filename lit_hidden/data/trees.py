"""Which image files a set has on disk: a tree `train/<wnid>/*`, `val/<wnid>/*`. No image is opened here."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from lit_hidden.data.files import SET_ROOT, checked
from lit_hidden.data.wnids import CLASS_LISTS

MEND = f"sort the images into train/<wnid>/ and val/<wnid>/, or {SET_ROOT} that holds the whole set"


@dataclass(frozen=True, eq=False)
class Images:
    """Image files and their classes, ordered by class, then by name."""

    names: np.ndarray  # paths, bytes `(N,)`: an array is memory that worker processes share
    labels: Tensor  # int64 `(N,)`

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return Path(os.fsdecode(self.names[index]))

    def take(self, indices: Tensor) -> "Images":
        """The images of these indices, in the files' order."""
        kept = indices.sort().values
        return Images(self.names[kept.numpy()], self.labels[kept])


class Tree(NamedTuple):
    """A set on disk; a label is a position in the classes, which are sorted by name."""

    classes: tuple[str, ...]
    train: Images
    val: Images


def parse_classes(name: str) -> tuple[tuple[str, ...] | None, int | None]:
    """Which classes `name` means, and how many; None where the folder decides. ValueError: it means none."""
    if name in CLASS_LISTS:
        return CLASS_LISTS[name], len(CLASS_LISTS[name])
    if found := re.fullmatch(r"first-([1-9]\d*)|all", name):
        return None, int(found[1]) if found[1] else None
    raise ValueError(f"classes={name!r} is unknown; it is one of {', '.join(CLASS_LISTS)}, first-N, all")


def read_tree(folder: Path, classes: str = "all", exactly: int | None = None) -> Tree:
    """List the images of some classes, see `parse_classes`; `exactly` so many must be there.

    Tiny ImageNet is read as it is published, too: test images in `val/images/`, classes in `val/val_annotations.txt`.
    DataError: there are other classes, a class has no images, or annotations do not fit the images.
    """
    wnids, count = parse_classes(classes)
    with checked(folder / "train", MEND):
        there, _ = find_classes(folder / "train")
        if exactly not in (None, len(there)) or len(there) < (count or 0):
            raise ValueError(f"it has {len(there)} class folders, not {exactly or count}")
    taken = tuple(wnids or there[:count])
    return Tree(taken, _images(folder / "train", taken), _images(folder / "val", taken))


def _images(folder: Path, classes: Sequence[str]) -> Images:
    """The images of these classes in a folder `train` or `val`."""
    labels = {wnid: label for label, wnid in enumerate(classes)}
    annotations, published = folder / "val_annotations.txt", folder / "images"
    if annotations.exists() and not (folder / classes[0]).is_dir():
        with checked(annotations, MEND):
            wnids = dict(line.split("\t")[:2] for line in annotations.read_text().splitlines())
            if wnids.keys() != set(os.listdir(published)):
                raise ValueError("it names other images than images/ holds")
        found = [(str(published / name), labels[wnid]) for name, wnid in wnids.items() if wnid in labels]
    else:
        with checked(folder, MEND):
            found = make_dataset(folder, labels, extensions=IMG_EXTENSIONS)
    found.sort(key=itemgetter(1, 0))
    return Images(np.array([os.fsencode(path) for path, _ in found]), torch.tensor([label for _, label in found]))
