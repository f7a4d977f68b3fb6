"""Similarity: each number against one found in a second way; each claim can hold, fail and stay open; a drawing."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from fabricated import drawn, overlaps
from scipy.stats import hypergeom
from sklearn.metrics import cohen_kappa_score
from training import done, store  # noqa: F401  a fixture

from experiments import _compared, similarity
from lit_hidden.judge import judge
from lit_hidden.results import NoRunsError, Results
from lit_hidden.selection import kept
from lit_hidden.subnetwork import masks

RANDOM = np.random.default_rng(0)


def unbiased(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC as Song et al. write it, their equation 5, up to a factor."""
    n = len(k)
    k, m = (one - np.diag(np.diag(one)) for one in (k, m))
    return float(np.trace(k @ m) + k.sum() * m.sum() / (n - 1) / (n - 2) - 2 * (k @ m).sum() / (n - 2))


def test_cka_is_song_et_als_and_knows_neither_rotation_nor_scale():
    x, y = RANDOM.normal(size=(30, 200)), RANDOM.normal(size=(30, 90))
    y[:, :40] += x[:, :40]
    turned = 3 * x @ np.linalg.qr(RANDOM.normal(size=(200, 200)))[0]
    grams = np.array([one @ one.T for one in (x, y, turned, np.zeros_like(x))])
    found = _compared.cka(grams)
    own = [unbiased(gram, gram) for gram in grams]
    assert found[0, 1] == pytest.approx(unbiased(grams[0], grams[1]) / (own[0] * own[1]) ** 0.5)
    assert found[0, 2] == pytest.approx(1)
    assert found[3].tolist() == [0] * 4
    apart = [one @ one.T for one in RANDOM.normal(size=(20, 30, 500))]
    assert np.abs(_compared.cka(np.array(apart))[np.triu_indices(20, 1)].mean()) < 0.02, "the plain one is near 0.95"


def test_agreement_on_errors_is_cohens_kappa():
    right = RANDOM.random((4, 60)) < [[0.9], [0.6], [0.3], [2.0]]
    found = _compared.kappa(right)
    for i in range(3):
        assert found[i, :3] == pytest.approx([cohen_kappa_score(right[i], other) for other in right[:3]])
    assert np.isnan(found[3, 3])


def test_degrees_scatter_by_1_where_chance_places_them():
    shape = 7, 5, 3, 3
    found = [_compared.scatter(RANDOM.permutation(315).reshape(shape) < 100) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(1, abs=0.05)
    one = np.zeros((2, 10), bool)
    one[0, :6] = one[1, :2] = True
    assert _compared.scatter(one) == pytest.approx(np.var([6, 2]) / hypergeom(20, 8, 10).var())
    assert np.isnan(_compared.scatter(np.ones((3, 4), bool)))


def test_a_net_is_wired_as_counted_by_hand():
    first, last = -RANDOM.uniform(1, 2, (4, 1, 3, 3)), RANDOM.uniform(1, 2, (2, 16))
    first[:, :, 0, 0] = first[:, :, 0, 1] = 0.1  # not among the largest 18 of 36
    last[:, 8:] = 0.5  # so that the first two channels are kept, each of 4 inputs
    found = _compared.wiring([first, last], [np.array([True, False, True, True]), np.ones(2, bool)])
    chosen = _compared.largest(first)
    assert found["kept"] == pytest.approx([100 * chosen[[0, 2, 3]].sum() / 36, 100 * 8 / 32])
    assert (found["dead"], found["negative"].tolist()) == (25.0, [100.0, 0.0])
    assert found["kernel"][0, 2] == 100 * chosen[:, 0, 0, 2].mean()
    corners = np.mean([chosen[:, 0, i, j].mean() for i in (0, 2) for j in (0, 2)])
    assert found["centre"] == pytest.approx(100 * (chosen[:, 0, 1, 1].mean() - corners))
    assert found["into"][1] == 0, "both outputs keep 8"
    assert found["out_of"][1] == pytest.approx(1 / hypergeom(32, 16, 2).var()), "eight inputs keep 2, eight none"


def test_real_networks_are_counted_by_the_weights_that_they_multiply_with(store):  # noqa: F811
    wanted = ("dense", "hidden", "untrained")
    probes = [run for run in similarity.runs("smoke") if run.epochs == 0 and similarity.group(run) in wanted]
    results = Results([(run, done(store, run), store.folder(run)) for run in probes])
    results.reduce_by(similarity.reduce)
    seen = similarity.view(results, "lenet")
    (row,) = seen.rows("hidden")
    trained, found, begun = map(results.network, sorted(probes, key=lambda run: wanted.index(similarity.group(run))))
    negative, changed, total = [], 0, 0
    for n, mask in zip((1, 3, 5), masks(found).values(), strict=True):
        with torch.no_grad():
            multiplied = found[n](torch.eye(found[n].in_features)).T
        assert (_compared.largest(multiplied.numpy()) == mask.numpy()).all()
        assert ((multiplied != 0) == mask).all()
        assert multiplied[mask].equal(begun[n].weight[mask]), "on the weights of the net that was never trained"
        assert mask.sum() == kept(mask.numel(), _compared.DENSITY)
        negative.append(100 * (multiplied < 0).sum().item() / int(mask.sum()))
        steps = (trained[n].weight - begun[n].weight).abs().flatten()
        changed += int(mask.flatten()[steps.topk(int(mask.sum())).indices].sum())
        total += int(mask.sum())
    assert seen.found["negative"][row] == pytest.approx(negative)
    assert seen.found["changed"][row] == pytest.approx(100 * changed / total, abs=0.1)
    assert seen.found["overlap"][row, row] == pytest.approx(100)


def test_pairs_are_of_one_seed_or_of_two():
    matrix = np.arange(16.0).reshape(4, 4)
    found = {"groups": np.array(["a", "a", "b", "b"]), "seeds": np.array([0, 1, 0, 1]), "kappa": matrix}
    found["cka"] = np.array([matrix, 2 * matrix, np.full((4, 4), 99)])
    seen = _compared.View(found, [0, 1])
    assert (seen.read("kappa", "a", "b"), seen.read("kappa", "a", "b", True)) == ((3 + 6) / 2, (2 + 7) / 2)
    assert seen.read("kappa", "a", "a") == (1 + 4) / 2
    assert seen.read("cka", "a", "a") == 1.5 * 2.5, "the outputs are no hidden layer"
    assert np.isnan(_compared.View(found, [0]).read("kappa", "a", "b"))


HOLDS: dict[str, Any] = {  # numbers of groups, and of pairs of them
    "noise_lost": {"hidden": 59}, "fgsm_lost": {"hidden": 59}, "dead": {"hidden": 59}, "negative": {"hidden": 55},
    "centre": {"hidden": 3}, "into": {"hidden": 3}, "out_of": {"hidden": 3},
    "cka": {"stopped stopped": 90, "dense dense": 90, "hidden dense same": 80, "ticket dense same": 90},
    "kappa": {"stopped stopped": 90}, "overlap": {"hidden dense same": 60},
}  # fmt: skip
FAILS: dict[str, Any] = {
    "noise_lost": {"stopped": 59}, "fgsm_lost": {"stopped": 59}, "dead": {"dense": 59}, "negative": {"hidden": 45},
    "centre": {"hidden": -3}, "into": {"random": 3}, "out_of": {"random": 3},
    "cka": {"hidden stopped": 80, "random dense same": 80, "hidden dense": 80, "hidden dense same": 70,
            "untrained untrained": 80},
    "kappa": {"hidden stopped": 80}, "overlap": {"hidden untrained same": 60, "hidden dense": 70},
}  # fmt: skip
USUAL = dict.fromkeys(("val_accuracy", "accuracy", "noise", "fgsm"), 90.0) | dict.fromkeys(("into", "out_of"), 1.0)


def fabricated(
    case: dict[str, Any], spread: float = 0.05, stopped: float = 90.0, groups: Any = similarity.LOOKS
) -> Results:
    """Quick results whose summary has these numbers, else the usual ones or 50, scattered by seed."""
    case = case | {"val_accuracy": {"stopped": stopped}}
    random, summary, rows = np.random.default_rng(0), {}, [(name, seed) for name in groups for seed in range(5)]
    names = sorted({*similarity.COLUMNS.values(), *_compared.NUMBERS, "noise", "fgsm"})
    for net, name in product(("lenet", "conv4"), names):
        own, usual, noise = case.get(name, {}), USUAL.get(name, 50.0), random.normal(size=(len(rows), len(rows)))
        if name in ("cka", "rdm", "kappa", "overlap"):
            level = [[own.get(f"{a} {b}" + " same" * (s == t), usual) for b, t in rows] for a, s in rows]
            found = np.array(level) + spread * noise
            found = np.array([found] * 3) if name in ("cka", "rdm") else found
        else:
            found = np.array([own.get(group, usual) for group, _ in rows]) + spread * noise[0]
            found = found if name in _compared.NUMBERS else np.array([found] * 3).T
        summary[f"{net}.{name}"] = found
        summary |= {
            f"{net}.{key}": np.array(of) for key, of in zip(("groups", "seeds"), zip(*rows, strict=True), strict=True)
        }
    results = Results([(run, {"accuracy": 90.0, "val_accuracy": 90.0}, None) for run in similarity.runs("quick")])
    results.reduce_by(lambda left: summary)
    return results


def judged(results: Results) -> list[str]:
    return [judge(claim, results, results.runs).verdict for claim in similarity.CLAIMS]


def test_claims_about_similarity_can_hold_fail_and_stay_open():
    assert set(judged(fabricated(HOLDS))) == {"supported"}
    assert set(judged(fabricated(FAILS))) == {"contradicted"}
    assert set(judged(fabricated(HOLDS, 100.0))) == {"undecided"}
    apart = judged(fabricated(HOLDS, stopped=95.0))
    equal = ["at the same accuracy" in claim.sentence for claim in similarity.CLAIMS]
    assert apart == ["undecided" if one else "supported" for one in equal]


def test_stopped_networks_are_those_nearest_in_held_out_accuracy_whatever_is_left_out():
    level = {"dense": 99.0, "stopped 1": 60.0, "stopped 2": 85.0, "stopped 3": 93.0, "hidden": 88.0}
    probed = [run.resolved for run in similarity.runs("quick") if run.epochs == 0]
    found = [{"val_accuracy": level.get(similarity.group(run), 10.0) + run.seed} for run in probed]
    results = Results((run, result, None) for run, result in zip(probed, found, strict=True))
    for left in (results, results.without(run.hash for run in probed if run.seed > 1)):
        for net in ("lenet", "conv4"):
            (number,) = {run.option("Stopped.snapshot")[0] for run in similarity.groups(left, net)["stopped"].runs}
            assert number == 2
            assert similarity.groups(left, net)["stopped"].seeds == left.seeds


def test_a_drawing_can_be_read_and_half_a_grid_is_drawn():
    figure = drawn(similarity, fabricated(HOLDS), "quick")
    assert not overlaps(figure)
    assert sum(len(axes.get_lines()) for axes in figure.axes) > 30
    drawn(similarity, fabricated(HOLDS, groups=("dense", "hidden")), "quick")
    trained = Results([(run, {"accuracy": 50.0}, None) for run in similarity.runs("quick") if run.epochs])
    trained.reduce_by(similarity.reduce)
    with pytest.raises(NoRunsError, match="no network is probed"):
        drawn(similarity, trained, "quick")
