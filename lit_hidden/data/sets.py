"""CIFAR-10 and MNIST from their publishers' files, and scikit-learn's digits, real images that need no download."""

import hashlib
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.datasets import CIFAR10, MNIST

from lit_hidden.data.files import SET_ROOT, checked
from lit_hidden.data.tensors import ImageTensorsData, Split

MEND = f"delete the set's folder and run again to download it anew, or {SET_ROOT} that holds the whole set"


class CIFAR10Data(ImageTensorsData):
    """CIFAR-10: 50,000 training and 10,000 test images `(3, 32, 32)` of 10 classes.

    Read from `cifar-10-batches-py/` or `cifar-10-batches-bin/` in `root`, else downloaded. Augmented by default, as in
    the paper: a random crop after 4 pixels of padding, and random flips.
    """

    name, shape, sizes = "cifar10", (3, 32, 32), (50_000, 10_000)
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    crop, flip, augment_default = 4, True, True
    layouts, source = ("cifar-10-batches-py", "cifar-10-batches-bin"), CIFAR10

    def read(self) -> tuple[Split, Split]:
        """Read six files: pickles verified by their MD5, or binary files by their number of images of each class."""
        folder = self.folder or self.root / self.layouts[0]
        read = _read_binary if folder.name.endswith("-bin") else _read_pickles
        train, test = self.sizes
        return read(folder, CIFAR10.train_list, train), read(folder, CIFAR10.test_list, test)


def _read_binary(folder: Path, files: list[list[str]], count: int) -> Split:
    with checked(folder, MEND):
        content = [np.fromfile(folder / f"{name}.bin", dtype=np.uint8) for name, _ in files]
        records = torch.from_numpy(np.concatenate(content)).view(-1, 1 + 3 * 32 * 32)  # a label, then the pixels
        labels = records[:, 0].long()
        # A download cut short can leave zeros in a file of the right size.
        if labels.bincount(minlength=10).tolist() != [count // 10] * 10:
            raise ValueError(f"{files[0][0]}.bin and on hold not {count // 10} images of each of the 10 classes")
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), labels


def _read_pickles(folder: Path, files: list[list[str]], _: int) -> Split:
    batches = [pickle.loads(_published(folder / name, md5), encoding="bytes") for name, md5 in files]
    images = np.concatenate([batch[b"data"] for batch in batches])
    labels = [label for batch in batches for label in batch[b"labels"]]
    return torch.from_numpy(images).view(-1, 3, 32, 32), torch.tensor(labels)


def _published(path: Path, md5: str) -> bytes:
    """The content of a publisher's file. Pickles of others are not opened: they can run code."""
    with checked(path, MEND):
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(f"it is not the publisher's, whose MD5 is {md5}")
    return content


class MNISTData(ImageTensorsData):
    """MNIST: 60,000 training and 10,000 test images `(1, 28, 28)` of 10 digits.

    Read from `MNIST/raw/` in `root`, downloaded if there is no such folder. Never augmented, as in the paper.
    """

    name, shape, sizes = "mnist", (1, 28, 28), (60_000, 10_000)
    mean, std = (0.1307,), (0.3081,)
    layouts, source = ("MNIST/raw",), MNIST
    md5: ClassVar = {
        "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        "t10k": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    }

    def read(self) -> tuple[Split, Split]:
        """Read four unpacked files, each verified by its MD5."""
        return self._read("train"), self._read("t10k")

    def _read(self, part: str) -> Split:
        names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        folder = self.root / self.layouts[0]
        images, labels = (_published(folder / name, md5) for name, md5 in zip(names, self.md5[part], strict=True))
        # Headers have 4 bytes, and 4 more for each dimension.
        pixels = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16)
        return pixels.view(-1, *self.shape), torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8).long()


class DigitsData(ImageTensorsData):
    """1,437 training and 360 test images `(1, 32, 32)` of 10 digits that come with scikit-learn.

    8x8 images of 17 greys (the test set of UCI's Optical Recognition of Handwritten Digits), stretched to 0..255 and
    enlarged bilinearly. Sorted by class, every fifth is a test image; a writer may have images in both sets.
    `augment=True` is a random crop after 2 pixels of padding, without flips: a mirrored 2 is no digit.
    """

    name, shape, sizes = "digits", (1, 32, 32), (1_437, 360)
    mean, std = (0.3058,), (0.3237,)
    crop = 2

    def read(self) -> tuple[Split, Split]:
        """Take the images from scikit-learn, enlarge and split them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).float().mul(255 / 16).round()
        # Integers enlarged by 4 have exact float32 results: every machine rounds them to the same uint8.
        large = F.interpolate(grey.unsqueeze(1), scale_factor=4, mode="bilinear")
        images, labels = large.round().to(torch.uint8), torch.from_numpy(digits.target).long()
        order = labels.argsort(stable=True)
        is_test = torch.arange(len(order)) % 5 == 0
        train, test = order[~is_test], order[is_test]
        return (images[train], labels[train]), (images[test], labels[test])
