"""What all data modules here have in common: their arguments, and which images of which set a loader shows."""

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lit_hidden.data.loader import EpochLoader


class ImageData(L.LightningDataModule):
    """Batches of normalised images `(B, C, H, W)` and labels `(B,)`.

    Validation is on training images that are held out. Which these are, and which of the others are used, follows from
    their order in the files alone: the same for every seed, and as many of each class as can be. With `held_out=0`
    validation is on the test set, as the authors'; then nothing may be selected on it, and callbacks and schedulers
    that monitor `val/...` are refused.

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
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} holds no image; it must be at least 1")
        self.root = Path(root or os.environ.get("DATA_DIR") or "data").expanduser()
        self.batch_size, self.seed = batch_size, seed
        self.augment = self.augment_default if augment is None else augment
        self._held_out, self.train_images = held_out, train_images

    @property
    def held_out(self) -> int:
        """The number of training images set aside for validation."""
        return -(-self.sizes[0] // 10) if self._held_out is None else self._held_out

    def check_taken(self) -> None:
        """Raise a `ValueError` unless there are as many training images as are to be held out and used."""
        count = self.sizes[0]
        if not 0 <= self.held_out < count:
            raise ValueError(
                f"held_out={self.held_out} cannot be set aside from {self.name}'s {count} training images; "
                f"it must lie in [0, {count - 1}]"
            )
        if self.train_images is not None and not 1 <= self.train_images <= count - self.held_out:
            raise ValueError(
                f"train_images={self.train_images} cannot be taken from {self.name}'s {count} training images "
                f"of which held_out={self.held_out}; it must be None or lie in [1, {count - self.held_out}]"
            )

    def state_dict(self) -> dict[str, Any]:
        """Go into checkpoints: which images were not trained on."""
        return {"held_out": self.held_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back from a checkpoint.

        Raises:
            ValueError: of the images that are held out here some were trained on.
        """
        if (then := state_dict["held_out"]) < self.held_out:
            raise ValueError(
                f"held_out={self.held_out} here, and held_out={then} where the checkpoint was trained, which has seen "
                f"some of these images; give held_out={then}"
            )

    def train_dataloader(self) -> EpochLoader:
        """Shuffled and, unless told otherwise, augmented batches of the training images.

        Under a Trainer with `overfit_batches` neither: it promises the same batches in each epoch.
        """
        trainer: Any = self.trainer
        overfits = bool(trainer and trainer.overfit_batches)
        return self._loader("train", None if overfits else self.seed, bool(self.augment) and not overfits)

    def val_dataloader(self) -> EpochLoader:
        """The held-out images in a fixed order; where none are held out, the test images.

        Raises:
            ValueError: those are the test images, and the Trainer would select on them.
        """
        if self.trainer:
            self._check_selection(self.trainer)
        return self._loader("val", None, False)

    def test_dataloader(self) -> EpochLoader:
        """The test images in a fixed order."""
        return self._loader("test", None, False)

    def _loader(self, split: str, seed: int | None, augment: bool) -> EpochLoader:
        raise NotImplementedError

    def _check_selection(self, trainer: Any) -> None:
        """Say what is validated on; before training, when Lightning has made the callbacks and the schedulers."""
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
    def _ranks(self) -> tuple[int, int]:
        """Which rank this is, of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
