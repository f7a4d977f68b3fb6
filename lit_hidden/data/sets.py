"""CIFAR-10 and MNIST from their publishers' files, and scikit-learn's digits, real images that need no download."""

import gzip
import hashlib
import math
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST

from lit_hidden.data.files import SET_ROOT, checked, find
from lit_hidden.data.tensors import ImageTensorsData, Split

RECORD = 1 + 3 * 32 * 32  # bytes: a label, and an image's red, green and blue pixels
MEND = f"delete its folder and run again to download it anew, or {SET_ROOT} that holds the whole set"


class CIFAR10Data(ImageTensorsData):
    """CIFAR-10: 50,000 training and 10,000 test images `(3, 32, 32)` of 10 classes.

    Read from `cifar-10-batches-py/` or `cifar-10-batches-bin/` in `root`, else downloaded. Augmented by default, as in
    the paper: a random crop after 4 pixels of padding, and random flips.
    """

    name, shape, sizes = "cifar10", (3, 32, 32), (50_000, 10_000)
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    crop, flip, augment_default = 4, True, True
    layouts = ("cifar-10-batches-py", "cifar-10-batches-bin")
    archives: ClassVar = {CIFAR10.filename: CIFAR10.tgz_md5}
    source = "CIFAR10"

    def read(self) -> tuple[Split, Split]:
        """Read six files, each verified by its MD5 or its size, and the number of images of each class."""
        folder = find(self.root, self.layouts) or self.root / self.layouts[0]
        return self._read(folder, CIFAR10.train_list), self._read(folder, CIFAR10.test_list)

    def _read(self, folder: Path, files: list[list[str]]) -> Split:
        parts = []
        for name, md5 in files:
            path = folder / (f"{name}.bin" if folder.name.endswith("-bin") else name)
            with checked(path, MEND):
                parts.append(_read_batch(path, md5))
        images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        with checked(path, MEND):  # a download cut short can leave zeros in a file of the right size
            if labels.bincount(minlength=10).tolist() != [len(labels) // 10] * 10:
                raise ValueError(f"{files[0][0]} and on: not {len(labels) // 10} images of each of the 10 classes")
        return images.view(-1, *self.shape), labels.long()


def _read_batch(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a file of either layout. Pickles of others are not opened: they can run code."""
    content = path.read_bytes()
    if path.suffix == ".bin":
        records = np.frombuffer(content, dtype=np.uint8).reshape(10_000, RECORD)
        return records[:, 1:], records[:, 0]
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"it is not the publisher's, whose MD5 is {md5}")
    batch = pickle.loads(content, encoding="bytes")
    return batch[b"data"], np.asarray(batch[b"labels"])


class MNISTData(ImageTensorsData):
    """MNIST: 60,000 training and 10,000 test images `(1, 28, 28)` of 10 digits.

    Read from `MNIST/raw/` in `root`, four IDX files, plain or `.gz`; downloaded if there is no such folder. Never
    augmented, as in the paper: `augment=True` is an error.
    """

    name, shape, sizes = "mnist", (1, 28, 28), (60_000, 10_000)
    mean, std = (0.1307,), (0.3081,)
    layouts = ("MNIST/raw",)
    archives: ClassVar = {f"MNIST/raw/{name}": md5 for name, md5 in MNIST.resources}
    source = "MNIST"

    def read(self) -> tuple[Split, Split]:
        """Read four files, each verified by its header and its size."""
        return self._read("train", self.sizes[0]), self._read("t10k", self.sizes[1])

    def _read(self, part: str, count: int) -> Split:
        images = _read_idx(self.root / self.layouts[0] / f"{part}-images-idx3-ubyte", (count, *self.shape[1:]))
        labels = _read_idx(self.root / self.layouts[0] / f"{part}-labels-idx1-ubyte", (count,))
        return images.unsqueeze(1), labels.long()


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Images or labels, uint8 of the given shape, from an IDX file: type, rank and sizes, then the values."""
    packed = path.with_name(f"{path.name}.gz")
    path = packed if packed.exists() and not path.exists() else path
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    whole = len(header) + math.prod(shape)
    with checked(path, MEND):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = bytearray(file.read(whole + 1))  # never more: an archive may unpack to any size
        if not content.startswith(header) or len(content) != whole:
            raise ValueError(f"it is not an IDX file of {' x '.join(map(str, shape))} bytes")
        values = torch.frombuffer(content, dtype=torch.uint8, offset=len(header)).view(shape)
        # A download cut short can leave zeros in a file of the right size.
        if values.max() == 0 or (len(shape) == 1 and set(values.tolist()) != {*range(10)}):
            raise ValueError("its values are all zero, or its labels are not 0 to 9")
    return values


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
