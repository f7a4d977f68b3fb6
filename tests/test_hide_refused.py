"""What hiding, saving and loading refuse, and why; a refused call of `hide` or `save_subnetwork` changes nothing."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hiding import conv_net, mixed_net, rewrite, shuffled
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_hidden.edge_popup import EdgePopup, Masker, hide, maskers, original_weight
from lit_hidden.subnetwork import SubnetworkError, load_subnetwork, save_subnetwork
from lit_hidden.supermask import Supermask, fix_masks

Act = Callable[[nn.Module, Path], object]


def two(first: nn.Module, second: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.BatchNorm1d(4), second)


def tied(weight: Callable[[nn.Parameter], nn.Parameter] = lambda weight: weight) -> nn.Module:
    net = two(nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = weight(net[0].weight)
    return net


class Embedded(nn.Module):
    """Has weights that `hide` does not draw."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)


def changed(net: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    with torch.no_grad():
        change(net)
    return net


class Gated(nn.Linear):
    """Multiplies its output by what nobody but a forward pass can tell from a bias."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.gate = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate * super().forward(x)


class Gained(EdgePopup):
    """Changes weights by what it has learnt."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(()))

    def baked(self, weight: Tensor) -> Tensor:
        return self.gain.detach() * super().baked(weight)


class Secret(EdgePopup):
    """Does not say how it is restored."""

    set_mask = Masker.set_mask


def hiding(**arguments: Any) -> Act:
    return lambda net, path: hide(net, **arguments)


def saving(net: nn.Module, path: Path) -> None:
    save_subnetwork(net, path.with_name("other"))


def loading(before: Callable[[Path], object] = lambda path: None, **arguments: Any) -> Act:
    """Load a file of `mixed_net` after something has been done to it."""

    def load(net: nn.Module, path: Path) -> None:
        with torch.random.fork_rng():
            found = before(path)
        load_subnetwork(net, found if isinstance(found, Path) else path, **arguments)

    return load


def resaved(net: Callable[[], nn.Module]) -> Callable[[Path], Path]:
    return lambda path: save_subnetwork(net(), path)


def older(path: Path) -> None:
    rewrite(path, lambda tensors, metadata: metadata.update(subnetwork='{"format": "lit_hidden subnetwork 2"}'))


def dangling(path: Path) -> Path:
    path.with_name("link").symlink_to("gone")
    return path.with_name("link")


OWNED, TIED = (
    "'2' cannot be hidden: its weight is not in memory, or ",
    "'0' cannot be hidden: another layer has the same weight",
)

REFUSED: dict[str, tuple[Callable[[], nn.Module], Act, str]] = {
    "hidden twice": (lambda: hide(conv_net()), hiding(), "already hidden: '0', '4'; reveal(model) first"),
    "nothing": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Embedding(3, 3)), hiding(), "nothing to hide: Sequential"),
    "all skipped": (conv_net, hiding(skip=["0", "4"]), "nothing to hide: Sequential"),
    "unknown skip": (conv_net, hiding(skip=["4", "fc", "1"]), "skip names no layer: '1', 'fc'; layers are '0', '4'"),
    "tied": (tied, hiding(skip=["2"]), TIED),
    "tied in memory": (lambda: tied(lambda w: nn.Parameter(w.data.t())), hiding(), TIED),
    "lazy": (lambda: two(nn.LazyLinear(4), nn.LazyBatchNorm1d()), hiding(), "'0', '0.bias', '2', '2.bias' cannot be"),
    "a masker's name": (conv_net, hiding(masker="supermask"), "masker='supermask' cannot be called; give a class"),
    "most is an embedding": (Embedded, hiding(strict=True), "only 50% of the matrix weights are hidden; not: 'embed"),
    "an input that does not fit": (Gated, hiding(example=torch.ones(2, 5)), "'gate': not known what Gated does with"),
    "strict without an input": (lambda: two(Gated(), nn.Embedding(3, 4)), hiding(strict=True), "'0.gate': not known"),
    "a role of nothing": (conv_net, hiding(roles={"0.gate": "gain"}), "roles names no parameter: '0.gate'; they "),
    "a role that cannot be": (Gated, hiding(roles={"gate": "io"}), "role 'io' of a weight (4,) cannot be"),
    "pruned": (lambda: two(nn.Linear(4, 4), prune.identity(nn.Linear(4, 4), "weight")), hiding(), OWNED),
    **{
        f"density {density}": (conv_net, hiding(density=density), f"density={density} keeps none, or more than all,")
        for density in (0, 1.3, math.nan, 1e-20)
    },
    "density 1 of a supermask": (conv_net, hiding(density=1, masker=Supermask), "its scores are infinite"),
    "distribution": (mixed_net, hiding(distribution="gauss"), "'gauss' is unknown; they are kaiming_normal, "),
    "scaled": (mixed_net, hiding(scaled="author"), "scaled='author' at density=0.5: it is False, True, or 'authors'"),
    "scaled to infinity": (mixed_net, hiding(scaled="authors", density=1), "scaled='authors' at density=1"),
    "no masker": (mixed_net, hiding(masker=lambda *_, **__: nn.ReLU()), "gives no Masker"),
    "unhidden ticket": (conv_net, lambda net, _: fix_masks(net), "this Sequential is not hidden"),
    "save what is plain": (mixed_net, saving, "this Sequential is not hidden"),
    "save what learns": (lambda: fix_masks(hide(mixed_net())), saving, "its weights learn (fix_masks)"),
    "save other weights": (
        lambda: changed(hide(mixed_net()), lambda net: original_weight(net, "4").neg_()), saving, "fingerprint",
    ),
    "save an expanded buffer": (
        lambda: changed(hide(mixed_net()), lambda net: net.register_buffer("all", torch.zeros(1).expand(4))), saving,
        "more than one element of the written-to tensor",
    ),
    "save more than a mask": (
        lambda: changed(hide(mixed_net(), masker=Gained), lambda net: maskers(net)["4"].gain.fill_(3)), saving,
        "Gained changes weights by more than its mask; save reveal(model).state_dict()",
    ),
    "save a masker without set_mask": (lambda: hide(mixed_net(), masker=Secret), saving, "Secret has no set_mask"),
    "load nothing": (mixed_net, loading(lambda path: path.with_name("nowhere")), "cannot be read: it is not there"),
    "load what a link misses": (mixed_net, loading(dangling), "it is a link to gone, which is not there"),
    "load text": (mixed_net, loading(lambda path: path.write_bytes(b"hello")), "it is damaged or no subnetwork"),
    "load an older format": (mixed_net, loading(older), "its format is 'lit_hidden subnetwork 2', not"),
    "load into another width": (lambda: mixed_net(8), loading(), "net: layer '4' is [7, 80] there, [8, 80] here"),
    "load into other layers": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(80, 7)), loading(),
        "does not fit this Sequential: it is of another net: layer '2' is absent there, [7, 80] here",
    ),
    "load beside other embeddings": (
        Embedded, loading(resaved(lambda: hide(Embedded(), skip=["embedding"]))), "fingerprint",
    ),
    "load into a hidden model": (lambda: hide(mixed_net(), 0.1), loading(), "already hidden"),
    "load an unknown masker": (
        mixed_net, loading(resaved(lambda: hide(mixed_net(), masker=Gained))), "saved with masker 'Gained'; give that",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    return save_subnetwork(shuffled(hide(mixed_net(), 0.3)), tmp_path_factory.mktemp("saved") / "file").read_bytes()


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_a_reason_and_changes_nothing(
    case: str, file: bytes, tmp_path: Path, photograph: Callable[[nn.Module], Any]
) -> None:
    make, act, reason = REFUSED[case]
    path = tmp_path / "file"
    path.write_bytes(file)
    net = make()
    for module in net.modules():  # so that a neutralised norm layer would show
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not maskers(net):
            nn.init.normal_(module.weight.data)
    before = photograph(net)
    refused = SubnetworkError if case.startswith("load") else (ValueError, TypeError, KeyError)
    with pytest.raises(refused, match=re.escape(reason)):  # type: ignore[arg-type]
        act(net, path)
    assert case.startswith("load") or photograph(net) == before
    assert not path.with_name("other").exists()
