"""Batches of images that live, as uint8 tensors, on the training device: shuffled, augmented, normalised.

The random numbers of an epoch are drawn on the CPU from (seed, epoch): the same pictures anywhere and after a resume.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from lit_hidden.data.crops import DRAWS, crop_and_flip, crop_boxes, resized_crops
from lit_hidden.steps import Block


@dataclass(eq=False, repr=False)
class EpochLoader:
    """The base of all loaders: the order of an epoch, each rank's images, and where to continue.

    An iteration yields `(images, labels)`: float32 `(B, C, H, W)`, scaled to [0, 1], then normalised; and int64 `(B,)`.
    Each of several ranks takes every `world_size`-th image of the same batch. Ranks for which a last batch has no image
    repeat one, which `share` does not count.
    """

    images: Any
    labels: Tensor
    batch_size: int  # over all ranks together
    mean: Sequence[float]  # of each channel, for pixels in [0, 1]; with none, inputs are yielded as they are
    std: Sequence[float]
    _: KW_ONLY
    seed: int | None = None  # of order and augmentation; None for evaluation: in order, not augmented
    to: torch.device | None = None  # of the batches; None is where the labels are
    rank: int = 0
    world_size: int = 1

    batch_sampler = None  # Lightning asks what has a sampler for this too
    at_once = 0  # batches in each `Block` that an iteration yields, for `lit_hidden.steps.Steps`; 0 yields batches

    def __post_init__(self) -> None:
        if self.batch_size < self.world_size:
            raise ValueError(f"batch_size={self.batch_size} leaves a rank without images: there are {self.world_size}")
        self.count, self.device, self.epoch = len(self.labels), self.to or self.labels.device, 0
        self.batches = -(-self.count // self.batch_size)  # in an epoch, the same on every rank
        scale = (torch.tensor(x, dtype=torch.float32, device=self.device) for x in (self.mean, self.std))
        self._mean, self._std = (x.view(-1, 1, 1) for x in scale)
        self._start = self._seen = 0  # batches that the next iteration leaves out, and those yielded of this epoch

    def __len__(self) -> int:
        return -(-self.batches // (self.at_once or 1))

    # A generator: Lightning calls iter() first and sets the epoch later, before it asks for the first batch.
    def __iter__(self) -> Iterator[Any]:
        start, self._start = self._start, 0
        for number, batch in enumerate(self._batches(start), 1):
            # Counted before the batch is used: a checkpoint may be written while it is.
            self._seen = min(start + number * (self.at_once or 1), self.batches)
            yield batch

    def _batches(self, start: int) -> Iterator[Any]:
        raise NotImplementedError  # this rank's batches, or blocks of batches, from batch number `start` on

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std) if self.mean else images

    def mine(self, batch: int) -> slice:
        """The positions in the epoch that this rank takes of a batch, from 0."""
        start, stop = batch * self.batch_size, min((batch + 1) * self.batch_size, self.count)
        return slice(start + self.rank % (stop - start), stop, self.world_size)

    def share(self, batch: int) -> tuple[int, int]:
        """How many images of an epoch's `batch`, from 0, count for this rank, and how many for all ranks together."""
        whole = min(self.batch_size, self.count - batch * self.batch_size)
        return len(range(self.rank, whole, self.world_size)), whole

    @property
    def sampler(self) -> Self:
        """The loader itself: Lightning calls `sampler.set_epoch` before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order and augmentation the next `iter` yields."""
        if epoch != self.epoch:
            self.epoch, self._start, self._seen = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where to continue, the same on every rank. A batch in training counts as done."""
        return {"epoch": self.epoch, "batches_seen": self._seen, "at_once": self.at_once}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken, unless another epoch is set first."""
        seen, by = state["batches_seen"], state.get("at_once", 0)
        if by != self.at_once and 0 < seen < self.batches:
            raise ValueError(f"the checkpoint took {by or 1} batches at once and not {self.at_once or 1}; delete it")
        self.epoch, self._start, self._seen = state["epoch"], seen, seen

    def order(self) -> Tensor:
        """The index of the image at each position of the epoch, int64 `(N,)`, on the CPU."""
        if self.seed is None:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=self.generator("order"))

    def generator(self, use: str) -> torch.Generator:
        """A generator for each epoch and `use`. Hashed, not added: seed 0 in epoch 1 must not be seed 1 in epoch 0."""
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{use}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


@dataclass(eq=False, repr=False)
class BatchLoader(EpochLoader):
    """Batches of `images`, uint8 `(N, C, H, W)`, and `labels`, int64 `(N,)`; for training shuffled and augmented.

    Inputs of another dtype with any targets, both `(N, ...)`, have no mean and std.
    """

    images: Tensor
    _: KW_ONLY
    crop: int = 0  # pixels of zero padding around an image, of which a random part of its size is cut
    flip: bool = False  # mirror an image, left to right, with probability 1/2
    at_once: int = 0  # on one rank only

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = self.images.shape[1] if self.images.dtype == torch.uint8 else 0
        if (len(self.images), len(self.mean), len(self.std)) != (self.count, channels, channels):
            given = f"{self.images.dtype} {tuple(self.images.shape)}, {self.count} labels, {self.mean} and {self.std}"
            raise ValueError(f"{given} do not fit: mean and std are of each channel of uint8 images, else ()")
        self._drawn: tuple[Tensor, ...] = ()  # of the present epoch, always in the same memory

    def _batches(self, start: int) -> Iterator[Any]:
        order, *draws = to_device(self.images.device, self.order()) + self._draw()
        if self.at_once:
            self._fill(order, draws)
            for first in range(start, self.batches, self.at_once):
                yield Block(self, first, min(first + self.at_once, self.batches))
            return
        for mine in map(self.mine, range(start, self.batches)):
            picked = (whole.index_select(0, order[mine]) for whole in (self.images, self.labels))
            images, labels = to_device(self.device, *picked)
            yield self._normalised(self._augmented(images, *(draw[..., mine] for draw in draws))), labels

    def _fill(self, order: Tensor, draws: list[Tensor]) -> None:
        """Write the epoch's augmented images and its labels to `_drawn`, in their order."""
        if not self._drawn:
            self._drawn = torch.empty_like(self.images), torch.empty_like(self.labels)
        torch.index_select(self.labels, 0, order, out=self._drawn[1])
        for begin in range(0, self.count, 4096):  # a few large kernels instead of 25 small ones at each step
            at = slice(begin, begin + 4096)
            images = self.images.index_select(0, order[at])
            self._drawn[0][at] = self._augmented(images, *(draw[at] for draw in draws))

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and labels at positions int64 `(B,)`, on their device, of the epoch iterated in blocks."""
        images, labels = (drawn.index_select(0, places) for drawn in self._drawn)
        return self._normalised(images), labels

    def _draw(self) -> tuple[Tensor, ...]:
        """What `_augmented` needs, `(..., N)` by position in the epoch, on the device; nothing without augmentation."""
        if self.seed is None or not (self.crop or self.flip):
            return ()
        crops = torch.randint(2 * self.crop + 1, (2, self.count), generator=self.generator("crop"))
        flips = torch.randint(1 + self.flip, (self.count,), generator=self.generator("flip"))
        return to_device(self.device, *crops, flips)

    def _augmented(self, images: Tensor, *draws: Tensor) -> Tensor:
        return crop_and_flip(images, *draws, padding=self.crop) if draws else images


@dataclass(eq=False, repr=False)
class CropLoader(BatchLoader):
    """Batches from decoded squares, uint8 `(N, 3, S, S)`: random crops, resized and mirrored, or their middle."""

    _: KW_ONLY
    size: int  # height and width of the pictures, at most S
    augment: bool  # crop and flip at random, if there is a seed

    def _draw(self) -> tuple[Tensor, ...]:
        if not (draws := draw_crops(self)):
            return ()
        boxes = crop_boxes(draws[0].numpy(), *self.images.shape[-2:])
        return to_device(self.device, torch.from_numpy(boxes), draws[1])

    def _augmented(self, images: Tensor, *draws: Tensor) -> Tensor:
        if draws:
            return resized_crops(images, *draws, size=self.size)
        margin = (images.shape[-1] - self.size) // 2
        return images[..., margin : margin + self.size, margin : margin + self.size]


def draw_crops(loader: Any) -> tuple[Tensor, ...]:
    """Draws of `crop_boxes`, `(N, DRAWS)`, and flips `(N,)`, by position in the epoch; none without augmentation."""
    if loader.seed is None or not loader.augment:
        return ()
    draws = torch.rand((loader.count, DRAWS), generator=loader.generator("crop"))
    return draws, torch.randint(2, (loader.count,), generator=loader.generator("flip"))


def to_device(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy tensors to a device; from pinned memory, so that nothing waits for a copy to a GPU."""
    pin = device.type == "cuda"
    return tuple((x.pin_memory() if pin and x.is_cpu else x).to(device, non_blocking=True) for x in tensors)
