"""CIFAR-10, MNIST and scikit-learn's digits: what is read from their files, and how files get there."""

import gzip
import hashlib
import os
import socket
import tarfile
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torchvision.datasets.utils import calculate_md5

from lit_hidden.data import CIFAR10Data, DataError, DigitsData, ImagenetteData, MNISTData

PY = "cifar-10-batches-py"


# --- what is in the files --------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "each"), [("cifar_bin", 10_000), ("cifar_py", 20)])
def test_both_layouts_of_cifar_10_are_read(request, layout, each):
    (train, train_labels), (test, test_labels) = CIFAR10Data(str(request.getfixturevalue(layout).parent)).read()
    assert (train.shape, test.shape) == ((5 * each, 3, 32, 32), (each, 3, 32, 32))
    assert (train.dtype, train_labels.dtype) == (torch.uint8, torch.int64)
    assert train_labels.tolist() == [i % 10 for i in range(each)] * 5
    assert test_labels.tolist() == [i % 10 for i in range(each)]
    assert train[:, 0, 0, 0].tolist() == [i % 251 for i in range(each)] * 5
    assert train[:, 1, 0, 0].unique().tolist() == [100]
    assert train[::each, 2, 31, 31].tolist() == [0, 1, 2, 3, 4]
    assert test[:, 2, 31, 31].unique().tolist() == [5]


def test_mnists_files_are_read_plain_or_packed(linked, mnist, tmp_path):
    packed = linked(mnist, "MNIST") / "t10k-images-idx3-ubyte"
    packed.with_name(f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes(), 1))
    packed.unlink()
    (train, train_labels), (test, test_labels) = MNISTData(str(tmp_path)).read()
    assert (train.shape, test.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert test[:, 0, 0, 1].tolist() == [i % 256 for i in range(10_000)]
    assert train_labels.tolist() == [i % 10 for i in range(60_000)]
    assert test_labels.tolist() == [i % 10 for i in range(10_000)]


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


def test_nothing_is_downloaded_where_files_are_or_none_are_needed(linked, cifar_bin, tmp_path, offline):
    linked(cifar_bin)
    for kind in (CIFAR10Data, DigitsData):
        kind(str(tmp_path)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [cifar_bin.name]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (CIFAR10Data, ["CIFAR10 is not in", "/cifar-10-python.tar.gz (MD5 c58f30108f71", f"{PY}/;"]),
        (MNISTData, ["MNIST is not in", "/MNIST/raw/t10k-labels-idx1-ubyte.gz (MD5 ec29112dd5", "holds MNIST/raw/;"]),
        (ImagenetteData, ["Imagenette is not in", "/imagenette2-320.tgz (MD5 3df6f0d01a2c", "imagenette2-320/;"]),
    ],
)
def test_offline_the_archives_and_their_place_are_named_and_nothing_is_left(tmp_path, offline, data, wanted):
    with pytest.raises(DataError) as error:
        data(str(tmp_path)).prepare_data()
    for text in [*wanted, "no route to host", "the quick preset needs no download"]:
        assert text in str(error.value)
    assert list(tmp_path.iterdir()) == []
    url, md5 = torchvision.datasets.Imagenette._ARCHIVES["320px"]
    assert ImagenetteData.archives == {Path(url).name: md5}


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def broken(root, **options):
        assert socket.getdefaulttimeout() == 30
        Path(root, "cifar-10-python.tar.gz").write_bytes(b"half")
        raise TimeoutError("timed out")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", broken)
    with pytest.raises(DataError, match="TimeoutError: timed out"):
        CIFAR10Data(str(tmp_path)).prepare_data()
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_a_placed_archive_is_unpacked_without_a_network(tmp_path, offline, monkeypatch, cifar_py):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(cifar_py, PY)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", calculate_md5(archive))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    data = CIFAR10Data(str(tmp_path))
    data.prepare_data()
    assert sorted(path.name for path in tmp_path.iterdir()) == [PY, archive.name]
    assert sorted(path.name for path in (tmp_path / PY).iterdir()) == sorted(os.listdir(cifar_py))
    assert len(data.read()[0][0]) == 100


def test_of_two_downloads_at_once_the_first_to_finish_wins(tmp_path, monkeypatch, cifar_py, linked):
    def slower(root, **options):
        linked(cifar_py)  # another process was faster
        (Path(root) / PY).mkdir()
        (Path(root) / PY / "slower").touch()

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", slower)
    CIFAR10Data(str(tmp_path)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [PY]
    assert not (tmp_path / PY / "slower").exists()
