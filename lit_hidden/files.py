"""Files that others may have put in place: opened only if they are regular files."""

import os
from io import UnsupportedOperation
from pathlib import Path


def regular(path: Path) -> Path:
    """Return `path`; UnsupportedOperation, an OSError, if it is a pipe, socket or device, which may block for ever."""
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise UnsupportedOperation(f"{path} is a {'pipe' if path.is_fifo() else 'socket or device'}, not a file")
    return path
