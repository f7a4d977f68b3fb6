"""What lies on disk: trees `train/<class>/*`, `val/<class>/*`, and the other layouts of ImageNet's publishers.

Everything that can be known without opening an image is checked here, before anything is trained.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_hidden.data.files import DataError, Unfit
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.files import regular

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")  # in any case
MEND = "set DATA_DIR (--data-dir; of fit: --data.root) to a folder that holds the whole set"

# These classes; the first so many, ordered by name; or None: all that are there.
Chosen = tuple[str, ...] | int | None


@dataclass(frozen=True)
class Images:
    """Image files and their classes, ordered by class, then by name.

    `names` are paths below `folder`, as bytes `(N,)`: of a million, worker processes share the memory as long as
    they are no Python objects. `labels` is int64 `(N,)`.
    """

    folder: Path
    names: np.ndarray
    labels: Tensor

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
    """A set on disk: its classes, sorted by name, whose places are the labels, and its images."""

    folder: Path
    classes: tuple[str, ...]
    train: Images
    val: Images


def parse_classes(name: str) -> Chosen:
    """Say which classes `name` means.

    Args:
        name: a list of `CLASS_LISTS`, `first-N`, `all`, or a file with a class at the start of each line.

    Raises:
        ValueError: it is none of these, or chooses no class.
        DataError: the file is damaged.
    """
    if name in CLASS_LISTS:
        return CLASS_LISTS[name]
    if name == "all":
        return None
    if first := re.fullmatch(r"first-(\d+)", name):
        if int(first[1]) < 1:
            raise ValueError(f"classes={name!r} chooses no class; N of first-N must be at least 1")
        return int(first[1])
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(
            f"classes={name!r} is unknown; it is one of {', '.join(CLASS_LISTS)}, first-N, all, "
            "or a file that begins each line with a class"
        )
    with _reading(path):
        wnids = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        if not wnids:
            raise Unfit("names no class")
        _refuse_twice(wnids)
    return tuple(wnids)


def find_tree(root: Path, folders: Sequence[str]) -> Path | None:
    """The first of these folders of `root`, or `root` itself, that has `train/` and `val/`; None if none has."""
    candidates = (*(root / name for name in folders), root)
    return next((f for f in candidates if (f / "train").is_dir() and (f / "val").is_dir()), None)


def read_tree(folder: Path, classes: str = "all", exactly: int | None = None) -> Tree:
    """List the images of some classes; no image is opened.

    `train/<class>/` holds images, or has them in `images/`, as Tiny ImageNet's. `val/` holds the same classes; or
    all images in `images/` and `val_annotations.txt`, as Tiny ImageNet's; or ILSVRC-2012's images side by side, and
    near them the development kit, Kaggle's `LOC_val_solution.csv` or torchvision's `meta.bin`. What is hidden or has
    another ending than an image is passed over.

    Args:
        folder: holds `train/` and `val/`.
        classes: see `parse_classes`.
        exactly: number of classes that `train/` must have.

    Raises:
        ValueError: `classes` is unknown.
        DataError: a class is missing, has no images, or is in one of `train/` and `val/` alone; annotations and
            images do not fit together.
    """
    train, val = folder / "train", folder / "val"
    there = _folders(train)
    if not there:
        raise DataError(f"{train} has no class folders; {MEND}")
    if exactly is not None and len(there) != exactly:
        raise DataError(
            f"{train} has {len(there)} class folders, not {exactly}; {MEND}, "
            "or take the classes that are there: classes='all' (of fit: --data.classes all)"
        )
    chosen = _choose(classes, there, train)
    val_names = _val_names(folder)
    if len(chosen) == len(there):
        _same_classes(train, there, val, val_names)
        if (wnids := folder / "wnids.txt").is_file():  # Tiny ImageNet's list of its classes
            with _reading(wnids):
                _same_classes(train, there, wnids, wnids.read_text().split())
    elif missing := [name for name in chosen if name not in val_names]:
        raise DataError(f"{val} has no images of {_some(missing)}, which {train} has; {MEND}")
    train_names = {name: _names(folder, f"train/{name}/images", f"train/{name}") for name in chosen}
    return Tree(folder, chosen, _images(folder, train, train_names), _images(folder, val, val_names, chosen))


def _choose(classes: str, there: Sequence[str], train: Path) -> tuple[str, ...]:
    chosen = parse_classes(classes)
    if isinstance(chosen, tuple):
        if missing := sorted(set(chosen) - set(there)):
            raise DataError(f"{train} has no folder {_some(missing)}, of classes={classes!r}; {MEND}")
        return tuple(sorted(chosen))
    if chosen is not None and chosen > len(there):
        raise DataError(f"{train} has {len(there)} class folders, fewer than classes={classes!r} asks for; {MEND}")
    return tuple(there[:chosen])


def _val_names(folder: Path) -> Mapping[str, Sequence[str]]:
    """Of each class the paths below `folder` of its images in `val/`."""
    val = folder / "val"
    if annotated := _names(folder, "val/images") if (val / "images").is_dir() else []:
        source = val / "val_annotations.txt"
        with _reading(source):
            lines = [line.split("\t") for line in source.read_text().splitlines()]
            if odd := [i for i, fields in enumerate(lines, 1) if len(fields) < 2]:
                raise Unfit(f"has no class in line {odd[0]}")
        return _sort_out(annotated, [(fields[0], fields[1]) for fields in lines], source)
    loose = _names(folder, "val")
    if classes := [name for name in _folders(val) if name != "images"]:  # an empty one, whose images were sorted
        if loose:
            raise DataError(f"{val} has class folders, and {_some(loose)} outside them; move these where they belong")
        return {name: _names(folder, f"val/{name}/images", f"val/{name}") for name in classes}
    if not loose:
        raise DataError(f"{val} has neither class folders nor images; {MEND}")
    pairs, source = _ilsvrc_labels(folder)
    return _sort_out(loose, pairs, source)


def _ilsvrc_labels(folder: Path) -> tuple[list[tuple[str, str]], Path]:
    """Names of ILSVRC-2012's validation images, without ending, with their classes; and the file that says so."""
    places = (folder / "val", folder, *list(folder.parents)[:3])  # Kaggle's lies three above Data/CLS-LOC/
    kits = [place / kit for place in places for kit in (".", "data", "ILSVRC2012_devkit_t12/data")]
    for place in places:
        if (source := place / "LOC_val_solution.csv").is_file():
            with _reading(source), source.open(newline="") as lines:
                rows = csv.DictReader(lines)
                return [(row["ImageId"], row["PredictionString"].split()[0]) for row in rows], source
        if (source := place / "meta.bin").is_file():
            with _reading(source):
                _, wnids = torch.load(source, weights_only=True)
                return _numbered(wnids), source
    for kit in kits:
        if (source := kit / "ILSVRC2012_validation_ground_truth.txt").is_file():
            with _reading(kit / "meta.mat"), (kit / "meta.mat").open("rb") as file:
                from scipy.io import loadmat

                synsets = loadmat(file, squeeze_me=True)["synsets"]
                wnid = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True))
            with _reading(source):
                return _numbered(wnid[int(number)] for number in source.read_text().split()), source
    raise DataError(
        f"{folder / 'val'} has images and no class folders, and nothing says their classes; sort them into "
        f"val/<class>/, or place ILSVRC2012_devkit_t12/ (the development kit) or LOC_val_solution.csv in {folder}"
    )


def _numbered(wnids: Iterable[str]) -> list[tuple[str, str]]:
    return [(f"ILSVRC2012_val_{number:08d}", wnid) for number, wnid in enumerate(wnids, 1)]


def _sort_out(paths: Sequence[str], pairs: Sequence[tuple[str, str]], source: Path) -> dict[str, list[str]]:
    """Sort images by what `source` says of each, by name with or without ending; it must say it of all and no others.

    Tiny ImageNet's annotations name `val_0.JPEG`, Kaggle's `ILSVRC2012_val_00000001`.
    """
    stems = {_stem(path): path for path in paths}
    with _reading(source):
        _refuse_twice([name for name, _ in pairs])
        if len(stems) < len(paths):
            raise Unfit(f"does not tell {_twice([_stem(path) for path in paths])} from another file of that name")
        labels = {_stem(name): wnid for name, wnid in pairs}
        if missing := sorted(labels.keys() - stems.keys()):
            raise Unfit(f"names {_some(missing)}, which is not there")
        if silent := sorted(stems.keys() - labels.keys()):
            raise Unfit(f"says nothing of {_some([stems[stem] for stem in silent])}")
    by_class: dict[str, list[str]] = {}
    for stem, path in stems.items():
        by_class.setdefault(labels[stem], []).append(path)
    return by_class


def _images(folder: Path, part: Path, names: Mapping[str, Sequence[str]], classes: Sequence[str] = ()) -> Images:
    lists = [names[name] for name in classes or names]
    if empty := [name for name, paths in zip(classes or names, lists, strict=True) if not paths]:
        raise DataError(
            f"{part / empty[0]} holds no image ({', '.join(SUFFIXES)}){_more(empty)}; {MEND}, "
            "or leave the class out: classes=FILE (of fit: --data.classes FILE)"
        )
    labels = torch.arange(len(lists)).repeat_interleave(torch.tensor([len(paths) for paths in lists]))
    return Images(folder, np.array([os.fsencode(path) for paths in lists for path in paths]), labels)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _names(folder: Path, *places: str) -> list[str]:
    """The paths below `folder` of the images in the first place that is a folder."""
    place = next((place for place in places if (folder / place).is_dir()), places[-1])
    with _reading(folder / place):
        entries = sorted(os.listdir(folder / place))
    # Hidden ones are none: macOS leaves a ._x.JPEG beside each x.JPEG.
    return [f"{place}/{e}" for e in entries if not e.startswith(".") and e.lower().endswith(SUFFIXES)]


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _same_classes(first: Path, ours: Iterable[str], second: Path, theirs: Iterable[str]) -> None:
    for here, there, lacking in ((first, second, set(ours) - set(theirs)), (second, first, set(theirs) - set(ours))):
        if lacking:
            raise DataError(
                f"{here} has {_some(sorted(lacking))}, of which there is nothing in {there}; {MEND}, "
                "or leave the class out: classes=FILE (of fit: --data.classes FILE)"
            )


def _refuse_twice(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise Unfit(f"names {_twice(names)} twice")


def _twice(names: Sequence[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def _some(names: Sequence[str]) -> str:
    return f"{names[0]}{_more(names)}"


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise a `DataError` that names `path` for whatever reading it raises."""
    try:
        regular(path)
        yield
    except DataError:
        raise
    except Unfit as error:
        raise DataError(f"{path} {error}; {MEND}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {MEND}") from error
    except Exception as error:  # what a damaged file may raise has no bounds
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); {MEND}") from error
