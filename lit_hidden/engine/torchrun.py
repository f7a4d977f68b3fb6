"""Runs that processes train together: the first leads from run to run, the others follow."""

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lit_hidden.engine.devices import LauncherError, gpus
from lit_hidden.engine.pool import Ended, Pool
from lit_hidden.engine.ranks import Group, placed
from lit_hidden.engine.work import Job, follow, work


@contextmanager
def led() -> Iterator[Group | None]:
    """Give the leader of processes that were started together their group; None to a process that stands alone.

    A follower trains what it is told, and exits.
    """
    if (ranks := placed()) is None:
        yield None
        return
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

    def __init__(self, group: Group) -> None:
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
