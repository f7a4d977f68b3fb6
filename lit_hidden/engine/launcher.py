"""What trains the runs of a grid, whatever is under it: this machine's processes, Ray or SLURM.

A launcher carries run descriptions to `lit_hidden.engine.worker.work` and answers back. What follows from an answer, or
from the death of a worker, is here: the same under all of them.
"""

import json
import os
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lit_hidden.engine.store import CHECKPOINT, Store
from lit_hidden.experiment import Run

Job = dict[str, Any]
Answer = dict[str, Any]
_SEEN = 60.0  # seconds until a file of another machine must have come in sight: as long as NFS remembers a folder


class LauncherError(ValueError):
    """Devices that are not there, or a launcher that cannot be used here."""


@dataclass(frozen=True)
class Failure:
    """A run that failed: why, where its log is, and what else it stops: `run`, all runs on its `data`, the `grid`."""

    run: Run
    error: str
    log: str
    stops: str = "run"


class Launcher(ABC):
    """Train runs, several at a time, and take what their workers answer.

    A worker that dies (killed, out of memory) is replaced, and its run goes on from its last checkpoint. The run has
    failed when a worker dies again without having got any further.

    Args:
        store: where the runs live.
        job: gives what a run's job says besides the run: data folder, W&B mode and group.
        per_run: how many devices train each run together, or which part of one.
        nodes: on how many machines they are.

    Attributes:
        device: `cuda` or `cpu`.
        failures: what failed, in all launches.
        notes: lines for the user.
        running: the runs that are trained now; as long as there are places for runs.

    Raises:
        LauncherError: this launcher has no such places.
    """

    shares = False  # whether several runs may be trained on one device
    elsewhere = False  # whether workers may have another working directory
    decoders: int | None = None  # processes that decode images for a device; None: as many as its process has CPUs for
    device: str
    running: list[Run | None]

    def __init__(self, store: Store, job: Callable[[Run], Job], per_run: float = 1, nodes: int = 1) -> None:
        self.store, self.job, self.per_run, self.nodes = store, job, per_run, nodes
        self.failures: list[Failure] = []
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._told: set[str] = set()
        self._spoilt: dict[str, Failure] = {}  # data -> why no run on them can be trained
        self._died: dict[Run, tuple[int, int]] = {}  # how far those were whose worker died
        self._unseen: dict[Run, float] = {}  # until when the results must have come in sight
        self._stop = threading.Event()
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
        return ""

    @abstractmethod
    def launch(self, runs: Iterable[Run], poll: Callable[[], None], every: float = 0.5) -> None:
        """Train `runs`, but for those that another process holds; call `poll` every so many seconds until all ended.

        What `poll` raises ends the launch: those that train write a checkpoint first, as after Ctrl-C.
        """

    @abstractmethod
    def close(self) -> None:
        """End what trains, at once."""

    def _describe(self, run: Run) -> Job:
        """Write down a run's job."""
        job = {**self.job(run), "run": json.loads(run.to_json()), "runs_dir": str(self.store.root)}
        job |= {"device": self.device, "threads": 1, "devices": max(1, int(self.per_run)), "nodes": self.nodes}
        job |= {"decoders": self.decoders}
        if self.elsewhere:
            job |= {name: os.path.abspath(job[name]) for name in ("runs_dir", "data_dir") if name in job}
        return job

    def _spoils(self, run: Run) -> bool:
        """Take a run as failed if another has failed on the same data; tell whether it is."""
        if (failed := self._spoilt.get(run.data)) is None:
            return False
        why = f"not tried: {failed.run.name} failed on the same data"
        self.failures.append(replace(failed, run=run, error=why, log=""))
        return True

    def _take(self, run: Run, answer: Answer, log: str | None = None) -> None:
        """Take a worker's answer: what is done, what has failed and what that stops."""
        self._died.pop(run, None)
        for note in answer.get("notes", []):
            if note not in self._told:  # each worker finds out for itself that W&B fails
                self._told.add(note)
                self.notes.put(note)
        if answer["status"] == "done" and self.elsewhere and not self.store.done(run):
            self._unseen.setdefault(run, time.monotonic() + _SEEN)
        elif answer["status"] == "failed" and not self._stop.is_set():
            log = str(self.store.folder(run) / "log.txt") if log is None else log
            self.failures.append(Failure(run, answer["error"], log, answer["stops"]))
            if answer["stops"] == "data":
                self._spoilt[run.data] = self.failures[-1]
            elif answer["stops"] == "grid":
                self._stop.set()

    def _look(self) -> bool:
        """Look whether results that workers of other machines have told of are there; tell whether some are not yet."""
        for run, until in list(self._unseen.items()):
            late = time.monotonic() > until
            if self.store.done(run) or late:
                del self._unseen[run]
            if late and not self.store.done(run):
                why = f"a worker has finished it, but {self.store.folder(run)} here has no result"
                self._take(run, failed(f"{why}: --runs-dir must be a folder that all machines share", "grid"), "")
        return bool(self._unseen)

    def _after_death(self, run: Run, how: str) -> Answer | None:
        """Say what follows from the death of a run's worker: the answer that it has failed, or None: a new one."""
        epochs, _ = self.store.progress(run)
        try:
            written = os.stat(self.store.folder(run) / CHECKPOINT).st_mtime_ns  # in the middle of an epoch too
        except OSError:
            written = 0
        if self._died.get(run, (-1, -1)) >= (epochs, written):
            return failed(f"its worker {how}, and so did the next one, after epoch {epochs}", "run")
        self._died[run] = (epochs, written)
        self.notes.put(f"the worker of {run.name} {how} after epoch {epochs}; a new one goes on with it")
        return None


def launcher(
    name: str,
    store: Store,
    devices: int | None,
    job: Callable[[Run], Job],
    per_run: float = 1,
    nodes: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Launcher:
    """Make the launcher of a name.

    Args:
        name: `local`, `ray` or `slurm`.
        store: where the runs live.
        devices: how many devices in all; None takes all there are.
        job: gives what a run's job says besides the run.
        per_run: how many devices train each run together; below 1, which part of a GPU (local and ray).
        nodes: on how many machines those of one run are (SLURM alone).
        options: SLURM's, such as `partition`.

    Raises:
        LauncherError: there is no such launcher, it is not installed, cannot be reached, or has no such devices.
    """
    if options and name != "slurm":
        raise LauncherError(f"--slurm {', '.join(options)}: an option of --launcher slurm, not of {name}")
    if nodes != 1 and name != "slurm":
        raise LauncherError(
            f"--num-nodes {nodes}: one process cannot start others on other machines. On each of them: torchrun "
            f"--nnodes {nodes} --nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m lit_hidden "
            "reproduce ...; in a SLURM job: srun lit-hidden reproduce ...; or give --launcher slurm"
        )
    if name == "local":
        from lit_hidden.engine.local import LocalLauncher

        return LocalLauncher(store, devices, job, per_run)
    if name == "ray":
        from lit_hidden.engine.ray import RayLauncher

        return RayLauncher(store, devices, job, per_run)
    if name == "slurm":
        from lit_hidden.engine.slurm import SlurmLauncher

        return SlurmLauncher(store, devices, job, per_run, nodes, options)
    raise LauncherError(f"--launcher {name}: there are local, ray and slurm")


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


def failed(error: str, stops: str) -> Answer:
    """Answer for a worker that did not."""
    return {"status": "failed", "error": error, "stops": stops}


def work_here(job: Job) -> Answer:
    """Do a job in this process, whose output goes to the run's log meanwhile."""
    from lit_hidden.engine.worker import work, write_to

    kept = [os.dup(1), os.dup(2)]
    try:
        return work(job, write_to)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
