import errno
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_hidden.data import DataError, cache
from lit_hidden.data.cache import open_cache
from lit_hidden.data.decode import load, middle
from lit_hidden.data.trees import read_tree

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]


@pytest.fixture
def images(tmp_path):
    return read_tree(plant(tmp_path / "set", tree(["a", "b", "c"], train=30))).train


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_it_holds_the_middle_squares_of_all_images_in_their_order(images, folder, workers):
    squares = open_cache(images, 24, folder, workers)
    assert squares.shape == (90, 3, 24, 24)
    for i in range(90):
        expected = np.asarray(middle(load(images.path(i)), 24, 24)).transpose(2, 0, 1)
        assert np.array_equal(squares[i].numpy(), expected)


def test_it_is_decoded_once(images, folder, monkeypatch):
    first = open_cache(images, 24, folder, 0)
    (made_,) = folder.iterdir()
    monkeypatch.setattr(cache, "_build", None)
    assert open_cache(images, 24, folder, 0).equal(first)
    assert json.loads((made_ / "about.json").read_text()) == {
        "images": 90, "size": 24, "of": str(images.folder), "first": str(images.path(0))
    }  # fmt: skip


def test_another_size_other_files_and_changed_files_have_caches_of_their_own(images, folder):
    open_cache(images, 24, folder, 0)
    open_cache(images, 20, folder, 0)
    half = open_cache(images.take(torch.arange(45)), 24, folder, 0)
    assert len(list(folder.iterdir())) == 3
    os.utime(images.path(0), ns=(0, 0))
    open_cache(images, 24, folder, 0)
    assert len(list(folder.iterdir())) == 4
    assert len(half) == 45


def test_the_whole_set_may_be_moved(images, folder, monkeypatch, tmp_path):
    open_cache(images, 24, folder, 0)
    shutil.copytree(tmp_path / "set", tmp_path / "moved", copy_function=shutil.copy2)
    monkeypatch.setattr(cache, "_build", None)
    open_cache(read_tree(tmp_path / "moved").train, 24, folder, 0)


def test_one_process_s_writes_reach_no_other(images, folder):
    first, second = open_cache(images, 24, folder, 0), open_cache(images, 24, folder, 0)
    before = int(second[0, 0, 0, 0])
    first[0, 0, 0, 0] = before ^ 255
    assert int(second[0, 0, 0, 0]) == before
    assert int(open_cache(images, 24, folder, 0)[0, 0, 0, 0]) == before


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_damaged_images_are_all_named_and_nothing_is_left(images, folder):
    for i in (3, 70):
        images.path(i).write_bytes(images.path(i).read_bytes()[:-50])
    with pytest.raises(DataError) as error:
        open_cache(images, 24, folder, 0)
    reason = r"cannot be decoded \(OSError: image file is truncated \(\d+ bytes not processed\)\)"
    first, second = (f"{images.path(i)} {reason}" for i in (3, 70))
    message = f"{first}; replace or delete it and run again; so it is with 1 more: {second}"
    assert re.fullmatch(message, str(error.value))
    assert left(folder) == []


def test_a_file_that_vanished_since_it_was_listed_is_named(images, folder):
    images.path(5).unlink()
    message = (
        f"{images.path(5)} cannot be read ([Errno 2] No such file or directory: '{images.path(5)}'); "
        "replace or delete it and run again"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_cache(images, 24, folder, 0)


def fails(images, folder: Path, reason: str) -> None:
    message = (
        f"{folder} cannot take 0 MiB of decoded images ({reason}); make room, or set "
        "CACHE_DIR (of fit: --data.cache_dir) to another folder, or decode anew in every epoch: cache_gib=0"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_cache(images, 24, folder, 0)


def test_too_small_a_disk_is_told_before_anything_is_decoded(images, folder, monkeypatch):
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    monkeypatch.setattr(cache, "_write", None)
    fails(images, folder, "0 MiB of disk are free")
    assert left(folder) == []


def test_a_disk_that_fills_up_leaves_nothing(images, folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fails(images, folder, "[Errno 28] No space left on device")
    assert left(folder) == []


def test_a_folder_that_cannot_be_made_is_named(images, tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    fails(images, folder, f"[Errno 20] Not a directory: '{folder}'")


def test_of_two_processes_at_once_the_first_to_finish_wins(images, folder, monkeypatch):
    write = cache._write

    def slower(*arguments):
        monkeypatch.setattr(cache, "_write", write)
        open_cache(images, 24, folder, 0)  # another process
        (first,) = folder.glob("[!.]*")
        (first / "first").touch()
        return write(*arguments)

    monkeypatch.setattr(cache, "_write", slower)
    assert len(open_cache(images, 24, folder, 0)) == 90
    (only,) = folder.iterdir()
    assert (only / "first").exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_killed_process_leaves_no_cache_and_what_it_leaves_is_swept(images, folder, monkeypatch):
    def die(_):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        child = multiprocessing.get_context("fork").Process(target=open_cache, args=(images, 24, folder, 0))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    (unfinished,) = folder.iterdir()
    assert unfinished.name.startswith(".building-")
    assert len(open_cache(images, 24, folder, 0)) == 90
    assert unfinished.exists()  # it might be a living process's
    for path in (unfinished, *unfinished.rglob("*")):
        os.utime(path, (time.time() - 2 * cache.STALE,) * 2)
    open_cache(images, 20, folder, 0)
    assert not unfinished.exists()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["short", "other", "none"])
def test_a_cache_damaged_from_outside_is_named(images, folder, damage):
    open_cache(images, 24, folder, 0)
    (place,) = folder.iterdir()
    file = place / "images.npy"
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-1])
        reason = "mmap length is greater than file size"
    elif damage == "other":
        np.save(file, np.zeros((3, 4)))
        reason = "it holds float64 (3, 4), not uint8 (90, 3, 24, 24)"
    else:
        file.unlink()
        reason = f"[Errno 2] No such file or directory: '{file}'"
    message = f"{file} is damaged ({reason}); delete {place} and run again"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_cache(images, 24, folder, 0)
