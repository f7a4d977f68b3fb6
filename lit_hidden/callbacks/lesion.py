"""Half of the brain removed: a lesion at an age, and what comes back."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback, weights
from lit_hidden.edge_popup import weight_layers

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class Lesion(RunCallback):
    """Cut units or edges of a net at the beginning of an epoch, for good: their weights are 0 and stay 0.

    A unit is an output of a linear layer or a channel of a convolution; those of the last layer are the answer, and
    stay. As many are cut in each layer, drawn from the run's seed: the same lesion at other ages. A lesion at epoch 0
    is there before anything is measured: `run.then(epochs=0, callbacks=(spec("lesion.Lesion", epoch=0),))` gives what a
    trained net loses at once.

    Args:
        epoch: when, from 0.
        of: `units` or `edges`.
        fraction: how many of each layer, in [0, 1].
    """

    def __init__(self, epoch: int, of: str = "units", fraction: float = 0.5) -> None:
        super().__init__()
        if of not in ("units", "edges") or not 0 <= fraction <= 1:
            raise ValueError(f"of={of!r}, fraction={fraction}: units or edges can be cut, a fraction in [0, 1]")
        self.epoch, self.of, self.fraction = epoch, of, fraction

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose what to cut.

        Raises:
            ValueError: that epoch never comes, or dead units would live on.
        """
        last = max(0, (trainer.max_epochs or 0) - 1)
        if trainer.max_epochs != -1 and not 0 <= self.epoch <= last:
            raise ValueError(f"epoch={self.epoch} never begins in a run whose last epoch is {last}, counted from 0")
        norms = [name for name, layer in module.net.named_modules() if isinstance(layer, _NORMS)]
        if self.of == "units" and norms:
            raise ValueError(f"units cannot be cut before {norms[0]}, which gives a dead one an output; cut edges")
        self.alive: list[tuple[Tensor, Tensor]] = []  # weights, and what is left of them
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
            self._cut()

    def on_train_start(self, *_: Any) -> None:
        """Follow the net to its device."""
        self.alive = [(weight, alive.to(weight.device)) for weight, alive in self.alive]

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Cut, before the first batch of that age."""
        if trainer.current_epoch == self.epoch:
            self._cut()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Cut again: momentum goes on for a while."""
        if trainer.current_epoch >= self.epoch:
            self._cut()

    @torch.no_grad()
    def _cut(self) -> None:
        for weight, alive in self.alive:
            weight.mul_(alive.to(weight.device))

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Count the units or edges that were cut."""
        return {"cut": sum(int((alive == 0).sum()) for weight, alive in self.alive if weight.ndim > 1)}
