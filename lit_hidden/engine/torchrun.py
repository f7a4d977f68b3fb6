"""Processes that torchrun or SLURM (srun) has started together: the first leads from run to run, the others follow."""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lit_hidden.engine.devices import LauncherError, gpus
from lit_hidden.engine.pool import Ended, Pool
from lit_hidden.engine.store import Store
from lit_hidden.engine.work import Job, failed, run_of, work

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Group, Ranks


# What each launcher calls a process' number, how many there are, and the same on its machine.
_PLACES = {
    "TORCHELASTIC_RUN_ID": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}


def placed() -> "Ranks | None":
    """Say where torchrun or SLURM (srun) has placed this process among several; None if it stands alone."""
    names = next((names for launcher, names in _PLACES.items() if launcher in os.environ), None)
    if names is None or os.environ[names[1]] == "1":
        return None
    rank, size, local, here = (os.environ[name] for name in names)
    if "," in here:  # SLURM writes 8(x4), or 8(x3),4
        raise LauncherError(f"SLURM's tasks per node are {here}; every machine must have the same number")
    from lit_hidden.engine.ranks import Ranks  # imports torch, which one process alone may not need

    return Ranks(int(rank), int(size), int(local), int(here.partition("(")[0]))


@contextmanager
def led(ranks: "Ranks | None", whole: bool = True) -> Iterator["Group | None"]:
    """Take this process' place among those that were started together; `whole` as for `Group`.

    The leader gets the group. A follower trains what it is told, and exits. A process that stands alone gets None.
    """
    if ranks is None:
        yield None
        return
    from lit_hidden.engine.ranks import Group

    group = Group(ranks, whole)
    if ranks.rank > 0:
        _follow(group)
        sys.exit(0)
    try:
        yield group
    except KeyboardInterrupt:  # perhaps in the middle of a collective
        group.broken = True
        raise
    finally:
        group.end()


def _follow(group: "Group") -> None:
    """Train what the leader says, until it says no more."""
    from lit_hidden.engine.network import make_data
    from lit_hidden.engine.train import train

    while (job := group.take()) is not None:
        run, store = run_of(job), Store(job["runs_dir"])
        how: dict[str, Any] = {name: job[name] for name in ("device", "threads", "decoders") if name in job}
        try:
            if group.ranks.local == 0:  # its machine may have a data cache of its own
                make_data(run, job["data_dir"], job.get("decoders")).prepare_data()
            with group.together(job["device"]) as ranks:
                train(run, store.folder(run), job["data_dir"], ranks=ranks, **how)
        except SystemExit:  # all ranks stop after the same step; the leader decides what is next
            continue
        except Exception as error:
            traceback.print_exc()
            failed(run, store, error, group)
            sys.exit(1)


class Lockstep(Pool):
    """Train runs one after the other in this process, which leads a group, and in the followers.

    A run that fails stops the grid and this process, because followers may wait for it.
    """

    places = 1

    def __init__(self, group: "Group") -> None:
        super().__init__(group.ranks.size)
        self.group, self.device = group, "cuda" if gpus() else "cpu"
        if 0 < gpus() < group.ranks.here:
            told = f"{group.ranks.here} processes were started on a machine where each sees {gpus()} GPUs"
            raise LauncherError(f"{told}: let each see one for every process (with srun, --gpu-bind=none)")

    def start(self, jobs: Mapping[int, Job], others: Sequence[Job], poll: Callable[[], None]) -> None:
        """Train a run to its end. A thread polls meanwhile; what that raises stops training, as SIGTERM does."""
        done, raised = threading.Event(), list[Exception]()

        def watch() -> None:
            try:
                while not done.wait(0.5):
                    poll()
            except Exception as error:
                raised.append(error)
                signal.raise_signal(signal.SIGTERM)  # Python handles it in the main thread, which trains

        polling = threading.Thread(target=watch, daemon=True)
        polling.start()
        try:
            try:
                work(jobs[0], self.group)
            finally:
                done.set()
                polling.join()
        except (SystemExit, KeyboardInterrupt):  # KeyboardInterrupt: the signal came outside of training
            if not raised:
                raise
        if raised:
            raise raised[0]

    def ended(self, seconds: float) -> list[Ended]:
        """Say that the run has ended: `start` returns only then."""
        return [(0, None)]

    def close(self) -> None:
        """Leave the followers to wait: for the next grid, or the end of `led`."""


if __name__ == "__main__":  # do a job, given as JSON, with the others that torchrun has started for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with led(placed(), whole=False) as group:
        sys.exit(work(json.loads(sys.argv[1]), group, log=True) or int(group is not None and group.broken))
