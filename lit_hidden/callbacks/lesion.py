"""Half of the brain removed: a lesion at an age, and what comes back."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback
from lit_hidden.edge_popup import maskers, original_weight, weight_layers


class Lesion(RunCallback):
    """Cut units or edges of a net at the beginning of an epoch, for good: their weights are 0 and stay 0.

    A unit is an output of a linear layer or a channel of a convolution; those of the last layer are the answer, and
    stay. As many are cut in each layer, drawn from the run's seed: the same lesion at other ages.

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
        self.alive: list[tuple[Tensor, Tensor]] = []  # weights, and what is left of them

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Refuse a net whose dead units would live on."""
        norms = [name for name, layer in module.net.named_modules() if hasattr(layer, "running_mean")]
        if self.of == "units" and norms:
            raise ValueError(f"units cannot be cut before {norms[0]}, which gives a dead one an output; cut edges")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Cut, at the first batch of that age or, when a run is resumed, of an older one."""
        if trainer.current_epoch < self.epoch or self.alive:
            return
        layers = list(weight_layers(pl_module.net).items())
        for name, (layer, attribute) in layers[: -1 if self.of == "units" else None]:
            weight = original_weight(pl_module.net, name) if maskers(pl_module.net) else getattr(layer, attribute)
            count = len(weight) if self.of == "units" else weight.numel()
            dead = torch.randperm(count, generator=self.generator(name))[: round(self.fraction * count)]
            alive = torch.ones(count).index_fill(0, dead, 0).to(weight.device)
            shape = (-1, *[1] * (weight.ndim - 1)) if self.of == "units" else weight.shape
            self.alive.append((weight, alive.view(shape)))
            bias = getattr(layer, "bias", None)
            if self.of == "units" and isinstance(bias, nn.Parameter):
                self.alive.append((bias, alive))
        self._cut()

    def on_train_batch_end(self, *_: Any) -> None:
        """Cut again: momentum goes on for a while."""
        self._cut()

    @torch.no_grad()
    def _cut(self) -> None:
        for weight, alive in self.alive:
            weight.mul_(alive)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Count the units or edges that were cut."""
        return {"cut": sum(int((alive == 0).sum()) for weight, alive in self.alive if weight.ndim > 1)}
