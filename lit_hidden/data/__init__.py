"""Data modules by name: CIFAR-10, MNIST, and scikit-learn's digits, which need no download."""

from typing import Any

from lit_hidden.data.base import ImageData
from lit_hidden.data.cifar10 import CIFAR10Data
from lit_hidden.data.digits import DigitsData
from lit_hidden.data.files import DataError
from lit_hidden.data.loader import BatchLoader
from lit_hidden.data.mnist import MNISTData
from lit_hidden.data.tensors import ImageTensorsData

__all__ = [
    "DATA",
    "BatchLoader",
    "CIFAR10Data",
    "DataError",
    "DigitsData",
    "ImageData",
    "ImageTensorsData",
    "MNISTData",
    "data_module",
]

DATA: dict[str, type[ImageTensorsData]] = {data.name: data for data in (CIFAR10Data, MNISTData, DigitsData)}


def data_module(name: str, **kwargs: Any) -> ImageTensorsData:
    """The data module called `name`, made with `kwargs`: those of `ImageTensorsData`.

    Raises:
        ValueError: no set is called so; or as `ImageTensorsData`.
    """
    if name not in DATA:
        raise ValueError(f"there is no data called {name!r}; there is {', '.join(DATA)}")
    return DATA[name](**kwargs)
