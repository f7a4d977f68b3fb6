"""A run that was stopped and resumed ends, on the CPU, with the very weights of one that was not."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from lit_hidden.data import DigitsData

# Said of every resume that goes on writing to the folder it resumed from.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")

BATCHES = 4  # in an epoch: 200 images by 64


class Linear(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1024, 10)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.seen = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.seen.append((self.current_epoch, batch_idx, len(labels), images.sum().item()))
        return nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val", nn.functional.cross_entropy(self.layer(images.flatten(1)), labels))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)]


class At(Callback):
    """Calls `act(trainer)` once, in the hook called `hook`, after `step` steps."""

    def __init__(self, hook, step, act):
        self.step, self.act = step, act
        setattr(self, hook, self.call)

    def call(self, trainer, *_):
        if trainer.global_step == self.step:
            self.step = -1
            self.act(trainer)


DIGITS = {"augment": True, "held_out": 100, "train_images": 200, "batch_size": 64}


@pytest.fixture(scope="module")
def data():
    return DigitsData(**DIGITS)


def fit(data, *callbacks, ckpt_path=None, **kwargs):
    quiet = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False)
    kwargs["enable_checkpointing"] = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer, module = L.Trainer(accelerator="cpu", max_epochs=3, callbacks=[*callbacks], **quiet, **kwargs), Linear()
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.fixture(scope="module")
def uninterrupted(data):
    # Validation changes no weights, so one run serves for all ways to validate.
    whole = fit(data, limit_val_batches=0)
    assert len({pixels for *_, pixels in whole.seen}) == 3 * BATCHES, "every epoch shows other pictures"
    return whole


def assert_goes_on(resumed, whole, step):
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    assert resumed.seen == whole.seen[step:]


NEVER, TWICE = {"limit_val_batches": 0}, {"val_check_interval": 0.5}


@pytest.mark.parametrize(
    ("hook", "step", "validation"),
    [
        ("on_train_batch_end", 3, {}), ("on_train_batch_end", 6, TWICE), ("on_train_batch_end", 4, NEVER),
        ("on_train_epoch_end", 4, {}), ("on_validation_end", 6, TWICE),
    ],
)  # fmt: skip
def test_resumed_from_a_checkpoint(tmp_path, data, uninterrupted, hook, step, validation):
    file, options = tmp_path / "a.ckpt", validation | {"num_sanity_val_steps": 0}
    fit(data, At(hook, step, lambda trainer: trainer.save_checkpoint(file)), **options)
    assert_goes_on(fit(data, ckpt_path=file, **options), uninterrupted, step)


def test_resumed_from_model_checkpoint_with_a_fresh_datamodule_after_a_sanity_check(tmp_path, uninterrupted):
    def save():
        return ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)

    fit(DigitsData(**DIGITS), save())
    assert_goes_on(fit(DigitsData(**DIGITS), save(), ckpt_path=tmp_path / "step=6.ckpt"), uninterrupted, 6)
