import io
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional as TF

from lit_hidden.data import DataError
from lit_hidden.data.crops import DRAWS, crop_boxes
from lit_hidden.data.decode import Pictures, Places, decoder, load, middle, part
from lit_hidden.data.files import Unfit
from lit_hidden.data.imagenet import resize_to
from lit_hidden.data.trees import read_tree

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
picture, plant, tree = made["picture"], made["plant"], made["tree"]


def saved(path: Path, image: Image.Image, kind: str, **options) -> np.ndarray:
    image.save(path, kind, **options)
    loaded = load(path)
    assert loaded.mode == "RGB"
    return np.asarray(loaded)


def as_pillow_has_it(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


# --- what is in a file -----------------------------------------------------------------------------------


def test_colours_stay_as_they_are(tmp_path):
    image = picture("a", 50, 37)
    assert np.array_equal(saved(tmp_path / "a.png", image, "PNG"), np.asarray(image))
    pixels = saved(tmp_path / "a.JPEG", image, "JPEG")
    assert np.array_equal(pixels, np.asarray(as_pillow_has_it(tmp_path / "a.JPEG")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_greyscale_is_repeated(tmp_path, kind):
    grey = picture("a", 50, 37).convert("L")
    pixels = saved(tmp_path / "a.JPEG", grey, kind)
    expected = np.asarray(as_pillow_has_it(tmp_path / "a.JPEG"))
    assert expected.ndim == 2
    assert np.array_equal(pixels, np.stack([expected] * 3, axis=-1))


def test_cmyk_becomes_the_colours_that_it_prints(tmp_path):
    image = picture("a", 50, 37)
    pixels = saved(tmp_path / "a.JPEG", image.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert as_pillow_has_it(tmp_path / "a.JPEG").mode == "CMYK"
    assert np.abs(pixels.astype(int) - np.asarray(image)).mean() < 2


@pytest.mark.parametrize("name", ["a.png", "a.JPEG"])
def test_a_palette_is_looked_up_whatever_the_file_is_called(tmp_path, name):
    # ILSVRC-2012 has a PNG called n02105855_2933.JPEG.
    image = picture("a", 50, 37).quantize(20)
    assert np.array_equal(saved(tmp_path / name, image, "PNG"), np.asarray(image.convert("RGB")))
    assert np.array_equal(
        saved(tmp_path / name, image, "PNG", transparency=b"\0" * 5), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "1"])
def test_transparency_is_dropped_and_bits_are_black_and_white(tmp_path, mode):
    image = picture("a", 50, 37).convert(mode)
    if mode != "1":
        image.putalpha(7)
    assert np.array_equal(saved(tmp_path / "a.png", image, "PNG"), np.asarray(image.convert("RGB")))


def test_of_16_bits_the_upper_8_stay(tmp_path):
    deep = np.arange(0, 65_536, 32, dtype=np.uint16).reshape(32, 64)
    Image.fromarray(deep).save(tmp_path / "a.png")
    expected = np.stack([deep // 256] * 3, axis=-1)
    assert np.array_equal(np.asarray(load(tmp_path / "a.png")), expected)


def test_an_orientation_in_exif_is_not_followed_and_damaged_exif_disturbs_nobody(tmp_path):
    image, exif = picture("a", 50, 37), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    pixels = saved(tmp_path / "a.JPEG", image, "JPEG", exif=exif)
    assert pixels.shape == (37, 50, 3)
    assert ImageOps.exif_transpose(as_pillow_has_it(tmp_path / "a.JPEG")).size == (37, 50)
    content = (tmp_path / "a.JPEG").read_bytes()
    (tmp_path / "b.JPEG").write_bytes(
        content.replace(b"Exif\0\0MM\0*\0\0\0\x08\0\x01", b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    )
    assert (tmp_path / "b.JPEG").read_bytes() != content
    assert np.array_equal(np.asarray(load(tmp_path / "b.JPEG")), pixels)


def jpeg(width: int = 200, height: int = 150) -> bytes:
    out = io.BytesIO()
    picture("a", width, height).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("content", [
    b"", b"<html>404</html>", jpeg()[:500], jpeg()[:-200], jpeg()[:-2].replace(b"\xff\xc0", b"\xff\xff"),
    b"\x89PNG\r\n\x1a\n" + bytes(50),
])  # fmt: skip
def test_what_cannot_be_decoded_to_its_end_is_unfit(tmp_path, content):
    (tmp_path / "a.JPEG").write_bytes(content)
    with pytest.raises(Unfit, match=r"^cannot be decoded \(\w+: "):
        load(tmp_path / "a.JPEG")


def test_a_pipe_in_place_of_an_image_is_unfit(tmp_path):
    os.mkfifo(tmp_path / "a.JPEG")
    with pytest.raises(Unfit, match=r"^cannot be decoded \(UnsupportedOperation: .*/a.JPEG is a pipe, not a file\)$"):
        load(tmp_path / "a.JPEG")


def test_a_file_that_vanished_is_unfit(tmp_path):
    with pytest.raises(Unfit, match=r"^cannot be decoded \(FileNotFoundError: "):
        load(tmp_path / "a.JPEG")


# --- pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (41, 41), (300, 20), (21, 20), (343, 257)])
@pytest.mark.parametrize(("resize", "cut"), [(40, 36), (20, 20), (256, 224)])
def test_the_middle_is_torchvisions_resize_and_center_crop(size, resize, cut):
    image = picture("a", *size)
    expected = TF.center_crop(TF.resize(image, resize), [cut, cut])
    assert np.array_equal(np.asarray(middle(image, resize, cut)), np.asarray(expected))


@pytest.mark.parametrize("size", [(500, 375), (37, 50), (30, 30)])
def test_a_part_is_torchvisions_resized_crop_of_the_same_box(size):
    image = picture("a", *size)
    for draws in torch.rand((10, DRAWS), generator=torch.Generator().manual_seed(0)).numpy():
        box = crop_boxes(draws[None], image.height, image.width)[:, 0].tolist()
        expected = TF.resized_crop(image, *box, [32, 32])
        assert np.array_equal(np.asarray(part(image, draws, 32)), np.asarray(expected))


@pytest.mark.parametrize("size", [32, 64, 96, 128, 160, 192, 224, 288])
def test_the_middle_of_the_middle_is_the_middle(size):
    assert (resize_to(size) - size) % 4 == 0
    assert abs(resize_to(size) - size * 8 / 7) <= 2
    for long in range(resize_to(size), resize_to(size) + 9):
        image = picture(str(long), long, resize_to(size))
        once = middle(image, resize_to(size), size)
        square = middle(image, resize_to(size), resize_to(size))
        margin = (resize_to(size) - size) // 2
        twice = np.asarray(square)[margin : margin + size, margin : margin + size]
        assert np.array_equal(np.asarray(once), twice)
    assert resize_to(224) == 256


def test_a_batch_is_the_pictures_of_its_files(tmp_path):
    files = read_tree(plant(tmp_path, tree(["a", "b"], size=(50, 37)))).train
    pictures = Pictures(files, 24, 28)
    indices, flips = np.array([5, 0, 6]), np.array([0, 1, 1])
    draws = torch.rand((3, DRAWS), generator=torch.Generator().manual_seed(0)).numpy()
    plain = pictures.__getitems__(Places(indices))
    assert plain.images.shape == (3, 3, 24, 24)
    assert plain.images.dtype == torch.uint8
    assert (plain.labels.tolist(), plain.damage) == ([1, 0, 1], [])
    drawn = pictures.__getitems__(Places(indices, draws, flips))
    for i, index in enumerate(indices.tolist()):
        image = load(files.path(index))
        assert np.array_equal(plain.images[i].permute(1, 2, 0), np.asarray(middle(image, 28, 24)))
        expected = part(image, draws[i], 24)
        expected = ImageOps.mirror(expected) if flips[i] else expected
        assert np.array_equal(drawn.images[i].permute(1, 2, 0), np.asarray(expected))


def test_the_next_whole_image_of_the_class_stands_in_for_a_damaged_one(tmp_path):
    files = tree(["a", "b"]) | dict.fromkeys(["train/a/a_2.JPEG", "train/a/a_3.JPEG"], jpeg()[:-100])
    images = read_tree(plant(tmp_path, files)).train
    got = Pictures(images, 24, 28).__getitems__(Places(np.array([2, 3, 0, 4])))
    assert torch.equal(got.images[0], got.images[2])
    assert torch.equal(got.images[1], got.images[2])
    reason = "cannot be decoded (OSError: image file is truncated"
    for i, told in enumerate(got.damage, 2):
        assert told.startswith(f"{tmp_path}/train/a/a_{i}.JPEG {reason}")
        assert told.endswith(f"; {tmp_path}/train/a/a_0.JPEG, of the same class, stands in for it in every epoch")
    assert len(got.damage) == 2


def test_a_class_of_damaged_images_alone_is_an_error(tmp_path):
    images = read_tree(plant(tmp_path, tree(["a", "b"]) | {f"train/a/a_{i}.JPEG": b"" for i in range(4)})).train
    with pytest.raises(DataError) as error:
        Pictures(images, 24, 28).__getitems__(Places(np.array([5, 1])))
    path = f"{tmp_path}/train/a/a_1.JPEG"
    assert str(error.value) == (
        f"{path} cannot be decoded (UnidentifiedImageError: cannot identify image file '{path}'), "
        "and no other image of its class can; replace or delete these files and run again"
    )


def test_without_a_stand_in_a_damaged_image_is_black_and_told(tmp_path):
    images = read_tree(plant(tmp_path, tree(["a", "b"]) | {"train/a/a_1.JPEG": b""})).train
    got = Pictures(images, 24, 24, stand_in=False).__getitems__(Places(np.array([1, 0])))
    assert got.images.flatten(1).max(1).values.tolist()[0] == 0
    assert [re.sub(r" .*", "", told) for told in got.damage] == [f"{tmp_path}/train/a/a_1.JPEG"]


def test_a_decoder_leaves_the_global_random_state_alone(tmp_path):
    images = read_tree(plant(tmp_path, tree(["a", "b"]))).train
    before = torch.get_rng_state()
    assert len(list(decoder(Pictures(images, 24, 28), [Places(np.arange(3))] * 2, 0))) == 2
    assert torch.equal(torch.get_rng_state(), before)
