import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def records(file: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Content of the n-th CIFAR-10 file: pixels tell file and record, labels are balanced."""
    pixels = np.full((count, 3072), file, dtype=np.uint8)
    pixels[:, 0] = np.arange(count) % 251
    pixels[:, 1024] = 100  # first green pixel
    return pixels, (np.arange(count) % 10).astype(np.uint8)


def python_2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as the publisher's Python 2 and numpy 1 wrote it: `str` for text and pixels alike."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
        b"(K\x01" + struct.pack("<cHcH", b"M", pixels.shape[0], b"M", pixels.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


@pytest.fixture(scope="session")
def cifar_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin") / "cifar-10-batches-bin"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        pixels, labels = records(i, 10_000)
        np.hstack([labels[:, None], pixels]).tofile(folder / f"{name}.bin")
    return folder


@pytest.fixture(scope="session")
def cifar_py(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A set of 20 images a file, which pass for the publisher's."""
    folder = tmp_path_factory.mktemp("py") / "cifar-10-batches-py"
    folder.mkdir()
    sums = []
    for i, name in enumerate(NAMES):
        pixels, labels = records(i, 20)
        content = python_2_pickle(pixels, labels.tolist())
        (folder / name).write_bytes(content)
        sums.append([name, hashlib.md5(content).hexdigest()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR10, "train_list", sums[:5])
        patch.setattr(CIFAR10, "test_list", sums[5:])
        yield folder


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnist") / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in {"train": 60_000, "t10k": 10_000}.items():
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 1] = np.arange(count) % 256
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())
    return folder


@pytest.fixture
def linked(tmp_path: Path):
    """Makes a folder in `tmp_path` with links to another's files, so that one can be replaced at no cost."""

    def link(folder: Path, at: str = "") -> Path:
        new = tmp_path / at / folder.name
        new.mkdir(parents=True)
        for file in folder.iterdir():
            os.link(file, new / file.name)
        return new

    return link


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real sets: CIFAR-10, MNIST, Tiny ImageNet-100."""
    if "LIT_HIDDEN_TEST_DATA" not in os.environ:
        pytest.skip("LIT_HIDDEN_TEST_DATA is not set to a folder that holds the real sets")
    return Path(os.environ["LIT_HIDDEN_TEST_DATA"])
