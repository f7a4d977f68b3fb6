"""Checkpoints as the authors' code writes them, from nets written here a second way, give the same logits when imported."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.authors import import_checkpoint
from lit_hidden.cli import main
from lit_hidden.modules import LitSubnetwork
from lit_hidden.subnetwork import masks


class Subnet(nn.Conv2d):
    """Their layer: all scores are sorted, the first of them are dropped. `rate` is the fraction kept."""

    rate = 0.3

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.weight)
        self.scores = nn.Parameter(torch.randn_like(self.weight))

    def mask(self) -> Tensor:
        order = self.scores.abs().flatten().argsort()
        mask = torch.ones(self.scores.numel())
        mask[order[: int((1 - self.rate) * mask.numel())]] = 0
        return mask.view_as(self.scores)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask(), None, self.stride, self.padding)


class Conv4(nn.Module):
    def __init__(self, c: int = 8, images: int = 32) -> None:
        super().__init__()
        pool, relu, sizes = nn.MaxPool2d(2), nn.ReLU(), [3, c, c, 2 * c, 2 * c]
        pairs = [Subnet(a, b, 3) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.convs = nn.Sequential(*[m for i, one in enumerate(pairs) for m in (one, relu, *[pool] * (i % 2))])
        dense = Subnet(2 * c * (images // 4) ** 2, 4 * c, 1), relu, Subnet(4 * c, 4 * c, 1), relu, Subnet(4 * c, 10, 1)
        self.linear = nn.Sequential(*dense)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).view(len(x), -1, 1, 1)).squeeze()


class FC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(Subnet(784, 30, 1), nn.ReLU(), Subnet(30, 10, 1), nn.ReLU(), Subnet(10, 10, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(len(x), -1, 1, 1)).squeeze()


class Block(nn.Module):
    def __init__(self, before: int, planes: int, stride: int, grow: int, side: str, affine: bool) -> None:
        super().__init__()
        basic = [(before, planes, 3, stride), (planes, planes, 3, 1)]
        deep = [(before, planes, 1, 1), (planes, planes, 3, stride), (planes, planes * grow, 1, 1)]
        self.n, self.side = (2, basic) if grow == 1 else (3, deep), side
        self.n, convs = self.n
        for i, (a, b, kernel, step) in enumerate(convs, 1):
            self.add_module(f"conv{i}", Subnet(a, b, kernel, step))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b, affine=affine))
        self.short = stride != 1 or before != planes * grow
        after = planes * grow
        parts = [Subnet(before, after, 1, stride), nn.BatchNorm2d(after, affine=affine)] if self.short else []
        self.add_module(side, nn.Sequential(*parts))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.n + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            out = out.relu() if i < self.n else out
        return (out + getattr(self, self.side)(x)).relu()


class ResNet(nn.Module):
    def __init__(self, c: int, blocks: list[int], grow: int, *, cifar: bool, classes: int, affine: bool = False) -> None:
        super().__init__()
        self.conv1 = Subnet(3, c, 3) if cifar else Subnet(3, c, 7, 2)
        self.bn1, before = nn.BatchNorm2d(c, affine=affine), c
        self.pool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        for i, count in enumerate(blocks):
            stage, planes = [], c * 2**i
            for j in range(count):
                stride = 2 if i and not j else 1
                stage.append(Block(before, planes, stride, grow, "shortcut" if cifar else "downsample", affine))
                before = planes * grow
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = Subnet(before, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)


def as_trained(net: nn.Module) -> nn.Module:
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
            for p in m.parameters():
                nn.init.uniform_(p, 0.5, 1)
    return net.eval()


def save(net: nn.Module, path: Path, **more: object) -> Path:
    """As their main.py does, and as torch wrote files in their days."""
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9).state_dict()
    content = {"epoch": 100, "arch": "Net", "state_dict": nn.DataParallel(net).state_dict(), "optimizer": optimizer}
    content |= {"best_acc1": 88.1, "curr_acc1": "Not evaluated"} | more
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path
