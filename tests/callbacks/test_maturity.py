"""Masks that are frozen, densities that move, second tasks and deficits: exact at every step, seen from outside."""

from dataclasses import replace
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import Tensor, nn
from training import TINY, counted, without_time

from lit_hidden.callbacks import RunCallback
from lit_hidden.callbacks.deficit import Deficit, blurred
from lit_hidden.callbacks.maturity import Density, Freeze, SecondTask
from lit_hidden.code import spec
from lit_hidden.data import BatchLoader, DigitsData
from lit_hidden.edge_popup import reveal
from lit_hidden.engine.checkpoints import StoppedError
from lit_hidden.engine.network import network
from lit_hidden.engine.train import train
from lit_hidden.modules import LitSubnetwork
from lit_hidden.run import Run
from lit_hidden.selection import kept
from lit_hidden.subnetwork import used_masks

SMALL: dict[str, Any] = TINY | {"net": "lenet", "width": 0.1}
HIDDEN = Run(density=0.5, epochs=2, **SMALL)
STEPS = 3  # an epoch
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on loaders and logging


class Watch(L.Callback):
    """Keep the masks that each step multiplies with, from the effective weights, those at the end, and all batches."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[dict[str, Tensor]] = []
        self.batches: list[Any] = []
        self.evaluated: list[Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.masks.append(used_masks(pl_module.net))
        self.batches.append(batch)

    def on_validation_batch_start(self, trainer, pl_module, batch, *_):
        self.evaluated.append(batch[0])

    def on_train_end(self, trainer, pl_module):
        self.masks.append(used_masks(pl_module.net))


def watched(*callbacks: RunCallback, epochs: int = 4, **settings: Any) -> tuple[Watch, DigitsData]:
    watch, data = Watch(), DigitsData(train_images=300, held_out=0)
    module = LitSubnetwork(net="lenet", width=0.1, in_channels=1, density=0.5, seed=0, **settings)
    shown = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = L.Trainer(max_epochs=epochs, callbacks=[*callbacks, watch], accelerator="cpu", **shown)
    trainer.fit(module, data)
    return watch, data


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[bool]:
    return [not mask.equal(other[name]) for name, mask in one.items()]


SGD, ADAM = {"lr": 1.0, "weight_decay": 0.05}, {"optimizer": "adam", "lr": 0.05, "weight_decay": 0.05}


@pytest.mark.parametrize("settings", [SGD, ADAM], ids=["sgd", "adam"])
def test_a_frozen_mask_is_the_same_at_every_later_step_and_before_as_without(settings):
    free, nothing, last = (
        watched(*callbacks, epochs=3, **settings)[0].masks
        for callbacks in ((), (Freeze(1),), (Freeze(1, then="last"),))
    )
    at = STEPS
    assert len(free) == 3 * STEPS + 1
    for step in range(at, len(free)):
        assert differ(nothing[at], nothing[step]) == [False] * 3
        assert differ(last[at], last[step])[:2] == [False] * 2
        assert differ(free[step], nothing[step])[:2] == ([step > at] * 2)
    for step in range(at + 1):
        assert not any(differ(free[step], nothing[step]) + differ(free[step], last[step]))
    assert sum(differ(last[step], last[step + 1])[2] for step in range(at, len(last) - 1)) > 2


@pytest.mark.parametrize("start", [1.0, 0.2])
@pytest.mark.parametrize("epochs", [4, 3])
def test_the_density_moves_in_the_first_half_of_all_steps_and_rests_in_the_second(start, epochs):
    watch, _ = watched(Density(start), epochs=epochs)
    half = epochs * STEPS // 2
    counts = [{name: int(mask.sum()) for name, mask in masks.items()} for masks in watch.masks]
    for step, found in enumerate(counts):
        density = round(float(np.interp(step, [0, half], [start, 0.5])), 9)
        assert found == {name: kept(mask.numel(), density) for name, mask in watch.masks[0].items()}, step
    assert len({count["1"] for count in counts}) == half + 1


@pytest.mark.parametrize("option", [("maturity.Density", {"start": 1.0}), ("maturity.Freeze", {"epoch": 1}),
                                    ("deficit.Deficit", {"until": 1, "size": 2})])  # fmt: skip
def test_a_run_stopped_after_almost_every_step_ends_bit_equal(option, tmp_path):
    name, options = option
    run = replace(HIDDEN, callbacks=(spec(name, **options),))
    folders = [tmp_path / way for way in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    whole, stops = train(run, folders[0]), 0
    while True:
        try:
            found = train(run, folders[1], until=0.0)
            break
        except StoppedError:
            stops += 1
    assert stops == 2 * (STEPS - 1)
    assert counted(found) == counted(whole)
    assert without_time(folders[1]) == without_time(folders[0])


# --- the second task -------------------------------------------------------------------------------------------------


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    return 100 * float((net(net.transform(images)).argmax(1) == labels).double().mean())


def test_what_is_left_of_the_first_task_is_that_of_the_effective_weights(trained):
    first, images, labels = replace(HIDDEN, lr=2.0), *DigitsData().read()[1]
    run = first.then(callbacks=(spec("maturity.SecondTask"),))
    mature = first.then(callbacks=(spec("maturity.Freeze", epoch=0, then="last"), spec("maturity.SecondTask")))
    order = torch.randperm(32 * 32, generator=SecondTask().generator())
    permuted = torch.from_numpy(images.flatten(1).numpy()[:, order.numpy()]).view_as(images)
    for one in (run, mature):
        folder, result = trained(one)
        net, then = network(one, folder), reveal(network(first, trained(first)[0]))
        assert result["accuracy"] == pytest.approx(accuracy(net, permuted, labels), abs=1e-4)
        assert result["first"] == pytest.approx(accuracy(net, images, labels))
        reveal(net)
        with torch.no_grad():
            net[-1].weight.copy_(then[-1].weight)
        assert result["first_readout"] == pytest.approx(accuracy(net, images, labels))
        assert result["first_readout"] != result["first"]
    assert result["first_readout"] == pytest.approx(trained(first)[1]["accuracy"], abs=1e-4)


# --- deficits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "size", "channels"), [(32, 8, 3), (28, 7, 1), (32, 2, 1)])
def test_blur_is_block_means_enlarged_as_scipy_does(pixels, size, channels):
    images = torch.randint(256, (5, channels, pixels, pixels), dtype=torch.uint8, generator=torch.manual_seed(0))
    block, found = pixels // size, blurred(images, size)
    means = images.numpy().reshape(5, channels, size, block, size, block).mean((3, 5))
    expected = zoom(means, (1, 1, block, block), order=1, mode="nearest", grid_mode=True)
    assert (found.dtype, found.shape) == (torch.uint8, images.shape)
    assert np.abs(found.numpy() - expected).max() < 0.5 + 1e-3


@pytest.mark.parametrize("kind", ["blur", "flip"])
def test_training_images_are_spoiled_until_the_age_and_clear_afterwards_test_images_always_clear(kind):
    watch, data = watched(Deficit(2, kind, size=2))
    (images, labels), (test, _) = data.splits["train"], data.splits["test"]
    spoiled = torch.from_numpy(images.numpy()[:, :, ::-1].copy()) if kind == "flip" else blurred(images, 2)
    for epoch in range(4):
        loader = BatchLoader(spoiled if epoch < 2 else images, labels, 128, data.mean, data.std, seed=0)
        loader.set_epoch(epoch)
        seen = watch.batches[STEPS * epoch :]
        for (ours, those), (theirs, these) in zip(loader, seen[:STEPS], strict=True):
            assert ours.equal(theirs)
            assert those.equal(these)
    clear = torch.cat([pictures for pictures, _ in BatchLoader(test, data.splits["test"][1], 128, data.mean, data.std)])
    evaluated = torch.cat(watch.evaluated)
    assert all(part.equal(clear) for part in evaluated[-4 * len(clear) :].split(len(clear)))


def test_steps_taken_many_at_once_see_the_same_images(tmp_path):
    run = replace(HIDDEN, callbacks=(spec("deficit.Deficit", until=1, size=2),))
    found = []
    for at_once in (0, 2):
        folder = tmp_path / str(at_once)
        folder.mkdir()
        found.append(counted(train(run, folder, at_once=at_once)))
    assert found[0]["layers"] == found[1]["layers"]
    assert found[0]["accuracy"] == found[1]["accuracy"]
