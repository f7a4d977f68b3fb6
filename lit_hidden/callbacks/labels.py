"""Random labels and spoiled pixels: how much a net can memorise.

Source: Zhang et al., Understanding deep learning requires rethinking generalization, arXiv:1611.03530, section 2.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback, splits
from lit_hidden.data import BatchLoader

FITTED = 0.95  # of the training images


class RandomLabels(RunCallback):
    """Replace labels and pixels of training images once, before training, and measure how well they are learned.

    Test images keep their labels. `fit` is the percentage of training images that get the label they were trained on,
    in eval mode after the last step; `fit_replaced` and `fit_kept` are those of images with a drawn and with a true
    label. `epochs_to_fit` is the first epoch whose running training accuracy is 95%, or else the last. Test accuracy at
    chance is no failure of such a run, unless labels and pixels are as they were.

    Args:
        fraction: which part of the labels is drawn anew, in [0, 1]: of N images `round(fraction * N)`. With C classes a
            C-th of these get their true label again.
        pixels: `kept`; `shuffled`, by one permutation, of all images, test images too; `random`, each image by its own;
            `gaussian`, drawn with the mean and the standard deviation of all training pixels, and cut to 0 to 255.
    """

    version = 4
    capturable = several_devices = True

    def __init__(self, fraction: float = 1.0, pixels: str = "kept") -> None:
        super().__init__()
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction={fraction} of the images is impossible; it must lie in [0, 1]")
        if pixels not in ("kept", "shuffled", "random", "gaussian"):
            raise ValueError(f"pixels={pixels!r} is unknown; it is kept, shuffled, random or gaussian")
        self.fraction, self.pixels = fraction, pixels
        self.fitted: int | None = None  # the epoch

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Draw the labels and the pixels.

        Raises:
            ValueError: the targets are no classes.
        """
        images, labels = splits(data)["train"]
        if labels.is_floating_point():
            raise ValueError(f"the targets of {data.name} are {labels.dtype}; only classes (int64) can be random")
        random = self.generator()
        self.replaced = torch.randperm(labels.numel(), generator=random)[: round(self.fraction * labels.numel())]
        drawn = labels.clone()
        drawn.view(-1)[self.replaced] = torch.randint(data.num_classes, self.replaced.shape, generator=random)
        self.wrong = int((drawn != labels).sum())
        data.splits["train"] = images, drawn
        self.data, train = data, images
        if self.pixels != "kept":
            for split, (images, labels) in data.splits.items():
                data.splits[split] = self._spoiled(images, train, split), labels

    def _spoiled(self, images: Tensor, train: Tensor, split: str) -> Tensor:
        """Return the images of a split with other pixels; the channels of a pixel stay together."""
        flat, random = images.flatten(2), self.generator(split)
        if self.pixels == "shuffled":
            return flat[..., torch.randperm(flat.shape[2], generator=self.generator("shuffled"))].view_as(images)
        if self.pixels == "random":
            order = torch.rand(len(flat), 1, flat.shape[2], generator=random).argsort(-1)
            return flat.gather(2, order.expand_as(flat)).view_as(images)
        mean, std = train.float().mean(), train.float().std()
        return (mean + std * torch.randn(images.shape, generator=random)).round().clamp(0, 255).to(images.dtype)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Look whether the labels are fitted."""
        known = "top1" in pl_module.scales and self.fitted is None
        if known and float(pl_module.train_metrics["top1"].compute()) >= FITTED:
            self.fitted = trainer.current_epoch + 1

    def state_dict(self) -> dict[str, Any]:
        """Put the epoch into checkpoints."""
        return {"fitted": self.fitted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        self.fitted = state_dict["fitted"]

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return the fit and the number of wrong labels."""
        module.eval()
        images, labels = self.data.splits["train"]
        batches = BatchLoader(images, labels, 1000, self.data.mean, self.data.std)
        right = torch.cat([(module(x).argmax(-1) == y).flatten() for x, y in batches])
        drawn = torch.zeros(len(right), dtype=torch.bool)
        drawn[self.replaced] = True
        parts = {"fit": right, "fit_replaced": right[drawn], "fit_kept": right[~drawn]}
        found: dict[str, Any] = {name: 100 * part.double().mean().item() for name, part in parts.items() if len(part)}
        found |= {"epochs_to_fit": self.fitted or trainer.max_epochs, "wrong_labels": self.wrong}
        return found if self.wrong == 0 and self.pixels == "kept" else found | {"fails_below": 0.0}
