"""Images decoded once, into a memory-mapped file that all processes share: whole or absent."""

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_hidden.data.decode import Pictures, Places, decoder
from lit_hidden.data.files import DataError, Unfit, checked
from lit_hidden.data.trees import Images

FORMAT = 1  # raise it when equal files no longer give equal pixels
CHUNK = 64  # images that a worker decodes at a time
STALE = 24 * 3600  # seconds after its last write an unfinished cache belongs to a dead process
MEND = "replace or delete it and run again"


def open_cache(images: Images, size: int, folder: Path, workers: int) -> Tensor:
    """Give the middle squares of images, resized to `size` pixels; decode them now if that was not done.

    They are uint8 `(N, 3, size, size)` on the CPU, mapped from `folder/<key>.npy`: pages are read as they are needed.
    The key follows from the files' names, sizes and times of change. Several processes may decode at once, each with
    `workers` processes. A failure leaves nothing behind.

    Raises:
        DataError: an image cannot be decoded, or the disk cannot hold the cache.
    """
    path, shape = folder / f"{_key(images, size)}.npy", (len(images), 3, size, size)
    if not path.exists():
        _build(images, shape, path, workers)
    with checked(path, "delete it and run again"):
        squares = np.load(path, mmap_mode="c")  # copy on write, because torch warns of read-only memory
        if (squares.dtype, squares.shape) != (np.uint8, shape):
            raise Unfit(f"holds {squares.dtype} {squares.shape}, not uint8 {shape}")
    return torch.from_numpy(squares)


def _key(images: Images, size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for i, name in enumerate(images.names.tolist()):
        with checked(images.path(i), MEND):
            stat = images.path(i).stat()
        digest.update(b"%d %d %s\n" % (stat.st_size, stat.st_mtime_ns, name))
    return digest.hexdigest()[:16]


def _build(images: Images, shape: tuple[int, ...], path: Path, workers: int) -> None:
    folder, wanted = path.parent, int(np.prod(shape))
    rank_zero_info(f"Decoding {len(images)} images, once: {wanted / 2**20:.0f} MiB in {path}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(".building-*"):  # what killed processes left
            with suppress(OSError):
                if time.time() - max(path.stat().st_mtime for path in (old, *old.iterdir())) > STALE:
                    shutil.rmtree(old)
        if (free := shutil.disk_usage(folder).free) < wanted:
            raise OSError(f"{free / 2**20:.0f} MiB of disk are free")
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as building:
            lost = _write(images, shape, new := Path(building) / path.name, workers)
            if lost:
                raise DataError(f"{'; '.join(lost[:10])} ({len(lost)} in all); {MEND}")
            os.replace(new, path)
    except OSError as error:
        raise DataError(
            f"{folder} cannot take {wanted / 2**20:.0f} MiB of decoded images ({error}); make room, or set CACHE_DIR "
            "(of fit: --data.cache_dir) to another folder, or decode anew in every epoch: cache_gib=0"
        ) from error


def _write(images: Images, shape: tuple[int, ...], file: Path, workers: int) -> list[str]:
    """Decode into a file and return which images are damaged."""
    batches: list[Places] = [(chunk,) for chunk in np.split(np.arange(len(images)), range(CHUNK, len(images), CHUNK))]
    damaged: list[str] = []
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for squares, _, _, lost in decoder(Pictures(images, shape[-1], shape[-1]), batches, workers):
            # Written, not mapped: a write to a full disk raises, a mapped page would kill the process.
            out.write(squares.numpy().data)
            damaged += lost
        out.flush()
        os.fsync(out.fileno())
    return damaged
