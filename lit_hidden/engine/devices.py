"""The devices of this machine, and how runs share them."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lit_hidden.errors import UserError

# glibc would give the activations' megabytes back to the kernel and ask for them again at every step.
# Keeping them took a Conv4 x0.25 run of 2 epochs on one core from 6.0 to 4.5 s (medians of 3).
_KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31), "MALLOC_TOP_PAD_": str(2**28)}
CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **_KEEP}
_MEMORY = 2 * 2**30  # bytes of a CPU worker; with CIFAR-10 and Conv8 x0.25 it takes 1.8


class LauncherError(UserError):
    """Devices that are not there, or a launcher that cannot be used here."""


def gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, without importing torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return sum(gpu.strip() not in ("", "-1") for gpu in visible.split(","))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:  # there is no driver
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting() -> int:
    """Count the CPU workers that fit: one a core, as long as there is memory for each."""
    try:
        memory = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
    except (OSError, IndexError):  # not Linux
        return cores()
    return max(1, min(cores(), 1024 * int(memory) // _MEMORY))


def places(there: Sequence[int], asked: int | None, per_run: float) -> int:
    """Count the runs that `asked` devices, or all that are `there` by machine, train at a time; LauncherError: none."""

    def runs(devices: int) -> int:
        return int(devices // per_run) if per_run >= 1 else devices * int(1 / per_run + 1e-9)

    most = sum(runs(devices) for devices in there)
    found = most if asked is None else runs(asked)
    if not 1 <= found <= most:
        given = "" if asked is None else f"--devices {asked}, "
        raise LauncherError(f"{given}--per-run {per_run:g}: {sum(there)} devices have room for {most} run(s)")
    return found


def environments(devices: int | None, per_run: float = 1) -> tuple[str, list[dict[str, str]]]:
    """Choose what each worker sees: return `cuda` or `cpu`, and each worker's extra environment.

    `devices`: None takes all GPUs, or without one as many CPU workers as fit. `LauncherError`: there are not so many.
    """
    each = max(1, int(per_run))
    if not (there := gpus()):
        return "cpu", [CPU] * places([max(devices or 0, each, fitting())], devices, each)
    workers = places([there], devices, per_run)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(there)))).split(",")
    if per_run < 1:  # one GPU after the other, so that few runs have one each
        visible = visible[: devices or there] * workers
    return "cuda", [{"CUDA_VISIBLE_DEVICES": ",".join(visible[n * each : (n + 1) * each])} for n in range(workers)]
