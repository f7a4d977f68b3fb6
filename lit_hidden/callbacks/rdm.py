"""Representational dissimilarity: which images each layer tells apart.

Source: Kriegeskorte et al., Representational similarity analysis, Frontiers in Systems Neuroscience 2:4, 2008.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback, splits
from lit_hidden.data import BatchLoader
from lit_hidden.data.tensors import balanced_order
from lit_hidden.edge_popup import weight_layers


class RDM(RunCallback):
    """Compare what each layer answers to some test images, as many of each class as can be, at a run's end.

    `rdm.npz` has of each layer with weights, by its name, 1 - Pearson's correlation of the answers to two images, taken
    before the nonlinearity: float32 `(N (N - 1) / 2,)`, the upper triangle row by row as
    `scipy.spatial.distance.squareform` has it, NaN where all answers to an image are alike; and `labels (N,)`.

    Args:
        images: how many; all there are, if these are fewer.
    """

    records = True
    capturable = True

    def __init__(self, images: int = 200) -> None:
        super().__init__()
        if images < 2:
            raise ValueError(f"images={images} cannot be compared with each other; it must be at least 2")
        self.images = images

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Know the images."""
        splits(data)
        self.data = data

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Show the images, and write `rdm.npz`."""
        pictures, labels = self.data.splits["test"]
        chosen = balanced_order(labels.cpu())[: self.images].to(labels.device)
        pictures, labels = pictures[chosen], labels[chosen]
        ((pictures, _),) = BatchLoader(pictures, labels, len(labels), self.data.mean, self.data.std)
        found: dict[str, np.ndarray] = {"labels": labels.cpu().numpy()}
        upper = np.triu_indices(len(labels), 1)

        def record(name: str, answers: Tensor | tuple[Tensor, ...]) -> None:
            answers = answers[0] if isinstance(answers, tuple) else answers  # attention gives its weights too
            found[name] = (1 - torch.corrcoef(answers.flatten(1).double()).cpu().numpy())[upper].astype(np.float32)

        hooks = [
            layer.register_forward_hook(lambda _, __, answers, name=name: record(name, answers))
            for name, (layer, _) in weight_layers(module.net).items()
        ]
        module.eval()(pictures.to(module.device))
        for hook in hooks:
            hook.remove()
        np.savez_compressed(folder / "rdm.npz", **found)  # type: ignore[arg-type]
        return {"rdm_images": len(labels)}
