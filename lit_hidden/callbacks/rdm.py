"""Representational dissimilarity matrices: which images each layer tells apart.

Source: Kriegeskorte et al., Representational similarity analysis, Frontiers in Systems Neuroscience 2:4, 2008.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback, balanced, splits
from lit_hidden.edge_popup import weight_layers


class RDM(RunCallback):
    """Compare each layer's outputs for test images, balanced over classes, at the end of a run.

    `rdm.npz` has an array for each layer with weights: 1 - Pearson's correlation of the outputs, before the
    nonlinearity, for each pair of images. It is float32 `(N (N - 1) / 2,)`, in the order of
    `scipy.spatial.distance.squareform`, NaN where all outputs for an image are equal. `NAME.centroids` compares the
    mean outputs of the classes, if there are any, in the same way. `labels` is `(N,)`.

    Args:
        images: number of images N, at least 2; at most the whole test set.
    """

    version = 2
    records = True
    capturable = True

    def __init__(self, images: int = 200) -> None:
        super().__init__()
        if images < 2:
            raise ValueError(f"images={images} cannot be compared with each other; it must be at least 2")
        self.images = images

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the data, which have to be tensors in memory."""
        splits(data)
        self.data = data

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Run the net on the images and write `rdm.npz`."""
        ((pictures, labels),) = balanced(self.data, "test", self.images)
        found: dict[str, np.ndarray] = {"labels": labels.numpy()}
        classes = [labels == label for label in labels.unique()] if labels.ndim == 1 else []

        def compared(answers: Tensor) -> np.ndarray:
            matrix = 1 - torch.corrcoef(answers.double()).numpy()
            return matrix[np.triu_indices(len(matrix), 1)].astype(np.float32)

        def record(name: str, answers: Tensor | tuple[Tensor, ...]) -> None:
            # Attention returns its weights too.
            answers = (answers[0] if isinstance(answers, tuple) else answers).flatten(1)
            found[name] = compared(answers)
            if classes:
                found[f"{name}.centroids"] = compared(torch.stack([answers[of].mean(0) for of in classes]))

        hooks = [
            layer.register_forward_hook(lambda _, __, answers, name=name: record(name, answers))
            for name, (layer, _) in weight_layers(module.net).items()
        ]
        module.eval()(pictures)
        for hook in hooks:
            hook.remove()
        np.savez_compressed(folder / "rdm.npz", **found)  # type: ignore[arg-type]
        return {"rdm_images": len(labels)}
