"""What came after edge-popup: each rule by its formula on three layers; each subnetwork travels and reveals."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training import TINY

from lit_hidden import build, hide, reveal
from lit_hidden.callbacks.biprop import Biprop
from lit_hidden.callbacks.gates import Gates, Sparsity
from lit_hidden.callbacks.global_topk import GlobalPopup, GlobalTopK
from lit_hidden.callbacks.iterand import IteRand
from lit_hidden.callbacks.signed import SignedSupermask
from lit_hidden.code import spec
from lit_hidden.distributions import draw
from lit_hidden.edge_popup import EdgePopup, maskers, original_weight
from lit_hidden.engine.network import make_data, network
from lit_hidden.engine.train import train
from lit_hidden.inspection import inspect
from lit_hidden.run import Run

RUN = Run(density=0.4, epochs=1, **TINY)


def three(masker: Any, distribution: str = "kaiming_normal", density: float = 0.4) -> tuple[nn.Module, list[Any]]:
    """A net of three layers, and (random weight, masker) of each."""
    layers = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
    net = hide(nn.Sequential(*layers), density, distribution=distribution, masker=masker, seed=3)
    return net, [(original_weight(net, name).detach(), one) for name, one in maskers(net).items()]


def by_hand(used: list[Tensor], images: Tensor, targets: Tensor) -> list[Tensor]:
    """The gradients of the loss by the weights that are used."""
    leaves = [weight.detach().requires_grad_() for weight in used]
    hidden = F.linear(F.linear(images, leaves[0]).relu(), leaves[1]).relu()
    return list(torch.autograd.grad(F.cross_entropy(F.linear(hidden, leaves[2]), targets), leaves))


def learned(net: nn.Module, used: list[Tensor], slopes: list[Tensor]) -> None:
    """Check answers, and that scores get `dL/dw' slope`."""
    torch.manual_seed(1)
    images, targets = torch.randn(8, 6), torch.arange(8) % 3
    torch.manual_seed(2)
    answers = net(images)
    hidden = F.linear(F.linear(images, used[0]).relu(), used[1]).relu()
    torch.testing.assert_close(answers, F.linear(hidden, used[2]))
    F.cross_entropy(answers, targets).backward()
    gradients = by_hand(used, images, targets)
    for masker, gradient, slope in zip(maskers(net).values(), gradients, slopes, strict=True):
        torch.testing.assert_close(masker.scores.grad, gradient * slope)


def test_biprop_uses_signs_times_the_mean_size_of_the_weights_that_are_kept():
    net, layers = three(Biprop)
    used = []
    for weight, masker in layers:
        keep = masker.scores.abs().flatten().sort(descending=True).indices[: masker.keep]
        flat = torch.zeros(weight.numel())
        flat[keep] = weight.flatten()[keep].sign() * weight.flatten()[keep].abs().sum() / len(keep)
        used.append(flat.view_as(weight))
    learned(net, used, [weight * masker.scores.detach().sign() for weight, masker in layers])
    for layer, expected in zip(reveal(net)[::2], used, strict=True):
        torch.testing.assert_close(layer.weight.detach(), expected)
        assert len(layer.weight.abs().unique()) == 2


def test_on_signed_constants_biprop_is_edge_popup():
    images = torch.randn(8, 6)
    torch.testing.assert_close(
        three(Biprop, "signed_constant")[0](images), three(EdgePopup, "signed_constant")[0](images)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_biprop_has_finite_gains_and_gradients_where_all_is_0_and_where_the_sum_of_sizes_is_beyond_half_precision(
    dtype,
):
    for fill, gain in ((0.0, 0.0), (100.0, 100.0)):
        net = nn.Linear(50, 40, bias=False)
        nn.init.constant_(net.weight, fill)
        hide(net, 0.5, distribution=None, masker=Biprop).to(dtype)
        assert net.weight.unique().tolist() == sorted({0.0, gain})
        (net.weight * 0.01).sum().backward()
        assert net.parametrizations.weight[0].scores.grad.isfinite().all()


class Apart(nn.Module):
    """Two experts, whose weight is `(experts, in, out)`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 5, 40))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x.expand(2, *x.shape), self.weight).sum(0)


def apart(masker: Any = EdgePopup, distribution: str = "signed_constant") -> Any:
    net = nn.Sequential(nn.Linear(6, 5), Apart(), nn.Linear(40, 30))
    return SimpleNamespace(net=hide(net, 0.4, distribution=distribution, masker=masker))


def test_iterand_draws_experts_anew_as_they_were_drawn():
    module, callback = apart(), IteRand(every=1, rate=1.0)
    before = {name: original_weight(module.net, name).clone() for name in maskers(module.net)}
    callback.on_run_start(None, module, None, None)
    callback.on_train_batch_start(SimpleNamespace(global_step=0), module)
    for name, weight in before.items():
        assert original_weight(module.net, name).abs().equal(weight.abs()), name
        assert not original_weight(module.net, name).equal(weight), name


def test_global_top_k_gives_experts_their_share():
    module = apart(GlobalPopup)
    GlobalTopK().on_run_start(None, module, None, None)
    shares = [float(masker.mask().float().mean()) for masker in maskers(module.net).values()]
    assert shares == pytest.approx([0.4] * 3, abs=0.15)


def test_a_signed_supermask_keeps_turns_and_drops_by_two_thresholds():
    net, layers = three(SignedSupermask)
    used, kept = [], 0
    for weight, masker in layers:
        edge = 0.6 / weight.shape[1] ** 0.5
        ternary = [1.0 if s > edge else -1.0 if s < -edge else 0.0 for s in masker.scores.flatten().tolist()]
        used.append(weight * torch.tensor(ternary).view_as(weight))
        assert masker.mask().equal(used[-1] != 0)
        kept += int(masker.mask().sum())
    ratios = [part / weight for (weight, _), part in zip(layers, used, strict=True)]
    assert set(torch.cat([ratio.flatten() for ratio in ratios]).tolist()) == {-1, 0, 1}
    assert 0.2 < kept / sum(weight.numel() for weight, _ in layers) < 0.6  # 40% at the start
    learned(net, used, [weight for weight, _ in layers])


def test_gates_follow_the_exact_gradient_through_their_noise_and_pay_for_open_ones():
    net, layers = three(Gates)
    torch.manual_seed(2)  # as in `learned`
    gates = [0.5 + masker.scores.detach() + 0.5 * torch.randn(weight.shape) for weight, masker in layers]
    used = [weight * gate.clamp(0, 1) for (weight, _), gate in zip(layers, gates, strict=True)]
    inside = [weight * ((gate > 0) & (gate < 1)) for (weight, _), gate in zip(layers, gates, strict=True)]
    learned(net, used, inside)
    before = [masker.scores.grad.clone() for _, masker in layers]
    Sparsity(7.0).on_before_optimizer_step(None, SimpleNamespace(net=net), None)
    scores = [masker.scores.detach().requires_grad_() for _, masker in layers]
    flat = torch.cat([score.flatten() for score in scores])
    penalty = 7 * torch.distributions.Normal(flat, 0.5).cdf(torch.tensor(-0.5)).neg().add(1).mean()
    for (_, masker), old, added in zip(layers, before, torch.autograd.grad(penalty, scores), strict=True):
        torch.testing.assert_close(masker.scores.grad - old, added, rtol=1e-4, atol=1e-5)


def test_gates_are_0_or_1_at_test_and_begin_at_their_density():
    net, layers = three(Gates)
    plain = [weight * (masker.scores.detach() > 0) for weight, masker in layers]
    assert all(used.equal(layer.weight.detach()) for used, layer in zip(plain, net.eval()[::2], strict=True))
    wide = Gates(torch.empty(300, 900), 0.2)
    above = 0.5 + wide.scores.detach() + 0.5 * torch.randn(300, 900) > 0.5
    assert above.float().mean().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("scaled", [True, False])
def test_global_top_k_has_one_threshold_for_all_layers(scaled):
    net, layers = three(GlobalPopup)
    with torch.no_grad():
        for factor, (_, masker) in enumerate(layers):
            masker.scores.mul_(1 + factor)
    callback = GlobalTopK(scaled)
    callback.on_run_start(None, SimpleNamespace(net=net), None, None)
    sizes = [masker.scores.detach().abs() * (weight.shape[1] ** 0.5 if scaled else 1) for weight, masker in layers]
    ranked = torch.cat([size.flatten() for size in sizes]).sort(descending=True).values
    keep = len(ranked) - int(0.6 * len(ranked))
    used = [weight * (size >= ranked[keep - 1]) for (weight, _), size in zip(layers, sizes, strict=True)]
    assert sum(int(weight.count_nonzero()) for weight in used) == keep
    assert len({float(weight.count_nonzero() / weight.numel()) for weight in used}) > 1
    learned(net, used, [weight * masker.scores.detach().sign() for weight, masker in layers])


def test_global_top_k_keeps_as_many_at_every_update_and_others_in_each_layer():
    net, layers = three(GlobalPopup)
    module, callback = SimpleNamespace(net=net), GlobalTopK()
    callback.on_run_start(None, module, None, None)
    optimizer = torch.optim.SGD([masker.scores for _, masker in layers], lr=3.0)
    seen = []
    for _ in range(6):
        used = [layer.weight for layer in net[::2]]  # what the layers multiply with
        seen.append(tuple(int(weight.count_nonzero()) for weight in used))
        optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(8, 6)), torch.arange(8) % 3).backward()
        optimizer.step()
        callback.on_train_batch_end(None, module)
    total = sum(weight.numel() for weight, _ in layers)
    assert {sum(counts) for counts in seen} == {total - int(0.6 * total)}
    assert len(set(seen)) > 1


def test_iterand_draws_some_of_the_dropped_weights_anew_before_every_so_manieth_update():
    net, layers = three(EdgePopup)
    before = [weight.clone() for weight, _ in layers]
    scores = [masker.scores.detach().clone() for _, masker in layers]
    callback = IteRand(every=3, rate=0.5)
    callback.on_run_start(None, SimpleNamespace(net=net), None, None)
    for step in (0, 1, 3, 4):
        callback.on_train_batch_start(SimpleNamespace(global_step=step), SimpleNamespace(net=net))
    assert all(weight.equal(old) for (weight, _), old in zip(layers, before, strict=True))
    callback.on_train_batch_start(SimpleNamespace(global_step=2), SimpleNamespace(net=net))
    changed = 0
    for name, (weight, masker), old, score in zip(maskers(net), layers, before, scores, strict=True):
        generator = callback.generator(f"3 {name}")
        fresh = draw(weight.shape, "kaiming_normal", generator)
        chosen = torch.rand(weight.shape, generator=generator) < 0.5
        dropped = masker.scores.abs() < masker.scores.abs().flatten().sort(descending=True).values[masker.keep - 1]
        assert weight.equal(torch.where(chosen & dropped, fresh, old))
        assert masker.scores.equal(score)
        changed += int((weight != old).sum())
    assert 0 < changed < 0.6 * sum(weight.numel() for weight, _ in layers)


TRAVELS = {  # by the file that a run leaves
    "global": (replace(RUN, masker="global_topk.GlobalPopup", callbacks=(spec("global_topk.GlobalTopK"),)),
               "subnetwork"),
    "iterand": (replace(RUN, callbacks=(spec("iterand.IteRand", every=1),)), "scores"),
    "biprop": (replace(RUN, masker="biprop.Biprop", distribution="kaiming_normal"), "subnetwork"),
    "signed": (replace(RUN, masker="signed.SignedSupermask"), "scores"),
    "gates": (replace(RUN, masker="gates.Gates", optimizer="adam", callbacks=(spec("gates.Sparsity", penalty=1.0),)),
              "subnetwork"),
    "both": (replace(RUN, masker="global_topk.GlobalPopup",
                     callbacks=(spec("global_topk.GlobalTopK"), spec("iterand.IteRand", every=1))), "scores"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAVELS)
def test_a_subnetwork_travels_as_a_file_and_reveals(name, tmp_path):
    run, file = TRAVELS[name]
    folder = tmp_path / run.hash
    folder.mkdir()
    result = train(run, folder)
    assert [path.stem for path in folder.glob("*.safetensors")] == [file]
    assert (result["weights_before"] != result["weights_after"]) == (name in ("iterand", "both"))
    net, data = network(run, folder), make_data(run, "data")
    data.setup("test")
    batches = list(data.test_dataloader())
    answers = [net(images) for images, _ in batches]
    right = sum(int((z.argmax(1) == y).sum()) for z, (_, y) in zip(answers, batches, strict=True))
    assert 100 * right / sum(len(y) for _, y in batches) == pytest.approx(result["accuracy"], abs=1e-4)
    state = reveal(copy.deepcopy(net)).state_dict()
    plain = build("conv2", width=0.05, in_channels=1)
    plain.load_state_dict(state)
    assert plain(batches[0][0]).equal(answers[0])
    assert sum(int(weight.count_nonzero()) for weight in state.values()) == result["parameters"]
    signs = [sum(int((sign * weight > 0).sum()) for weight in state.values()) for sign in (1, -1)]
    assert inspect(folder).splitlines()[-1].split()[-4:-2] == [str(count) for count in signs]


def test_a_higher_price_closes_more_gates(tmp_path):
    kept = []
    for penalty in (0.0, 100.0):
        callbacks = (spec("gates.Sparsity", penalty=penalty),)
        folder = tmp_path / str(penalty)
        folder.mkdir()
        run = replace(RUN, masker="gates.Gates", optimizer="adam", lr=0.1, callbacks=callbacks)
        kept.append(train(run, folder)["parameters"])
    assert kept[0] > 2 * kept[1]
