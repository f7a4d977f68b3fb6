"""Which image files a set has on disk: a tree `train/<wnid>/*`, `val/<wnid>/*`. No image is opened here."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from lit_hidden.data.files import SET_ROOT, checked

# The classes of known subsets of ImageNet. Imagenette, Imagewoof: https://github.com/fastai/imagenette. Tiny
# ImageNet-100: the 100 of Tiny ImageNet's 200 classes that this project measures with; the publisher has no such list.
# Several lists are called ImageNet-100: none is here.
_LISTS = json.loads(Path(__file__).with_name("wnids.json").read_text())
CLASS_LISTS: dict[str, tuple[str, ...]] = {name: tuple(wnids) for name, wnids in _LISTS.items()}
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


def pictures(paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """List files and what lies in folders, at any depth, sorted: pictures, and what in folders is none by its name."""
    found: list[Path] = []
    left_out: list[Path] = []
    for path in map(Path, paths):
        inside = [p for p in sorted(path.rglob("*")) if not (p.is_dir() or p.name.startswith("."))]
        found += [p for p in inside if _by_name(p)] if path.is_dir() else [path]
        left_out += [p for p in inside if not _by_name(p)]
    return found, left_out


def _by_name(path: str | Path) -> bool:
    """Tell whether Pillow reads files that are named so."""
    return Image.registered_extensions().get(Path(path).suffix.lower()) in Image.OPEN


def _images(folder: Path, classes: Sequence[str]) -> Images:
    """The images of these classes in a folder `train` or `val`."""
    labels = {wnid: label for label, wnid in enumerate(classes)}
    left_out: list[str] = []

    def valid(path: str) -> bool:
        takes = path.lower().endswith(IMG_EXTENSIONS)
        if not takes and _by_name(path):
            left_out.append(path)
        return takes

    annotations, published = folder / "val_annotations.txt", folder / "images"
    if annotations.exists() and not (folder / classes[0]).is_dir():
        with checked(annotations, MEND):
            wnids = dict(line.split("\t")[:2] for line in annotations.read_text().splitlines())
            if wnids.keys() != set(os.listdir(published)):
                raise ValueError("it names other images than images/ holds")
        found = [(str(published / name), labels[wnid]) for name, wnid in wnids.items() if wnid in labels]
    else:
        with checked(folder, MEND):
            found = make_dataset(folder, labels, is_valid_file=valid)
        if left_out:
            known = f"torchvision's sets are of {', '.join(IMG_EXTENSIONS)}"
            rank_zero_warn(f"{len(left_out)} images of {folder} are left out, such as {left_out[0]}; {known}")
    found.sort(key=itemgetter(1, 0))
    return Images(np.array([os.fsencode(path) for path, _ in found]), torch.tensor([label for _, label in found]))
