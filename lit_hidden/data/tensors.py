"""A Lightning data module for sets small enough to live, as uint8 tensors, on the training device."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_hidden.data.base import ImageData
from lit_hidden.data.files import DataError, download, find
from lit_hidden.data.loader import BatchLoader

EVALUATED = 2000  # images in a batch where steps are taken many at once
Split = tuple[Tensor, Tensor]  # images, uint8 (N, C, H, W), and labels, int64 (N,)


class ImageTensorsData(ImageData):
    """Batches of normalised images `(B, C, H, W)` and labels `(B,)`, made on the training device.

    Data of your own derive from this: `read` gives both sets, and the class says name, shape, sizes and num_classes.
    What are no images (inputs of another dtype than uint8, whatever the targets) have `mean = std = ()`, and are given
    as they are.

    Args:
        *args: as of `ImageData`, from `root` on.
        **kwargs: as of `ImageData`.

    Raises:
        ValueError: a number is out of bounds, or the set has no augmentation.
        DataError: the files are missing or damaged, or cannot be downloaded.
    """

    num_classes = 10
    crop: ClassVar[int] = 0  # pixels of padding of an augmented image's random crop
    flip: ClassVar[bool] = False  # whether an augmented image may be mirrored
    # Of sets that are files: folders below root in order of preference, and what `files.download` wants.
    layouts: ClassVar[tuple[str, ...]] = ()
    archives: ClassVar[Mapping[str, str]] = {}
    source: ClassVar[str] = ""
    # Who trains by `lit_hidden.steps` says here how many batches it takes at once.
    at_once: int = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_taken()
        if self.augment == "square":
            raise ValueError(
                f"augment='square' is for ImageNet and its subsets; of {self.name} it is True, False or None"
            )
        if self.augment and not (self.crop or self.flip):
            raise ValueError(
                f"augment={self.augment} does nothing: no augmentation is defined for {self.name}; "
                "it must be False or None"
            )
        self.splits: dict[str, Split] = {}  # after `setup`, of `train`, `val` and `test`; a callback may change them

    def prepare_data(self) -> None:
        """Download the set, if it is one of files and no folder of it is there."""
        if self.layouts and not find(self.root, self.layouts):
            download(self.root, self.layouts[0], self.archives, self.source)

    def setup(self, stage: str | None = None) -> None:
        """Read the set, unless that was done, and put it on the trainer's device, if any, else on the CPU."""
        if not self.splits:
            train, test = self.read()
            self.splits = {"train": train, "val": test, "test": test}
            if self.held_out or self.train_images is not None:
                images, labels = train
                order = balanced_order(labels)
                held, rest = order[: self.held_out], order[self.held_out :][: self.train_images]
                self.splits["train"] = (images[rest], labels[rest])
                if self.held_out:
                    self.splits["val"] = (images[held], labels[held])
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        for split, (images, labels) in self.splits.items():
            self.splits[split] = (images.to(device), labels.to(device))

    def read(self) -> tuple[Split, Split]:
        """Read and verify the training and the test set, on the CPU, from the first folder that is whole.

        Raises:
            DataError: no folder is whole; about the first that was found.
        """
        errors: list[DataError] = []
        for folder, layout in find(self.root, self.layouts):
            try:
                return self.read_folder(folder, layout)
            except DataError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        raise DataError(
            f"{self.root} holds no {'/ or '.join(self.layouts)}/; call prepare_data() to download "
            f"{self.source}, or set DATA_DIR (--data-dir; of fit: --data.root) to the folder that does"
        )

    def read_folder(self, folder: Path, layout: str) -> tuple[Split, Split]:
        """Read and verify the training and the test set from a folder of the given layout."""
        raise NotImplementedError

    def _loader(self, split: str, seed: int | None, augment: bool) -> BatchLoader:
        if not self.splits:
            self.setup()
        rank, world_size = self._ranks
        # An image's answer depends on no other: to evaluate, batches may be as large as a GPU likes them.
        batch_size = max(self.batch_size, EVALUATED) if self.at_once and split != "train" else self.batch_size
        return BatchLoader(
            *self.splits[split],
            batch_size,
            self.mean,
            self.std,
            seed=seed,
            crop=self.crop if augment else 0,
            flip=self.flip and augment,
            rank=rank,
            world_size=world_size,
            at_once=self.at_once if split == "train" else 0,
        )


def balanced_order(labels: Tensor) -> Tensor:
    """A fixed shuffle of the indices of `labels` that takes one of each class in turn, until classes run out.

    `labels` is int64 `(N,)`, from 0; so is the result. Targets of other kinds `(N, ...)` are shuffled alone.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        labels = torch.zeros(len(labels), dtype=torch.int64)
    seed = int.from_bytes(hashlib.sha256(b"balanced order").digest()[:4], "big")
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    turn = torch.cat([torch.arange(count) for count in labels.bincount().tolist()])
    return by_class[turn.argsort(stable=True)]
