"""Images decoded once, into a memory-mapped file that all processes share: whole or absent."""

import hashlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_hidden.data.decode import MEND, DecodingLoader
from lit_hidden.data.files import DataError, checked
from lit_hidden.data.trees import Images

FORMAT = 2  # raise it when equal files no longer give equal pixels
CHUNK = 64  # images that a worker decodes at a time


def open_cache(images: Images, size: int, folder: Path, workers: int) -> Tensor:
    """Give the middle squares of images, resized to `size` pixels; decode them now if that was not done.

    They are uint8 `(N, 3, size, size)` on the CPU, mapped from `folder/<key>.pixels`: pages are read as they are
    needed. The key follows from the files' paths, sizes and times of change. Several processes may decode at once,
    each with `workers` processes. A failure leaves nothing behind.

    Raises:
        DataError: an image cannot be decoded, or the disk cannot hold the cache.
    """
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for i, name in enumerate(images.names.tolist()):
        with checked(images.path(i), MEND):
            stat = images.path(i).stat()
        digest.update(b"%d %d %s\n" % (stat.st_size, stat.st_mtime_ns, name))
    path, shape = folder / f"{digest.hexdigest()[:16]}.pixels", (len(images), 3, size, size)
    if not path.exists():
        rank_zero_info(f"Decoding {len(images)} images, once, into {path}")
        try:
            _build(images, size, path, workers)
        except OSError as error:
            mend = "make room, or set CACHE_DIR to another folder, or decode anew in every epoch: cache_gib=0"
            raise DataError(f"{folder} cannot take {math.prod(shape)} bytes of images ({error}); {mend}") from error
    with checked(path, "delete it and run again"):
        return torch.from_file(str(path), size=math.prod(shape), dtype=torch.uint8).view(shape)


def _build(images: Images, size: int, path: Path, workers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"size": size, "resize": size, "workers": workers, "augment": False}
    squares = DecodingLoader(images, images.labels, CHUNK, (), (), **options)  # with no mean, pixels as they are
    with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as building:
        with (new := Path(building) / path.name).open("wb") as file:
            for pixels, _ in squares:
                # Written, not mapped: a write to a full disk raises, a mapped page would kill the process.
                file.write(pixels.numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
