"""IteRand: edge-popup in a net whose dropped weights are drawn anew from time to time.

Source: Chijiwa et al., arXiv:2106.09269, algorithm 1; the authors' code, dchiji-ntt/iterand, `commands/train.py`. They
rank s; here |s| is ranked, as in edge-popup.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from lit_hidden import uses
from lit_hidden.callbacks import RunCallback
from lit_hidden.edge_popup import Hiding, maskers, original_weight


class IteRand(RunCallback):
    """Before every `every`-th update draw some of the weights anew that are dropped then; their scores stay.

    Args:
        every: updates; the paper's K_per, 300 on CIFAR-10.
        rate: probability of a dropped weight to be drawn anew.
    """

    def __init__(self, every: int = 300, rate: float = 0.1) -> None:
        super().__init__()
        if every < 1 or not 0 <= rate <= 1:
            raise ValueError(f"every={every}, rate={rate}: these must be at least 1, and in [0, 1]")
        self.every, self.rate = every, rate

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Note how weights are drawn; ValueError: the net is not hidden, or came with its weights."""
        self.given = Hiding.of(module.net).arguments
        if self.given["distribution"] is None:
            raise ValueError("distribution=None: these weights were not drawn, and cannot be drawn anew")

    @torch.no_grad()
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Draw anew."""
        if (trainer.global_step + 1) % self.every:
            return
        for name, masker in maskers(pl_module.net).items():
            weight = original_weight(pl_module.net, name)
            generator = self.generator(f"{trainer.global_step + 1} {name}")
            role = self.given.get("roles", {}).get(name, "o" + "i" * (weight.ndim - 1))
            how = (self.given[key] for key in ("density", "scaled"))
            fresh = uses.drawn(weight, role, self.given["distribution"], generator, *how).to(weight)
            chosen = torch.rand(weight.shape, generator=generator).to(weight.device) < self.rate
            weight.copy_(torch.where(chosen & ~masker.mask(), fresh, weight))
