"""Margins: how surely a net decides on each test image."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch

from lit_hidden.callbacks import RunCallback, balanced, splits


class Margins(RunCallback):
    """Leave `margins.npz` at the end of a run: `margin` float32 `(N,)`, of test images balanced over classes.

    A margin is the logit of the true class less the largest of the others: above 0 the decision is right.

    Args:
        images: number of images N; at most the whole test set.
    """

    records = True
    capturable = True

    def __init__(self, images: int = 1000) -> None:
        super().__init__()
        if images < 1:
            raise ValueError(f"images={images} is impossible; it must be at least 1")
        self.images = images

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the data, which have to be tensors in memory."""
        splits(data)
        self.data = data

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Run the net on the images."""
        module.eval()
        found = []
        for pictures, truth in balanced(self.data, "test", self.images, 1000):
            logits = module(pictures).float()
            right = logits.gather(1, truth[:, None])
            found.append(right[:, 0] - logits.scatter(1, truth[:, None], -torch.inf).amax(1))
        np.savez(folder / "margins.npz", margin=torch.cat(found).numpy())
        return {}
