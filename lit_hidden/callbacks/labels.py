"""Random labels: how much a net can learn by heart.

Source: Zhang et al., Understanding deep learning requires rethinking generalization, arXiv:1611.03530, section 2.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from lit_hidden.callbacks import RunCallback, splits


class RandomLabels(RunCallback):
    """Give some training images a label drawn at random, once and for good; it may be the right one.

    So of C classes, fraction * (1 - 1/C) of the labels are wrong. Images that are held out or tested keep theirs.

    Args:
        fraction: how likely an image is to get such a label, in [0, 1].
    """

    capturable = several_devices = True

    def __init__(self, fraction: float = 1.0) -> None:
        super().__init__()
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction={fraction} is no share of the images; it must lie in [0, 1]")
        self.fraction = fraction

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Draw the labels."""
        images, labels = splits(data)["train"]
        if labels.is_floating_point():
            raise ValueError(f"the targets of {data.name} are {labels.dtype}: random labels are for classes, int64")
        random = self.generator()
        chosen = torch.rand(labels.shape, generator=random) < self.fraction
        drawn = torch.randint(data.num_classes, labels.shape, generator=random)
        self.wrong = int((chosen & (drawn != labels.cpu())).sum())
        data.splits["train"] = images, torch.where(chosen, drawn, labels.cpu()).to(labels.device)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Count the labels that are wrong."""
        return {"wrong_labels": self.wrong}
