"""Processes that train runs together: one leads from run to run, the others follow.

On one machine the leader is a worker, which starts the others when a job asks for several devices. On several, torchrun
or SLURM has started them all; then the first leads, and the others call `follow`. Jobs go from the leader to the
followers through torch's key-value store, the tensors of training through a process group of their own for each run.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_hidden.engine.launcher import LauncherError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

    from lit_hidden.engine.ranks import Ranks

_FOREVER = timedelta(days=365)  # a follower waits while the leader draws, or another engine trains
_GRACE = 10.0  # seconds for the leader's own error, after a follower's; it says more
_END = "end"
_ours: "Team | None" = None  # of this process
broken = False  # whether this process must end, for its team has failed, and some may still wait for others


@dataclass
class Team:
    """The processes, as one of them sees them.

    Args:
        ranks: where this process stands.
        store: what all of them can read and write.
        followers: the processes that this one has started.
    """

    ranks: "Ranks"
    store: "Store"
    followers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    number: int = 0  # of the last job
    ending: bool = False

    def give(self, job: dict[str, Any]) -> None:
        """Tell the followers the next job."""
        self.number += 1
        self.store.set(f"job/{self.number}", json.dumps(job))

    def take(self) -> dict[str, Any] | None:
        """Wait for the next job; None at the end."""
        self.number += 1
        key = f"job/{self.number}"
        self.store.wait([key], _FOREVER)
        text = self.store.get(key).decode()
        if text == _END:
            self.store.set(f"left/{self.ranks.rank}", "")
            return None
        job: dict[str, Any] = json.loads(text)
        return job

    @contextmanager
    def together(self, device: str) -> Iterator["Ranks"]:
        """Be one process group for the length of a run, which all have to enter."""
        import torch
        import torch.distributed as dist

        if device == "cuda":
            torch.cuda.set_device(self.ranks.local)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore(f"group/{self.number}", self.store),  # type: ignore[attr-defined]
            rank=self.ranks.rank,
            world_size=self.ranks.size,
        )
        yield self.ranks
        # Not after an error: the others may be waiting in a collective; all end, and a new team goes on.
        dist.destroy_process_group()

    def tell(self, error: BaseException) -> None:
        """Leave word of what ended this follower."""
        with suppress(Exception):  # the leader may be gone
            self.store.set("error", f"rank {self.ranks.rank}: {type(error).__name__}: {error}")

    def told(self) -> str | None:
        """Read what ended a follower first of all."""
        with suppress(Exception):
            if self.store.check(["error"]):
                return self.store.get("error").decode()
        return None

    def end(self) -> None:
        """Let the followers go, those that wait for others at once."""
        self.ending = True
        with suppress(Exception):
            self.number += 1
            self.store.set(f"job/{self.number}", _END)
            if not broken:  # the store may end with this process: not before all have read that
                self.store.wait([f"left/{rank}" for rank in range(1, self.ranks.size)], timedelta(seconds=10))
        for process in self.followers:
            if broken:
                process.kill()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def watch(self) -> None:
        """End this process if a follower dies, for a collective without it may wait forever."""

        def wait(process: "subprocess.Popen[bytes]") -> None:
            code = process.wait()
            if not self.ending:
                time.sleep(_GRACE)
            if not self.ending:
                sys.stderr.write(f"a follower ended with exit status {code}; so does its leader\n")
                sys.stderr.flush()
                os._exit(1)

        for process in self.followers:
            threading.Thread(target=wait, args=(process,), daemon=True).start()


def start(size: int) -> Team:
    """Be the leader of `size` processes on this machine, and start the others."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from lit_hidden.engine.ranks import Ranks

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    command = [sys.executable, "-m", "lit_hidden.engine.team", str(store.port), str(size)]
    followers = [subprocess.Popen([*command, str(rank)], stdin=subprocess.PIPE) for rank in range(1, size)]
    team = Team(Ranks(0, size, 0, size), store, followers)
    team.watch()
    return team


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


def join(ranks: "Ranks") -> Team:
    """Meet the others that torchrun or SLURM has started."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _slurm_address()
    store, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.size)))
    # Of torchrun's restarts each has its own keys: what the last one left must not be read again.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Team(ranks, PrefixStore(f"lit_hidden/{attempt}", store))


def _slurm_address() -> None:
    """Set where the first process of a SLURM step listens: its first machine, a port that follows from its number."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    # Those of the step, which may be on a part of the job's.
    machines = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(machines))
    step = int(os.environ.get("SLURM_JOB_ID", "0")) + 7 * int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ.setdefault("MASTER_PORT", str(15000 + step % 10000))


@contextmanager
def led(ranks: "Ranks | None") -> Iterator[bool]:
    """Be one of the processes that torchrun or SLURM has started, if they have: yields whether to lead, or be alone.

    To a follower it yields when the leader has no more jobs.
    """
    global _ours
    if ranks is None:
        yield True
        return
    # Runs share the terminal here: what Lightning says of each, which devices there are and that it ended, is left out.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    team = join(ranks)
    if ranks.rank > 0:
        follow(team)
        yield False
        return
    _ours = team
    try:
        yield True
    finally:
        end()


@contextmanager
def team_for(job: dict[str, Any], alone: bool) -> Iterator["Ranks"]:
    """Enter the job's process group, with the followers; of a job for one device, or a run trained `alone`, none.

    Raises:
        TeamError: the run has failed, and the processes have to end: some may wait for others.
    """
    from lit_hidden.engine.ranks import ALONE

    global _ours, broken
    size = job.get("devices", 1)
    if alone or size == 1:
        yield ALONE
        return
    if _ours is None:
        _ours = start(size)
    team = _ours
    team.give(job)
    try:
        with team.together(job["device"]) as ranks:
            yield ranks
    except Exception as error:
        broken = True
        time.sleep(0.5)  # for a follower to have left word, when the leader has only lost its connection
        word = team.told()
        if word is None and any(process.poll() is not None for process in team.followers):
            # Killed, as by a lack of memory: what watches this process then tries again.
            sys.stderr.write(f"a follower was killed; so its leader ends ({type(error).__name__}: {error})\n")
            sys.exit(1)
        raise TeamError(word or f"rank 0: {type(error).__name__}: {error}") from error


class TeamError(RuntimeError):
    """A run of several processes failed: which of them first, and of what."""


def end() -> None:
    """End this process's team, if it leads one."""
    global _ours
    if _ours is not None:
        _ours.end()
        _ours = None


def follow(team: Team, log: Callable[[Path], None] = lambda path: None) -> None:
    """Train what the leader says, until it says no more.

    Args:
        team: of which this process is one.
        log: called with the path of a run's log before anything is printed.
    """
    from lit_hidden.engine.network import make_data
    from lit_hidden.engine.store import Store
    from lit_hidden.engine.train import train
    from lit_hidden.experiment import Run

    while (job := team.take()) is not None:
        run = Run.from_json(json.dumps(job["run"]))
        folder = Store(job["runs_dir"]).folder(run)
        try:
            log(folder / "log.txt")
            if team.ranks.local == 0:  # the leader of another machine, which may have a cache of its own
                make_data(run, job["data_dir"], job.get("decoders")).prepare_data()
            said = {"device": job["device"], "threads": job["threads"], "decoders": job.get("decoders")}
            with team.together(job["device"]) as ranks:
                train(run, folder, job["data_dir"], **said, ranks=ranks)
        except SystemExit:  # stopped, as all ranks are after the same step; what is next the leader says
            continue
        except Exception as error:
            traceback.print_exc()
            team.tell(error)
            raise


def main(port: str, size: str, rank: str) -> None:
    """Follow a leader on this machine; end with it."""

    def read() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(1)  # the leader is gone, whatever this process is waiting for

    threading.Thread(target=read, daemon=True).start()
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from lit_hidden.engine.ranks import Ranks
    from lit_hidden.engine.worker import write_to

    team = Team(Ranks(int(rank), int(size), int(rank), int(size)), TCPStore("127.0.0.1", int(port)))
    status = 0
    try:
        follow(team, write_to)
    except Exception:  # told already
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # past Python's own end, which would wait for the thread that reads


if __name__ == "__main__":
    main(*sys.argv[1:])
