"""Batches of images that live, as uint8 tensors, on the training device: shuffled, augmented, normalised.

Small sets need no workers: a batch is one index into a tensor. The randomness of an epoch is drawn on the CPU
from (seed, epoch), so a run sees the same pictures on every device, in any number of processes, and resumed.

128 CIFAR-10 images, augmented and normalised, on one CPU thread: 0.6 ms at best, 1.0 to 1.6 ms over an epoch
on a busy machine (pixel by pixel indexing: 4.1 ms at best).
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.steps import Block


class EpochLoader:
    """What all loaders here have in common: the order of an epoch, each rank's share, and where to go on.

    An iteration yields `(images, labels)`: float32 `(B, C, H, W)`, scaled to [0, 1], then normalised by `mean` and
    `std`; and int64 `(B,)`. The last batch may be short: the paper's code drops nothing.

    Order and augmentation depend on (seed, epoch) alone. Lightning sets the epoch, through `sampler`, and
    saves and loads `state_dict`, so that a run resumed within an epoch goes on with the next batch; a plain
    loop calls `set_epoch` itself.

    Of several ranks each takes every `world_size`-th image of the same batch: together they see what one
    process would. All see the same number of batches, none empty: where the last has fewer images than there are
    ranks, the ranks left over repeat one of its images, which `share` says is not to be counted.

    Args:
        count: images in an epoch.
        batch_size: images in a batch, over all ranks together.
        mean: a number per channel, for pixels in [0, 1].
        std: a number per channel, for pixels in [0, 1].
        device: where batches are wanted.
        seed: seed of order and augmentation; None for evaluation: the order of the images, nothing augmented.
        rank: which of the ranks this is, from 0.
        world_size: number of ranks.

    Raises:
        ValueError: a number is not as above.
    """

    batch_sampler = None  # Lightning asks what has a sampler for this too

    def __init__(
        self,
        count: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: torch.device,
        seed: int | None,
        rank: int,
        world_size: int,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not one of world_size={world_size} ranks; they count from 0")
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
        """The number of what an iteration yields."""
        return self.batches

    # A generator on purpose: Lightning calls iter() first and sets the epoch later, and a generator looks at
    # the epoch only when its first batch is asked for.
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the present epoch: all of them, or after a resume those not yet seen."""
        start = self._batches_seen if self._resumed else 0
        self._resumed = False
        for seen, (images, labels) in enumerate(self._batches(start), start + 1):
            # Counted before the batch is used: a checkpoint is written while its user holds it.
            self._batches_seen = seen
            yield self._normalised(images), labels

    def _normalised(self, images: Tensor) -> Tensor:
        if not self._mean.numel():  # no images, but inputs of another kind
            return images
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's images, of pixels from 0 to 255, and labels of the epoch's batches from `start` on."""
        raise NotImplementedError

    def share(self, batch: int) -> tuple[int, int]:
        """How many images of an epoch's `batch`, from 0, count as this rank's, and how many as all ranks'."""
        whole = min(self.batch_size, self.count - batch * self.batch_size)
        return len(range(self.rank, whole, self.world_size)), whole

    @property
    def sampler(self) -> Self:
        """The loader itself: Lightning calls `sampler.set_epoch` before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next `iter` yields, from 0."""
        if epoch != self.epoch:
            self.epoch, self._batches_seen, self._resumed = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of its batches that were yielded; the same on every rank.

        A checkpoint written while a batch is trained on, by an exception, counts that batch as done.
        """
        return {"epoch": self.epoch, "batches_seen": self._batches_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken, unless another epoch is set first."""
        self.epoch, self._batches_seen, self._resumed = state["epoch"], state["batches_seen"], True

    def _order(self) -> Tensor:
        """Which image is at each place in the epoch, int64 `(N,)`, on the CPU."""
        if self.seed is None:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=self._generator("order"))

    def _generator(self, use: str) -> torch.Generator:
        # Hashed, not added: seed 0 in epoch 1 must not be seed 1 in epoch 0.
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}/{use}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))

    def _mine(self, batch: int) -> slice:
        """The places in the epoch that this rank takes of a batch."""
        start = batch * self.batch_size
        stop = min(start + self.batch_size, self.count)
        if self.rank >= stop - start:
            place = start + self.rank % (stop - start)
            return slice(place, place + 1)
        return slice(start + self.rank, stop, self.world_size)


class BatchLoader(EpochLoader):
    """Iterate over `images` and `labels` in batches, normalised and, for training, shuffled and augmented.

    Examples that are no images, of another dtype than uint8, are given as they are: inputs and targets `(N, ...)`.

    Order, ranks and resuming are those of `EpochLoader`. With `at_once`, what is yielded are no batches but `Block`s of
    so many, for `lit_hidden.steps.Steps`; the last of an epoch may be short.

    Args:
        images: uint8 `(N, C, H, W)`, on the device that the batches are wanted on.
        labels: int64 `(N,)`, on the same device.
        batch_size: images in a batch, over all ranks together.
        mean: a number per channel, for pixels in [0, 1].
        std: a number per channel, for pixels in [0, 1].
        seed: seed of order and augmentation; None for evaluation: the order of `images`, nothing augmented.
        crop: pixels of zero padding around an image, of which a random part of its size is cut; 0: no crop.
        flip: mirror an image, left to right, with probability 1/2.
        rank: which of the ranks this is, from 0.
        world_size: number of ranks.
        at_once: batches of a block, of a single rank; 0 yields the batches themselves.

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
        seed: int | None = None,
        crop: int = 0,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        at_once: int = 0,
    ) -> None:
        check_tensors(images, labels, mean, std)
        if at_once < 0 or (at_once and world_size > 1):
            raise ValueError(
                f"at_once={at_once} of {world_size} ranks cannot be: it is a number of batches, and ranks that train "
                "together take them one by one (0)"
            )
        if crop < 0:
            raise ValueError(f"crop={crop} is no padding; it is a number of pixels, 0 for no crop")
        if seed is None and (crop or flip):
            raise ValueError(
                f"crop={crop}, flip={flip} cannot be drawn without a seed; "
                "give a seed to train, or crop=0 and flip=False to evaluate"
            )
        super().__init__(
            len(images), batch_size, mean, std, device=images.device, seed=seed, rank=rank, world_size=world_size
        )
        self.images, self.labels = images, labels
        self.crop, self.flip = crop, flip
        self.at_once = at_once
        self._drawn: tuple[Tensor, ...] = ()  # of the present epoch, always in the same memory

    def __len__(self) -> int:
        """The number of what an iteration yields: batches, or blocks of them."""
        return -(-self.batches // (self.at_once or 1))

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the present epoch, or blocks of them: all, or after a resume those not yet seen."""
        return self._blocks() if self.at_once else super().__iter__()

    def _blocks(self) -> Iterator[Block]:
        start = self._batches_seen if self._resumed else 0
        self._resumed = False
        if not self._drawn:
            self._drawn = torch.empty_like(self.images), torch.empty_like(self.labels)
        order, top, left, flip = self._draw()
        torch.index_select(self.labels, 0, order, out=self._drawn[1])
        for begin in range(0, self.count, 4096):  # by thousands, and not in 25 small kernels at each step
            at = slice(begin, begin + 4096)
            images = self.images.index_select(0, order[at])
            if self.crop or self.flip:
                images = crop_and_flip(images, top[at], left[at], flip[at], self.crop)
            self._drawn[0][at] = images
        for first in range(start, self.batches, self.at_once):
            self._batches_seen = min(first + self.at_once, self.batches)
            yield Block(self, first, self._batches_seen)

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and labels at so many places of the epoch whose blocks are being iterated over.

        Args:
            places: int64 `(B,)`, on the device of the images.
        """
        images, labels = (drawn.index_select(0, places) for drawn in self._drawn)
        return self._normalised(images), labels

    def state_dict(self) -> dict[str, int]:
        """As an `EpochLoader`'s, and how many batches are yielded at once."""
        return super().state_dict() | {"at_once": self.at_once}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken, unless another epoch is set first.

        Raises:
            ValueError: that was within an epoch whose batches were counted otherwise.
        """
        before = state.get("at_once", 0)
        if before != self.at_once and 0 < state["batches_seen"] < self.batches:
            raise ValueError(
                f"the checkpoint was written after {state['batches_seen']} of {self.batches} batches of an epoch, "
                f"yielded {before or 1} at a time and not {self.at_once or 1}; go on with it on a device of the kind "
                "that wrote it (CPU or GPU), or delete it to train the run anew"
            )
        super().load_state_dict(state)

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order, top, left, flip = self._draw()
        for batch in range(start, self.batches):
            mine = self._mine(batch)
            images = self.images.index_select(0, order[mine])
            if self.crop or self.flip:
                images = crop_and_flip(images, top[mine], left[mine], flip[mine], self.crop)
            yield images, self.labels.index_select(0, order[mine])

    def _draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Order, top and left of the crop, and flip, each `(N,)`, by place in the epoch and not by image."""
        order = self._order()
        if self.seed is None:
            order = order.to(self.device)
            return order, order, order, order  # nothing is augmented: the last three are not read
        draws = (
            order,
            # Their own generators: an order or a crop does not depend on whether images are flipped.
            *torch.randint(2 * self.crop + 1, (2, self.count), generator=self._generator("crop")),
            torch.randint(2 if self.flip else 1, (self.count,), generator=self._generator("flip")),
        )
        order, top, left, flip = to_device(self.device, *draws)
        return order, top, left, flip


def check_tensors(images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise a `ValueError` unless images are uint8 `(N, C, H, W)`, labels int64 `(N,)`, mean and std `C` numbers.

    Of inputs of another dtype, without mean and std, there must only be as many as targets.
    """
    if images.dtype != torch.uint8 and not len(mean) and 0 < len(images) == len(labels):
        return
    if images.dtype != torch.uint8 or images.dim() != 4 or len(images) == 0:
        raise ValueError(
            f"images are {images.dtype} {tuple(images.shape)}; "
            "they must be torch.uint8 (N, C, H, W) with at least one image"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or labels.device != images.device:
        raise ValueError(
            f"labels are {labels.dtype} {tuple(labels.shape)} on {labels.device}; "
            f"with these images they must be torch.int64 ({len(images)},) on {images.device}"
        )
    if not len(mean) == len(std) == images.shape[1]:
        raise ValueError(
            f"mean has {len(mean)} and std {len(std)} numbers; "
            f"images of {images.shape[1]} channels need {images.shape[1]} each"
        )


def to_device(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy CPU tensors to a device; nothing waits for it."""
    if device.type == "cuda":  # only from pinned memory does a copy not wait
        tensors = tuple(tensor.pin_memory() for tensor in tensors)
    return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


def images_per_second(loader: Iterable[tuple[Tensor, Tensor]], seconds: float = 5.0) -> float:
    """Measure how many images a loader gives in a second, over so many seconds, epoch after epoch.

    The first batch is not counted: it pays for what is started and drawn once an epoch. (An epoch's share of that is
    counted when it comes round again.)
    """
    count, began = 0, 0.0
    device = torch.device("cpu")
    while True:
        for images, _ in loader:
            if began:
                count += len(images)
            else:
                device = images.device
                _wait(device)
                began = time.perf_counter()
            if time.perf_counter() - began >= seconds:
                _wait(device)
                return count / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Pad each image with zeros, cut its size out at (`top`, `left`), then mirror it where `flip` is 1.

    For the same draws, the pictures of torchvision's `RandomCrop(size, padding)` and `RandomHorizontalFlip`.
    `images` and the result are `(B, C, H, W)`, the draws int64 `(B,)`, `top` and `left` in [0, 2 * padding].
    Nothing waits for the device.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding))
    # The crop at `left`, mirrored, is the mirror image's crop at `2 * padding - left`.
    both = torch.cat([padded, padded.flip(-1)])
    image = torch.arange(batch, device=images.device) + batch * flip
    column = torch.where(flip == 1, 2 * padding - left, left)
    channel = torch.arange(channels, device=images.device)
    row = torch.arange(height, device=images.device)
    # A row of the result is `width` pixels in line: one index_select of rows, where indexing goes by pixels.
    line = (image[:, None] * channels + channel)[:, :, None] * both.shape[2] + top[:, None, None] + row
    start = line * both.shape[3] + column[:, None, None]
    return both.view(-1).unfold(0, width, 1).index_select(0, start.view(-1)).view(images.shape)
