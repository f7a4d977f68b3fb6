"""The devices of this machine, and how runs share them."""

import os
import subprocess
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
    return sum(line.startswith("GPU ") for line in _ask_nvidia("-L"))


def gpu_name() -> str:
    """Name the first GPU of this machine as torch does; empty if there is none."""
    return next(iter(_ask_nvidia("--query-gpu=name", "--format=csv,noheader")), "").strip()


def _ask_nvidia(*options: str) -> list[str]:
    """Return the lines that the driver prints; none without one."""
    try:
        return subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


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


def places(devices: int, per_run: float) -> int:
    """Count the runs that so many devices of one machine train at a time; devices may be left over."""
    return int(devices // per_run) if per_run >= 1 else devices * int(1 / per_run + 1e-9)


def at_a_time(devices: int, per_run: float) -> int:
    """Count the runs that `devices`, a number the user gave, train at a time; none may be left over."""
    if devices < 1 or (per_run > 1 and devices % per_run):
        least = max(1, per_run)
        raise LauncherError(f"--devices {devices}, --per-run {per_run:g}: give {least:g} or a multiple of it")
    return places(devices, per_run)


def environments(devices: int | None, per_run: float = 1) -> tuple[str, list[dict[str, str]]]:
    """Choose what each worker sees: return `cuda` or `cpu`, and each worker's extra environment.

    `devices`: None takes all GPUs, or without one as many CPU workers as fit. Each worker has `per_run` of them, or
    below 1 such a part of a GPU. `LauncherError`: this machine has no such devices.
    """
    there = gpus()
    if there and (asked := max(devices or 1, per_run)) > there:
        raise LauncherError(f"--devices or --per-run asks for {asked:g} GPUs, and this machine has {there}")
    if not there and per_run < 1:
        raise LauncherError(f"--per-run {per_run:g}: runs share a GPU, and this machine has none; leave it out")
    workers = places(there or max(int(per_run), fitting()), per_run) if devices is None else at_a_time(devices, per_run)
    if not there:
        return "cpu", [CPU] * workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(there)))).split(",")
    if per_run < 1:  # one GPU after the other, so that few runs have one each
        visible, per_run = visible[: devices or there] * workers, 1
    each = int(per_run)
    return "cuda", [{"CUDA_VISIBLE_DEVICES": ",".join(visible[n * each : (n + 1) * each])} for n in range(workers)]
