import contextlib
import copy
import functools
import hashlib
import json
import os
import random
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor, nn

from lit_hidden.edge_popup import EdgePopup, Masker, hide, maskers, original_weight, reveal
from lit_hidden.engine.network import save_net
from lit_hidden.engine.store import SCORES
from lit_hidden.nets import build
from lit_hidden.subnetwork import (
    SubnetworkError,
    _checksum,
    fingerprint,
    load_subnetwork,
    masks,
    save_subnetwork,
    used_masks,
)
from lit_hidden.supermask import Supermask
from lit_hidden.ticket import fix_masks

Photograph = Callable[[nn.Module], Any]
made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "hiding.py"))
net, shuffled, refusal = (made[name] for name in ("mixed_net", "shuffled", "refusal"))


class Embedded(nn.Module):
    """Has weights that `hide` does not draw."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.out = nn.Parameter(torch.randn(6)), nn.Linear(6, 3)


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    """Change the tensors and the metadata of a file."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)


# --- masks and fingerprints ------------------------------------------------------------------------------


def test_masks_are_the_layers_masks_in_order() -> None:
    model = hide(net(), 0.3)
    found = masks(model)
    assert list(found) == ["0", "4"]
    for name, mask in found.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, maskers(model)[name].mask())
    assert masks(net()) == {}


def test_the_fingerprint_is_the_hash_of_names_shapes_dtypes_and_bytes() -> None:
    model = nn.Linear(2, 3)
    digest = hashlib.sha256()
    for name, parameter in (("weight", model.weight), ("bias", model.bias)):
        digest.update(f"{name} {tuple(parameter.shape)} torch.float32 ".encode())
        digest.update(parameter.detach().numpy().tobytes())
    assert fingerprint(model) == digest.hexdigest()


def test_training_the_scores_does_not_change_the_fingerprint() -> None:
    model = hide(net())
    before = fingerprint(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=10)
    for _ in range(3):
        model(torch.randn(4, 3, 6, 6)).pow(2).sum().backward()
        optimizer.step()
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: original_weight(m, "4").view(-1)[3].neg_(),
        lambda m: m[0].bias[0].add_(1e-30),
        lambda m: m[1].weight[2].mul_(1.0000002),
    ],
)
def test_one_bit_of_a_weight_changes_the_fingerprint(change: Callable[[nn.Module], Tensor]) -> None:
    model = hide(net())
    before = fingerprint(model)
    with torch.no_grad():
        change(model)
    assert fingerprint(model) != before


def test_minus_zero_is_another_bit() -> None:
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for model, zero in ((a, 0.0), (b, -0.0)):
            model.weight.fill_(zero)
            model.bias.fill_(1)
    assert fingerprint(a) != fingerprint(b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_any_dtype_and_layout_have_a_fingerprint(dtype: torch.dtype) -> None:
    model = hide(nn.Conv2d(3, 4, 3, dtype=dtype))
    last = hide(nn.Conv2d(3, 4, 3, dtype=dtype).to(memory_format=torch.channels_last))
    assert fingerprint(model) == fingerprint(last) != fingerprint(hide(nn.Conv2d(3, 4, 3)))


def test_scalar_and_empty_parameters_have_a_fingerprint() -> None:
    model = nn.Module()
    model.scalar, model.empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.empty(0, 3))
    assert len(fingerprint(model)) == 64


# --- the round trip --------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["signed_constant", "kaiming_normal"])
@pytest.mark.parametrize("scaled", [False, True, "authors"])
def test_a_loaded_subnetwork_gives_the_same_logits(distribution: str, scaled: Any, tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, distribution=distribution, scaled=scaled, seed=3, score_seed=9))
    path = tmp_path / "found.safetensors"
    assert save_subnetwork(model, path) == path
    fresh = net()
    assert load_subnetwork(fresh, path) is fresh
    x = torch.randn(4, 3, 6, 6)
    assert torch.equal(fresh.eval()(x), model(x))
    assert fingerprint(fresh) == fingerprint(model)
    assert {n: m.tolist() for n, m in masks(fresh).items()} == {n: m.tolist() for n, m in masks(model).items()}
    assert torch.equal(reveal(fresh)(x), model(x))


def test_a_loaded_resnet_has_its_running_statistics(tmp_path: Path) -> None:
    def resnet() -> nn.Module:
        return build("cifar_resnet18", width=0.125)

    model, x = hide(resnet(), 0.3), torch.randn(8, 3, 16, 16)
    for _ in range(3):
        model(x + 1)
    save_subnetwork(model, tmp_path / "file")
    fresh = load_subnetwork(resnet(), tmp_path / "file")
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert fresh.bn1.num_batches_tracked == 3


def test_the_loaded_model_is_hidden_as_the_saved_one(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, seed=4, weight_seed=5, skip=["0"]))
    fresh = net()
    fresh.load_state_dict({n: v for n, v in model.state_dict().items() if n.startswith("0.")}, strict=False)
    save_subnetwork(model, tmp_path / "file")
    load_subnetwork(fresh, str(tmp_path / "file"))
    assert fresh._lit_hidden == model._lit_hidden
    for name, mask in masks(model).items():
        assert maskers(fresh)[name].keep == int(mask.sum())


def test_the_scores_are_those_of_the_score_seed_above_and_below_one_threshold(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, seed=4))
    fresh, start = load_subnetwork(net(), save_subnetwork(model, tmp_path / "file")), hide(net(), 0.3, seed=4)
    for name, mask in masks(model).items():
        found, drawn = (maskers(m)[name].scores.detach() for m in (fresh, start))
        assert torch.equal(found.sign(), drawn.sign())
        assert found[mask].abs().min() > found[~mask].abs().max() > 0
        for side in (mask, ~mask):  # in the order in which they were drawn
            assert torch.equal(found[side].abs().argsort(), drawn[side].abs().argsort())
        bound = found[0].numel() ** -0.5
        assert stats.kstest(found.flatten(), "uniform", (-bound, 2 * bound)).pvalue > 0.01


@pytest.mark.parametrize("constant", [0.0, -0.5])
def test_scores_of_one_size_or_of_none_are_told_apart_and_get_a_gradient(constant: float) -> None:
    for kept in (0, 1, 9, 31, 32):
        layer, mask = hide(nn.Linear(8, 4, bias=False), 0.5), (torch.randperm(32) < kept).view(4, 8)
        masker = maskers(layer)["weight"]
        with torch.no_grad():
            masker.scores.fill_(constant)
        masker.set_mask(mask)
        assert torch.equal(masker.mask(), mask)
        layer(torch.ones(1, 8)).sum().backward()
        assert (masker.scores.grad != 0).all()


def trained(model: nn.Module, steps: int) -> nn.Module:
    """Search on, from here, with an optimizer of its own."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        images = torch.randn(8, 3, 6, 6)
        (model(images) - images.mean((1, 2, 3))[:, None]).pow(2).mean().backward()
        optimizer.step()
    return model


def swaps(before: dict[str, Tensor], model: nn.Module) -> int:
    return sum(int((mask != masks(model)[name]).sum()) // 2 for name, mask in before.items())


@pytest.mark.parametrize("masker", [EdgePopup, Supermask])
def test_with_its_scores_beside_it_a_search_goes_on_exactly(masker: Any, tmp_path: Path) -> None:
    model = trained(hide(net(), 0.3, masker=masker), 20)
    loaded = load_subnetwork(net(), save_net(model, tmp_path / SCORES) or save_subnetwork(model, tmp_path / "file"))
    for mine, other in zip(trained(loaded, 20).parameters(), trained(model, 20).parameters(), strict=True):
        assert torch.equal(mine, other)


def test_without_its_scores_a_search_goes_on_too(tmp_path: Path) -> None:
    model = trained(hide(net(), 0.3), 20)
    before = {name: mask.clone() for name, mask in masks(model).items()}
    loaded = load_subnetwork(net(), save_subnetwork(model, tmp_path / "file"))
    assert swaps(before, loaded) == 0
    assert swaps(before, trained(loaded, 50)) > 10


def test_scores_of_another_net_beside_the_file_are_refused(tmp_path: Path, photograph: Photograph) -> None:
    path = saved(tmp_path)
    save_net(shuffled(hide(net(), 0.3)), tmp_path / SCORES)
    fresh = net()
    before = photograph(fresh)
    assert refusal(lambda: load_subnetwork(fresh, path)) == (
        f"{path} does not fit this Sequential: the masks of 0, 4 are not those of {SCORES} beside it"
    )
    assert photograph(fresh) == before
    (tmp_path / SCORES).write_bytes(b"hello")
    with pytest.raises(SubnetworkError, match=rf"{SCORES}, beside file, is damaged: .*; delete it"):
        load_subnetwork(fresh, path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_net_that_was_cast_comes_back_in_its_dtype_with_float32_scores(dtype: torch.dtype, tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, distribution="kaiming_normal")).to(dtype)
    fresh = load_subnetwork(net(), save_subnetwork(model, tmp_path / "file"))
    x = torch.randn(4, 3, 6, 6, dtype=dtype)
    assert torch.equal(fresh.eval()(x), model(x))
    assert fingerprint(fresh) == fingerprint(model)
    assert {m.scores.dtype for m in maskers(fresh).values()} == {torch.float32}


def test_a_supermask_comes_back_as_its_most_probable_mask(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, masker=Supermask))
    fresh = load_subnetwork(net(), save_subnetwork(model, tmp_path / "file"))
    assert fresh._lit_hidden == model._lit_hidden
    for name, mask in masks(model).items():
        masker = maskers(fresh)[name]
        assert isinstance(masker, Supermask)
        torch.testing.assert_close(masker.probability(), torch.where(mask, 0.99, 0.01))
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(reveal(fresh).eval()(x), reveal(model)(x))


class Doubled(EdgePopup):
    """Changes weights beyond its mask, always alike."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * super().forward(weight)

    def baked(self, weight: Tensor) -> Tensor:
        return 2 * super().baked(weight)


class Gained(Doubled):
    """Changes them by what it has learnt."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(()))

    def baked(self, weight: Tensor) -> Tensor:
        return self.gain.detach() * super().baked(weight)


class Secret(Doubled):
    """Does not say how it is given back."""

    set_mask = Masker.set_mask


RESCALED = functools.partial(Supermask, rescale=True)


@pytest.mark.parametrize(("masker", "name"), [(Doubled, "Doubled"), (RESCALED, "Supermask(rescale=True)")])
def test_a_masker_of_ones_own_comes_back_if_it_is_given(masker: Any, name: str, tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, masker=masker))
    path = save_subnetwork(model, tmp_path / "file")
    fresh, x = load_subnetwork(net(), path, masker=masker), torch.randn(2, 3, 6, 6)
    assert fresh._lit_hidden == model._lit_hidden
    assert torch.equal(reveal(fresh).eval()(x), reveal(model)(x))
    assert refusal(lambda: load_subnetwork(net(), path)) == (
        f"{path} was saved with masker '{name}', which is not of lit_hidden and is not imported because a file says "
        "so; give masker="
    )
    assert refusal(lambda: load_subnetwork(net(), path, masker=EdgePopup)) == (
        f"{path} was saved with masker '{name}', not with 'EdgePopup'"
    )


def test_what_is_more_than_a_mask_is_refused_at_saving(tmp_path: Path) -> None:
    model = hide(net(), 0.3, masker=Gained)
    save_subnetwork(model, tmp_path / "file")
    (tmp_path / "file").unlink()
    with torch.no_grad():
        maskers(model)["4"].gain.fill_(3)
    assert refusal(lambda: save_subnetwork(model, tmp_path / "file")) == (
        "this Sequential could not be loaded again: the weights that Gained gives 4 are not told by its mask; "
        "save reveal(model).state_dict() instead"
    )
    assert refusal(lambda: save_subnetwork(hide(net(), masker=Secret), tmp_path / "file")) == (
        "this Sequential could not be loaded again: Secret has no set_mask, so its mask alone does not give it back; "
        "save reveal(model).state_dict() instead"
    )
    assert not (tmp_path / "file").exists()


def halves(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    return torch.full(shape, 0.5)


def test_a_distribution_of_ones_own_is_not_imported_because_a_file_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    module = types.ModuleType("halves_of_mine")
    module.__dict__["halves"] = halves
    monkeypatch.setitem(sys.modules, "halves_of_mine", module)
    path = saved(tmp_path, hide(net(), distribution="halves_of_mine.halves"))
    assert (original_weight(load_subnetwork(net(), path, distribution="halves_of_mine.halves"), "4") == 0.5).all()
    monkeypatch.setattr(module, "halves", lambda *_: pytest.fail("called because a file says so"))
    assert refusal(lambda: load_subnetwork(net(), path)) == (
        f"{path} was saved with distribution 'halves_of_mine.halves', which is not of lit_hidden and is not imported "
        "because a file says so; give distribution="
    )
    assert refusal(lambda: load_subnetwork(net(), path, distribution="kaiming_normal")) == (
        f"{path} was saved with distribution 'halves_of_mine.halves', not with 'kaiming_normal'"
    )


@pytest.mark.parametrize("constant", [0.0, -1.0])
def test_masks_of_ties_or_of_nothing_come_back(constant: float, tmp_path: Path) -> None:
    model = hide(net(), 0.3, masker=Supermask)  # its mask is all or nothing when all scores agree
    with torch.no_grad():
        for masker in maskers(model).values():
            masker.scores.fill_(constant)
    save_subnetwork(model, tmp_path / "file")
    fresh = load_subnetwork(net(), tmp_path / "file")
    assert all((m == (constant == 0)).all() for m in masks(fresh).values())


def test_the_file_holds_one_bit_a_weight(tmp_path: Path) -> None:
    model = hide(build("conv2", width=0.5))
    size = save_subnetwork(model, tmp_path / "file").stat().st_size
    bits = sum(m.numel() for m in masks(model).values())
    assert bits / 8 <= size <= bits / 8 + 2000


def test_the_files_bits_are_the_masks_in_row_major_order_first_bit_highest(tmp_path: Path) -> None:
    model = hide(nn.Sequential(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)))
    save_subnetwork(model, tmp_path / "file")
    with safe_open(tmp_path / "file", "pt") as file:
        packed = file.get_tensor("mask/0").numpy()
        metadata = file.metadata()
    bits = "".join(f"{byte:08b}" for byte in packed)[: 2 * 3 * 9]
    assert bits == "".join(str(int(b)) for b in masks(model)["0"].contiguous().flatten())
    assert metadata.keys() == {"subnetwork"}, "several have no order, and files of equal nets would differ"
    described = json.loads(metadata["subnetwork"])
    assert described["format"] == "lit_hidden subnetwork 3"
    assert described["fingerprint"] == fingerprint(model)
    assert described["hiding"]["weight_seed"] == 0


def test_equal_nets_are_equal_bytes_in_every_process(tmp_path: Path, python: Callable[..., str]) -> None:
    code = (
        "import sys; from lit_hidden import hide, save_subnetwork; from lit_hidden.nets import build\n"
        "model = hide(build('cifar_resnet18', width=0.05), 0.3)\n"
        "print(save_subnetwork(model, {path!r}).read_bytes().hex())"
    )
    # This process has a hash seed of its own, drawn unless it is set.
    other = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    mine = save_subnetwork(hide(build("cifar_resnet18", width=0.05), 0.3), tmp_path / "mine").read_bytes()
    assert python(code.format(path=str(tmp_path / "other")), PYTHONHASHSEED=other) == mine.hex()


def test_saving_changes_nothing_in_the_model(tmp_path: Path, photograph: Photograph) -> None:
    model = shuffled(hide(net()))
    before = photograph(model)
    save_subnetwork(model, tmp_path / "file")
    assert photograph(model) == before


def test_loading_does_not_touch_the_global_random_state(tmp_path: Path) -> None:
    save_subnetwork(hide(net()), tmp_path / "file")
    fresh, state = net(), torch.get_rng_state()
    load_subnetwork(fresh, tmp_path / "file")
    assert torch.equal(torch.get_rng_state(), state)


# --- what cannot be saved or loaded ----------------------------------------------------------------------


def test_a_plain_model_cannot_be_saved(tmp_path: Path) -> None:
    message = "nothing is hidden in this Sequential; hide(model) comes first"
    assert refusal(lambda: save_subnetwork(net(), tmp_path / "file")) == message
    assert not (tmp_path / "file").exists()


def test_kept_weights_cannot_be_saved(tmp_path: Path) -> None:
    message = (
        "the weights were kept, not drawn (distribution=None), so no seed gives them back; "
        "save reveal(model).state_dict() instead"
    )
    assert refusal(lambda: save_subnetwork(hide(net(), distribution=None), tmp_path / "file")) == message
    assert not (tmp_path / "file").exists()


def test_weights_of_another_seed_and_other_norm_layers_cannot_be_saved(tmp_path: Path) -> None:
    other, normed = hide(net(), seed=1), hide(net(), seed=1)
    other.load_state_dict(hide(net(), seed=2).state_dict())
    normed[1].weight.data.fill_(2)
    originals = "0.parametrizations.weight.original, 4.parametrizations.weight.original"
    for model, what in ((other, originals), (normed, "1.weight")):
        assert refusal(functools.partial(save_subnetwork, model, tmp_path / "file")) == (
            "this Sequential could not be loaded again: weight_seed=1 and signed_constant give other values of "
            f"{what}; save reveal(model).state_dict() instead"
        )
    assert not (tmp_path / "file").exists()


def test_weights_that_learn_cannot_be_saved(tmp_path: Path) -> None:
    message = "the weights learn (fix_masks), so no seed gives them back; save reveal(model).state_dict() instead"
    assert refusal(lambda: save_subnetwork(fix_masks(hide(net())), tmp_path / "file")) == message
    assert not (tmp_path / "file").exists()


def test_a_buffer_that_safetensors_cannot_hold_is_named(tmp_path: Path) -> None:
    model = hide(net())
    model.register_buffer("angles", torch.zeros(3, dtype=torch.complex128))
    assert refusal(lambda: save_subnetwork(model, tmp_path / "file")) == (
        "safetensors cannot hold torch.complex128, the dtype of angles; save reveal(model).state_dict() instead"
    )
    assert not (tmp_path / "file").exists()


def test_others_may_read_the_file_as_they_may_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = save_subnetwork(hide(net()), tmp_path / "file")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_buffers_that_share_memory_are_saved(tmp_path: Path) -> None:
    def sharing() -> nn.Module:
        model, table = nn.Linear(4, 2), torch.arange(4.0)
        model.register_buffer("table", table)
        model.register_buffer("part", table[1:3])
        return model

    save_subnetwork(hide(sharing()), tmp_path / "file")
    assert load_subnetwork(sharing(), tmp_path / "file").part.tolist() == [1, 2]


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "pipe"):
        with pytest.raises(SubnetworkError) as error:
            load_subnetwork(net(), path)
        assert str(error.value) == (
            f"{path} is no regular file; give one of save_subnetwork, such as a run's subnetwork.safetensors"
        )


def saved(tmp_path: Path, model: nn.Module | None = None) -> Path:
    return save_subnetwork(model or shuffled(hide(net(), 0.3)), tmp_path / "file")


def truncated(path: Path) -> Callable[[], nn.Module]:
    path.write_bytes(path.read_bytes()[:-10])
    return net


def no_file_at_all(path: Path) -> Callable[[], nn.Module]:
    path.write_bytes(b"hello")
    return net


def foreign(path: Path) -> Callable[[], nn.Module]:
    save_file({"weight": torch.zeros(3)}, path)
    return net


def format_before(path: Path) -> Callable[[], nn.Module]:
    rewrite(path, lambda tensors, metadata: metadata.update(subnetwork='{"format": "lit_hidden subnetwork 2"}'))
    return net


def other_layers(path: Path) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(80, 7))


def other_width(path: Path) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(99, 7, bias=False)
    )


ERRORS = {
    truncated: "{path} is damaged or not a subnetwork: "
    "Error while deserializing header: incomplete metadata, file not fully covered; "
    "save_subnetwork writes one",
    no_file_at_all: "{path} is damaged or not a subnetwork: "
    "Error while deserializing header: header too small; save_subnetwork writes one",
    foreign: "{path} is damaged or not a subnetwork: format None, expected 'lit_hidden subnetwork 3'; "
    "save_subnetwork writes one",
    format_before: "{path} is damaged or not a subnetwork: format 'lit_hidden subnetwork 2', expected "
    "'lit_hidden subnetwork 3'; save_subnetwork writes one",
    other_layers: "{path} does not fit this Sequential: it lacks ['mask/2'] and holds ['mask/4'] instead",
    other_width: "{path} does not fit this Sequential: the mask of 4 is (70,) torch.uint8; its 693 weights take 87 "
    "bytes: the net has another width or image size than the saved one",
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_file_that_does_not_fit_is_refused_and_the_model_stays_as_it_was(
    case: Callable[[Path], Callable[[], nn.Module]], tmp_path: Path, photograph: Photograph
) -> None:
    path = saved(tmp_path)
    model = case(path)()
    before = photograph(model)
    assert refusal(lambda: load_subnetwork(model, path)) == ERRORS[case].format(path=path)
    assert photograph(model) == before


def forged(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> Path:
    """Write what somebody may have written who knows how checksums are made."""

    def forge(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        found = json.loads(metadata["subnetwork"])
        found.pop("checksum")
        change(found, tensors)
        metadata["subnetwork"] = json.dumps(found | {"checksum": _checksum(found, tensors)})

    rewrite(path, forge)
    return path


WRONG = [None, True, -1, 1.5, float("nan"), float("inf"), 10**400, "os.abort", "", [], [[]], {}, [None], ["0", "4"]]
HOSTILE: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], object]] = {
    "another dtype of masks": lambda _, t: t.update({"mask/0": t["mask/0"].to(torch.int8)}),
    "another shape of masks": lambda _, t: t.update({"mask/0": t["mask/0"][None]}),
    "a scalar": lambda _, t: t.update({"mask/0": torch.tensor(1, dtype=torch.uint8)}),
    "no mask": lambda _, t: t.pop("mask/0"),
    "an unknown buffer": lambda _, t: t.update({"buffer/mine": torch.zeros(3)}),
    "an unknown tensor": lambda _, t: t.update({"mine": torch.zeros(3)}),
    "no buffer": lambda _, t: t.pop("buffer/1.running_mean"),
    "another dtype of buffers": lambda _, t: t.update({"buffer/1.running_mean": torch.zeros(5).double()}),
    "another shape of buffers": lambda _, t: t.update({"buffer/1.running_mean": torch.zeros(1)}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_tensors_that_cannot_be_are_one_error_that_names_the_file(
    case: str, tmp_path: Path, photograph: Photograph
) -> None:
    path, fresh = forged(saved(tmp_path), HOSTILE[case]), net()
    before = photograph(fresh)
    with pytest.raises(SubnetworkError, match=f"^{path} "):
        load_subnetwork(fresh, path)
    assert photograph(fresh) == before


@pytest.mark.parametrize("key", [
    "format", "fingerprint", "dtype", "hiding", "density", "distribution", "scaled", "weight_seed", "score_seed",
    "skip", "masker",
])  # fmt: skip
def test_a_description_that_cannot_be_is_one_error_that_names_the_file(
    key: str, tmp_path: Path, photograph: Photograph
) -> None:
    original, fresh = saved(tmp_path).read_bytes(), net()
    before = photograph(fresh)
    absent = object()
    for wrong in (*WRONG, absent):

        def change(found: dict[str, Any], _: Any, wrong: object = wrong) -> None:
            place = found if key in found else found["hiding"]
            place.pop(key)
            place |= {} if wrong is absent else {key: wrong}

        path = tmp_path / "file"
        path.write_bytes(original)
        forged(path, change)
        as_good = (key, wrong) in (("skip", []), ("dtype", None)) or (key == "score_seed" and isinstance(wrong, int))
        with contextlib.nullcontext() if as_good else pytest.raises(SubnetworkError, match=f"^{path} "):
            load_subnetwork(copy.deepcopy(fresh) if as_good else fresh, path)
        assert photograph(fresh) == before


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "nan", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\udc80"])
def test_json_that_is_none_is_one_error_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    rewrite(path, lambda tensors, metadata: metadata.update(subnetwork=text.encode(errors="replace").decode()))
    with pytest.raises(SubnetworkError, match=f"^{path} is damaged or not a subnetwork: "):
        load_subnetwork(net(), path)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(SubnetworkError, match=f"^{path} "):
            load_subnetwork(net(), path)


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data, state = path.read_bytes(), load_subnetwork(net(), path).state_dict()
    noticed = 0
    for bit in random.Random(0).sample(range(8 * len(data)), 400):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            loaded = load_subnetwork(net(), path)
        except SubnetworkError:
            noticed += 1
        else:
            assert loaded._lit_hidden == hide(net(), 0.3)._lit_hidden
            assert loaded.state_dict().keys() == state.keys()
            assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert noticed > 390


def test_a_net_whose_masks_happen_to_have_as_many_bytes_is_told_apart_by_its_weights(
    tmp_path: Path, photograph: Photograph
) -> None:
    path = saved(tmp_path)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(7, 80, bias=False))
    theirs, mine = fingerprint(hide(net(), 0.3)), fingerprint(hide(copy.deepcopy(model), 0.3))
    before = photograph(model)
    assert refusal(lambda: load_subnetwork(model, path)) == (
        f"{path} does not fit this Sequential: it was saved over other weights: their fingerprint begins "
        f"{theirs[:12]}, the model's {mine[:12]}; build the net as it was, embeddings and all"
    )
    assert photograph(model) == before


def test_other_embeddings_are_noticed_and_the_model_stays_as_it_was(tmp_path: Path, photograph: Photograph) -> None:
    model, other = hide(Embedded()), Embedded()
    path = save_subnetwork(model, tmp_path / "file")
    expected = fingerprint(hide(copy.deepcopy(other)))
    before = photograph(other)
    assert refusal(lambda: load_subnetwork(other, path)) == (
        f"{path} does not fit this Embedded: it was saved over other weights: their fingerprint begins "
        f"{fingerprint(model)[:12]}, the model's {expected[:12]}; build the net as it was, embeddings and all"
    )
    assert photograph(other) == before


def test_a_hidden_model_cannot_be_loaded_into(tmp_path: Path, photograph: Photograph) -> None:
    path, model = saved(tmp_path), hide(net(), 0.1)
    before = photograph(model)
    message = "already hidden: 0, 4; reveal(model) first, or hide a fresh model"
    assert refusal(lambda: load_subnetwork(model, path)) == f"{path} does not fit this Sequential: {message}"
    assert photograph(model) == before


def test_the_weights_used_are_those_of_hidden_layers_alone_and_those_of_the_masks() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Linear(4, 3))
    used = used_masks(hide(net, 0.4, skip=["1"]))
    assert list(used) == ["0", "2"]
    for name, mask in masks(net).items():
        assert torch.equal(used[name], mask)
