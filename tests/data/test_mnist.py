import gzip
import re
import struct
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from lit_hidden.data import DataError, MNISTData

PARTS = {"train": 60_000, "t10k": 10_000}


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mnist") / "raw"
    folder.mkdir()
    for part, count in PARTS.items():
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 1] = np.arange(count) % 256
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())
    return folder


@pytest.mark.parametrize("deeper", ["MNIST", "deeper/MNIST"])
def test_files_are_read_plain_or_packed(linked, whole, tmp_path, deeper):
    folder = linked(whole, deeper)
    packed = folder / "t10k-images-idx3-ubyte"
    (folder / f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes(), 1))
    packed.unlink()
    (train, train_labels), (test, test_labels) = MNISTData(str(tmp_path)).read()
    assert (train.shape, test.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (train.dtype, train_labels.dtype) == (torch.uint8, torch.int64)
    assert test[:, 0, 0, 1].tolist() == [i % 256 for i in range(10_000)]
    assert train_labels.tolist() == [i % 10 for i in range(60_000)]
    assert test_labels.tolist() == [i % 10 for i in range(10_000)]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("train-labels-idx1-ubyte", None, "is missing"),
        (
            "t10k-labels-idx1-ubyte",
            b"<html>404</html>",
            "begins with 3c68746d6c3e3430, not with 0000080100002710 for (10000,) bytes",
        ),
        (
            "t10k-images-idx3-ubyte",
            struct.pack(">4I", 2051, 10_000, 28, 28),
            "has 16 bytes, not 7840016",
        ),
        ("t10k-labels-idx1-ubyte", struct.pack(">2I", 2049, 10_000) + b"\x0a" * 10_000,
         "has labels up to 10, not up to 9"),
        ("t10k-labels-idx1-ubyte", struct.pack(">2I", 2049, 10_000) + bytes(10_000), "has 1 of the 10 labels"),
        ("t10k-images-idx3-ubyte", struct.pack(">4I", 2051, 10_000, 28, 28) + bytes(7_840_000),
         "has no image: every pixel is 0"),
        ("t10k-labels-idx1-ubyte", struct.pack(">2I", 2049, 10_000) + bytes(10_009),
         "has 10009 bytes or more, not 10008"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(struct.pack(">2I", 2049, 10_000) + bytes(10**7), mtime=0),
         "has 10009 bytes or more, not 10008"),
        ("t10k-labels-idx1-ubyte.gz",
         gzip.compress(struct.pack(">2I", 2049, 10_000) + bytes(range(10)) * 1000, mtime=0)[:-6] + bytes(6),
         "cannot be read (BadGzipFile: CRC check failed 0xf230 != 0x5ed2f230)"),
        ("t10k-labels-idx1-ubyte.gz", b"no archive",
         "cannot be read (BadGzipFile: Not a gzipped file (b'no'))"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(linked, whole, tmp_path, name, content, problem):
    folder = linked(whole, "MNIST")
    (folder / name.removesuffix(".gz")).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    message = (
        f"{folder / name} {problem}; delete {folder} and run again to download it anew, "
        "or set DATA_DIR (--data-dir; of fit: --data.root) to the folder that holds a whole MNIST/raw/"
    )
    data = MNISTData(str(tmp_path))
    data.prepare_data()
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        data.setup("fit")


def test_offline_the_archives_and_their_place_are_named_and_nothing_is_left(tmp_path, monkeypatch):
    def urlopen(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    root = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        MNISTData(str(root)).prepare_data()
    before, reason, after = re.split(r" \((RuntimeError: .*)\); ", str(caught.value))
    assert before == f"MNIST is not in {root} and cannot be downloaded"
    assert reason.startswith("RuntimeError: Error downloading train-images-idx3-ubyte.gz: Tried http")
    assert reason.endswith("got: <urlopen error no route to host>")
    assert after == (
        "place train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz in {root}/MNIST/raw and run again, "
        "or set DATA_DIR (--data-dir; of fit: --data.root) to the folder that holds MNIST/raw/; "
        "the quick preset needs no download"
    )
    assert list(tmp_path.iterdir()) == []


def test_empty_folders_of_a_broken_download_are_no_data(tmp_path, monkeypatch, whole, linked):
    import torchvision

    def fetch(root, train, download):
        linked(whole, Path(root).relative_to(tmp_path) / "MNIST")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    data = MNISTData(str(tmp_path))
    data.prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]
    assert len(data.read()[1][1]) == 10_000


def test_the_real_set_has_the_mean_and_std_given(real_data):
    (train, labels), (test, _) = MNISTData(str(real_data)).read()
    pixels = train.float() / 255
    assert pixels.mean().item() == pytest.approx(MNISTData.mean[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(MNISTData.std[0], abs=5e-5)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert len(test) == 10_000
