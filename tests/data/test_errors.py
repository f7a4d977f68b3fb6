"""What is refused: what is done -> what the error says of it."""

import errno
import gzip
import os
import pickle
import re
import runpy
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_hidden.data import (
    BatchLoader,
    CIFAR10Data,
    DataError,
    DigitsData,
    ImageNet100Data,
    ImageNetData,
    ImagenetteData,
    MNISTData,
    TinyImageNet100Data,
    data_module,
)
from lit_hidden.data.cache import open_cache
from lit_hidden.data.trees import parse_classes, read_tree
from lit_hidden.data.wnids import CLASS_LISTS

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]

ABC = ["n01", "n02", "n03"]
BIN, PY, RAW = "cifar-10-batches-bin", "cifar-10-batches-py", "MNIST/raw"


def loader(**change):
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
    return BatchLoader(
        **{"images": images, "labels": labels, "batch_size": 2, "mean": (0,) * 3, "std": (1,) * 3} | change
    )


def abc(root, **options):
    """Three classes of 4 training and 2 test images."""
    plant(root / "imagenet", tree(ABC))
    return ImageNetData(str(root), **{"classes": "all", "image_size": 16, "workers": 0, "held_out": 0} | options)


ARGUMENTS = [
    (lambda root: data_module("svhn"), "no data called 'svhn'; there is cifar10, mnist, digits, imagenet, "),
    (lambda root: DigitsData(held_out=1437), "held_out=1437 and train_images=None cannot be taken from digits's 1437"),
    (lambda root: DigitsData(held_out=-1), "held_out=-1 and"),
    (lambda root: DigitsData(held_out=100, train_images=1338), "held_out=100 and train_images=1338 cannot be"),
    (lambda root: DigitsData(train_images=0), "train_images=0 cannot be"),
    (lambda root: abc(root, held_out=12).prepare_data(), "cannot be taken from imagenet's 12 training images"),
    (lambda root: MNISTData(augment=True), "augment=True is not defined for mnist; it must be False or None"),
    (lambda root: DigitsData(augment="square"), "augment='square' is not defined for digits; it must be True, "),
    (lambda root: DigitsData(batch_size=0), "batch_size=0 holds no image; it must be at least 1"),
    (lambda root: ImageNetData(image_size=0), "image_size=0 has no pixels; it must be at least 1"),
    (lambda root: ImageNetData(images_per_class=0), "images_per_class=0 with train_images=None cannot be"),
    (lambda root: ImageNetData(images_per_class=5, train_images=50), "images_per_class=5 with train_images=50 cannot"),
    (lambda root: abc(root, images_per_class=4, held_out=2).setup(), "train/n01, which with held_out=2 has 3"),
    (lambda root: parse_classes("first-0"), "classes='first-0' is unknown; it is one of imagenette, "),
    (lambda root: ImageNetData(classes="imagenet10"), "classes='imagenet10' is unknown"),
    (lambda root: loader(batch_size=0), "batch_size=0 leaves a rank without images"),
    (lambda root: loader(batch_size=3, world_size=4), "must be at least world_size=4"),
    (lambda root: loader(images=torch.zeros(4, 3, 8, 8)), "images torch.float32 (4, 3, 8, 8), labels"),
    (lambda root: loader(images=torch.zeros(0, 3, 8, 8, dtype=torch.uint8)), "images torch.uint8 (0, 3, 8, 8)"),
    (lambda root: loader(images=torch.zeros(4, 3, 8, dtype=torch.uint8)), "images torch.uint8 (4, 3, 8)"),
    (lambda root: loader(labels=torch.arange(3)), "labels torch.int64 (3,)"),
    (lambda root: loader(labels=torch.arange(4).int()), "labels torch.int32 (4,)"),
    (lambda root: loader(std=(1,)), "mean (0, 0, 0) and std (1,) do not fit together"),
]


@pytest.mark.parametrize(("do", "says"), ARGUMENTS)
def test_an_argument_that_cannot_be_is_refused(tmp_path, do, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        do(tmp_path)


# --- files of CIFAR-10 and MNIST -------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os._exit, (1,)


def laughs(depth: int = 100) -> bytes:
    """Labels that are lists of twice the same list: 2**depth numbers in a few hundred bytes."""
    labels: list = [0]
    for _ in range(depth):
        labels = [labels, labels]
    return pickle.dumps({b"data": b"", b"labels": labels}, 2)


NOT_THEIRS = "is not the publisher's (its MD5 is not "
NO_DIGITS = "does not hold digits: its values are all zero, or its labels are not 0 to 9"
NO_IDX = "is not an IDX file of 10000 bytes"
LABELS, PIXELS = struct.pack(">2I", 2049, 10_000), struct.pack(">4I", 2051, 10_000, 28, 28)
GOOD = gzip.compress(LABELS + bytes(range(10)) * 1000, mtime=0)


@pytest.mark.parametrize(
    ("layout", "name", "content", "says"),
    [
        (BIN, "data_batch_3.bin", None, "is missing"),
        (BIN, "test_batch.bin", bytes(1000), "has 1000 bytes, not 30730000"),
        (BIN, "test_batch.bin", bytes(30_730_000), "does not have 1000 images of each of the 10 classes"),
        (BIN, "data_batch_1.bin", b"7*" * 15_365_000, "does not have 5000 images of each of the 10 classes"),
        (BIN, "data_batch_3.bin", os.mkfifo, "cannot be read (UnsupportedOperation: "),
        (PY, "data_batch_2", None, "is missing"),
        (PY, "data_batch_5", os.mkdir, "cannot be read (IsADirectoryError: "),
        (PY, "data_batch_5", os.mkfifo, "is a pipe, not a file"),
        (PY, "data_batch_1", b"<html>404</html>", NOT_THEIRS),
        (PY, "data_batch_1", pickle.dumps(Evil(), 2), NOT_THEIRS),
        (PY, "data_batch_1", laughs(), NOT_THEIRS),
        (PY, "data_batch_1", lambda path: turned(path), NOT_THEIRS),
        (RAW, "train-labels-idx1-ubyte", None, "is missing"),
        (RAW, "t10k-images-idx3-ubyte", PIXELS, "is not an IDX file of 10000 x 28 x 28 bytes"),
        (RAW, "t10k-images-idx3-ubyte", PIXELS + bytes(7_840_000), NO_DIGITS),
        (RAW, "t10k-labels-idx1-ubyte", b"<html>404</html>", NO_IDX),
        (RAW, "t10k-labels-idx1-ubyte", LABELS + bytes(10_009), NO_IDX),
        (RAW, "t10k-labels-idx1-ubyte", LABELS + bytes(10_000), NO_DIGITS),
        (RAW, "t10k-labels-idx1-ubyte", LABELS + b"\x0a" * 10_000, NO_DIGITS),
        (RAW, "t10k-labels-idx1-ubyte.gz", gzip.compress(LABELS + bytes(10**7)), NO_IDX),
        (RAW, "t10k-labels-idx1-ubyte.gz", GOOD[:-6] + bytes(6), "cannot be read (BadGzipFile: CRC check failed"),
        (RAW, "t10k-labels-idx1-ubyte.gz", b"no archive", "cannot be read (BadGzipFile: Not a gzipped file"),
    ],
)
def test_a_damaged_file_is_named_with_its_mend(request, linked, tmp_path, layout, name, content, says):
    source = request.getfixturevalue({BIN: "cifar_bin", PY: "cifar_py", RAW: "mnist"}[layout])
    folder = linked(source, "MNIST" if layout == RAW else "")
    (folder / name.removesuffix(".gz")).unlink()
    if callable(content):
        content(folder / name)
    elif content is not None:
        (folder / name).write_bytes(content)
    data = (MNISTData if layout == RAW else CIFAR10Data)(str(tmp_path))
    data.prepare_data()
    with pytest.raises(DataError) as error:
        data.setup("fit")
    assert str(error.value).startswith(str(folder))
    assert name in str(error.value) or "each of the 10 classes" in says
    assert says in str(error.value)
    assert str(error.value).endswith(
        f"; delete {folder} and run again to download it anew, or set DATA_DIR (--data-dir; of fit: --data.root) "
        f"to the folder that holds a whole {layout}/"
    )


def turned(path: Path) -> None:
    """The publisher's batch but for one bit."""
    whole = (path.parent / "data_batch_2").read_bytes()
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])


# --- trees, annotations, caches --------------------------------------------------------------------------


def tiny(root: Path, annotations: str, **more: bytes) -> Path:
    files = {f"train/{c}/images/a.JPEG": b"" for c in ABC} | {f"val/images/v_{i}.JPEG": b"" for i in range(3)}
    return plant(root, files | {"val/val_annotations.txt": annotations} | {f"val/images/{n}.png": b"" for n in more})


def flat(root: Path, **files: str) -> Path:
    """ILSVRC-2012's validation images beside each other, and annotations."""
    names = [f"train/{c}/a.JPEG" for c in ABC] + [f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 4)]
    return plant(root, dict.fromkeys(names, b"") | {name.replace("__", "."): text for name, text in files.items()})


def images(root: Path):
    return read_tree(plant(root / "set", tree(ABC))).train


def file_in_the_way(root: Path) -> Path:
    (root / "file").touch()
    return root / "file" / "cache"


def cached(root: Path, damage) -> None:
    """Images decoded into a file that is damaged, and opened again."""
    here, folder = images(root), root / "cache"
    open_cache(here, 24, folder, 0)
    damage(next(folder.iterdir()))
    open_cache(here, 24, folder, 0)


def without(root: Path, name: str) -> Path:
    (root / name).unlink()
    return root


def pipe(root: Path, name: str) -> Path:
    os.mkfifo(without(root, name) / name)
    return root


WNIDS = CLASS_LISTS["tiny-imagenet-100"]
LINES = [f"v_{i}.JPEG\tn0{i + 1}\n" for i in range(3)]
KIT = {"ILSVRC2012_validation_ground_truth__txt": "1\n2\n3\n"}
CSV = "LOC_val_solution__csv"


def read(root: Path, files: dict, classes: str = "all"):
    return read_tree(plant(root, files), classes)


def listed(root: Path, content: bytes):
    return parse_classes(f"{plant(root, {'mine.txt': content})}/mine.txt")


def empty(root: Path, *classes: str) -> str:
    return str(plant(root, dict.fromkeys(tree([*classes]), b"")))


ONE = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01 1 2 3 4\n"
FITTING = [
    (
        lambda root: TinyImageNet100Data(str(root)).setup(),
        "holds no tiny-imagenet-100: neither it nor tiny-imagenet-100/",
    ),
    (lambda root: CIFAR10Data(str(root)).setup(), f"holds no {PY}/ or {BIN}/; call prepare_data() to download CIFAR10"),
    (lambda root: ImageNetData(empty(root, *ABC)).setup(), "/train has 3 class folders, not 1000; set DATA_DIR"),
    (lambda root: ImageNet100Data(empty(root, *(f"n{i}" for i in range(101)))).tree, "has 101 class folders, not 100"),
    (lambda root: ImagenetteData(empty(root, *CLASS_LISTS["imagenette"], "n0")).tree, "has 11 class folders, not 10"),
    (lambda root: read(root, tree(ABC), "first-4"), "/train has 3 class folders, not 4; "),
    (lambda root: read(root, tree(WNIDS[:99]), "tiny-imagenet-100"), f"of {WNIDS[99]}, needed for classes='tiny"),
    (lambda root: read(root, {"train/a": b"", "val/a": b""}), "/train has 0 class folders, not 1; "),
    (lambda root: read(root, tree(ABC) | {"val/n00/a.JPEG": b""}), "/train has no images (.jpeg, .jpg, .png, .webp"),
    (lambda root: read(root, tree(ABC) | {"train/n7/a.JPEG": b""}), "/val has no images (.jpeg, .jpg, .png, .webp"),
    (
        lambda root: read(root, tree(ABC) | {"train/n7/._a.JPEG": b"", "val/n7/a.png": b""}),
        "of n7, needed",
    ),
    (lambda root: read(root, tree(ABC) | {"train/n0/a.JPEG": b""}, "first-2"), "of n0, needed for the chosen"),
    (lambda root: read(root, tree(ABC) | {"val/a.JPEG": b""}), "class folders or else images, and has both"),
    (lambda root: read(root, tree(ABC, val=0) | {"val/a.txt": b""}), "has both or neither; "),
    (lambda root: read_tree(flat(root)), "nothing says their classes; sort them into val/<class>/, or place"),
    (lambda root: read_tree(flat(root, **KIT)), "/meta.mat is missing; "),
    (lambda root: read_tree(flat(root, **{CSV: "a,b\n1,2\n"})), "LOC_val_solution.csv cannot be read (KeyError: 'Im"),
    (
        lambda root: read_tree(flat(root, **{CSV: ONE})),
        "solution.csv names 1 images, of which there are 3; they differ",
    ),
    (lambda root: read_tree(tiny(root, "".join(LINES[:2]))), "names 2 images, of which there are 3"),
    (lambda root: read_tree(tiny(root, "".join([*LINES, LINES[0]]))), "names 4 images, of which there are 3"),
    (lambda root: read_tree(tiny(root, "".join([*LINES, "v_9\tn01\n"]))), "they differ in ['v_9']"),
    (lambda root: read_tree(tiny(root, "".join(LINES), v_1=b"")), "names 3 images, of which there are 4"),
    (lambda root: read_tree(tiny(root, "v_0.JPEG\tn01\nv_1.JPEG\n")), "annotations.txt cannot be read (IndexError"),
    (lambda root: read_tree(without(tiny(root, ""), "val/val_annotations.txt")), "val_annotations.txt is missing"),
    (lambda root: read_tree(pipe(tiny(root, ""), "val/val_annotations.txt")), "is a pipe, not a file"),
    (lambda root: listed(root, b""), "mine.txt names no class, or a class twice"),
    (lambda root: listed(root, b"a\na"), "mine.txt names no class, or a class twice"),
    (lambda root: listed(root, b"\xff"), "mine.txt cannot be read (UnicodeDecodeError"),
    (lambda root: open_cache(images(root), 24, file_in_the_way(root), 0), "cannot take 0 MiB of decoded images ([Er"),
    (
        lambda root: cached(root, lambda path: os.truncate(path, 9000)),
        ".npy cannot be read (ValueError: mmap length is",
    ),
    (lambda root: cached(root, lambda path: path.write_bytes(b"half")), ".npy cannot be read (ValueError: "),
    (lambda root: cached(root, lambda path: np.save(path, np.zeros((3, 4)))), "float64 (3, 4), not uint8 (12, 3, 24,"),
]


@pytest.mark.parametrize(("do", "says"), FITTING)
def test_what_does_not_fit_together_is_named(tmp_path, do, says):
    with pytest.raises(DataError, match=re.escape(says)):
        do(tmp_path)


@pytest.mark.parametrize("fault", ["damaged", "gone", "full", "small"])
def test_what_goes_wrong_while_images_are_decoded_is_told_and_leaves_nothing(tmp_path, monkeypatch, fault):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    here, folder = images(tmp_path), tmp_path / "cache"
    folder.mkdir()
    says = "cannot take 0 MiB of decoded images"
    if fault == "damaged":
        for i in (3, 7):
            here.path(i).write_bytes(here.path(i).read_bytes()[:-50])
        says = rf"^{here.path(3)} cannot be decoded .*; {here.path(7)} cannot be decoded .* \(2 in all\)"
    elif fault == "gone":
        here.path(5).unlink()
        says = f"^{here.path(5)} is missing; replace or delete it"
    elif fault == "full":
        monkeypatch.setattr(os, "fsync", full)
    else:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        says += r" \(0 MiB of disk are free\)"
    with pytest.raises(DataError, match=says):
        open_cache(here, 24, folder, 0)
    assert list(folder.iterdir()) == []
