"""What all data modules hold to: who is held out, validated and selected on; devices, ranks, names."""

from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DATA, IMAGENET_DATA, CIFAR10Data, DigitsData, ImageTensorsData, MNISTData, data_module
from lit_hidden.data.tensors import balanced_order
from lit_hidden.recipes import IMAGENET_SIZES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders


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


# --- which images ----------------------------------------------------------------------------------------


def test_a_tenth_of_the_training_images_is_held_out_and_without_any_the_test_set_validates():
    held_out = {kind().held_out for kind in (CIFAR10Data, MNISTData, DigitsData)}
    assert held_out == {5_000, 6_000, 144}
    tiny = Tiny(held_out=0)
    assert names(tiny.val_dataloader()) == names(tiny.test_dataloader()) == list(range(100, 110))
    assert names(tiny.train_dataloader()) == list(range(100))


@settings(deadline=None, max_examples=25)
@given(held_out=st.integers(1, 99), data=st.data())
def test_held_out_and_used_images_are_apart_balanced_and_the_same_for_every_seed(held_out, data):
    used = data.draw(st.integers(1, 100 - held_out))
    tiny, whole = Tiny(held_out=held_out, train_images=used), Tiny(held_out=held_out, seed=7)
    train, val = names(tiny.train_dataloader()), names(tiny.val_dataloader())
    assert val == names(whole.val_dataloader())
    assert set(train) <= set(names(whole.train_dataloader()))
    assert (len(set(train)), len(set(val))) == (used, held_out)
    assert not set(train) & set(val)
    for part in (train, val):
        counts = torch.tensor(part).remainder(4).bincount(minlength=4)
        assert counts.max() - counts.min() <= 1


def test_balanced_order_takes_one_of_each_class_in_turn_and_is_pinned():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    order = balanced_order(labels)
    assert labels[order].tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert order.tolist() == [0, 4, 6, 2, 5, 1, 3]


def test_only_training_images_are_augmented_and_shuffled_by_the_seed():
    data = DigitsData(augment=True, held_out=100, seed=5)
    train = data.train_dataloader()
    assert (train.seed, train.crop, train.flip) == (5, 2, False)
    assert {loader.seed for loader in (data.val_dataloader(), data.test_dataloader())} == {None}
    assert DigitsData().train_dataloader().crop == 0


# --- names and arguments ---------------------------------------------------------------------------------


def test_names_lead_to_the_classes_that_bear_them_and_to_what_a_run_knows_of_them():
    assert {"cifar10": CIFAR10Data, "mnist": MNISTData, "digits": DigitsData} == DATA
    assert list(IMAGENET_DATA) == list(IMAGENET_SIZES)
    for name, kind in {**DATA, **IMAGENET_DATA}.items():
        data = data_module(name, batch_size=3)
        assert (type(data), data.name, data.batch_size) == (kind, name, 3)
        assert data.augment is (name in ("cifar10", *IMAGENET_SIZES))
        assert len(data.mean) == len(data.std) == data.shape[0]
        assert data.shape[1:] == (IMAGENET_SIZES.get(name, data.shape[1]),) * 2
    classes = [data_module(name).num_classes for name in IMAGENET_SIZES]  # known without any file
    assert classes == [1000, 100, 10, 10, 200, 100]
    assert data_module("imagenet", classes="first-7").num_classes == 7


# --- under a trainer -------------------------------------------------------------------------------------


def test_the_trainer_gives_device_and_ranks_and_the_set_is_read_once():
    tiny = Tiny(batch_size=4)
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    tiny.trainer = SimpleNamespace(strategy=strategy, global_rank=1, world_size=2)
    for stage in ("fit", "validate", "test", None):
        tiny.setup(stage)
    loader = tiny.train_dataloader()
    assert loader.images.device == loader.labels.device == torch.device("meta")
    assert (loader.rank, loader.world_size, loader.batch_size, loader.seed, tiny.reads) == (1, 2, 4, 0, 1)
    # After training the net is back on the CPU, and callbacks run it on these.
    assert {part.device.type for split in tiny.splits.values() for part in split} == {"cpu"}


class Plateau(LitClassifier):
    """Its rate follows the validation loss."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Untrained(L.Callback):
    def on_train_start(self, *_):
        pytest.fail("it trains")


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}


def fit(folder, data, *callbacks, kind=LitClassifier, **settings):
    settings = {"max_epochs": 1, "limit_train_batches": 2, "num_sanity_val_steps": 0} | QUIET | settings
    trainer = L.Trainer(**settings, callbacks=[*callbacks], default_root_dir=folder)
    trainer.fit(kind("conv2", width=0.05, in_channels=1), data)
    return trainer


WATCHING = {
    "ModelCheckpoint monitors val_top1": ([ModelCheckpoint(monitor="val_top1", mode="max")], LitClassifier),
    "EarlyStopping monitors val_loss": ([EarlyStopping(monitor="val_loss")], LitClassifier),
    "ReduceLROnPlateau monitors val_loss": ([], Plateau),
}


@pytest.mark.parametrize("says", WATCHING)
def test_nothing_is_selected_on_the_test_set(says, tmp_path):
    callbacks, kind = WATCHING[says]
    with pytest.raises(ValueError, match=f"^{says}, which with held_out=0 is of the test set"):
        fit(tmp_path, DigitsData(held_out=0), *callbacks, Untrained(), kind=kind)


def test_images_that_a_checkpoint_was_trained_on_do_not_validate_it(tmp_path):
    trainer = fit(tmp_path, DigitsData(train_images=100, held_out=20), EarlyStopping(monitor="val_loss"))
    module, path = trainer.lightning_module, tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    again = L.Trainer(enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match="the checkpoint has seen some images of held_out=21; give held_out=20"):
        again.validate(module, datamodule=DigitsData(held_out=21), ckpt_path=path, weights_only=True)
    again.validate(module, datamodule=DigitsData(held_out=10), ckpt_path=path, weights_only=True, verbose=False)
