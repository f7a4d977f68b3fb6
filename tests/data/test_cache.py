"""The cache of decoded images: whole or absent, whoever is killed, one for each set of files and size."""

import multiprocessing
import os
import runpy
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as TF

from lit_hidden.data.cache import open_cache
from lit_hidden.data.decode import load
from lit_hidden.data.trees import read_tree

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
plant, tree = made["plant"], made["tree"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture
def images(tmp_path):
    return read_tree(plant(tmp_path / "set", tree(["a", "b", "c"], train=30))).train


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("workers", [0, 2])
def test_it_holds_the_middle_squares_of_all_images_in_their_order(images, folder, workers):
    squares = open_cache(images, 24, folder, workers)
    assert squares.shape == (90, 3, 24, 24)
    for i in range(90):
        expected = np.asarray(TF.center_crop(TF.resize(load(images.path(i)), 24), 24)).transpose(2, 0, 1)
        assert np.array_equal(squares[i].numpy(), expected)


def test_one_process_s_writes_reach_no_other(images, folder):
    first = open_cache(images, 24, folder, 0)
    before = first.clone()
    first[0, 0, 0, 0] ^= 255
    assert open_cache(images, 24, folder, 0).equal(before)


def test_a_cache_serves_the_set_wherever_it_lies_but_no_other_size_nor_other_or_changed_files(images, folder, tmp_path):
    def caches(images, size=24) -> int:
        open_cache(images, size, folder, 0)
        return len(list(folder.iterdir()))

    shutil.copytree(tmp_path / "set", tmp_path / "moved", copy_function=shutil.copy2)
    assert caches(images) == caches(read_tree(tmp_path / "moved").train) == 1
    assert (caches(images, 20), caches(images.take(torch.arange(45)))) == (2, 3)
    os.utime(images.path(0), ns=(0, 0))
    assert caches(images) == 4


def test_two_processes_may_decode_at_once_and_one_that_is_killed_leaves_no_cache(images, folder, monkeypatch):
    fsync, others = os.fsync, []

    def later(file):
        monkeypatch.setattr(os, "fsync", fsync)
        others.append(open_cache(images, 24, folder, 0))  # another process, which is faster
        fsync(file)

    def die(_):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        child = multiprocessing.get_context("fork").Process(target=open_cache, args=(images, 24, folder, 0))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not list(folder.glob("*.npy"))
    monkeypatch.setattr(os, "fsync", later)
    assert open_cache(images, 24, folder, 0).equal(others[0])
    assert len(list(folder.glob("*.npy"))) == 1
