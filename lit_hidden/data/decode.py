"""Image files to uint8 pixels: converted to RGB, resized and cropped by torchvision, batch by batch in workers.

Pillow decodes: with a random crop and its resize to 224 pixels 300 images a second on one thread, where
`torchvision.io.decode_jpeg` gave 210. The pixels are the same, and Pillow also reads CMYK, palettes and 16 bits.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from lit_hidden.data.crops import crop_boxes
from lit_hidden.data.files import Unfit
from lit_hidden.data.trees import Images
from lit_hidden.files import regular

# Of a batch: indices of the images `(B,)`; to augment them also draws of `crop_boxes` `(B, DRAWS)` and flips `(B,)`.
Places = tuple[np.ndarray, ...]
# Pixels uint8 `(B, 3, S, S)`, labels int64 `(B,)`; files that another image stands in for, and files without.
Decoded = tuple[Tensor, Tensor, list[str], list[str]]


def load(path: Path) -> Image.Image:
    """Decode an image and convert it to RGB.

    Of 16 bits the upper 8 stay; transparency and an orientation in EXIF are ignored, as torchvision's loaders do. The
    content decides, not the name: ILSVRC-2012 has a PNG called .JPEG.

    Raises:
        Unfit: it cannot be decoded to its end.
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
    """Image files as squares of pixels, batch by batch: what worker processes do.

    With draws a picture is a random crop of the whole image, resized and perhaps mirrored, as torchvision's
    `RandomResizedCrop` and `RandomHorizontalFlip` make it; without, that of `Resize(resize)` and `CenterCrop(size)`.

    Args:
        images: the files.
        size: height and width of a picture.
        resize: the shorter side of an image before the centre crop.
        stand_in: show the next image of the same class in place of a damaged one. Otherwise the picture is black.
    """

    def __init__(self, images: Images, size: int, resize: int, *, stand_in: bool = False) -> None:
        self.images, self.size, self.resize, self.stand_in = images, size, resize, stand_in

    def __getitem__(self, places: Places) -> Decoded:
        """Decode a batch."""
        indices, *draws = places
        replaced: list[str] = []
        lost: list[str] = []
        pictures = []
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
        """Decode an image, or the one that stands in for it."""
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
    """Decode `batches` in their order, ahead of what is asked for, in `workers` processes; with 0 in this one.

    Each iteration reads the list anew. `pin`: decode into memory from which copies to a GPU do not wait. `persistent`:
    workers live until the decoder is dropped.
    """
    return DataLoader(
        pictures,
        batch_size=None,  # `pictures` makes the batches itself
        sampler=batches,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=persistent and workers > 0,
        generator=torch.Generator(),  # otherwise it would draw from the global one
    )
