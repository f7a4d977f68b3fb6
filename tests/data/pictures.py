"""Small image trees made by hand, for tests of ImageNet's subsets."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

Content = tuple[int, int] | str | bytes


def picture(name: str, width: int, height: int) -> Image.Image:
    """A picture that its name makes: soft patches of colour."""
    colours = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def tree(classes: list[str], train: int = 4, val: int = 2, size: tuple[int, int] = (40, 30)) -> dict[str, Content]:
    """The files of a tree, for `plant`: so many training and test images of each class."""
    counts = {"train": train, "val": val}
    return {f"{part}/{c}/{c}_{i}.JPEG": size for part, n in counts.items() for c in classes for i in range(n)}


def plant(root: Path, files: dict[str, Content]) -> Path:
    """Write files: pictures of a width and a height, text or bytes."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            picture(name, *content).save(path, "JPEG", quality=95)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
