"""What a run is trained by: a process of this machine, forked from one that has imported torch.

A `Pool` starts jobs and says which have ended. What became of a run its folder says, and what follows from that is the
same under all pools: see `lit_hidden.engine.grid`.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import TYPE_CHECKING

from lit_hidden.engine.devices import CPU, LauncherError, cores, environments, gpu_name
from lit_hidden.engine.work import Job, work, write_to

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Group

_CHECKPOINT = 60.0  # seconds for the steps until all ranks stop, and for a checkpoint on a slow disk
Ended = tuple[int, str | None]  # a place, and how its worker died; None: it ended as it should


class Pool(ABC):
    """Places, each of which trains a run at a time.

    Args:
        per_run: how many devices train each run together, or which part of one.

    Attributes:
        device: `cuda` or `cpu`.
        places: how many runs are trained at a time.
        decoders: processes that decode images for a device; None: as many as its process has CPUs for.

    Raises:
        LauncherError: this launcher has no such places.
    """

    shares = False  # whether several runs may be trained on one device
    elsewhere = False  # whether workers may have another working directory, and their files be seen late
    decoders: int | None = None
    device: str
    places: int

    def __init__(self, per_run: float = 1) -> None:
        self.per_run = per_run
        part = "" if self.shares else "; only local and ray have several runs share a GPU"
        if per_run <= 0 or (per_run < 1 and not self.shares) or (per_run > 1 and per_run != int(per_run)):
            raise LauncherError(f"--per-run {per_run:g}: devices a run are 1 or another whole number{part}")

    @property
    def device_name(self) -> str:
        """Name what trains a run as its result's provenance does; empty if that cannot be told without torch."""
        name = "CPU, 1 thread(s)" if self.device == "cpu" else self._gpu()
        return f"{self.per_run:g} x {name}" if name and self.per_run > 1 else name

    def _gpu(self) -> str:
        """Name the GPUs; empty if they are other machines'."""
        return gpu_name()

    @abstractmethod
    def start(self, jobs: Mapping[int, Job], others: Sequence[Job], poll: Callable[[], None]) -> None:
        """Begin jobs at free places.

        Args:
            jobs: by place.
            others: for workers that do not end with their first job.
            poll: called meanwhile by a pool that has only this process, and does the job here.

        Raises:
            OSError, LauncherError: nothing can be started.
        """

    @abstractmethod
    def ended(self, seconds: float) -> list[Ended]:
        """Wait so long at most until a worker has ended, and say which have."""

    @abstractmethod
    def close(self) -> None:
        """End what trains: those that can write a checkpoint first."""


class Local(Pool):
    """Train runs on this machine's devices, a process each.

    Args:
        devices: how many devices, see `environments`.
        per_run: how many of them train each run together, which torchrun then starts; below 1, which part of a GPU a
            run has to itself. Nothing keeps it from more: the GPU's work and memory are whose who asks first.
    """

    shares = True

    def __init__(self, devices: int | None, per_run: float = 1) -> None:
        super().__init__(per_run)
        self.device, self.environments = environments(devices, per_run)
        self.places = len(self.environments)
        self.decoders = max(1, cores() // (self.places * max(1, int(per_run))))  # all workers see all cores
        self._processes: dict[int, ForkServerProcess] = {}

    def start(self, jobs: Mapping[int, Job], others: Sequence[Job], poll: Callable[[], None]) -> None:
        """Fork a process for each job."""
        for place, job in jobs.items():
            environment = {**os.environ, **self.environments[place]}
            process = multiprocessing.get_context("forkserver").Process(target=_work, args=(job, environment))
            with _without_main():
                _make_ready(self.environments[place])
                process.start()
            self._processes[place] = process

    def ended(self, seconds: float) -> list[Ended]:
        """Wait so long at most until a process has ended."""
        if not self._processes:
            time.sleep(seconds)
        connection.wait([process.sentinel for process in self._processes.values()], seconds)
        found = [(place, process) for place, process in self._processes.items() if process.exitcode is not None]
        for place, process in found:
            process.join()
            del self._processes[place]
        return [(place, _death(process.exitcode or 0)) for place, process in found]

    def close(self) -> None:
        """End the processes; they write a checkpoint first, unless Ctrl-C is pressed once more."""
        for process in self._processes.values():
            process.terminate()
        until = time.monotonic() + _CHECKPOINT
        with suppress(KeyboardInterrupt):
            for process in self._processes.values():
                process.join(max(0, until - time.monotonic()))
        for process in self._processes.values():
            process.kill()
            process.join()
        self._processes.clear()


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a new process from importing this one's main module: a user's script would begin anew there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _make_ready(environment: Mapping[str, str]) -> None:
    """See to it that the process to fork from is there; glibc reads its part of the environment when that starts."""
    forkserver.set_forkserver_preload(["lit_hidden.engine.preload"])
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": CPU["OMP_NUM_THREADS"], **environment}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before


def _death(code: int) -> str | None:
    """Say how a process died, from its exit status; None if it did not."""
    if code >= 0:
        return f"ended with exit status {code}" if code else None
    names = {int(s): s.name for s in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"


def _work(job: Job, environment: dict[str, str]) -> None:
    """Do a job in a new process: deaf to Ctrl-C, whose engine stops it in order, and no longer than that engine."""
    os.environ.clear()
    os.environ |= environment
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = multiprocessing.parent_process()
    assert engine is not None

    def watch() -> None:
        connection.wait([engine.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    sys.exit(do(job))


def do(job: Job, group: "Group | None" = None) -> int:
    """Do a job here, leading a group, or by torchrun in as many processes as it has devices; they print into its log.

    Returns:
        the exit status.
    """
    if job["devices"] > 1 and group is None:
        return _together(job)
    kept = [os.dup(1), os.dup(2)]
    try:
        return work(job, write_to, group)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)


def _together(job: Job) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job["devices"])]
    command += ["-m", "lit_hidden.engine.torchrun", json.dumps(job)]
    libc = ctypes.CDLL(None)
    # Told to end when this process is gone, however it went; the processes that train end with torchrun.
    process = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(1, signal.SIGTERM), start_new_session=True)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return status if status >= 0 else 128 - status
