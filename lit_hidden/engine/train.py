"""Train one Run in a folder, resumable at every epoch, bit-equal on CPU to a run never stopped."""

import csv
import inspect
import io
import json
import math
import os
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lit_hidden import __version__, code
from lit_hidden.callbacks import RunCallback
from lit_hidden.classifier import LitClassifier
from lit_hidden.code import Spec
from lit_hidden.data import DATA, ImageData, ImageTensorsData
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.checkpoints import WholeCheckpoints
from lit_hidden.engine.network import make_data, make_module, save_net
from lit_hidden.engine.ranks import ALONE, Interruption, Placed, Ranks, SameNetwork, Together
from lit_hidden.engine.store import CHECKPOINT, SCORES, SUBNETWORK, WEIGHTS, Store, set_aside, write_atomically
from lit_hidden.nets import NETS
from lit_hidden.recipes import method
from lit_hidden.run import Run
from lit_hidden.subnetwork import fingerprint, masks, save_subnetwork, used_masks
from lit_hidden.supermask import Supermask
from lit_hidden.ticket import fix_masks

# Names that a callback's number may not have: columns of `results.csv`, and what is written beside it.
RESERVED = {f.name for f in fields(Run)} | {
    "run", "metric", "unit", "better", "failed", "best_accuracy", "seconds", "device", "cpu", "commit", "finished",
    "tf32", "lit_hidden", "python", "torch", "lightning", "code", "provenance", "checksums", "density_sampled",
    "density_rounded", "diverged",
}  # fmt: skip
AT_ONCE = 100  # steps; between two blocks Lightning may be told to stop
PAUSE = 10.0  # seconds between two checkpoints on a GPU


class UnfitError(RuntimeError):
    """A checkpoint is of another net or optimizer than the run has; it is set aside, and the run can begin anew."""


def rate(lr: float | torch.Tensor) -> float:
    """Give a learning rate as a number; a float32 tensor, as on GPUs, without the digits that it does not have."""
    return float(f"{lr.item():.7g}") if isinstance(lr, torch.Tensor) else lr


class Recorder(Checkpoint):
    """Write a checkpoint at every epoch's end and `metrics.csv` with each checkpoint, both whole or not at all.

    A Checkpoint to Lightning, which calls those last, when the epoch's metrics are all there. Where an epoch takes less
    time than a checkpoint, a `pause` of so many seconds lies between two checkpoints; the last epoch has its own.

    Training ends with the epoch in which a loss is not finite, `diverged`.
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
        self.code = code or {}
        self.folder, self.watched, self.writes = folder, watched, writes
        self.pause, self._saved = pause, time.perf_counter()
        self.rows: list[dict[str, float]] = []
        self.going = False  # whether training has begun, or goes on from a checkpoint that fits
        self.seconds = 0.0
        self._began: float | None = None
        self.diverged: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint, so that the curve of a killed run has no gap."""
        self._stop()
        return {"rows": self.rows, "seconds": self.seconds, "code": self.code, "diverged": self.diverged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back from a checkpoint."""
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]
        self.diverged = state_dict.get("diverged")

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

    def first(self, module: LitClassifier, metrics: dict[str, float]) -> None:
        """Take the row before training."""
        self._row(0, 0, float("nan"), module, metrics)
        self._write()  # so that all see that training begins

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Know that the checkpoint was loaded, and the optimizer's own options with it; if the run diverged, end."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # torch takes the state of another kind of optimizer, and fails in the first step.
                if lacking := sorted(optimizer.defaults.keys() - group.keys()):
                    raise ValueError(f"it is of another optimizer, without {', '.join(lacking)}")
        self.going, trainer.should_stop = True, self.diverged is not None

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
        loader: Any = trainer.train_dataloader
        batches = loader.batches if hasattr(loader, "batches") else len(loader)  # ours may yield many at once
        assert isinstance(pl_module, LitClassifier)
        self._row(epoch, epoch * batches, self._lr, pl_module, metrics)
        if not all(math.isfinite(value) for name, value in metrics.items() if name.endswith("/loss")):
            self.diverged, trainer.should_stop = epoch, True
        if trainer.should_stop or epoch == trainer.max_epochs or time.perf_counter() - self._saved >= self.pause:
            trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
            self._saved = time.perf_counter()

    def _row(self, epoch: int, step: int, lr: float, module: LitClassifier, metrics: dict[str, float]) -> None:
        row = {"epoch": epoch, "step": step, "lr": lr, "seconds": round(self.seconds, 3)}
        for ours, theirs in (("train", "train"), (self.watched, "val")):
            row |= {f"{ours}_{name}": value for name, value in measured(module, metrics, theirs).items()}
        self.rows.append(row)


def measured(module: LitClassifier, metrics: Mapping[str, float], split: str) -> dict[str, float]:
    """Give the loss and the metrics that a module has logged, accuracies in percent; NaN what it has not."""
    # Rounded: the float32 in which means add up has no more to say.
    scales = {"loss": 1, **module.scales}
    return {name: round(scale * metrics.get(f"{split}/{name}", math.nan), 5) for name, scale in scales.items()}


def train(
    run: Run,
    folder: Path,
    data_dir: str | Path = "data",
    *,
    device: str = "cpu",
    threads: int = 1,
    decoders: int | None = None,
    ranks: Ranks = ALONE,
    at_once: int | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Train `run` in `folder`, from its last checkpoint on if it was begun, and return its result.

    The batch size is that of all ranks together, and nothing else depends on how many there are either. Norm layers see
    the whole batch on GPUs; on CPU, where torch cannot, each rank's see its own part.

    Args:
        run: what to train.
        folder: where `run.json`, `metrics.csv`, `last.ckpt`, what callbacks write and the net go; beside it lies the
            folder of the run before. The checkpoint stays: until the result is written (`Store.finish`) it is all
            that says that the run was trained.
        data_dir: where the data sets lie.
        device: `cpu` or `cuda`.
        threads: CPU threads; part of the arithmetic, so results are equal bit for bit only at the same number.
        decoders: processes that decode images for this one, where images are not decoded beforehand; None is as many
            as there are CPUs for it.
        ranks: where this process stands among those that train the run; a group that torch has set up. The first
            alone writes, and returns a result.
        at_once: steps taken at once, see `lit_hidden.steps`; None is 100 on a GPU where they can be, else 0: Lightning
            takes each.
        keep: write the scores too, for a run that goes on from these.

    Raises:
        StoppedError: SIGTERM; the checkpoint is written.
        UnfitError: the checkpoint is another's; it is set aside, and the next call begins the run anew.
        RanksDifferError: the ranks no longer train one network.
        ValueError: the run is one to train alone, or has batches too small for so many ranks.
        DataError: the data are missing or damaged; before anything is trained.
        FileNotFoundError: the run before has not left its net.
    """
    run = run.resolved
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
            return _train(run, folder, data, device, threads, ranks, interruption, at_once, keep)
    finally:
        torch.set_num_threads(before)


def alone(run: Run) -> bool:
    """Tell whether a run is one device's, however many there are: nothing learns, or a callback wants it so."""
    learns = method(str(run.resolved.method)).learns
    return learns is None or not all(_class(one).several_devices for one in run.callbacks)


def together(run: Run) -> bool:
    """Tell whether many steps of a run can be taken at once: nothing is drawn in them, and nobody looks into them."""
    run = run.resolved
    ours = run.net in NETS and run.data in DATA and run.task is None and run.masker is None
    captured = ours and method(str(run.method)).captured and run.precision in ("32-true", "bf16-mixed")
    return captured and not alone(run) and all(_class(one).capturable for one in run.callbacks)


def _class(spec: Spec) -> type[RunCallback]:
    """Import a callback's class.

    Raises:
        ValueError: it is none, or of another version than asked for.
    """
    found = code.load(spec.class_path)
    if not (isinstance(found, type) and issubclass(found, RunCallback)):
        raise ValueError(f"{spec.class_path} is no RunCallback; derive it from lit_hidden.callbacks.RunCallback")
    if found.version != spec.version:
        raise ValueError(f"{spec.class_path} is of version {found.version} here; the run is of version {spec.version}")
    return found


def _made(run: Run) -> list[RunCallback]:
    made = []
    for one in run.callbacks:
        found = _class(one)
        takes = inspect.signature(found.__init__).parameters
        # A hash knows 2.0 as 2.
        real = {n for n, p in takes.items() if p.annotation in (float, "float") or isinstance(p.default, float)}
        made.append(found(**{n: float(v) if n in real and v is not None else v for n, v in one.options}))
    for callback in made:
        callback.run_seed, callback._in_engine = run.seed, True
    return made


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
    ranks: Ranks,
    interruption: Interruption,
    at_once: int,
    keep: bool,
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
    # An epoch of Conv2 may take a GPU a tenth of a second, and its checkpoint, of 50 MB, more than that.
    pause = PAUSE if device == "cuda" else 0.0
    ran = {name: code.ran(name) for name in run.names if not code.ours(name)}
    if run.parent is not None:  # its names are among these, with the code that it was trained with
        ran |= (Store(folder.parent).result(run.parent) or {}).get("code", {})
    recorder = Recorder(folder, "val" if run.held_out else "test", first, pause, ran)
    ideas = _made(run)
    callbacks = [recorder, *ideas, *([SameNetwork()] if several else []), interruption]
    trainer = L.Trainer(**settings(run.epochs, folder, device, callbacks, run.precision, ranks, at_once))
    interruption.instead_of_lightning(trainer)
    for idea in ideas:
        idea.on_run_start(trainer, module, data, folder.parent / run.parent.hash if run.parent else None)
    trainer.precision_plugin.convert_module(module)  # half precision casts the weights
    weights_before = fingerprint(module.net)
    metric = next(iter(module.scales))
    before = _tested(run, trainer, module, data)[metric] if run.method == "ticket" and run.held_out else None
    last = folder / CHECKPOINT
    begun = _agreed(last.exists()) if several else last.exists()
    if not begun:
        (metrics,) = trainer.validate(module, data, verbose=False)
        recorder.first(module, dict(metrics))
    if run.epochs:
        try:
            trainer.fit(module, data, ckpt_path=last if begun else None, weights_only=True)
        except Exception as error:  # of many kinds, as what does not fit; memory and disks may fail any time
            if not begun or recorder.going or isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError)):
                raise
            why = f"{last} does not fit {run.name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            aside = f"set aside as {set_aside(last).name}, " if first else ""
            raise UnfitError(f"{why}; {aside}the run begins anew") from error
    interruption.stop(several)
    if several:
        _share_buffers(module)
    row = recorder.rows[-1]
    names = {name: "accuracy" if name == "top1" else name for name in (*module.scales, "loss")}
    tested = _tested(run, trainer, module, data) if run.held_out else {name: row[f"test_{name}"] for name in names}
    result: dict[str, Any] = {ours: tested[name] for name, ours in names.items()}
    if module.task is not None:
        result |= {"metric": metric, "unit": module.task.unit, "better": module.task.better}
    result |= {f"train_{names[metric]}": row[f"train_{metric}"]} if run.epochs else {}
    result["steps"] = row["step"]
    if recorder.diverged is not None or not math.isfinite(result["loss"]):
        result["diverged"] = row["epoch"]
    if run.method == "ticket":  # without images held out, the row before training is of the test set
        result[f"{names[metric]}_before"] = recorder.rows[0][f"test_{metric}"] if before is None else before
    weights_after = fingerprint(module.net)
    result |= {"weights_before": weights_before, "weights_after": weights_after}
    used: dict[str, torch.Tensor] = {}
    if maskers(module.net):
        # A supermask's forward pass samples; its rounded mask is what can be counted again.
        used = masks(module.net) if run.method == "supermask" else used_masks(module.net)
        counts = {name: int(mask.sum()) for name, mask in used.items()}
        result["layers"] = [
            {"name": name, "numel": used[name].numel(), "kept_min": count, "kept_max": count}
            for name, count in counts.items()
        ]
    result["parameters"] = sum(int(mask.sum()) for mask in used.values()) or sum(
        p.numel() for p in module.net.parameters() if p.requires_grad
    )
    for number, idea in enumerate(ideas):
        result |= _ended(idea, sum(type(one) is type(idea) for one in ideas[:number]), trainer, module, folder, result)
    if first:
        _save(run, module.net, folder, keep)
    if run.method == "supermask":
        result |= _rounded(run, trainer, module, data, names[metric])
    result |= {"code": ran} if ran else {}
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
    return result


def _ended(
    idea: RunCallback, others: int, trainer: L.Trainer, module: LitClassifier, folder: Path, result: dict[str, Any]
) -> dict[str, Any]:
    """Collect a callback's numbers and files; those of a second one of its class get names such as `cut_2`."""
    name, suffix = type(idea).__name__, f"_{others + 1}" if others else ""
    place = folder / f".{name}{suffix}-{trainer.global_rank}.part"
    shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
    place.mkdir()
    numbers = {}
    for key, value in (idea.on_run_end(trainer, module, place) or {}).items():
        key, value = f"{key}{suffix}", value.item() if hasattr(value, "item") else value
        if key in RESERVED | result.keys() or key.endswith("_rounded"):
            raise ValueError(f"{name} gives {key}, which the result has already")
        try:
            json.dumps(value)
        except TypeError:
            raise ValueError(f"{name} gives {key}={value!r}; give numbers, text, or lists of these") from None
        numbers[key] = value
    for path in place.iterdir() if trainer.is_global_zero else ():
        path.replace(folder / f"{path.stem}{suffix}{path.suffix}")
    shutil.rmtree(place)
    return numbers


def _save(run: Run, net: torch.nn.Module, folder: Path, keep: bool) -> None:
    """Write a net for the runs after this one, and for whoever wants to look at it."""
    name = SCORES if run.kind == "hidden" else WEIGHTS
    if run.kind == "hidden":
        try:
            save_subnetwork(net, folder / SUBNETWORK)
            if not keep:
                return
        except ValueError:  # seeds and masks do not give this net back; all its tensors do
            pass
    try:
        save_net(net, folder / name)
    except ValueError as error:  # a net of one's own; what was trained counts all the same
        warnings.warn(f"{name} is left out: {error}", stacklevel=2)


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
    return measured(module, tested, "test")


def _rounded(run: Run, trainer: L.Trainer, module: LitClassifier, data: ImageData, metric: str) -> dict[str, float]:
    """Measure what a supermask's samples keep on average, and its most probable mask, which the net has afterwards."""
    found = [masker for masker in maskers(module.net).values() if isinstance(masker, Supermask)]
    weights = sum(masker.scores.numel() for masker in found)
    sampled = sum(masker.probability().double().sum().item() for masker in found)
    rounded = sum(masker.mask().sum().item() for masker in found)
    fix_masks(module.net)
    return {
        "density_sampled": round(sampled / weights, 6),
        "density_rounded": round(rounded / weights, 6),
        f"{metric}_rounded": _tested(run, trainer, module, data)[next(iter(module.scales))],
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
