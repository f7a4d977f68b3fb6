"""Data modules: their base, and that of sets small enough to live, as uint8 tensors, on the training device."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from lit_hidden.data.files import download, find
from lit_hidden.data.loader import BatchLoader, EpochLoader
from lit_hidden.hyper_parameters import facts

ORDER = 209424413  # seed of every `balanced_order`
EVALUATED = 2000  # images in a batch of evaluation where steps are taken many at once
Split = tuple[Tensor, Tensor]  # images, uint8 (N, C, H, W), and labels, int64 (N,)


class ImageData(L.LightningDataModule):
    """Batches of normalised images `(B, C, H, W)` and labels `(B,)`.

    Validation is on held-out training images. Which these are, and which of the others are used, is the same for every
    seed; they are as many of each class as possible. With `held_out=0` validation is on the test set, as the authors
    do, and callbacks and schedulers that monitor `val_...` are refused.

    Args:
        root: folder of the data; None is DATA_DIR, or else `data`.
        batch_size: images in a batch, over all devices together.
        seed: seed of the order of the images and of their augmentation; any integer.
        augment: crop and flip training images at random, as the set's class says; None is the authors' way. `square`
            is for ImageNet and its subsets: see `ImageNetData`.
        held_out: number of training images set aside for validation; None is a tenth of them, rounded up.
        train_images: number of training images used; None is all that are not held out.

    Raises:
        DataError: when data are prepared or read: files are missing or damaged, or cannot be downloaded.
    """

    name: str
    shape: tuple[int, int, int]  # channels, height, width
    num_classes: int
    sizes: tuple[int, int]  # training and test images
    mean: ClassVar[tuple[float, ...]]  # of each channel, for pixels in [0, 1]
    std: ClassVar[tuple[float, ...]]
    class_names: tuple[str, ...] = ()  # in the order of the labels; empty if unknown
    resize: int | None = None  # a picture's shorter side before the centre crop; None squeezes it whole
    augment_default: ClassVar[bool] = False
    # Of sets that are files: folders below root in order of preference, and what downloads the first of them.
    layouts: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[Callable[..., Any] | None] = None

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
    def about(self) -> dict[str, Any]:
        """What files say of nets of these data: inputs, classes, and how pictures become inputs; see `transform`."""
        pictures = {"mean": self.mean, "std": self.std, "resize": self.resize}
        return facts(self, {}) | {"classes": self.class_names} | (pictures if self.mean else {})

    @property
    def folder(self) -> Path | None:
        """Where the set's files are."""
        return find(self.root, self.layouts)

    def prepare_data(self) -> None:
        """Download the set if it is missing, and torchvision can."""
        if self.source and not self.folder:
            download(self.source, self.root, self.layouts[0])

    @property
    def held_out(self) -> int:
        """How many training images are set aside for validation."""
        return -(-self.sizes[0] // 10) if self._held_out is None else self._held_out

    def choose(self, labels: Tensor, used: int | None) -> tuple[Tensor, Tensor]:
        """Indices of the training images to train on, `used` or all that are left, and of those held out."""
        held_out, least = self.held_out, 1 if used is None else used
        if held_out < 0 or not 1 <= least <= len(labels) - held_out:
            taken = f"held_out={held_out} (at least 0) and {least} images to train on (at least 1)"
            raise ValueError(f"{taken} cannot be taken from {self.name}'s {len(labels)}")
        order = balanced_order(labels)
        return order[held_out:][:used], order[:held_out]

    def state_dict(self) -> dict[str, Any]:
        """Remember in checkpoints how many images were not trained on."""
        return {"held_out": self.held_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise a `ValueError` if a checkpoint was trained on some of the images that are held out here."""
        if (then := state_dict["held_out"]) < self.held_out:
            raise ValueError(f"the checkpoint has seen some images of held_out={self.held_out}; give held_out={then}")

    def train_dataloader(self) -> EpochLoader:
        """Shuffled and perhaps augmented batches of the training images."""
        return self._loader("train", seed=self.seed)

    def val_dataloader(self) -> EpochLoader:
        """The held-out images in a fixed order; if none are held out, the test images."""
        trainer: Any = self.trainer
        if trainer and trainer.state.fn == "fit" and not self.held_out:  # callbacks and schedulers exist by now
            for one in [*trainer.callbacks, *trainer.lr_scheduler_configs]:
                if str(monitor := getattr(one, "monitor", None)).startswith("val"):
                    watcher = f"{type(getattr(one, 'scheduler', one)).__name__} monitors {monitor}"
                    raise ValueError(f"{watcher}, which with held_out=0 is of the test set; give held_out=None")
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader:
        """The test images in a fixed order."""
        return self._loader("test")

    predict_dataloader = test_dataloader

    def _loader(self, split: str, seed: int | None = None) -> EpochLoader:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The trainer's device; without a trainer the CPU."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _shared(self, seed: int | None) -> dict[str, Any]:
        """The arguments of every loader."""
        shared = {"batch_size": self.batch_size, "mean": self.mean, "std": self.std, "seed": seed}
        if self.trainer:
            shared |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return shared


class ImageTensorsData(ImageData):
    """Batches of normalised images `(B, C, H, W)` and labels `(B,)`, made on the training device.

    Data of your own derive from this: `read` gives both sets, and the class says name, shape, sizes and num_classes.
    Inputs that are no images (of another dtype than uint8, with any targets) have `mean = std = ()` and are yielded as
    they are. Arguments are those of `ImageData`.
    """

    num_classes = 10
    crop: ClassVar[int] = 0  # pixels of padding of an augmented image's random crop
    flip: ClassVar[bool] = False  # whether an augmented image may be mirrored
    at_once: int = 0  # how many batches `lit_hidden.steps` takes at once; set by who trains with it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.augment and (self.augment == "square" or not (self.crop or self.flip)):
            raise ValueError(f"augment={self.augment!r} is not defined for {self.name}; give False or None")
        self.splits: dict[str, Split] = {}  # after `setup`, of `train`, `val` and `test`; a callback may change them

    def setup(self, stage: str | None = None) -> None:
        """Read the set, unless that was done. It stays on the CPU: a loader copies what it loads to the device."""
        if not self.splits:
            (images, labels), test = self.read()
            self.splits = {"train": (images, labels), "val": test, "test": test}
            if self.held_out or self.train_images is not None:
                for split, chosen in zip(("train", "val"), self.choose(labels, self.train_images), strict=True):
                    if len(chosen):
                        self.splits[split] = (images[chosen], labels[chosen])

    def read(self) -> tuple[Split, Split]:
        """Read and verify the training and the test set, on the CPU."""
        raise NotImplementedError

    def _loader(self, split: str, seed: int | None = None) -> BatchLoader:
        self.setup()
        shared = self._shared(seed) | ({"crop": self.crop, "flip": self.flip} if self.augment else {})
        if split == "train":
            shared["at_once"] = self.at_once
        elif self.at_once:  # evaluation: batches may be as large as a GPU likes them
            shared["batch_size"] = max(self.batch_size, EVALUATED)
        images, labels = (part.to(self.device) for part in self.splits[split])
        return BatchLoader(images, labels, **shared)


def balanced_order(labels: Tensor) -> Tensor:
    """A fixed shuffle of the indices of `labels` that takes one of each class in turn, until classes run out.

    `labels` is int64 `(N,)`, from 0; so is the result. Targets of other kinds `(N, ...)` are only shuffled.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        labels = torch.zeros(len(labels), dtype=torch.int64)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(ORDER))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    turn = torch.cat([torch.arange(count) for count in labels.bincount().tolist()])
    return by_class[turn.argsort(stable=True)]
