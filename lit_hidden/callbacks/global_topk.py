"""Global top-k: edge-popup that ranks the scores of the whole net at once.

Source: Diffenderfer et al., A Winning Hand, arXiv:2106.09129, appendix C; whether scores are scaled is ours.
"""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback
from lit_hidden.edge_popup import EdgePopup, Hiding, maskers
from lit_hidden.selection import kept, top_k_mask


class GlobalPopup(EdgePopup):
    """Edge-popup with as many weights in a layer as `GlobalTopK` gives it; its state has their number, `keep`."""

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        self.fan_in = weight[0].numel()  # the scores may be laid out otherwise, as transformers' Conv1D is

    def get_extra_state(self) -> Tensor:
        """Put `keep` into checkpoints and files."""
        return torch.tensor(self.keep)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it from there."""
        self.keep = int(state)


class GlobalTopK(RunCallback):
    """Keep the scores largest in magnitude of the whole net, not of each layer; for `GlobalPopup`.

    Args:
        scaled: compare |s| times sqrt(fan in). All layers then start with the same share; without it, wide layers begin
            almost empty, since scores begin as U(+-1/sqrt(fan in)).
    """

    def __init__(self, scaled: bool = True) -> None:
        super().__init__()
        self.scaled = scaled

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Rank the first scores; ValueError: the net has other maskers."""
        found = maskers(module.net).values()
        if not found or not all(isinstance(one, GlobalPopup) for one in found):
            raise ValueError("the layers of this net choose alone; take masker='global_topk.GlobalPopup'")
        self.density = Hiding.of(module.net).arguments["density"]
        self.on_train_batch_end(trainer, module)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Rank all scores and tell each layer how many of its own stay."""
        found: list[Any] = list(maskers(pl_module.net).values())
        factors = [math.sqrt(one.fan_in) if self.scaled else 1.0 for one in found]
        ranked = torch.cat([one.scores.flatten().abs() * f for one, f in zip(found, factors, strict=True)])
        chosen, start = top_k_mask(ranked, kept(ranked.numel(), self.density)), 0
        for one in found:
            end = start + one.scores.numel()
            one.keep, start = int(chosen[start:end].sum()), end
