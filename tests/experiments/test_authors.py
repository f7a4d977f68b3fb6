"""Checkpoints as the authors' code writes them, of nets written here a second way, give the same logits here."""

import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments._authors import import_checkpoint
from lit_hidden.cli import main
from lit_hidden.errors import UserError
from lit_hidden.modules import LitSubnetwork
from lit_hidden.subnetwork import masks


class Subnet(nn.Conv2d):
    """Their layer: all scores are sorted and the first are dropped; their prune rate is the fraction kept here."""

    kept = 0.3

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.weight)
        self.scores = nn.Parameter(torch.randn_like(self.weight))

    def mask(self) -> Tensor:
        mask = torch.ones(self.scores.numel())
        mask[self.scores.abs().flatten().argsort()[: int((1 - self.kept) * mask.numel())]] = 0
        return mask.view_as(self.scores)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask(), None, self.stride, self.padding)


class Flat(nn.Module):
    """Their Conv4, or with no convolutions their FC: linear layers are 1x1 convolutions."""

    def __init__(self, channels: list[int], sizes: list[int]) -> None:
        super().__init__()
        convs = [Subnet(a, b, 3) for a, b in pairwise(channels)]
        pool = nn.MaxPool2d(2)
        self.convs = nn.Sequential(*[m for i, c in enumerate(convs) for m in (c, nn.ReLU(), *[pool] * (i % 2))])
        self.linear = nn.Sequential(*[m for a, b in pairwise(sizes) for m in (Subnet(a, b), nn.ReLU())][:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).view(len(x), -1, 1, 1)).squeeze()


class Block(nn.Module):
    """Two 3x3 convolutions, or with `grow` 4 a bottleneck, and a way around them called `around`."""

    def __init__(self, before: int, planes: int, stride: int, grow: int, around: str) -> None:
        super().__init__()
        deep, affine = grow > 1, around == "downsample"  # both of their kinds of norm layers
        sizes = [before, planes, planes, *[planes * grow] * deep]
        self.n, self.around = len(sizes) - 1, around
        for i, (a, b) in enumerate(pairwise(sizes), 1):
            self.add_module(f"conv{i}", Subnet(a, b, 1 if deep and i != 2 else 3, stride if i == 1 + deep else 1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b, affine=affine))
        parts = [Subnet(before, sizes[-1], 1, stride), nn.BatchNorm2d(sizes[-1], affine=affine)]
        self.add_module(around, nn.Sequential(*[] if (stride, before) == (1, sizes[-1]) else parts))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.n + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out.relu() if i > 1 else out))
        return (out + getattr(self, self.around)(x)).relu()


class ResNet(nn.Sequential):
    """Their cResNet18 or, of larger images, ResNet50, with 8 channels for their 64."""

    def __init__(self, blocks: list[int], grow: int, cifar: bool, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = Subnet(3, 8, *(3, 1) if cifar else (7, 2)), nn.BatchNorm2d(8, affine=not cifar)
        self.relu, self.pool, before = nn.ReLU(), nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1), 8
        for stage, count in enumerate(blocks):
            made, planes = [], 8 * 2**stage
            for i in range(count):
                stride = 2 if stage and not i else 1
                made.append(Block(before, planes, stride, grow, "shortcut" if cifar else "downsample"))
                before = planes * grow
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.avgpool, self.fc, self.flat = nn.AdaptiveAvgPool2d(1), Subnet(before, classes), nn.Flatten()


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv4": (lambda: Flat([3, 8, 8, 16, 16], [16 * 64, 32, 32, 10]), (3, 32, 32)),
    "lenet": (lambda: Flat([], [784, 37, 12, 10]), (1, 28, 28)),
    "cifar_resnet18": (lambda: ResNet([2, 2, 2, 2], 1, True, 10), (3, 32, 32)),
    "resnet50": (lambda: ResNet([3, 4, 6, 3], 4, False, 20), (3, 64, 64)),
}


def theirs(name: str = "conv4") -> nn.Module:
    """One of their nets, as after training."""
    net = NETS[name][0]()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
            for tensor in (norm.running_var, *norm.parameters()):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return net.eval()


def save(net: nn.Module, path: Path, **more: Any) -> str:
    """Write a file as their main.py does, in the format of torch in their days."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"epoch": 100, "arch": "Net", "state_dict": nn.DataParallel(net).state_dict(), "best_acc1": 88.1}
    content |= {"optimizer": torch.optim.SGD(net.parameters(), 0.1).state_dict(), "curr_acc1": "Not evaluated"}
    torch.save(content | more, path, _use_new_zipfile_serialization=False)
    return str(path)


def subnets(net: nn.Module) -> list[Subnet]:
    return [m for m in net.modules() if isinstance(m, Subnet)]


@pytest.mark.parametrize("name", NETS)
def test_an_imported_net_has_their_logits_and_their_mask(name, tmp_path):
    net, images = theirs(name), torch.randn(4, *NETS[name][1])
    told = import_checkpoint(save(net, tmp_path / "a.pth"), name, density=0.3, width=0.125)
    lit = LitSubnetwork.load_from_checkpoint(tmp_path / "a.pth.ckpt").eval()
    torch.testing.assert_close(lit(images), net(images), rtol=1e-4, atol=1e-5)
    ones = [layer.mask().flatten() for layer in subnets(net)]
    assert all(torch.equal(a.flatten(), b.bool()) for a, b in zip(masks(lit.net).values(), ones, strict=True))
    whole, last = torch.cat(ones), told.splitlines()
    assert f"all: {int(whole.sum())} of {len(whole)} weights kept (30." in last[-2]
    assert last[-1].endswith("density 0.3, confirmed by nothing but you")


@pytest.mark.parametrize("removed", [0.1, 0.3, 0.9])
def test_a_mask_that_is_fixed_keeps_exactly_its_ones(removed, tmp_path):
    net = theirs()
    for layer in subnets(net):  # of n scores the first int(removed * n) become 0, the others 1
        layer.scores.data = torch.ones_like(layer.scores)
        order = torch.randperm(layer.scores.numel())
        layer.scores.data.view(-1)[order[: int(removed * len(order))]] = 0
        layer.mask = lambda layer=layer: layer.scores
    file, images = save(net, tmp_path / "a.pth"), torch.randn(4, 3, 32, 32)
    import_checkpoint(file, "conv4", removed=removed, width=0.125)
    torch.testing.assert_close(LitSubnetwork.load_from_checkpoint(f"{file}.ckpt")(images), net(images))
    with pytest.raises(UserError, match=r"--density 0\.5 contradicts its scores, a mask of ones and zeros, that says"):
        import_checkpoint(file, "conv4", density=0.5, width=0.125)


def test_a_rate_that_the_folder_tells_must_be_the_one_given_whichever_it_means(tmp_path):
    file = save(theirs(), tmp_path / "prune_rate=0.7" / "checkpoints" / "model_best.pth")
    what = "its folder prune_rate=0.7"
    for option in ("density", "removed"):
        assert what in import_checkpoint(file, "conv4", width=0.125, **{option: 0.7}).splitlines()[-1]
        either = "give --density 0.7 if it was kept, as by their SubnetConv, or --removed 0.7"
        message = f"--{option} 0.3 contradicts {what} that says 0.7; {either}"
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            import_checkpoint(file, "conv4", width=0.125, **{option: 0.3})


class Bad:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


def state(but: str = "", **more: Tensor) -> dict[str, Any]:
    return {"state_dict": {name: tensor for name, tensor in theirs().state_dict().items() if name != but} | more}


NO_CHECKPOINT = "is no checkpoint of tensors, numbers and text"


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        (
            lambda: {"args": Bad()},
            [],
            f"{NO_CHECKPOINT} (UnpicklingError), and nothing else is unpickled; if you trust",
        ),
        (lambda: {"state_dict": [1]}, [], f"{NO_CHECKPOINT} (AttributeError)"),
        (lambda: {"state_dict": {}}, [], "has no layers with weight and scores"),
        (dict, ["--net", "conv6"], "it has 7 layers with tensors, not 9"),
        (dict, ["--width", "1"], "weight of 'convs.0' has the shape (8, 3, 3, 3), and ours, '0', (64, 3, 3, 3)"),
        (dict, ["--net", "conv5"], "net='conv5' is unknown"),
        (dict, ["--density", "1.5"], "density=1.5 keeps none, or more than all"),
        (lambda: state(but="linear.2.scores"), [], "'linear.2' has weight; scores is missing or too much"),
        (
            lambda: state(**{"linear.4.scores": torch.full((10, 32, 1, 1), torch.nan)}),
            [],
            "'linear.4' has numbers that",
        ),
        (
            lambda: state(**{"linear.4.scores": torch.ones(10, 32, 1, 1) * 1j}),
            [],
            "'linear.4' has numbers that are not",
        ),
        (lambda: state(**{"linear.4.bias": torch.ones(8)}), [], "bias is missing or too much"),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_line_and_no_code_runs(more, options, message, tmp_path, capsys):
    file = save(theirs(), tmp_path / "a.pth", **more())
    with pytest.raises(SystemExit) as end:
        main(["import", file, "--net", "conv4", "--density", "0.3", "--width", "0.125", *options])
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n"), list(tmp_path.iterdir())) == (1, 1, [Path(file)])
    assert re.match(f"lit-hidden: {file}:? .*{re.escape(message)}", said)
