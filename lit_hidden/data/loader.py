"""Batches of images that live, as uint8 tensors, on the training device: shuffled, augmented, normalised.

Small sets need no workers: a batch is one index into a tensor. The random numbers of an epoch are drawn on the CPU from
(seed, epoch), so a run sees the same pictures on every device, in any number of processes, and after a resume.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from lit_hidden.data.crops import crop_and_flip
from lit_hidden.steps import Block


class EpochLoader:
    """The base of all loaders: the order of an epoch, each rank's images, and where to continue.

    An iteration yields `(images, labels)`: float32 `(B, C, H, W)`, scaled to [0, 1], then normalised by `mean` and
    `std`; and int64 `(B,)`. The last batch may be short: the paper's code drops nothing.

    Order and augmentation depend on (seed, epoch) alone. Lightning sets the epoch, through `sampler`, and saves and
    loads `state_dict`, so a run resumed within an epoch continues with the next batch. A plain loop calls `set_epoch`.

    Each of several ranks takes every `world_size`-th image of the same batch: together they see what one process
    would. All see the same number of batches, none empty: if the last batch has fewer images than there are ranks, the
    other ranks repeat one of its images, which `share` does not count.

    Args:
        count: images in an epoch.
        batch_size: images in a batch, over all ranks together.
        mean: a number per channel, for pixels in [0, 1]; with none, batches are not scaled: they are no images.
        std: a number per channel, for pixels in [0, 1].
        device: of the batches.
        seed: seed of order and augmentation; None for evaluation: in the order of the images, not augmented.
        rank: number of this process, from 0.
        world_size: number of ranks.

    Raises:
        ValueError: a batch has fewer images than there are ranks.
    """

    batch_sampler = None  # Lightning asks what has a sampler for this too
    at_once = 0  # batches in each `Block` that an iteration yields; 0 yields the batches themselves

    def __init__(
        self,
        count: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: torch.device,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < world_size:
            raise ValueError(
                f"batch_size={batch_size} leaves a rank without images; "
                f"it is the total over all ranks and must be at least world_size={world_size}"
            )
        self.count, self.batch_size, self.seed, self.device = count, batch_size, seed, device
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1)
        self._batches_seen = 0
        self._resumed = False

    @property
    def batches(self) -> int:
        """The number of batches in an epoch, the same on every rank."""
        return -(-self.count // self.batch_size)

    def __len__(self) -> int:
        """The length of a whole iteration."""
        return -(-self.batches // (self.at_once or 1))

    # A generator on purpose: Lightning calls iter() first and sets the epoch later, and a generator reads the epoch
    # only when its first batch is asked for.
    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the present epoch, or blocks of them; after a resume only those not yet seen."""
        start = self._batches_seen if self._resumed else 0
        self._resumed = False
        for number, batch in enumerate(self._batches(start), 1):
            # Counted before the batch is used: a checkpoint may be written while it is.
            self._batches_seen = min(start + number * (self.at_once or 1), self.batches)
            yield batch

    def _batches(self, start: int) -> Iterator[Any]:
        """Yield this rank's batches, or blocks of batches, from batch number `start` on."""
        raise NotImplementedError

    def _normalised(self, images: Tensor) -> Tensor:
        if not self._mean.numel():
            return images
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)

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
            self.epoch, self._batches_seen, self._resumed = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were yielded, the same on every rank; and `at_once`.

        A checkpoint that an exception writes during a step counts the batch of this step as done.
        """
        return {"epoch": self.epoch, "batches_seen": self._batches_seen, "at_once": self.at_once}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken, unless another epoch is set first.

        Raises:
            ValueError: that was within an epoch, with another `at_once`.
        """
        before = state.get("at_once", 0)
        if before != self.at_once and 0 < state["batches_seen"] < self.batches:
            raise ValueError(
                f"the checkpoint was written after {state['batches_seen']} of {self.batches} batches of an epoch, "
                f"yielded {before or 1} at a time and not {self.at_once or 1}; go on with it on a device of the kind "
                "that wrote it (CPU or GPU), or delete it to train the run anew"
            )
        self.epoch, self._batches_seen, self._resumed = state["epoch"], state["batches_seen"], True

    def order(self) -> Tensor:
        """The index of the image at each position of the epoch, int64 `(N,)`, on the CPU."""
        if self.seed is None:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=self.generator("order"))

    def generator(self, use: str) -> torch.Generator:
        """A generator for this epoch, another for each `use`: crops do not depend on whether images are flipped."""
        # Hashed, not added: seed 0 in epoch 1 must not be seed 1 in epoch 0.
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{use}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))

    def mine(self, batch: int) -> slice:
        """The positions in the epoch that this rank takes of a batch."""
        start = batch * self.batch_size
        stop = min(start + self.batch_size, self.count)
        if self.rank >= stop - start:
            place = start + self.rank % (stop - start)
            return slice(place, place + 1)
        return slice(start + self.rank, stop, self.world_size)


class BatchLoader(EpochLoader):
    """Batches of `images` and `labels`, normalised and, for training, shuffled and augmented.

    Args:
        images: uint8 `(N, C, H, W)`; or inputs of another dtype `(N, ...)`, without mean and std, yielded as they are.
        labels: int64 `(N,)`, on the device of the images; for inputs that are no images any targets `(N, ...)`.
        *args: `batch_size`, `mean` and `std` as of `EpochLoader`.
        crop: pixels of zero padding around an image, of which a random part of its size is cut; 0: no crop.
        flip: mirror an image, left to right, with probability 1/2.
        at_once: yield `Block`s of so many batches, for `lit_hidden.steps.Steps`, to a single rank. The last of an epoch
            may be short. 0 yields the batches themselves.
        device: of the batches; None is where the images are.
        **kwargs: `seed`, `rank` and `world_size` as of `EpochLoader`.

    Raises:
        ValueError: tensors do not fit together, or a number is out of bounds.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *args: Any,
        crop: int = 0,
        flip: bool = False,
        at_once: int = 0,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(len(images), *args, device=device or images.device, **kwargs)
        if at_once < 0 or (at_once and self.world_size > 1):
            raise ValueError(
                f"at_once={at_once} of {self.world_size} ranks cannot be: it is a number of batches, and several ranks "
                "take them one by one (0)"
            )
        channels, kinds = (len(self._mean), len(self._std)), (images.dtype, labels.dtype)
        if kinds == (torch.uint8, torch.int64) and images.dim() == 4:
            fit = labels.dim() == 1 and channels == (images.shape[1],) * 2
        else:
            fit = images.dtype != torch.uint8 and channels == (0, 0)
        if not fit or not 0 < len(images) == len(labels):
            raise ValueError(
                f"images {images.dtype} {tuple(images.shape)}, labels {labels.dtype} {tuple(labels.shape)}, a mean of "
                f"{channels[0]} and a std of {channels[1]} numbers do not fit together; they must be torch.uint8 "
                "(N, C, H, W), torch.int64 (N,), C and C; or inputs of another dtype, targets, 0 and 0"
            )
        self.images, self.labels = images, labels
        self.crop, self.flip, self.at_once = crop, flip, at_once
        self._drawn: tuple[Tensor, ...] = ()  # of the present epoch, always in the same memory

    def _batches(self, start: int) -> Iterator[Any]:
        order, *draws = to_device(self.images.device, self.order()) + self.draw()
        if self.at_once:
            self._fill(order, draws)
            for first in range(start, self.batches, self.at_once):
                yield Block(self, first, min(first + self.at_once, self.batches))
            return
        for mine in map(self.mine, range(start, self.batches)):
            picked = self.images.index_select(0, order[mine]), self.labels.index_select(0, order[mine])
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

    def draw(self) -> tuple[Tensor, ...]:
        """What `_augmented` needs, `(..., N)` by position in the epoch, on the device; nothing without augmentation."""
        if self.seed is None or not (self.crop or self.flip):
            return ()
        crops = torch.randint(2 * self.crop + 1, (2, self.count), generator=self.generator("crop"))
        flips = torch.randint(2 if self.flip else 1, (self.count,), generator=self.generator("flip"))
        return to_device(self.device, *crops, flips)

    def _augmented(self, images: Tensor, *draws: Tensor) -> Tensor:
        return crop_and_flip(images, *draws, padding=self.crop) if draws else images


def to_device(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy tensors to a device without waiting for the copies."""
    # Only a copy from pinned memory does not wait.
    return tuple(
        (x.pin_memory() if x.device.type == "cpu" and device.type == "cuda" else x).to(device, non_blocking=True)
        for x in tensors
    )
