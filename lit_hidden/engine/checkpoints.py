"""What the engine adds to Lightning: checkpoints and curves that a kill leaves whole, and one network in all ranks."""

import io
import math
import signal
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from lit_hidden import code
from lit_hidden.callbacks import RunCallback
from lit_hidden.classifier import LitClassifier
from lit_hidden.engine.store import CHECKPOINT, write_atomically
from lit_hidden.engine.written import as_csv
from lit_hidden.run import Run

AGREE = 10  # steps between two questions whether to stop: each waits for the device and for all ranks
COMPARE = 100  # steps between two comparisons of the networks


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place, then rename it; Lightning's own way (2.6) can leave half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`, whole or not at all; an OSError says why not."""
        content = io.BytesIO()  # on a full disk torch.save would raise an error that does not say so
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())


def unusable(run: Run, folder: Path) -> str | None:
    """Say why a run cannot go on from its checkpoint: it is damaged, another run's, or of other code; else None."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        if (other := Run.from_json((folder / "run.json").read_text())) != run:
            raise ValueError(f"it is of another run, {other.name}")
        if bad := zipfile.ZipFile(path).testzip():  # torch.load compares no checksums
            raise ValueError(f"the checksum of {bad} is wrong")
        recorded = torch.load(path, map_location="cpu", weights_only=True)["callbacks"]["Recorder"]
        for name, then in recorded["code"].items():
            if code.fingerprint(name) != then:
                raise ValueError(f"the code of {name} has changed since")
    except Exception as error:  # of many kinds: zipfile's, torch's, pickle's
        return f"{path} is damaged: {error}"
    return None


class StoppedError(SystemExit):
    """The checkpoint is written, and the process is to end."""

    code = 128 + signal.SIGTERM


class Recorder(Checkpoint):
    """Write a checkpoint at the end of an epoch, and `metrics.csv` with each checkpoint, both atomically.

    It is a Checkpoint because Lightning calls those last, when the epoch's metrics are complete. At least `pause`
    seconds lie between two checkpoints; the last epoch always has one. On SIGTERM, or at the time `until`, it writes
    one after a step and raises `StoppedError`: an epoch of ImageNet takes an hour. Training ends with the epoch in
    which a loss is not finite (`diverged`). Rows have metrics of the `watched` split, and only one rank `writes`.
    """

    def __init__(
        self, folder: Path, watched: str, writes: bool = True, pause: float = 0.0, until: float = math.inf
    ) -> None:
        super().__init__()
        self.folder, self.watched, self.writes, self.pause, self.until = folder, watched, writes, pause, until
        self.code: dict[str, str | None] = {}  # fingerprints of the code that trains the run
        self.rows: list[dict[str, float]] = []
        self.seconds, self._saved = 0.0, time.perf_counter()  # how long the epochs took; when a checkpoint was written
        self.diverged: int | None = None
        self.validated: list[int] | None = None  # the net at the validation of the last epoch
        self.told = False  # to stop

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM as the word to stop, and restore all handlers then."""
        # After a Ctrl-C Lightning would leave this process deaf to the next.
        before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "told", True))
        try:
            yield
        except Exception:  # after the signal: other ranks have ended, and left this one in a collective
            if not self.told:
                raise
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)
        if self.told:
            raise StoppedError

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep Lightning from the signal: it would stop one rank in a collective, and wait for the device each step."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *step: Any) -> None:
        """Stop if any rank has to, but not after an epoch's last step: the epoch's end belongs to it."""
        several = trainer.world_size > 1  # they ask each other from time to time, and stop after the same step
        if step[-1] + 1 == trainer.num_training_batches or (several and trainer.global_step % AGREE):
            return
        self.told = self.told or time.time() >= self.until
        if several:
            self.told = trainer.strategy.reduce_boolean_decision(self.told, all=False)
        if self.told:
            trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
            if trainer.is_global_zero:
                sys.stdout.write(f"stopped after step {trainer.global_step}; the checkpoint is written\n")
            raise StoppedError

    def state_dict(self) -> dict[str, Any]:
        """Write the curve, and put its rows into the checkpoint: that of a killed run has no gap."""
        self.seconds = time.perf_counter() - self._began
        self.write()
        kept = {"rows": self.rows, "seconds": self.seconds, "code": self.code, "diverged": self.diverged}
        return kept | {"validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows from a checkpoint, and write the curve that belongs to it."""
        self.rows, self.seconds, self.diverged = (state_dict[name] for name in ("rows", "seconds", "diverged"))
        self.validated = state_dict.get("validated")
        self.write()

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Start the clock; end a run that has diverged and goes on."""
        self._began = time.perf_counter() - self.seconds
        trainer.should_stop = self.diverged is not None
        self._lr = _rate(trainer)
        self._checked = False
        check_states(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the net that the last row of the curve is about: hooks that come later may change it."""
        if trainer.state.fn == "fit" and trainer.current_epoch + 1 == trainer.max_epochs:
            self.validated = contents(pl_module)

    def outdated(self, module: L.LightningModule) -> bool:
        """Tell whether the net has changed since the validation of the last epoch."""
        return self.validated is not None and self.validated != contents(module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row and save everything."""
        self.seconds = time.perf_counter() - self._began
        epoch = trainer.current_epoch + 1
        loader: Any = trainer.train_dataloader
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        batches = loader.batches if hasattr(loader, "batches") else len(loader)  # ours may yield many at once
        assert isinstance(pl_module, LitClassifier)
        self.add_row(epoch, epoch * batches, self._lr, pl_module, metrics)
        self._lr = _rate(trainer)  # of the next epoch
        if not all(math.isfinite(value) for name, value in metrics.items() if name.endswith("_loss")):
            self.diverged, trainer.should_stop = epoch, True
        if not self._checked:  # again: what is recorded by now may be of other types
            check_states(trainer)
            self._checked = True
        if trainer.should_stop or epoch == trainer.max_epochs or time.perf_counter() - self._saved >= self.pause:
            trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
            self._saved = time.perf_counter()

    def add_row(self, epoch: int, step: int, lr: float, module: LitClassifier, metrics: Mapping[str, float]) -> None:
        """Add an epoch to the curve, from the metrics that a module logged."""
        row = {"epoch": epoch, "step": step, "lr": lr, "seconds": round(self.seconds, 3)}
        for ours, theirs in (("train", "train"), (self.watched, "val")):
            row |= {f"{ours}_{name}": value for name, value in measured(module, metrics, theirs).items()}
        self.rows.append(row)

    def write(self) -> None:
        """Write `metrics.csv`."""
        if self.writes:
            table = [{name: "" if math.isnan(value) else value for name, value in row.items()} for row in self.rows]
            write_atomically(self.folder / "metrics.csv", as_csv(table))


def check_states(trainer: Any) -> None:
    """Refuse a callback whose state a checkpoint would hold but not give back: a resumed run would begin anew."""
    for callback in trainer.callbacks:
        if isinstance(callback, RunCallback) and (state := callback.state_dict()):
            file = io.BytesIO()
            try:
                torch.save(state, file)
                torch.load(io.BytesIO(file.getvalue()), weights_only=True)
            except Exception as error:  # pickle's, of many kinds
                may = "tensors, numbers, text, None, and lists and dictionaries of these; write array.tolist()"
                told = f"state_dict of {type(callback).__name__} gives what no checkpoint gives back"
                raise ValueError(f"{told}; it may hold {may}") from error


def contents(module: L.LightningModule) -> list[int]:
    """Sum the bits of each parameter and buffer of a module's net."""
    net: Any = module.net
    found = [bits(value) for value in net.state_dict().values() if isinstance(value, torch.Tensor)]
    return [int(value) for value in torch.stack(found)]


def _rate(trainer: L.Trainer) -> float:
    """Read the learning rate; of a float32 tensor, as on GPUs, only the digits that float32 has."""
    lr: float | torch.Tensor = trainer.optimizers[0].param_groups[0]["lr"]
    return float(f"{lr.item():.7g}") if isinstance(lr, torch.Tensor) else lr


def measured(module: LitClassifier, metrics: Mapping[str, float], split: str) -> dict[str, float]:
    """Return the loss and metrics that a module logged, accuracies in percent; NaN for those it did not log."""
    # Rounded to what float32 means can tell.
    return {name: round(metrics.get(f"{split}_{name}", math.nan), 5) for name in ("loss", *module.scales)}


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
                raise RanksDifferError(f"after step {trainer.global_step} the ranks differ in '{name}': {why}")


def bits(tensor: Tensor) -> Tensor:
    """Sum the bit patterns of a tensor's elements, each times its position from 1: int64 `()`, wrapping around."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(tensor.element_size(), torch.int64)
    flat = tensor.flatten().view(whole).to(torch.int64)
    return (flat * torch.arange(1, len(flat) + 1, device=tensor.device)).sum()
