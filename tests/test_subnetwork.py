import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_hidden.edge_popup import EdgePopup, hide, maskers, original_weight, reveal
from lit_hidden.nets import build
from lit_hidden.subnetwork import FixedMask, fingerprint, fix_masks, load_subnetwork, masks, save_subnetwork, used_masks
from lit_hidden.supermask import Supermask

Photograph = Callable[[nn.Module], Any]


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7, bias=False)
    )


class Embedded(nn.Module):
    """Has weights that `hide` does not draw."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.out = nn.Parameter(torch.randn(6)), nn.Linear(6, 3)


def shuffled(model: nn.Module) -> nn.Module:
    """A hidden model as after training: other scores, running statistics that are not the initial ones."""
    with torch.no_grad():
        for masker in maskers(model).values():
            nn.init.normal_(masker.scores)
    model.train()(torch.randn(6, 3, 6, 6) + 1)
    return model.eval()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


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


def test_the_loaded_model_is_hidden_as_the_saved_one_and_its_scores_are_the_bits(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, seed=4, weight_seed=5, skip=["0"]))
    fresh = net()
    fresh.load_state_dict({n: v for n, v in model.state_dict().items() if n.startswith("0.")}, strict=False)
    save_subnetwork(model, tmp_path / "file")
    load_subnetwork(fresh, str(tmp_path / "file"))
    assert fresh._lit_hidden == model._lit_hidden
    for name, mask in masks(model).items():
        assert torch.equal(maskers(fresh)[name].scores, mask.float())
        assert maskers(fresh)[name].keep == int(mask.sum())


def test_a_supermask_comes_back_as_its_most_probable_mask(tmp_path: Path) -> None:
    model = shuffled(hide(net(), 0.3, masker=Supermask))
    expected = {n: m.clone() for n, m in masks(model).items()}
    save_subnetwork(model, tmp_path / "file")
    fresh = load_subnetwork(net(), tmp_path / "file")
    assert {n: m.tolist() for n, m in masks(fresh).items()} == {n: m.tolist() for n, m in expected.items()}
    assert all(isinstance(m, EdgePopup) for m in maskers(fresh).values())
    assert fresh._lit_hidden.masker == "Supermask"
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(fresh.eval()(x), reveal(model)(x))


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
    assert metadata["format"] == "lit_hidden subnetwork 1"
    assert metadata["fingerprint"] == fingerprint(model)
    assert json.loads(metadata["hiding"])["weight_seed"] == 0


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


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_subnetwork(net(), tmp_path / "nowhere")


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


def next_format(path: Path) -> Callable[[], nn.Module]:
    rewrite(path, lambda tensors, metadata: metadata.update(format="lit_hidden subnetwork 2"))
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
    foreign: "{path} is not a subnetwork: format None, expected 'lit_hidden subnetwork 1'",
    next_format: "{path} is not a subnetwork: format 'lit_hidden subnetwork 2', expected 'lit_hidden subnetwork 1'",
    other_layers: "{path} holds masks for ['0', '4']; the model's layers are ['0', '2']",
    other_width: "the mask of 4 has 70 bytes; its 693 weights take 87: "
    "the net has another width or image size than the saved one",
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


def test_a_net_whose_masks_happen_to_have_as_many_bytes_is_told_apart_by_its_weights(
    tmp_path: Path, photograph: Photograph
) -> None:
    path = saved(tmp_path)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(7, 80, bias=False))
    theirs, mine = fingerprint(hide(net(), 0.3)), fingerprint(hide(copy.deepcopy(model), 0.3))
    before = photograph(model)
    assert refusal(lambda: load_subnetwork(model, path)) == (
        f"{path} was saved over other weights: their fingerprint begins {theirs[:12]}, the "
        f"model's {mine[:12]}; build the net as it was, embeddings and all"
    )
    assert photograph(model) == before


def test_other_embeddings_are_noticed_and_the_model_stays_as_it_was(tmp_path: Path, photograph: Photograph) -> None:
    model, other = hide(Embedded()), Embedded()
    path = save_subnetwork(model, tmp_path / "file")
    expected = fingerprint(hide(copy.deepcopy(other)))
    before = photograph(other)
    assert refusal(lambda: load_subnetwork(other, path)) == (
        f"{path} was saved over other weights: their fingerprint begins {fingerprint(model)[:12]}, the "
        f"model's {expected[:12]}; build the net as it was, embeddings and all"
    )
    assert photograph(other) == before


def test_a_hidden_model_cannot_be_loaded_into(tmp_path: Path, photograph: Photograph) -> None:
    path, model = saved(tmp_path), hide(net(), 0.1)
    before = photograph(model)
    message = "already hidden: 0, 4; reveal(model) first, or hide a fresh model"
    assert refusal(lambda: load_subnetwork(model, path)) == message
    assert photograph(model) == before


def test_the_weights_used_are_those_of_hidden_layers_alone_and_those_of_the_masks() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Linear(4, 3))
    used = used_masks(hide(net, 0.4, skip=["1"]))
    assert list(used) == ["0", "2"]
    for name, mask in masks(net).items():
        assert torch.equal(used[name], mask)


# --- the weights of a subnetwork learn -------------------------------------------------------------------


def stepped(model: nn.Module, decay: float = 0.0, steps: int = 4) -> nn.Module:
    """Train what wants a gradient, with momentum."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(wanted, lr=0.1, momentum=0.9, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 6, 6)).pow(2).mean().backward()
        optimizer.step()
    return model


def test_fixed_masks_give_the_logits_there_were_from_the_weights_there_were() -> None:
    model, x = shuffled(hide(net(), 0.3)), torch.randn(4, 3, 6, 6)
    logits, kept, weights = model(x), masks(model), fingerprint(model)
    assert fix_masks(model) is model
    assert torch.equal(model(x), logits)
    assert fingerprint(model) == weights
    assert all(torch.equal(masks(model)[name], mask) for name, mask in kept.items())


def test_all_that_wanted_a_gradient_before_hiding_learns_and_nothing_else() -> None:
    model = net()
    model[1].bias.requires_grad_(False)
    fix_masks(hide(model))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {
        "0.bias": True,
        "0.parametrizations.weight.original": True,
        "1.weight": True,
        "1.bias": False,
        "4.parametrizations.weight.original": True,
    }
    alone = fix_masks(hide(nn.Linear(3, 2)))
    assert [p.requires_grad for p in alone.parameters()] == [True, True]


def test_attention_weights_learn_too() -> None:
    model = fix_masks(hide(nn.MultiheadAttention(8, 2)))
    assert list(maskers(model)) == ["in_proj_weight", "out_proj"]
    assert all(p.requires_grad for p in model.parameters())


def test_the_gradient_of_a_kept_weight_is_the_products_and_of_a_dropped_one_exactly_0() -> None:
    layer, x = fix_masks(hide(nn.Linear(6, 4, bias=False), 0.4)), torch.randn(5, 6)
    effective, kept = layer.weight.detach().requires_grad_(), masks(layer)["weight"]
    (x @ effective.T).pow(2).sum().backward()
    layer(x).pow(2).sum().backward()
    original = original_weight(layer, "weight")
    torch.testing.assert_close(original.grad, effective.grad * kept)
    assert (original.grad[kept] != 0).all()
    assert (original.grad[~kept] == 0).all()


def test_what_is_dropped_stays_as_it_was_and_what_is_kept_is_trained() -> None:
    model = hide(net(), 0.3)
    before = {name: original_weight(model, name).clone() for name in maskers(model)}
    stepped(fix_masks(model))
    for name, kept in masks(model).items():
        after = original_weight(model, name)
        assert torch.equal(after[~kept], before[name][~kept])
        assert (after[kept] != before[name][kept]).any()
        assert torch.equal(used_masks(model)[name], kept)


def test_weight_decay_shrinks_what_is_dropped_but_no_product_knows() -> None:
    model = fix_masks(hide(net(), 0.3))
    dropped = ~masks(model)["4"]
    before = original_weight(model, "4").clone()
    stepped(model, decay=0.5)
    after = original_weight(model, "4")[dropped]
    assert (after.abs() < before[dropped].abs()).all()
    assert (maskers(model)["4"](original_weight(model, "4"))[dropped] == 0).all()


def test_the_training_is_that_of_a_plain_net_whose_dropped_weights_are_set_to_0_at_every_step() -> None:
    model = hide(net(), 0.3)
    plain, kept = reveal(copy.deepcopy(model)), masks(model)
    fix_masks(model)
    for step in range(4):
        for trained in (model, plain):
            torch.manual_seed(step)
            stepped(trained, steps=1)
        with torch.no_grad():
            for name, mask in kept.items():
                plain.get_submodule(name).weight.mul_(mask)
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_a_supermask_is_fixed_at_its_most_probable_mask() -> None:
    model, x = shuffled(hide(net(), 0.3, masker=Supermask)), torch.randn(4, 3, 6, 6)
    baked = reveal(copy.deepcopy(model))(x)
    assert torch.equal(fix_masks(model)(x), baked)


def test_reveal_bakes_the_trained_weights() -> None:
    model, x = stepped(fix_masks(hide(net(), 0.3))).eval(), torch.randn(4, 3, 6, 6)
    logits, kept = model(x), masks(model)
    reveal(model)
    assert torch.equal(model(x), logits)
    assert not model[4].weight[~kept["4"]].any()
    assert not maskers(model)


def test_fixing_twice_is_fixing_once_and_a_state_brings_its_mask() -> None:
    model = fix_masks(hide(net(), 0.3))
    kept = {name: mask.clone() for name, mask in masks(model).items()}
    fix_masks(model)
    other = fix_masks(hide(net(), 0.3, score_seed=5))
    other.load_state_dict(model.state_dict())
    for name, mask in kept.items():
        assert torch.equal(masks(model)[name], mask)
        assert torch.equal(masks(other)[name], mask)


def test_a_fixed_mask_says_its_density() -> None:
    masker = FixedMask(torch.tensor([[True, False, False, False]]))
    assert masker.density == 0.25
    assert repr(masker) == "FixedMask(density=0.25)"


def test_a_plain_model_has_no_masks_to_fix(photograph: Photograph) -> None:
    model = net()
    before = photograph(model)
    message = "nothing is hidden in this Sequential; hide or load_subnetwork comes first"
    assert refusal(lambda: fix_masks(model)) == message
    assert photograph(model) == before
