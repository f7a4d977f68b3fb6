"""Measuring swaps: by hand on a linear net, against brute force, and without a trace in the training."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_hidden.callbacks.swaps import KINDS, RATES, Probe, draw_pair, first_swap, measure, summary
from lit_hidden.code import spec
from lit_hidden.edge_popup import EdgePopup, hide, maskers, original_weight
from lit_hidden.engine.train import train
from lit_hidden.run import Run
from lit_hidden.selection import top_k_mask

TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 300, "batch_size": 64, "density": 0.4}
PROBED = Run(epochs=2, callbacks=(spec("swaps.Swaps", updates=4), spec("trace.Trace", updates=100)), **TINY)
NAMES = ("step", "kind", "layer", "rate", "swaps", "flips", "same_unit", "predicted", "measured")
SINGLE = ("first", "pair", "unit")


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """The folder and the result of PROBED, and the scores and gradients at each measurement."""
    folder, real, seen = tmp_path_factory.mktemp("probed"), Probe.__init__, []

    def see(self, net, *batch):
        real(self, net, *batch)
        scores = {name: masker.scores.detach().double().numpy().copy() for name, masker in maskers(net).items()}
        seen.append((scores, {name: gradient.numpy().copy() for name, gradient in self.gradient.items()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Probe, "__init__", see)
        result = train(PROBED, folder)
    return folder, result, seen


def table(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "swaps.npz") as arrays:
        assert tuple(arrays.files) == NAMES
        return dict(arrays)


def small_net(*, smooth: bool = False) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    between = nn.Softplus if smooth else nn.ReLU
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False), between(), nn.Flatten(), nn.Linear(80, 7, bias=False), between(),
        nn.Linear(7, 4, bias=False),
    )  # fmt: skip
    return hide(net, 0.5, distribution="kaiming_normal"), torch.randn(20, 2, 6, 6), torch.randint(4, (20,))


# --- the change of the loss ------------------------------------------------------------------------------


def test_the_change_of_a_linear_nets_loss_is_the_one_worked_out_by_hand():
    # Chosen are |0.9|, |0.8| and |0.7|: logits (x0, -x0 + x1) of weights (1, -1, 1) and (-1, 1, 1).
    net = hide(nn.Sequential(nn.Linear(3, 2, bias=False)), 0.5)
    with torch.no_grad():
        maskers(net)["0"].scores.copy_(torch.tensor([[0.9, 0.1, -0.3], [-0.8, 0.7, 0.2]]))
        original_weight(net, "0").copy_(torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]]))
    x, label = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([0])
    probe = Probe(net, x, label)
    assert probe.mask["0"].tolist() == [[True, False, False], [True, True, False]]
    z = np.array([2.0, -2.0 + 1.0])
    assert probe.loss == pytest.approx(np.log(np.exp(z).sum()) - z[0], abs=1e-15)
    p = np.exp(z) / np.exp(z).sum()
    price = (p - [1, 0])[:, None] * np.array([[2.0, -1.0, 0.5], [-2.0, 1.0, 0.5]])  # dL/dlogit * x * w
    np.testing.assert_allclose(probe.price["0"], price, rtol=1e-14)
    np.testing.assert_allclose(probe.gradient["0"], price * [[1, 1, -1], [-1, 1, 1]], rtol=1e-14)
    mask = torch.tensor([[True, False, True], [True, False, False]])  # (0, 2) for (1, 1)
    after = np.array([2.0 + 0.5, -2.0])
    change = np.log(np.exp(after).sum()) - after[0] - probe.loss
    predicted, measured = probe.change({"0": mask})
    assert measured == pytest.approx(change, rel=1e-13)
    assert predicted == pytest.approx(price[0, 2] - price[1, 1], rel=1e-14)
    assert probe.change({"0": probe.mask["0"]}) == (0.0, 0.0), "every change is from the net as it is"


def test_swaps_are_measured_on_the_masked_net_whole_layers_and_all_layers_alike():
    net, images, labels = small_net()
    probe = Probe(net, images, labels)
    torch.manual_seed(1)
    masks = {name: top_k_mask(torch.randn(mask.shape), int(mask.sum())) for name, mask in probe.mask.items()}
    for names in (["0"], ["5"], ["3", "0"], ["0", "3", "5"]):
        weight = {
            name: original_weight(net, name).double() * (masks if name in names else probe.mask)[name] for name in masks
        }
        z = F.conv2d(images.double(), weight["0"]).relu().flatten(1)
        loss = F.cross_entropy(F.linear(F.linear(z, weight["3"]).relu(), weight["5"]), labels).item()
        assert probe.change({name: masks[name] for name in names})[1] == pytest.approx(loss - probe.loss, abs=1e-14)


def test_it_is_measured_in_float64(probed):
    # Weights of a millionth, in a smooth net: first order is all there is, and float32 would see nothing of it.
    net, images, labels = small_net(smooth=True)
    with torch.no_grad():
        original_weight(net, "0").mul_(1e-6)
    rows = [dict(zip(NAMES, row, strict=True)) for row in measure(Probe(net, images, labels), 0, (1e5, 1e6, 1e7))]
    rows = [row for row in rows if row["layer"] == 0 and KINDS[row["kind"]] in SINGLE]
    assert len(rows) > 3
    for row in rows:
        assert abs(row["predicted"]) < 1e-7
        assert row["measured"] == pytest.approx(row["predicted"], rel=1e-3)
    # Differences of float32 losses of about 2 would be multiples of 2^-23.
    measured = table(probed[0])["measured"] * 2**23
    assert (np.abs(measured - np.round(measured)) > 1e-3).mean() > 0.9


# --- which edges swap ------------------------------------------------------------------------------------


def chosen_by_sorting(scores, keep):
    order = np.argsort(np.abs(scores), kind="stable")
    mask = np.zeros(len(scores), bool)
    mask[order[len(scores) - keep :]] = True
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_the_first_swap_is_the_first_of_all_crossings(seed):
    random = np.random.default_rng(seed)
    n, keep = int(random.integers(2, 40)), 0
    keep = int(random.integers(1, n))
    scores = random.normal(size=n).astype(np.float32).astype(float)
    gradient = random.normal(size=n) * random.choice([0, 0.01, 1, 30], size=n)
    mask = chosen_by_sorting(scores, keep)
    crossings = []  # |s_i - r g_i| = |s_j - r g_j|, where the edge outside goes on to be the larger one
    for i, j in product(np.flatnonzero(~mask), np.flatnonzero(mask)):
        for sign in (1, -1):
            if gradient[i] != sign * gradient[j]:
                rate = (scores[i] - sign * scores[j]) / (gradient[i] - sign * gradient[j])
                if rate > 0:
                    crossings.append((rate, i, j))
    found = first_swap(scores, gradient, mask)
    if not crossings:
        assert found is None
        return
    assert found == (pytest.approx(min(crossings)[0], rel=1e-12), *min(crossings)[1:])
    rate, enters, leaves = found
    assert chosen_by_sorting(scores - rate * (1 - 1e-9) * gradient, keep).tolist() == mask.tolist()
    after = chosen_by_sorting(scores - rate * (1 + 1e-9) * gradient, keep)
    assert (np.flatnonzero(after & ~mask).tolist(), np.flatnonzero(mask & ~after).tolist()) == ([enters], [leaves])


def test_first_swaps_that_can_be_seen():
    for scores, gradient, expected in (
        ([1.0, 2.0], [0.5, 0.5], (3.0, 0, 1)),  # the smaller passes through 0: |1-3/2| = |2-3/2|
        ([2.0, 2.0], [-1.0, 0.0], (0.0, 0, 1)),  # a tie that any rate breaks
        ([1.0, 2.0], [math.nan, math.nan], None),  # a training that went astray
    ):
        assert first_swap(np.array(scores), np.array(gradient), np.array([False, True])) == expected


def test_pairs_are_drawn_alike():
    enter, leave = np.array([0, 1, 5]), np.array([2, 6, 7, 9])
    random = np.random.default_rng(0)
    for same_unit in (False, True):
        drawn = [draw_pair(enter, leave, 3, random, same_unit=same_unit) for _ in range(2000)]
        possible = [(i, j) for i, j in product(enter, leave) if not same_unit or i // 3 == j // 3]
        counts = [drawn.count(pair) for pair in possible]
        assert sum(counts) == 2000
        assert np.abs(np.array(counts) - 2000 / len(possible)).max() < 5 * np.sqrt(2000 / len(possible))
    assert draw_pair(np.array([0]), np.array([3]), 3, random, same_unit=True) is None
    assert draw_pair(np.array([], int), np.array([], int), 3, random, same_unit=False) is None


# --- what is recorded ------------------------------------------------------------------------------------


def test_the_rows_are_those_of_a_second_slower_count(probed):
    folder, result, seen = probed
    rows = table(folder)
    steps = np.unique(rows["step"])
    assert steps.tolist() == np.linspace(0, 2 * 5 - 1, 4).round().astype(int).tolist()
    expected = {}  # (step, kind, layer, rate) -> edges swapped, signs changed
    for step, (scores, gradient) in zip(steps.tolist(), seen, strict=True):
        for rate in RATES:
            total = np.zeros(2, int)
            for layer, name in enumerate(scores):
                s, g = scores[name].ravel(), gradient[name].ravel()
                keep = s.size - int(0.6 * s.size)
                old, new = chosen_by_sorting(s, keep), chosen_by_sorting(s - rate * g, keep)
                swapped = np.array([(new & ~old).sum(), (np.sign(s - rate * g) != np.sign(s))[old != new].sum()])
                if swapped[0]:
                    expected[step, "layer", layer, rate] = tuple(swapped)
                total += swapped
            if total[0]:
                expected[step, "network", -1, rate] = tuple(total)
    found = {
        (int(rows["step"][e]), KINDS[rows["kind"][e]], int(rows["layer"][e]), float(rows["rate"][e])):
        (int(rows["swaps"][e]), int(rows["flips"][e]))
        for e in range(len(rows["step"])) if KINDS[rows["kind"][e]] in ("layer", "network")
    }  # fmt: skip
    assert found == expected
    assert max(swaps for swaps, _ in found.values()) > 20
    single = np.isin(rows["kind"], [KINDS.index(kind) for kind in SINGLE])
    assert (rows["swaps"][single] == 1).all()
    assert rows["same_unit"][rows["kind"] == KINDS.index("unit")].all()
    counted = {kind: (rows["kind"] == KINDS.index(kind)).sum() for kind in KINDS}
    assert counted["pair"] == counted["layer"] >= counted["unit"] > 0
    for kind in KINDS:
        of = rows["kind"] == KINDS.index(kind)
        assert np.sum(result["swaps"][kind]["measured"]) == of.sum()
        assert np.sum(result["swaps"][kind]["lowered"]) == (rows["measured"][of] < 0).sum()
        assert result[f"{kind}_lowered"] == pytest.approx(100 * (rows["measured"][of] < 0).mean(), abs=1e-4)
    # What the proof says of first order.
    assert (rows["predicted"][single & (rows["flips"] == 0)] < 0).all()
    assert result["uphill"] == 0


def test_a_step_of_the_training_is_the_layers_swaps_at_its_rate():
    # The first update of a training without momentum and decay is the step that is measured.
    net, images, labels = small_net()
    probe = Probe(net, images, labels)
    F.cross_entropy(net(images), labels).backward()
    torch.optim.SGD([m.scores for m in maskers(net).values()], 0.3).step()
    swapped = 0
    for name, masker in maskers(net).items():
        assert isinstance(masker, EdgePopup)
        assert masker.mask().equal(probe.chosen(name, 0.3))
        swapped += int((masker.mask() != probe.mask[name]).sum())
    assert swapped > 0


def test_uphill_counts_single_swaps_without_a_change_of_sign_alone():
    kinds = ["first", "pair", "unit", "pair", "pair", "layer", "network"]
    arrays = {
        "kind": np.array([KINDS.index(kind) for kind in kinds]),
        "flips": np.array([0, 0, 0, 0, 1, 0, 0]),
        "predicted": np.array([1.0, 0.0, 2.0, -1.0, 1.0, 1.0, 1.0]),
        "measured": np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0]),
        "layer": np.array([0, 1, 1, 1, 0, 1, -1]),
        "rate": np.array([1e-7, 0.1, 0.1, 0.1, 1.0, 0.1, 1.0]),
    }
    found = summary(arrays, 2)
    assert found["uphill"] == 3
    assert (found["pair_lowered"], found["network_lowered"]) == (pytest.approx(100 / 3, abs=1e-4), 100)
    assert found["swaps"]["first"] == {"measured": [[1, 0]], "lowered": [[0, 0]]}
    at = RATES.index(0.1)
    assert [found["swaps"]["pair"][name][at] for name in ("measured", "lowered")] == [[0, 2], [0, 1]]
    assert found["swaps"]["network"]["lowered"] == [[0]] * (len(RATES) - 1) + [[1]]
    nothing = summary({name: column[:0] for name, column in arrays.items()}, 2)
    assert (nothing["first_lowered"], nothing["uphill"]) == (None, 0)


def test_measuring_changes_nothing_in_the_training(probed, tmp_path):
    folder, whole, _ = probed
    result = train(replace(PROBED, callbacks=PROBED.callbacks[1:]), tmp_path)
    assert {k: v for k, v in whole.items() if k in result} | {"provenance": 0} == result | {"provenance": 0}
    with np.load(tmp_path / "trace.npz") as a, np.load(folder / "trace.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
