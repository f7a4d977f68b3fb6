"""What is refused: what is done -> what the error says of it."""

import errno
import os
import pickle
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from pictures import plant, tree

from lit_hidden import data as sets
from lit_hidden.data import DataError, DigitsData, ImageNetData, imagenet
from lit_hidden.data.decode import decoded_once
from lit_hidden.data.trees import CLASS_LISTS, read_tree

ABC = ["n01", "n02", "n03"]
BIN, PY, RAW = "cifar-10-batches-bin", "cifar-10-batches-py", "MNIST/raw"


def loader(**change):
    whole = {"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "labels": torch.arange(4), "batch_size": 2}
    return sets.BatchLoader(**whole | {"mean": (0,) * 3, "std": (1,) * 3} | change)


def abc(root, **options):
    """Three classes of 4 training and 2 test images, and one of 1 and 1."""
    plant(root / "imagenet", tree(ABC) | {"train/n04/a.JPEG": (40, 30), "val/n04/a.JPEG": (40, 30)})
    return ImageNetData(str(root), **{"classes": "all", "image_size": 16, "workers": 0, "held_out": 0} | options)


ARGUMENTS = [
    (lambda root: sets.data_module("svhn"), "no data called 'svhn'; there is cifar10, mnist, digits, imagenet, "),
    (lambda root: DigitsData(held_out=1437).setup(), "held_out=1437 (at least 0) and 1 images to train on (at least"),
    (lambda root: DigitsData(held_out=-1).setup(), "held_out=-1 (at least 0)"),
    (lambda root: DigitsData(train_images=0).setup(), "0 images to train on (at least 1) cannot be taken from digits"),
    (lambda root: abc(root, held_out=13).prepare_data(), "cannot be taken from imagenet's 13"),
    (lambda root: sets.MNISTData(augment=True), "augment=True is not defined for mnist"),
    (lambda root: DigitsData(augment="square"), "augment='square' is not defined for digits"),
    (lambda root: DigitsData(batch_size=0).train_dataloader(), "batch_size=0 leaves a rank without images"),
    (lambda root: ImageNetData(images_per_class=0), "images_per_class=0 must be at least 1"),
    (lambda root: ImageNetData(images_per_class=5, train_images=50), "images_per_class=5 must be"),
    (lambda root: abc(root, images_per_class=3).setup(), "images_per_class=3: beside held_out=0 a class has only 1"),
    (lambda root: ImageNetData(classes="first-0"), "classes='first-0' is unknown; it is one of imagenette, "),
    (lambda root: loader(batch_size=3, world_size=4), "batch_size=3 leaves a rank without images: there are 4"),
    (lambda root: loader(images=torch.zeros(4, 3, 8, 8)), "torch.float32 (4, 3, 8, 8)"),
    (lambda root: loader(labels=torch.arange(3)), "3 labels"),
    (lambda root: loader(std=(1,)), "(0, 0, 0) and (1,) do not fit"),
]


@pytest.mark.parametrize(("do", "says"), ARGUMENTS)
def test_an_argument_that_cannot_be_is_refused(tmp_path, do, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        do(tmp_path)


# --- files of CIFAR-10 and MNIST -------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os._exit, (1,)


NOT_THEIRS = "it is missing, or not the publisher's, whose MD5 is "


@pytest.mark.parametrize(
    ("layout", "name", "content", "says"),
    [
        (BIN, "data_batch_1.bin", bytes(1000), "is invalid for input of size"),
        (BIN, "test_batch.bin", bytes(20 * 3073), "test_batch.bin and on hold not 2 images of each of the 10 classes"),
        (BIN, "data_batch_2.bin", None, "FileNotFoundError"),
        (PY, "data_batch_2", None, "Dataset not found or corrupted"),
        (PY, "data_batch_1", pickle.dumps(Evil(), 2), "Dataset not found or corrupted"),
        (RAW, "t10k-images-idx3-ubyte", bytes(16 + 7840), NOT_THEIRS),
    ],
)
def test_a_damaged_file_is_named_with_its_mend(write, tmp_path, layout, name, content, says):
    folder = write(layout)
    (folder / name).unlink()
    if callable(content):
        content(folder / name)
    elif content is not None:
        (folder / name).write_bytes(content)
    data = (sets.MNISTData if layout == RAW else sets.CIFAR10Data)(str(tmp_path), held_out=1)
    with pytest.raises(DataError, match="delete the set's folder and run again to download it anew") as error:
        data.setup("fit")
    assert str(error.value).startswith(str(folder / name if layout == RAW else folder))
    assert says in str(error.value)


# --- trees and caches ------------------------------------------------------------------------------------


def read(root: Path, files: dict, classes: str = "all"):
    return read_tree(plant(root, files), classes)


def empty(root: Path, *classes: str) -> str:
    return str(plant(root, dict.fromkeys(tree([*classes]), b"")))


def tiny(root: Path, annotations: str):
    files = {f"train/{c}/images/a.JPEG": b"" for c in ABC} | {f"val/images/v_{i}.JPEG": b"" for i in range(3)}
    return read(root, files | {"val/val_annotations.txt": annotations})


def images(root: Path):
    return read_tree(plant(root / "set", tree(ABC))).train


def cut_short(root: Path) -> None:
    """Images decoded into a file that is cut short, and opened again."""
    here, folder = images(root), root / "cache"
    decoded_once(here, 24, folder, 0)
    os.truncate(next(folder.iterdir()), 9000)
    decoded_once(here, 24, folder, 0)


WNIDS = CLASS_LISTS["tiny-imagenet-100"]
MISNAMED, EMPTY = tree(["n", *WNIDS[1:]]), tree(ABC) | {"train/n7/a.JPEG": b""}
FITTING = [
    (
        lambda root: imagenet.TinyImageNet100Data(str(root)).setup(),
        "/tiny-imagenet-100/train cannot be used (it is not",
    ),
    (lambda root: ImageNetData(empty(root, *ABC)).setup(), "it has 3 class folders, not 1000); sort the images into "),
    (lambda root: read(root, tree(ABC), "first-4"), "/train cannot be used (ValueError: it has 3 class folders, not 4"),
    (lambda root: read(root, MISNAMED, "tiny-imagenet-100"), "no valid file for the classes n"),
    (lambda root: read(root, EMPTY), "/val cannot be used (FileNotFoundError: Found no "),
    (
        lambda root: tiny(root, "v_0.JPEG\tn01\nv_1.JPEG\tn02\n"),
        "val_annotations.txt cannot be used (ValueError: it na",
    ),
    (cut_short, ".pixels cannot be used (RuntimeError: file <"),
]


@pytest.mark.parametrize(("do", "says"), FITTING)
def test_what_does_not_fit_together_is_named(tmp_path, do, says):
    with pytest.raises(DataError, match=re.escape(says)):
        do(tmp_path)


@pytest.mark.parametrize("fault", ["damaged", "full"])
def test_what_goes_wrong_while_images_are_decoded_is_told_and_leaves_nothing(tmp_path, monkeypatch, fault):
    here, folder = images(tmp_path), tmp_path / "cache"
    folder.mkdir()
    if fault == "damaged":
        here.path(5).write_bytes(here.path(5).read_bytes()[:-50])
        says = f"^{here.path(5)} cannot be used .*; replace or delete it"
    else:
        monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        says = "cannot take 20736 bytes of images .*No space left"
    with pytest.raises(DataError, match=says):
        decoded_once(here, 24, folder, 0)
    assert list(folder.iterdir()) == []
