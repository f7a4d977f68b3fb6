"""Image files to uint8 pixels, decoded by Pillow, resized and cropped by torchvision: in every epoch, or once."""

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF
from torchvision.transforms import v2

from lit_hidden.data.crops import crop_boxes
from lit_hidden.data.files import DataError, checked, whole
from lit_hidden.data.loader import EpochLoader, draw_crops, to_device
from lit_hidden.data.trees import Images
from lit_hidden.errors import missing

MEND = "replace or delete it and run again"
FORMAT = 3  # raise it when equal files no longer give equal pixels
CHUNK = 64  # images that a worker decodes at a time, of those decoded once
Places = tuple[np.ndarray, ...]  # of a batch: indices `(B,)`; to augment also draws `(B, DRAWS)` and flips `(B,)`


def load(path: Path) -> Image.Image:
    """Decode an image and convert it to RGB as torchvision's `ImageFolder` does, or raise a `DataError`."""
    with checked(path, MEND), warnings.catch_warnings():
        if missing(path):
            raise FileNotFoundError
        warnings.simplefilter("ignore")  # about damaged EXIF, which is not read, and about very large images
        with Image.open(path) as image:
            if not image.mode.startswith("I"):
                return image.convert("RGB")
            greys = np.asarray(image).clip(0, 2**16 - 1) // 257  # of 16 bits, which Pillow would cut off at 255
            return Image.fromarray(greys.astype(np.uint8)).convert("RGB")


def transform(about: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    """Return what turns a picture (PIL, or uint8 `(..., C, H, W)`) into the input `(..., C, S, S)` of a net.

    Resized and normalised as the test images of the net's data, whose `ImageData.about` this is; inputs that are no
    images only become tensors.
    """
    if "mean" not in about:
        return torch.as_tensor
    size, resize = about["image_size"], about.get("resize")
    cut = [v2.Resize(resize), v2.CenterCrop(size)] if resize else [v2.Resize((size, size))]
    colour = v2.Grayscale(1) if about["in_channels"] == 1 else v2.RGB()
    scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(about["mean"], about["std"])]
    made: Callable[[Any], Tensor] = v2.Compose([v2.ToImage(), colour, *cut, *scale])
    return made


@dataclass
class Pictures(Dataset[tuple[Tensor, Tensor] | DataError]):
    """Image files as squares of `size` pixels, uint8 `(B, 3, size, size)`, by the batch: what worker processes do.

    With draws a picture is a random crop of the whole image, resized and perhaps mirrored, as torchvision's
    `RandomResizedCrop` and `RandomHorizontalFlip` make it; without, that of `Resize(resize)` and `CenterCrop(size)`.
    """

    images: Images
    size: int
    resize: int

    def __getitem__(self, places: Places) -> tuple[Tensor, Tensor] | DataError:
        """Decode a batch; an error is returned, because one raised in a worker would bring its traceback as text."""
        indices, *draws = places
        try:
            pictures = [self._picture(index, *(d[i] for d in draws)) for i, index in enumerate(indices.tolist())]
        except DataError as error:
            return error
        return torch.stack(pictures), self.images.labels[indices]

    def _picture(self, index: int, *draw: np.ndarray) -> Tensor:
        image = load(self.images.path(index))
        if draw:
            box = crop_boxes(draw[0][None], image.height, image.width)[:, 0].tolist()
            image = TF.resized_crop(image, *box, [self.size, self.size])
            image = TF.hflip(image) if draw[1] else image
        else:
            image = TF.center_crop(TF.resize(image, [self.resize]), [self.size, self.size])
        pixels: Tensor = TF.pil_to_tensor(image)
        return pixels


@dataclass(eq=False, repr=False)
class DecodingLoader(EpochLoader):
    """Batches of `Pictures` from image files; a `DataError` while iterating: an image cannot be decoded.

    Worker processes decode ahead of what is asked for. Pictures are the same for any number of workers.
    """

    images: Images
    _: KW_ONLY
    size: int  # height and width of the pictures
    resize: int  # the shorter side of an image before the centre crop
    workers: int  # processes that decode, from the first iteration on; 0 decodes in this one
    augment: bool  # crop and flip at random, if there is a seed

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ahead: list[Places] = []  # what the workers decode, batch by batch
        self._decoder = DataLoader(
            Pictures(self.images, self.size, self.resize),
            batch_size=None,  # `Pictures` makes the batches itself
            sampler=self._ahead,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # otherwise it would draw from the global one
        )

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = [each.numpy() for each in (self.order(), *draw_crops(self))]
        self._ahead[:] = [tuple(each[mine] for each in epoch) for mine in map(self.mine, range(start, self.batches))]
        for batch in self._decoder:
            if isinstance(batch, DataError):
                raise batch
            images, labels = to_device(self.device, *batch)
            yield self._normalised(images), labels


def decoded_once(images: Images, size: int, folder: Path, workers: int) -> Tensor:
    """Give the middle squares of images, resized to `size` pixels; decode them now if that was not done.

    They are uint8 `(N, 3, size, size)` on the CPU, mapped from `folder/<key>.pixels`: all processes share it, and pages
    are read as they are needed. The key follows from the files' paths, sizes and times of change. DataError: an image
    cannot be decoded, or the disk cannot hold them; it leaves nothing behind.
    """
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for i, name in enumerate(images.names.tolist()):
        with checked(images.path(i), MEND):
            stat = images.path(i).stat()
        digest.update(b"%d %d %s\n" % (stat.st_size, stat.st_mtime_ns, name))
    path, shape = folder / f"{digest.hexdigest()[:16]}.pixels", (len(images), 3, size, size)
    if not path.exists():
        rank_zero_info(f"Decoding {len(images)} images, once, into {path}")
        squares = DecodingLoader(  # with no mean, pixels as they are
            images, images.labels, CHUNK, (), (), size=size, resize=size, workers=workers, augment=False
        )
        try:
            with whole(folder, path.name) as new, (new / path.name).open("wb") as file:
                for pixels, _ in squares:
                    # Written, not mapped: a write to a full disk raises, a mapped page would kill the process.
                    file.write(pixels.numpy().data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            mend = "make room, or set CACHE_DIR to another folder, or decode anew in every epoch: cache_gib=0"
            raise DataError(f"{folder} cannot take {math.prod(shape)} bytes of images ({error}); {mend}") from error
    with checked(path, "delete it and run again"):
        return torch.from_file(str(path), size=math.prod(shape), dtype=torch.uint8).view(shape)
