"""Processes that torchrun or SLURM (srun) has started together: the first leads from run to run, the others follow."""

import json
import logging
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
from lit_hidden.engine.work import Job, failed, run_of, work, write_to

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Group, Ranks


def placed() -> "Ranks | None":
    """Say where torchrun or SLURM (srun) has placed this process among several; None if it stands alone.

    Raises:
        LauncherError: the machines have different numbers of processes.
    """
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        rank, size, local, here = (int(given[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    elif given.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in given:
        rank, size, local = (int(given[n]) for n in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
        each = given.get("SLURM_STEP_TASKS_PER_NODE", "1")  # such as 8(x4), or 8(x3),4
        here = int(each.partition("(")[0].partition(",")[0])
        if "," in each:
            raise LauncherError(f"SLURM's tasks per node are {each}; every machine must have the same number")
    else:
        return None
    if size == 1:
        return None
    from lit_hidden.engine.ranks import Ranks  # imports torch, which one process alone may have no need of

    return Ranks(rank, size, local, here)


@contextmanager
def led(ranks: "Ranks | None", whole: bool = True) -> Iterator["Group | None"]:
    """Be one of the processes that were started together, if so they were: to the first it yields the group.

    A follower trains what it is told, and ends. It yields None to a process that stands alone.
    """
    if ranks is None:
        yield None
        return
    # Runs share the terminal here: what Lightning says of each, which devices there are and that it ended, is left out.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    from lit_hidden.engine.ranks import Group

    group = Group(ranks, whole)
    if ranks.rank > 0:
        _follow(group)
        sys.exit(0)
    try:
        yield group
    except KeyboardInterrupt:  # in the middle of what all do together
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
        try:
            if group.ranks.local == 0:  # the leader of another machine, which may have a cache of its own
                make_data(run, job["data_dir"], job.get("decoders")).prepare_data()
            said = {"device": job["device"], "threads": job["threads"], "decoders": job.get("decoders")}
            with group.together(job["device"]) as ranks:
                train(run, store.folder(run), job["data_dir"], **said, ranks=ranks)
        except SystemExit:  # stopped, as all ranks are after the same step; what is next the leader says
            continue
        except Exception as error:
            traceback.print_exc()
            failed(run, store, error, group)
            sys.exit(1)


class Lockstep(Pool):
    """Train runs one after the other in this process, the leader, and in the others, which follow.

    A run that fails stops the grid, and this process: others may wait for it. What has started them starts them again
    or not; the same command goes on from the last checkpoint.

    Args:
        group: what this process leads.

    Raises:
        LauncherError: there are GPUs, and fewer than processes.
    """

    def __init__(self, group: "Group") -> None:
        super().__init__(group.ranks.size)
        self.group, self.device, self.places = group, "cuda" if gpus() else "cpu", 1
        if 0 < gpus() < group.ranks.here:
            raise LauncherError(
                f"{group.ranks.here} processes were started on a machine where each sees {gpus()} GPUs: start as many "
                "as there are GPUs, and let each see all of them (with srun, --gpu-bind=none)"
            )

    def start(self, jobs: Mapping[int, Job], others: Sequence[Job], poll: Callable[[], None]) -> None:
        """Train a run to its end."""
        with _polled(poll):
            work(jobs[0], group=self.group)

    def ended(self, seconds: float) -> list[Ended]:
        """Say that it has."""
        return [(0, None)]

    def close(self) -> None:
        """Leave the followers to wait: for the next grid, or the end of `led`."""


@contextmanager
def _polled(poll: Callable[[], None], every: float = 0.5) -> Iterator[None]:
    """Call `poll` from another thread, and never after the end; what it raises stops training, as SIGTERM does."""
    done = threading.Event()
    raised: list[Exception] = []

    def watch() -> None:
        try:
            while not done.wait(every):
                poll()
        except Exception as error:
            raised.append(error)
            signal.raise_signal(signal.SIGTERM)  # which Python's main thread takes: it trains

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        try:
            yield
        finally:
            done.set()
            thread.join()
    except (SystemExit, KeyboardInterrupt):  # stopped: in a step, or outside training
        if raised:
            raise raised[0] from None
        raise
    if raised:
        raise raised[0]


def main(text: str) -> int:
    """Do a job, given as JSON, with the others that torchrun has started for it."""
    job: dict[str, Any] = json.loads(text)
    write_to(Store(job["runs_dir"]).folder(run_of(job)) / "log.txt")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with led(placed(), whole=False) as group:
        status = work(job, write_to, group)
    return status or int(group is not None and group.broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
