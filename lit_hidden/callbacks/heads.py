"""A look at the heads of a transformer: those that look at the previous character, and those that copy.

Source: Olsson et al., In-context Learning and Induction Heads, arXiv:2209.11895, 2022; the measures are ours.
"""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.callbacks import RunCallback, splits
from lit_hidden.callbacks.transformer import Transformer


class Heads(RunCallback):
    """Look for heads that do what attention is for, before training and after it.

    `previous` is the attention to the character before, in percent, averaged over test windows and places, of the head
    that has most; `copying`, in a random sequence given twice, that to the character after the earlier occurrence;
    `copied` the bits by which the second copy costs less than the same characters at the same places after another
    random sequence: a net may learn that random text is random, which is not copying. `untrained_previous` and so on
    are those before training. `heads.npz` has `previous`, `copying` and their `untrained_` of all heads,
    `(layers, heads)`.

    Args:
        windows: of the test set; and random sequences.
    """

    records = True

    def __init__(self, windows: int = 64) -> None:
        super().__init__()
        self.windows = windows

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Look at the untrained net; ValueError: it has no heads."""
        if not isinstance(module.net, Transformer):
            raise ValueError(f"{type(module.net).__name__} has no heads to look at; take net='transformer.layers_2'")
        self.read = splits(data)["test"][0][: self.windows]
        symbols, (count, length) = torch.unique(self.read), self.read.shape
        chosen = torch.randint(len(symbols), (2, count, length // 2), generator=self.generator("twice"))
        first, other = symbols[chosen]
        self.twice, self.once = torch.cat([first, first], 1), torch.cat([other, first], 1)
        self.untrained = self._looked(module)

    @torch.no_grad()
    def _looked(self, module: Any) -> dict[str, Any]:
        training, half = module.training, self.twice.shape[1] // 2
        module.eval()
        read, twice = list[Tensor](), list[Tensor]()
        module.net(self.read, read)
        after_own, after_other = (  # nats of the second half but its first character
            F.cross_entropy(logits[:, half:-1].mT, self.twice[:, half + 1 :]).item()
            for logits in (module.net(self.twice, twice), module.net(self.once))
        )
        module.train(training)
        before = torch.stack([maps.diagonal(-1, 2, 3).mean((0, 2)) for maps in read])
        # From place half + t to place t + 1.
        after = torch.stack([maps.diagonal(1 - half, 2, 3)[..., 1:].mean((0, 2)) for maps in twice])
        copied = (after_other - after_own) / math.log(2)
        return {"previous": 100 * before.numpy(), "copying": 100 * after.numpy(), "copied": copied}

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Look again and write `heads.npz`."""
        found = {f"untrained_{name}": value for name, value in self.untrained.items()} | self._looked(module)
        np.savez(folder / "heads.npz", **found)
        return {name: float(np.max(value)) for name, value in found.items()}
