"""Which image files a set has on disk: trees `train/<class>/*`, `val/<class>/*`, and the publishers' layouts.

Everything that can be known without opening an image is checked here, before anything is trained.
"""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import make_dataset

from lit_hidden.data.files import SET_ROOT, DataError, Unfit, checked
from lit_hidden.data.wnids import CLASS_LISTS

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")  # in upper or lower case
MEND = f"{SET_ROOT} that holds the whole set"
DEVKIT = "ILSVRC2012_devkit_t12"

Labelled = list[tuple[str, str]]  # paths of images below the set's folder, each with its class


@dataclass(frozen=True, eq=False)
class Images:
    """Image files and their classes, ordered by class, then by name."""

    folder: Path
    names: np.ndarray  # paths below `folder`, bytes `(N,)`: an array is memory that worker processes share
    labels: Tensor  # int64 `(N,)`

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(self.names[index])

    def take(self, indices: Tensor) -> "Images":
        """The images of these indices, in the order of the files."""
        kept = indices.sort().values
        return Images(self.folder, self.names[kept.numpy()], self.labels[kept])


@dataclass(frozen=True)
class Tree:
    """A set on disk."""

    folder: Path
    classes: tuple[str, ...]  # sorted by name; a label is a position in them
    train: Images
    val: Images


def parse_classes(name: str) -> tuple[str, ...] | int | None:
    """Say which classes `name` means: these, the first so many ordered by name, or (None) all that are there.

    It is one of `CLASS_LISTS`, `first-N`, `all`, or a file with a class at the start of each line; else a `ValueError`.
    """
    if name in CLASS_LISTS or name == "all":
        return CLASS_LISTS.get(name)
    if first := re.fullmatch(r"first-([1-9]\d*)", name):
        return int(first[1])
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(
            f"classes={name!r} is unknown; it is one of {', '.join(CLASS_LISTS)}, first-N, all, "
            "or a file that begins each line with a class"
        )
    with checked(path, MEND):
        wnids = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        if not wnids or len(set(wnids)) < len(wnids):
            raise Unfit("names no class, or a class twice")
    return tuple(wnids)


def find_tree(root: Path, folders: Sequence[str]) -> Path | None:
    """The first of these folders of `root`, or `root` itself, that has `train/` and `val/`; None if none has."""
    candidates = (*(root / name for name in folders), root)
    return next((f for f in candidates if (f / "train").is_dir() and (f / "val").is_dir()), None)


def read_tree(folder: Path, classes: str = "all", exactly: int | None = None) -> Tree:
    """List the images of some classes; no image is opened.

    `train/<class>/` holds images, in subfolders too. `val/` holds the same classes; or all images in `images/` beside
    `val_annotations.txt`, as Tiny ImageNet's; or ILSVRC-2012's images without folders, and near them the development
    kit or Kaggle's `LOC_val_solution.csv`. Hidden files and files that do not end like images are ignored. See
    `parse_classes` for `classes`; `exactly` so many must be there.

    Raises:
        DataError: a class is missing or without images, or annotations do not fit the images.
    """
    train, val = folder / "train", folder / "val"
    there, chosen = _folders(train), parse_classes(classes)
    least = exactly or (chosen if isinstance(chosen, int) else 1)
    if len(there) < least or (exactly and len(there) > exactly):
        raise DataError(
            f"{train} has {len(there)} class folders, not {least}; {MEND}, or take the classes that are there: "
            "classes='all' (of fit: --data.classes all)"
        )
    taken = tuple(sorted(chosen)) if isinstance(chosen, tuple) else tuple(there[:chosen])
    _need(f"classes={classes!r}", taken, train, there)
    trained, tested = _in_folders(folder, "train", taken), _validation(folder)
    _need("the chosen classes", taken, train, (name for _, name in trained))
    _need("the chosen classes", taken, val, (name for _, name in tested))
    if len(taken) == len(there):
        _need(val, (name for _, name in tested), train, there)
    return Tree(folder, taken, _images(folder, trained, taken), _images(folder, tested, taken))


def _need(which: object, names: Iterable[str], where: Path, there: Iterable[str]) -> None:
    """Raise a `DataError` if `where` lacks one of `names`."""
    if missing := sorted(set(names) - set(there)):
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise DataError(
            f"{where} has no images ({', '.join(SUFFIXES)}) of {missing[0]}{more}, needed for {which}; {MEND}, "
            "or leave the class out: classes=FILE (of fit: --data.classes FILE)"
        )


def _validation(folder: Path) -> Labelled:
    """All images in `val/`."""
    val = folder / "val"
    classes, annotated, loose = _folders(val), _files(folder, "val/images"), _files(folder, "val")
    if annotated:
        source = val / "val_annotations.txt"
        with checked(source, MEND):
            lines = [line.split("\t") for line in source.read_text().splitlines()]
            return _sort_out(annotated, [(fields[0], fields[1]) for fields in lines])
    if bool(classes) == bool(loose):
        raise DataError(f"{val} must hold class folders or else images, and has both or neither; {MEND}")
    return _in_folders(folder, "val", classes) if classes else _ilsvrc(folder, loose)


def _ilsvrc(folder: Path, paths: Sequence[str]) -> Labelled:
    """ILSVRC-2012's validation images with the classes that Kaggle's table or the development kit names."""
    for place in (folder / "val", folder, *list(folder.parents)[:3]):  # Kaggle's lies three above Data/CLS-LOC/
        if (source := place / "LOC_val_solution.csv").is_file():
            with checked(source, MEND), source.open(newline="") as lines:
                rows = csv.DictReader(lines)
                return _sort_out(paths, [(row["ImageId"], row["PredictionString"].split()[0]) for row in rows])
        for kit in (place, place / DEVKIT / "data"):
            if (source := kit / "ILSVRC2012_validation_ground_truth.txt").is_file():
                with checked(kit / "meta.mat", MEND), (kit / "meta.mat").open("rb") as file:
                    from scipy.io import loadmat

                    synsets = loadmat(file, squeeze_me=True)["synsets"]
                    wnid = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True))
                with checked(source, MEND):
                    numbers = enumerate(source.read_text().split(), 1)
                    return _sort_out(paths, [(f"ILSVRC2012_val_{i:08d}", wnid[int(number)]) for i, number in numbers])
    raise DataError(
        f"{folder / 'val'} has images and no class folders, and nothing says their classes; sort them into "
        f"val/<class>/, or place {DEVKIT}/ (the development kit) or LOC_val_solution.csv in {folder}"
    )


def _sort_out(paths: Sequence[str], pairs: Labelled) -> Labelled:
    """Label images by pairs of a name, with or without ending, and a class."""
    labels = {Path(name).stem: label for name, label in pairs}
    images = {Path(path).stem: path for path in paths}
    if not len(pairs) == len(labels) == len(images) == len(paths) or labels.keys() != images.keys():
        odd = sorted(labels.keys() ^ images.keys())[:1]
        raise Unfit(f"names {len(pairs)} images, of which there are {len(paths)}; they differ in {odd or 'doubles'}")
    return [(path, labels[stem]) for stem, path in images.items()]


def _images(folder: Path, labelled: Labelled, classes: Sequence[str]) -> Images:
    """The images of these classes."""
    label = {name: i for i, name in enumerate(classes)}
    kept = sorted((label[name], path) for path, name in labelled if name in label)
    names = np.array([os.fsencode(path) for _, path in kept])
    return Images(folder, names, torch.tensor([label for label, _ in kept]))


def _in_folders(folder: Path, part: str, classes: Sequence[str]) -> Labelled:
    """The images in `part/<class>/` of these classes."""
    start = len(str(folder / part)) - len(part)

    def is_image(path: str) -> bool:  # hidden ones are none: macOS leaves a ._x.JPEG beside each x.JPEG
        return path.lower().endswith(SUFFIXES) and "/." not in path[start:]

    numbers = {name: i for i, name in enumerate(classes)}
    found = make_dataset(folder / part, numbers, is_valid_file=is_image, allow_empty=True)
    return [(path[start:], classes[number]) for path, number in found]


def _folders(folder: Path) -> list[str]:
    """The names of its folders that may be classes."""
    names = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}
    return sorted(names - {"images"})


def _files(folder: Path, part: str) -> list[str]:
    """The images that lie in `part` itself."""
    names = sorted(os.listdir(folder / part)) if (folder / part).is_dir() else []
    return [f"{part}/{name}" for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
