"""A learning rate that falls twice: what looks like an age at which learning ends may be the schedule."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from lit_hidden.callbacks import RunCallback


class SecondCosine(RunCallback):
    """Let the learning rate fall to 0 by a second cosine from an epoch on, until the end of the run.

    Up to that epoch the rate is that of a run of `before` epochs. Momentum goes on.

    Args:
        epoch: the first of the second cosine, counted from 0.
        before: epochs of the first cosine, at least `epoch`.
        restarted: whether the second begins at the rate of the run's start; else it begins where the first stood.
    """

    capturable = True

    def __init__(self, epoch: int, before: int, restarted: bool = True) -> None:
        super().__init__()
        if not 0 <= epoch <= before or before < 1:
            raise ValueError(f"epoch={epoch}, before={before}: the epoch must lie in the first cosine, 0 to {before}")
        self.epoch, self.before, self.restarted = epoch, before, restarted

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Replace the schedule.

        Raises:
            ValueError: the schedule is no cosine without a warm-up, or the run ends before the epoch.
        """
        if module.recipe.schedule != "cosine" or module.recipe.warmup_epochs:
            raise ValueError(f"schedule={module.recipe.schedule!r} has no second cosine; take cosine, warmup_epochs=0")
        if (left := (trainer.max_epochs or 0) - self.epoch) < 1:
            raise ValueError(f"epoch={self.epoch} never begins in a run of {trainer.max_epochs} epochs")
        start = 0.0 if self.restarted else self.epoch / self.before

        def factor(epoch: int) -> float:
            second = start + (1 - start) * (epoch - self.epoch) / left
            return 0.5 * (1 + math.cos(math.pi * (epoch / self.before if epoch < self.epoch else second)))

        module.lr_factor = factor
