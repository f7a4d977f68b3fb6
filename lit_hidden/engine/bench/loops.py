"""A training loop with Lightning and one without, over a loader that sees how long each step takes."""

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import BatchLoader, CIFAR10Data
from lit_hidden.engine import train
from lit_hidden.engine.bench.rows import wait
from lit_hidden.engine.bench.training import Batch
from lit_hidden.engine.ranks import Interruption
from lit_hidden.engine.train import PAUSE, Recorder
from lit_hidden.steps import Steps

EDGE = 3  # steps of an epoch whose time is not taken: two to start with, and the last


class Watched(BatchLoader):
    """Batches of drawn images that notes when each was asked for, and for how long it was made.

    From one question to the next is a step, whoever asks: no callback is needed, which Lightning would have to call.

    Args:
        steps: batches in an epoch, or blocks of them.
        batch_size: images in a batch.
        device: where they are wanted.
        at_once: batches in a block; 0 yields batches.
    """

    def __init__(self, steps: int, batch_size: int, device: torch.device, at_once: int = 0) -> None:
        generator = torch.Generator().manual_seed(0)
        count = steps * batch_size * (at_once or 1)
        images = torch.randint(256, (count, *CIFAR10Data.shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (count,), generator=generator)
        images, labels = images.to(device), labels.to(device)
        mean, std = CIFAR10Data.mean, CIFAR10Data.std
        super().__init__(images, labels, batch_size, mean, std, seed=0, crop=4, flip=True, at_once=at_once)
        self.asked: list[float] = []
        self.making: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        """Yield the epoch's batches or blocks, and forget the times of the last."""
        self.asked, self.making = [], []
        batches, last = super().__iter__(), len(self) - 1
        for number in range(len(self)):
            if number in (EDGE - 1, last):  # between these two all that was asked of the device is done
                wait(self.device)
            self.asked.append(time.perf_counter())
            batch = next(batches)
            self.making.append(time.perf_counter() - self.asked[-1])
            yield batch

    def steps(self) -> list[float]:
        """Seconds of each step but the first and the last; of blocks, a step's mean in each.

        On a GPU, which runs behind, all are the same: their mean.
        """
        there, many = self.asked[EDGE - 1 :], self.at_once or 1
        if self.device.type == "cuda":
            return [(there[-1] - there[0]) / (len(there) - 1) / many] * (len(there) - 1)
        return [(after - before) / many for before, after in pairwise(there)]


class Clock:
    """Notes how long a module and its optimizer work at each step: what a bare loop does too.

    The module's methods are wrapped where they are, so that the clock runs inside Lightning's loop.

    Args:
        module: whose.
    """

    def __init__(self, module: LitClassifier) -> None:
        self.spent: list[float] = []  # seconds, of each step
        module.training_step = self._timed(module.training_step, begins=True)  # type: ignore[method-assign]
        module.backward = self._timed(module.backward)  # type: ignore[method-assign]
        module.optimizer_zero_grad = self._timed(module.optimizer_zero_grad)  # type: ignore[method-assign]
        make = module.configure_optimizers

        def configure() -> Any:
            found = make()
            update = self._timed(found["optimizer"].step)

            def step(closure: Callable[[], Any] | None = None) -> Any:
                loss = closure() if closure is not None else None
                update()
                return loss

            found["optimizer"].step = step
            return found

        module.configure_optimizers = configure  # type: ignore[method-assign]

    def _timed(self, work: Callable[..., Any], begins: bool = False) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                if begins:
                    self.spent.append(took)
                else:
                    self.spent[-1] += took

        return timed


def settings(folder: Path, device: torch.device, at_once: int = 0) -> dict[str, Any]:
    """Give the Trainer's settings in the engine, for one epoch of one process, with the callbacks of a plain run."""
    recorder = Recorder(folder, "test", pause=PAUSE if device.type == "cuda" else 0.0)
    return train.settings(1, folder, device.type, [recorder, Interruption(folder)], at_once=at_once)


def fit(module: LitClassifier, loader: BatchLoader, device: torch.device, folder: Path) -> None:
    """Train an epoch as the engine does, checkpoint included; nothing is evaluated."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it says of devices goes into a run's log, which there is none of
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # its advice, as in the engine
            module.automatic_optimization = not loader.at_once
            trainer = L.Trainer(**settings(folder, device, loader.at_once))
            Interruption.instead_of_lightning(trainer)
            trainer.fit(module, loader)
    finally:
        logger.setLevel(level)


def bare(module: LitClassifier, loader: Iterable[Batch], optimizer: torch.optim.Optimizer) -> None:
    """Train an epoch without a Trainer: the same batches, the same steps."""
    for index, batch in enumerate(loader):
        optimizer.zero_grad()
        torch.autograd.backward(module.training_step(batch, index))
        optimizer.step()


def blocks(module: LitClassifier, loader: BatchLoader, optimizer: torch.optim.Optimizer) -> None:
    """Train an epoch without a Trainer, a block of steps at once."""
    steps = Steps(module.net, optimizer, module.recipe.label_smoothing)
    for block in loader:
        steps.train(block)
