"""Batches of square pictures from large images: from a cache of decoded squares, or decoded by workers."""

import warnings
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from lit_hidden.data.crops import DRAWS, crop_boxes, resized_crops
from lit_hidden.data.decode import Pictures, Places, decoder
from lit_hidden.data.files import DataError
from lit_hidden.data.loader import BatchLoader, EpochLoader, to_device
from lit_hidden.data.trees import Images


def draw_crops(loader: EpochLoader) -> tuple[Tensor, Tensor]:
    """Draws of `crop_boxes`, float32 `(N, DRAWS)`, and flips, int64 `(N,)`, by position in the loader's epoch."""
    draws = torch.rand((loader.count, DRAWS), generator=loader.generator("crop"))
    return draws, torch.randint(2, (loader.count,), generator=loader.generator("flip"))


@dataclass(eq=False, repr=False)
class CropLoader(BatchLoader):
    """Batches from decoded squares, uint8 `(N, 3, S, S)`: random crops, resized and mirrored, or their middle."""

    _: KW_ONLY
    size: int  # height and width of the pictures, at most S
    augment: bool  # crop and flip at random, if there is a seed

    def draw(self) -> tuple[Tensor, ...]:
        """Boxes and flips of `resized_crops` for the epoch."""
        if self.seed is None or not self.augment:
            return ()
        draws, flips = draw_crops(self)
        side = self.images.shape[-1]
        return to_device(self.device, torch.from_numpy(crop_boxes(draws.numpy(), side, side)), flips)

    def _augmented(self, images: Tensor, *draws: Tensor) -> Tensor:
        if draws:
            return resized_crops(images, *draws, size=self.size)
        margin = (images.shape[-1] - self.size) // 2
        return images[..., margin : margin + self.size, margin : margin + self.size]


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
