"""Lesions: half of the units removed at some age, and how much the net recovers."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback, weights, zero
from lit_hidden.edge_popup import weight_layers

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class Lesion(RunCallback):
    """Cut units or edges of a net at the start of an epoch, for good: their weights become 0 and stay 0.

    A unit is an output of a linear layer or a channel of a convolution; the last layer keeps all its units. Each layer
    loses the same fraction, drawn from the run's seed, so lesions at different epochs cut the same. A lesion at epoch 0
    precedes all measurements: `run.then(epochs=0, callbacks=(spec("lesion.Lesion", epoch=0),))` measures the immediate
    loss of a trained net.

    Args:
        epoch: counted from 0.
        of: `units` or `edges`.
        fraction: of each layer, in [0, 1].
    """

    def __init__(self, epoch: int, of: str = "units", fraction: float = 0.5) -> None:
        super().__init__()
        if of not in ("units", "edges") or not 0 <= fraction <= 1:
            raise ValueError(f"of={of!r}, fraction={fraction}: give of='units' or 'edges', a fraction in [0, 1]")
        self.epoch, self.of, self.fraction = epoch, of, fraction

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose the units or edges.

        Raises:
            ValueError: the epoch never comes, or dead units would still have an output.
        """
        last = max(0, (trainer.max_epochs or 0) - 1)
        if trainer.max_epochs != -1 and not 0 <= self.epoch <= last:
            raise ValueError(f"epoch={self.epoch} never begins in a run whose last epoch is {last}, counted from 0")
        norms = [name for name, layer in module.net.named_modules() if isinstance(layer, _NORMS)]
        if self.of == "units" and norms:
            raise ValueError(f"the norm layer '{norms[0]}' gives dead units an output; cut edges instead of units")
        self.alive: list[tuple[Tensor, Tensor]] = []  # weights, and 0 where they are cut
        layers = list(weights(module.net).items())
        for name, weight in layers[: -1 if self.of == "units" else None]:
            shape = (len(weight), *[1] * (weight.ndim - 1)) if self.of == "units" else weight.shape
            alive = torch.ones(shape)
            dead = torch.randperm(alive.numel(), generator=self.generator(name))
            alive.view(-1)[dead[: round(self.fraction * alive.numel())]] = 0
            self.alive.append((weight, alive))
            bias = getattr(weight_layers(module.net)[name][0], "bias", None)
            if self.of == "units" and bias is not None:
                self.alive.append((bias, alive.view(-1)))
        if self.epoch == 0:
            zero(self.alive)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Cut before the first batch of the epoch."""
        if trainer.current_epoch == self.epoch:
            zero(self.alive)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Cut again: momentum still moves the dead weights."""
        if trainer.current_epoch >= self.epoch:
            zero(self.alive)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return the number of units or edges that were cut."""
        return {"cut": sum(int((alive == 0).sum()) for weight, alive in self.alive if weight.ndim > 1)}
