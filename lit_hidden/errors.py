"""What the user can mend."""

import os


class UserError(Exception):
    """An error that the command line tells in one message, without a traceback."""

    status = 1  # of the command


def missing(path: str | os.PathLike[str]) -> str | None:
    """Say why `path` leads to nothing, which torch, safetensors and Pillow do not; None: to a file or folder."""
    if os.path.exists(path):  # a pipe would make its reader wait
        return None if os.path.isfile(path) or os.path.isdir(path) else "it is neither a file nor a folder"
    return f"it is a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else "it is not there"
