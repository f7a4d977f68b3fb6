"""ImageNet and its subsets, from image files in a tree `train/<wnid>/*`, `val/<wnid>/*` and the publishers' layouts.

Which pictures a run sees depends on `augment` alone, not on the size of the set or the machine.

In training, worker processes decode images in every epoch and crop them at random, as the authors do. Where pictures
are the same in every epoch (test images, training images that are not augmented), and for Tiny ImageNet at 64 pixels,
the middle square of each image is decoded once if all take at most `cache_gib`: its shorter side is resized to
`resize_to(size)` pixels (Tiny ImageNet at 64 pixels: as it is). Batches are cut out of these on the training device.
`augment="square"` crops these squares at random, which is quicker and gives other pictures: no crop reaches beyond the
middle square, and small crops are enlarged from the resized image and not from the original.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

import torch

from lit_hidden.data.cache import open_cache
from lit_hidden.data.decode import DecodingLoader
from lit_hidden.data.files import SET_ROOT, DataError, download
from lit_hidden.data.loader import CropLoader
from lit_hidden.data.tensors import ImageData
from lit_hidden.data.trees import Images, Tree, find_tree, parse_classes, read_tree
from lit_hidden.data.wnids import CLASS_LISTS
from lit_hidden.recipes import IMAGES


class ImageNetData(ImageData):
    """ILSVRC-2012's 1000 classes, or any subset, in batches of images `(B, 3, image_size, image_size)`.

    Read from the first of `folders` in `root`, or `root` itself, that has `train/` and `val/`; see `read_tree` for the
    layouts. Labels count the classes in the order of their wnids. Training images are augmented by default, by
    `RandomResizedCrop` and a random flip; of others the shorter side is resized and the middle cut out.

    Args:
        *args: as of `ImageData`, from `root` on. None for `augment` is True; `square`: crops of squares that are
            decoded once, whatever they take, see above.
        classes: `imagenette`, `imagewoof`, `tiny-imagenet-100`, `first-N` (ordered by wnid), `all` that are there, or a
            file that begins each line with a wnid; None is the set's own classes, and an error if others are there.
        images_per_class: number of training images used of each class; None is all. Not together with `train_images`.
        image_size: height and width of the images in pixels; None is the set's custom.
        cache_gib: images that decoded take more GiB than this are decoded by workers in every epoch; 0: all are.
        cache_dir: folder of decoded images; None is CACHE_DIR, or else `.lit_hidden-cache` in `root`.
        workers: processes that decode, of each device; None is as many as there are CPUs for it.
        **kwargs: as of `ImageData`.
    """

    name = "imagenet"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    augment_default = True
    folders: ClassVar[tuple[str, ...]] = (
        "imagenet", "ImageNet", "imagenet-1k", "ILSVRC2012", "ILSVRC-2012", "ILSVRC/Data/CLS-LOC", "CLS-LOC"
    )  # fmt: skip
    subset: ClassVar[bool] = False  # whether own classes may be taken out of a folder with more
    square: ClassVar[int | None] = None  # side of the publisher's images, if all are square and the same
    sides: ClassVar[dict[str, int]] = {}  # of folders whose images are reduced, the shorter side in pixels
    source: ClassVar[str] = ""  # of sets that torchvision downloads, its class; by folder its size and archive's MD5
    archives: ClassVar[dict[str, tuple[str, str]]] = {}
    where: ClassVar[str] = "https://image-net.org/download-images"

    def __init__(
        self,
        *args: Any,
        classes: str | None = None,
        images_per_class: int | None = None,
        image_size: int | None = None,
        cache_gib: float = 4.0,
        cache_dir: str | None = None,
        workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if images_per_class is not None and (images_per_class < 1 or self.train_images is not None):
            raise ValueError(
                f"images_per_class={images_per_class} with train_images={self.train_images} cannot be; "
                "give one of them, at least 1, or neither"
            )
        _, size, _, _, count = IMAGES[self.name]
        size = size if image_size is None else image_size
        if size < 1:
            raise ValueError(f"image_size={size} has no pixels; it must be at least 1")
        self.shape, self.images_per_class = (3, size, size), images_per_class
        self._resize = size if size == self.square else resize_to(size)  # shorter side before the centre crop
        self._folders = [name for name in self.folders if self.sides.get(name, self._resize) >= self._resize]
        self.classes = classes or (self.name if self.name in CLASS_LISTS else "all")
        self.exactly = count if classes is None and not self.subset else None  # classes that the folder must have
        chosen = parse_classes(self.classes)
        self._count = len(chosen) if isinstance(chosen, tuple) else chosen or self.exactly
        self.cache_gib, self.workers = cache_gib, workers
        self.cache_dir = Path(cache_dir or os.environ.get("CACHE_DIR") or self.root / ".lit_hidden-cache").expanduser()
        self._tree: Tree | None = None
        self._images: dict[str, Images] = {}  # by split; of validation and test perhaps the same
        self._decoded: dict[Images, tuple[torch.Tensor, torch.Tensor]] = {}
        self._decoding: list[DecodingLoader] = []  # made for the trainer

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """The number of classes; read from disk only if `classes="all"` leaves it open."""
        return self._count or len(self.tree.classes)

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """Training and test images of these classes, read from disk."""
        return len(self.tree.train), len(self.tree.val)

    @property
    def tree(self) -> Tree:
        """What is on disk, read once and checked."""
        if self._tree is None:
            folder = find_tree(self.root, self._folders)
            if folder is None:
                raise DataError(
                    f"{self.root} holds no {self.name}: neither it nor {'/, '.join(self._folders)}/ in it has train/ "
                    f"and val/; get it from {self.where}, or {SET_ROOT} that holds it"
                )
            self._tree = read_tree(folder, self.classes, self.exactly)
        return self._tree

    def prepare_data(self) -> None:
        """Download the set if it is missing and torchvision can, check it, and decode what is decoded once."""
        if self.source and self._tree is None and find_tree(self.root, self._folders) is None:
            folder = min(self._folders, key=lambda name: self.sides.get(name, 10_000))  # the smallest that is enough
            size, md5 = self.archives[folder]
            download(self.root, folder, {f"{folder}.tgz": md5}, self.source, split="train", size=size)
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """List the images, open what was decoded once, and put it on the device if it fits there."""
        self._open()
        for part, (images, labels) in self._decoded.items():
            device = self.device
            if device.type == "cuda" and images.is_cpu:
                free, _ = torch.cuda.mem_get_info(device)
                if images.nbytes > free / 2:  # the rest is for training; batches then come from the CPU's memory
                    device = images.device
            self._decoded[part] = (images.to(device), labels.to(device))

    def _open(self) -> None:
        """Choose the images of each split and open what is decoded once; nothing if that was done."""
        if self._images:
            return
        self.check_taken()
        train, test = self.tree.train, self.tree.val
        each = self.images_per_class
        used, held = self.choose(train.labels, each * self.num_classes if each else self.train_images)
        counts = train.labels[used].bincount(minlength=self.num_classes)
        if each and (fewest := int(counts.min())) < each:
            raise ValueError(
                f"images_per_class={each} cannot be taken from {self.tree.folder}/train/"
                f"{self.tree.classes[int(counts.argmin())]}, which with held_out={self.held_out} has {fewest}"
            )
        splits = {"train": train.take(used), "val": train.take(held) if len(held) else test, "test": test}
        parts = list(dict.fromkeys(splits.values()))
        if self.augment is True and self.shape[1] != self.square:  # crops of the whole image
            parts = parts[1:]
        if 3 * self._resize**2 * sum(map(len, parts)) > self.cache_gib * 2**30:
            parts = parts[:1] if self.augment == "square" else []
        for part in parts:
            self._decoded[part] = open_cache(part, self._resize, self.cache_dir, self._workers), part.labels
        self._images = splits

    @property
    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cpus // (self.trainer.num_devices if self.trainer else 1))

    def _loader(self, split: str, seed: int | None) -> CropLoader | DecodingLoader:
        self.setup()
        part, shared = self._images[split], self._shared(seed)
        shared |= {"size": self.shape[1], "to": self.device, "augment": bool(self.augment)}
        if part in self._decoded:
            return CropLoader(*self._decoded[part], **shared)
        loader = DecodingLoader(part, part.labels, resize=self._resize, workers=self._workers, **shared)
        if self.trainer:
            self._decoding.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the processes that decoded for the trainer."""
        while self._decoding:
            self._decoding.pop().close()


class ImageNet100Data(ImageNetData):
    """The 100 classes of ILSVRC-2012 that its folder has, or that `ImageNetData` picks with `classes`, a file."""

    name = "imagenet100"
    folders = ("imagenet100", "imagenet-100", "ImageNet100", "ImageNet-100")


class ImagenetteData(ImageNetData):
    """10 easy classes, downloaded if missing. Not ILSVRC-2012's split of its images, so not picked out of that."""

    name = "imagenette"
    folders = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette")
    sides: ClassVar = {"imagenette2-320": 320, "imagenette2-160": 160}
    source = "Imagenette"
    archives: ClassVar = {
        "imagenette2-160": ("160px", "e793b78cc4c9e9a4ccc0c1155377a412"),
        "imagenette2-320": ("320px", "3df6f0d01a2c9592104656642f5e78a3"),
        "imagenette2": ("full", "fe2fc210e6bb7c5664d602c3cd71e612"),
    }
    where = "https://github.com/fastai/imagenette"


class ImagewoofData(ImageNetData):
    """10 breeds of dogs, from the publisher of Imagenette."""

    name = "imagewoof"
    folders = ("imagewoof2", "imagewoof2-320", "imagewoof2-160", "imagewoof")
    sides: ClassVar = {"imagewoof2-320": 320, "imagewoof2-160": 160}
    where = ImagenetteData.where


class TinyImageNetData(ImageNetData):
    """Images of 64x64 pixels of 200 classes of ImageNet."""

    name = "tiny-imagenet"
    folders: ClassVar[tuple[str, ...]] = ("tiny-imagenet-200", "tiny-imagenet")
    square = 64
    where = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class TinyImageNet100Data(TinyImageNetData):
    """100 classes of Tiny ImageNet, from `tiny-imagenet-100/` in `root`, or picked out of Tiny ImageNet."""

    name = "tiny-imagenet-100"
    folders = ("tiny-imagenet-100", *TinyImageNetData.folders)
    subset = True


def resize_to(size: int) -> int:
    """The shorter side of an image before the centre crop of `size` pixels: 8/7 of it, as the usual 256 for 224.

    The margin is a multiple of 4: then the centre crop of the middle square is the centre crop of the image.
    """
    return size + 4 * round(size / 28)
