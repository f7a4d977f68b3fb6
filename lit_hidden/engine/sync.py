"""Upload runs that Weights & Biases kept offline, through its own command line."""

import os
import subprocess
import sys
from pathlib import Path

from lit_hidden.engine.tracking import has_key
from lit_hidden.errors import UserError


class SyncError(UserError):
    """Runs were not uploaded; says what to do about it."""


def sync() -> None:
    """Upload the `offline-run-*` that were not uploaded before; SyncError: there are none, no key, or W&B fails."""
    folder = Path(os.environ.get("WANDB_DIR", "")) / "wandb"
    runs = sorted(map(str, folder.glob("offline-run-*")))
    if not runs:
        raise SyncError(f"no offline-run-* in {folder}, so there is nothing to upload")
    if not has_key():
        raise SyncError("W&B: no API key is configured, so nothing was uploaded; `wandb login` stores one")
    os.environ.pop("WANDB_MODE", None)  # "offline" would forbid the upload
    if status := subprocess.run([sys.executable, "-m", "wandb", "sync", "--yes", *runs], check=False).returncode:
        raise SyncError(f"wandb sync ended with status {status}; its own message stands above")
