import re
from itertools import chain

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import RandomSampler
from torchvision.transforms import Normalize
from torchvision.transforms import functional as TF

from lit_hidden.data import BatchLoader
from lit_hidden.data.loader import crop_and_flip

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def pictures(count=50, channels=3, height=8, width=8):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count)  # a label names its image


def loader(count=50, batch_size=16, **kwargs):
    return BatchLoader(*pictures(count), batch_size, MEAN, STD, **kwargs)


def labels_of(batches):
    return [labels.tolist() for _, labels in batches]


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    padding=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_crops_and_flips_are_torchvisions_for_the_same_draws(data, padding, channels, height, width):
    count = 4
    images, _ = pictures(count, channels, height, width)
    offset = st.lists(st.integers(0, 2 * padding), min_size=count, max_size=count)
    top, left = data.draw(offset), data.draw(offset)
    flip = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    ours = crop_and_flip(images, torch.tensor(top), torch.tensor(left), torch.tensor(flip), padding)
    for i in range(count):
        theirs = TF.crop(TF.pad(images[i], [padding]), top[i], left[i], height, width)
        assert torch.equal(ours[i], TF.hflip(theirs) if flip[i] else theirs)


def test_pixels_are_those_of_to_tensor_and_normalize():
    images, _ = pictures()
    (batch, labels), *_ = loader()
    normalize = Normalize(MEAN, STD)
    expected = [normalize(TF.to_tensor(image.permute(1, 2, 0).numpy())) for image in images[:16]]
    assert batch.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(batch, torch.stack(expected))


def test_an_epoch_of_training_is_the_augmentation_of_its_own_draws():
    images, _ = pictures()
    training = loader(seed=3, crop=2, flip=True)
    order, top, left, flip = training._draw()
    batches = list(training)
    augmented = crop_and_flip(images[order], top, left, flip, 2)
    plain = BatchLoader(augmented, order, 16, MEAN, STD)
    for (batch, labels), (expected, indices) in zip(batches, plain, strict=True):
        assert torch.equal(batch, expected)
        assert torch.equal(labels, indices)


def test_every_crop_and_both_flips_occur_equally_often():
    count = 20_000
    draws = BatchLoader(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count), 1, [0], [1],
                        seed=0, crop=2, flip=True)._draw()  # fmt: skip
    for draw, kinds in zip(draws[1:], (5, 5, 2), strict=True):
        counts = draw.bincount()
        # 5 standard deviations of a binomial count
        margin = 5 * (count * (1 / kinds) * (1 - 1 / kinds)) ** 0.5
        assert len(counts) == kinds
        assert (counts - count / kinds).abs().max() < margin


def test_evaluation_keeps_the_order_and_the_short_last_batch():
    assert labels_of(loader()) == [[*range(i, min(i + 16, 50))] for i in (0, 16, 32, 48)]
    assert len(loader()) == 4


def test_training_shows_every_image_once_an_epoch():
    assert sorted(chain(*labels_of(loader(seed=0)))) == list(range(50))


def test_order_and_augmentation_depend_on_seed_and_epoch_and_nothing_else():
    def epoch(seed, epoch):
        training = loader(seed=seed, crop=2, flip=True)
        training.set_epoch(epoch)
        torch.rand(7)  # the global generator plays no part
        return torch.cat([images for images, _ in training])

    assert torch.equal(epoch(0, 1), epoch(0, 1))
    different = [epoch(seed, e) for seed in (0, 1, -1) for e in (0, 1, 2)]
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


def test_order_and_crops_stay_when_flips_are_switched_off():
    flipped, plain = loader(seed=0, crop=2, flip=True)._draw(), loader(seed=0, crop=2)._draw()
    assert all(torch.equal(a, b) for a, b in zip(flipped[:3], plain[:3], strict=True))
    assert flipped[3].any()
    assert not plain[3].any()


def test_an_epoch_is_the_same_when_it_is_iterated_again():
    training = loader(seed=0)
    assert labels_of(training) == labels_of(training)


def test_the_order_of_seed_0_is_pinned():
    assert labels_of(loader(count=10, seed=0)) == [[1, 7, 8, 5, 6, 3, 9, 4, 2, 0]]


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 40),
    world_size=st.integers(1, 6),
    extra=st.integers(0, 10),
    seed=st.none() | st.integers(0, 3),
)
@example(count=7, world_size=5, extra=0, seed=0)
def test_ranks_together_see_what_one_process_sees(count, world_size, extra, seed):
    size = world_size + extra
    augment = {} if seed is None else {"seed": seed, "crop": 1, "flip": True}
    alone = list(loader(count, size, **augment))
    ranks = [list(loader(count, size, **augment, rank=r, world_size=world_size)) for r in range(world_size)]
    assert {len(rank) for rank in ranks} == {len(alone)}
    for i, (images, labels) in enumerate(alone):
        for r, rank in enumerate(ranks):
            if r < len(labels):
                assert torch.equal(rank[i][0], images[r::world_size])
                assert torch.equal(rank[i][1], labels[r::world_size])
            else:  # repeats an image of the batch
                assert rank[i][1].tolist() == [labels[r % len(labels)]]
                assert torch.equal(rank[i][0], images[r % len(labels)][None])
    for i, (_, labels) in enumerate(alone):  # repeated images count for nobody
        shares = [loader(count, size, rank=r, world_size=world_size).share(i) for r in range(world_size)]
        assert {whole for _, whole in shares} == {len(labels)}
        assert [mine for mine, _ in shares] == [len(labels[r::world_size]) for r in range(world_size)]


@pytest.mark.parametrize("stop", range(5))
def test_state_taken_after_any_batch_goes_on_with_the_next(stop):
    first = loader(seed=0, crop=2, flip=True)
    first.set_epoch(3)
    whole = list(first)
    batches = iter(first)
    for _ in range(stop):
        next(batches)
    state = first.state_dict()
    second = loader(seed=0, crop=2, flip=True)
    second.load_state_dict(state if stop else {"epoch": 3, "batches_seen": 0})
    second.set_epoch(3)
    rest = list(second)
    assert len(rest) == len(whole) - stop
    for (images, labels), (expected, indices) in zip(rest, whole[stop:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, indices)
    assert len(list(second)) == 4  # a resume happens once


def test_another_epoch_forgets_the_resume():
    training = loader(seed=0)
    training.load_state_dict({"epoch": 1, "batches_seen": 3})
    training.set_epoch(2)
    assert len(labels_of(training)) == 4


def test_an_iterator_made_before_the_epoch_is_set_yields_the_epoch_set():
    training, other = loader(seed=0), loader(seed=0)
    batches = iter(training)
    training.set_epoch(5)
    other.set_epoch(5)
    assert labels_of(batches) == labels_of(other)


def test_lightning_finds_where_to_set_the_epoch_and_takes_the_loader_for_one_that_resumes():
    from lightning.fabric.utilities.data import _set_sampler_epoch
    from lightning.fabric.utilities.types import _Stateful

    training = loader(seed=0)
    _set_sampler_epoch(training, 7)
    assert training.epoch == 7
    assert isinstance(training, _Stateful)
    assert not isinstance(training.sampler, RandomSampler)


IMAGES, LABELS = pictures(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": IMAGES.float()},
            "images are torch.float32 (4, 3, 8, 8); they must be torch.uint8 (N, C, H, W) with at least one image",
        ),
        (
            {"images": IMAGES[:0], "labels": LABELS[:0]},
            "images are torch.uint8 (0, 3, 8, 8); they must be torch.uint8 (N, C, H, W) with at least one image",
        ),
        (
            {"labels": LABELS[:3]},
            "labels are torch.int64 (3,) on cpu; with these images they must be torch.int64 (4,) on cpu",
        ),
        (
            {"labels": LABELS.int()},
            "labels are torch.int32 (4,) on cpu; with these images they must be torch.int64 (4,) on cpu",
        ),
        ({"std": (1,)}, "mean has 3 and std 1 numbers; images of 3 channels need 3 each"),
        ({"rank": 2, "world_size": 2}, "rank=2 is not one of world_size=2 ranks; they count from 0"),
        (
            {"batch_size": 0},
            "batch_size=0 leaves a rank without images; "
            "it is the total over all ranks and must be at least world_size=1",
        ),
        (
            {"batch_size": 3, "world_size": 4},
            "batch_size=3 leaves a rank without images; "
            "it is the total over all ranks and must be at least world_size=4",
        ),
        ({"seed": 0, "crop": -1}, "crop=-1 is no padding; it is a number of pixels, 0 for no crop"),
        (
            {"flip": True},
            "crop=0, flip=True cannot be drawn without a seed; "
            "give a seed to train, or crop=0 and flip=False to evaluate",
        ),
    ],
)
def test_an_argument_that_cannot_be_is_named(change, message):
    arguments = {"images": IMAGES, "labels": LABELS, "batch_size": 2, "mean": MEAN, "std": STD} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BatchLoader(**arguments)
