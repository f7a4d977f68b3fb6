"""Crops are torchvision's for the same random numbers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop, transforms
from torchvision.transforms import functional as TF

from lit_hidden.data.crops import ATTEMPTS, DRAWS, RATIO, SCALE, crop_and_flip, crop_boxes, resized_crops


def draws_of(count: int, seed: int = 0) -> np.ndarray:
    return torch.rand((count, DRAWS), generator=torch.Generator().manual_seed(seed)).numpy()


class Scripted:
    """Stands for torch in torchvision's RandomResizedCrop: its random numbers are made from ours."""

    log, exp, tensor = torch.log, torch.exp, torch.tensor

    def __init__(self, draws: np.ndarray) -> None:
        numbers = draws.astype(np.float64).tolist()
        self.pairs = [number for i in range(ATTEMPTS) for number in (numbers[i], numbers[ATTEMPTS + i])]
        self.places = numbers[-2:]

    def empty(self, _):
        def uniform_(low, high):
            return torch.tensor(float(low) + (float(high) - float(low)) * self.pairs.pop(0), dtype=torch.float64)

        return SimpleNamespace(uniform_=uniform_)

    def randint(self, low, high, size):
        return torch.tensor([low + math.floor((high - low) * self.places.pop(0))])


def torchvisions(draws: np.ndarray, height: int, width: int) -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "torch", Scripted(draws))
        return list(RandomResizedCrop.get_params(torch.empty(3, height, width), list(SCALE), list(RATIO)))


def test_boxes_are_torchvisions_for_the_same_draws():
    sizes, same = np.random.default_rng(0).integers(1, 400, (500, 2)).tolist(), 0
    for draws, (height, width) in zip(draws_of(500), sizes, strict=True):
        box, theirs = crop_boxes(draws[None], height, width)[:, 0].tolist(), torchvisions(draws, height, width)
        # torchvision takes logarithms in float32, so a side may round to the other of two whole numbers.
        assert all(abs(a - b) <= 1 for a, b in zip(box, theirs, strict=True))
        assert box[0] + box[2] <= height
        assert box[1] + box[3] <= width
        same += box == theirs
    assert same >= 498


def images_of(count: int, size: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("full", "size"), [(64, 64), (37, 32), (16, 40), (90, 30)])
def test_pictures_are_torchvisions_for_the_same_boxes(full, size):
    count = 12
    images, boxes = images_of(count, full), torch.from_numpy(crop_boxes(draws_of(count), full, full))
    flips = torch.arange(count) % 2
    ours = resized_crops(images, boxes, flips, size=size)
    assert ours.shape == (count, 3, size, size)
    assert ours.is_contiguous()
    for i in range(count):
        box = boxes[:, i].tolist()
        exact = TF.resized_crop(images[i].float(), *box, [size, size], antialias=True)
        # Another order of the same sums in float32; random pixels are the worst that can come.
        torch.testing.assert_close(ours[i], exact.flip(-1) if flips[i] else exact, atol=0.005, rtol=0)
        pillow = TF.resized_crop(Image.fromarray(images[i].permute(1, 2, 0).numpy()), *box, [size, size])
        rounded = torch.from_numpy(np.asarray(TF.hflip(pillow) if flips[i] else pillow).copy()).permute(2, 0, 1)
        # Pillow rounds to whole numbers twice, across and down.
        assert (ours[i] - rounded).abs().max() <= 1.01


def test_a_picture_does_not_depend_on_its_batch():
    images, boxes = images_of(13, 72), torch.from_numpy(crop_boxes(draws_of(13), 72, 72))
    flips = torch.arange(13) % 2
    together = resized_crops(images, boxes, flips, size=64)
    for some in (slice(4, 5), slice(1, 13, 3), slice(0, 0)):
        assert torch.equal(resized_crops(images[some], boxes[:, some], flips[some], size=64), together[some])


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(), padding=st.integers(0, 5), channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9), width=st.integers(1, 9),
)  # fmt: skip
def test_padded_crops_and_flips_are_torchvisions_for_the_same_draws(data, padding, channels, height, width):
    images = torch.randint(256, (4, channels, height, width), dtype=torch.uint8)
    offset = st.lists(st.integers(0, 2 * padding), min_size=4, max_size=4)
    top, left = data.draw(offset), data.draw(offset)
    flip = data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    ours = crop_and_flip(images, *(torch.tensor(draw) for draw in (top, left, flip)), padding=padding)
    for i in range(4):
        theirs = TF.crop(TF.pad(images[i], [padding]), top[i], left[i], height, width)
        assert torch.equal(ours[i], TF.hflip(theirs) if flip[i] else theirs)
