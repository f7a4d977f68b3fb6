"""The paper's networks by name, at any width (`NETS`); `timm:NAME` and `package.module.function` for all others.

Source: Ramanujan et al., arXiv:1911.13299, Table 1; the authors' code, `models/`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lit_hidden import code
from lit_hidden.distributions import draw, layer_generator
from lit_hidden.edge_popup import weight_layers, zero_biases

# Builds a net that maps a batch of inputs to `(B, num_classes)`. One of your own is called with those arguments of
# `build` that it takes: `num_classes`, `in_channels`, `image_size`, `width`.
MakeNet = Callable[..., nn.Module]


def conv_net(
    depth: int, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: float = 1.0
) -> nn.Sequential:
    """Build Conv2, 4, 6 or 8: pairs of 3x3 convolutions, a max-pool after each pair, three linear layers, no bias.

    Each pair halves the images. `width` multiplies all channels and both hidden linear layers, as `int(n * width)`.
    ValueError: a width that leaves a layer empty.
    """
    channels = [_scaled(c, width) for c in (64, 128, 256, 512)[: depth // 2]]
    layers: list[nn.Module] = []
    before = in_channels
    for c in channels:
        layers += [nn.Conv2d(before, c, 3, padding=1, bias=False), nn.ReLU()]
        # The paper has the max-pool last. The results are the same bit for bit, but here the ReLU sees a quarter of the
        # numbers, and max-pool's backward gets its gradient in the layout in which it is quick.
        layers += [nn.Conv2d(c, c, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.ReLU()]
        before = c
    hidden, features = _scaled(256, width), before * (image_size >> len(channels)) ** 2
    return nn.Sequential(*layers, *_linear(features, hidden, hidden, num_classes))


def lenet(*, num_classes: int = 10, in_channels: int = 1, image_size: int = 28, width: float = 1.0) -> nn.Sequential:
    """Build LeNet-300-100: three linear layers without bias on flattened images."""
    return nn.Sequential(*_linear(in_channels * image_size**2, _scaled(300, width), _scaled(100, width), num_classes))


def _linear(features: int, *sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((features, *sizes)):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return layers[:-1]


_RESNETS: dict[str, tuple[type[Any], list[int], int]] = {  # block, blocks in each stage, width per group
    "resnet18": (BasicBlock, [2, 2, 2, 2], 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 64),
    "wide_resnet50_2": (Bottleneck, [3, 4, 6, 3], 128),
}


class PaperResNet(ResNet):  # type: ignore[misc]
    """One of torchvision's ResNets; as in the authors' code its classifier has no bias.

    `width` multiplies the channels of the stem and of every stage. With `cifar` the stem is one for 32x32 images: a 3x3
    convolution of stride 1, no max-pool.
    """

    def __init__(
        self, name: str, *, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, cifar: bool = False
    ) -> None:
        self._width = width
        block, blocks, width_per_group = _RESNETS[name]
        super().__init__(block, blocks, width_per_group=width_per_group)
        kernel, stride, padding = (3, 1, 1) if cifar else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, self.bn1.num_features, kernel, stride, padding, bias=False)
        if cifar:
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(self.inplanes, num_classes, bias=False)

    def _make_layer(self, block: type[Any], planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == 64:  # the first stage; the stem exists already, at full width
            self.inplanes = _scaled(64, self._width)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
        stage: nn.Sequential = super()._make_layer(block, _scaled(planes, self._width), *args, **kwargs)
        return stage


NETS: dict[str, MakeNet] = {
    **{f"conv{depth}": partial(conv_net, depth) for depth in (2, 4, 6, 8)},
    "lenet": lenet,
    "cifar_resnet18": partial(PaperResNet, "resnet18", num_classes=10, cifar=True),
    **{name: partial(PaperResNet, name) for name in _RESNETS},
}


def build(
    name: str, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: float = 1.0
) -> nn.Module:
    """Build a net by name; it maps images `(B, in_channels, image_size, image_size)` to `(B, num_classes)` logits.

    `name` is one of `NETS`, `timm:NAME`, or your own function `package.module.function` (or `package.module:function`),
    see `MakeNet`. `width` multiplies the channels. ValueError: an unknown name, or a net that has no width to change.
    """
    make: MakeNet
    if name.startswith("timm:"):
        make = partial(_timm, name.removeprefix("timm:"))
    elif "." in name or ":" in name:
        make = code.load(code.full(name.replace(":", ".")))
    elif name in NETS:
        make = NETS[name]
    else:
        raise ValueError(f"net={name!r} is unknown; nets are {', '.join(NETS)}, timm:NAME, or package.module.function")
    given = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size, "width": width}
    takes = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        try:
            return make(**given)
        except TypeError as error:
            told = f"it takes any argument, so it was given {', '.join(given)}"
            raise ValueError(f"net={name!r}: {error}; {told}; name a function of yours that calls it") from error
    if "width" not in takes and width != 1:
        raise ValueError(f"width={width} cannot be: {name} has no width to change; leave it at 1")
    return make(**{name: value for name, value in given.items() if name in takes})


@torch.no_grad()
def initialise(net: nn.Module, seed: int, distribution: str = "kaiming_normal") -> nn.Module:
    """Draw the weights of `net` in place, the same ones that `hide` draws; biases become 0. Returns `net`."""
    for name, (module, attribute) in weight_layers(net).items():
        weight = module.get_parameter(attribute)
        weight.copy_(draw(weight.shape, distribution, layer_generator(seed, "weights", name)))
        zero_biases(module)
    return net


def _scaled(channels: int, width: float) -> int:
    scaled = int(channels * width)
    if scaled < 1:
        raise ValueError(f"width={width} leaves {scaled} of {channels} channels; at least one must be left")
    return scaled


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ValueError(f"net='timm:{name}' needs timm; pip install 'lit-hidden[timm]'") from None
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}; see timm.list_models()")
    model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
    return model
