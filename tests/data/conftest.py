import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from lit_hidden.data import CIFAR10Data, MNISTData

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def records(file: int) -> tuple[np.ndarray, np.ndarray]:
    """Content of the n-th CIFAR-10 file: pixels tell file and record, labels are balanced."""
    pixels = np.full((20, 3072), file, dtype=np.uint8)
    pixels[:, 0] = np.arange(20)
    pixels[:, 1024] = 100  # first green pixel
    return pixels, (np.arange(20) % 10).astype(np.uint8)


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


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a small set into a folder of one of the publishers' layouts; it passes for theirs."""

    def written(file: Path, content: bytes) -> str:
        file.write_bytes(content)
        return hashlib.md5(content).hexdigest()

    def write(layout: str, root: Path = tmp_path) -> Path:
        folder = root / layout
        folder.mkdir(parents=True)
        if layout == "MNIST/raw":
            md5 = {}
            for part, count in (("train", 60), ("t10k", 10)):
                pixels, labels = bytes(range(count)) * 784, bytes(i % 10 for i in range(count))
                for name, content in (
                    (f"{part}-images-idx3-ubyte", struct.pack(">4I", 2051, count, 28, 28) + pixels),
                    (f"{part}-labels-idx1-ubyte", struct.pack(">2I", 2049, count) + labels),
                ):
                    md5[name] = written(folder / name, content)
            monkeypatch.setattr(MNISTData, "md5", md5)
            return folder
        sums = []
        for i, name in enumerate(NAMES):
            pixels, labels = records(i)
            if layout.endswith("-bin"):
                np.hstack([labels[:, None], pixels]).tofile(folder / f"{name}.bin")
            else:
                sums.append([name, written(folder / name, python_2_pickle(pixels, labels.tolist()))])
        monkeypatch.setattr(CIFAR10Data, "sizes", (100, 20))
        if sums:
            monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
            monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
            meta = {"filename": "batches.meta", "key": "label_names"}
            names = pickle.dumps({"label_names": [*"abcdefghij"]})
            monkeypatch.setattr(CIFAR10, "meta", meta | {"md5": written(folder / "batches.meta", names)})
        return folder

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real sets: CIFAR-10, MNIST, Tiny ImageNet-100."""
    if "LIT_HIDDEN_TEST_DATA" not in os.environ:
        pytest.skip("LIT_HIDDEN_TEST_DATA is not set to a folder that holds the real sets")
    return Path(os.environ["LIT_HIDDEN_TEST_DATA"])
