"""Masks, fingerprints and files of subnetworks; what is refused stands in `test_hide_refused.py`."""

import copy
import json
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hiding import mixed_net as net
from hiding import rewrite, same, shuffled
from safetensors import safe_open
from torch import Tensor, nn

from experiments._archive import contents
from lit_hidden.edge_popup import EdgePopup, hide, maskers, original_weight, reveal
from lit_hidden.nets import build
from lit_hidden.rice import decode
from lit_hidden.subnetwork import (
    SubnetworkError,
    _checksum,
    fingerprint,
    load_subnetwork,
    masks,
    network,
    save_subnetwork,
)
from lit_hidden.supermask import Supermask

Photograph = Callable[[nn.Module], Any]


def saved(tmp_path: Path, model: nn.Module | None = None) -> Path:
    return save_subnetwork(model or shuffled(hide(net(), 0.3)), tmp_path / "file")


def test_training_the_scores_does_not_change_the_fingerprint_and_one_bit_of_a_weight_does() -> None:
    model = hide(net())
    before = fingerprint(trained(model, 3))
    assert before == fingerprint(hide(net()))
    changes: list[Callable[[nn.Module], Tensor]] = [
        lambda m: original_weight(m, "4").view(-1)[3].neg_(),
        lambda m: m[0].bias[0].neg_(),  # -0.0
        lambda m: m[1].weight[2].mul_(1.0000002),
    ]
    for change in changes:
        other = copy.deepcopy(model)
        with torch.no_grad():
            change(other)
        assert fingerprint(other) != before


@pytest.mark.parametrize(("distribution", "scaled", "dtype"), [
    ("signed_constant", False, torch.float32), ("kaiming_normal", True, torch.float64),
    ("signed_constant", "authors", torch.float16), ("kaiming_normal", False, torch.bfloat16),
])  # fmt: skip
def test_a_loaded_subnetwork_is_the_saved_one(
    distribution: str, scaled: Any, dtype: torch.dtype, tmp_path: Path, photograph: Photograph
) -> None:
    model = shuffled(hide(net(), 0.3, distribution=distribution, scaled=scaled, seed=3, score_seed=9)).to(dtype)
    before, fresh = photograph(model), net()
    assert load_subnetwork(fresh, str(saved(tmp_path, model))) is fresh
    assert photograph(model) | {"random": b""} == before | {"random": b""}
    x = torch.randn(4, 3, 6, 6, dtype=dtype)
    assert torch.equal(fresh.eval()(x), model(x))
    assert fingerprint(fresh) == fingerprint(model)
    assert same(masks(fresh), masks(model))
    assert fresh._lit_hidden == model._lit_hidden
    assert {m.scores.dtype for m in maskers(fresh).values()} == {torch.float32}
    assert torch.equal(reveal(fresh)(x), model(x))


def test_skipped_layers_running_statistics_and_shared_buffers_come_back(tmp_path: Path) -> None:
    def sharing() -> nn.Module:
        model, table = net(), torch.arange(4.0)
        model.register_buffer("table", table)
        model.register_buffer("part", table[1:3])
        return model

    model = hide(sharing(), 0.3, seed=4, weight_seed=5, skip=["0"])
    for _ in range(3):
        model(torch.randn(8, 3, 6, 6))
    fresh = sharing()
    fresh.load_state_dict({n: v for n, v in model.state_dict().items() if n.startswith("0.")}, strict=False)
    load_subnetwork(fresh, saved(tmp_path, model))
    x = torch.randn(8, 3, 6, 6)
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert fresh[1].num_batches_tracked == 3
    assert fresh.part.tolist() == [1, 2]
    assert fresh._lit_hidden == model._lit_hidden


@pytest.mark.filterwarnings("ignore:only 15% of the matrix weights are hidden")
def test_a_file_older_than_roles_leaves_what_they_would_change(tmp_path: Path) -> None:
    def scaled() -> nn.Module:
        return nn.Sequential(nn.Embedding(2, 3), nn.GRUCell(3, 4), nn.PReLU(), nn.Linear(4, 4))

    old = hide(scaled(), roles={})  # as all nets were hidden before
    path, fresh = saved(tmp_path, old), scaled()
    assert "roles" not in json.loads(safe_open(path, "pt").metadata()["subnetwork"])["hiding"]
    fresh.load_state_dict({n: v for n, v in old.state_dict().items() if not n.startswith("3.")}, strict=False)
    assert list(maskers(load_subnetwork(fresh, path))) == ["3"]
    assert fingerprint(fresh) == fingerprint(old)


def test_a_search_goes_on_from_those_of_the_seed_moved_to_fit_the_mask(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, seed=4))
    fresh, start = load_subnetwork(net(), saved(tmp_path, model)), hide(net(), 0.3, seed=4)
    for name, mask in masks(model).items():
        found, drawn = (maskers(m)[name].scores.detach() for m in (fresh, start))
        assert torch.equal(found.sign(), drawn.sign())
        assert found[mask].abs().min() > found[~mask].abs().max() > 0
        assert maskers(fresh)[name].keep == int(mask.sum())


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


def test_a_supermask_comes_back_as_its_most_probable_mask(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, masker=Supermask))
    fresh = load_subnetwork(net(), saved(tmp_path, model))
    for name, mask in masks(model).items():
        torch.testing.assert_close(maskers(fresh)[name].probability(), torch.where(mask, 0.99, 0.01))


class Doubled(EdgePopup):
    """Changes weights beyond its mask, always alike."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * super().forward(weight)

    def baked(self, weight: Tensor) -> Tensor:
        return 2 * super().baked(weight)


def test_a_masker_of_ones_own_comes_back_if_it_is_given(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, masker=Doubled))
    fresh, x = load_subnetwork(net(), saved(tmp_path, model), masker=Doubled), torch.randn(2, 3, 6, 6)
    assert fresh._lit_hidden == model._lit_hidden
    assert torch.equal(reveal(fresh).eval()(x), reveal(model)(x))


def test_a_distribution_of_ones_own_is_not_imported_because_a_file_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    module = types.ModuleType("of_mine")
    module.__dict__["halves"] = lambda shape, std, generator: torch.full(shape, 0.5)
    monkeypatch.setitem(sys.modules, "of_mine", module)
    path = saved(tmp_path, hide(net(), distribution="of_mine.halves"))
    assert (original_weight(load_subnetwork(net(), path, distribution="of_mine.halves"), "4") == 0.5).all()
    monkeypatch.setattr(module, "halves", lambda *_: pytest.fail("called because a file says so"))
    with pytest.raises(SubnetworkError, match="with distribution 'of_mine"):
        load_subnetwork(net(), path)


def entry(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with safe_open(path, "pt") as file:
        assert file.metadata().keys() == {"subnetwork"}, "several have no order, and files of equal nets would differ"
        return file.get_tensor("mask/0").numpy(), json.loads(file.metadata()["subnetwork"])


def test_the_file_says_what_it_is_and_holds_the_mask_in_row_major_order(tmp_path: Path) -> None:
    model = hide(nn.Sequential(nn.Conv2d(2, 300, 3).to(memory_format=torch.channels_last)), 0.1)
    code, described = entry(path := saved(tmp_path, model))
    assert np.array_equal(decode(code, 5400), masks(model)["0"].contiguous().flatten())
    assert path.stat().st_size < code.nbytes + 2000
    assert code.nbytes < 1.05 * 5400 / 8 * 0.469 + 5
    assert described["format"] == "lit_hidden subnetwork 4"
    assert described["fingerprint"] == fingerprint(model)
    assert described["hiding"]["weight_seed"] == 0
    assert described["shapes"] == {"mask/0": [300, 2, 3, 3]}


ARCHIVES = Path(__file__).parent.parent / "experiments" / "results"


@pytest.mark.parametrize("place", ["fig1/short", "fig3/paper", "fig6/short", "lottery/short"])
def test_a_committed_net_is_built_from_its_file_alone_and_is_the_one_that_was_tested(place, tmp_path: Path) -> None:
    archive = contents(ARCHIVES / place / "runs.tar.gz").items()
    run, files = next((run, files) for run, files in archive if "subnetwork.safetensors" in files)
    (path := tmp_path / "file").write_bytes(files["subnetwork.safetensors"])
    found, result = network(path), json.loads(files["result.json"])
    assert fingerprint(found) == result["weights_after"]
    kept = {layer["name"]: layer["kept_min"] for layer in result["layers"]}
    assert {name: int(mask.sum()) for name, mask in masks(found).items()} == kept
    assert (found.about["net"], found.about["accuracy"]) == (run.net, result["accuracy"])


ABOUT = {"net": "conv2", "width": 0.1, "num_classes": 7, "mean": (0.5,) * 3}


def small(path: Path, **about: Any) -> Path:
    return save_subnetwork(hide(build("conv2", width=0.1, num_classes=7), 0.1), path / "file", ABOUT | about)


def test_a_net_of_ours_is_built_from_its_file_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    path = small(tmp_path)
    for found in (network(path), network(path, "conv2"), network(path, build("conv2", width=0.1, num_classes=7))):
        assert found.about == ABOUT | {"mean": [0.5] * 3}
        assert not found.training
        assert fingerprint(found) == fingerprint(hide(build("conv2", width=0.1, num_classes=7), 0.1))
        torch.set_rng_state(before)
    network(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("about", "net", "said"), [
    ({"net": "hostile.net"}, None, "gives no net: it says net='hostile.net', and only conv2, "),
    ({"net": ["conv2"]}, None, "gives no net: "),
    ({"width": 1e4}, None, r"gives no net: its conv2 would have \d+ weights, more than 250000000; name the net"),
    ({"width": "wide"}, None, "gives no net: "),
    ({"num_classes": 10**30}, None, "gives no net: "),
    ({"width": 0.2}, None, r"of another net, net=conv2, .*: layer '0' is \[6, 3, 3, 3\] there, \[12, 3, 3, 3\] here"),
    ({}, "conv4", "gives no net: it is of net 'conv2', not 'conv4'"),
])  # fmt: skip
def test_a_file_that_says_what_cannot_be_built_is_refused(about: Any, net: Any, said: str, tmp_path: Path) -> None:
    path = small(tmp_path, **about)
    with pytest.raises(SubnetworkError, match=f"^{path} .*{said}"):
        network(path, net)


WRONG = (None, -1, 1.5, float("nan"), 10**400, "os.abort", [[]], {}, ["0", "4"], [None])
FORGED: dict[str, Callable[[dict[str, Any], dict[str, Tensor], Any], object]] = {
    "another dtype of masks": lambda found, t, _: t.update({"mask/0": t["mask/0"].to(torch.int8)}),
    "another shape of masks": lambda found, t, _: t.update({"mask/0": t["mask/0"][None]}),
    "another code of masks": lambda found, t, wrong: t["mask/0"].view(-1)[: 3 + WRONG.index(wrong)].fill_(255),
    "no mask": lambda found, t, _: t.pop("mask/0"),
    "an unknown buffer": lambda found, t, _: t.update({"buffer/mine": torch.zeros(3)}),
    "another dtype of buffers": lambda found, t, _: t.update({"buffer/1.running_mean": torch.zeros(5).double()}),
    **{key: lambda found, _, wrong, key=key: found.update({key: wrong}) for key in ("format", "fingerprint", "dtype")},
    **{
        key: lambda found, _, wrong, key=key: found["hiding"].update({key: wrong})
        for key in ("density", "distribution", "scaled", "weight_seed", "skip", "masker")
    },
}


@pytest.mark.parametrize("case", FORGED)
def test_what_cannot_be_is_one_error_that_names_the_file_even_under_its_checksum(case: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    original = path.read_bytes()
    for wrong in WRONG:

        def forge(tensors: dict[str, Tensor], metadata: dict[str, str], wrong: object = wrong) -> None:
            found = json.loads(metadata["subnetwork"])
            FORGED[case](found, tensors, wrong)
            metadata["subnetwork"] = json.dumps(found | {"checksum": _checksum(found, tensors)})

        path.write_bytes(original)
        rewrite(path, forge)
        with pytest.raises(SubnetworkError, match=f"^{path} (cannot be read|does not fit this Sequential): "):
            load_subnetwork(net(), path)


def test_a_file_that_is_cut_off_anywhere_or_has_a_flipped_bit_is_refused_or_as_good(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data, state = path.read_bytes(), load_subnetwork(net(), path).state_dict()
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(SubnetworkError, match=f"^{path} "):
            load_subnetwork(net(), path)
    noticed = 0
    for bit in random.Random(0).sample(range(8 * len(data)), 100):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            loaded = load_subnetwork(net(), path)
        except SubnetworkError:
            noticed += 1
        else:
            assert loaded._lit_hidden == hide(net(), 0.3)._lit_hidden
            assert same(loaded.state_dict(), state)
    assert noticed > 97
