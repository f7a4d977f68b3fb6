"""Data modules by name: CIFAR-10, MNIST, ImageNet and its subsets, scikit-learn's digits, which need no download."""

from typing import Any, Literal, Protocol

from lit_hidden import code
from lit_hidden.data.base import ImageData
from lit_hidden.data.cifar10 import CIFAR10Data
from lit_hidden.data.crop_loaders import CropLoader, DecodingLoader
from lit_hidden.data.digits import DigitsData
from lit_hidden.data.files import DataError
from lit_hidden.data.imagenet import (
    ImageNet100Data,
    ImageNetData,
    ImagenetteData,
    ImagewoofData,
    TinyImageNet100Data,
    TinyImageNetData,
)
from lit_hidden.data.loader import BatchLoader
from lit_hidden.data.mnist import MNISTData
from lit_hidden.data.tensors import ImageTensorsData

__all__ = [
    "DATA",
    "IMAGENET_DATA",
    "BatchLoader",
    "CIFAR10Data",
    "CropLoader",
    "DataError",
    "DecodingLoader",
    "DigitsData",
    "ImageData",
    "ImageNet100Data",
    "ImageNetData",
    "ImageTensorsData",
    "ImagenetteData",
    "ImagewoofData",
    "MNISTData",
    "TinyImageNet100Data",
    "TinyImageNetData",
    "data_module",
]

DATA: dict[str, type[ImageTensorsData]] = {data.name: data for data in (CIFAR10Data, MNISTData, DigitsData)}
IMAGENET_DATA: dict[str, type[ImageNetData]] = {
    data.name: data
    for data in (
        ImageNetData, ImageNet100Data, ImagenetteData, ImagewoofData, TinyImageNetData, TinyImageNet100Data
    )
}  # fmt: skip


class MakeData(Protocol):
    """What makes a data module; a class of your own is called by its dotted name."""

    def __call__(
        self,
        *,
        root: str,
        batch_size: int,
        seed: int,
        augment: bool | Literal["square"] | None,
        held_out: int,
        train_images: int | None,
    ) -> ImageData:
        """Make it, as `ImageData` says; nothing is read yet."""


def data_module(name: str, **kwargs: Any) -> ImageData:
    """The data module called `name`, made with `kwargs`: those of `ImageTensorsData`, or of `ImageNetData`.

    Data of your own are called by their class, `package.module.Class`.

    Raises:
        ValueError: no set is called so; or as `ImageTensorsData` or `ImageNetData`.
    """
    sets: dict[str, type[ImageData]] = {**DATA, **IMAGENET_DATA}
    if name not in sets and "." not in name:
        raise ValueError(f"there is no data called {name!r}; there is {', '.join(sets)}, or package.module.Class")
    make: MakeData = sets.get(name) or code.load(code.full(name))
    return make(**kwargs)
