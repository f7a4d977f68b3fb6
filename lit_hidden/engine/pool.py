"""Pools of workers, which start jobs and say which have ended, and the pool of this machine's processes."""

import ctypes
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from types import ModuleType

from lit_hidden.engine.devices import cores, environments
from lit_hidden.engine.ranks import Group
from lit_hidden.engine.work import Job, opened, printing_into, work

_CHECKPOINT = 60.0  # seconds for the steps until all ranks stop, and for a checkpoint on a slow disk
Ended = tuple[int, str | None]  # a place, and how its worker died; None: it ended as it should


class Pool(ABC):
    """Places, each of which trains a run at a time, by `per_run` devices together or by such a part of a GPU."""

    elsewhere = False  # whether workers may have another working directory, and their files be seen late
    decoders: int | None = None  # processes that decode images for a device; None: as many as its process has CPUs for
    device: str  # `cuda` or `cpu`
    places: int  # how many runs are trained at a time
    per_run: float = 1

    @abstractmethod
    def start(self, places: Sequence[int], jobs: Sequence[Job]) -> None:
        """Begin the first jobs, one at each of these free places; workers that stay may go on with the others."""

    @abstractmethod
    def ended(self, seconds: float) -> list[Ended]:
        """Wait at most so long until a worker has ended, and say which have."""

    @abstractmethod
    def close(self) -> None:
        """Stop all workers; those that can write a checkpoint first."""


class Local(Pool):
    """Train each run in a process of this machine, forked from one that has imported torch; see `environments`.

    Torchrun starts runs on several devices. Nothing enforces a run's part of a GPU: runs compete for its memory.
    """

    def __init__(self, devices: int | None, per_run: float = 1) -> None:
        self.per_run = per_run
        self.device, self.environments = environments(devices, per_run)
        self.places = len(self.environments)
        self.decoders = max(1, cores() // (self.places * max(1, int(per_run))))  # all workers see all cores
        self._processes: dict[int, ForkServerProcess] = {}

    def start(self, places: Sequence[int], jobs: Sequence[Job]) -> None:
        """Fork a process for each place."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lit_hidden.engine.preload"])
        ours, main = dict(os.environ), sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # a worker would import it, and a user's script begin anew
        os.environ |= {"OMP_NUM_THREADS": "1", **self.environments[0]}  # glibc reads its part when the server starts
        try:
            for place, job in zip(places, jobs, strict=False):
                process = context.Process(target=_work, args=(job, {**ours, **self.environments[place]}))
                process.start()
                self._processes[place] = process
        finally:
            sys.modules["__main__"] = main
            os.environ.clear()
            os.environ |= ours

    def ended(self, seconds: float) -> list[Ended]:
        """Wait at most so long until a process has ended."""
        connection.wait([process.sentinel for process in self._processes.values()], seconds)
        ends = list[Ended]()
        for place, process in list(self._processes.items()):
            if (code := process.exitcode) is not None:
                del self._processes[place]
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
                ends.append((place, how if code else None))
        return ends

    def close(self) -> None:
        """Stop the processes; they write a checkpoint first, unless Ctrl-C is pressed once more."""
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


def _work(job: Job, environment: dict[str, str]) -> None:
    """Do a job in a new process, which ignores Ctrl-C (its engine stops it in order) and ends with its engine."""
    gc.freeze()  # what was imported before the fork stays shared
    os.environ |= environment
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = multiprocessing.parent_process()
    assert engine is not None

    def watch() -> None:
        connection.wait([engine.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    sys.exit(do(job))


def do(job: Job, group: Group | None = None) -> int:
    """Do a job here, with a group, or by torchrun on as many devices as it asks for; return the exit status."""
    if job["devices"] == 1 or group is not None:
        work(job, group)
        return 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job["devices"])]
    command += ["-m", "lit_hidden.engine.torchrun", json.dumps(job)]
    libc = ctypes.CDLL(None)
    # prctl(PR_SET_PDEATHSIG): torchrun and its ranks end when this process is gone, however it went.
    run, store = opened(job)
    with printing_into(store.folder(run)):
        process = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(1, signal.SIGTERM), start_new_session=True)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
