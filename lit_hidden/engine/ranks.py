"""What processes that train one run together need: jobs from the first of them, and one network."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

_FOREVER = timedelta(days=365)  # a follower waits while the leader draws, or another engine trains
COMPARE = 100  # steps between two comparisons of the networks


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those that train a run together."""

    rank: int = 0  # its number; 0 leads
    size: int = 1  # how many processes there are
    local: int = 0  # its number on its machine
    here: int = 1  # how many there are on each machine


ALONE = Ranks()


class Group:
    """The processes that torchrun or SLURM has started together, as one of them sees them.

    The leader sends jobs to the others through torch's key-value store. Each run has a process group of its own:
    torchmetrics would otherwise wait for the others when the leader trains a run alone.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun says where the first process listens, SLURM does not
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
        self.tell(None)
        with suppress(dist.DistError):  # the store may live in this process: wait until all have read that
            self._store.wait([f"left/{rank}" for rank in range(1, self.ranks.size)], timedelta(seconds=10))


class Together(DDPStrategy):
    """Lightning's DDP without its reseeding: before each fit and evaluation it would go back to the first seed."""

    def setup_distributed(self) -> None:
        """Join the process group, and draw on as one process would."""
        with torch.random.fork_rng([self.root_device] if self.root_device.type == "cuda" else []):
            super().setup_distributed()


class RanksDifferError(RuntimeError):
    """The ranks no longer train one network."""


class SameNetwork(L.Callback):
    """Compare what all ranks have learned, bit by bit: every `COMPARE` steps and at each epoch's end."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Compare from time to time."""
        if trainer.global_step % COMPARE == 0:
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare, before the epoch's checkpoint is written; all ranks raise `RanksDifferError`."""
        learned = {name: tensor.detach() for name, tensor in pl_module.named_parameters() if tensor.requires_grad}
        mine = torch.stack([bits(tensor) for tensor in learned.values()])
        theirs = trainer.strategy.all_gather(mine)  # (ranks, tensors)
        for name, differs in zip(learned, (theirs != theirs[0]).any(dim=0).tolist(), strict=True):
            if differs:
                why = "your own code may draw other random numbers on each rank, or a device may be broken"
                raise RanksDifferError(f"after step {trainer.global_step} the ranks differ in {name}: {why}")


def bits(tensor: Tensor) -> Tensor:
    """Sum the bit patterns of a tensor's elements, each times its position from 1: int64 `()`, wrapping around."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.contiguous().view(whole).flatten().to(torch.int64)
    return (flat * torch.arange(1, len(flat) + 1, device=tensor.device)).sum()
