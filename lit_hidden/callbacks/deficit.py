"""A deficit of vision that ends at an age: blurred or upside down images first, clear ones afterwards.

Source: Achille, Rovere and Soatto, Critical Learning Periods in Deep Networks, arXiv:1711.08856, section 2.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.callbacks import RunCallback, splits


class Deficit(RunCallback):
    """Show spoiled training images until an epoch begins, and the clear ones from then on. Test images are clear.

    Args:
        until: the first epoch with clear images, counted from 0; the number of epochs if there is none.
        kind: `blur`, or `flip`: upside down.
        size: to so many pixels, height and width, images are blurred: means of equal blocks, enlarged bilinearly.
    """

    capturable = True

    def __init__(self, until: int, kind: str = "blur", size: int = 8) -> None:
        super().__init__()
        if kind not in ("blur", "flip"):
            raise ValueError(f"kind={kind!r} is unknown; a deficit is blur or flip")
        self.until, self.kind, self.size = until, kind, size

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Make the spoiled images.

        Raises:
            ValueError: the epoch lies outside of the training, or blocks of pixels cannot be equal.
        """
        self.clear, last = splits(data)["train"][0], trainer.max_epochs or 0
        if self.until < 0 or -1 != last < self.until:
            raise ValueError(f"until={self.until} lies outside of a run of {last} epochs; it is 0 to {last}")
        sizes = self.clear.shape[-2:]
        if self.kind == "blur" and (self.size < 1 or any(pixels % self.size for pixels in sizes)):
            raise ValueError(f"size={self.size} does not divide images of {sizes[0]} x {sizes[1]} pixels into blocks")
        self.spoiled = self.clear.flip(-2) if self.kind == "flip" else blurred(self.clear, self.size)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images of an epoch; a run that is stopped in the middle of one goes on here."""
        loader: Any = trainer.train_dataloader  # made once, so that it does not see `data.splits` change
        shown = self.spoiled if trainer.current_epoch < self.until else self.clear
        loader.images = shown.to(loader.images.device)

    on_train_epoch_start = on_train_start


def blurred(images: Tensor, size: int) -> Tensor:
    """Shrink images, uint8 `(N, C, H, W)`, to `size` x `size` means of blocks, and enlarge them bilinearly again."""
    found = []
    for first in range(0, len(images), 4096):
        small = F.interpolate(images[first : first + 4096].float(), (size, size), mode="area")
        found.append(F.interpolate(small, images.shape[-2:], mode="bilinear").round().to(torch.uint8))
    return torch.cat(found)
