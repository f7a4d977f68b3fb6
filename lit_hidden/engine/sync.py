"""Upload runs that Weights & Biases kept offline, through its own command line."""

import os
import subprocess
import sys
from pathlib import Path

from lit_hidden.engine.tracking import why_offline


class SyncError(RuntimeError):
    """Runs that were not uploaded, and what to do about it."""


def sync(folder: str | Path = "wandb", *, dry_run: bool = False) -> None:
    """Upload the runs kept offline in `folder`; those uploaded before are left out.

    Args:
        folder: where W&B keeps them, as `offline-run-*`.
        dry_run: only list them; needs no key and no server.

    Raises:
        SyncError: there are none, no key is configured, the server does not answer, or W&B fails.
    """
    runs = sorted(str(path) for path in Path(folder).glob("offline-run-*") if path.is_dir())
    if not runs:
        raise SyncError(
            f"no offline-run-* in {folder}, so there is nothing to upload; runs are kept there when reproduce finds no "
            "API key or no server, or with WANDB_MODE=offline"
        )
    os.environ.pop("WANDB_MODE", None)  # offline may be why they are there; to upload is to go online
    # W&B itself would try for minutes to reach a server that does not answer.
    if not dry_run and (why := why_offline()):
        login = f"{Path(sys.executable).parent / 'wandb'} login"
        raise SyncError(
            f"W&B: {why}; nothing was uploaded. {login} stores a key (or set WANDB_API_KEY); "
            "WANDB_BASE_URL names another server"
        )
    command = [sys.executable, "-m", "wandb", "sync", *(["--dry-run"] if dry_run else ["--yes"]), *runs]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.strip() or last
            if not line.startswith("Error: "):  # told below
                sys.stderr.write(line)
    if process.returncode:
        raise SyncError(f"wandb sync ended with {process.returncode}: {last.removeprefix('Error: ')}")
