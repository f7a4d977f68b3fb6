"""The checkpoints and the curve of a run, as files that are whole or not there, even if the process is killed."""

import csv
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_hidden.classifier import LitClassifier
from lit_hidden.engine.store import CHECKPOINT, write_atomically


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place, then rename it.

    Lightning's own (2.6) goes through the system's temporary folder: it fails where that is full, leaves a file there
    when killed, and between file systems its move is a copy that may stop halfway.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`, whole or not at all; an OSError says why not."""
        content = io.BytesIO()  # on a full disk torch.save would raise an error that does not say so
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())


def rate(lr: float | torch.Tensor) -> float:
    """Return a learning rate as a number; of a float32 tensor, as on GPUs, only the digits that float32 has."""
    return float(f"{lr.item():.7g}") if isinstance(lr, torch.Tensor) else lr


class Recorder(Checkpoint):
    """Write a checkpoint at the end of an epoch, and `metrics.csv` with each checkpoint, both atomically.

    It is a Checkpoint because Lightning calls those last, when the epoch's metrics are complete. At least `pause`
    seconds lie between two checkpoints; the last epoch always has one. Training ends with the epoch in which a loss is
    not finite (`diverged`). Metrics of the `watched` split go into the rows, and only one rank `writes`.
    """

    def __init__(
        self,
        folder: Path,
        watched: str,
        writes: bool = True,
        pause: float = 0.0,
        code: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.watched, self.writes, self.pause, self.code = folder, watched, writes, pause, code or {}
        self.rows: list[dict[str, float]] = []
        self.going = False  # whether training has begun, or goes on from a checkpoint that fits
        self.seconds = 0.0  # of the epochs
        self.diverged: int | None = None
        self._saved = time.perf_counter()
        self._began: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Put the rows into the checkpoint, so that the curve of a killed run has no gap."""
        self._stop_clock()
        return {"rows": self.rows, "seconds": self.seconds, "code": self.code, "diverged": self.diverged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows from a checkpoint."""
        self.rows, self.seconds, self.diverged = (state_dict[name] for name in ("rows", "seconds", "diverged"))

    def on_save_checkpoint(self, *_: Any) -> None:
        """Write `metrics.csv` before any checkpoint: a curve that ends before its checkpoint is damage."""
        self._write()

    def first(self, module: LitClassifier, metrics: dict[str, float]) -> None:
        """Write the row before training, which shows that the run has begun."""
        self._add_row(0, 0, math.nan, module, metrics)
        self._write()

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Note that a checkpoint fits, if there was one; end a run that has diverged."""
        self.going, trainer.should_stop = True, self.diverged is not None

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Start the epoch's clock."""
        if self._began is None:
            self._began = time.perf_counter()
            self._lr = rate(trainer.optimizers[0].param_groups[0]["lr"])  # at the epoch's end it is the next one's

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row and save everything."""
        self._stop_clock()
        epoch = trainer.current_epoch + 1
        loader: Any = trainer.train_dataloader
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        batches = loader.batches if hasattr(loader, "batches") else len(loader)  # ours may yield many at once
        assert isinstance(pl_module, LitClassifier)
        self._add_row(epoch, epoch * batches, self._lr, pl_module, metrics)
        if not all(math.isfinite(value) for name, value in metrics.items() if name.endswith("/loss")):
            self.diverged, trainer.should_stop = epoch, True
        if trainer.should_stop or epoch == trainer.max_epochs or time.perf_counter() - self._saved >= self.pause:
            trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
            self._saved = time.perf_counter()

    def _stop_clock(self) -> None:
        if self._began is not None:
            self.seconds, self._began = self.seconds + time.perf_counter() - self._began, None

    def _add_row(self, epoch: int, step: int, lr: float, module: LitClassifier, metrics: dict[str, float]) -> None:
        row = {"epoch": epoch, "step": step, "lr": lr, "seconds": round(self.seconds, 3)}
        for ours, theirs in (("train", "train"), (self.watched, "val")):
            row |= {f"{ours}_{name}": value for name, value in measured(module, metrics, theirs).items()}
        self.rows.append(row)

    def _write(self) -> None:
        if self.writes:
            out = io.StringIO()
            writer = csv.DictWriter(out, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in self.rows)
            write_atomically(self.folder / "metrics.csv", out.getvalue())


def measured(module: LitClassifier, metrics: Mapping[str, float], split: str) -> dict[str, float]:
    """Return the loss and metrics that a module logged, accuracies in percent; NaN for those it did not log."""
    # Rounded to what float32 means can tell.
    scales = {"loss": 1, **module.scales}
    return {name: round(scale * metrics.get(f"{split}/{name}", math.nan), 5) for name, scale in scales.items()}
