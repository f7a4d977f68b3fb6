import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_hidden.data import DATA, CIFAR10Data, DataError, DigitsData, MNISTData, data_module
from lit_hidden.data.tensors import ImageTensorsData, balanced_order


class Tiny(ImageTensorsData):
    """100 training images that name themselves, of 4 classes; 10 test images."""

    name = "tiny"
    shape, num_classes = (1, 1, 1), 4
    mean, std = (0.0,), (1 / 255,)
    sizes = (100, 10)
    reads = 0

    def read(self):
        self.reads += 1
        pixels = torch.arange(110, dtype=torch.uint8).view(-1, 1, 1, 1)
        return (pixels[:100], torch.arange(100) % 4), (pixels[100:], torch.arange(10) % 4)


def names(loader):
    return sorted(round(pixel) for images, _ in loader for pixel in images.flatten().tolist())


def test_validation_watches_the_test_set_where_no_images_are_held_out():
    tiny = Tiny(held_out=0)
    assert names(tiny.val_dataloader()) == names(tiny.test_dataloader()) == list(range(100, 110))
    assert names(tiny.train_dataloader()) == list(range(100))


@settings(deadline=None)
@given(held_out=st.integers(0, 99), data=st.data())
def test_held_out_and_used_images_are_apart_balanced_and_the_same_for_every_seed(held_out, data):
    used = data.draw(st.integers(1, 100 - held_out))
    tiny = Tiny(held_out=held_out, train_images=used)
    other = Tiny(held_out=held_out, train_images=used, seed=7)
    train, val = names(tiny.train_dataloader()), names(tiny.val_dataloader())
    assert (train, val) == (names(other.train_dataloader()), names(other.val_dataloader()))
    assert len(set(train)) == used
    parts = [train]
    if held_out:
        assert len(set(val)) == held_out
        assert not set(train) & set(val)
        assert val == names(Tiny(held_out=held_out).val_dataloader())
        parts.append(val)
    for part in parts:
        counts = torch.tensor(part).remainder(4).bincount(minlength=4)
        assert counts.max() - counts.min() <= 1


def test_a_smaller_training_set_is_part_of_a_larger():
    few, many = (set(names(Tiny(train_images=n).train_dataloader())) for n in (13, 40))
    assert few < many


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_balanced_order_is_an_order_whose_beginnings_have_of_each_class_what_there_is(classes):
    labels = torch.tensor(classes)
    order = balanced_order(labels)
    assert sorted(order.tolist()) == list(range(len(classes)))
    for end in range(1, len(classes) + 1):
        counts = labels[order[:end]].bincount(minlength=6)
        full = labels.bincount(minlength=6)
        # No class lags two behind another while it has images left.
        assert all(counts[i] >= counts.max() - 1 or counts[i] == full[i] for i in range(6))


def test_seeds_shuffle_differently():
    first, second = (torch.cat([y for y, _ in Tiny(seed=seed).train_dataloader()]) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_only_training_images_are_augmented():
    data = DigitsData(augment=True, held_out=100)
    train = data.train_dataloader()
    assert (train.seed, train.crop, train.flip) == (0, 2, False)
    for plain in (data.val_dataloader(), data.test_dataloader(), DigitsData().train_dataloader()):
        assert (plain.crop, plain.flip) == (0, False)
    assert data.val_dataloader().seed is None


def test_the_set_is_read_once():
    tiny = Tiny()
    for stage in ("fit", "validate", "test", None):
        tiny.setup(stage)
    tiny.train_dataloader()
    assert tiny.reads == 1


def test_the_trainer_gives_device_and_ranks():
    tiny = Tiny(batch_size=4)
    tiny.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("meta")), global_rank=1, world_size=2, overfit_batches=0
    )
    tiny.setup("fit")
    loader = tiny.train_dataloader()
    assert loader.images.device == loader.labels.device == torch.device("meta")
    assert (loader.rank, loader.world_size, loader.batch_size) == (1, 2, 4)


def test_names_lead_to_the_classes_that_bear_them():
    assert {"cifar10": CIFAR10Data, "mnist": MNISTData, "digits": DigitsData} == DATA
    assert isinstance(data_module("digits", batch_size=3), DigitsData)
    assert data_module("digits", batch_size=3).batch_size == 3


@pytest.mark.parametrize("data", DATA.values())
def test_what_a_class_says_of_itself_fits_together(data):
    assert len(data.shape) == 3
    assert len(data.mean) == len(data.std) == data.shape[0]
    assert data.num_classes == 10
    assert data().augment is (data is CIFAR10Data)


def test_command_lines_can_read_types_and_help_from_the_signature():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CIFAR10Data, "data")
    given_ = parser.parse_args(["--data.augment=false", "--data.train_images=500"])
    assert (given_.data.augment, given_.data.train_images, given_.data.root) == (False, 500, None)
    text = " ".join(parser.format_help().split())
    assert "images in a batch, over all devices together. (type: int, default: 128)" in text
    assert "number of training images used; None is all that are not held out." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 holds no image; it must be at least 1"),
        (
            {"held_out": 1437},
            "held_out=1437 cannot be set aside from digits's 1437 training images; it must lie in [0, 1436]",
        ),
        (
            {"held_out": -1},
            "held_out=-1 cannot be set aside from digits's 1437 training images; it must lie in [0, 1436]",
        ),
        (
            {"train_images": 0, "held_out": 0},
            "train_images=0 cannot be taken from digits's 1437 training images of which held_out=0; "
            "it must be None or lie in [1, 1437]",
        ),
        (
            {"train_images": 1400, "held_out": 100},
            "train_images=1400 cannot be taken from digits's 1437 training images of which held_out=100; "
            "it must be None or lie in [1, 1337]",
        ),
    ],
)
def test_an_argument_that_cannot_be_is_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DigitsData(**arguments)


def test_augmentation_that_is_not_defined_is_refused():
    message = "augment=True does nothing: no augmentation is defined for mnist; it must be False or None"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MNISTData(augment=True)
    assert MNISTData(augment=False).augment is False


def test_an_unknown_name_is_told_the_names_there_are():
    message = (
        "there is no data called 'svhn'; there is cifar10, mnist, digits, "
        "imagenet, imagenet100, imagenette, imagewoof, tiny-imagenet, tiny-imagenet-100, or package.module.Class"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        data_module("svhn")


@pytest.mark.parametrize(
    ("data", "layouts", "source"),
    [
        (CIFAR10Data, "cifar-10-batches-py/ or cifar-10-batches-bin/", "CIFAR10"),
        (MNISTData, "MNIST/raw/", "MNIST"),
    ],
)
def test_a_loader_asked_for_before_there_are_files_says_what_to_call(tmp_path, data, layouts, source):
    message = (
        f"{tmp_path} holds no {layouts}; call prepare_data() to download {source}, "
        "or set DATA_DIR (--data-dir; of fit: --data.root) to the folder that does"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        data(str(tmp_path)).train_dataloader()
