"""The local launcher: one reused worker process per device; on CPU as many as fit, each with one thread."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from lit_hidden.engine.launcher import Answer, Job, Launcher, LauncherError, at_a_time, failed, places
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run

# Activations of megabytes come and go at every step; glibc would give each back to the kernel and ask for it again.
# Keeping them took a Conv4 x0.25 run of 2 epochs on one core from 6.0 to 4.5 s (medians of 3).
CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_TOP_PAD_": str(2**28),
}


_WORKER = [sys.executable, "-m", "lit_hidden.engine.worker"]
_CHECKPOINT = 60.0  # seconds for the steps until all ranks stop, and for a checkpoint on a slow disk
_MEMORY = 2 * 2**30  # bytes of a CPU worker; with CIFAR-10 and Conv8 x0.25 it takes 1.8


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


def fitting() -> int:
    """Count the CPU workers that fit: one a core, as long as there is memory for each."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return cores()
    return max(1, min(cores(), available // _MEMORY))


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


def gpu_name() -> str:
    """Name the GPUs of this machine as torch does; empty if there are several kinds."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return names[0].strip() if len(set(names)) == 1 else ""


class LocalLauncher(Launcher):
    """Train runs on this machine's devices: a thread for each place, with a worker process that serves all its runs.

    Args:
        store: where the runs live.
        devices: how many devices, see `environments`.
        job: gives what a run's job says besides the run: data folder, W&B mode and group.
        per_run: how many devices train each run together; below 1, which part of a GPU a run has to itself. Nothing
            keeps it from more: the GPU's work and memory are whose who asks first.
    """

    shares = True

    def __init__(self, store: Store, devices: int | None, job: Callable[[Run], Job], per_run: float = 1) -> None:
        super().__init__(store, job, per_run)
        self.device, self.environments = environments(devices, per_run)
        self.running = [None] * len(self.environments)
        self.decoders = max(1, cores() // (len(self.environments) * max(1, int(per_run))))  # all workers see all cores
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._workers: list[subprocess.Popen[str] | None] = [None] * len(self.environments)

    def _gpu(self) -> str:
        return gpu_name()

    def launch(self, runs: Iterable[Run], poll: Callable[[], None], every: float = 0.5) -> None:
        """Train `runs`; workers stay for the next launch, until `close`."""
        self._stop.clear()
        jobs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        todo = list(runs)
        for run in todo:
            jobs.put(run)
        slots = range(min(len(self.environments), len(todo)))
        try:
            for slot in slots:
                self._threads.append(threading.Thread(target=self._serve, args=(jobs, slot), daemon=True))
                self._threads[-1].start()
            while alive := [thread for thread in self._threads if thread.is_alive()]:
                alive[0].join(every)
                poll()
        except BaseException:  # Ctrl-C above all
            self.close()
            raise

    def close(self) -> None:
        """End the workers; those that train write a checkpoint first, unless Ctrl-C is pressed once more."""
        with self._starting:  # from here on none is started
            self._stop.set()
        workers = [process for process in self._workers if process is not None]
        for worker, run in zip(self._workers, self.running, strict=True):
            if worker is not None and run is not None:
                worker.terminate()
        until = time.monotonic() + _CHECKPOINT
        with suppress(KeyboardInterrupt):
            while time.monotonic() < until and any(process.poll() is None for process in workers):
                for worker, run in zip(self._workers, self.running, strict=True):
                    if worker is not None and run is None:
                        assert worker.stdin is not None
                        with suppress(OSError):
                            worker.stdin.close()  # an idle worker ends by that; one that trains, at once
                time.sleep(0.02)
        for process in workers:
            if process.poll() is None:
                process.kill()
        for thread in self._threads:
            thread.join()
        for process in workers:
            _bury(process)
        self._threads, self._workers = [], [None] * len(self.environments)

    def _serve(self, jobs: "queue.SimpleQueue[Run]", slot: int) -> None:
        while not self._stop.is_set():
            try:
                run = jobs.get_nowait()
            except queue.Empty:
                return
            if self._spoils(run):
                continue
            self.running[slot] = run
            answer = self._train(slot, run)
            self.running[slot] = None
            self._take(run, answer)

    def _train(self, slot: int, run: Run) -> Answer:
        """Have a run trained: by a second worker if the first dies, and so on as long as each gets further."""
        while True:
            try:
                process = self._worker(slot)
            except OSError as error:
                return failed(f"no worker can be started: {error}", "grid")
            answer = self._ask(process, run) if process is not None else None
            if answer is not None or process is None or self._stop.is_set():
                return answer or failed("stopped", "run")
            if (answer := self._after_death(run, _death(process.wait()))) is not None:
                return answer

    def _worker(self, slot: int) -> "subprocess.Popen[str] | None":
        """Return the worker of a slot, a new one if there is none or it has died; None if all is to stop."""
        with self._starting:
            process = self._workers[slot]
            if self._stop.is_set():
                return None
            if process is not None and process.poll() is not None:
                _bury(process)
                process = None
            if process is None:
                # A session of its own: Ctrl-C reaches this process alone, which then stops the workers in order.
                process = self._workers[slot] = subprocess.Popen(
                    _WORKER,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **self.environments[slot]},
                    start_new_session=True,
                )
            return process

    def _ask(self, process: subprocess.Popen[str], run: Run) -> Answer | None:
        """Give a worker its job and wait for the answer; None if the worker died of it."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(self._describe(run)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):  # it is dead, or its pipe was just closed
            return None
        answer: Answer | None = json.loads(line) if line.endswith("\n") else None
        return answer


def _bury(process: "subprocess.Popen[str]") -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):  # what was not written yet, to nobody
            pipe.close()


def _death(code: int) -> str:
    """Say how a process ended, from its exit status."""
    if code >= 0:
        return f"ended with exit status {code}"
    names = {int(s): s.name for s in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"
