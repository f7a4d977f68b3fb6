"""CIFAR-10 in either of its publisher's layouts, https://www.cs.toronto.edu/~kriz/cifar.html."""

import hashlib
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from lit_hidden.data.files import Unfit, checked
from lit_hidden.data.tensors import ImageTensorsData, Split, facts

RECORD = 1 + 3 * 32 * 32  # bytes: a label, and an image's red, green and blue pixels


class CIFAR10Data(ImageTensorsData):
    """CIFAR-10: 50,000 training and 10,000 test images `(3, 32, 32)` of 10 classes.

    Read from `cifar-10-batches-py/` or `cifar-10-batches-bin/` in `root` or one folder deeper, the first that is whole;
    downloaded if there is neither. Augmented by default, as in the paper: a random crop after 4 pixels of zero padding,
    and random flips.
    """

    name = "cifar10"
    shape, sizes = facts(name)
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    crop, flip, augment_default = 4, True, True
    layouts = ("cifar-10-batches-py", "cifar-10-batches-bin")
    archives: ClassVar = {CIFAR10.filename: CIFAR10.tgz_md5}
    source = "CIFAR10"

    def read_folder(self, folder: Path, mend: str) -> tuple[Split, Split]:
        """Read six files, each verified by its MD5 or its size, and the number of images of each class."""
        train, test = (self._read(folder, files, mend) for files in (CIFAR10.train_list, CIFAR10.test_list))
        return train, test

    def _read(self, folder: Path, files: list[list[str]], mend: str) -> Split:
        parts = []
        for name, md5 in files:
            path = folder / (f"{name}.bin" if folder.name.endswith("-bin") else name)
            with checked(path, mend):
                parts.append(_records(path) if path.suffix else _unpickled(path, md5))
        images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        with checked(folder, mend):  # a download cut short can leave zeros in a file of the right size
            if labels.bincount(minlength=10).tolist() != [len(labels) // 10] * 10:
                raise Unfit(f"does not have {len(labels) // 10} images of each of the 10 classes in {files[0][0]} ...")
        return images.view(-1, *self.shape), labels.long()


def _records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and labels of a file of the publisher's binary layout."""
    if (size := path.stat().st_size) != 10_000 * RECORD:
        raise Unfit(f"has {size} bytes, not {10_000 * RECORD}")
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0]


def _unpickled(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and labels of the publisher's own pickle. Others are not opened: they can run code, or never end."""
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise Unfit(f"is not the publisher's (its MD5 is not {md5})")
    batch = pickle.loads(content, encoding="bytes")
    return batch[b"data"], np.asarray(batch[b"labels"])
