"""Upload runs that Weights & Biases kept offline, through its own command line."""

import os
import subprocess
import sys
from pathlib import Path

from lit_hidden.errors import UserError


def sync() -> None:
    """Upload the `offline-run-*` that were not uploaded before; UserError: there are none, or W&B fails."""
    folder = Path(os.environ.get("WANDB_DIR", "")) / "wandb"
    runs = sorted(map(str, folder.glob("offline-run-*")))
    if not runs:
        raise UserError(f"no offline-run-* in {folder}, so there is nothing to upload")
    os.environ.pop("WANDB_MODE", None)  # "offline" would forbid the upload
    if status := subprocess.run([sys.executable, "-m", "wandb", "sync", "--yes", *runs], check=False).returncode:
        raise UserError(f"wandb sync ended with status {status}; its own message stands above")
