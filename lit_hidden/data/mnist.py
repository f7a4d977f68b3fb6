"""MNIST from the IDX files of its publisher, where torchvision keeps them."""

import gzip
import math
import struct
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lit_hidden.data.files import Unfit, checked
from lit_hidden.data.tensors import ImageTensorsData, Split


class MNISTData(ImageTensorsData):
    """MNIST: 60,000 training and 10,000 test images `(1, 28, 28)` of 10 digits.

    Read from `MNIST/raw/` in `root` or one folder deeper, four IDX files, plain or `.gz`; downloaded if there
    is no such folder. Never augmented, as in the paper: `augment=True` is an error.
    """

    name = "mnist"
    shape = (1, 28, 28)
    mean, std = (0.1307,), (0.3081,)
    sizes = (60_000, 10_000)
    layouts = ("MNIST/raw",)
    archives: ClassVar = {
        "MNIST/raw/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "MNIST/raw/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "MNIST/raw/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "MNIST/raw/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    source = "MNIST"

    def read_folder(self, folder: Path, layout: str) -> tuple[Split, Split]:
        """Read four files, each verified by its header, its size and the range of its labels."""

        def split(part: str, count: int) -> Split:
            images = _read_idx(folder / f"{part}-images-idx3-ubyte", layout, (count, 28, 28))
            labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", layout, (count,))
            return images.unsqueeze(1), labels.long()

        return split("train", self.sizes[0]), split("t10k", self.sizes[1])


def _read_idx(path: Path, layout: str, shape: tuple[int, ...]) -> Tensor:
    """Images or labels, uint8 of the given shape, from an IDX file: type, rank and sizes, then the values."""
    if not path.exists() and (packed := path.with_name(f"{path.name}.gz")).exists():
        path = packed
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    whole = len(header) + math.prod(shape)
    with checked(path, path.parent, layout):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = bytearray(file.read(whole + 1))  # what is longer is not read, nor unpacked
        if not content.startswith(header):
            raise Unfit(f"begins with {content[: len(header)].hex()}, not with {header.hex()} for {shape} bytes")
        if len(content) != whole:
            raise Unfit(f"has {len(content)} bytes{' or more' * (len(content) > whole)}, not {whole}")
        values = torch.frombuffer(content, dtype=torch.uint8, offset=len(header)).view(shape)
        if len(shape) == 1 and values.max() > 9:
            raise Unfit(f"has labels up to {values.max()}, not up to 9")
        if len(shape) == 1 and (there := int((values.bincount() > 0).sum())) < 10:
            raise Unfit(f"has {there} of the 10 labels")
        if len(shape) > 1 and values.min() == values.max():
            raise Unfit(f"has no image: every pixel is {values.max()}")
    return values
