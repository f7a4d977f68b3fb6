"""Metrics: exact, of their own epoch, and never waited for."""

import pytest
import torch
from fitting import TINY, batch, trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DigitsData
from lit_hidden.modules import LitDense, LitSubnetwork, LitSupermask


@pytest.mark.parametrize("module", [LitSubnetwork, LitSupermask])
def test_nothing_in_a_step_waits_for_the_device(module):
    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            assert "_local_scalar_dense" not in name, "a number was brought back to the host"
            assert "nonzero" not in name, "a size depends on data"
            return func(*args, **(kwargs or {}))

    lit = module(**TINY)
    with Refuse():
        lit.training_step(batch(), 0).backward()
        lit.validation_step(batch(), 0)
        lit.test_step(batch(), 0)


def test_metrics_are_torchmetrics_accuracies_and_the_mean_loss():
    lit = LitClassifier(nn.Identity())  # images are their own logits
    logits, labels = torch.randn(500, 10), torch.randint(0, 10, (500,))
    logits[:100] = 0  # a net that says the same for every class is not called right
    for part in (slice(0, 190), slice(190, 500), slice(500, 500)):  # batches of unequal size must not weigh alike
        lit.validation_step((logits[part], labels[part]), 0)
    values = lit.val_metrics.compute()
    torch.testing.assert_close(values["val_loss"], nn.functional.cross_entropy(logits, labels))
    reference = MulticlassAccuracy(10, top_k=1, average="micro")(logits, labels)
    torch.testing.assert_close(values["val_top1"], reference)
    lit = LitClassifier(nn.Identity())
    lit.validation_step((logits[100:], labels[100:]), 0)
    reference = MulticlassAccuracy(10, top_k=5, average="micro")(logits[100:], labels[100:])
    torch.testing.assert_close(lit.val_metrics.compute()["val_top5"], reference)


def test_fifty_thousand_images_are_counted_in_whole_numbers_in_half_precision():
    logits = torch.eye(10).repeat(5000, 1) * 4  # an image of each class, again and again
    labels = (torch.arange(50_000) + (torch.arange(50_000) >= 31_945)) % 10  # so many right
    images = DataLoader(TensorDataset(logits, labels), 2500)
    (values,) = trainer(precision="bf16-true").validate(LitClassifier(nn.Identity()), images, verbose=False)
    losses = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    assert values["val_top1"] == pytest.approx(63.89, abs=1e-5)
    assert values["val_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_label_smoothing_reaches_the_loss_of_training_alone():
    lit = LitDense(**TINY, label_smoothing=0.3)
    images, labels = batch()
    expected = nn.functional.cross_entropy(lit(images), labels, label_smoothing=0.3)
    torch.testing.assert_close(lit.training_step((images, labels), 0), expected)
    lit.validation_step((images, labels), 0)
    plain = nn.functional.cross_entropy(lit(images), labels)
    torch.testing.assert_close(lit.val_metrics.compute()["val_loss"], plain.detach())


def test_an_epoch_counts_its_own_images_whatever_a_failed_fit_or_a_validation_left():
    data = DigitsData(train_images=200, batch_size=100, held_out=0)
    left, fresh = LitDense(**TINY, lr=0.0), LitDense(**TINY, lr=0.0)
    real, seen = left.validation_step, []

    def fails(*args):
        real(*args)
        raise RuntimeError("stopped here")

    left.validation_step = fails
    with pytest.raises(RuntimeError, match="stopped here"):
        trainer(max_epochs=1).fit(left, data)
    assert [int(m["loss"].count) for m in (left.train_metrics, left.val_metrics)] == [200, 100]
    left.validation_step = real
    trainer().validate(fresh, data, verbose=False)
    for lit in (left, fresh):
        fit = trainer(max_epochs=1)
        fit.fit(lit.train(), data)
        seen.append({name: float(value) for name, value in fit.callback_metrics.items()})
    assert seen[0] == seen[1]
    assert 1 < seen[0]["val_top1"] <= 100


class Epochs(Checkpoint):
    """Notes each epoch's numbers, when they are all there, and saves itself at a step."""

    def __init__(self, step=None, file=None):
        super().__init__()
        self.step, self.file, self.rows = step, file, []

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)

    def on_train_epoch_end(self, trainer, module):
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append({"lr": rate} | {name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
# Of 3 steps in an epoch; of blocks of 2 and 1.
@pytest.mark.parametrize(("step", "at_once"), [(2, 0), (3, 0), (5, 2)])
def test_a_resumed_epoch_counts_its_own_images_wherever_the_checkpoint_was_written(step, at_once, tmp_path):
    def fit(callback, **kwargs):
        torch.manual_seed(0)
        lit, data = LitDense(**TINY), DigitsData(train_images=300)
        data.at_once, lit.automatic_optimization = at_once, not at_once
        trainer(max_epochs=3, enable_checkpointing=True, callbacks=[callback]).fit(lit, data, **kwargs)
        return callback.rows

    whole = fit(Epochs(step, tmp_path / "a.ckpt"))
    assert len({row["train_loss"] for row in whole}) == 3
    resumed = fit(Epochs(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert resumed == whole[step // 3 :]
