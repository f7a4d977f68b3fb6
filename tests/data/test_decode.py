"""What an image file holds becomes RGB pixels, or an error; images decoded once are whole or absent."""

import io
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture, plant, tree
from PIL import Image
from torchvision.transforms import functional as TF

from lit_hidden.data.decode import decoded_once, load
from lit_hidden.data.files import DataError
from lit_hidden.data.imagenet import resize_to
from lit_hidden.data.trees import read_tree


def pixels(path: Path) -> np.ndarray:
    loaded = load(path)
    assert loaded.mode == "RGB"
    return np.asarray(loaded)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_what_a_png_holds_becomes_rgb_and_transparency_is_dropped(tmp_path, mode):
    image = picture("a", 50, 37).convert(mode)
    if mode.endswith("A"):
        image.putalpha(7)
    path = tmp_path / "a.JPEG"  # ILSVRC-2012 has a PNG called n02105855_2933.JPEG
    image.save(path, "PNG", **({"transparency": b"\0" * 5} if mode == "P" else {}))
    assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_as_pillow_has_it_whatever_its_exif_says_of_its_orientation(tmp_path, mode):
    path, exif = tmp_path / "a.JPEG", Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture("a", 50, 37).convert(mode).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(image)
    assert np.array_equal(pixels(path), expected if mode == "RGB" else np.stack([expected] * 3, axis=-1))


def jpeg() -> bytes:
    out = io.BytesIO()
    picture("a", 200, 150).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("content", [b"", jpeg()[:500], jpeg()[:-200], b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_cannot_be_decoded_to_its_end_is_named(tmp_path, content):
    path = tmp_path / "a.JPEG"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path} cannot be used \(\w+: .*; replace or delete it and run again"):
        load(path)


def test_the_square_that_is_decoded_once_is_an_eighth_larger_by_a_multiple_of_4():
    assert resize_to(224) == 256
    for size in range(8, 300):
        assert (resize_to(size) - size) % 4 == 0
        assert abs(resize_to(size) - size * 8 / 7) <= 2


# --- decoded once ----------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    return read_tree(plant(tmp_path / "set", tree(["a", "b", "c"], train=10))).train


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("workers", [0, 2])
def test_it_holds_the_middle_squares_of_all_images_in_their_order(images, folder, workers):
    squares = decoded_once(images, 24, folder, workers)
    assert squares.shape == (30, 3, 24, 24)
    for i in range(30):
        expected = np.asarray(TF.center_crop(TF.resize(load(images.path(i)), 24), 24)).transpose(2, 0, 1)
        assert np.array_equal(squares[i].numpy(), expected)
    before = squares.clone()
    squares[0, 0, 0, 0] ^= 255
    assert decoded_once(images, 24, folder, 0).equal(before), "one process's writes reach no other"


def test_a_cache_serves_no_other_size_nor_other_or_changed_files(images, folder):
    def caches(images, size=24) -> int:
        decoded_once(images, size, folder, 0)
        return len(list(folder.iterdir()))

    assert caches(images) == caches(images) == 1
    assert (caches(images, 20), caches(images.take(torch.arange(15)))) == (2, 3)
    os.utime(images.path(0), ns=(0, 0))
    assert caches(images) == 4


def test_two_processes_may_decode_at_once_and_one_that_is_killed_leaves_no_cache(images, folder, monkeypatch):
    fsync, others = os.fsync, []

    def later(file):
        monkeypatch.setattr(os, "fsync", fsync)
        others.append(decoded_once(images, 24, folder, 0))  # another process, which is faster
        fsync(file)

    def die(_):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        child = multiprocessing.get_context("fork").Process(target=decoded_once, args=(images, 24, folder, 0))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not list(folder.glob("*.pixels"))
    monkeypatch.setattr(os, "fsync", later)
    assert decoded_once(images, 24, folder, 0).equal(others[0])
    assert len(list(folder.glob("*.pixels"))) == 1
