"""MNIST from the IDX files of its publisher, where torchvision keeps them."""

import gzip
import math
import struct
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.datasets import MNIST

from lit_hidden.data.files import Unfit, checked
from lit_hidden.data.tensors import ImageTensorsData, Split, facts


class MNISTData(ImageTensorsData):
    """MNIST: 60,000 training and 10,000 test images `(1, 28, 28)` of 10 digits.

    Read from `MNIST/raw/` in `root` or one folder deeper, four IDX files, plain or `.gz`; downloaded if there is no
    such folder. Never augmented, as in the paper: `augment=True` is an error.
    """

    name = "mnist"
    shape, sizes = facts(name)
    mean, std = (0.1307,), (0.3081,)
    layouts = ("MNIST/raw",)
    archives: ClassVar = {f"MNIST/raw/{name}": md5 for name, md5 in MNIST.resources}
    source = "MNIST"

    def read_folder(self, folder: Path, mend: str) -> tuple[Split, Split]:
        """Read four files, each verified by its header and its size."""

        def split(part: str, count: int) -> Split:
            images = _read_idx(folder / f"{part}-images-idx3-ubyte", mend, (count, *self.shape[1:]))
            labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", mend, (count,))
            return images.unsqueeze(1), labels.long()

        return split("train", self.sizes[0]), split("t10k", self.sizes[1])


def _read_idx(path: Path, mend: str, shape: tuple[int, ...]) -> Tensor:
    """Images or labels, uint8 of the given shape, from an IDX file: type, rank and sizes, then the values."""
    packed = path.with_name(f"{path.name}.gz")
    path = packed if packed.exists() and not path.exists() else path
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    whole = len(header) + math.prod(shape)
    with checked(path, mend):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = bytearray(file.read(whole + 1))  # never more: an archive may unpack to any size
        if not content.startswith(header) or len(content) != whole:
            raise Unfit(f"is not an IDX file of {' x '.join(map(str, shape))} bytes")
        values = torch.frombuffer(content, dtype=torch.uint8, offset=len(header)).view(shape)
        # A download cut short can leave zeros in a file of the right size.
        if values.max() == 0 or (len(shape) == 1 and set(values.tolist()) != {*range(10)}):
            raise Unfit("does not hold digits: its values are all zero, or its labels are not 0 to 9")
    return values
