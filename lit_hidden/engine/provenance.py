"""What computed a result: the device, the versions, the commit."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import lightning
import torch

from lit_hidden import __version__
from lit_hidden.engine.beforehand import git

# Once a process, at import: workers are forked from one that has imported this.
INSTALLED = sorted({f"{found.name}=={found.version}" for found in distributions()}, key=str.lower)


def provenance(device: str, ranks: int) -> dict[str, Any]:
    """Describe what computes in this process, on `cpu` or `cuda`."""
    # Of this package's checkout, not of a repository around its installation.
    commit = git(Path(__file__).parents[2], "--git-dir=.git", "describe", "--always", "--dirty", "--abbrev=12").strip()
    kind = torch.cuda.get_device_name() if device == "cuda" else "CPU, 1 thread(s)"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "lightning": lightning.__version__}
    return {
        "device": kind if ranks == 1 else f"{ranks} x {kind}",
        "tf32": in_tf32(device),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),  # other instructions round otherwise
        "versions": {"lit_hidden": __version__, **versions},
        "installed": INSTALLED,
        "commit": os.environ.get("LIT_HIDDEN_COMMIT") or commit or None,  # a copy without history is told it
        "finished": now(),
    }


def now() -> str:
    """The time, as results have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def in_tf32(device: str) -> list[str]:
    """Name what computes in TF32 (10 bits of fraction, not 23) although its tensors are float32; nothing on a CPU."""
    if device != "cuda" or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return []
    convolutions = ["convolutions"] if torch.backends.cudnn.allow_tf32 else []
    return convolutions + (["products"] if torch.get_float32_matmul_precision() != "highest" else [])
