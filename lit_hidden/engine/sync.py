"""Upload runs that Weights & Biases kept offline, through its own command line."""

import os
import subprocess
import sys
from pathlib import Path

from lit_hidden.engine.tracking import why_offline


class SyncError(RuntimeError):
    """Runs were not uploaded; says what to do about it."""


def sync(folder: str | Path = "wandb", *, dry_run: bool = False) -> None:
    """Upload the `offline-run-*` in `folder` that were not uploaded before; `dry_run` lists them and needs no server.

    Raises:
        SyncError: there are none, no key is configured, the server does not answer, or W&B fails.
    """
    runs = sorted(str(path) for path in Path(folder).glob("offline-run-*") if path.is_dir())
    if not runs:
        raise SyncError(
            f"no offline-run-* in {folder}, so there is nothing to upload; reproduce keeps runs there if it finds no "
            "API key or no server, or with WANDB_MODE=offline"
        )
    os.environ.pop("WANDB_MODE", None)  # "offline" would forbid the upload
    if not dry_run and (why := why_offline()):  # W&B itself would try for minutes
        raise SyncError(
            f"W&B: {why}; nothing was uploaded. {Path(sys.executable).parent / 'wandb'} login stores a key "
            "(or set WANDB_API_KEY); WANDB_BASE_URL names another server"
        )
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run" if dry_run else "--yes", *runs]
    if status := subprocess.run(command, check=False).returncode:
        raise SyncError(f"wandb sync ended with status {status}; its own message stands above")
