"""Data modules by name: CIFAR-10, MNIST, ImageNet and its subsets, scikit-learn's digits, which need no download."""

from typing import Any

from lit_hidden import code
from lit_hidden.data.files import DataError
from lit_hidden.data.imagenet import SUBSETS, ImageNetData
from lit_hidden.data.loader import BatchLoader
from lit_hidden.data.sets import CIFAR10Data, DigitsData, MNISTData
from lit_hidden.data.tensors import ImageData, ImageTensorsData

__all__ = [
    "DATA", "IMAGENET_DATA", "BatchLoader", "CIFAR10Data", "DataError", "DigitsData", "ImageData", "ImageNetData",
    "ImageTensorsData", "MNISTData", "data_module",
]  # fmt: skip

DATA: dict[str, type[ImageTensorsData]] = {data.name: data for data in (CIFAR10Data, MNISTData, DigitsData)}
IMAGENET_DATA: dict[str, type[ImageNetData]] = {data.name: data for data in SUBSETS}


def data_module(name: str, **kwargs: Any) -> ImageData:
    """Make the data module called `name` with arguments as of `ImageData`, and of `ImageNetData` for its subsets.

    Data of your own are called by their class, `package.module.Class`. ValueError: no set is called so.
    """
    sets: dict[str, type[ImageData]] = {**DATA, **IMAGENET_DATA}
    if name not in sets and "." not in name:
        raise ValueError(f"there is no data called {name!r}; there is {', '.join(sets)}, or package.module.Class")
    made: ImageData = (sets.get(name) or code.load(code.full(name)))(**kwargs)
    return made
