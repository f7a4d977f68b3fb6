"""What `hide` and `reveal` refuse, in which words, and that a failed call leaves the model as it was."""

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lit_hidden.edge_popup import EdgePopup, hide, original_weight, reveal

Photograph = Callable[[nn.Module], Any]
made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "hiding.py"))
conv_net, normed_net, refusal = (made[name] for name in ("conv_net", "normed_net", "refusal"))
DENSITY = made["DENSITY"]


# --- models and arguments ------------------------------------------------------------------------------


def hidden() -> nn.Module:
    return hide(conv_net())


def hidden_deep() -> nn.Module:
    return hide(nn.Sequential(*[nn.Linear(2, 2) for _ in range(11)]))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.out.weight = self.embedding.weight


def pruned() -> nn.Module:
    net = conv_net()
    prune.random_unstructured(net[4], "weight", 0.5)
    return net


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100), nn.Linear(100, 1))


OWNED = "another parametrization, pruning or weight norm owns it; remove that first, or skip the layer"

UNTIE = "are one parameter, which cannot have two masks; untie them (clone one), or skip the layer"

UNREADY = "is not initialised yet; run one forward pass or materialise it before hiding"

FAILURES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "twice": (hidden, {}, "already hidden: 0, 4; reveal(model) first, or hide a fresh model"),
    "twice, many layers": (
        hidden_deep,
        {},
        "already hidden: 0, 1, 2, 3, 4, 5, 6, 7 and 3 more; reveal(model) first, or hide a fresh model",
    ),
    "part is hidden": (
        lambda: nn.Sequential(hide(nn.Linear(2, 2)), nn.Linear(2, 2)),
        {},
        "already hidden: 0; reveal(model) first, or hide a fresh model",
    ),
    "nothing": (
        lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Embedding(3, 3), nn.ReLU()),
        {},
        "nothing to hide: Sequential has no convolution, linear or attention weight",
    ),
    "everything skipped": (
        conv_net,
        {"skip": ["0", "4"]},
        "nothing to hide: skip names every layer of Sequential",
    ),
    "unknown skip": (conv_net, {"skip": ["4", "fc", "5"]}, "skip names no layer: 5, fc; layers are 0, 4"),
    "module that is no layer": (conv_net, {"skip": ["1"]}, "skip names no layer: 1; layers are 0, 4"),
    "tied": (tied, {}, f"tied weights: 0.weight and 2.weight {UNTIE}"),
    "tied, one skipped": (tied, {"skip": ["2"]}, f"tied weights: 0.weight and 2.weight {UNTIE}"),
    "tied to an embedding": (TiedEmbedding, {}, f"tied weights: embedding.weight and out.weight {UNTIE}"),
    "density 0": (conv_net, {"density": 0}, f"density=0 keeps 0 of 72 weights; {DENSITY}"),
    "density above 1": (conv_net, {"density": 1.3}, f"density=1.3 keeps 93 of 72 weights; {DENSITY}"),
    "density below 0": (conv_net, {"density": -0.1}, f"density=-0.1 keeps -7 of 72 weights; {DENSITY}"),
    "density nan": (
        conv_net,
        {"density": math.nan},
        f"density=nan keeps no meaningful number of 72 weights; {DENSITY}",
    ),
    "density keeps nothing of the last layer": (
        narrow,
        {"density": 1e-17},
        f"density=1e-17 keeps 0 of 10000 weights; {DENSITY}",
    ),
    "distribution": (
        normed_net,
        {"distribution": "gauss"},
        "distribution='gauss' is unknown; distributions are ['kaiming_normal', 'signed_constant', "
        "'unsigned_constant', 'kaiming_uniform', 'xavier_normal', 'signed_xavier'], or package.module.name",
    ),
    "scaled": (normed_net, {"scaled": "no"}, "scaled='no' is unknown; it is False, True or 'authors'"),
    "scaled to infinity": (
        normed_net,
        {"scaled": "authors", "density": 1},
        "scaled='authors' multiplies weights by 1/sqrt(1 - density), which is infinite at density=1; "
        "use scaled=True or a density below 1",
    ),
    "pruned": (pruned, {}, f"4 has no plain weight parameter: {OWNED}"),
    "spectral norm": (
        lambda: nn.Sequential(nn.Linear(3, 3), parametrizations.spectral_norm(nn.Linear(3, 3))),
        {},
        f"1 has no plain weight parameter: {OWNED}",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.Conv2d(3, 3, 3))),
        {},
        f"1 has no plain weight parameter: {OWNED}",
    ),
    "meta": (on_meta, {}, f"0 {UNREADY}"),
    "lazy": (lambda: nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3)), {}, f"1 {UNREADY}"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_call_says_why_and_leaves_the_model_as_it_was(case: str, photograph: Photograph) -> None:
    make, arguments, message = FAILURES[case]
    net = make()
    for module in net.modules():  # so that a neutralised norm layer would show
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    before = photograph(net)
    assert refusal(lambda: hide(net, **arguments)) == message
    assert photograph(net) == before


def test_an_error_in_the_middle_of_hiding_is_undone(photograph) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    net[1].weight.data.fill_(3)
    net[2].weight = nn.Parameter(torch.ones(1, 1).expand(3, 4))  # one number shown twelve times: nobody can write it
    before = photograph(net)
    with pytest.raises(RuntimeError, match="single memory location"):
        hide(net)
    assert photograph(net) == before


def test_weights_tied_through_their_storage_are_tied() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = nn.Parameter(net[0].weight.data.t())
    with pytest.raises(ValueError) as error:
        hide(net)
    assert str(error.value) == (
        "tied weights: 0.weight and 1.weight are one parameter, which cannot have two masks; "
        "untie them (clone one), or skip the layer"
    )


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError) as error:
        hide(net)
    assert str(error.value) == (
        "0.weight, 0.bias were made in inference mode, where nothing can learn; build the model outside it"
    )


def test_one_string_to_skip_is_refused_and_not_read_letter_by_letter():
    with pytest.raises(ValueError) as error:
        hide(nn.Sequential(nn.Linear(4, 4)), 0.5, skip="0")
    assert str(error.value) == "skip='0' is one string; give a list of layers, such as ['0']"


def test_complex_weights_are_refused():
    with pytest.raises(ValueError) as error:
        hide(nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64)), 0.5)
    assert str(error.value) == "0 has complex weights (torch.complex64), which have no sign to learn by; skip the layer"


def test_an_unhidden_model_has_nothing_to_reveal(photograph: Photograph) -> None:
    net = conv_net()
    before = photograph(net)
    assert refusal(lambda: reveal(net)) == "nothing is hidden in this Sequential; reveal undoes hide(model)"
    assert photograph(net) == before


def test_an_unhidden_layer_has_no_original_weight() -> None:
    net = hide(conv_net(), skip=["4"])
    expected = "layer '4' is not hidden; hidden layers are ['0']"
    assert refusal(lambda: original_weight(net, "4")) == expected


# --- maskers -------------------------------------------------------------------------------------------


class Bad(EdgePopup):
    """A masker that works on the first layer and misbehaves on the second, which is wider."""

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        if weight.numel() > 100:
            self.misbehave(weight)

    def misbehave(self, weight: Tensor) -> None: ...


class RaisesWhenBuilt(Bad):
    def misbehave(self, weight: Tensor) -> None:
        raise RuntimeError("boom")


class RaisesWhenCalled(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        if weight.numel() > 100:
            raise RuntimeError("boom")
        return super().forward(weight)


class OtherShape(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.flatten() if weight.numel() > 100 else weight


class OtherDtype(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.double() if weight.numel() > 100 else weight


class ThrowsDiceWhenBuilt(Bad):
    def misbehave(self, weight: Tensor) -> None:
        torch.rand(1)
        raise RuntimeError("boom")


class RaisesWhenInverted(Bad):
    def right_inverse(self, weight: Tensor) -> Tensor:
        if weight.numel() > 100:
            raise RuntimeError("boom")
        return weight


class WritesIntoTheWeight(Bad):
    def forward(self, weight: Tensor) -> Tensor:
        weight.zero_()
        raise RuntimeError("boom")


def no_module(weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> Any:
    return lambda weight: weight


@pytest.mark.parametrize(
    "masker",
    [
        RaisesWhenBuilt,
        RaisesWhenCalled,
        ThrowsDiceWhenBuilt,
        RaisesWhenInverted,
        WritesIntoTheWeight,
        no_module,
    ],
)
def test_a_masker_that_fails_leaves_the_model_as_it_was(masker: Any, photograph: Photograph) -> None:
    net = normed_net()
    nn.init.normal_(net[1].weight)
    before = photograph(net)
    with pytest.raises(Exception):  # noqa: B017 - whatever the masker raises
        hide(net, masker=masker)
    assert photograph(net) == before


@pytest.mark.parametrize(
    ("masker", "message"),
    [
        (
            OtherShape,
            "masker OtherShape turns 0 from (6, 3, 3, 3) torch.float32 into (162,) torch.float32; "
            "it must keep shape and dtype",
        ),
        (
            OtherDtype,
            "masker OtherDtype turns 0 from (6, 3, 3, 3) torch.float32 into (6, 3, 3, 3) torch.float64; "
            "it must keep shape and dtype",
        ),
    ],
)
def test_a_masker_that_changes_shape_or_dtype_is_refused(masker: Any, message: str, photograph: Photograph) -> None:
    net = normed_net()
    before = photograph(net)
    assert refusal(lambda: hide(net, masker=masker)) == message
    assert photograph(net) == before


def test_a_masker_that_is_no_masker_is_refused_since_reveal_could_not_find_it() -> None:
    class Identity(nn.Module):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

        def forward(self, weight: Tensor) -> Tensor:
            return weight

    with pytest.raises((TypeError, ValueError)):
        hide(conv_net(), masker=Identity)  # type: ignore[arg-type]
