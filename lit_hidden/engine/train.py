"""Train one Run in a folder, resumable at every epoch, bit-equal on CPU to a run never stopped."""

import csv
import io
import os
import platform
import subprocess
import time
import warnings
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from lit_hidden import __version__
from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DATA, ImageData, ImageTensorsData, data_module
from lit_hidden.data.loader import EpochLoader
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.checkpoints import WholeCheckpoints
from lit_hidden.engine.ranks import ALONE, Interruption, Placed, Ranks, SameNetwork, Together
from lit_hidden.engine.store import CHECKPOINT, SUBNETWORK, write_atomically
from lit_hidden.engine.swaps import Swaps
from lit_hidden.engine.trace import Trace, last_weight
from lit_hidden.engine.tracking import Tracker
from lit_hidden.experiment import SUBSET, Run
from lit_hidden.modules import LitDense, LitRandomMask, LitSubnetwork, LitSupermask, LitTicket
from lit_hidden.nets import NETS
from lit_hidden.recipes import IMAGENET_SIZES
from lit_hidden.subnetwork import fingerprint, masks, save_subnetwork, used_masks
from lit_hidden.supermask import Supermask
from lit_hidden.ticket import fix_masks

AT_ONCE = 100  # steps; between two blocks Lightning may be told to stop
PAUSE = 10.0  # seconds between two checkpoints on a GPU

_MODULES = {"edge_popup": LitSubnetwork, "supermask": LitSupermask, "random": LitRandomMask}


def make_data(run: Run, data_dir: str | Path, decoders: int | None = None) -> ImageData:
    """Build the DataModule of a run; `decoders` is the number of processes that decode images, None its own choice."""
    run = run.resolved
    subset = {name: getattr(run, name) for name in SUBSET} | {"workers": decoders} if run.data in IMAGENET_SIZES else {}
    return data_module(
        run.data,
        root=str(data_dir),
        batch_size=run.batch_size,
        seed=run.data_seed,
        augment=run.augment,
        held_out=run.held_out,
        train_images=run.train_images,
        **subset,
    )


def make_module(run: Run, data: ImageData, runs_dir: Path = Path("runs")) -> LitClassifier:
    """Build the LightningModule of a run; a ticket's subnetwork comes from its parent's folder in `runs_dir`.

    Raises:
        FileNotFoundError: it is not there.
    """
    run = run.resolved
    channels, size, _ = data.shape
    arguments: dict[str, Any] = {
        "net": run.net,
        "width": run.width,
        "num_classes": data.num_classes,
        "in_channels": channels,
        "image_size": size,
        "lr": run.lr,
        "momentum": run.momentum,
        "weight_decay": run.weight_decay,
        "schedule": run.schedule,
        "warmup_epochs": run.warmup_epochs,
        "label_smoothing": run.label_smoothing,
    }
    if run.parent is not None:
        subnetwork = runs_dir / run.parent.hash / SUBNETWORK
        if not subnetwork.is_file():
            raise FileNotFoundError(
                f"{run.name} trains the weights of a subnetwork that is not there: {subnetwork}; train "
                f"{run.parent.name} first (if it is done, it was before subnetworks were kept: delete its folder)"
            )
        arguments |= {"subnetwork": subnetwork, "optimizer": run.optimizer}
        return LitTicket(**arguments)
    arguments |= {"distribution": run.distribution}
    if run.method == "dense":
        arguments |= {"optimizer": run.optimizer, "seed": run.weight_seed}
        return LitDense(**arguments)
    arguments |= {"density": run.density, "scaled": run.scaled}
    arguments |= {"weight_seed": run.weight_seed, "score_seed": run.score_seed}
    return _MODULES[str(run.method)](**arguments)


def rate(lr: float | torch.Tensor) -> float:
    """Give a learning rate as a number; a float32 tensor, as on GPUs, without the digits that it does not have."""
    return float(f"{lr.item():.7g}") if isinstance(lr, torch.Tensor) else lr


class Recorder(Checkpoint):
    """Write a checkpoint at every epoch's end and `metrics.csv` with each checkpoint, both whole or not at all.

    A Checkpoint to Lightning, which calls those last, when the epoch's metrics are all there. Where an epoch takes less
    time than a checkpoint, a `pause` of so many seconds lies between two checkpoints; the last epoch has its own.
    """

    def __init__(self, folder: Path, watched: str, tracker: Tracker, writes: bool = True, pause: float = 0.0) -> None:
        super().__init__()
        self.folder, self.watched, self.tracker, self.writes = folder, watched, tracker, writes
        self.pause, self._saved = pause, time.perf_counter()
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self._began: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint, so that the curve of a killed run has no gap."""
        self._stop()
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back from a checkpoint, and show what was trained before."""
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]
        self.tracker.replay(self.rows)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write `metrics.csv`, whoever saves: a run whose curve ends before its checkpoint is damaged."""
        self._write()

    def _write(self) -> None:
        if not self.writes:
            return
        out = io.StringIO()
        writer = csv.DictWriter(out, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v != v else v for k, v in r.items()} for r in self.rows)
        write_atomically(self.folder / "metrics.csv", out.getvalue())

    def first(self, metrics: dict[str, float]) -> None:
        """Take the row before training."""
        self._row(0, 0, float("nan"), metrics)
        self._write()  # so that all see that training begins

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Start the epoch's clock, at its first batch or that which a resumed run goes on with."""
        if self._began is None:
            self._began = time.perf_counter()
            lr = trainer.optimizers[0].param_groups[0]["lr"]  # read now: Lightning has stepped it by the end
            self._lr = rate(lr)

    def _stop(self) -> None:
        if self._began is not None:
            self.seconds, self._began = self.seconds + time.perf_counter() - self._began, None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the epoch's row and save everything."""
        self._stop()
        epoch = trainer.current_epoch + 1
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        loader = trainer.train_dataloader
        assert isinstance(loader, EpochLoader)
        self._row(epoch, epoch * loader.batches, self._lr, metrics)
        if epoch == trainer.max_epochs or time.perf_counter() - self._saved >= self.pause:
            trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
            self._saved = time.perf_counter()

    def _row(self, epoch: int, step: int, lr: float, metrics: dict[str, float]) -> None:
        row = {"epoch": epoch, "step": step, "lr": lr, "seconds": round(self.seconds, 3)}
        for ours, theirs in (("train", "train"), (self.watched, "val")):
            for name, factor in (("loss", 1), ("top1", 100), ("top5", 100)):
                # Rounded: the float32 in which means add up has no more to say.
                row[f"{ours}_{name}"] = round(factor * metrics.get(f"{theirs}/{name}", float("nan")), 5)
        self.rows.append(row)
        if self.writes:
            self.tracker.log(row)


def train(
    run: Run,
    folder: Path,
    data_dir: str | Path = "data",
    *,
    device: str = "cpu",
    threads: int = 1,
    decoders: int | None = None,
    tracker: Tracker | None = None,
    ranks: Ranks = ALONE,
    at_once: int | None = None,
) -> dict[str, Any]:
    """Train `run` in `folder`, from its last checkpoint on if it was begun, and return its result.

    The batch size is that of all ranks together, and nothing else depends on how many there are either. Norm layers see
    the whole batch on GPUs; on CPU, where torch cannot, each rank's see its own part.

    Args:
        run: what to train.
        folder: where `run.json`, `metrics.csv`, `last.ckpt`, `trace.npz`, `swaps.npz` and, of a hidden run,
            `subnetwork.safetensors` go; beside it lies the folder of a ticket's parent. The checkpoint stays: until
            the result is written (`Store.finish`) it is all that says that the run was trained.
        data_dir: where the data sets lie.
        device: `cpu` or `cuda`.
        threads: CPU threads; part of the arithmetic, so results are equal bit for bit only at the same number.
        decoders: processes that decode images for this one, where images are not decoded beforehand; None is as many
            as there are CPUs for it.
        tracker: the W&B view; None shows nothing.
        ranks: where this process stands among those that train the run; a group that torch has set up. The first
            alone writes, and returns a result.
        at_once: steps taken at once, see `lit_hidden.steps`; None is 100 on a GPU where they can be, else 0: Lightning
            takes each.

    Raises:
        StoppedError: SIGTERM; the checkpoint is written.
        RanksDifferError: the ranks no longer train one network.
        ValueError: the run is one to train alone, or has batches too small for so many ranks.
        DataError: the data are missing or damaged; before anything is trained.
        FileNotFoundError: a ticket's parent has not left its subnetwork.
    """
    run = run.resolved
    tracker = tracker or Tracker.nothing()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        interruption = Interruption(folder)
        with warnings.catch_warnings(), interruption.ready():
            # Lightning's advice on loaders' workers and loggers is not for a run in a grid.
            warnings.filterwarnings("ignore", module="lightning")
            if at_once and not (ranks.size == 1 and together(run)):
                raise ValueError(
                    f"at_once={at_once}: {run.name} is trained step by step, see lit_hidden.engine.train.together; "
                    "give 0"
                )
            data = make_data(run, data_dir, decoders)
            if at_once is None:
                at_once = AT_ONCE if device == "cuda" and ranks.size == 1 and together(run) else 0
            return _train(run, folder, data, device, threads, tracker, ranks, interruption, at_once)
    finally:
        torch.set_num_threads(before)
        tracker.finish()


def alone(run: Run) -> bool:
    """Tell whether a run is one device's, however many there are: nothing learns, or each step is looked into."""
    return run.resolved.method == "random" or bool(run.trace or run.swaps)


def together(run: Run) -> bool:
    """Tell whether many steps of a run can be taken at once: nothing is drawn in them, and nobody looks into them."""
    run = run.resolved
    captured = run.method in ("edge_popup", "dense", "ticket") and run.net in NETS
    return captured and run.data in DATA and run.precision in ("32-true", "bf16-mixed") and not alone(run)


def settings(
    epochs: int | None,
    folder: Path,
    device: str,
    callbacks: list[L.Callback],
    precision: str | None = "32-true",
    ranks: Ranks = ALONE,
    at_once: int = 0,
) -> dict[str, Any]:
    """Give the Trainer's settings: for what is to be trained so without a Run too, such as the bench's epochs."""
    several = ranks.size > 1
    return {
        "max_epochs": epochs,
        "accelerator": "gpu" if device == "cuda" else "cpu",
        "devices": ranks.here,
        "num_nodes": ranks.nodes,
        "strategy": Together() if several else "auto",
        "sync_batchnorm": several and device == "cuda",
        "precision": precision,
        "callbacks": callbacks,
        "plugins": [WholeCheckpoints(), Placed(ranks)],
        "logger": False,
        "enable_checkpointing": True,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10**9,
        "default_root_dir": folder,
        # Batches of two sizes: their algorithms are tried.
        "benchmark": True if at_once and device == "cuda" else None,
    }


def _train(
    run: Run,
    folder: Path,
    data: ImageData,
    device: str,
    threads: int,
    tracker: Tracker,
    ranks: Ranks,
    interruption: Interruption,
    at_once: int,
) -> dict[str, Any]:
    several, first = ranks.size > 1, ranks.rank == 0
    if several and alone(run):
        raise ValueError(
            f"{run.name} is trained by one process and not by {ranks.size}: see lit_hidden.engine.train.alone"
        )
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if first:
        write_atomically(folder / "run.json", run.to_json() + "\n")
    L.seed_everything(run.data_seed, verbose=False)  # dropout, sampled masks, and nets that draw for themselves
    data.prepare_data()
    data.setup("fit")
    module = make_module(run, data, folder.parent)
    if at_once:
        assert isinstance(data, ImageTensorsData)
        data.at_once, module.automatic_optimization = at_once, False
    weights_before = fingerprint(module.net)
    first_weight = last_weight(module)
    tracker.start(run)
    # An epoch of Conv2 may take a GPU a tenth of a second, and its checkpoint, of 50 MB, more than that.
    pause = PAUSE if device == "cuda" else 0.0
    recorder = Recorder(folder, "val" if run.held_out else "test", tracker, writes=first, pause=pause)
    trace = Trace(run.trace) if run.trace and run.method == "edge_popup" else None
    swaps = Swaps(run.swaps) if run.swaps else None
    callbacks = [
        recorder,
        *([trace] if trace else []),
        *([swaps] if swaps else []),
        *([SameNetwork()] if several else []),
        interruption,
    ]
    trainer = L.Trainer(**settings(run.epochs, folder, device, callbacks, run.precision, ranks, at_once))
    interruption.instead_of_lightning(trainer)
    before = _tested(run, trainer, module, data)["accuracy"] if run.method == "ticket" and run.held_out else None
    last = folder / CHECKPOINT
    begun = _agreed(last.exists()) if several else last.exists()
    if not begun:
        (metrics,) = trainer.validate(module, data, verbose=False)
        recorder.first(dict(metrics))
    trainer.fit(module, data, ckpt_path=last if begun else None, weights_only=True)
    interruption.stop(several)
    if several:
        _share_buffers(module)
    row = recorder.rows[-1]
    if run.held_out:
        final = _tested(run, trainer, module, data)
    else:
        final = {"accuracy": row["test_top1"], "top5": row["test_top5"], "loss": row["test_loss"]}
    result: dict[str, Any] = {**final, "train_accuracy": row["train_top1"], "steps": row["step"]}
    if run.method == "ticket":  # without images held out, the row before training is of the test set
        result["accuracy_before"] = recorder.rows[0]["test_top1"] if before is None else before
    result |= {"weights_before": weights_before, "weights_after": fingerprint(module.net)}
    used: dict[str, torch.Tensor] = {}
    if maskers(module.net):
        # A supermask's forward pass samples; its rounded mask is what can be counted again.
        used = masks(module.net) if run.method == "supermask" else used_masks(module.net)
        counts = {name: [int(mask.sum())] * 2 for name, mask in used.items()}
        if trace:
            counts = {name: kept.tolist() for name, kept in trace.kept.items()}
        sizes = {name: mask.numel() for name, mask in used.items()}
        result["layers"] = [
            {"name": name, "numel": sizes[name], "kept_min": low, "kept_max": high}
            for name, (low, high) in counts.items()
        ]
    if trace:
        result |= trace.save(module, folder / "trace.npz")
    elif run.trace:
        arrays: dict[str, Any] = {"weight": first_weight}
        arrays |= {"trained": last_weight(module)} if run.method in ("dense", "ticket") else {}
        arrays |= {"chosen_before": list(used.values())[-1][None].cpu().numpy()} if used else {}
        np.savez_compressed(folder / "trace.npz", **arrays)
    result["parameters"] = sum(int(mask.sum()) for mask in used.values()) or sum(
        p.numel() for p in module.net.parameters() if p.requires_grad
    )
    if run.method not in ("dense", "ticket") and first:
        try:
            save_subnetwork(module.net, folder / SUBNETWORK)
        except ValueError as error:  # a net of one's own; what was trained counts all the same
            warnings.warn(f"{SUBNETWORK} is left out: {error}", stacklevel=2)
    if run.method == "supermask":
        result |= _rounded(run, trainer, module, data)
    if swaps:
        result |= swaps.save(len(result["layers"]), folder / "swaps.npz")
    kind = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} thread(s)"
    result["provenance"] = {
        "seconds": round(recorder.seconds, 1),
        "device": f"{ranks.size} x {kind}" if several else kind,
        "tf32": in_tf32(device),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),  # other instructions round otherwise
        "versions": {
            "lit_hidden": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
        "installed": _installed(),
        "commit": commit(),
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    tracker.summary({"accuracy": result["accuracy"], "top5": result["top5"]})
    return result


def _agreed(begun: bool) -> bool:
    """Take the leader's word for whether there is a checkpoint: a shared folder may show it to others later."""
    word = [begun]
    torch.distributed.broadcast_object_list(word, src=0)
    return word[0]


def _share_buffers(module: LitClassifier) -> None:
    """Give all ranks the first's running statistics, as at each step before: theirs are of their own last images."""
    for buffer in module.net.buffers():
        torch.distributed.broadcast(buffer, src=0)


def _tested(run: Run, trainer: L.Trainer, module: LitClassifier, data: ImageData) -> dict[str, float]:
    """Measure the test set."""
    torch.manual_seed(run.data_seed)  # sampled masks: those of a run never stopped
    (tested,) = trainer.test(module, data, verbose=False)
    return {
        "accuracy": round(100 * tested["test/top1"], 5),
        "top5": round(100 * tested["test/top5"], 5),
        "loss": round(tested["test/loss"], 5),
    }


def _rounded(run: Run, trainer: L.Trainer, module: LitClassifier, data: ImageData) -> dict[str, float]:
    """Measure what a supermask's samples keep on average, and its most probable mask, which the net has afterwards."""
    found = [masker for masker in maskers(module.net).values() if isinstance(masker, Supermask)]
    weights = sum(masker.scores.numel() for masker in found)
    sampled = sum(masker.probability().double().sum().item() for masker in found)
    rounded = sum(masker.mask().sum().item() for masker in found)
    fix_masks(module.net)
    return {
        "density_sampled": round(sampled / weights, 6),
        "density_rounded": round(rounded / weights, 6),
        "accuracy_rounded": _tested(run, trainer, module, data)["accuracy"],
    }


def in_tf32(device: str) -> list[str]:
    """Name what computes in TF32 (10 bits of fraction, not 23) although its tensors are float32; nothing on a CPU."""
    if device != "cuda" or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return []
    convolutions = ["convolutions"] if torch.backends.cudnn.allow_tf32 else []
    return convolutions + (["products"] if torch.get_float32_matmul_precision() != "highest" else [])


@cache
def _installed() -> list[str]:
    """List the distributions that are installed, with their versions."""
    return sorted({f"{found.name}=={found.version}" for found in distributions()}, key=str.lower)


def commit() -> str | None:
    """Name the commit of the checkout that this package runs from; None outside one.

    A copy that has no history of its own is told by LIT_HIDDEN_COMMIT.
    """
    if told := os.environ.get("LIT_HIDDEN_COMMIT"):
        return told
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
