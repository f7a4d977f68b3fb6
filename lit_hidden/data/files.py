"""Data folders: where a set is, one kind of error for what is wrong with it, and all-or-nothing downloads."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from lit_hidden.files import regular

TIMEOUT = 30  # seconds without an answer, after which a download gives up


class DataError(RuntimeError):
    """A data set is missing, damaged or not what it should be; the message names the file and the mend."""


class Unfit(Exception):
    """What is wrong with a file, worded to follow its name; `checked` makes it a `DataError`."""


@contextmanager
def checked(path: Path, folder: Path, layout: str) -> Iterator[None]:
    """Raise a `DataError` that names `path`, in `folder`, and the mend, for whatever reading it raises."""
    mend = (
        f"delete {folder} and run again to download it anew, "
        f"or set DATA_DIR (--data-dir; of fit: --data.root) to the folder that holds a whole {layout}/"
    )
    try:
        regular(path)
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {mend}") from error
    except Unfit as error:
        raise DataError(f"{path} {error}; {mend}") from error
    except Exception as error:  # what a damaged archive or pickle may raise has no bounds
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); {mend}") from error


def find(root: Path, layouts: Sequence[str]) -> list[tuple[Path, str]]:
    """The folders, not empty, that match a layout, in `root` or one level deeper; each with its layout."""
    parents = [root, *sorted(root.glob("[!.]*"))]  # a hidden one may be a download on its way
    pairs = [(parent / layout, layout) for parent in parents for layout in layouts]
    return [(folder, layout) for folder, layout in pairs if folder.is_dir() and any(folder.iterdir())]


def download(
    root: Path,
    layout: str,
    archives: Mapping[str, str],
    source: str,
    options: Mapping[str, object] | None = None,
) -> None:
    """Let torchvision download into a hidden folder of `root`, then move `layout` into place in one step.

    Two processes may do so at once: the first to finish wins. What fails leaves nothing behind. Archives that
    somebody placed below `root` are used in place of the network.

    Args:
        root: the data folder; made if need be.
        layout: the folder that torchvision makes, as a path below `root`.
        archives: the publisher's files, as paths below `root`, and their MD5.
        source: the set's class in `torchvision.datasets`.
        options: what that takes beside `root` and `download`; None is `train=False`.

    Raises:
        DataError: the network, the disk or a placed archive fails.
    """
    import torchvision

    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none: a network that swallows packets would hang us
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as new:
            _copy_placed(root, Path(new), archives)
            getattr(torchvision.datasets, source)(
                new, download=True, **({"train": False} if options is None else options)
            )
            (root / layout).parent.mkdir(exist_ok=True)
            try:
                os.rename(Path(new) / layout, root / layout)
            except OSError:
                if not find(root, [layout]):  # else another process was first
                    raise
    except DataError:
        raise
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"{source} is not in {root} and cannot be downloaded ({reason}); "
            f"place {', '.join(Path(archive).name for archive in archives)} in "
            f"{(root / next(iter(archives))).parent} and run again, or set DATA_DIR (--data-dir; of fit: --data.root) "
            f"to the folder that holds {layout}/; the quick preset needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
        for folder in made:
            with suppress(OSError):  # only an empty folder can go, and only a failure leaves it empty
                folder.rmdir()


def _copy_placed(root: Path, new: Path, archives: Mapping[str, str]) -> None:
    from torchvision.datasets.utils import check_integrity

    for archive, md5 in archives.items():
        if (root / archive).exists():
            if not check_integrity(root / archive, md5):
                raise DataError(
                    f"{root / archive} is not the publisher's archive (its MD5 is not {md5}); "
                    "delete it and run again to download it anew"
                )
            (new / archive).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / archive, new / archive)
