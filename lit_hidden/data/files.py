"""Data folders: where a set is, one kind of error for damaged files, and files that are whole or absent."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lit_hidden.errors import missing

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
        absent = missing(path) if isinstance(error, FileNotFoundError) else None
        why = absent or f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be used ({why}); {mend}") from error


def find(root: Path, layouts: Sequence[str], *inside: str) -> Path | None:
    """The first of these folders of `root` that is there and has the folders `inside` in it."""
    there = (root / layout for layout in layouts if all((root / layout / name).is_dir() for name in ("", *inside)))
    return next(there, None)


@contextmanager
def whole(root: Path, name: str) -> Iterator[Path]:
    """Give a hidden folder of `root` in which `name` is made; at the end it moves into `root` in one step.

    Of two processes at once, the first to finish makes a folder; a file is replaced by the other's, which is equal.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root) as new:
        yield Path(new)
        (root / name).parent.mkdir(exist_ok=True)
        try:
            os.rename(Path(new) / name, root / name)
        except OSError:
            if not (root / name).is_dir():
                raise


def download(source: Callable[..., object], root: Path, layout: str) -> None:
    """Let torchvision's `source` download `layout` into `root`."""
    mend = f"it is missing, and its download failed: {SET_ROOT} that holds {layout}/; the quick preset needs none"
    with checked(root / layout, mend), ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(TIMEOUT)
        source(stack.enter_context(whole(root, layout)), download=True)
