"""Files that others may have put in place: opened only if they are regular files."""

import os
import stat
from io import UnsupportedOperation
from pathlib import Path

_KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def regular(path: Path) -> Path:
    """Return `path`, unless it is a pipe, a socket or a device: opening one of these may block for ever.

    Raises:
        UnsupportedOperation: `path` is one of these. (It is an OSError.)
    """
    kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode)) if os.path.exists(path) else None
    if kind is not None:
        raise UnsupportedOperation(f"{path} is a {kind}, not a file")
    return path
