"""Processes that torchrun or SLURM (srun) has started together: where each stands, and how the first leads them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lit_hidden.engine.devices import LauncherError

_FOREVER = timedelta(days=365)  # a follower waits while the leader draws, or another engine trains
# What each launcher calls a process' number, how many there are, and the same on its machine.
_PLACES = {
    "TORCHELASTIC_RUN_ID": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those that train a run together."""

    rank: int = 0  # its number; 0 leads
    size: int = 1  # how many processes there are
    local: int = 0  # its number on its machine
    here: int = 1  # how many there are on each machine


ALONE = Ranks()


def placed() -> Ranks | None:
    """Say where torchrun or SLURM (srun) has placed this process among several; None if it stands alone."""
    names = next((names for launcher, names in _PLACES.items() if launcher in os.environ), None)
    if names is None or os.environ[names[1]] == "1":
        return None
    rank, size, local, here = (os.environ[name] for name in names)
    if "," in here:  # SLURM writes 8(x4), or 8(x3),4
        raise LauncherError(f"SLURM's tasks per node are {here}; every machine must have the same number")
    return Ranks(int(rank), int(size), int(local), int(here.partition("(")[0]))


class Group:
    """The processes that torchrun or SLURM has started together, as one of them sees them.

    The leader sends jobs to the others through torch's key-value store. Each run has a process group of its own:
    torchmetrics would otherwise wait for the others when the leader trains a run alone.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        from torch.distributed.rendezvous import rendezvous  # here: one process alone may not need torch

        if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun says where the first process listens, SLURM does not
            from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

            slurm = SLURMEnvironment()
            os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
        # Where Lightning's own environment looks.
        os.environ |= {"LOCAL_RANK": str(ranks.local), "NODE_RANK": str(ranks.rank // ranks.here)}
        self._store, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.size)))
        self._number = 0  # of the last job

    def tell(self, job: dict[str, Any] | None) -> None:
        """Tell the followers the next job, None at the end."""
        self._number += 1
        self._store.set(f"job/{self._number}", json.dumps(job))

    def take(self) -> dict[str, Any] | None:
        """Wait for the next job; None at the end."""
        self._number += 1
        self._store.wait([f"job/{self._number}"], _FOREVER)
        job: dict[str, Any] | None = json.loads(self._store.get(f"job/{self._number}"))
        if job is None:
            self._store.set(f"left/{self.ranks.rank}", "")
        return job

    @contextmanager
    def together(self, device: str) -> Iterator[None]:
        """Form one process group for the length of a run, which all ranks have to enter."""
        import torch
        import torch.distributed as dist

        backend = "gloo"  # by name: Lightning asks for it
        if device == "cuda":
            torch.cuda.set_device(self.ranks.local)
            backend = "cpu:gloo,cuda:nccl"
        store = dist.PrefixStore(f"group/{self._number}", self._store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=self.ranks.rank, world_size=self.ranks.size)
        yield
        dist.destroy_process_group()  # not after an error: others may wait in a collective, and all processes end

    def end(self) -> None:
        """Let the followers go; what has started them ends those that do not listen, as this process failed."""
        from torch.distributed import DistError

        self.tell(None)
        with suppress(DistError):  # the store may live in this process: wait until all have read that
            self._store.wait([f"left/{rank}" for rank in range(1, self.ranks.size)], timedelta(seconds=10))
