"""What all LightningModules here have in common: how a net is trained, one step or many at once, and measured.

Nothing in a step waits for the device: metrics add up there and are read once per epoch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.cloud_io import _load
from lightning.pytorch.core.saving import CHECKPOINT_PAST_HPARAMS_KEYS
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_hidden import code
from lit_hidden.edge_popup import dtypes_kept
from lit_hidden.files import regular
from lit_hidden.nets import build
from lit_hidden.recipes import SCHEDULES, recipe
from lit_hidden.steps import Block, Steps, correct

Optimizer = Literal["sgd", "adam"]
Schedule = Literal["cosine", "constant"]


class Task(Protocol):
    """What is learned, where it is not classification: a loss, and a metric with its name, unit and direction.

    A class without arguments, or an object, called by its dotted name.
    """

    metric: str  # the name of its column in `results.csv`, such as `error`
    unit: str  # such as `degrees`
    better: Literal["higher", "lower"]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a mini-batch of `B` examples, 0-d."""

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the metric of each example, `(B,)`; its mean over all images is what counts."""


class MakeModule(Protocol):
    """What makes the module of a method; a class of your own is called by its dotted name."""

    def __call__(self, net: str | nn.Module, **arguments: Any) -> "LitClassifier":
        """Make it; the arguments are those of LitDense, or where the run has a density of LitSubnetwork."""


class LitClassifier(L.LightningModule):
    """Cross-entropy training of `net`, images `(B, C, H, W)` to logits `(B, num_classes)`.

    Logs `train/`, `val/` and `test/` `loss`, `top1` and `top5` once per epoch; accuracies are fractions. What is left
    None is the authors' setting for the method and the net, see `lit_hidden.recipes`; the batch size is the
    DataModule's (128 unless told; `module.recipe.batch_size` is the published one, 60 for the Adam baseline).

    Args:
        net: a name for `lit_hidden.build`, or a module, which is used as it is (and not saved in checkpoints'
            hyper-parameters: give it to `load_from_checkpoint` again).
        width: channel multiplier of a net given by name.
        num_classes: number of logits.
        in_channels: channels of an image.
        image_size: height and width of an image.
        optimizer: `sgd` or `adam`.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: acts on whatever is trained; in a hidden net, on the scores.
        schedule: `cosine`, stepped per epoch as in the authors' code, or `constant`.
        warmup_epochs: epochs during which the rate grows linearly.
        label_smoothing: as in `torch.nn.functional.cross_entropy`; in training alone.
        task: a `Task` or its dotted name; None is classification.

    Raises:
        ValueError: an unknown net, optimizer or schedule.
    """

    method = "dense"

    def __init__(
        self,
        net: str | nn.Module = "conv4",
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        optimizer: Optimizer = "sgd",
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: Schedule | None = None,
        warmup_epochs: int | None = None,
        label_smoothing: float | None = None,
        task: str | Task | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"] if isinstance(net, nn.Module) else [])
        made: Any = code.load(code.full(task)) if isinstance(task, str) else task
        self.task: Task | None = made() if isinstance(made, type) else made
        if self.task is not None and self.task.metric in ("loss", "accuracy", "top1", "top5", "steps", "seconds"):
            raise ValueError(f"metric={self.task.metric!r} of {type(self.task).__name__} is the name of another number")
        # The metrics, the primary one first, and what they are multiplied by in results.
        self.scales = {"top1": 100, "top5": 100} if self.task is None else {self.task.metric: 1}
        published = recipe(self.method, net if isinstance(net, str) else "", optimizer)
        self.optimizer = optimizer
        given: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "schedule": schedule}
        given |= {"warmup_epochs": warmup_epochs, "label_smoothing": label_smoothing}
        self.recipe = replace(published, **{name: value for name, value in given.items() if value is not None})
        if self.recipe.schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r} is unknown; schedules are {', '.join(SCHEDULES)}")
        if isinstance(net, str):
            net = build(net, num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)
        self.net = net
        self.train_metrics = _metrics("train/", self.scales)
        self.val_metrics = _metrics("val/", self.scales)
        self.test_metrics = _metrics("test/", self.scales)
        # Kept in checkpoints, so that an epoch resumed in the middle reports the whole epoch.
        self.train_metrics.persistent(True)
        self._rng: list[Tensor] | None = None
        self._steps: Steps | None = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **given: Any,
    ) -> Self:
        """Load as Lightning does; but code of your own, such as a net by its dotted name, has to be given again.

        Raises:
            ValueError: as `hyper_parameters`.
        """
        hyper_parameters(checkpoint_path, f"{cls.__module__}.{cls.__qualname__}", given, weights_only)
        loaded: Self = super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only, **given
        )
        return loaded

    @property
    def lr(self) -> float:
        """The learning rate at the start, which Lightning's finder sets: the one recorded is the one used."""
        return self.recipe.lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.recipe = replace(self.recipe, lr=lr)
        self.hparams["lr"] = lr

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to logits `(B, num_classes)`."""
        # Convolutions follow their input's layout. On one CPU core without AVX-512, a step of hidden Conv2 x0.25 went
        # from 77 to 68 ms, of Conv8 x0.25 from 238 to 202 ms.
        logits: Tensor = self.net(images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor] | Block, batch_idx: int) -> Tensor:
        """Return the mini-batch's mean loss, smoothed if so asked; or take all steps of a block.

        Of several ranks each returns its part, so that the mean of their gradients is that of the whole batch, however
        its images are divided.
        """
        if isinstance(batch, Block):
            return self._train(batch)
        mine, factor = self._share(batch, batch_idx)
        images, labels = batch
        logits: Tensor = self(images)[:mine]
        if not mine:  # a gradient of 0 for the others to add to
            return logits.sum()
        loss = self._loss(logits, labels[:mine], self.recipe.label_smoothing)
        self._update(self.train_metrics, loss, logits, labels[:mine])
        return loss if factor == 1 else loss * factor

    def _train(self, block: Block) -> Tensor:
        """Take the steps of a block, past Lightning, which counts them all the same; return the mean loss."""
        if self.automatic_optimization:
            raise ValueError(
                "blocks of steps are not for Lightning to optimise: set automatic_optimization = False on this "
                f"{type(self).__name__}, or have the loader yield batches (at_once=0)"
            )
        if self._steps is None:
            optimizer: Any = self.optimizers(use_pl_optimizer=False)
            self._steps = Steps(self.net, optimizer, self.recipe.label_smoothing)
        measured = self._steps.train(block)
        for name in ("loss", "top1", "top5"):
            self.train_metrics[name].update(getattr(measured, name).expand(measured.images))
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.total.ready += block.last - block.first
        progress.total.completed += block.last - block.first
        if self.trainer.is_last_batch:  # where Lightning steps it too: before a checkpoint of the epoch's last step
            scheduler: Any = self.lr_schedulers()
            scheduler.step()
        return measured.loss

    def _share(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> tuple[int, float]:
        """Count this rank's images in a batch, and how much more one of them weighs than in an equal division."""
        present, trainer = len(batch[1]), self._trainer
        if trainer is None or trainer.world_size == 1:
            return present, 1.0
        loader: Any = trainer.train_dataloader if trainer.training else trainer.val_dataloaders
        loader = trainer.test_dataloaders if trainer.testing else loader
        if not hasattr(loader, "share"):  # another's: each rank's images weigh as they came
            return present, 1.0
        mine, whole = loader.share(batch_idx)
        return mine, mine * trainer.world_size / whole

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._evaluate(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._evaluate(batch, batch_idx, self.test_metrics)

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, metrics: MetricCollection) -> None:
        mine, _ = self._share(batch, batch_idx)
        images, labels = batch
        logits = self(images)[:mine]  # passed on even if none counts: sampled masks stay those of the other ranks
        if mine:
            self._update(metrics, self._loss(logits, labels[:mine]), logits, labels[:mine])

    def _loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if self.task is not None:
            return self.task.loss(outputs, targets)
        # At least float32, as autocast has it: bfloat16 has no number between 4.125 and 4.15625.
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def _update(self, metrics: MetricCollection, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        outputs = outputs.detach()
        found = correct(outputs, targets) if self.task is None else (self.task.measure(outputs, targets),)
        metrics["loss"].update(loss.detach().expand(len(targets)))
        for name, values in zip(self.scales, found, strict=True):
            metrics[name].update(values)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Count an epoch from its first batch on, whatever a checkpoint or a fit that failed has left of the last."""
        if batch_idx == 0:
            self.train_metrics.reset()

    def on_validation_epoch_start(self) -> None:
        """Count from nothing, whatever a validation that failed has left."""
        _reset(self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Count from nothing."""
        _reset(self.test_metrics)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training metrics."""
        self._log(self.train_metrics)

    def on_fit_start(self) -> None:
        """Know nothing of a fit before, which an exception may have ended: its optimizer is another."""
        self._steps = None

    def on_train_end(self) -> None:
        """Give up the memory of graphs."""
        if self._steps is not None:
            self._steps.forget()
        self._steps = None

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log(self.test_metrics)

    def _log(self, metrics: MetricCollection) -> None:
        # compute() has reduced over ranks already; the mean of equal values only spares Lightning's warning.
        self.log_dict(metrics.compute(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Optimise whatever wants a gradient: the scores of a hidden net, the weights of a dense one."""
        wanted = [p for p in self.net.parameters() if p.requires_grad]
        # On a GPU one kernel for all updates, which a CUDA graph can hold; else torch's own choice.
        cuda = self.device.type == "cuda"
        fused = True if cuda else None
        if self.optimizer == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(
                wanted, self.lr, weight_decay=self.recipe.weight_decay, fused=fused, capturable=cuda
            )
        else:
            optimizer = torch.optim.SGD(
                wanted,
                self.lr,
                momentum=self.recipe.momentum,
                weight_decay=self.recipe.weight_decay,
                fused=fused,
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        if cuda:  # a tensor, which a CUDA graph reads anew at each step; the scheduler has its number, and fills it
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def lr_factor(self, epoch: int) -> float:
        """Return what the learning rate is multiplied by in `epoch`, counted from 0.

        A cosine ends where training does: after the Trainer's `max_epochs` or `max_steps`, whichever is first.

        Source: the authors' `utils/schedulers.py`; the cosine never reaches 0.

        Raises:
            ValueError: a cosine without an end.
        """
        warmup = self.recipe.warmup_epochs
        if epoch < warmup:
            return (epoch + 1) / warmup
        if self.recipe.schedule == "constant":
            return 1.0
        trainer = self.trainer
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        if trainer.max_steps > 0:  # before training batches are not counted yet, and infinite
            batches = min(trainer.num_training_batches, trainer.max_steps * trainer.accumulate_grad_batches)
            steps = math.ceil(batches / trainer.accumulate_grad_batches)
            epochs = min(epochs, math.ceil(trainer.max_steps / steps))
        if epochs == math.inf:
            raise ValueError(
                "schedule='cosine' needs an end: give the Trainer max_epochs or max_steps, or take schedule='constant'"
            )
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - warmup) / max(1, epochs - warmup))))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the random state, which sampled masks and dropout draw from, and the metrics of all ranks."""
        if self.trainer.world_size > 1:  # as a state dict they are this rank's
            for name, metric in self.train_metrics.items(keep_base=True):
                with metric.sync_context():
                    checkpoint["state_dict"] |= metric.state_dict(prefix=f"train_metrics.{name}.")
        checkpoint["rng"] = [torch.get_rng_state()]
        if self.device.type == "cuda":
            checkpoint["rng"].append(torch.cuda.get_rng_state(self.device))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state until training starts, when nothing else draws any more.

        An optimizer's choice of kernels is this device's, not that of the device which wrote the checkpoint. What all
        ranks have measured in the epoch so far, rank 0 takes up alone, or it would be counted once a rank.
        """
        self._rng = checkpoint.get("rng")
        if self._trainer is not None:
            cuda = self.trainer.strategy.root_device.type == "cuda"
            for group in (group for state in checkpoint.get("optimizer_states", []) for group in state["param_groups"]):
                group |= {"lr": float(group["lr"]), "fused": True if cuda else None}
                group |= {"capturable": cuda} if "capturable" in group else {}
        if self._trainer is not None and self.trainer.global_rank > 0:
            measured = (name for name in checkpoint["state_dict"] if name.startswith("train_metrics."))
            checkpoint["state_dict"] |= {name: torch.zeros_like(checkpoint["state_dict"][name]) for name in measured}

    def on_train_start(self) -> None:
        """Take the random state of a resumed run up again, and the rate that this epoch has here.

        A checkpoint holds the rates of its own fit, which may have ended: of other epochs, and of another rate.
        """
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if getattr(schedule, "lr_lambdas", None) == [self.lr_factor]:  # or it is another's
                rate = self.lr * self.lr_factor(schedule.last_epoch)
                schedule.base_lrs, schedule._last_lr = [self.lr], [rate]
                (group,) = schedule.optimizer.param_groups
                lr = group["lr"]
                group |= {"initial_lr": self.lr, "lr": lr.fill_(rate) if isinstance(lr, Tensor) else rate}
        if self._rng:
            torch.set_rng_state(self._rng[0].cpu())
            if len(self._rng) > 1 and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._rng[1].cpu(), self.device)
        self._rng = None


def hyper_parameters(path: Any, kind: str, given: Mapping[str, Any], weights_only: bool = True) -> dict[str, Any]:
    """Read from a checkpoint what its module was made with.

    Args:
        path: the checkpoint, or an open file.
        kind: full name of the class that it is loaded as.
        given: the arguments that are given in the place of the file's.
        weights_only: refuse a file that may run code when it is loaded.

    Raises:
        ValueError: it is no checkpoint, or what is given contradicts it; or it names code that is neither this
            library's nor given. A file may come from anyone, and to import code is to run it.
    """
    try:
        if isinstance(path, str | Path):
            regular(Path(path))
        checkpoint = _load(path, map_location="meta", weights_only=weights_only)
        keys = (*CHECKPOINT_PAST_HPARAMS_KEYS, LitClassifier.CHECKPOINT_HYPER_PARAMS_KEY)
        found = {str(name): value for key in keys for name, value in checkpoint.get(key, {}).items()}
    except OSError:
        raise
    except Exception as error:  # what a damaged file may raise has no bounds
        raise ValueError(
            f"{path} is no checkpoint of tensors, numbers and text ({type(error).__name__}); nothing else is loaded, "
            "since that may run code"
        ) from error
    if hasattr(path, "seek"):
        path.seek(0)
    found.pop("_instantiator", None)  # Lightning has a list of those
    for name, value in found.items():
        # The last two are names of layers and of a file.
        if (
            value != kind
            and name not in {*given, "skip", "subnetwork"} - {"_class_path"}
            and (names := code.foreign(value))
        ):
            mend = f"--model.{name} {names[0]}, or load_from_checkpoint(path, {name}={names[0]!r})"
            if name == "_class_path":
                mend = f"--model {names[0]}, or load_from_checkpoint of this class"
            raise ValueError(
                f"{path} says {name.lstrip('_')}={value!r}, and code is never imported because a checkpoint names it; "
                f"if you trust it, name it yourself: {mend}"
            )
    for name in given.keys() & found.keys() - {"subnetwork"}:  # where a file lies is another matter
        said, says = (list(one) if isinstance(one, tuple) else one for one in (given[name], found[name]))
        moved = name != "_class_path" and code.foreign(says)  # code of one's own may lie elsewhere now
        if said != says and not moved:
            raise ValueError(
                f"{name.lstrip('_')}={said!r} contradicts {path}, which says {says!r}; leave it out, or give it as the "
                "file does"
            )
    return found


class _Mean(Metric):
    """The mean over images: a float32 sum and a whole count, whatever the module around it is cast to.

    torchmetrics' own counts in the module's dtype, and bfloat16 has no 257.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Said outright: Lightning's half precision changes the default dtype.
        self.add_state("total", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add what each of `B` images gives, `(B,)`."""
        self.total += values.float().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean, 0-d."""
        return self.total / self.count

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        return super()._apply(dtypes_kept(fn), exclude_state)


def _metrics(prefix: str, names: Iterable[str]) -> MetricCollection:
    # Means of what each image gives. torchmetrics' own top-5 builds a one-hot, which waits for the device; a test holds
    # the means against MulticlassAccuracy.
    means = {name: _Mean() for name in ("loss", *names)}
    return MetricCollection(dict[str, Metric | MetricCollection](means), prefix=prefix, compute_groups=False)


def _reset(metrics: MetricCollection) -> None:
    with torch.inference_mode(False):  # or `validate` before `fit` leaves states that fit must not write to
        metrics.reset()
