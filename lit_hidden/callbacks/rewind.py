"""Iterative magnitude pruning with rewinding: lottery tickets, found by a chain of runs.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 1.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback, weights, zero
from lit_hidden.selection import kept, top_k_mask


class Prune(RunCallback):
    """Keep the largest weights of the dense parent run, rewind them to their initial values, and train them.

    Each run of a chain, `run.then(callbacks=(spec("rewind.Prune", density=0.8),))` and so on, prunes further; weights
    that were pruned before are 0 and stay 0. Every layer is pruned, the first and the last too. All other parameters
    (biases, norm layers, embeddings) are rewound as well.

    Args:
        density: fraction of each layer's weights kept, in (0, 1].
    """

    def __init__(self, density: float) -> None:
        super().__init__()
        self.density = density

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose the weights and rewind them.

        Raises:
            ValueError: there is no dense parent run, or it has fewer weights left.
        """
        if parent is None or module.method != "dense":
            raise ValueError("nothing to prune: a dense parent run is needed; use dense_run.then(callbacks=...)")
        self.pruned: list[tuple[Tensor, Tensor]] = []  # weights and their masks
        for name, weight in weights(module.net).items():
            keep, there = kept(weight.numel(), self.density), int(weight.count_nonzero())
            if keep > there:
                raise ValueError(f"density={self.density} keeps {keep} weights of {name}; its parent run left {there}")
            self.pruned.append((weight, top_k_mask(weight.detach(), keep)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)  # as in the engine, for nets that draw something themselves
            start = type(module)(**module.hparams)
        module.net.load_state_dict(start.net.state_dict())
        zero(self.pruned)

    def on_train_batch_end(self, *_: Any) -> None:
        """Keep pruned weights at 0."""
        zero(self.pruned)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return the number of weights that are left."""
        return {"left": sum(int(mask.sum()) for _, mask in self.pruned)}
