"""Data folders: where a set is, one kind of error for damaged files, downloads that leave a whole set or nothing."""

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import torchvision

TIMEOUT = 30  # seconds without an answer, after which a download gives up; torchvision would wait for ever
SET_ROOT = "set DATA_DIR (--data-dir; of fit: --data.root) to the folder"


class DataError(RuntimeError):
    """A data set is missing or damaged. The message names the file and says what to do."""


@contextmanager
def checked(path: Path, mend: str) -> Iterator[None]:
    """Turn whatever reading `path` raises into a `DataError` that names `path` and says how to `mend` it."""
    try:
        yield
    except Exception as error:  # a damaged archive, pickle or image may raise anything
        raise DataError(f"{path} cannot be used ({type(error).__name__}: {error}); {mend}") from error


def find(root: Path, layouts: Sequence[str]) -> Path | None:
    """The first of these folders of `root` that is there."""
    return next((root / layout for layout in layouts if (root / layout).is_dir()), None)


def download(root: Path, layout: str, archives: Mapping[str, str], source: str, **options: object) -> None:
    """Let torchvision download into a hidden folder of `root`, then move `layout` into place in one step.

    `source` is the set's class in `torchvision.datasets`, `options` are its arguments. `archives` (and their MD5) that
    the user placed in `root` are used instead of the network. Of two downloads at once the first to finish wins.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as new:
            for archive in archives:
                if (root / archive).exists():
                    (Path(new) / archive).symlink_to((root / archive).resolve())
            getattr(torchvision.datasets, source)(new, download=True, **options)
            (root / layout).parent.mkdir(exist_ok=True)
            try:
                os.rename(Path(new) / layout, root / layout)
            except OSError:
                if not find(root, [layout]):  # otherwise another process was first
                    raise
    except (OSError, RuntimeError, HTTPException) as error:
        wanted = ", ".join(f"{root / archive} (MD5 {md5})" for archive, md5 in archives.items())
        raise DataError(
            f"{source} is not in {root} and cannot be downloaded ({type(error).__name__}: {error}); place {wanted} and "
            f"run again, or {SET_ROOT} that holds {layout}/; the quick preset needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
