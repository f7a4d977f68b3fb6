"""The devices of this machine, and how runs share them."""

import os
import shutil
import subprocess
from pathlib import Path

# Activations of megabytes come and go at every step; glibc would give each back to the kernel and ask for it again.
# Keeping them took a Conv4 x0.25 run of 2 epochs on one core from 6.0 to 4.5 s (medians of 3).
CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_TOP_PAD_": str(2**28),
}
_MEMORY = 2 * 2**30  # bytes of a CPU worker; with CIFAR-10 and Conv8 x0.25 it takes 1.8


class LauncherError(ValueError):
    """Devices that are not there, or a launcher that cannot be used here."""


def gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() and d.strip() != "-1"])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def gpu_name() -> str:
    """Name the GPUs of this machine as torch does; empty if there are several kinds."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return names[0].strip() if len(set(names)) == 1 else ""


def cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting() -> int:
    """Count the CPU workers that fit: one a core, as long as there is memory for each."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return cores()
    return max(1, min(cores(), available // _MEMORY))


def places(devices: int, per_run: float) -> int:
    """Count the runs that so many devices of a machine train at a time; some may be left over."""
    return int(devices // per_run) if per_run >= 1 else devices * int(1 / per_run + 1e-9)


def at_a_time(devices: int, per_run: float) -> int:
    """Count the runs that a given number of devices train at a time.

    Raises:
        LauncherError: they cannot be shared out like this.
    """
    if devices < 1 or (per_run > 1 and devices % per_run):
        least = max(1, per_run)
        raise LauncherError(f"--devices {devices}, --per-run {per_run:g}: give {least:g} or a multiple of it")
    return places(devices, per_run)


def environments(devices: int | None, per_run: float = 1) -> tuple[str, list[dict[str, str]]]:
    """Choose what each worker sees.

    Args:
        devices: how many devices; None takes all GPUs, or without one as many workers on CPU as fit.
        per_run: how many of them a worker has; below 1, which part of a GPU.

    Returns:
        `cuda` or `cpu`, and a worker's extra environment each.

    Raises:
        LauncherError: fewer than 1 device, more than there are GPUs, or not a multiple of `per_run`; parts of a GPU
            where there is none.
    """
    there = gpus()
    if devices is not None and (devices < 1 or (there and devices > there)):
        has = f"this machine has {there or cores()} {'GPUs' if there else 'cores'}"
        raise LauncherError(f"--devices {devices}: {has}{'; 1 is the least' if devices < 1 else ''}")
    if there and per_run > there:
        raise LauncherError(f"--per-run {per_run:g}: this machine has {there} GPUs")
    if not there and per_run < 1:
        raise LauncherError(f"--per-run {per_run:g}: runs share a GPU, and this machine has none; leave it out")
    # Of all there are, some may be left over; of a number that was given, none.
    workers = places(there or max(int(per_run), fitting()), per_run) if devices is None else at_a_time(devices, per_run)
    if not there:
        return "cpu", [CPU] * workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(there)))).split(",")
    if per_run < 1:  # one GPU after the other, so that few runs have one each
        visible, per_run = visible[: devices or there] * workers, 1
    each = int(per_run)
    ours = [",".join(d.strip() for d in visible[n * each : (n + 1) * each]) for n in range(workers)]
    return "cuda", [{"CUDA_VISIBLE_DEVICES": own} for own in ours]
