"""CIFAR-10, MNIST and scikit-learn's digits: what is read from their files, and how files get there."""

import hashlib
import re
import shutil
import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from sklearn.datasets import load_digits

from lit_hidden.data import CIFAR10Data, DataError, DigitsData, MNISTData
from lit_hidden.data.imagenet import ImagenetteData

BIN, PY, RAW = "cifar-10-batches-bin", "cifar-10-batches-py", "MNIST/raw"


# --- what is in the files --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [BIN, PY])
def test_both_layouts_of_cifar_10_are_read(write, tmp_path, layout):
    write(layout)
    (train, train_labels), (test, test_labels) = CIFAR10Data(str(tmp_path)).read()
    assert (train.shape, test.shape) == ((100, 3, 32, 32), (20, 3, 32, 32))
    assert (train.dtype, train_labels.dtype) == (torch.uint8, torch.int64)
    assert train_labels.tolist() == [i % 10 for i in range(20)] * 5
    assert test_labels.tolist() == [i % 10 for i in range(20)]
    assert train[:, 0, 0, 0].tolist() == [*range(20)] * 5
    assert train[:, 1, 0, 0].unique().tolist() == [100]
    assert train[::20, 2, 31, 31].tolist() == [0, 1, 2, 3, 4]
    assert test[:, 2, 31, 31].unique().tolist() == [5]


def test_mnists_files_are_read(write, tmp_path):
    write(RAW)
    old = tmp_path / "MNIST" / "processed"  # what an old torchvision left, which nobody has verified
    old.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(60, 28, 28), torch.zeros(60)), old / name)
    (train, train_labels), (test, test_labels) = MNISTData(str(tmp_path)).read()
    assert (train.shape, test.shape) == ((60, 1, 28, 28), (10, 1, 28, 28))
    assert train.flatten().tolist() == [*range(60)] * 784
    assert (train_labels.tolist(), test_labels.tolist()) == ([i % 10 for i in range(60)], [*range(10)])


@pytest.fixture(scope="module")
def digits():
    return DigitsData("no/such/folder").read()


def test_digits_are_scikit_learns_enlarged_by_hand_every_fifth_of_a_class_to_test(digits):
    theirs, ((train, train_labels), (test, test_labels)) = load_digits(), digits
    order = sorted(range(1797), key=lambda i: theirs.target[i])
    assert (train.shape, test.shape, train.dtype) == ((1437, 1, 32, 32), (360, 1, 32, 32), torch.uint8)
    assert test_labels.tolist() == [theirs.target[i] for i in order[::5]]
    assert train_labels.tolist() == [theirs.target[i] for n, i in enumerate(order) if n % 5]
    small = (theirs.images[order[0]] * 255 / 16).round()

    def between(row, column):  # bilinear, half-pixel centres, edges repeated
        y, x = (max(0.0, (place + 0.5) / 4 - 0.5) for place in (row, column))
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 7), min(left + 1, 7)
        upper = small[top, left] + (x - left) * (small[top, right] - small[top, left])
        lower = small[bottom, left] + (x - left) * (small[bottom, right] - small[bottom, left])
        return round(upper + (y - top) * (lower - upper))

    assert test[0, 0].tolist() == [[between(row, column) for column in range(32)] for row in range(32)]


def test_the_digits_are_pinned_and_their_mean_and_std_are_those_of_the_training_pixels(digits):
    digest = hashlib.sha256()
    for images, labels in digits:
        digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
    assert digest.hexdigest() == "000f1f1208ab4ea5eb116b48211bac33031a84401858a7b094d6f03b2e6f2ddf"
    pixels = digits[0][0].double() / 255
    assert (*DigitsData.mean, *DigitsData.std) == (round(pixels.mean().item(), 4), round(pixels.std().item(), 4))


def test_the_real_sets_have_the_means_given(real_data):
    cifar = CIFAR10Data(str(real_data), held_out=5_000)
    cifar.prepare_data()
    pixels = cifar.val_dataloader().images / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(cifar.mean, abs=5e-3)
    counts = {split: labels.bincount().unique().tolist() for split, (_, labels) in cifar.splits.items()}
    assert counts == {"train": [4500], "val": [500], "test": [1000]}
    (train, labels), (test, _) = MNISTData(str(real_data)).read()
    pixels = train.float() / 255
    assert pixels.mean().item() == pytest.approx(MNISTData.mean[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(MNISTData.std[0], abs=5e-5)
    assert (labels[:5].tolist(), len(test)) == ([5, 0, 4, 1, 9], 10_000)


# --- how they get there ----------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    def urlopen(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.mark.usefixtures("offline")
def test_nothing_is_downloaded_where_files_are_or_none_are_needed(write, tmp_path):
    write(BIN)
    for kind in (CIFAR10Data, DigitsData):
        kind(str(tmp_path)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [BIN]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("data", "layout"), [(CIFAR10Data, PY), (MNISTData, RAW), (ImagenetteData, "imagenette2-320")])
def test_offline_what_is_missing_is_named_and_nothing_is_left(tmp_path, data, layout):
    with pytest.raises(DataError) as error:
        data(str(tmp_path)).prepare_data()
    for text in (f"{tmp_path}/{layout} cannot be used", "no route to host", f"set DATA_DIR .* that holds {layout}/;"):
        assert re.search(text, str(error.value))
    assert list(tmp_path.iterdir()) == []


def test_a_download_comes_whole_or_not_at_all_and_of_two_at_once_the_first_to_finish_wins(tmp_path, monkeypatch, write):
    def broken(new, **options):
        assert socket.getdefaulttimeout() == 30
        Path(new, "cifar-10-python.tar.gz").write_bytes(b"half")
        raise TimeoutError("timed out")

    def slower(new, **options):
        write(PY)  # another process was faster
        (Path(new) / PY).mkdir()

    def quick(new, **options):
        write(PY, Path(new))

    for source in (broken, slower, quick):
        monkeypatch.setattr(CIFAR10Data, "source", staticmethod(source))
        data = CIFAR10Data(str(tmp_path))
        if source is broken:
            with pytest.raises(DataError, match="TimeoutError: timed out"):
                data.prepare_data()
            assert (list(tmp_path.iterdir()), socket.getdefaulttimeout()) == ([], None)
        else:
            data.prepare_data()
            assert [path.name for path in tmp_path.iterdir()] == [PY]
            assert len(list((tmp_path / PY).glob("*_batch*"))) == 6
            shutil.rmtree(tmp_path / PY)
