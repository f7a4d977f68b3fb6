"""What hiding, saving and loading refuse, in which words; a refused call changes no model and no file."""

import functools
import math
import os
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lit_hidden.distributions import draw
from lit_hidden.edge_popup import EdgePopup, Masker, hide, maskers, original_weight, reveal
from lit_hidden.engine.network import save_net
from lit_hidden.selection import top_k_mask
from lit_hidden.subnetwork import SubnetworkError, load_subnetwork, save_subnetwork
from lit_hidden.supermask import Supermask
from lit_hidden.ticket import fix_masks

Act = Callable[[nn.Module, Path], object]
made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "hiding.py"))
conv_net, mixed_net, shuffled, rewrite = (made[name] for name in ("conv_net", "mixed_net", "shuffled", "rewrite"))


# --- models --------------------------------------------------------------------------------------------


def two(first: nn.Module, second: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.BatchNorm1d(4), second)


def tied(weight: Callable[[nn.Parameter], Any] = lambda weight: weight) -> nn.Module:
    net = two(nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = weight(net[0].weight)
    return net


class Embedded(nn.Module):
    """Has weights that `hide` does not draw."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)
        if tied:
            self.out.weight = self.embedding.weight


def on(place: Any) -> nn.Module:
    with place:
        return two(nn.Linear(4, 4), nn.Linear(4, 4))


def changed(net: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    with torch.no_grad():
        change(net)
    return net


# --- maskers -------------------------------------------------------------------------------------------


class Bad(EdgePopup):
    """A masker that works on the first layer and misbehaves on the second, which is wider."""

    how = staticmethod(lambda weight: weight)
    built = False

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        if self.built and weight.numel() > 200:
            self.how(weight)

    def forward(self, weight: Tensor) -> Tensor:
        return self.how(weight) if weight.numel() > 200 else weight


def bad(how: Callable[[Tensor], Any], built: bool = False, **more: Any) -> type[Bad]:
    return type("Mine", (Bad,), {"how": staticmethod(how), "built": built, **more})


def boom(weight: Tensor) -> Tensor:
    weight.zero_()
    torch.rand(1)
    raise RuntimeError("boom")


class Identity(nn.Module):
    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Tensor:
        return weight


class Doubled(EdgePopup):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * super().forward(weight)


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


# --- files ---------------------------------------------------------------------------------------------


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


def beside(path: Path) -> Path:
    return path.with_name("scores.safetensors")


def pipe(path: Path) -> Path:
    os.mkfifo(path.with_name("pipe"))
    return path.with_name("pipe")


# --- the table -----------------------------------------------------------------------------------------

UNREADY = "cannot be hidden: a parameter is not initialised yet"
OWNED = "cannot be hidden: another parametrization, pruning or weight norm owns its weight"
TIED = "0.weight and 2.weight are one tied weight, which cannot have two masks"
RESCALED = functools.partial(Supermask, rescale=True)
NOBODY = "a.distribution_of_mine"

REFUSED: dict[str, tuple[Callable[[], nn.Module], Act, str]] = {
    "hidden twice": (lambda: hide(conv_net()), hiding(), "already hidden: 0, 4; reveal(model) first"),
    "hidden in part": (lambda: nn.Sequential(hide(nn.Linear(2, 2))), hiding(), "already hidden: 0"),
    "nothing": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Embedding(3, 3)), hiding(), "nothing to hide: Sequential"),
    "all skipped": (conv_net, hiding(skip=["0", "4"]), "nothing to hide: Sequential"),
    "unknown skip": (conv_net, hiding(skip=["4", "fc", "1"]), "skip names no layer: 1, fc; layers are 0, 4"),
    "string to skip": (conv_net, hiding(skip="04"), "skip='04' is one string; give a list of layers, such as ['04']"),
    "tied": (tied, hiding(), TIED),
    "tied, one skipped": (tied, hiding(skip=["2"]), TIED),
    "tied in memory": (lambda: tied(lambda w: nn.Parameter(w.data.t())), hiding(), TIED),
    "tied to an embedding": (lambda: Embedded(tied=True), hiding(), "embedding.weight and out.weight are one tied"),
    "pruned": (lambda: two(nn.Linear(4, 4), prune.identity(nn.Linear(4, 4), "weight")), hiding(), f"2 {OWNED}"),
    "spectral norm": (lambda: two(parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 4)), hiding(), OWNED),
    "meta": (lambda: on(torch.device("meta")), hiding(), f"0 {UNREADY}"),
    "lazy": (lambda: two(nn.Linear(3, 4), nn.LazyLinear(3)), hiding(), f"0 {UNREADY}"),
    "lazy norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LazyBatchNorm1d()), hiding(), f"0 {UNREADY}"),
    "complex": (lambda: two(nn.Linear(4, 4), nn.Linear(4, 4, dtype=torch.complex64)), hiding(), "2 cannot be hidden"),
    "made in inference mode": (lambda: on(torch.inference_mode()), hiding(), "inference tensor"),
    "not to be written to": (
        lambda: tied(lambda w: nn.Parameter(torch.ones(1, 1).expand(3, 4))), hiding(), "single memory location",
    ),
    **{
        f"density {density}": (conv_net, hiding(density=density), f"density={density} keeps {kept} of 72 w")
        for density, kept in [
            (0, 0), (1.3, 93), (-0.1, -7), (math.nan, "no meaningful number"), (math.inf, "no meaningful number"),
            (1e308, "no meaningful number"), (1e-20, 0),
        ]
    },
    "density too small for the last layer": (
        lambda: two(nn.Linear(100, 100), nn.Linear(100, 1)), hiding(density=1e-17),
        "keeps 0 of 10000 weights; density is the fraction kept and must lie in (0, 1] and keep at least one",
    ),
    "density 1 of a supermask": (conv_net, hiding(density=1, masker=Supermask), "density=1 gives infinite scores"),
    "no weights": (lambda: nn.Linear(2, 2), lambda *_: EdgePopup(torch.empty(0, 1), 0.5), "density=0.5 keeps 0 of 0"),
    "distribution": (mixed_net, hiding(distribution="gauss"), "'gauss' is unknown; distributions are ['kai"),
    "scaled": (mixed_net, hiding(scaled="no"), "scaled='no' is unknown; it is False, True or 'authors'"),
    "scaled None": (mixed_net, hiding(scaled=None), "scaled=None is unknown"),
    "scaled 1": (mixed_net, hiding(scaled=1), "scaled=1 is unknown"),
    "scaled to infinity": (mixed_net, hiding(scaled="authors", density=1), "which is 0 at density=1"),
    **{
        f"{name} scaled as the authors": (
            mixed_net, hiding(scaled="authors", distribution=name), "which the authors' code never scales",
        )
        for name in ("kaiming_uniform", "xavier_normal", "signed_xavier")
    },
    "drawn as hidden": (mixed_net, lambda *_: draw(torch.Size((2, 3)), "gauss", torch.Generator()), "is unknown"),
    "drawn without fans": (mixed_net, lambda *_: draw(torch.Size((7,)), "xavier_normal", torch.Generator()), "fan"),
    "masker fails at building": (mixed_net, hiding(masker=bad(boom, built=True)), "boom"),
    "masker fails at masking": (mixed_net, hiding(masker=bad(boom)), "boom"),
    "masker inverts": (mixed_net, hiding(masker=bad(boom, right_inverse=boom)), "Masker that has no right_inverse"),
    "masker of other shape": (mixed_net, hiding(masker=bad(torch.flatten)), "may not change the shape"),
    "masker of other dtype": (mixed_net, hiding(masker=bad(Tensor.double)), "may not change the dtype"),
    "masker is a module": (mixed_net, hiding(masker=Identity), "masker=Identity must give a Masker"),
    "masker is no module": (mixed_net, hiding(masker=lambda *_, **__: abs), "must give a Masker that"),
    "revealed": (conv_net, lambda net, _: reveal(net), "this Sequential is not hidden; reveal undoes hide(model)"),
    "unhidden layer": (conv_net, lambda net, _: original_weight(net, "4"), "4"),
    "unhidden ticket": (conv_net, lambda net, _: fix_masks(net), "this Sequential is not hidden"),
    "keep below 0": (conv_net, lambda *_: top_k_mask(torch.ones(2, 3), -1), "keep=-1 of 6 scores"),
    "keep above all": (conv_net, lambda *_: top_k_mask(torch.ones(2, 3), 7), "keep is a count from 0 to 6"),
    "save what is plain": (mixed_net, saving, "this Sequential is not hidden; hide(model) comes first"),
    "save kept weights": (lambda: hide(mixed_net(), distribution=None), saving, "so no seed gives them back"),
    "save what learns": (lambda: fix_masks(hide(mixed_net())), saving, "so no seed gives them back"),
    "save other weights": (
        lambda: changed(hide(mixed_net()), lambda net: original_weight(net, "4").neg_()), saving,
        "could not be loaded again: the weights drawn from weight_seed=0",
    ),
    "save an expanded buffer": (
        lambda: changed(hide(mixed_net()), lambda net: net.register_buffer("all", torch.zeros(1).expand(4))), saving,
        "could not be loaded again: ",
    ),
    "save a norm": (lambda: changed(hide(mixed_net()), lambda net: net[1].weight.fill_(2)), saving, "fingerprint"),
    "save more than a mask": (
        lambda: changed(hide(mixed_net(), masker=Gained), lambda net: maskers(net)["4"].gain.fill_(3)), saving,
        "Gained gives 4 weights that its mask does not tell; save reveal(model).state_dict() instead",
    ),
    "save a namesake": (
        lambda: hide(mixed_net(), masker=type("EdgePopup", (EdgePopup,), {"baked": lambda self, weight: -weight})),
        saving, "EdgePopup gives 0 weights that its mask does not tell",
    ),
    "save a masker without set_mask": (lambda: hide(mixed_net(), masker=Secret), saving, "Secret has no set_mask"),
    "load nothing": (mixed_net, loading(lambda path: path.with_name("nowhere")), "nowhere is no regular file"),
    "load a folder": (mixed_net, loading(lambda path: path.parent), "is no regular file"),
    "load a pipe": (mixed_net, loading(pipe), "pipe is no regular file; give one of save_subnetwork"),
    "load what was cut": (
        mixed_net, loading(lambda path: path.write_bytes(path.read_bytes()[:-10])), "incomplete metadata",
    ),
    "load text": (mixed_net, loading(lambda path: path.write_bytes(b"hello")), "header too small"),
    "load other tensors": (
        mixed_net, loading(lambda path: save_file({"weight": torch.zeros(3)}, path)), "its format is None, not",
    ),
    "load an older format": (mixed_net, loading(older), "its format is 'lit_hidden subnetwork 2', not"),
    "load into another width": (
        lambda: mixed_net(8), loading(), "mask/4 of the file is ((70,), torch.uint8), of the model ((80,)",
    ),
    "load into other layers": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(80, 7)), loading(),
        "does not fit this Sequential: mask/2 of the file is None, of the model ((70,), torch.uint8): another net",
    ),
    "load into as many weights": (
        lambda: nn.Sequential(*mixed_net()[:4], nn.Linear(7, 80, bias=False)), loading(), "have the fingerprint",
    ),
    "load beside other embeddings": (
        Embedded, loading(resaved(lambda: hide(Embedded()))), "with the model's own (embeddings, say)",
    ),
    "load into a hidden model": (lambda: hide(mixed_net(), 0.1), loading(), "does not fit this Sequential: already"),
    "load as another masker": (mixed_net, loading(masker=Doubled), "with masker 'EdgePopup', not Doubled"),
    "load an unknown masker": (
        mixed_net, loading(resaved(lambda: hide(mixed_net(), masker=RESCALED))),
        "was saved with masker 'Supermask(rescale=True)', not EdgePopup or Supermask; give masker=",
    ),
    "load as another distribution": (
        mixed_net, loading(distribution=NOBODY), f"'signed_constant', not {NOBODY}; give distribution=",
    ),
    "load with other scores": (
        mixed_net, loading(lambda path: save_net(shuffled(hide(mixed_net(), 0.3)), beside(path))),
        "scores.safetensors beside it (or set_mask) gives other masks of 0, 4",
    ),
    "load with damaged scores": (
        mixed_net, loading(lambda path: beside(path).write_bytes(b"hello")),
        "scores.safetensors is damaged or not what lit_hidden saves",
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
    refused = SubnetworkError if case.startswith("load") else (ValueError, TypeError, RuntimeError, KeyError)
    with pytest.raises(refused, match=re.escape(reason)):  # type: ignore[arg-type]
        act(net, path)
    assert photograph(net) == before
    assert not path.with_name("other").exists()
