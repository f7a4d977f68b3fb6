"""Early stopping: at which update it would end a training, and with which test accuracy.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 2.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np

from lit_hidden.callbacks import RunCallback, evaluated, splits


class Early(RunCallback):
    """Evaluate the held-out images every so many updates; training goes on to its end.

    `early_update` is the update with the smallest loss on the held-out images, the first of equal ones, and
    `early_accuracy` the test accuracy there, in percent. `early.npz` has `update`, and `loss` and `accuracy` on the
    held-out images, each `(evaluations,)`.

    Args:
        every: updates between two evaluations.
    """

    records = True

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every={every} updates is impossible; it must be at least 1")
        self.every = every
        self.rows: list[tuple[float, ...]] = []
        self.best, self.at, self.accuracy = float("inf"), 0, 0.0

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the data.

        Raises:
            ValueError: no images are held out.
        """
        splits(data)
        if not data.held_out:
            raise ValueError("no images are held out, and stopping on test images would select on them; set held_out")
        self.data = data

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Evaluate, and keep what is best so far."""
        if trainer.global_step % self.every:
            return
        loss, accuracy = evaluated(pl_module, self.data, "val")
        self.rows.append((trainer.global_step, loss, accuracy))
        if loss < self.best:
            self.best, self.at, self.accuracy = loss, trainer.global_step, evaluated(pl_module, self.data, "test")[1]

    def state_dict(self) -> dict[str, Any]:
        """Put what was found into checkpoints."""
        return {name: getattr(self, name) for name in ("rows", "best", "at", "accuracy")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        vars(self).update(state_dict)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Write the curve, and return where early stopping would end."""
        update, loss, accuracy = np.array(self.rows).reshape(-1, 3).T
        np.savez(folder / "early.npz", update=update, loss=loss, accuracy=accuracy)
        return {"early_update": self.at, "early_accuracy": self.accuracy}
