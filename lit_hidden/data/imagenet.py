"""ImageNet and its subsets, from image files in a tree `train/<wnid>/*`, `val/<wnid>/*`.

In training, worker processes decode images in every epoch and crop them at random, as the authors do. Where pictures
are the same in every epoch, and for Tiny ImageNet at 64 pixels, the middle square of each image is decoded once if all
take at most `cache_gib`, and batches are cut out of these squares on the training device. The size of the set changes
no picture. `augment="square"` crops squares decoded once at random: quicker, but never beyond the middle square.
"""

import os
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from torchvision.datasets import Imagenette

from lit_hidden.data.decode import DecodingLoader, decoded_once
from lit_hidden.data.files import find
from lit_hidden.data.loader import CropLoader
from lit_hidden.data.tensors import ImageData
from lit_hidden.data.trees import CLASS_LISTS, Images, Tree, parse_classes, read_tree
from lit_hidden.recipes import IMAGES


class ImageNetData(ImageData):
    """ILSVRC-2012's 1000 classes, or any subset, in batches of images `(B, 3, image_size, image_size)`.

    Read from the first of `layouts` in `root`, or `root` itself, that has `train/` and `val/`. Augmented by default.

    Args:
        *args: as of `ImageData`, as are other keywords. `augment="square"`: see above.
        classes: `imagenette`, `imagewoof`, `tiny-imagenet-100`, `first-N` (ordered by wnid), or `all` that are there;
            None is the set's own classes, and an error if others are there.
        images_per_class: number of training images used of each class; None is all. Not together with `train_images`.
        image_size: height and width of the images in pixels; None is the set's custom.
        cache_gib: images that decoded take more GiB than this are decoded by workers in every epoch; 0: all are.
            Decoded images lie in the folder CACHE_DIR, or else in `.lit_hidden-cache` in `root`.
        workers: processes that decode, of each device; None is as many as Lightning suggests.
    """

    name = "imagenet"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    augment_default = True
    layouts: ClassVar[tuple[str, ...]] = ("imagenet",)
    subset: ClassVar[bool] = False  # whether own classes may be taken out of a folder with more
    resize: int
    square: ClassVar[int | None] = None  # side of the publisher's images, if all are square and the same

    def __init__(
        self,
        *args: Any,
        classes: str | None = None,
        images_per_class: int | None = None,
        image_size: int | None = None,
        cache_gib: float = 4.0,
        workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        _, custom, _, _, count = IMAGES[self.name]
        size = custom if image_size is None else image_size
        if images_per_class is not None and (images_per_class < 1 or self.train_images is not None):
            raise ValueError(f"images_per_class={images_per_class} must be at least 1, without train_images")
        self.shape, self.images_per_class = (3, size, size), images_per_class
        self.resize = size if size == self.square else resize_to(size)  # shorter side before the centre crop
        self.classes = classes or (self.name if self.name in CLASS_LISTS else "all")
        self._exactly = count if classes is None and not self.subset else None  # classes that the folder must have
        self._count = parse_classes(self.classes)[1] or self._exactly
        self.cache_gib, self.workers = cache_gib, workers
        self._images: dict[str, Images] = {}  # by split; of validation and test perhaps the same
        self._decoded: dict[Images, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """The number of classes; read from disk only if `classes="all"` leaves it open."""
        return self._count or len(self.tree.classes)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The wnids, if the images are there."""
        return self.tree.classes if self.folder else ()

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """Training and test images of these classes, read from disk."""
        return len(self.tree.train), len(self.tree.val)

    @property
    def folder(self) -> Path | None:
        """The first of `layouts`, or `root` itself, that has `train/` and `val/`."""
        return find(self.root, (*self.layouts, "."), "train", "val")

    @cached_property
    def tree(self) -> Tree:
        """What is on disk, read once and checked."""
        return read_tree(self.folder or self.root / self.layouts[0], self.classes, self._exactly)

    def prepare_data(self) -> None:
        """Choose the images of each split, and decode or open what is decoded once."""
        if self._images:
            return
        super().prepare_data()
        train, test, each = self.tree.train, self.tree.val, self.images_per_class
        used, held = self.choose(train.labels, each * self.num_classes if each else self.train_images)
        if each and (fewest := int(train.labels[used].bincount(minlength=self.num_classes).min())) < each:
            raise ValueError(f"images_per_class={each}: beside held_out={self.held_out} a class has only {fewest}")
        splits = {"train": train.take(used), "val": train.take(held) if len(held) else test, "test": test}
        parts = list(dict.fromkeys(splits.values()))
        if self.augment is True and self.shape[1] != self.square:  # crops of the whole image
            parts = parts[1:]
        if 3 * self.resize**2 * sum(map(len, parts)) > self.cache_gib * 2**30:
            parts = parts[:1] if self.augment == "square" else []
        folder = Path(os.environ.get("CACHE_DIR") or self.root / ".lit_hidden-cache").expanduser()
        for part in parts:
            self._decoded[part] = decoded_once(part, self.resize, folder, self._workers), part.labels
        self._images = splits

    def setup(self, stage: str | None = None) -> None:
        """Put what was decoded once on the device, if it takes at most `cache_gib`."""
        self.prepare_data()
        for part, (images, labels) in self._decoded.items():
            device = self.device if images.nbytes <= self.cache_gib * 2**30 else images.device
            self._decoded[part] = (images.to(device), labels.to(device))

    @property
    def _workers(self) -> int:
        suggested = suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1)
        return suggested if self.workers is None else self.workers

    def _loader(self, split: str, seed: int | None = None) -> CropLoader | DecodingLoader:
        self.setup()
        part, shared = self._images[split], self._shared(seed)
        shared |= {"size": self.shape[1], "to": self.device, "augment": bool(self.augment)}
        if part in self._decoded:
            return CropLoader(*self._decoded[part], **shared)
        return DecodingLoader(part, part.labels, resize=self.resize, workers=self._workers, **shared)


class ImageNet100Data(ImageNetData):
    """The 100 classes of ILSVRC-2012 that its folder has."""

    name, layouts = "imagenet100", ("imagenet100",)


class ImagenetteData(ImageNetData):
    """10 easy classes, downloaded if missing. Not ILSVRC-2012's split of its images, so not picked out of that."""

    name, layouts = "imagenette", ("imagenette2-320", "imagenette")
    source = staticmethod(partial(Imagenette, size="320px"))


class ImagewoofData(ImageNetData):
    """10 breeds of dogs, from the publisher of Imagenette."""

    name, layouts = "imagewoof", ("imagewoof", "imagewoof2-320")


class TinyImageNetData(ImageNetData):
    """Images of 64x64 pixels of 200 classes of ImageNet."""

    name, square = "tiny-imagenet", 64
    layouts: ClassVar[tuple[str, ...]] = ("tiny-imagenet", "tiny-imagenet-200")


class TinyImageNet100Data(TinyImageNetData):
    """100 classes of Tiny ImageNet, from `tiny-imagenet-100/` in `root`, or picked out of Tiny ImageNet."""

    name, subset = "tiny-imagenet-100", True
    layouts = ("tiny-imagenet-100", *TinyImageNetData.layouts)


SUBSETS = (ImageNetData, ImageNet100Data, ImagenetteData, ImagewoofData, TinyImageNetData, TinyImageNet100Data)


def resize_to(size: int) -> int:
    """The shorter side of an image before the centre crop of `size` pixels: 8/7 of it, as the usual 256 for 224.

    The margin is a multiple of 4: then the centre crop of the middle square is the centre crop of the image.
    """
    return size + 4 * round(size / 28)
