"""What `hide` finds out about parameters that no type explains: gains, tables, transposed and stacked weights, RNNs."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.edge_popup import EdgePopup, hide, maskers, original_weight, reveal
from lit_hidden.subnetwork import fingerprint, load_subnetwork, save_subnetwork
from lit_hidden.supermask import Supermask, fix_masks


class Block(nn.Module):
    """Images `(B, 3, S, S)` with everything that a vision transformer multiplies, adds and looks up by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out, self.act = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 24), nn.Linear(8, 5), nn.PReLU()
        self.token, self.beta = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.zeros(1, 1, 8))
        self.places, self.scale = nn.Parameter(torch.randn(1, 17, 8)), nn.Parameter(torch.full((8,), 1e-6))
        self.skip_gain, self.temperature = nn.Parameter(torch.zeros(())), nn.Parameter(torch.full((2, 1, 1), 0.5))
        self.logit_scale = nn.Parameter(torch.full((2, 1, 1), 0.1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places[:, : x.shape[1] + 1]
        q, k, v = self.qkv(x).view(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.temperature * self.logit_scale.exp()).softmax(-1)
        branch = (weights @ v).transpose(1, 2).flatten(2)
        x = torch.addcmul(self.beta, self.scale, branch) * self.skip_gain
        return self.out(self.act(x).mean(1))  # type: ignore[no-any-return]


def test_gains_become_1_tables_are_drawn_and_all_else_stays() -> None:
    net, state = Block(), torch.get_rng_state()
    before = copy.deepcopy(net)
    hide(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert (net.scale == 1).all()
    assert net.skip_gain == 1
    for name in ("beta", "temperature", "logit_scale", "act.weight"):
        assert torch.equal(net.get_parameter(name), before.get_parameter(name)), name
    for table in (net.token, net.places):
        assert 0.01 < table.std() < 0.03
    net(torch.randn(2, 3, 32, 32)).pow(2).sum().backward()
    assert all(masker.scores.grad.any() for masker in maskers(net).values())
    other = hide(Block())  # made from another random state
    assert fingerprint(other) == fingerprint(net)
    kept = hide(copy.deepcopy(before), distribution=None)
    assert torch.equal(kept.token, before.token)
    assert torch.equal(hide(copy.deepcopy(before), roles={}).scale, before.scale)


GATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {  # of input, branch and gate
    "tanh": lambda x, y, g: x + y * g.tanh(), "mix": lambda x, y, g: (1 - g) * x + g * y,
    "minus": lambda x, y, g: x - g * y, "diagonal": lambda x, y, g: x + y @ g.diag(),
    "number": lambda x, y, g: x + y * g[0].item(), "exp": lambda x, y, g: x + y * g.exp(),
    "sigmoid": lambda x, y, g: x + y * g.sigmoid(), "bias": lambda x, y, g: x + y + g,
}  # fmt: skip


class Gated(nn.Module):
    def __init__(self, gate: str, start: float) -> None:
        super().__init__()
        self.branch, self.out, self.gate = nn.Linear(8, 8), nn.Linear(8, 3), gate
        self.g = nn.Parameter(torch.full((8,), start))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(GATES[self.gate](x, self.branch(x), self.g))
        return logits


@pytest.mark.parametrize("start", [0.0, 1e-6])
@pytest.mark.parametrize("gate", GATES)
def test_what_shuts_a_branch_becomes_1_whatever_is_done_with_it_and_nothing_else_does(gate: str, start: float) -> None:
    hide(net := Gated(gate, start))
    assert (net.g == (start if gate in ("exp", "sigmoid", "bias") else 1)).all()
    net(torch.randn(4, 8)).square().sum().backward()
    sizes = [masker.scores.grad.norm() for masker in maskers(net).values()]
    assert min(sizes) > 1e-3 * max(sizes)


def test_two_gates_in_series_open_together() -> None:
    class Series(Gated):
        def __init__(self) -> None:
            super().__init__("tanh", 0.0)
            self.h = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.out(x + self.branch(x) * self.g.tanh() * self.h.tanh())
            return logits

    hide(net := Series())
    assert (net.g == 1).all()
    assert net.h == 1


@pytest.mark.parametrize(("name", "how"), [
    ("test_convnext2", {}), ("edgenext_xx_small", {}), ("test_nfnet", {}),
    ("poolformer_s12", {}), ("resmlp_12_224", {"img_size": 64}),
    ("cait_xxs24_224", {"img_size": 64, "depth": 3}),
])  # fmt: skip
def test_every_hidden_layer_of_timms_nets_with_gains_matters(name: str, how: dict[str, Any]) -> None:
    import timm

    net = timm.create_model(name, num_classes=5, **how).eval()
    hide(net, distribution="kaiming_normal")
    x = torch.randn(2, 3, 64, 64)
    logits = net(x)
    (logits - torch.randn_like(logits)).pow(2).sum().backward()
    sizes = {n: float(m.scores.grad.norm()) for n, m in maskers(net).items()}
    assert min(sizes.values()) > 1e-5 * max(sizes.values())
    with torch.no_grad():
        maskers(net)[list(sizes)[1]].scores.uniform_(-1, 1)
        assert float((net(x) - logits).norm()) > 1e-4 * float(logits.norm())


class Conv1D(nn.Module):
    """As in transformers: the weight is `(in, out)`."""

    def __init__(self, out: int, inside: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inside, out)), nn.Parameter(torch.randn(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


@pytest.mark.parametrize("masker", [EdgePopup, Supermask])
def test_a_transposed_weight_is_hidden_as_nn_linears(masker: Any) -> None:
    net, linear = (hide(nn.Sequential(nn.Linear(5, 6), layer), 0.3, masker=masker, distribution="xavier_normal")
                   for layer in (Conv1D(4, 6), nn.Linear(6, 4)))  # fmt: skip
    assert torch.equal(original_weight(net, "1"), original_weight(linear, "1").T)
    assert torch.equal(maskers(net)["1"].scores, maskers(linear)["1"].scores.T)
    assert torch.equal(maskers(net)["1"].mask(), maskers(linear)["1"].mask().T)
    assert (net[1].bias == 0).all()


class Experts(nn.Module):
    def __init__(self, order: str) -> None:
        super().__init__()
        self.order, self.router = order, nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.randn(*[{"e": 3, "o": 4, "i": 6}[axis] for axis in order]))

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x).softmax(-1)
        if self.order == "eoi":  # as Mixtral: one expert after another
            return sum(share[:, e : e + 1] * F.linear(x, w) for e, w in enumerate(self.weight))  # type: ignore[return-value]
        if self.order == "eio":  # as GPT-OSS
            return torch.einsum("ebo,be->bo", torch.bmm(x.expand(3, *x.shape), self.weight), share)
        return torch.einsum(f"bi,{self.order},be->bo", x, self.weight, share)


@pytest.mark.parametrize("order", ["eoi", "eio"])
def test_stacked_experts_are_drawn_by_their_own_fan_in(order: str) -> None:
    net = hide(Experts(order), distribution="signed_constant")
    assert net._lit_hidden.arguments["roles"] == {"weight": order}
    assert torch.allclose(original_weight(net, "weight").abs(), torch.tensor((2 / 6) ** 0.5))
    scores = maskers(net)["weight"].scores
    assert 0.8 * 6**-0.5 < scores.abs().max() < 6**-0.5
    net(torch.randn(5, 6)).sum().backward()
    assert all(scores.grad.flatten(1).any(1))
    twin = [hide(Experts(o)) for o in ("eoi", "eio")]
    assert torch.equal(original_weight(twin[0], "weight"), original_weight(twin[1], "weight").mT)


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **how: Any) -> None:
        super().__init__()
        self.rnn = kind(5, 6, 2, bidirectional=True, batch_first=True, **how)
        self.out = nn.LazyLinear(3)
        self(torch.ones(1, 2, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].sum(1))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("kind", "how"), [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.LSTM, {"proj_size": 2})])
def test_recurrent_layers_are_masked_in_every_pass_and_copy_cast_train_and_reveal(
    kind: Any, how: dict[str, Any], tmp_path: Path
) -> None:
    net, x = hide(Recurrent(kind, **how), 0.4), torch.randn(2, 4, 5)
    plain = Recurrent(kind, **how)
    with torch.no_grad():  # another way: a plain layer with the masked weights
        for name, parameter in plain.named_parameters():
            module, _, attribute = name.rpartition(".")
            parameter.copy_(getattr(net.get_submodule(module), attribute))
    torch.testing.assert_close(net(x), plain(x))
    net(x).pow(2).sum().backward()
    assert all(masker.scores.grad.any() for masker in maskers(net).values())
    with torch.no_grad():
        for masker in maskers(net).values():
            masker.scores.uniform_(-1, 1)
    expected, path = net(x), save_subnetwork(net, tmp_path / "file")
    assert not torch.equal(expected, plain(x))
    assert torch.equal(load_subnetwork(Recurrent(kind, **how), path)(x), expected)
    assert torch.equal(copy.deepcopy(net.double().float())(x), expected)
    assert torch.equal(fix_masks(copy.deepcopy(net))(x), expected)
    back = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(net))))
    assert torch.equal(back(x), expected)
    assert torch.equal(reveal(back)(x), expected)
    assert type(back.rnn) is kind
    assert torch.equal(pickle.loads(pickle.dumps(reveal(net)))(x), expected)
    assert type(net.rnn) is kind


@pytest.mark.parametrize(("layer", "x", "names"), [
    (lambda: nn.LSTMCell(4, 3), torch.randn(2, 4), ["weight_ih", "weight_hh"]),
    (lambda: nn.Bilinear(4, 4, 3), torch.randn(2, 4), ["weight"]),
    (lambda: nn.EmbeddingBag(5, 4), torch.tensor([[1, 2], [3, 4]]), ["weight"]),
])  # fmt: skip
def test_cells_bilinear_layers_and_if_wished_embeddings(
    layer: Callable[[], nn.Module], x: Tensor, names: list[str]
) -> None:
    net = hide(layer(), embeddings=True, distribution="kaiming_normal")
    assert list(maskers(net)) == names
    out = net(x, x) if isinstance(net, nn.Bilinear) else net(x)
    (out[0] if isinstance(out, tuple) else out).pow(2).sum().backward()
    assert maskers(net)[names[0]].scores.grad.any()


def test_what_is_left_random_is_said_and_what_a_model_does_may_be_told(tmp_path: Path) -> None:
    text = nn.Sequential(nn.Embedding(20, 4, padding_idx=0), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"only 17% of the matrix weights are hidden; not: '0'\."):
        hide(text)
    assert (text[0].weight[0] == 0).all()
    path = save_subnetwork(text, tmp_path / "file")
    again = load_subnetwork(nn.Sequential(nn.Embedding(20, 4, padding_idx=0), nn.Linear(4, 4)), path)
    assert fingerprint(again) == fingerprint(text)
    mixed = nn.ModuleDict({"a": nn.Linear(4, 4), "b": Conv1D(3, 4)})  # has no forward
    with (
        pytest.warns(UserWarning, match="'b', 'b.bias': not known what ModuleDict does"),
        pytest.warns(match="only 57%"),
    ):
        hide(mixed)
    fresh = nn.ModuleDict({"a": nn.Linear(4, 4), "b": Conv1D(3, 4)})
    assert list(maskers(hide(fresh, roles={"b": "io"}))) == ["a", "b"]


def test_roles_of_some_parameters_do_not_silence_the_share() -> None:
    with pytest.warns(UserWarning, match="only 17% of the matrix weights"):
        hide(nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 4)), roles={})


class Kernel(nn.Module):
    def __init__(self, view: Callable[[Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.conv, self.kernel, self.view = nn.Conv2d(3, 6, 1), nn.Parameter(torch.randn(shape)), view

    def forward(self, images: Tensor) -> Tensor:
        kernel = self.view(self.kernel)
        return F.conv2d(self.conv(images), kernel, groups=6 // kernel.shape[1])


@pytest.mark.parametrize(("view", "shape", "role"), [
    (lambda k: k.permute(3, 2, 0, 1), (3, 3, 6, 8), "iiio"),
    (lambda k: k.view(8, 6, 3, 3), (8, 54), "oi"),
    (lambda k: k.flatten(0, 1), (6, 2, 1, 3, 3), "ooiii"),
    (lambda k: k, (1, 6, 3, 3), "oiii"),
    (lambda k: k[:, None, None, None], (6,), "gain"),
    (lambda k: k[None, None, None].expand(6, -1, -1, -1), (3,), None),
])  # fmt: skip
def test_the_units_of_a_convolutions_weight_are_found_in_any_layout(view: Any, shape: Any, role: Any) -> None:
    net = hide(Kernel(view, *shape))
    assert net._lit_hidden.arguments.get("roles", {}).get("kernel") == role
