"""Checkpoints as files that are whole or not there, even if the process is killed while it writes."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_hidden.engine.store import write_atomically


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place, then rename it.

    Lightning's own (2.6) goes through the system's temporary folder: it fails where that is full, leaves a file there
    when killed, and between file systems its move is a copy that may stop halfway.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`, whole or not at all; an OSError says why not."""
        content = io.BytesIO()  # on a full disk torch.save would raise an error that does not say so
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())
