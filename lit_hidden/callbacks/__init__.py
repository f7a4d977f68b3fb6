"""Ideas, one a file: what a run does besides its method. docs/adding.md shows how to write one."""

import inspect
from pathlib import Path
from typing import Any, Self

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden import code
from lit_hidden.code import Spec
from lit_hidden.data import BatchLoader
from lit_hidden.data.tensors import balanced_order
from lit_hidden.distributions import layer_generator
from lit_hidden.edge_popup import hidden_layers, original_weight, weight_layers
from lit_hidden.run import Run


class RunCallback(L.Callback):
    """A Lightning callback that a Run can name, with two more hooks. It works in any `L.Trainer` too.

    Options are the constructor's arguments; they are read from the source, so defaults have to be literals. State that
    a later step needs goes through `state_dict` and `load_state_dict`, so that a killed run ends like one that was
    never stopped.
    """

    version: int = 1  # raise it when equal options no longer mean equal results, such as after a change of a default
    # Whether many steps may run at once: nothing happens between two steps, and the forward pass is the same in each.
    capturable: bool = False
    several_devices: bool = False  # whether several processes may train one run with it
    records: bool = False  # whether it only measures: the run's own numbers are those of the run without it
    run_seed: int = 0
    _in_engine: bool = False
    _options: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the options for `state_key`."""
        made = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(made, *args, **kwargs)
        given.apply_defaults()
        made._options = dict(list(given.arguments.items())[1:])
        return made

    def __init__(self) -> None:
        super().__init__()

    @property
    def state_key(self) -> str:
        """A name that contains the options: Lightning refuses two callbacks of one name."""
        return self._generate_state_key(**self._options)

    def generator(self, name: str = "") -> torch.Generator:
        """Return the CPU generator to draw from, seeded by the run's seed, the class and `name`."""
        return layer_generator(self.run_seed, f"{type(self).__module__}.{type(self).__qualname__}", name)

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Change net or data before training; on a resume this is called again, before the checkpoint loads.

        Args:
            trainer: the run's Trainer.
            module: the LightningModule, with the net of the parent run if there is one.
            data: the data module, set up; None if a plain Trainer was given loaders.
            parent: folder of the parent run, if there is one.
        """

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return numbers for the result, and write `NAME.npz` into `folder`; those of the first process are kept.

        The net is back on the CPU by now, where the data are.
        """
        return {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Call `on_run_start` in a plain Trainer."""
        if stage == "fit" and not self._in_engine:
            self.run_seed = int(pl_module.hparams.get("seed") or 0)
            self.on_run_start(trainer, pl_module, getattr(trainer, "datamodule", None), None)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Call `on_run_end` in a plain Trainer: numbers go to its loggers, arrays into its log folder."""
        if not self._in_engine:
            folder = Path(trainer.log_dir or trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            numbers = self.on_run_end(trainer, pl_module, folder)
            shown = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
            for logger in trainer.loggers:
                logger.log_metrics(shown, trainer.global_step)


def named(spec: Spec) -> type[RunCallback]:
    """Import the class that a run names."""
    found: type[RunCallback] = code.load(spec.class_path)
    if found.version != spec.version:
        raise ValueError(f"{spec.class_path} has version {found.version} here; the run asks for version {spec.version}")
    return found


def made(run: Run) -> list[RunCallback]:
    """Make the callbacks of a run."""
    found = []
    for one in run.callbacks:
        kind = named(one)
        takes = inspect.signature(kind.__init__).parameters
        # A run keeps 2.0 as 2.
        real = {n for n, p in takes.items() if p.annotation in (float, "float") or isinstance(p.default, float)}
        callback = kind(**{n: float(v) if n in real and v is not None else v for n, v in one.options})
        callback.run_seed, callback._in_engine = run.seed, True
        found.append(callback)
    return found


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Map the layers of a net to their weights; the weight of a hidden layer is the frozen one under the mask."""
    hidden = hidden_layers(net)
    return {
        name: original_weight(net, name) if name in hidden else getattr(*place)
        for name, place in weight_layers(net).items()
    }


def splits(data: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the inputs and targets of `train`, `val` and `test`, on the CPU; a callback may change the dictionary.

    Raises:
        ValueError: the data are not tensors in memory.
    """
    found: dict[str, tuple[Tensor, Tensor]] | None = getattr(data, "splits", None)
    if found is None:
        given = "a Trainer's loaders" if data is None else type(data).__name__
        raise ValueError(f"{given}: the images are not in memory; take an ImageTensorsData, such as CIFAR10Data")
    return found


def balanced(data: Any, split: str, images: int, batch_size: int | None = None) -> BatchLoader:
    """Load so many images of a split, as many of each class as possible: in one batch, or several."""
    pictures, labels = splits(data)[split]
    chosen = balanced_order(labels)[:images]
    return BatchLoader(pictures[chosen], labels[chosen], batch_size or len(chosen), data.mean, data.std)


def sources(net: nn.Module) -> dict[str, Tensor]:
    """Map each layer behind the first to the units `(in,)`, of the layer before, that its inputs come from.

    A unit is an output of a linear layer or a channel of a convolution; where a channel is flattened, all its positions
    are that unit.

    Raises:
        ValueError: the layers do not come one after another, so that an input may come from several units.
    """
    found, before = dict[str, Tensor](), 0
    for name, weight in weights(net).items():
        if not isinstance(net, nn.Sequential) or (before and weight.shape[1] % before):
            raise ValueError(f"{name} has no layer before it that all its inputs come from: take an nn.Sequential")
        if before:
            found[name] = torch.arange(weight.shape[1]) // (weight.shape[1] // before)
        before = len(weight)
    return found


@torch.no_grad()
def evaluated(module: Any, data: Any, split: str) -> tuple[float, float]:
    """Return a classifier's mean loss and its accuracy, in percent, on all images of a split."""
    training = module.training
    module.eval()
    images, labels = (part.to(module.device) for part in splits(data)[split])
    batches = BatchLoader(images, labels, 1000, data.mean, data.std)
    found = [(F.cross_entropy(z := module(x), y, reduction="sum"), (z.argmax(1) == y).sum()) for x, y in batches]
    loss, right = torch.tensor(found, dtype=torch.float64).sum(0) / len(labels)
    module.train(training)
    return loss.item(), 100 * right.item()


def angle(one: Tensor, other: Tensor | None) -> float:
    """Return the angle between two gradients, in degrees; NaN where one of them is nothing."""
    if other is None or not other.any() or not one.any():
        return float("nan")
    cosine = F.cosine_similarity(one.flatten().double(), other.flatten().double(), 0).clamp(-1, 1)
    return float(cosine.arccos().rad2deg())


@torch.no_grad()
def zero(held: list[tuple[Tensor, Tensor]]) -> None:
    """Set weights to 0 where their masks are; a mask follows its weight to its device."""
    for n, (weight, mask) in enumerate(held):
        held[n] = weight, mask.to(weight.device)
        weight.mul_(held[n][1])
