"""The local launcher: one reused worker process per device; on CPU one per core, each with one thread."""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run

# Activations of megabytes come and go at every step; glibc would give each back to the kernel and ask for it again.
# Keeping them took a Conv4 x0.25 run of 2 epochs on one core from 6.0 to 4.5 s (medians of 3).
_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_TOP_PAD_": str(2**28),
}


class LauncherError(ValueError):
    """Devices that are not there."""


@dataclass(frozen=True)
class Failure:
    """A run that failed: why, and where its log is."""

    run: Run
    error: str
    log: str
    fatal: bool


def gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() and d.strip() != "-1"])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environments(devices: int | None) -> tuple[str, list[dict[str, str]]]:
    """Choose what each worker sees.

    Args:
        devices: how many workers; None takes all GPUs, or without one all CPU cores.

    Returns:
        `cuda` or `cpu`, and a worker's extra environment each.

    Raises:
        LauncherError: fewer than 1 device, or more than there are GPUs.
    """
    there = gpus()
    if devices is not None and (devices < 1 or (there and devices > there)):
        raise LauncherError(f"--devices {devices}: this machine has {there or cores()} {'GPUs' if there else 'cores'}")
    if there:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(there)))).split(",")
        return "cuda", [{"CUDA_VISIBLE_DEVICES": d.strip()} for d in visible[: devices or there]]
    return "cpu", [_CPU] * (devices or cores())


class Launcher:
    """Train runs on this machine's devices; threads here, each with a worker process of its own.

    Args:
        store: where the runs live.
        devices: how many workers, see `environments`.
        job: what every job says besides the run: data folder, W&B mode and group.
    """

    def __init__(self, store: Store, devices: int | None, job: dict[str, Any]) -> None:
        self.store, self.job = store, job
        self.device, self.environments = environments(devices)
        self.failures: list[Failure] = []
        self._stop = threading.Event()
        self._processes: list[subprocess.Popen[str]] = []

    def launch(self, runs: Iterable[Run], poll: Callable[[], None], every: float = 0.5) -> None:
        """Train `runs`, but for those that another process holds; call `poll` every so many seconds until all ended."""
        self._stop.clear()
        jobs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        todo = list(runs)
        for run in todo:
            jobs.put(run)
        slots = self.environments[: len(todo)]
        threads = [threading.Thread(target=self._serve, args=(jobs, extra), daemon=True) for extra in slots]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                threads[0].join(every) if threads[0].is_alive() else self._stop.wait(every)
                poll()
        finally:
            self._stop.set()
            for process in self._processes:
                if process.poll() is None:
                    process.terminate()
            for process in self._processes:
                process.wait()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            for process in self._processes:
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()

    def _serve(self, jobs: "queue.SimpleQueue[Run]", extra: dict[str, str]) -> None:
        process: subprocess.Popen[str] | None = None
        while not self._stop.is_set():
            try:
                run = jobs.get_nowait()
            except queue.Empty:
                break
            if process is None or process.poll() is not None:
                process = self._start(extra)
            answer = self._ask(process, run)
            if answer["status"] == "failed" and not self._stop.is_set():
                log = str(self.store.folder(run) / "log.txt")
                self.failures.append(Failure(run, answer["error"], log, answer["fatal"]))
                if answer["fatal"]:
                    self._stop.set()
        if process is not None and process.stdin is not None:
            process.stdin.close()  # no more jobs: the worker ends
            process.wait()

    def _start(self, extra: dict[str, str]) -> subprocess.Popen[str]:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the workers in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "lit_hidden.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **extra},
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def _ask(self, process: subprocess.Popen[str], run: Run) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        log = self.store.folder(run) / "log.txt"
        job = {
            **self.job,
            "run": json.loads(run.to_json()),
            "runs_dir": str(self.store.root),
            "device": self.device,
            "threads": 1,
            "log": str(log),
        }
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            code = process.wait()
            return {"status": "failed", "error": f"its worker ended with exit status {code}", "fatal": False}
        answer: dict[str, Any] = json.loads(line)
        return answer
