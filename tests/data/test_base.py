"""What all data modules hold to: what is validated on, that nothing is selected on the test set, and overfitting."""

import logging
from dataclasses import dataclass

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import CIFAR10Data, DigitsData, MNISTData

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders


class Plateau(LitClassifier):
    """Its rate follows the validation loss."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        rate = {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": rate}


@dataclass
class Seen(L.Callback):
    """Keeps the images of each epoch, and how many were validated on."""

    def __post_init__(self) -> None:
        self.epochs: list[list[torch.Tensor]] = []
        self.validated = 0

    def on_train_epoch_start(self, *_):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.epochs[-1].append(batch[0])

    def on_validation_batch_end(self, trainer, module, outputs, batch, *_):
        self.validated += len(batch[1])


def fit(folder, data, *callbacks, kind=LitClassifier, **settings):
    settings = {"max_epochs": 1, "limit_train_batches": 2, "num_sanity_val_steps": 0} | settings
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    trainer = L.Trainer(**quiet, **settings, callbacks=[*callbacks], default_root_dir=folder)
    trainer.fit(kind("conv2", width=0.05, in_channels=1), data)
    return trainer


@pytest.mark.parametrize(("kind", "count"), [(CIFAR10Data, 5_000), (MNISTData, 6_000), (DigitsData, 144)])
def test_a_tenth_of_the_training_images_is_held_out(kind, count):
    assert kind().held_out == count
    assert kind(held_out=0).held_out == 0


@pytest.mark.parametrize(
    ("held_out", "validated", "said"),
    [
        (None, 144, "validated on 144 held-out training images"),
        (1_200, 1_200, "validated on 1,200 held-out training images"),
        (0, 360, "validated on the TEST set, as the authors do: nothing may be selected on it"),
    ],
)
def test_one_line_says_what_is_validated_on(held_out, validated, said, tmp_path, caplog):
    seen, data = Seen(), DigitsData(held_out=held_out)
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        fit(tmp_path, data, seen)
    assert [line for line in caplog.messages if "validated" in line] == [said]
    assert seen.validated == validated


WATCHING = {
    "ModelCheckpoint": ([ModelCheckpoint(monitor="val/top1", mode="max")], LitClassifier, "val/top1"),
    "EarlyStopping": ([EarlyStopping(monitor="val/loss")], LitClassifier, "val/loss"),
    "ReduceLROnPlateau": ([], Plateau, "val/loss"),
}


@pytest.mark.parametrize("name", WATCHING)
@pytest.mark.parametrize("sanity", [0, 2])
def test_nothing_is_selected_on_the_test_set(name, sanity, tmp_path):
    callbacks, kind, monitor = WATCHING[name]
    seen = Seen()
    with pytest.raises(ValueError) as error:
        fit(tmp_path, DigitsData(held_out=0), *callbacks, seen, kind=kind, num_sanity_val_steps=sanity)
    assert str(error.value) == (
        f"{name} monitors {monitor}, which with held_out=0 is measured on the test set, and nothing may be selected on "
        "that; hold images out (held_out=None: a tenth of the training images), or monitor train/..."
    )
    assert not seen.epochs  # before anything is trained
    fit(tmp_path, DigitsData(), *callbacks, kind=kind)


def test_what_monitors_the_training_loss_may_run_beside_validation_on_the_test_set(tmp_path):
    trainer = fit(tmp_path, DigitsData(held_out=0), ModelCheckpoint(monitor="train/loss"))
    assert trainer.checkpoint_callback.best_model_score is not None
    trainer.validate(trainer.lightning_module, DigitsData(held_out=0), verbose=False)


def test_overfitting_takes_the_same_batches_in_each_epoch(tmp_path):
    data, seen = DigitsData(augment=True), Seen()
    fit(tmp_path, data, seen, overfit_batches=3, max_epochs=3, limit_train_batches=1.0)
    plain = [images for images, _ in DigitsData(augment=False).train_dataloader()]
    assert [len(epoch) for epoch in seen.epochs] == [3, 3, 3]
    for first, second, third in zip(*seen.epochs, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)
    order = data.splits["train"][0][:128]
    assert torch.equal(seen.epochs[0][0], (order / 255 - 0.3058) / 0.3237)
    assert not torch.equal(seen.epochs[0][0], plain[0])  # which are shuffled


@pytest.mark.parametrize("kind", ["validate", "fit"])
def test_images_that_a_checkpoint_was_trained_on_do_not_validate_it(kind, tmp_path):
    trainer = fit(tmp_path, DigitsData(train_images=100, held_out=20))
    module = trainer.lightning_module
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    resumed = {"ckpt_path": tmp_path / "last.ckpt", "weights_only": True}
    with pytest.raises(ValueError) as error:
        getattr(again, kind)(module, datamodule=DigitsData(train_images=100, held_out=21), **resumed)
    assert str(error.value) == (
        "held_out=21 here, and held_out=20 where the checkpoint was trained, which has seen some of these images; "
        "give held_out=20"
    )
    getattr(again, kind)(module, datamodule=DigitsData(train_images=100, held_out=10), **resumed)
