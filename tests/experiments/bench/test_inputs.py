"""What feeds training: whole turns of workers, files like ImageNet's, the sets that are there."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.bench import inputs
from experiments.bench.inputs import Source, forever, generate, sets, ways
from experiments.bench.training import drawn, made, noise, step_of
from lit_hidden.data import CIFAR10Data, ImageNetData

HERE = torch.device("cpu")


class Epochs(list):
    """Batches that note which epoch they were asked for."""

    def set_epoch(self, epoch: int) -> None:
        self.epochs = [*getattr(self, "epochs", []), epoch]


@pytest.mark.parametrize(
    ("workers", "batches", "turns"),
    [
        (0, [4, 4, 2], [4, 4, 2, 4, 4, 2]),
        (2, [4, 4, 4, 2], [8, 6, 8, 6]),
        (2, [4, 4, 2], [8, 2, 8, 2]),  # an epoch's end is the end of a turn: nothing is decoded any more
        (16, [4, 4, 2], [10, 10]),
    ],
)
def test_batches_of_workers_count_turn_by_turn_whatever_the_epoch(workers, batches, turns):
    loader = Epochs((torch.zeros(count, 3, 2, 2), torch.zeros(count)) for count in batches)
    source = Source("", lambda: loader, HERE, workers)
    assert [*islice(source.turns(), len(turns))] == turns
    next(source.turns())
    assert loader.epochs == [0, 1, 2], "each measurement draws others"


def test_every_way_yields_normalised_batches_of_all_images():
    images, labels = drawn(200)
    plain, mean, std = images / 255, *(torch.tensor(each).view(3, 1, 1) for each in (CIFAR10Data.mean, CIFAR10Data.std))
    expected = (plain - mean) / std
    for source in ways(images, labels, HERE):
        found = [(source.after(batch), of) for batch, of in source.make()]
        assert torch.equal(torch.cat([of for _, of in found]).bincount(), labels.bincount()), source.name
        batch = torch.cat([batch for batch, _ in found])
        assert batch.shape == (200, 3, 32, 32)
        # A crop after padding loses and darkens some: about a tenth of the pixels on either side.
        assert batch.std() == pytest.approx(float(expected.std()), rel=0.15)


def test_training_trains_the_scores_of_the_hidden_net_and_the_weights_of_the_dense():
    data, changed = ImageNetData("", batch_size=4, image_size=16), []
    for density in (0.3, None):
        module, batch = made("lenet", density, data, HERE), noise(data, HERE)
        before = {key: value.clone() for key, value in module.net.state_dict().items()}
        steps = forever(step_of(module), batch)
        assert next(steps) is batch
        after = module.net.state_dict()
        changed.append({key.split(".")[-1] for key in before if not torch.equal(before[key], after[key])})
    assert changed == [{"scores"}, {"weight"}]


def test_the_generated_tree_is_what_is_said_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "FILES", 8)
    told = generate(tmp_path, 1500)
    data = ImageNetData(str(tmp_path), cache_gib=0)
    assert (len(data.tree.classes), data.sizes) == (1000, (2000, 2000))
    assert data.tree.train.labels.bincount().unique().tolist() == [2]
    files = sorted((tmp_path / "files").iterdir())
    assert {data.tree.train.path(i).resolve() for i in range(2000)} == {path.resolve() for path in files}
    sides = []
    for path in files:
        with Image.open(path) as image:
            sides.append(image.size)
    assert sides == [(500, 375)] * 3 + [(375, 500)] + [(500, 375)] * 3 + [(375, 500)]
    mean = sum(path.stat().st_size for path in files) / 8 / 1000
    assert 90 < mean < 120, "ILSVRC-2012's usual size"
    assert told == f"Generated: 8 JPEG files of 500x375 pixels, {mean:.0f} kB each, under 2,000 names. "


def test_sets_are_those_that_are_there_in_batches_that_the_device_can_take(tmp_path):
    def sizes(device: str, given: int | None = None) -> dict[str, int]:
        found = sets(None, Path("no"), tmp_path, 16, given, torch.device(device))
        return {each.name: each.batch_size for each in found}

    assert sizes("cpu") == {"imagenet": 8, "digits": 128}
    assert sizes("cpu", 5) == {"imagenet": 5, "digits": 5}
