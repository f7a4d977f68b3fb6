"""What an image file holds becomes RGB pixels, or an error."""

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_hidden.data.decode import load
from lit_hidden.data.files import DataError
from lit_hidden.data.imagenet import resize_to

made = runpy.run_path(str(Path(__file__).parent / "pictures.py"))
picture = made["picture"]


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


def test_cmyk_becomes_the_colours_that_it_prints_and_of_16_bits_the_upper_8_stay(tmp_path):
    image, deep = picture("a", 50, 37), np.arange(0, 65_536, 32, dtype=np.uint16).reshape(32, 64)
    image.convert("CMYK").save(tmp_path / "a.JPEG", quality=100, subsampling=0)
    assert np.abs(pixels(tmp_path / "a.JPEG").astype(int) - np.asarray(image)).mean() < 2
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), np.stack([deep // 256] * 3, axis=-1))


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
