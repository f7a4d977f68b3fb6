"""Train one Run in a folder; resumable at every epoch, on a CPU bit-equal to a run that was never stopped."""

import math
import os
import platform
import tempfile
import warnings
from collections.abc import Collection
from dataclasses import dataclass, fields
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import distributed, nn

from lit_hidden import __version__, code
from lit_hidden.callbacks import RunCallback, made, named
from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DATA, ImageData, ImageTensorsData
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.beforehand import git, now
from lit_hidden.engine.checkpoints import Recorder, SameNetwork, Together, WholeCheckpoints, measured
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.engine.ranks import ALONE, Ranks
from lit_hidden.engine.store import CHECKPOINT, SCORES, SUBNETWORK, WEIGHTS, Store, write_atomically
from lit_hidden.nets import NETS
from lit_hidden.recipes import method
from lit_hidden.run import Run
from lit_hidden.subnetwork import fingerprint, masks, save_subnetwork, serialised, used_masks
from lit_hidden.supermask import Supermask, fix_masks

# A callback's numbers may not have these names: of a run's fields, and of numbers that the engine gives later.
RESERVED = {f.name for f in fields(Run)} | {
    "run", "metric", "unit", "better", "failed", "best_accuracy", "seconds", "device", "diverged", "code", "provenance",
    "checksums", "density_sampled", "density_rounded",
}  # fmt: skip
# What is installed, once a process, at import: workers are forked from one that has imported this.
INSTALLED = sorted({f"{found.name}=={found.version}" for found in distributions()}, key=str.lower)
AT_ONCE = 100  # steps of a block on a GPU; Lightning may stop a run between two blocks
PAUSE = 10.0  # seconds between two checkpoints on a GPU, where an epoch may take less time than its checkpoint


def train(
    run: Run,
    folder: Path,
    data_dir: str | Path = "data",
    *,
    device: str = "cpu",
    decoders: int | None = None,
    ranks: Ranks = ALONE,
    at_once: int | None = None,
    keep: bool = False,
    until: float = math.inf,
) -> dict[str, Any]:
    """Train `run` in `folder`, beside its parent's, from its last checkpoint if there is one, and return its result.

    The checkpoint stays until `Store.finish` has written the result. A run that others go on from has to `keep` its
    scores. `ranks` places this process among those that share each batch; the first one writes. `at_once` is the number
    of steps of a block, see `lit_hidden.steps`; None: 100 on a GPU for runs that allow it, else 0.

    Raises a StoppedError on SIGTERM or at the time `until`, a RanksDifferError if the ranks train several networks, a
    DataError if data are missing or damaged, a FileNotFoundError if the parent has not left its net.
    """
    run = run.resolved
    several, first = ranks.size > 1, ranks.rank == 0
    if at_once is None:
        at_once = AT_ONCE if device == "cuda" and not several and together(run) else 0
    started, pause = now(), PAUSE if device == "cuda" else 0.0
    recorder = Recorder(folder, "val" if run.held_out else "test", first, pause, until)
    torch.set_num_threads(1)  # results are bit-equal at the same number
    with warnings.catch_warnings(), recorder.listening():
        warnings.filterwarnings("ignore", module="lightning")  # its advice on loaders and loggers
        data = make_data(run, data_dir, decoders)
        if first:
            write_atomically(folder / "run.json", run.to_json() + "\n")
        L.seed_everything(run.data_seed, verbose=False)  # for dropout, sampled masks, and nets that draw themselves
        data.prepare_data()
        data.setup("fit")
        module = make_module(run, data, folder.parent)
        if at_once:
            assert isinstance(data, ImageTensorsData)
            data.at_once, module.automatic_optimization = at_once, False
        ran = {name: code.ran(name) for name in run.names if not code.ours(name)}
        if run.parent is not None:  # names among these, with the code that the parent was trained with
            ran |= (Store(folder.parent).result(run.parent) or {}).get("code", {})
        recorder.code, ideas = ran, made(run)
        callbacks = [recorder, *ideas, *([SameNetwork()] if several else [])]
        own: dict[str, Any] = {"max_epochs": run.epochs, "precision": run.precision, "callbacks": callbacks}
        trainer = L.Trainer(**settings(folder, device, ranks, at_once), **own)
        for idea in ideas:
            idea.on_run_start(trainer, module, data, folder.parent / run.parent.hash if run.parent else None)
        trainer.precision_plugin.convert_module(module)  # half precision casts the weights
        training = _Training(run, trainer, module, data, recorder)
        weights_before = fingerprint(module.net)
        before = training.tested() if run.method == "ticket" and run.held_out else None
        training.fit(several)
        outdated = recorder.outdated(module)
        if several:  # all ranks continue with the first one's running statistics, as after each step
            for buffer in module.net.buffers():
                distributed.broadcast(buffer, src=0)
        result = training.numbers(before, outdated)
        result |= {"weights_before": weights_before, "weights_after": fingerprint(module.net), **training.counts()}
        for number, idea in enumerate(ideas):
            earlier = sum(type(one) is type(idea) for one in ideas[:number])
            result |= training.ended(idea, f"_{earlier + 1}" if earlier else "", result.keys())
        if first:
            measure = {name: result[name] for name in ("accuracy",) if name in result}
            _save(run, module.net, folder, keep, module.about | measure)
        if run.method == "supermask":
            result |= training.rounded(result["parameters"])
    result |= {"code": ran} if ran else {}
    told = provenance(device, ranks.size)
    result["provenance"] = told | {"seconds": round(recorder.seconds, 1), "started": started}
    return result


def alone(run: Run) -> bool:
    """Tell whether only one process may train a run: nothing learns, or a callback allows one device only."""
    learns = method(str(run.resolved.method)).learns
    return learns is None or not all(named(one).several_devices for one in run.callbacks)


def together(run: Run) -> bool:
    """Tell whether a run's steps may be taken in blocks: they draw nothing, and no callback looks between them."""
    run = run.resolved
    ours = run.net in NETS and run.data in DATA and run.task is None and run.masker is None
    captured = ours and method(str(run.method)).captured and run.precision in ("32-true", "bf16-mixed")
    return captured and not alone(run) and all(named(one).capturable for one in run.callbacks)


def settings(folder: Path, device: str, ranks: Ranks = ALONE, at_once: int = 0) -> dict[str, Any]:
    """Return the Trainer's arguments; the bench trains with them too."""
    several, on_gpu, quiet = ranks.size > 1, device == "cuda", ("logger", "enable_progress_bar", "enable_model_summary")
    return dict.fromkeys(quiet, False) | {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": ranks.here,
        "num_nodes": ranks.size // ranks.here,
        "strategy": Together() if several else "auto",
        "sync_batchnorm": several and on_gpu,
        "plugins": [WholeCheckpoints(), LightningEnvironment()],  # not torchrun's or SLURM's: a leader may train alone
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10**9,
        "default_root_dir": folder,
        "benchmark": True if at_once and on_gpu else None,  # the sizes of batches do not change
    }


def provenance(device: str, ranks: int) -> dict[str, Any]:
    """Describe what computes in this process, on `cpu` or `cuda`."""
    # Of this package's checkout, not of a repository around its installation.
    commit = git(Path(__file__).parents[2], "--git-dir=.git", "describe", "--always", "--dirty", "--abbrev=12").strip()
    kind = torch.cuda.get_device_name() if device == "cuda" else "CPU, 1 thread(s)"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "lightning": lightning.__version__}
    return {
        "device": kind if ranks == 1 else f"{ranks} x {kind}",
        "tf32": in_tf32(device),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),  # other instructions round otherwise
        "versions": {"lit_hidden": __version__, **versions},
        "installed": INSTALLED,
        "commit": os.environ.get("LIT_HIDDEN_COMMIT") or commit or None,  # a copy without history is told it
        "finished": now(),
    }


def in_tf32(device: str) -> list[str]:
    """Name what computes in TF32 (10 bits of fraction, not 23) although its tensors are float32; nothing on a CPU."""
    if device != "cuda" or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return []
    convolutions = ["convolutions"] if torch.backends.cudnn.allow_tf32 else []
    return convolutions + (["products"] if torch.get_float32_matmul_precision() != "highest" else [])


@dataclass(frozen=True)
class _Training:
    """What a run is trained with, and how its result comes about."""

    run: Run
    trainer: L.Trainer
    module: LitClassifier
    data: ImageData
    recorder: Recorder

    def fit(self, several: bool) -> None:
        """Train from the checkpoint if there is one, else from the start, with a row before training."""
        last = self.recorder.folder / CHECKPOINT
        begun = [last.exists()]
        if several:  # the first rank decides: a shared folder may show the file to others later
            distributed.broadcast_object_list(begun, src=0)
        if not begun[0]:
            (metrics,) = self.trainer.validate(self.module, self.data, verbose=False)
            self.recorder.add_row(0, 0, math.nan, self.module, metrics)
            self.recorder.write()
        if self.run.epochs:
            self.trainer.fit(self.module, self.data, ckpt_path=last if begun[0] else None, weights_only=True)

    def tested(self) -> dict[str, float]:
        torch.manual_seed(self.run.data_seed or 0)  # a resumed run samples the same masks
        (tested,) = self.trainer.test(self.module, self.data, verbose=False)
        return measured(self.module, tested, "test")

    def numbers(self, before: dict[str, float] | None, outdated: bool = False) -> dict[str, Any]:
        """Collect loss and metrics of the test set; a ticket's `before` training are in the first row if None.

        They are in the last row if nothing was held out, unless a callback has changed the net since (`outdated`).
        """
        run, rows, task = self.run, self.recorder.rows, self.module.task
        names = [*self.module.scales, "loss"]
        metric = names[0]
        tested = self.tested() if run.held_out or outdated else {name: rows[-1][f"test_{name}"] for name in names}
        result: dict[str, Any] = {_as_reported(name): tested[name] for name in names}
        result |= {"metric": metric, "unit": task.unit, "better": task.better} if task is not None else {}
        result |= {f"train_{_as_reported(metric)}": rows[-1][f"train_{metric}"]} if run.epochs else {}
        result["steps"] = rows[-1]["step"]
        if self.recorder.diverged is not None or not math.isfinite(result["loss"]):
            result["diverged"] = rows[-1]["epoch"]
        if run.method == "ticket":
            result[f"{_as_reported(metric)}_before"] = rows[0][f"test_{metric}"] if before is None else before[metric]
        return result

    def counts(self) -> dict[str, Any]:
        """Count the weights that each hidden layer keeps, and those that the net keeps or trains."""
        net = self.module.net
        if not maskers(net):
            return {"parameters": sum(p.numel() for p in net.parameters() if p.requires_grad)}
        # A supermask samples in its forward pass; its rounded mask is the one that can be counted again.
        used = masks(net) if self.run.method == "supermask" else used_masks(net)
        kept = {name: int(mask.sum()) for name, mask in used.items()}
        layers = [{"name": n, "numel": used[n].numel(), "kept_min": k, "kept_max": k} for n, k in kept.items()]
        return {"layers": layers, "parameters": sum(kept.values())}

    def ended(self, idea: RunCallback, suffix: str, taken: Collection[str]) -> dict[str, Any]:
        """Collect a callback's numbers and files; the suffix tells callbacks of one class apart."""
        folder = self.recorder.folder
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as place:
            numbers = idea.on_run_end(self.trainer, self.module, Path(place)) or {}
            for path in Path(place).iterdir() if self.trainer.is_global_zero else ():
                path.replace(folder / f"{path.stem}{suffix}{path.suffix}")
        numbers = {f"{name}{suffix}": v.item() if hasattr(v, "item") else v for name, v in numbers.items()}
        if wrong := [name for name in numbers if name in RESERVED or name in taken]:
            raise ValueError(f"{type(idea).__name__} gives {wrong[0]}, which the result has already")
        return numbers

    def rounded(self, kept: int) -> dict[str, float]:
        """Measure the density of a supermask's samples, and its most probable mask, which the net then keeps."""
        found = [masker for masker in maskers(self.module.net).values() if isinstance(masker, Supermask)]
        weights = sum(masker.scores.numel() for masker in found)
        sampled = sum(masker.probability().double().sum().item() for masker in found)
        fix_masks(self.module.net)
        metric = next(iter(self.module.scales))
        densities = {"density_sampled": round(sampled / weights, 6), "density_rounded": round(kept / weights, 6)}
        return densities | {f"{_as_reported(metric)}_rounded": self.tested()[metric]}


def _as_reported(metric: str) -> str:
    """Name a metric as results do."""
    return "accuracy" if metric == "top1" else metric


def _save(run: Run, net: nn.Module, folder: Path, keep: bool, about: dict[str, Any]) -> None:
    """Write a net for later runs and for users."""
    if run.kind == "hidden":
        try:
            save_subnetwork(net, folder / SUBNETWORK, about)
        except ValueError:  # seeds and masks do not give this net back; all its tensors do
            keep = True
    if run.kind != "hidden" or keep:
        path = folder / (SCORES if run.kind == "hidden" else WEIGHTS)
        write_atomically(path, serialised(net.state_dict()))
