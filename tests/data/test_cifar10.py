import hashlib
import os
import pickle
import re
import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from lit_hidden.data import CIFAR10Data, DataError

BIN, PY = "cifar-10-batches-bin", "cifar-10-batches-py"


def mend(folder: Path) -> str:
    return (
        f"delete {folder} and run again to download it anew, "
        f"or set DATA_DIR (--data-dir; of fit: --data.root) to the folder that holds a whole {folder.name}/"
    )


def fails(root: Path, message: str) -> None:
    data = CIFAR10Data(str(root))
    data.prepare_data()
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        data.setup("fit")


@pytest.mark.parametrize("layout", ["cifar_bin", "cifar_py"])
def test_both_layouts_are_read_also_one_folder_deeper(request, tmp_path, layout):
    (tmp_path / "deeper").symlink_to(request.getfixturevalue(layout).parent)
    (train, train_labels), (test, test_labels) = CIFAR10Data(str(tmp_path)).read()
    assert (train.shape, test.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert (train.dtype, train_labels.dtype) == (torch.uint8, torch.int64)
    assert train_labels.tolist() == [i % 10 for i in range(10_000)] * 5
    assert test_labels.tolist() == [i % 10 for i in range(10_000)]
    assert train[:, 0, 0, 0].tolist() == [i % 251 for i in range(10_000)] * 5
    assert train[:, 1, 0, 0].unique().tolist() == [100]
    assert train[::10_000, 2, 31, 31].tolist() == [0, 1, 2, 3, 4]
    assert test[:, 2, 31, 31].unique().tolist() == [5]


def test_of_two_layouts_the_first_that_is_whole_is_read(linked, cifar_py, cifar_bin, tmp_path):
    broken = linked(cifar_py)
    os.unlink(broken / "data_batch_2")
    linked(cifar_bin)
    assert len(CIFAR10Data(str(tmp_path)).read()[0][0]) == 50_000
    os.unlink(tmp_path / BIN / "test_batch.bin")
    fails(tmp_path, f"{broken / 'data_batch_2'} is missing; {mend(broken)}")


def test_a_missing_file_is_named(linked, cifar_bin, tmp_path):
    folder = linked(cifar_bin)
    os.unlink(folder / "data_batch_3.bin")
    fails(tmp_path, f"{folder / 'data_batch_3.bin'} is missing; {mend(folder)}")


def test_a_truncated_file_is_named(linked, cifar_bin, tmp_path):
    folder = linked(cifar_bin)
    os.unlink(folder / "test_batch.bin")
    (folder / "test_batch.bin").write_bytes(bytes(1000))
    fails(tmp_path, f"{folder / 'test_batch.bin'} has 1000 bytes, not 30730000; {mend(folder)}")


def test_a_file_of_other_records_is_named(linked, cifar_bin, tmp_path):
    folder = linked(cifar_bin)
    os.unlink(folder / "data_batch_1.bin")
    (folder / "data_batch_1.bin").write_bytes(b"7*" * 15_365_000)
    fails(tmp_path, f"{folder / 'data_batch_1.bin'} has labels from 42 to 55, not 0 to 9; {mend(folder)}")


def test_a_file_of_zeros_is_found_out(linked, cifar_bin, tmp_path):
    folder = linked(cifar_bin)
    os.unlink(folder / "test_batch.bin")
    with (folder / "test_batch.bin").open("wb") as file:
        file.truncate(30_730_000)
    counts = [10_000, *[0] * 9]
    fails(tmp_path, f"{folder} has {counts} images of the 10 classes, not 1000 of each; {mend(folder)}")


def test_a_file_that_cannot_be_opened_is_named(linked, cifar_py, tmp_path):
    folder = linked(cifar_py)
    os.unlink(folder / "data_batch_5")
    (folder / "data_batch_5").mkdir()
    path = folder / "data_batch_5"
    reason = f"IsADirectoryError: [Errno 21] Is a directory: '{path}'"
    fails(tmp_path, f"{path} cannot be read ({reason}); {mend(folder)}")


class Evil:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def laughs(depth: int = 100) -> bytes:
    """Labels that are lists of twice the same list: 2**depth numbers in a few hundred bytes."""
    labels: list = [0]
    for _ in range(depth):
        labels = [labels, labels]
    return pickle.dumps({b"data": b"", b"labels": labels}, 2)


@pytest.mark.parametrize("kind", ["empty", "cut", "a page", "code", "a bomb", "a bit turned"])
def test_a_batch_that_is_not_the_publishers_is_named_and_not_opened(linked, cifar_py, tmp_path, kind):
    folder = linked(cifar_py)
    path = folder / "data_batch_1"
    whole = path.read_bytes()
    contents = {
        "empty": b"", "cut": whole[:100_000], "a page": b"<html>404</html>", "a bomb": laughs(),
        "code": pickle.dumps(Evil(tmp_path / "x"), 2),
        "a bit turned": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    }  # fmt: skip
    os.unlink(path)
    path.write_bytes(contents[kind])
    fails(tmp_path, f"{path} is not the publisher's (its MD5 is not {hashlib.md5(whole).hexdigest()}); {mend(folder)}")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("layout", ["cifar_bin", "cifar_py"])
def test_a_pipe_in_place_of_a_file_is_named(request, linked, tmp_path, layout):
    folder = linked(request.getfixturevalue(layout))
    path = next(folder.glob("data_batch_3*"))
    os.unlink(path)
    os.mkfifo(path)
    reason = f"UnsupportedOperation: {path} is a pipe, not a file"
    fails(tmp_path, f"{path} cannot be read ({reason}); {mend(folder)}")


@pytest.fixture
def offline(monkeypatch):
    def urlopen(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def offline_message(root: Path, reason: str) -> str:
    return (
        f"CIFAR10 is not in {root} and cannot be downloaded ({reason}); "
        f"place cifar-10-python.tar.gz in {root} and run again, or set DATA_DIR (--data-dir; of fit: --data.root) "
        f"to the folder that holds {PY}/; the quick preset needs no download"
    )


def test_offline_the_archive_and_its_place_are_named_and_nothing_is_left(tmp_path, offline):
    root = tmp_path / "new" / "data"
    message = offline_message(root, "URLError: <urlopen error no route to host>")
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        CIFAR10Data(str(root)).prepare_data()
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_offline_a_folder_that_was_there_stays(tmp_path, offline):
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError):
        CIFAR10Data(str(tmp_path)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [TimeoutError("timed out"), RuntimeError("File not found\n or corrupted.")])
def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, error):
    import torchvision

    def broken(root, train, download):
        assert socket.getdefaulttimeout() == 30
        (Path(root) / "cifar-10-python.tar.gz").write_bytes(b"half")
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", broken)
    message = offline_message(tmp_path / "data", f"{type(error).__name__}: {' '.join(str(error).split())}")
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        CIFAR10Data(str(tmp_path / "data")).prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_told_so(tmp_path):
    (tmp_path / "file").touch()
    reason = f"FileExistsError: [Errno 17] File exists: '{tmp_path / 'file'}'"
    with pytest.raises(DataError, match=f"^{re.escape(offline_message(tmp_path / 'file', reason))}$"):
        CIFAR10Data(str(tmp_path / "file")).prepare_data()


def test_a_placed_archive_that_is_not_the_publishers_is_named(tmp_path, offline):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half")
    message = (
        f"{archive} is not the publisher's archive (its MD5 is not c58f30108f718f92721af3b95e74349a); "
        "delete it and run again to download it anew"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        CIFAR10Data(str(tmp_path)).prepare_data()
    assert archive.read_bytes() == b"half"


def test_a_placed_archive_is_unpacked_without_a_network(tmp_path, offline, monkeypatch, cifar_py):
    import tarfile

    import torchvision
    from torchvision.datasets.utils import calculate_md5

    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(cifar_py, PY)
    md5 = calculate_md5(archive)
    monkeypatch.setattr(CIFAR10Data, "archives", {archive.name: md5})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    test_md5 = calculate_md5(cifar_py / "test_batch")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [["test_batch", test_md5]])
    data = CIFAR10Data(str(tmp_path))
    data.prepare_data()
    assert sorted(path.name for path in tmp_path.iterdir()) == [PY, archive.name]
    assert sorted(path.name for path in (tmp_path / PY).iterdir()) == sorted(os.listdir(cifar_py))


def test_of_two_downloads_at_once_the_first_to_finish_wins(tmp_path, monkeypatch, cifar_py, linked):
    import torchvision

    def fetch(root, train, download):
        if not (tmp_path / PY).exists():
            linked(cifar_py)  # another process was faster
        (Path(root) / PY).mkdir()
        (Path(root) / PY / "slower").touch()

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch)
    CIFAR10Data(str(tmp_path)).prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [PY]
    assert not (tmp_path / PY / "slower").exists()


def test_another_process_s_download_on_its_way_is_not_taken_for_data(tmp_path, linked, cifar_bin, offline):
    linked(cifar_bin, ".download-x")
    with pytest.raises(DataError):
        CIFAR10Data(str(tmp_path)).prepare_data()


def test_the_real_set(real_data):
    data = CIFAR10Data(str(real_data), held_out=5_000)
    data.prepare_data()
    data.setup("fit")
    pixels = data.val_dataloader().images / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=5e-3)
    assert data.train_dataloader().labels.bincount().tolist() == [4500] * 10
    assert data.val_dataloader().labels.bincount().tolist() == [500] * 10
    assert data.test_dataloader().labels.bincount().tolist() == [1000] * 10
