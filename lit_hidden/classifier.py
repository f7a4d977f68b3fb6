"""The base of all LightningModules here: it trains a net, one step or a block of steps at a time, and measures it.

No step waits for the device: metrics add up there and are read once per epoch.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Self

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lit_hidden import code
from lit_hidden.hyper_parameters import facts, hyper_parameters
from lit_hidden.metrics import Task, means
from lit_hidden.nets import build
from lit_hidden.recipes import SCHEDULES, Optimizer, Recipe, Schedule, recipe
from lit_hidden.steps import Block, Steps, correct, main_output
from lit_hidden.subnetwork import SHAPE


class LitClassifier(L.LightningModule):
    """Cross-entropy training of `net`, images `(B, C, H, W)` to logits `(B, num_classes)`.

    Of several outputs the one named `logits` is trained; auxiliary heads (GoogLeNet, Inception) learn nothing.
    Logs `loss`, `top1` and `top5` (percent), as `train_loss`, `val_loss` or `test_loss`, once per epoch. Settings that
    are None are the authors' for the method and the net, see `lit_hidden.recipes`. The DataModule has the batch size,
    128 by default; the published one is `module.recipe.batch_size`.

    Args:
        net: a name for `lit_hidden.build`; or a module, which `load_from_checkpoint` has to be given again.
        width: multiplies the channels of a net given by name.
        num_classes: number of logits; None: as in the data, before they are known 10.
        in_channels: channels of an image; None: as in the data, before they are known 3.
        image_size: height and width of an image; None: as in the data, before they are known 32.
        optimizer: `sgd` or `adam`.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: of the trained parameters; in a hidden net these are the scores.
        schedule: `cosine`, stepped per epoch as in the authors' code, or `constant`.
        warmup_epochs: epochs during which the rate grows linearly.
        label_smoothing: as in `torch.nn.functional.cross_entropy`, in training only.
        task: a `Task` or its dotted name; None is classification.
    """

    method = "dense"
    _known: Mapping[str, int] = {"num_classes": 10, "in_channels": 3, "image_size": 32}  # before the data are

    def __init__(
        self,
        net: str | nn.Module = "conv4",
        width: float = 1.0,
        num_classes: int | None = None,
        in_channels: int | None = None,
        image_size: int | None = None,
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
        self._given: Mapping[str, int | None]  # those that data must not contradict
        self._given = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        shape = {name: self._known[name] if value is None else value for name, value in self._given.items()}
        self.save_hyperparameters(ignore=["net"] if isinstance(net, nn.Module) else [], logger=False)
        self.hparams.update(shape)
        made: Any = code.load(code.full(task)) if isinstance(task, str) else task
        self.task: Task | None = made() if isinstance(made, type) else made
        if self.task is not None and self.task.metric in ("loss", "accuracy", "top1", "top5", "steps", "seconds"):
            raise ValueError(f"metric={self.task.metric!r} of {type(self.task).__name__} is the name of another number")
        # Metrics, the primary one first, and their factors in results.
        self.scales = {"top1": 100, "top5": 100} if self.task is None else {self.task.metric: 1}
        self.optimizer = optimizer
        if self.recipe.schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r} is unknown; schedules are {', '.join(SCHEDULES)}")
        if isinstance(net, str):
            net = build(net, **shape, width=width)
        self.net = net
        self.train_metrics = means("train_", self.scales)
        self.val_metrics = means("val_", self.scales)  # of tests too
        # Checkpoints keep them, so that an epoch resumed in the middle reports all its images.
        self.train_metrics.persistent(True)
        self._rng: list[Tensor] | None = None
        self._steps: Steps | None = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: Any, map_location: Any = None, *, weights_only: bool = True, **given: Any
    ) -> Self:
        """Load as Lightning does, but import no code that only the checkpoint names: see `hyper_parameters`."""
        hyper_parameters(checkpoint_path, f"{cls.__module__}.{cls.__qualname__}", given, weights_only)
        return super().load_from_checkpoint(checkpoint_path, map_location, weights_only=weights_only, **given)

    def configure_callbacks(self) -> Any:
        """Make the net anew if the data's images or classes are others; Lightning calls this before other hooks.

        ValueError: an argument contradicts the data, or a strategy trains in processes that leave this one's net as is.
        """
        trainer: Any = self.trainer
        data = trainer.datamodule
        if "net" in self.hparams and hasattr(data, "shape") and hasattr(data, "num_classes"):
            known = facts(data, self._given)
            if any(self.hparams[name] != value for name, value in known.items()):
                if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
                    told = ", ".join(f"{name}={value}" for name, value in known.items())
                    raise ValueError(f"with this strategy {type(self).__name__} needs {told}; strategy='ddp' does not")
                takes = inspect.signature(type(self)).parameters  # as Lightning makes it from a checkpoint
                every = any(p.kind is p.VAR_KEYWORD for p in takes.values())
                own = {**self.hparams, **self._given}
                self._known = known
                self.__init__(**{n: v for n, v in own.items() if n in takes or (every and n[0] != "_")})  # type: ignore[misc]
                self.trainer = trainer
            self._given = known  # from now on others would cost what was learned
        return super().configure_callbacks()

    @property
    def about(self) -> dict[str, Any]:
        """What files say of the net: arguments of `build` if it has a name, and `ImageData.about` of its data."""
        known = (*SHAPE, "net") if "net" in self.hparams else ()
        data = getattr(self._trainer, "datamodule", None)
        return getattr(data, "about", {}) | {name: self.hparams[name] for name in known} | {"method": self.method}

    @property
    def recipe(self) -> Recipe:
        """The settings: those in `hparams`, which checkpoints record and Lightning may set, else the authors'."""
        own = {f.name: value for f in fields(Recipe) if (value := self.hparams.get(f.name)) is not None}
        return replace(recipe(self.method, self.hparams.get("net", ""), self.optimizer), **own)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to logits `(B, num_classes)`."""
        # Convolutions follow their input's layout, and channels last is quicker: by 15% in hidden Conv8 on a CPU core.
        last = images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
        return main_output(self.net(last))

    def training_step(self, batch: tuple[Tensor, Tensor] | Block, batch_idx: int) -> Tensor:
        """Return the mini-batch's mean loss, by which ranks average to the whole batch's; or take a block's steps."""
        if isinstance(batch, Block):
            return self._train(batch)
        mine, factor = self._share(batch, batch_idx)
        images, labels = batch
        logits: Tensor = self(images)[:mine]
        if not mine:  # the other ranks need a gradient to average with: 0
            return logits.sum()
        loss = self._loss(logits, labels[:mine], self.recipe.label_smoothing)
        self._update(self.train_metrics, loss, logits, labels[:mine])
        return loss if factor == 1 else loss * factor

    def _train(self, block: Block) -> Tensor:
        """Take the steps of a block without Lightning, and report them to its counters; return the mean loss."""
        if self._steps is None:
            optimizer: Any = self.optimizers(use_pl_optimizer=False)
            self._steps = Steps(self.net, optimizer, self.recipe.label_smoothing)
        measured = self._steps.train(block)
        for name, mean in measured.items():
            self.train_metrics[name].update(mean.expand(len(block.places)))
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.total.ready += block.last - block.first
        progress.total.completed += block.last - block.first
        if self.trainer.is_last_batch:  # as Lightning: before a checkpoint at the epoch's last step
            scheduler: Any = self.lr_schedulers()
            scheduler.step()
        return measured["loss"]

    @property
    def _metrics(self) -> MetricCollection:
        """The metrics of what runs now; outside of a Trainer those of validation."""
        return self.train_metrics if self._trainer is not None and self._trainer.training else self.val_metrics

    def _share(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> tuple[int, float]:
        """Return how many images of a batch count for this rank, and the factor of their mean loss."""
        trainer: Any = self._trainer
        if trainer is not None and trainer.world_size > 1:
            loader = trainer.train_dataloader if trainer.training else trainer.val_dataloaders
            loader = trainer.test_dataloaders if trainer.testing else loader
            loader = trainer.predict_dataloaders if trainer.predicting else loader
            if hasattr(loader, "share"):  # else not one of our loaders: Lightning divides equally
                mine, whole = loader.share(batch_idx)
                return mine, mine * trainer.world_size / whole
        return len(batch[1]), 1.0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the metrics of validation or test."""
        mine, _ = self._share(batch, batch_idx)
        images, labels = batch
        logits = self(images)[:mine]  # even if none counts, so that all ranks sample the same masks
        if mine:
            self._update(self._metrics, self._loss(logits, labels[:mine]), logits, labels[:mine])

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Map images, or a batch that begins with them, to probabilities `(B, num_classes)`; of a task to outputs."""
        images = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
        images = images[0] if isinstance(images, (tuple, list)) else images
        mine, _ = self._share((images, images), batch_idx)
        outputs: Tensor = self(images)[:mine]
        return outputs if self.task is not None else outputs.float().softmax(-1)

    def _loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if self.task is not None:
            return self.task.loss(outputs, targets)
        # At least float32, as under autocast: bfloat16 has no number between 4.125 and 4.15625.
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def _update(self, metrics: MetricCollection, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        outputs = outputs.detach()
        found = correct(outputs, targets) if self.task is None else (self.task.measure(outputs, targets),)
        metrics["loss"].update(loss.detach().expand(len(targets)))
        for name, values in zip(self.scales, found, strict=True):
            metrics[name].update(values)

    def setup(self, stage: str) -> None:
        """Discard the state of an earlier fit or evaluation, which an exception may have ended."""
        self._steps = None  # its optimizer is stale
        self.val_metrics.prefix = "test_" if stage == "test" else "val_"
        for metrics in (self.train_metrics, self.val_metrics):
            metrics.reset()
        if stage != "fit":
            self._log_config()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Reset the metrics of the epoch before, which a checkpoint at its last step still holds."""
        if batch_idx == 0:
            self.train_metrics.reset()

    def on_train_epoch_end(self) -> None:
        """Log the means of training, validation or test."""
        found = self._metrics.compute()
        for name, scale in self.scales.items():
            if scale != 1:  # rounded to what float32 means can tell
                found[f"{self._metrics.prefix}{name}"] = round(scale * float(found[f"{self._metrics.prefix}{name}"]), 5)
        # compute() has reduced over ranks already; sync_dist avoids Lightning's warning, and the mean changes nothing.
        self.log_dict(found, prog_bar=True, sync_dist=True)
        with torch.inference_mode(False):  # steps outside inference mode could not write to its tensors
            self._metrics.reset()

    on_validation_epoch_end = on_test_epoch_end = on_train_epoch_end

    def on_train_end(self) -> None:
        """Free the memory of CUDA graphs."""
        if self._steps is not None:
            self._steps.forget()
        self._steps = None

    def configure_optimizers(self) -> Any:
        """Optimise the parameters that want a gradient: scores of a hidden net, weights of a dense one."""
        wanted = [p for p in self.net.parameters() if p.requires_grad]
        # On a GPU one kernel for all updates, which a CUDA graph can hold; else torch chooses.
        cuda = self.device.type == "cuda"
        options: dict[str, Any] = {"weight_decay": self.recipe.weight_decay, "fused": True if cuda else None}
        adam = self.optimizer == "adam"
        options |= {"capturable": cuda} if adam else {"momentum": self.recipe.momentum}
        optimizer: Any = (torch.optim.Adam if adam else torch.optim.SGD)(wanted, self.recipe.lr, **options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def lr_factor(self, epoch: int) -> float:
        """Return the factor of the learning rate in `epoch`, counted from 0, as the authors' `utils/schedulers.py`.

        A cosine ends with the Trainer's `max_epochs` or `max_steps`, whichever is first; without either it is refused.
        """
        warmup = self.recipe.warmup_epochs
        if epoch < warmup:
            return (epoch + 1) / warmup
        if self.recipe.schedule == "constant":
            return 1.0
        trainer = self.trainer
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        if trainer.max_steps > 0:  # before training, num_training_batches is infinite
            batches = min(trainer.num_training_batches, trainer.max_steps * trainer.accumulate_grad_batches)
            steps = math.ceil(batches / trainer.accumulate_grad_batches)
            epochs = min(epochs, math.ceil(trainer.max_steps / steps))
        if epochs == math.inf:
            raise ValueError("schedule='cosine' needs an end: give the Trainer max_epochs or max_steps")
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - warmup) / max(1, epochs - warmup))))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the net is about, the random state, and the training metrics summed over all ranks."""
        checkpoint["about"] = self.about
        if self.trainer.world_size > 1:
            for name, metric in self.train_metrics.items(keep_base=True):
                with metric.sync_context():
                    checkpoint["state_dict"] |= metric.state_dict(prefix=f"train_metrics.{name}.")
        checkpoint["rng"] = [torch.get_rng_state()]
        if self.device.type == "cuda":
            checkpoint["rng"].append(torch.cuda.get_rng_state(self.device))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adapt a checkpoint to this device and rank, and keep its random state for `on_train_start`."""
        self._rng = checkpoint.get("rng")
        if self._trainer is None:
            return
        cuda = self.trainer.strategy.root_device.type == "cuda"
        for group in (group for state in checkpoint.get("optimizer_states", []) for group in state["param_groups"]):
            group |= {"lr": float(group["lr"]), "fused": True if cuda else None}
            group |= {"capturable": cuda} if "capturable" in group else {}
        if self.trainer.global_rank > 0:  # rank 0 goes on with the sum over all ranks
            measured = (name for name in checkpoint["state_dict"] if name.startswith("train_metrics."))
            checkpoint["state_dict"] |= {name: torch.zeros_like(checkpoint["state_dict"][name]) for name in measured}

    def on_train_start(self) -> None:
        """Restore the random state of a resumed run, go on at the rate of this fit's own schedule, tell the loggers."""
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if getattr(schedule, "lr_lambdas", None) == [self.lr_factor]:  # not a scheduler of the user's own
                rate = self.recipe.lr * self.lr_factor(schedule.last_epoch)
                schedule.base_lrs, schedule._last_lr = [self.recipe.lr], [rate]
                (group,) = schedule.optimizer.param_groups
                group |= {"initial_lr": self.recipe.lr, "lr": rate}
        if self._rng:
            torch.set_rng_state(self._rng[0].cpu())
            if len(self._rng) > 1 and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._rng[1].cpu(), self.device)
        self._rng = None
        self._log_config()

    def _log_config(self) -> None:
        """Describe the run to its loggers, with the names of a `Run`'s fields and the rates really used."""
        trainer: Any = self.trainer
        data, own = trainer.datamodule, self.hparams
        config = {name: value for name, value in own.items() if name[0] != "_"}  # not the command line's
        config |= {**asdict(self.recipe), "distribution": own.get("distribution"), "method": self.method}
        config |= {"data": getattr(data, "name", type(data).__name__), "data_seed": getattr(data, "seed", None)}
        config |= {name: getattr(data, name, None) for name in ("batch_size", "augment", "held_out", "train_images")}
        for optimizer in trainer.optimizers:  # Lightning's command line may have replaced ours
            used = optimizer.param_groups[0]
            used = {**used, "lr": used.get("initial_lr", used["lr"])}
            config |= {n: float(used[n]) if n in used else None for n in ("lr", "momentum", "weight_decay")}
            config["optimizer"] = type(optimizer).__name__.lower()
            config |= {} if trainer.lr_scheduler_configs else {"schedule": "constant"}
        for logger in trainer.loggers:
            logger.log_hyperparams(config | {"epochs": trainer.max_epochs, "precision": trainer.precision})
