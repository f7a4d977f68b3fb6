"""Ideas, one a file: what a run does besides its method is a Lightning callback with two more hooks.

A Run names them with their options, `Run(callbacks=(spec("lesion.Lesion", epoch=25),))`; the same classes serve
`lit-hidden fit` and a plain `L.Trainer`. docs/adding.md shows how to write one.
"""

import inspect
from pathlib import Path
from typing import Any, Self

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from lit_hidden.distributions import layer_generator
from lit_hidden.edge_popup import hidden_layers, original_weight, weight_layers


class RunCallback(L.Callback):
    """A Lightning callback that can be named in a Run.

    Options are the arguments of the constructor, written out, their defaults literals: both are read from the source.
    What a later step depends on goes through `state_dict` and `load_state_dict`, so that a killed run ends as one that
    was never stopped. Lightning's `callback_metrics` do not come back on a resume; the rows of `metrics.csv` do.

    Attributes:
        version: raise it when equal options no longer mean equal results, as where a default has changed.
        capturable: whether a run's steps may still be taken many at once, on a GPU from a CUDA graph: nothing happens
            between two steps, and the net's forward pass does the same at each.
        several_devices: whether runs with it may be trained by several processes together.
        records: whether it only looks: the run's own numbers are those without it.
        run_seed: the seed of the run.
    """

    version: int = 1
    capturable: bool = False
    several_devices: bool = False
    records: bool = False
    run_seed: int = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the options."""
        made = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(made, *args, **kwargs)
        given.apply_defaults()
        made._options = dict(list(given.arguments.items())[1:])
        made._in_engine = False
        return made

    _options: dict[str, Any]
    _in_engine: bool

    def __init__(self) -> None:
        super().__init__()

    @property
    def state_key(self) -> str:
        """Tell two of one class apart by their options."""
        return self._generate_state_key(**self._options)

    def generator(self, name: str = "") -> torch.Generator:
        """Give a CPU generator, the only one that a callback may draw from: it follows from the run's seed.

        The same at every call and in every process, whatever the options; another for another class, or `name`.
        """
        return layer_generator(self.run_seed, f"{type(self).__module__}.{type(self).__qualname__}", name)

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Change net or data before training; called again on every resume, before the checkpoint loads.

        Args:
            trainer: of the run.
            module: the LightningModule, with the parent's net where there is one.
            data: the data module, set up; None of a plain Trainer that was given loaders.
            parent: folder of the run before, if there is one.
        """

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return numbers for the result, and write arrays (`NAME.npz`) into `folder`; the engine takes both.

        Several processes all call this; only the numbers and files of the first are kept.
        """
        return {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin, under a Trainer that knows nothing of runs."""
        if stage == "fit" and not self._in_engine:
            self.run_seed = int(pl_module.hparams.get("seed") or 0)
            self.on_run_start(trainer, pl_module, getattr(trainer, "datamodule", None), None)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End, under a Trainer that knows nothing of runs: numbers go to its loggers, arrays beside its logs."""
        if not self._in_engine:
            folder = Path(trainer.log_dir or trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            numbers = self.on_run_end(trainer, pl_module, folder)
            shown = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
            for logger in trainer.loggers:
                logger.log_metrics(shown, trainer.global_step)


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Map the layers of a net to their weights; of hidden layers these are the frozen ones under the masks."""
    hidden = hidden_layers(net)
    return {
        name: original_weight(net, name) if name in hidden else getattr(*place)
        for name, place in weight_layers(net).items()
    }


def splits(data: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Give the inputs and targets of `train`, `val` and `test`, for a callback to read or to change.

    Raises:
        ValueError: the data are not tensors in memory.
    """
    found: dict[str, tuple[Tensor, Tensor]] | None = getattr(data, "splits", None)
    if found is None:
        given = "a Trainer's loaders" if data is None else type(data).__name__
        raise ValueError(f"{given}: the images are not in memory; take an ImageTensorsData, such as CIFAR10Data")
    return found
