"""Processes that torchrun or SLURM (srun) has started together: the first leads from run to run, the others follow."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lit_hidden.engine.devices import LauncherError, gpus
from lit_hidden.engine.pool import Ended, Pool
from lit_hidden.engine.work import Job, follow, work

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
def led() -> Iterator["Group | None"]:
    """Give the leader of processes that were started together their group; None to a process that stands alone.

    A follower trains what it is told, and exits.
    """
    if (ranks := placed()) is None:
        yield None
        return
    from lit_hidden.engine.ranks import Group

    group = Group(ranks)
    if ranks.rank > 0:
        follow(group)
        sys.exit(0)
    try:
        yield group
    finally:
        group.end()


class Lockstep(Pool):
    """Train runs one after the other in this process, which leads a group, and in the followers.

    A run that fails ends this process, and torchrun or srun the others.
    """

    places = 1

    def __init__(self, group: "Group") -> None:
        self.group, self.per_run, self.device = group, group.ranks.size, "cuda" if gpus() else "cpu"
        if 0 < gpus() < group.ranks.here:
            told = f"{group.ranks.here} processes were started on a machine where each sees {gpus()} GPUs"
            raise LauncherError(f"{told}: let each see one for every process (with srun, --gpu-bind=none)")

    def start(self, places: Sequence[int], jobs: Sequence[Job]) -> None:
        """Train the first run to its end, or until the time of its job is up."""
        try:
            work(jobs[0], self.group)
        except SystemExit:
            if time.time() < jobs[0]["until"]:
                raise

    def ended(self, seconds: float) -> list[Ended]:
        """Say that the run has ended: `start` returns only then."""
        return [(0, None)]

    def close(self) -> None:
        """Leave the followers to wait: for the next grid, or the end of `led`."""


if __name__ == "__main__":  # do a job, given as JSON, with the others that torchrun has started for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with led() as group:
        work(json.loads(sys.argv[1]), group)
