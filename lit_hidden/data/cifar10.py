"""CIFAR-10 in either of its publisher's layouts, https://www.cs.toronto.edu/~kriz/cifar.html."""

import hashlib
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from lit_hidden.data.files import Unfit, checked
from lit_hidden.data.tensors import ImageTensorsData, Split

Records = tuple[np.ndarray, np.ndarray]  # pixels (10000, 3072), red plane first, and labels (10000,)
IMAGES, PIXELS = 10_000, 3 * 32 * 32  # in each of the six files; of an image


class CIFAR10Data(ImageTensorsData):
    """CIFAR-10: 50,000 training and 10,000 test images `(3, 32, 32)` of 10 classes.

    Read from `cifar-10-batches-py/` or `cifar-10-batches-bin/` in `root` or one folder deeper, the first that
    is whole; downloaded if there is neither. Augmented by default, as in the paper: a random crop after 4
    pixels of zero padding, and random flips.
    """

    name = "cifar10"
    shape = (3, 32, 32)
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    sizes = (50_000, 10_000)
    crop, flip, augment_default = 4, True, True
    layouts = ("cifar-10-batches-py", "cifar-10-batches-bin")
    archives: ClassVar = {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}
    source = "CIFAR10"

    def read_folder(self, folder: Path, layout: str) -> tuple[Split, Split]:
        """Read six files, each verified by its MD5, or by its size and what is in it."""
        suffix, read = (".bin", _read_bin) if layout.endswith("-bin") else ("", _read_py)
        names = [*(f"data_batch_{i}{suffix}" for i in range(1, 6)), f"test_batch{suffix}"]
        files = [_read_file(folder / name, layout, read) for name in names]
        return _join(files[:5], folder, layout), _join(files[5:], folder, layout)


def _read_file(path: Path, layout: str, read: Callable[[Path], Records]) -> Records:
    with checked(path, path.parent, layout):
        pixels, labels = read(path)
        if labels.min() < 0 or labels.max() > 9:
            raise Unfit(f"has labels from {labels.min()} to {labels.max()}, not 0 to 9")
    return pixels, labels


def _read_bin(path: Path) -> Records:
    """Records of a label and the pixels."""
    whole, size = IMAGES * (1 + PIXELS), path.stat().st_size
    if size != whole:
        raise Unfit(f"has {size} bytes, not {whole}")
    records = np.fromfile(path, dtype=np.uint8).reshape(IMAGES, 1 + PIXELS)
    return records[:, 1:], records[:, 0]


def _read_py(path: Path) -> Records:
    """A pickled dict with the pixels under b"data" and a list under b"labels", if it is the publisher's.

    Other pickles are not opened: they can run code, or never end.
    """
    from torchvision.datasets import CIFAR10

    md5 = dict(map(tuple, CIFAR10.train_list + CIFAR10.test_list))[path.name]
    with path.open("rb") as file:
        if hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest() != md5:
            raise Unfit(f"is not the publisher's (its MD5 is not {md5})")
        file.seek(0)
        content = pickle.load(file, encoding="bytes")
    return content[b"data"], np.asarray(content[b"labels"])


def _join(files: list[Records], folder: Path, layout: str) -> Split:
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in files]).reshape(-1, 3, 32, 32))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in files]).astype(np.int64))
    counts, each = labels.bincount(minlength=10).tolist(), len(labels) // 10
    # A file of zeros, as a download cut short can leave, has the size and the labels of a good one.
    with checked(folder, folder, layout):
        if counts != [each] * 10:
            raise Unfit(f"has {counts} images of the 10 classes, not {each} of each")
    return images, labels
