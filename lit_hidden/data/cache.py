"""Images decoded once, into a memory-mapped file that all processes share: whole or absent, never half."""

import hashlib
import json
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
from lit_hidden.data.files import DataError
from lit_hidden.data.trees import Images
from lit_hidden.files import regular

FORMAT = 1  # raise it when equal files no longer give equal pixels
CHUNK = 64  # images that a worker decodes at a time
STALE = 24 * 3600  # seconds after which a cache that nobody writes to any more is a dead process's


def cache_bytes(count: int, size: int) -> int:
    """How much `count` images, decoded to squares of `size` pixels, take."""
    return count * 3 * size * size


def open_cache(images: Images, size: int, folder: Path, workers: int) -> Tensor:
    """Give images as squares of `size` pixels, see `middle`, decoded now if they are not yet.

    They lie in `folder/<key>/images.npy`, where the key follows from the files' names, sizes and times of change. Of
    two processes that decode at once the first to finish wins. What fails leaves nothing behind.

    Args:
        images: the files.
        size: height and width of the squares.
        folder: of all caches; made if need be.
        workers: processes that decode; 0 decodes in this one.

    Returns:
        uint8 `(N, 3, size, size)`, on the CPU, mapped from the file: pages are read as they are needed.

    Raises:
        DataError: an image cannot be decoded, or the disk cannot take the cache.
    """
    place = folder / _key(images, size)
    if not place.is_dir():
        _build(images, size, place, workers)
    shape = (len(images), 3, size, size)
    try:
        # Copied on write, which nobody does: torch warns of memory that cannot be written to.
        squares = np.load(regular(place / "images.npy"), mmap_mode="c")
        if (squares.dtype, squares.shape) != (np.uint8, shape):
            raise ValueError(f"it holds {squares.dtype} {squares.shape}, not uint8 {shape}")
    except (OSError, ValueError) as error:
        raise DataError(f"{place / 'images.npy'} is damaged ({error}); delete {place} and run again") from error
    return torch.from_numpy(squares)


def _key(images: Images, size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for i, name in enumerate(images.names.tolist()):
        path = images.path(i)
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}); replace or delete it and run again") from error
        digest.update(b"%d %d %s\n" % (stat.st_size, stat.st_mtime_ns, name))
    return digest.hexdigest()[:16]


def _build(images: Images, size: int, place: Path, workers: int) -> None:
    wanted = cache_bytes(len(images), size)
    rank_zero_info(f"Decoding {len(images)} images, once: {wanted / 2**20:.0f} MiB in {place}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent)
        free = shutil.disk_usage(place.parent).free
        if free < wanted:
            raise OSError(f"{free / 2**20:.0f} MiB of disk are free")
        with tempfile.TemporaryDirectory(prefix=".building-", dir=place.parent) as building:
            new = Path(building) / place.name
            new.mkdir()
            damage = _write(images, size, new / "images.npy", workers)
            if damage:
                raise DataError(
                    f"{damage[0]}; replace or delete it and run again"
                    + (f"; so it is with {len(damage) - 1} more: {', '.join(damage[1:10])}" if damage[1:] else "")
                )
            about = {"images": len(images), "size": size, "of": str(images.folder), "first": str(images.path(0))}
            (new / "about.json").write_text(json.dumps(about, indent=1) + "\n")
            try:
                os.rename(new, place)
            except OSError:
                if not place.is_dir():  # else another process was first
                    raise
    except OSError as error:
        raise DataError(
            f"{place.parent} cannot take {wanted / 2**20:.0f} MiB of decoded images ({error}); make room, or set "
            "CACHE_DIR (of fit: --data.cache_dir) to another folder, or decode anew in every epoch: cache_gib=0"
        ) from error


def _write(images: Images, size: int, file: Path, workers: int) -> list[str]:
    """Decode into a file and return what is wrong with which images."""
    chunks = [Places(np.arange(i, min(i + CHUNK, len(images)))) for i in range(0, len(images), CHUNK)]
    damage: list[str] = []
    with file.open("wb") as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), 3, size, size)}
        np.lib.format.write_array_header_1_0(out, header)
        for squares, _, wrong in decoder(Pictures(images, size, size, stand_in=False), chunks, workers):
            # Written, not mapped: on a full disk that raises, where a mapped page would kill the process.
            out.write(squares.numpy().data)
            damage += wrong
        out.flush()
        os.fsync(out.fileno())
    return damage


def _sweep(folder: Path) -> None:
    """Delete what processes that were killed left unfinished."""
    for building in folder.glob(".building-*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (building, *building.glob("*/*")))
            if time.time() - newest > STALE:
                shutil.rmtree(building, ignore_errors=True)
