"""The base of all data modules: their arguments, the held-out images, and which images a loader yields."""

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_hidden.data.loader import EpochLoader


class ImageData(L.LightningDataModule):
    """Batches of normalised images `(B, C, H, W)` and labels `(B,)`.

    Validation is on held-out training images. Which these are, and which of the others are used, follows from their
    order in the files alone, for every seed alike; they are as many of each class as possible. With `held_out=0`
    validation is on the test set, as the authors do, and callbacks and schedulers that monitor `val/...` are refused.

    Args:
        root: folder of the data; None is DATA_DIR, or else `data`.
        batch_size: images in a batch, over all devices together.
        seed: seed of the order of the images and of their augmentation; any integer.
        augment: crop and flip training images at random, as the set's class says; None is the authors' way. `square`
            is for ImageNet and its subsets: see `ImageNetData`.
        held_out: number of training images set aside for validation: never trained on, never augmented; None is a
            tenth of them, rounded up.
        train_images: number of training images used; None is all that are not held out.

    Raises:
        ValueError: a number is out of bounds; or, when a fit begins, something would be selected on the test set.
        DataError: the files are missing or damaged, or cannot be downloaded.
    """

    name: str
    shape: tuple[int, int, int]  # channels, height, width
    num_classes: int
    sizes: tuple[int, int]  # training and test images
    mean: ClassVar[tuple[float, ...]]  # of each channel, for pixels in [0, 1]
    std: ClassVar[tuple[float, ...]]
    augment_default: ClassVar[bool] = False

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        seed: int = 0,
        augment: bool | Literal["square"] | None = None,
        held_out: int | None = None,
        train_images: int | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root or os.environ.get("DATA_DIR") or "data").expanduser()
        self.batch_size, self.seed = batch_size, seed
        self.augment = self.augment_default if augment is None else augment
        self._held_out, self.train_images = held_out, train_images

    @property
    def held_out(self) -> int:
        """How many training images are set aside for validation."""
        return -(-self.sizes[0] // 10) if self._held_out is None else self._held_out

    def check_taken(self) -> None:
        """Raise a `ValueError` unless there are as many training images as are to be held out and used."""
        count, used = self.sizes[0], 1 if self.train_images is None else self.train_images
        if self.held_out < 0 or not 1 <= used <= count - self.held_out:
            raise ValueError(
                f"held_out={self.held_out} and train_images={self.train_images} cannot be taken from {self.name}'s "
                f"{count} training images: held_out must be at least 0, and leave at least 1 to train on"
            )

    def choose(self, labels: Tensor, used: int | None) -> tuple[Tensor, Tensor]:
        """Indices of the training images to train on, at most `used`, and of those held out."""
        order = balanced_order(labels)
        return order[self.held_out :][:used], order[: self.held_out]

    def state_dict(self) -> dict[str, Any]:
        """Remember in checkpoints how many images were not trained on."""
        return {"held_out": self.held_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise a `ValueError` if a checkpoint was trained on some of the images that are held out here."""
        if (then := state_dict["held_out"]) < self.held_out:
            raise ValueError(
                f"held_out={self.held_out} here, but the checkpoint was trained with held_out={then} and has seen some "
                f"of these images; give held_out={then}"
            )

    def train_dataloader(self) -> EpochLoader:
        """Shuffled and perhaps augmented batches of the training images; `overfit_batches` promises neither."""
        trainer: Any = self.trainer
        return self._loader("train", None if trainer and trainer.overfit_batches else self.seed)

    def val_dataloader(self) -> EpochLoader:
        """The held-out images in a fixed order; if none are held out, the test images."""
        if self.trainer:
            self._check_selection(self.trainer)
        return self._loader("val", None)

    def test_dataloader(self) -> EpochLoader:
        """The test images in a fixed order."""
        return self._loader("test", None)

    def _loader(self, split: str, seed: int | None) -> EpochLoader:
        raise NotImplementedError

    def _check_selection(self, trainer: Any) -> None:
        """Say what is validated on. Called before training, when callbacks and schedulers exist."""
        if self.held_out:
            rank_zero_info(f"validated on {self.held_out:,} held-out training images")
            return
        rank_zero_info("validated on the TEST set, as the authors do: nothing may be selected on it")
        for one in [*trainer.callbacks, *trainer.lr_scheduler_configs] if trainer.state.fn == "fit" else []:
            if str(monitor := getattr(one, "monitor", None)).startswith("val"):
                name = type(getattr(one, "scheduler", one)).__name__
                raise ValueError(
                    f"{name} monitors {monitor}, which with held_out=0 is measured on the test set, and nothing may be "
                    "selected on that; hold images out (held_out=None: a tenth of the training images), or monitor "
                    "train/..."
                )

    @property
    def device(self) -> torch.device:
        """The trainer's device; without a trainer the CPU."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _shared(self, seed: int | None) -> dict[str, Any]:
        """The arguments of every loader."""
        found = {"batch_size": self.batch_size, "mean": self.mean, "std": self.std, "seed": seed}
        if self.trainer:
            found |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return found


def balanced_order(labels: Tensor) -> Tensor:
    """A fixed shuffle of the indices of `labels` that takes one of each class in turn, until classes run out.

    `labels` is int64 `(N,)`, from 0; so is the result. Targets of other kinds `(N, ...)` are only shuffled.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        labels = torch.zeros(len(labels), dtype=torch.int64)
    seed = int.from_bytes(hashlib.sha256(b"balanced order").digest()[:4], "big")
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    turn = torch.cat([torch.arange(count) for count in labels.bincount().tolist()])
    return by_class[turn.argsort(stable=True)]
