"""Iterative magnitude pruning with rewinding: lottery tickets, a run after the other.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 1.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from lit_hidden.callbacks import RunCallback, weights
from lit_hidden.edge_popup import check_density
from lit_hidden.selection import kept, top_k_mask


class Prune(RunCallback):
    """Keep the largest weights of the dense run before, take them back to their start, and train them.

    A chain of such runs, of falling density, prunes step by step: what was pruned before is 0, and stays pruned.
    `run.then(callbacks=(spec("rewind.Prune", density=0.8),))` and so on. The first and the last layer too. All else
    (biases, norm layers, embeddings) goes back to its start as well.

    Args:
        density: fraction of each layer's weights kept, in (0, 1].
    """

    def __init__(self, density: float) -> None:
        super().__init__()
        self.density = density

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose the weights, and rewind them.

        Raises:
            ValueError: there is no dense run before, or it has fewer weights left.
        """
        if parent is None or module.method != "dense":
            raise ValueError("nothing to prune: this is for a dense run after another, dense_run.then(callbacks=...)")
        self.pruned = []
        for name, weight in weights(module.net).items():
            check_density(self.density, weight.numel())
            keep, there = kept(weight.numel(), self.density), int(weight.count_nonzero())
            if keep > there:
                raise ValueError(f"density={self.density} keeps {keep} weights of {name}; the run before left {there}")
            self.pruned.append((weight, top_k_mask(weight.detach(), keep)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)  # what a net of one's own draws for itself, as the engine does
            start = type(module)(**module.hparams)
        module.net.load_state_dict(start.net.state_dict())
        self._prune()

    def on_train_start(self, *_: Any) -> None:
        """Follow the net to its device."""
        self.pruned = [(weight, mask.to(weight.device)) for weight, mask in self.pruned]

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
