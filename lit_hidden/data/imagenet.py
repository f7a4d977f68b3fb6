"""ImageNet and its subsets, from image files in a tree `train/<wnid>/*`, `val/<wnid>/*` and the publishers' layouts.

Which pictures a run sees depends on `augment` alone, not on the size of the set or the machine.

Worker processes decode images in every epoch: at training a random part of the whole image, as the authors do.

Where pictures are the same, images of small subsets (decoded, at most `cache_gib`) are decoded once, into a
memory-mapped file, and batches are cut out of it on the training device: test images, training images that are not
augmented, and Tiny ImageNet's of 64 pixels. Each image is kept as the middle square of itself, its shorter side resized
to `resize_to(size)` pixels (Tiny ImageNet at 64 pixels: as it is).

`augment="square"` has random parts cut out of these squares, which is quick, and other pictures: no part reaches beyond
the middle square, and small parts are enlarged from the resized image and not from the original.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

import torch

from lit_hidden.data.base import ImageData
from lit_hidden.data.cache import cache_bytes, open_cache
from lit_hidden.data.crop_loaders import CropLoader, DecodingLoader
from lit_hidden.data.files import DataError, download
from lit_hidden.data.tensors import balanced_order
from lit_hidden.data.trees import Images, Tree, find_tree, parse_classes, read_tree
from lit_hidden.recipes import IMAGENET_SIZES

CACHE = ".lit_hidden-cache"  # below root


class ImageNetData(ImageData):
    """ILSVRC-2012's 1000 classes, or any subset, in batches of images `(B, 3, image_size, image_size)`.

    Read from `imagenet/`, `ILSVRC2012/`, `ILSVRC/Data/CLS-LOC/` or the like in `root`, or from `root` itself: the first
    that has `train/` and `val/`; see `read_tree` for the layouts. Labels count the classes in the order of their wnids.
    Training images are augmented by default: `RandomResizedCrop` and a random flip. Of test images, and of training
    images without augmentation, the shorter side is resized to `resize_to(image_size)` pixels and the middle cut out.

    Args:
        *args: as of `ImageData`, from `root` on. Of `augment` None is True; `square`: out of squares that are decoded
            once, whatever they take, see above.
        classes: `imagenette`, `imagewoof`, `tiny-imagenet-100`, `first-N` (ordered by wnid), `all` that are there, or a
            file that begins each line with a wnid; None is the set's own classes, and an error if others are there.
        images_per_class: number of training images used of each class; None is all. Not together with `train_images`.
        image_size: height and width of the images in pixels; None is the set's custom.
        cache_gib: images that decoded take more GiB than this are decoded by workers in every epoch; 0: all are.
        cache_dir: folder of decoded images; None is CACHE_DIR, or else `.lit_hidden-cache` in `root`.
        workers: processes that decode, of each device; None is as many as there are CPUs for it.
        **kwargs: as of `ImageData`.

    Raises:
        ValueError: a number is out of bounds, or `classes` unknown.
        DataError: files are missing or damaged, or cannot be downloaded or cached.
    """

    name = "imagenet"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    augment_default = True
    folders: ClassVar[tuple[str, ...]] = (
        "imagenet", "ImageNet", "imagenet-1k", "ILSVRC2012", "ILSVRC-2012", "ILSVRC/Data/CLS-LOC", "CLS-LOC"
    )  # fmt: skip
    own_classes: ClassVar[str] = "all"
    count: ClassVar[int] = 1000  # of own classes
    subset: ClassVar[bool] = False  # whether own classes may be taken out of a folder with more
    square: ClassVar[int | None] = None  # what size the publisher's images are, if all are square and the same
    sides: ClassVar[dict[str, int]] = {}  # of folders whose images are reduced, the shorter side in pixels
    # Of sets that torchvision downloads: its class, and by the shorter side its name of the size, folder and MD5.
    source: ClassVar[str] = ""
    archives: ClassVar[dict[int, tuple[str, str, str]]] = {}
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
        if images_per_class is not None and images_per_class < 1:
            raise ValueError(f"images_per_class={images_per_class} trains on nothing; it must be at least 1, or None")
        if images_per_class is not None and self.train_images is not None:
            raise ValueError(
                f"images_per_class={images_per_class} and train_images={self.train_images} say the same thing twice; "
                "give one of them"
            )
        size = IMAGENET_SIZES[self.name] if image_size is None else image_size
        if size < 1:
            raise ValueError(f"image_size={image_size} has no pixels; it must be at least 1")
        if not cache_gib >= 0:
            raise ValueError(f"cache_gib={cache_gib} is no amount of disk; it must be at least 0 (no cache)")
        if workers is not None and workers < 0:
            raise ValueError(f"workers={workers} is a number of processes; 0 decodes in the training process")
        self.shape = (3, size, size)
        self.classes, self.images_per_class = classes, images_per_class
        chosen = parse_classes(classes or self.own_classes)
        self._count = len(chosen) if isinstance(chosen, tuple) else self.count if classes is None else chosen
        self.cache_gib = cache_gib
        self.cache_dir = Path(cache_dir or os.environ.get("CACHE_DIR") or self.root / CACHE).expanduser()
        self.workers = workers
        self._tree: Tree | None = None
        self._images: dict[str, Images] = {}
        self._decoded: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by the identity of a part
        self._decoding: list[DecodingLoader] = []  # made for the trainer

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """The number of classes; read from disk only where `classes="all"` leaves it open."""
        return self._count or len(self.tree.classes)

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """Training and test images of these classes, read from disk."""
        return len(self.tree.train), len(self.tree.val)

    @property
    def tree(self) -> Tree:
        """What lies on disk, read once and checked."""
        if self._tree is None:
            folder = find_tree(self.root, self._folders)
            if folder is None:
                raise DataError(
                    f"{self.root} holds no {self.name}: neither it nor {'/, '.join(self._folders)}/ in it has train/ "
                    f"and val/; get it from {self.where}, or set DATA_DIR (--data-dir; of fit: --data.root) to the "
                    "folder that holds it"
                )
            exactly = self.count if self.classes is None and not self.subset else None
            self._tree = read_tree(folder, self.classes or self.own_classes, exactly)
        return self._tree

    def prepare_data(self) -> None:
        """Download the set if need be and possible, check what lies on disk, and decode what is decoded once."""
        if self.source and self._tree is None and find_tree(self.root, self._folders) is None:
            side = next((side for side in sorted(self.archives) if side >= self._resize), max(self.archives))
            size, folder, md5 = self.archives[side]
            download(self.root, folder, {f"{folder}.tgz": md5}, self.source, {"split": "train", "size": size})
        self._split()
        for part in self._squares:
            self._open(part)

    def setup(self, stage: str | None = None) -> None:
        """List the images and open what was decoded once; put it on the device if it fits there."""
        self._split()
        for part in self._squares:
            images, labels = self._open(part)
            device = self._device
            if device.type == "cuda" and images.device.type == "cpu":
                free, _ = torch.cuda.mem_get_info(device)
                if images.nbytes > free / 2:  # the rest is for training; batches come from the CPU's memory then
                    device = images.device
            self._decoded[id(part)] = (images.to(device), labels.to(device))

    def _split(self) -> None:
        """Choose, once, the images to train, validate and test on."""
        if self._images:
            return
        train, test = self.tree.train, self.tree.val
        self.check_taken()
        order = balanced_order(train.labels)
        held, rest = order[: self.held_out], order[self.held_out :]
        used = self.train_images
        if self.images_per_class is not None:
            used = self.images_per_class * self.num_classes
            counts = train.labels[rest].bincount(minlength=self.num_classes)
            if (fewest := int(counts.min())) < self.images_per_class:
                raise ValueError(
                    f"images_per_class={self.images_per_class} cannot be taken from "
                    f"{self.tree.folder / 'train' / self.tree.classes[int(counts.argmin())]}, which with "
                    f"held_out={self.held_out} has {fewest}; it must be at most that"
                )
        self._images = {"train": train.take(rest[:used]), "val": train.take(held) if len(held) else test, "test": test}

    @property
    def _folders(self) -> list[str]:
        """Where to look; not in a folder of images that are too small and would have to be enlarged."""
        return [name for name in self.folders if self.sides.get(name, self._resize) >= self._resize]

    @property
    def _resize(self) -> int:
        """Pixels of an image's shorter side, out of whose middle a picture is cut."""
        size = self.shape[1]
        return size if size == self.square else resize_to(size)

    @property
    def _squares(self) -> list[Images]:
        """The images that are decoded once, each split once: validation images may be the test images."""
        train = self._images["train"]
        parts = list({id(images): images for images in self._images.values()}.values())
        if self.augment is True and self.shape[1] != self.square:  # a random part of the whole image is wanted
            parts = [part for part in parts if part is not train]
        small = cache_bytes(sum(map(len, parts)), self._resize) <= self.cache_gib * 2**30
        return parts if small else [train] if self.augment == "square" else []

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @property
    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cpus // (self.trainer.num_devices if self.trainer else 1))

    def _open(self, part: Images) -> tuple[torch.Tensor, torch.Tensor]:
        if id(part) not in self._decoded:
            self._decoded[id(part)] = (open_cache(part, self._resize, self.cache_dir, self._workers), part.labels)
        return self._decoded[id(part)]

    def _loader(self, split: str, seed: int | None, augment: bool) -> CropLoader | DecodingLoader:
        self.setup()
        rank, world_size = self._ranks
        part, size, device = self._images[split], self.shape[1], self._device
        if id(part) in self._decoded:
            return CropLoader(
                *self._decoded[id(part)], self.batch_size, self.mean, self.std, size=size, device=device,
                seed=seed, augment=augment, rank=rank, world_size=world_size,
            )  # fmt: skip
        loader = DecodingLoader(
            part, self.batch_size, self.mean, self.std, size=size, resize=self._resize, device=device,
            workers=self._workers, seed=seed, augment=augment, rank=rank, world_size=world_size,
        )  # fmt: skip
        if self.trainer:
            self._decoding.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the processes that decoded for the trainer."""
        while self._decoding:
            self._decoding.pop().close()


class ImageNet100Data(ImageNetData):
    """100 classes of ILSVRC-2012, those that `imagenet100/` in `root` has: several lists go by the name ImageNet-100.

    Out of the whole ILSVRC-2012 they are picked by `ImageNetData` with `classes`, a file of their wnids.
    """

    name = "imagenet100"
    folders = ("imagenet100", "imagenet-100", "ImageNet100", "ImageNet-100")
    count = 100


class ImagenetteData(ImageNetData):
    """Imagenette: 9,469 training and 3,925 test images of 10 easy classes; downloaded if it is missing.

    Not ILSVRC-2012's split of its images, so it is not picked out of that. https://github.com/fastai/imagenette
    """

    name = "imagenette"
    folders = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette")
    sides: ClassVar = {"imagenette2-320": 320, "imagenette2-160": 160}
    own_classes, count = "imagenette", 10
    source = "Imagenette"
    archives: ClassVar = {
        160: ("160px", "imagenette2-160", "e793b78cc4c9e9a4ccc0c1155377a412"),
        320: ("320px", "imagenette2-320", "3df6f0d01a2c9592104656642f5e78a3"),
        10_000: ("full", "imagenette2", "fe2fc210e6bb7c5664d602c3cd71e612"),
    }
    where = "https://github.com/fastai/imagenette"


class ImagewoofData(ImageNetData):
    """Imagewoof: 9,025 training and 3,929 test images of 10 breeds of dogs. https://github.com/fastai/imagenette."""

    name = "imagewoof"
    folders = ("imagewoof2", "imagewoof2-320", "imagewoof2-160", "imagewoof")
    sides: ClassVar = {"imagewoof2-320": 320, "imagewoof2-160": 160}
    own_classes, count = "imagewoof", 10
    where = "https://github.com/fastai/imagenette"


class TinyImageNetData(ImageNetData):
    """Tiny ImageNet: 100,000 training and 10,000 test images of 64x64 pixels of 200 classes of ImageNet."""

    name = "tiny-imagenet"
    folders = ("tiny-imagenet-200", "tiny-imagenet")
    count, square = 200, 64
    where = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class TinyImageNet100Data(ImageNetData):
    """100 classes of Tiny ImageNet: 50,000 training and 5,000 test images of 64x64 pixels.

    From `tiny-imagenet-100/` in `root`, or picked out of Tiny ImageNet.
    """

    name = "tiny-imagenet-100"
    folders = ("tiny-imagenet-100", *TinyImageNetData.folders)
    own_classes, count, subset, square = "tiny-imagenet-100", 100, True, 64
    where = TinyImageNetData.where


def resize_to(size: int) -> int:
    """To how many pixels an image's shorter side is resized before its middle, of `size` pixels, is cut out.

    8/7 of the size, as the usual 256 for 224, but the margin is a multiple of 4: then cutting a square out of the
    middle, and the picture out of the middle of that, is the same as cutting it out at once.
    """
    return size + 4 * round(size / 28)
