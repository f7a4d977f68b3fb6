"""Checkpoints as files that are whole or not there, whatever happens while they are written."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_hidden.engine.store import write_atomically


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside where it goes, then put it there.

    Lightning's own (2.6, through fsspec) is written into the system's folder for temporary files and moved. That fails
    where the folder is full, leaves its file there when the process is killed, and between two file systems the move
    is a copy, which may stop halfway.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`, whole or not at all.

        Raises:
            TypeError: storage options; a file has none.
            OSError: the folder is not there, full, or cannot be written to; a file that is there stays as it is.
        """
        if storage_options is not None:
            raise TypeError(
                f"storage_options={storage_options!r}: checkpoints are files of this machine, which have none; "
                "leave them out"
            )
        # In memory first: writing to a full disk, torch would raise an error of its own that does not say so.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())
