"""Random labels and spoiled pixels: exact in number, fixed per seed, never in the test set."""

import csv
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_hidden.callbacks.labels import RandomLabels
from lit_hidden.code import spec
from lit_hidden.data import ImageData
from lit_hidden.engine.network import make_data, network
from lit_hidden.engine.train import train
from lit_hidden.results import failed
from lit_hidden.run import Run

RUN = Run(data="digits", held_out=137)


def spoiled(seed: int = 0, **options: Any) -> tuple[RandomLabels, ImageData]:
    data, callback = make_data(RUN, "data"), RandomLabels(**options)
    data.setup("fit")
    callback.run_seed = seed
    callback.on_run_start(SimpleNamespace(), None, data, None)
    return callback, data


PLAIN = make_data(RUN, "data")
PLAIN.setup("fit")


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_exactly_that_part_of_the_labels_is_drawn_and_no_test_label(fraction):
    callback, data = spoiled(fraction=fraction)
    before, after = PLAIN.splits["train"][1], data.splits["train"][1]
    assert len(callback.replaced) == len(callback.replaced.unique()) == round(fraction * len(before))
    others = torch.ones(len(before), dtype=torch.bool)
    others[callback.replaced] = False
    assert after[others].equal(before[others])
    assert callback.wrong == (after != before).sum()
    share = callback.wrong / max(1, len(callback.replaced))
    assert not fraction or share == pytest.approx(0.9, abs=4 * (0.09 / len(callback.replaced)) ** 0.5)
    for split in ("val", "test"):
        assert data.splits[split][1].equal(PLAIN.splits[split][1])
        assert data.splits[split][0].equal(PLAIN.splits[split][0])


def test_labels_are_the_same_at_every_resume_and_others_for_other_seeds():
    again, same, other = (spoiled(seed)[1].splits["train"][1] for seed in (3, 3, 4))
    assert again.equal(same)
    assert not again.equal(other)


def flat(data: ImageData, split: str) -> Tensor:
    return data.splits[split][0].flatten(2)


def order(before: Tensor, after: Tensor) -> Tensor:
    """Whether pixels of images `(N, C, P)` are those before in another order, `(N,)`."""
    return (before.sort(-1).values == after.sort(-1).values).flatten(1).all(1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_are_moved_by_one_permutation_by_many_or_drawn(split: str):
    before = flat(PLAIN, split)
    shuffled, random, gaussian = (
        flat(spoiled(fraction=0.0, pixels=pixels)[1], split) for pixels in ("shuffled", "random", "gaussian")
    )
    assert order(before, shuffled).all()
    assert order(before, random).all()
    columns = {tuple(column) for column in before[:, 0].T.tolist()}
    assert {tuple(column) for column in shuffled[:, 0].T.tolist()} == columns
    assert {tuple(column) for column in random[:, 0].T.tolist()} != columns
    pixels = PLAIN.splits["train"][0].float()
    drawn = (pixels.mean() + pixels.std() * torch.randn(100_000)).round().clamp(0, 255)
    assert gaussian.float().mean().item() == pytest.approx(drawn.mean().item(), rel=0.02)
    assert gaussian.float().std().item() == pytest.approx(drawn.std().item(), rel=0.02)


def test_the_fit_is_that_of_the_trained_net_on_the_labels_it_was_given(tmp_path):
    run = Run(
        net="lenet", width=0.2, density=0.5, data="digits", train_images=200, epochs=3, batch_size=20,
        callbacks=(spec("labels.RandomLabels", fraction=0.5),),
    )  # fmt: skip
    folder = tmp_path / run.hash
    folder.mkdir()
    result = train(run, folder)
    data = make_data(run, "data")
    data.setup("fit")
    images, labels = data.splits["train"]
    random = RandomLabels(0.5)
    random.run_seed = run.seed
    random.on_run_start(SimpleNamespace(), None, data, None)
    given = data.splits["train"][1]
    net = network(run, folder)
    right = torch.tensor(
        [net(net.transform(image)[None]).argmax() == label for image, label in zip(images, given, strict=True)]
    )
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    drawn[random.replaced] = True
    assert result["fit"] == pytest.approx(100 * right.double().mean().item())
    assert result["fit_replaced"] == pytest.approx(100 * right[drawn].double().mean().item())
    assert result["fit_kept"] == pytest.approx(100 * right[~drawn].double().mean().item())


def test_a_run_on_random_labels_at_chance_has_not_failed():
    run = Run(density=0.5, data="digits").resolved
    assert failed(run, {"accuracy": 10.0})
    assert not failed(run, {"accuracy": 10.0, "fails_below": 0.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fraction": 1.5}, "fraction=1.5 of the images is impossible"), ({"pixels": "new"}, "pixels='new' is unknown")],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandomLabels(**options)


def test_labels_are_fitted_in_the_first_epoch_at_95_percent_or_never(trained):
    run = Run(net="lenet", width=0.3, data="digits", train_images=100, epochs=12, batch_size=20, lr=0.01,
              callbacks=(spec("labels.RandomLabels", fraction=0.0),))  # fmt: skip
    for one in (run, replace(run, epochs=1)):
        folder, result = trained(one)
        with (folder / "metrics.csv").open() as file:
            curve = [float(row["train_top1"] or 0) for row in csv.DictReader(file)]
        found = [n for n, value in enumerate(curve) if value >= 95]
        assert result["epochs_to_fit"] == min(found, default=one.epochs)
        assert bool(found) == (one.epochs > 1)
