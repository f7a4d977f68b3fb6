"""What several processes that train one run must agree on: which of them does what, one network, one moment to stop."""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from lit_hidden.edge_popup import maskers
from lit_hidden.engine.store import CHECKPOINT

_FOREVER = timedelta(days=365)  # a follower waits while the leader draws, or another engine trains
_GRACE = 2.0  # seconds for torchrun to end this process, because another one has died
AGREE = 10  # steps between two questions whether to stop: each waits for the device and for all ranks
COMPARE = 100  # steps between two comparisons of the networks; each reads all scores once


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those that train a run together.

    Args:
        rank: which one it is, from 0; the leader.
        size: how many there are.
        local: which one of its machine it is.
        here: how many there are on its machine, and on each other.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    here: int = 1

    @property
    def nodes(self) -> int:
        """The number of machines."""
        return self.size // self.here


ALONE = Ranks()


class Group:
    """The processes that torchrun or SLURM has started together, as one of them sees them.

    Jobs go from the first to the others through torch's key-value store; the tensors of training through a process
    group of each run's own, for metrics of a run that is trained alone would wait for the others.

    Args:
        ranks: where this process stands.
        whole: whether they train a grid and not a run alone: then a run that fails ends all of it.

    Attributes:
        broken: whether this process must end, for some may still wait for others.
    """

    def __init__(self, ranks: Ranks, whole: bool) -> None:
        self.ranks, self.whole, self.broken = ranks, whole, False
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            _slurm_address()
        store, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.size)))
        # Of torchrun's restarts each has its own keys: what the last one left must not be read again.
        self._store = dist.PrefixStore(  # type: ignore[attr-defined]
            os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store
        )
        self._number = 0  # of the last job

    def tell(self, job: dict[str, Any] | None) -> None:
        """Tell the followers the next job, None at the end."""
        self._number += 1
        self._store.set(f"job/{self._number}", json.dumps(job))

    def take(self) -> dict[str, Any] | None:
        """Wait for the next job; None at the end."""
        self._number += 1
        key = f"job/{self._number}"
        self._store.wait([key], _FOREVER)
        job: dict[str, Any] | None = json.loads(self._store.get(key))
        if job is None:
            self._store.set(f"left/{self.ranks.rank}", "")
        return job

    @contextmanager
    def together(self, device: str) -> Iterator[Ranks]:
        """Be one process group for the length of a run, which all have to enter."""
        if device == "cuda":
            torch.cuda.set_device(self.ranks.local)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore(f"group/{self._number}", self._store),  # type: ignore[attr-defined]
            rank=self.ranks.rank,
            world_size=self.ranks.size,
        )
        yield self.ranks
        # Not after an error: the others may be waiting in a collective; all end.
        dist.destroy_process_group()

    def left(self) -> None:
        """Be ended here, if torchrun ends this process because another one has died."""
        time.sleep(_GRACE)

    def end(self) -> None:
        """Let the followers go, unless some wait for others; what has started them ends them all then."""
        if not self.broken:
            self.tell(None)
            with suppress(dist.DistError):  # the store may end with this process: not before all have read that
                self._store.wait([f"left/{rank}" for rank in range(1, self.ranks.size)], timedelta(seconds=10))


def _slurm_address() -> None:
    """Set where the first process of a SLURM step listens: its first machine, a port that follows from its number."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    # Those of the step, which may be on a part of the job's.
    machines = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(machines))
    step = int(os.environ.get("SLURM_JOB_ID", "0")) + 7 * int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ.setdefault("MASTER_PORT", str(15000 + step % 10000))


class Placed(LightningEnvironment):
    """Tell Lightning where its process stands, whatever started it: torchrun's and SLURM's variables are not asked."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """The processes are there already."""
        return True

    def local_rank(self) -> int:
        """Which process of this machine this is."""
        return self.ranks.local

    def node_rank(self) -> int:
        """Which machine this is."""
        return self.ranks.rank // self.ranks.here

    def teardown(self) -> None:
        """Leave the environment's variables alone."""


class Together(DDPStrategy):
    """Lightning's DDP, which draws what one process would: it leaves the random state alone.

    Lightning's own goes back to the first seed whenever it begins to train or to evaluate.
    """

    def setup_distributed(self) -> None:
        """Join the group that is there."""
        state = torch.get_rng_state()
        on_device = torch.cuda.get_rng_state(self.root_device) if self.root_device.type == "cuda" else None
        super().setup_distributed()
        torch.set_rng_state(state)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, self.root_device)


class RanksDifferError(RuntimeError):
    """The ranks no longer train one network."""


class SameNetwork(L.Callback):
    """Compare masks and scores (of dense nets, the weights) of all ranks during training, bit by bit, cheaply.

    Scores and mask of a layer are an integer each, compared every `COMPARE` steps and at the end of each epoch. They
    hold for every bit and its place, so that ranks that drew other weights, missed an update or lost a bit are found at
    the next comparison, and not in a figure.

    Raises:
        RanksDifferError: they differ; on all ranks.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Compare from time to time."""
        if trainer.global_step % COMPARE == 0:
            self._compare(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare before the epoch's checkpoint is written."""
        self._compare(trainer, pl_module)

    def _compare(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        net = pl_module.net
        assert isinstance(net, nn.Module)
        parts = learned(net)
        mine = torch.stack([bits(part) for part in parts.values()])
        theirs = trainer.strategy.all_gather(mine)  # (ranks, parts)
        differ = (theirs != theirs[0]).cpu()
        if not differ.any():
            return
        rank = int(differ.any(dim=1).nonzero()[0])
        wrong = [part for part, apart in zip(parts, differ[rank].tolist(), strict=True) if apart]
        name = wrong[0][0]
        what = " and ".join(word for layer, word in wrong if layer == name)
        raise RanksDifferError(
            f"after step {trainer.global_step} the {what} of {name} on rank {rank} are not those of rank 0: the ranks "
            "no longer train one network. The last checkpoint is older, and the same command goes on from it; if they "
            "differ again, a device or its memory may be at fault, or code that draws other numbers on each rank"
        )


def learned(net: nn.Module) -> dict[tuple[str, str], Tensor]:
    """Map each layer, with a word for what it is, to its scores and its mask; of a dense net, to its weights."""
    found: dict[tuple[str, str], Tensor] = {}
    for name, masker in maskers(net).items():
        scores = masker.scores
        assert isinstance(scores, Tensor)
        found |= {(name, "scores"): scores.detach(), (name, "mask"): masker.mask()}
    dense = ((name, p.detach()) for name, p in net.named_parameters() if p.requires_grad)
    return found or {(name, "weights"): weights for name, weights in dense}


def bits(tensor: Tensor) -> Tensor:
    """Sum a tensor's elements as integers of their bits, each times its place: int64 `()`, on its device, wrapping."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    # Row by row in memory, whatever the layout: ranks have the same.
    flat = tensor.contiguous().view(whole).flatten().to(torch.int64)
    return (flat * torch.arange(1, len(flat) + 1, device=tensor.device)).sum()


class StoppedError(SystemExit):
    """SIGTERM: the checkpoint is written, and the process is to end."""


class Interruption(L.Callback):
    """On SIGTERM, write a checkpoint at the end of a step, the same on all ranks, and end by `StoppedError`.

    It suffices that one rank is told: they ask each other every `AGREE` steps; a process that trains alone stops at
    the next. Without this a run goes on from its last epoch, which of ImageNet's may have taken an hour.

    Args:
        folder: where the checkpoint goes.
    """

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self.folder, self.told = folder, False

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Take the signal; no trainer here may take it, see `instead_of_lightning`."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._tell)
        try:
            yield
        except Exception:
            if not self.told:
                raise
            traceback.print_exc()  # others were told too, went first, and left this rank alone in the middle of a step
            raise StoppedError(128 + signal.SIGTERM) from None
        finally:
            signal.signal(signal.SIGTERM, before)

    @staticmethod
    def instead_of_lightning(trainer: L.Trainer) -> None:
        """Keep Lightning from the signal: it would stop one rank, in the middle of what all do together.

        Lightning also asks rank 0 at every step whether it was told, and each question waits for the device.
        """
        trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def stop(self, several: bool) -> None:
        """End, if any rank was told after the last step; the checkpoint is the last epoch's.

        Raises:
            StoppedError: so it was.
        """
        told = torch.tensor(self.told, dtype=torch.int32)
        if several:
            torch.distributed.all_reduce(told)
        if told:
            raise StoppedError(128 + signal.SIGTERM)

    def _tell(self, signum: int, frame: FrameType | None) -> None:
        self.told = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, if any rank is told to; after an epoch's last step not yet, for its end belongs to it."""
        if batch_idx + 1 == trainer.num_training_batches:
            return
        if trainer.world_size > 1:
            if trainer.global_step % AGREE:
                return
            self.told = trainer.strategy.reduce_boolean_decision(self.told, all=False)
        if self.told:
            trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
            if trainer.is_global_zero:
                sys.stdout.write(f"stopped by SIGTERM after step {trainer.global_step}; the checkpoint is written\n")
            raise StoppedError(128 + signal.SIGTERM)


def _nothing() -> None:
    pass
