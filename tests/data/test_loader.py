"""What every loader holds to, and the pictures of each: tensors, decoded squares, files that workers decode."""

import gc
import hashlib
import multiprocessing
from itertools import chain

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import plant, tree
from PIL import Image
from torchvision.transforms import Normalize
from torchvision.transforms import functional as TF

from lit_hidden.data import BatchLoader, DataError
from lit_hidden.data.crops import DRAWS, crop_boxes, resized_crops
from lit_hidden.data.decode import DecodingLoader
from lit_hidden.data.loader import CropLoader
from lit_hidden.data.trees import read_tree

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
COUNT = 50


def images_of(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def tensors(batch_size=16, augment=False, count=COUNT, **kwargs) -> BatchLoader:
    """A label names its image."""
    kwargs |= {"crop": 2, "flip": True} if augment else {}
    return BatchLoader(images_of(count, 8), torch.arange(count), batch_size, MEAN, STD, **kwargs)


def squares(batch_size=16, augment=False, **kwargs) -> CropLoader:
    images = images_of(COUNT, 20)
    return CropLoader(images, torch.arange(COUNT), batch_size, MEAN, STD, size=16, augment=augment, **kwargs)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """50 images of many shapes, each a class of its own."""
    sizes = [*((20 + 3 * i, 90 - i) for i in range(COUNT - 2)), (20, 21), (300, 20)]
    files = {f"{part}/n{i:02d}/a.JPEG": size for i, size in enumerate(sizes) for part in ("train", "val")}
    return read_tree(plant(tmp_path_factory.mktemp("set"), files)).train


@pytest.fixture(scope="module")
def decoded(files):
    def make(batch_size=16, images=files, **kwargs) -> DecodingLoader:
        options = {"size": 16, "resize": 20, "workers": 0, "augment": False} | kwargs
        return DecodingLoader(images, images.labels, batch_size, MEAN, STD, **options)

    return make


@pytest.fixture(params=[tensors, squares, "decoded"])
def loader(request):
    return request.getfixturevalue("decoded") if request.param == "decoded" else request.param


def labels_of(batches):
    return [labels.tolist() for _, labels in batches]


def same(batches, others) -> bool:
    pairs = zip(batches, others, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def drawn(seed: int, epoch: int, use: str) -> torch.Generator:
    """The generator that the format of run results fixes."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{use}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


# --- pictures --------------------------------------------------------------------------------------------


def test_an_epoch_of_tensors_is_torchvisions_augmentation_by_the_seeds_draws():
    order = torch.randperm(COUNT, generator=drawn(3, 1, "order"))
    top, left = torch.randint(5, (2, COUNT), generator=drawn(3, 1, "crop"))
    flip = torch.randint(2, (COUNT,), generator=drawn(3, 1, "flip"))
    training, images, expected = tensors(augment=True, seed=3), images_of(COUNT, 8), []
    training.set_epoch(1)
    for place, index in enumerate(order):
        picture = TF.crop(TF.pad(images[index], [2]), int(top[place]), int(left[place]), 8, 8)
        expected.append(Normalize(MEAN, STD)((TF.hflip(picture) if flip[place] else picture) / 255))
    batches = list(training)
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.stack(expected))
    assert torch.equal(torch.cat([y for _, y in batches]), order)
    assert {x.dtype for x, _ in batches} == {torch.float32}


@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_of_squares_and_of_files_is_torchvisions_by_the_seeds_draws(decoded, files, augment):
    order = torch.randperm(COUNT, generator=drawn(3, 0, "order"))
    draws = torch.rand((COUNT, DRAWS), generator=drawn(3, 0, "crop")).numpy()
    flips = torch.randint(2, (COUNT,), generator=drawn(3, 0, "flip"))
    cut, pictures = TF.center_crop(images_of(COUNT, 20), [16, 16])[order].float(), []
    if augment:
        cut = resized_crops(images_of(COUNT, 20)[order], torch.from_numpy(crop_boxes(draws, 20, 20)), flips, size=16)
    for place, index in enumerate(order.tolist()):
        with Image.open(files.path(index)) as image:
            picture = TF.center_crop(TF.resize(image, 20), 16)
            if augment:
                box = crop_boxes(draws[place : place + 1], image.height, image.width)[:, 0].tolist()
                picture = TF.resized_crop(image, *box, [16, 16])
                picture = TF.hflip(picture) if flips[place] else picture
            pictures.append(TF.to_tensor(picture))
    for batches, expected in ((squares, cut / 255), (decoded, torch.stack(pictures))):
        found = list(batches(seed=3, augment=augment))
        assert torch.equal(torch.cat([x for x, _ in found]), Normalize(MEAN, STD)(expected))
        assert torch.equal(torch.cat([y for _, y in found]), order)


def test_workers_change_nothing_and_an_epoch_left_early_does_not_reach_into_the_next(decoded):
    before = set(multiprocessing.active_children())
    alone, helped = decoded(seed=0, augment=True), decoded(seed=0, augment=True, workers=2)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        next(iter(helped))
        assert same(helped, alone)
    workers = set(multiprocessing.active_children()) - before
    helped.set_epoch(2)
    assert len(list(helped)) > 0
    assert set(multiprocessing.active_children()) - before == workers, "each epoch has the workers of the one before"
    del helped
    gc.collect()
    assert set(multiprocessing.active_children()) <= before


# --- epochs, ranks, resuming -----------------------------------------------------------------------------


def test_evaluation_keeps_the_order_and_the_short_last_batch(loader):
    assert labels_of(loader()) == [[*range(i, min(i + 16, 50))] for i in (0, 16, 32, 48)]
    assert same(loader(augment=True), loader()), "without a seed nothing is augmented"
    assert len(loader()) == 4


def test_the_order_of_seed_0_is_pinned():
    assert labels_of(tensors(count=10, seed=0)) == [[1, 7, 8, 5, 6, 3, 9, 4, 2, 0]]


def test_order_and_augmentation_depend_on_seed_and_epoch_and_nothing_else(loader):
    def epoch(seed, epoch):
        training = loader(seed=seed, augment=True)
        training.set_epoch(epoch)
        torch.rand(7)  # the global generator plays no part
        batches = list(training)
        assert sorted(chain(*labels_of(batches))) == list(range(COUNT))
        return torch.cat([images for images, _ in batches])

    assert torch.equal(epoch(0, 1), epoch(0, 1))
    state = torch.get_rng_state()
    list(loader(seed=0, augment=True))
    assert torch.equal(torch.get_rng_state(), state)
    different = [epoch(seed, e) for seed in (0, -1) for e in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


def assert_share(alone, ranks):
    """The ranks' loaders yield together what one does alone."""
    world_size, batches = len(ranks), [list(rank) for rank in ranks]
    assert {len(rank) for rank in batches} == {len(alone)}
    for i, (images, labels) in enumerate(alone):
        for r, rank in enumerate(batches):
            mine = slice(r, None, world_size) if r < len(labels) else [r % len(labels)]  # repeats an image
            assert torch.equal(rank[i][0], images[mine])
            assert torch.equal(rank[i][1], labels[mine])
            assert ranks[r].share(i) == (len(labels[r::world_size]), len(labels))


@pytest.mark.parametrize("seed", [0, None])
def test_ranks_together_see_what_one_process_sees(loader, seed):
    ranks = [loader(seed=seed, augment=True, rank=r, world_size=3) for r in range(3)]
    assert_share(loader(seed=seed, augment=True), ranks)  # 50 images: the last batch has 2


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 40), world_size=st.integers(1, 6), extra=st.integers(0, 10))
@example(count=7, world_size=5, extra=0)
def test_any_number_of_ranks_share_any_number_of_images(count, world_size, extra):
    options = {"batch_size": world_size + extra, "augment": True, "seed": 0}
    ranks = [tensors(count=count, **options, rank=r, world_size=world_size) for r in range(world_size)]
    assert_share(tensors(count=count, **options), ranks)


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
def test_state_taken_after_any_batch_goes_on_with_the_next(loader, stop):
    first, second = loader(seed=0, augment=True), loader(seed=0, augment=True)
    first.set_epoch(3)
    whole = list(first)
    batches = iter(first)
    for _ in range(stop):
        next(batches)
    second.load_state_dict(first.state_dict() if stop else {"epoch": 3, "batches_seen": 0})
    second.set_epoch(3)
    assert same(list(second), whole[stop:])
    assert second.state_dict() == first.state_dict() | {"batches_seen": 4}, "it may be stopped again"
    assert len(list(second)) == 4  # a resume happens once
    second.load_state_dict({"epoch": 3, "batches_seen": 3})
    second.set_epoch(4)
    assert len(list(second)) == 4  # another epoch forgets it


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_an_error_that_names_it(tmp_path, decoded, workers):
    images = read_tree(plant(tmp_path, tree(["n1", "n2"]) | {"train/n1/n1_0.JPEG": b""})).train
    with pytest.raises(DataError, match=rf"^{tmp_path}/train/n1/n1_0.JPEG cannot be used \(.*; replace or delete it"):
        list(decoded(4, images=images, workers=workers, seed=0))


def test_inputs_that_are_no_images_are_yielded_as_they_are():
    inputs, targets = torch.randn(7, 2), torch.rand(7)
    batches = BatchLoader(inputs, targets, 4, (), ())
    assert same(batches, [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])])
