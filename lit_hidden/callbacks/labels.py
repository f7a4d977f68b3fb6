"""Random labels: how much a net can memorise.

Source: Zhang et al., Understanding deep learning requires rethinking generalization, arXiv:1611.03530, section 2.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from lit_hidden.callbacks import RunCallback, splits


class RandomLabels(RunCallback):
    """Replace labels of training images by random ones, once, before training. Validation and test images keep theirs.

    A random label may be the right one: with C classes, fraction * (1 - 1/C) of the labels are wrong.

    Args:
        fraction: probability that a label is replaced, in [0, 1].
    """

    capturable = several_devices = True

    def __init__(self, fraction: float = 1.0) -> None:
        super().__init__()
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction={fraction} of the images is impossible; it must lie in [0, 1]")
        self.fraction = fraction

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Draw the labels."""
        images, labels = splits(data)["train"]
        if labels.is_floating_point():
            raise ValueError(f"the targets of {data.name} are {labels.dtype}; only classes (int64) can be random")
        random = self.generator()
        chosen = torch.rand(labels.shape, generator=random) < self.fraction
        drawn = torch.randint(data.num_classes, labels.shape, generator=random)
        self.wrong = int((chosen & (drawn != labels.cpu())).sum())
        data.splits["train"] = images, torch.where(chosen, drawn, labels.cpu()).to(labels.device)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return the number of wrong labels."""
        return {"wrong_labels": self.wrong}
