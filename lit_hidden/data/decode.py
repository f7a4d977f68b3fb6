"""Image files to uint8 pixels: decoded by Pillow, resized and cropped by torchvision, batch by batch in workers.

With Pillow a thread decoded and cropped 300 images a second, with `torchvision.io` 210; the pixels are equal.
"""

import warnings
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from lit_hidden.data.crops import crop_boxes
from lit_hidden.data.files import DataError, Unfit
from lit_hidden.data.loader import EpochLoader, draw_crops, to_device
from lit_hidden.data.trees import Images
from lit_hidden.files import regular

# Of a batch: indices of the images `(B,)`; to augment them also draws of `crop_boxes` `(B, DRAWS)` and flips `(B,)`.
Places = tuple[np.ndarray, ...]
# Pixels uint8 `(B, 3, S, S)`, labels int64 `(B,)`; files that another image stands in for, and files without.
Decoded = tuple[Tensor, Tensor, list[str], list[str]]


def load(path: Path) -> Image.Image:
    """Decode an image and convert it to RGB, or raise `Unfit`.

    Of 16 bits the upper 8 stay; transparency and an orientation in EXIF are ignored, as torchvision's loaders do. The
    content decides, not the name: ILSVRC-2012 has a PNG called .JPEG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged EXIF, which is not read, and about very large images
            with Image.open(regular(path)) as image:
                if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
                    grey = np.asarray(image).clip(0, 65_535) >> 8
                    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
                return image.convert("RGB")
    except Exception as error:  # a damaged file may raise anything
        raise Unfit(f"cannot be decoded ({type(error).__name__}: {error})") from error


class Pictures(Dataset[Decoded]):
    """Image files as squares of `size` pixels, batch by batch: what worker processes do.

    With draws a picture is a random crop of the whole image, resized and perhaps mirrored, as torchvision's
    `RandomResizedCrop` and `RandomHorizontalFlip` make it; without, that of `Resize(resize)` and `CenterCrop(size)`.
    With `stand_in` the next image of the same class is shown in place of a damaged one, otherwise a black picture.
    """

    def __init__(self, images: Images, size: int, resize: int, *, stand_in: bool = False) -> None:
        self.images, self.size, self.resize, self.stand_in = images, size, resize, stand_in

    def __getitem__(self, places: Places) -> Decoded:
        """Decode a batch."""
        indices, *draws = places
        pictures, replaced, lost = [], list[str](), list[str]()
        for i, index in enumerate(indices.tolist()):
            image = self._load(index, replaced, lost)
            if draws:
                box = crop_boxes(draws[0][i : i + 1], image.height, image.width)[:, 0].tolist()
                image = TF.resized_crop(image, *box, [self.size, self.size])
                image = TF.hflip(image) if draws[1][i] else image
            else:
                image = TF.center_crop(TF.resize(image, [self.resize]), [self.size, self.size])
            pictures.append(TF.pil_to_tensor(image))
        return torch.stack(pictures), self.images.labels[indices], replaced, lost

    def _load(self, index: int, replaced: list[str], lost: list[str]) -> Image.Image:
        """Decode an image, or one that stands in for it."""
        try:
            return load(self.images.path(index))
        except Unfit as error:
            wrong = f"{self.images.path(index)} {error}"
        alike = (self.images.labels == self.images.labels[index]).nonzero().view(-1).tolist()
        for other in sorted(alike, key=lambda other: (other < index, other)) if self.stand_in else []:
            try:
                image = load(self.images.path(other))
            except Unfit:
                continue
            replaced.append(f"{wrong}; {self.images.path(other)}, of the same class, stands in for it in every epoch")
            return image
        lost.append(wrong)
        return Image.new("RGB", (self.resize, self.resize))


def decoder(
    pictures: Pictures, batches: list[Places], workers: int, *, pin: bool = False, persistent: bool = False
) -> DataLoader[Decoded]:
    """Decode `batches` ahead of what is asked for, in `workers` processes; each iteration reads the list anew."""
    return DataLoader(
        pictures,
        batch_size=None,  # `pictures` makes the batches itself
        sampler=batches,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=persistent and workers > 0,
        generator=torch.Generator(),  # otherwise it would draw from the global one
    )


@dataclass(eq=False, repr=False)
class DecodingLoader(EpochLoader):
    """Batches from image files that worker processes decode, ahead of what is asked for.

    Pictures are those of `Pictures`, the same for any number of workers. In training one warning names a damaged file,
    and another image of its class stands in for it.

    Raises:
        DataError: while iterating: an image to evaluate on is damaged; or one to train on, and all others of its class.
    """

    images: Images
    _: KW_ONLY
    size: int  # height and width of the pictures
    resize: int  # the shorter side of an image before the centre crop
    workers: int  # processes that decode, which live until `close`; 0 decodes in this one
    augment: bool  # crop and flip at random, if there is a seed

    def __post_init__(self) -> None:
        super().__post_init__()
        self._told: set[str] = set()
        self._ahead: list[Places] = []  # what the workers decode, batch by batch
        pictures = Pictures(self.images, self.size, self.resize, stand_in=self.seed is not None)
        self._decoder = decoder(pictures, self._ahead, self.workers, pin=self.device.type == "cuda", persistent=True)

    def close(self) -> None:
        """End the workers; the next iteration starts new ones. Garbage collection would wait 5 s for each."""
        workers: Any = self._decoder._iterator
        self._decoder._iterator = None
        if workers is not None:
            workers._shutdown_workers()  # as Lightning ends those of its loaders

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        draws = draw_crops(self) if self.augment and self.seed is not None else ()
        epoch = [self.order().numpy(), *(draw.numpy() for draw in draws)]
        self._ahead[:] = [tuple(each[mine] for each in epoch) for mine in map(self.mine, range(start, self.batches))]
        for images, labels, replaced, lost in self._decoder:
            if lost:
                raise DataError(f"{lost[0]}; replace it and run again: no other image can stand in for it")
            for wrong in replaced:
                if wrong not in self._told:
                    self._told.add(wrong)
                    warnings.warn(wrong, stacklevel=2)
            images, labels = to_device(self.device, images, labels)
            yield self._normalised(images), labels
