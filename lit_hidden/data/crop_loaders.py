"""Batches of square pictures, cut at random out of images: from a cache of decoded ones, or decoded by workers."""

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lit_hidden.data.crops import DRAWS, crop_boxes, resized_crops
from lit_hidden.data.decode import Pictures, Places, decoder
from lit_hidden.data.files import DataError
from lit_hidden.data.loader import EpochLoader, check_tensors, to_device
from lit_hidden.data.trees import Images


class _CropLoader(EpochLoader):
    """An `EpochLoader` that draws a random part of each image, and whether it is mirrored."""

    augment: bool

    def _check_seed(self) -> None:
        if self.augment and self.seed is None:
            raise ValueError(
                "augment=True cannot be drawn without a seed; give a seed to train, or augment=False to evaluate"
            )

    def _draw(self) -> tuple[Tensor, Tensor]:
        """What crops are made from, float32 `(N, DRAWS)`, and flips, int64 `(N,)`, by place in the epoch."""
        return (
            torch.rand((self.count, DRAWS), generator=self._generator("crop")),
            torch.randint(2, (self.count,), generator=self._generator("flip")),
        )


class CropLoader(_CropLoader):
    """Batches from decoded images: random parts of them, resized and mirrored on the device, or their middle.

    Order, ranks and resuming are those of `EpochLoader`; the crops are those of `resized_crops`.

    Args:
        images: uint8 `(N, 3, S, S)`; on `device`, or on the CPU if they do not fit there.
        labels: int64 `(N,)`, where the images are.
        batch_size: images in a batch, over all ranks together.
        mean: a number per channel, for pixels in [0, 1].
        std: a number per channel, for pixels in [0, 1].
        size: height and width of the pictures, at most S.
        device: where batches are wanted; None is where the images are.
        seed: seed of order and augmentation; None for evaluation: the order of `images`, nothing augmented.
        augment: crop and flip at random.
        rank: which of the ranks this is, from 0.
        world_size: number of ranks.

    Raises:
        ValueError: a tensor or a number is not as above.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: int,
        device: torch.device | None = None,
        seed: int | None = None,
        augment: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_tensors(images, labels, mean, std)
        if images.shape[2] != images.shape[3] or not 1 <= size <= images.shape[3]:
            raise ValueError(
                f"pictures of size={size} cannot be cut out of images {tuple(images.shape)}; "
                "those must be square and at least as large"
            )
        super().__init__(
            len(images), batch_size, mean, std,
            device=device or images.device, seed=seed, rank=rank, world_size=world_size,
        )  # fmt: skip
        self.images, self.labels, self.size, self.augment = images, labels, size, augment
        self._check_seed()

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        (order,) = to_device(self.images.device, self._order())
        if self.augment:
            draws, flips = self._draw()
            boxes = torch.from_numpy(crop_boxes(draws.numpy(), self.images.shape[2], self.images.shape[3]))
            boxes, flips = to_device(self.device, boxes, flips)
        margin = (self.images.shape[3] - self.size) // 2
        middle = slice(margin, margin + self.size)
        for batch in range(start, len(self)):
            mine = self._mine(batch)
            picked = self.images.index_select(0, order[mine]), self.labels.index_select(0, order[mine])
            images, labels = to_device(self.device, *picked) if self.images.device.type != self.device.type else picked
            if self.augment:
                yield resized_crops(images, boxes[:, mine], flips[mine], self.size), labels
            else:
                yield images[:, :, middle, middle], labels


class DecodingLoader(_CropLoader):
    """Batches from image files that worker processes decode, ahead of what is asked for.

    Order, ranks and resuming are those of `EpochLoader`; pictures are those of `Pictures`, the same for any number of
    workers. In training a damaged file is told in one warning, and another image of its class stands in for it.

    Args:
        images: the files.
        batch_size: images in a batch, over all ranks together.
        mean: a number per channel, for pixels in [0, 1].
        std: a number per channel, for pixels in [0, 1].
        size: height and width of the pictures.
        resize: pixels of an image's shorter side, out of whose middle a picture is cut that is not augmented.
        device: where batches are wanted.
        workers: processes that decode; 0 decodes in this one. They live until `close`.
        seed: seed of order and augmentation; None for evaluation: the order of `images`, nothing augmented.
        augment: crop and flip at random.
        rank: which of the ranks this is, from 0.
        world_size: number of ranks.

    Raises:
        ValueError: a number is not as above.
        DataError: in an iteration: an image to evaluate on is damaged, or to train on, and all others of its class.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: int,
        resize: int,
        device: torch.device,
        workers: int,
        seed: int | None = None,
        augment: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(images), batch_size, mean, std, device=device, seed=seed, rank=rank, world_size=world_size)
        self.images, self.augment = images, augment
        self._check_seed()
        self._told: set[str] = set()
        self._ahead: list[Places] = []  # what the workers are to decode, batch by batch
        pictures = Pictures(images, size, resize, stand_in=seed is not None)
        self._decoder = decoder(pictures, self._ahead, workers, pin=device.type == "cuda", persistent=True)

    def close(self) -> None:
        """End the workers; another iteration starts new ones.

        Garbage collection would have closed their queues before it says so to them, and then waits 5 s for each.
        """
        workers = self._decoder._iterator
        self._decoder._iterator = None
        if workers is not None:
            workers._shutdown_workers()  # type: ignore[attr-defined]  # as Lightning ends those of its loaders

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._ahead[:] = self._places(start)
        for images, labels, damage in self._decoder:
            if damage and self.seed is None:  # accuracies are of all images, each counted once
                raise DataError(f"{damage[0]}; replace it and run again: no other image is evaluated in its place")
            for wrong in damage:
                if wrong not in self._told:
                    self._told.add(wrong)
                    warnings.warn(wrong, stacklevel=2)
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _places(self, start: int) -> Iterator[Places]:
        order = self._order().numpy()
        draws, flips = (draw.numpy() for draw in self._draw()) if self.augment else (None, None)
        for mine in map(self._mine, range(start, len(self))):
            if draws is None or flips is None:
                yield Places(order[mine])
            else:
                yield Places(order[mine], draws[mine], flips[mine])
