"""Data modules of sets small enough to live, as uint8 tensors, on the training device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lit_hidden.data.base import ImageData
from lit_hidden.data.files import SET_ROOT, DataError, download, find
from lit_hidden.data.loader import BatchLoader
from lit_hidden.recipes import IMAGES

EVALUATED = 2000  # images in a batch of evaluation where steps are taken many at once
Split = tuple[Tensor, Tensor]  # images, uint8 (N, C, H, W), and labels, int64 (N,)


def facts(name: str) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """The shape of a set's images, and how many are for training and for testing."""
    channels, size, train, test, _ = IMAGES[name]
    return (channels, size, size), (train, test)


class ImageTensorsData(ImageData):
    """Batches of normalised images `(B, C, H, W)` and labels `(B,)`, made on the training device.

    Data of your own derive from this: `read` gives both sets, and the class says name, shape, sizes and num_classes.
    Inputs that are no images (of another dtype than uint8, with any targets) have `mean = std = ()` and are yielded as
    they are.

    Args:
        *args: as of `ImageData`, from `root` on.
        **kwargs: as of `ImageData`.
    """

    num_classes = 10
    crop: ClassVar[int] = 0  # pixels of padding of an augmented image's random crop
    flip: ClassVar[bool] = False  # whether an augmented image may be mirrored
    # Of sets that are files: folders below root in order of preference, and what `files.download` takes.
    layouts: ClassVar[tuple[str, ...]] = ()
    archives: ClassVar[Mapping[str, str]] = {}
    source: ClassVar[str] = ""
    at_once: int = 0  # how many batches `lit_hidden.steps` takes at once; set by who trains with it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_taken()
        if self.augment == "square" or (self.augment and not (self.crop or self.flip)):
            allowed = "True, False or None" if self.crop or self.flip else "False or None"
            raise ValueError(f"augment={self.augment!r} is not defined for {self.name}; it must be {allowed}")
        self.splits: dict[str, Split] = {}  # after `setup`, of `train`, `val` and `test`; a callback may change them

    def prepare_data(self) -> None:
        """Download the set, if it consists of files and no folder of it is there."""
        if self.layouts and not find(self.root, self.layouts):
            download(self.root, self.layouts[0], self.archives, self.source, train=False)

    def setup(self, stage: str | None = None) -> None:
        """Read the set, unless that was done, and put it on the device."""
        if not self.splits:
            (images, labels), test = self.read()
            self.splits = {"train": (images, labels), "val": test, "test": test}
            if self.held_out or self.train_images is not None:
                used, held = self.choose(labels, self.train_images)
                self.splits["train"] = (images[used], labels[used])
                if self.held_out:
                    self.splits["val"] = (images[held], labels[held])
        for split, (images, labels) in self.splits.items():
            self.splits[split] = (images.to(self.device), labels.to(self.device))

    def read(self) -> tuple[Split, Split]:
        """Read and verify the training and the test set, on the CPU, from the first folder that is whole."""
        errors: list[DataError] = []
        for folder, layout in find(self.root, self.layouts):
            try:
                mend = f"delete {folder} and run again to download it anew, or {SET_ROOT} that holds a whole {layout}/"
                return self.read_folder(folder, mend)
            except DataError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        raise DataError(
            f"{self.root} holds no {'/ or '.join(self.layouts)}/; call prepare_data() to download {self.source}, "
            f"or {SET_ROOT} that does"
        )

    def read_folder(self, folder: Path, mend: str) -> tuple[Split, Split]:
        """Read and verify both sets from a folder of one of the layouts; errors say how to `mend` it."""
        raise NotImplementedError

    def _loader(self, split: str, seed: int | None) -> BatchLoader:
        if not self.splits:
            self.setup()
        shared = self._shared(seed)
        if self.augment:
            shared |= {"crop": self.crop, "flip": self.flip}
        if split == "train":
            shared["at_once"] = self.at_once
        elif self.at_once:  # evaluation: batches may be as large as a GPU likes them
            shared["batch_size"] = max(self.batch_size, EVALUATED)
        return BatchLoader(*self.splits[split], **shared)
