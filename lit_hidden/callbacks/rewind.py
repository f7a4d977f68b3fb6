"""Iterative magnitude pruning with rewinding: lottery tickets, a run after the other.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 1.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from lit_hidden.callbacks import RunCallback
from lit_hidden.edge_popup import check_density, weight_layers
from lit_hidden.nets import initialise
from lit_hidden.selection import kept, top_k_mask


class Prune(RunCallback):
    """Keep the largest weights of the dense run before, take them back to their start, and train them.

    What was pruned before is 0 and the first to go again, so a chain of such runs, of falling density, prunes step by
    step: `run.then(callbacks=(spec("rewind.Prune", density=0.8),))` and so on. The first and the last layer too.

    Args:
        density: fraction of each layer's weights kept, in (0, 1].
    """

    def __init__(self, density: float) -> None:
        super().__init__()
        self.density = density

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose the weights, and rewind them."""
        if parent is None or module.method != "dense":
            raise ValueError("nothing to prune: this is for a dense run after another, dense_run.then(callbacks=...)")
        layers = {name: getattr(*place) for name, place in weight_layers(module.net).items()}
        self.pruned = []
        for name, weight in layers.items():
            check_density(self.density, weight.numel())
            mask = top_k_mask(weight.detach(), kept(weight.numel(), self.density))
            self.pruned.append((layers[name], mask))
        initialise(module.net, module.hparams["seed"], module.hparams["distribution"])
        for layer in module.net.modules():
            if hasattr(layer, "running_mean"):
                layer.reset_parameters()
        self._prune()

    def on_train_batch_end(self, *_: Any) -> None:
        """Hold what is pruned at 0."""
        self._prune()

    @torch.no_grad()
    def _prune(self) -> None:
        for weight, mask in self.pruned:
            weight.mul_(mask.to(weight.device))

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Count the weights that are left."""
        return {"left": sum(int(mask.sum()) for _, mask in self.pruned)}
