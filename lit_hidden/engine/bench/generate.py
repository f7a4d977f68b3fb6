"""A tree of generated JPEG files like ImageNet's, for a bench where the real ones are not."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

FILES, CLASSES = 128, 1000  # generated; a tree has more names, which lead to the same files
WIDTH, HEIGHT, QUALITY = 500, 375, 95  # with `picture`, files of about 107 kB: ILSVRC-2012's usual size


def generate(folder: Path, names: int) -> str:
    """Write a tree of images of ILSVRC-2012's usual size, and say what it is.

    `train/` has at least so many names and `val/` one, in each of its classes as many; they are links to few files:
    what is decoded twice takes as long the second time.
    """
    files = folder / "files"
    files.mkdir(parents=True)
    for number in range(FILES):
        sides = (HEIGHT, WIDTH) if number % 4 == 3 else (WIDTH, HEIGHT)
        picture(number, *sides).save(files / f"{number}.JPEG", quality=QUALITY)
    each = math.ceil(names / CLASSES)
    for part, images in (("train", each), ("val", 1)):
        for label in range(CLASSES):
            place = folder / part / f"n{label:08d}"
            place.mkdir(parents=True)
            for i in range(images):
                (place / f"{i}.JPEG").symlink_to(files / f"{(label * images + i) % FILES}.JPEG")
    mean = sum(path.stat().st_size for path in files.iterdir()) / FILES
    return (
        f"{FILES} JPEG files of {WIDTH}x{HEIGHT} pixels, every fourth upright, {mean / 1000:.0f} kB on average: noise "
        f"with a photograph's spectrum, under {each * CLASSES:,} names in {CLASSES:,} classes."
    )


def picture(number: int, width: int, height: int) -> Image.Image:
    """Make noise of a photograph's spectrum: what is fine is faint, and colours are fainter than light."""
    across, down = np.fft.rfftfreq(width), np.fft.fftfreq(height)[:, None]
    fall = np.maximum(np.hypot(across, down), 1 / max(width, height)) ** -1.4
    noise = np.random.default_rng(number).standard_normal((3, height, width))
    noise = np.fft.irfft2(np.fft.rfft2(noise) * fall, (height, width))
    noise *= np.array([55, 18, 18]).reshape(3, 1, 1) / noise.std((1, 2), keepdims=True)
    return Image.fromarray((noise + 128).clip(0, 255).astype(np.uint8).transpose(1, 2, 0), "YCbCr")
