import io
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import functional as TF

from lit_hidden.data.decode import load
from lit_hidden.data.files import Unfit
from lit_hidden.data.imagenet import resize_to

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
picture = made["picture"]


def saved(path: Path, image: Image.Image, kind: str, **options) -> np.ndarray:
    image.save(path, kind, **options)
    loaded = load(path)
    assert loaded.mode == "RGB"
    return np.asarray(loaded)


def as_pillow_has_it(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


# --- what is in a file -----------------------------------------------------------------------------------


def opaque(image: Image.Image) -> Image.Image:
    image.putalpha(7)
    return image


@pytest.mark.parametrize("name", ["a.png", "a.JPEG"])  # ILSVRC-2012 has a PNG called n02105855_2933.JPEG
@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image, lambda image: image.convert("L"), lambda image: image.quantize(20),
        lambda image: opaque(image.convert("RGBA")), lambda image: opaque(image.convert("LA")),
        lambda image: image.convert("1"),
    ],
    ids=["RGB", "grey", "palette", "RGBA", "LA", "bits"],
)  # fmt: skip
def test_what_a_png_holds_becomes_rgb_and_transparency_is_dropped(tmp_path, convert, name):
    image = convert(picture("a", 50, 37))
    options = {"transparency": b"\0" * 5} if image.mode == "P" else {}
    assert np.array_equal(saved(tmp_path / name, image, "PNG", **options), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_as_pillow_has_it_and_greyscale_is_repeated(tmp_path, mode):
    pixels = saved(tmp_path / "a.JPEG", picture("a", 50, 37).convert(mode), "JPEG")
    expected = np.asarray(as_pillow_has_it(tmp_path / "a.JPEG"))
    assert np.array_equal(pixels, expected if mode == "RGB" else np.stack([expected] * 3, axis=-1))


def test_cmyk_becomes_the_colours_that_it_prints(tmp_path):
    image = picture("a", 50, 37)
    pixels = saved(tmp_path / "a.JPEG", image.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert as_pillow_has_it(tmp_path / "a.JPEG").mode == "CMYK"
    assert np.abs(pixels.astype(int) - np.asarray(image)).mean() < 2


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


@pytest.mark.parametrize(("place", "says"), [(os.mkfifo, "/a.JPEG is a pipe, not a file"), (str, "FileNotFoundError")])
def test_a_pipe_in_place_of_an_image_and_a_file_that_vanished_are_unfit(tmp_path, place, says):
    place(tmp_path / "a.JPEG")
    with pytest.raises(Unfit, match=rf"^cannot be decoded \(.*{says}"):
        load(tmp_path / "a.JPEG")


# --- pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 96, 128, 160, 192, 224, 288])
def test_the_middle_of_the_middle_is_the_middle(size):
    assert (resize_to(size) - size) % 4 == 0
    assert abs(resize_to(size) - size * 8 / 7) <= 2
    margin = (resize_to(size) - size) // 2
    for long in range(resize_to(size), resize_to(size) + 9):
        image = picture(str(long), long, resize_to(size))
        square = np.asarray(TF.center_crop(image, resize_to(size)))
        cut = square[margin : margin + size, margin : margin + size]
        assert np.array_equal(np.asarray(TF.center_crop(image, size)), cut)
    assert resize_to(224) == 256
