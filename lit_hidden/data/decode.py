"""Image files to uint8 pixels, whatever is in them: RGB, resized and cut as torchvision's transforms do.

Pillow decodes. Measured on one thread of a busy two-core machine, JPEGs of 500x375 pixels and 98 kB: decoding alone
440 images a second (`torchvision.io.decode_jpeg`: 530), with a random part and its resize to 224 pixels 300 (210). The
pixels are the same, Pillow also reads CMYK, palettes and 16 bits, and torchvision is giving its decoders up.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hidden.data.crops import crop_boxes
from lit_hidden.data.files import DataError, Unfit
from lit_hidden.data.trees import Images
from lit_hidden.files import regular


def load(path: Path) -> Image.Image:
    """Decode an image and convert it to RGB.

    Greyscale is repeated; CMYK and palettes are converted by Pillow; of 16 bits the upper 8 stay; transparency is
    dropped. The content decides, not the name: ILSVRC-2012 has a PNG called .JPEG. An orientation in EXIF is not
    followed, as torchvision's loaders do not.

    Raises:
        Unfit: it cannot be decoded to its end.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which is not read; of images larger than most
            with Image.open(regular(path)) as image:
                if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
                    grey = np.asarray(image).clip(0, 65_535) >> 8
                    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
                return image.convert("RGB")
    except Exception as error:  # what a damaged file may raise has no bounds
        raise Unfit(f"cannot be decoded ({type(error).__name__}: {error})") from error


def middle(image: Image.Image, resize: int, size: int) -> Image.Image:
    """Resize the shorter side to `resize` pixels, bilinearly and antialiased, and cut a square out of the middle.

    The picture of torchvision's `Resize(resize)` and `CenterCrop(size)`.
    """
    short = min(image.size)
    if short != resize:
        width, height = (resize * side // short for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def part(image: Image.Image, draws: np.ndarray, size: int) -> Image.Image:
    """Cut the box of these draws, see `crop_boxes`, out of an image and resize it, bilinearly and antialiased."""
    top, left, height, width = crop_boxes(draws[None], image.height, image.width)[:, 0].tolist()
    box = image.crop((left, top, left + width, top + height))
    return box.resize((size, size), Image.Resampling.BILINEAR)


class Places(NamedTuple):
    """Which images a batch is of, and what was drawn for each, arrays `(B, ...)`; None draws nothing."""

    indices: np.ndarray
    crops: np.ndarray | None = None  # see `crop_boxes`
    flips: np.ndarray | None = None


class Decoded(NamedTuple):  # of tuples, DataLoader can pin the memory
    """Pixels uint8 `(B, 3, S, S)`, labels int64 `(B,)`, and what is wrong with which files."""

    images: Tensor
    labels: Tensor
    damage: list[str]


class Pictures(Dataset[Decoded]):
    """Image files as squares of pixels, batch by batch: what worker processes do.

    Without augmentation a picture is the middle of the image, its shorter side resized to `resize` pixels. With it, it
    is a random part of the whole image, resized, as torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.

    Args:
        images: the files.
        size: height and width of a picture.
        resize: pixels of the shorter side.
        stand_in: for a damaged file take the next one of its class that is whole, and say so, to train; otherwise a
            damaged file is a black picture and said, for whoever asks to refuse it.
    """

    def __init__(self, images: Images, size: int, resize: int, *, stand_in: bool = True) -> None:
        self.images, self.size, self.resize, self.stand_in = images, size, resize, stand_in

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    # The method that DataLoader calls once a batch.
    def __getitems__(self, places: Places) -> Decoded:
        """Decode a batch.

        Raises:
            DataError: all images of a class are damaged.
        """
        pixels = torch.empty(len(places.indices), 3, self.size, self.size, dtype=torch.uint8)
        damage: list[str] = []
        for i, index in enumerate(places.indices.tolist()):
            image = self._load(index, damage)
            if places.crops is None or places.flips is None:
                picture = np.asarray(middle(image, self.resize, self.size))
            else:
                picture = np.asarray(part(image, places.crops[i], self.size))
                picture = picture[:, ::-1] if places.flips[i] else picture
            pixels[i] = torch.from_numpy(picture.transpose(2, 0, 1).copy())
        return Decoded(pixels, self.images.labels[places.indices], damage)

    def _load(self, index: int, damage: list[str]) -> Image.Image:
        try:
            return load(self.images.path(index))
        except Unfit as error:
            wrong = f"{self.images.path(index)} {error}"
        if not self.stand_in:
            damage.append(wrong)
            return Image.new("RGB", (self.resize, self.resize))
        alike = (self.images.labels == self.images.labels[index]).nonzero().view(-1)
        after = alike[(torch.arange(1, len(alike)) + int((alike < index).sum())) % len(alike)]
        for other in after.tolist():
            try:
                image = load(self.images.path(other))
            except Unfit:
                continue
            damage.append(f"{wrong}; {self.images.path(other)}, of the same class, stands in for it in every epoch")
            return image
        raise DataError(f"{wrong}, and no other image of its class can; replace or delete these files and run again")


def decoder(
    pictures: Pictures, batches: list[Places], workers: int, *, pin: bool = False, persistent: bool = False
) -> DataLoader[Decoded]:
    """Decode `batches`, in their order, in `workers` processes, ahead of what is asked for; with 0, in this one.

    The list is read anew at each iteration. `pin` puts what is decoded where copies to a GPU need not wait;
    `persistent` workers stay until the decoder is dropped.
    """
    return DataLoader(
        pictures,
        batch_sampler=batches,  # type: ignore[arg-type]  # what `__getitems__` takes is its own affair
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # `__getitems__` has made a batch already
        pin_memory=pin,
        persistent_workers=persistent and workers > 0,
        generator=torch.Generator(),  # or it would draw from the global one
    )


def _as_it_is(batch: Decoded) -> Decoded:
    return batch
