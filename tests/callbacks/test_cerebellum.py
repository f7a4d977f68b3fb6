"""Granule layers: degrees, gradients, thresholds and dimension a second way; the arm there and back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_hidden import hide, masks
from lit_hidden.callbacks import arm
from lit_hidden.callbacks.cerebellum import Cells, RandomPerUnit, TopPerUnit, excitatory
from lit_hidden.code import spec
from lit_hidden.data import DigitsData
from lit_hidden.edge_popup import maskers, original_weight
from lit_hidden.engine.network import network
from lit_hidden.run import Run

CHOSEN = Run(
    net="cerebellum.granules", width=0.05, density=4 / 1024, data="digits", held_out=100, train_images=300, epochs=2,
    optimizer="adam", lr=0.01, batch_size=32, masker="cerebellum.TopPerUnit", distribution="cerebellum.excitatory",
    callbacks=(spec("cerebellum.Granules"),),
)  # fmt: skip
RANDOM = replace(CHOSEN, masker="cerebellum.RandomPerUnit")
ARM = replace(
    RANDOM, data="arm.CodedArmData", task="arm.Angles", density=0.08, held_out=400, train_images=1000, epochs=3,
    callbacks=(*CHOSEN.callbacks, spec("arm.Endpoint")),
)  # fmt: skip


@pytest.mark.parametrize(("density", "inputs"), [(0.001, 1), (0.02, 1), (0.08, 4), (0.5, 25), (1.0, 50)])
@pytest.mark.parametrize("masker", [TopPerUnit, RandomPerUnit])
def test_every_unit_multiplies_with_exactly_so_many_inputs_also_where_scores_tie(masker, density, inputs):
    layer = hide(nn.Linear(50, 30, bias=False), density, masker=masker)
    assert ((layer.weight != 0).sum(1) == inputs).all()
    (made,) = maskers(layer).values()
    scores = made.scores.detach()
    best = scores.abs().argsort(1, descending=True)[:, :inputs]
    assert made.mask().equal(torch.zeros(30, 50, dtype=torch.bool).scatter(1, best, True))
    scores.fill_(0.5)
    assert ((layer.weight != 0).sum(1) == inputs).all()


def test_scores_get_the_straight_through_gradient_and_random_ones_none():
    layer, x = hide(nn.Linear(9, 5, bias=False), 0.3, masker=TopPerUnit), torch.randn(7, 9)
    used = layer.weight.detach().requires_grad_()
    F.linear(x, used).square().sum().backward()
    layer(x).square().sum().backward()
    (made,) = maskers(layer).values()
    torch.testing.assert_close(made.scores.grad, used.grad * original_weight(layer, "weight") * made.scores.sign())
    fixed = hide(nn.Linear(9, 5, bias=False), 0.3, masker=RandomPerUnit)
    assert not any(p.requires_grad for p in fixed.parameters())
    assert masks(fixed)["weight"].equal(masks(layer)["weight"])  # of the same seed


def test_a_mask_that_is_set_has_its_number_of_inputs():
    (made,) = maskers(hide(nn.Linear(6, 4, bias=False), 0.5, masker=TopPerUnit)).values()
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, 1:3] = True
    made.set_mask(mask)
    assert made.mask().equal(mask)


def test_a_cell_answers_to_a_tenth_of_the_batch_and_later_to_what_exceeds_the_running_threshold():
    cells, currents = Cells(6), torch.randn(200, 6) * torch.arange(1, 7)
    found = cells(currents)
    expected = np.quantile(currents.numpy(), 0.9, axis=0)
    torch.testing.assert_close(found, (currents - torch.tensor(expected).float()).relu())
    assert ((found > 0).sum(0) == 20).all()
    torch.testing.assert_close(cells.threshold, torch.tensor(0.1 * expected).float())
    assert cells.eval()(currents).equal((currents - cells.threshold).relu())


def test_weights_of_one_sign_have_the_sizes_of_normal_ones():
    drawn = excitatory(torch.Size((400, 50)), 0.2, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("run", [CHOSEN, RANDOM], ids=["chosen", "random"])
def test_the_readout_learns_and_the_layer_keeps_its_weights(run, trained):
    folder, result = trained(run)
    net = network(run, folder)
    assert [*maskers(net)] == ["1"]
    assert (net[-1].weight != 0).all(), "the readout sees every cell"
    begun = nn.Sequential(nn.Flatten(), nn.Linear(1024, 50, bias=False))
    hide(begun, run.density, distribution=run.resolved.distribution, masker=TopPerUnit)
    assert original_weight(net, "1").equal(original_weight(begun, "1"))
    same = masks(net)["1"].equal(masks(begun)["1"])
    assert same == (run is RANDOM)
    assert (result["fewest"], result["most"]) == (4, 4)
    data = DigitsData(held_out=100, train_images=300)
    data.setup()

    def answers(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = data.splits[split]
        return (images / 255 - data.mean[0]) / data.std[0], labels

    (images, labels), (held_out, theirs) = answers("test"), answers("val")
    with torch.no_grad():
        assert result["accuracy"] == pytest.approx(100 * (net(images).argmax(1) == labels).float().mean().item())
        assert result["held_out_metric"] == pytest.approx(
            100 * (net(held_out).argmax(1) == theirs).float().mean().item()
        )
        activity = net[:-1](images).double().numpy()
    eigenvalues = np.linalg.eigvalsh(np.cov(activity.T))
    assert result["dimension"] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    assert result["active"] == pytest.approx(100 * (activity > 0).mean())


def test_what_cannot_be_is_refused(trained):
    with pytest.raises(ValueError, match=r"has no readout of cells; take net='cerebellum\.granules'"):
        trained(replace(CHOSEN, net="lenet", masker=None))
    with pytest.raises(ValueError, match="no images are held out"):
        trained(replace(CHOSEN, held_out=0))


# --- arm -------------------------------------------------------------------------------------------------------------


def test_the_arm_goes_there_and_back():
    angles = math.pi * torch.rand(5000, 2, generator=torch.Generator().manual_seed(1)).double()
    places = arm.hand(angles)
    torch.testing.assert_close(arm.hand(arm.inverse(places)), places, atol=1e-6, rtol=0)
    # Where the arm is stretched or folded, a place tells the angles less and less well.
    clear = (angles[:, 1] > 0.01) & (angles[:, 1] < math.pi - 0.01)
    torch.testing.assert_close(arm.inverse(places)[clear], angles[clear], atol=1e-6, rtol=0)
    elbow = torch.stack([angles[:, 0].cos(), angles[:, 0].sin()], 1)
    torch.testing.assert_close((places - elbow).norm(dim=1), torch.ones(5000).double())


def test_units_answer_to_places_near_their_own_with_noise():
    plain, coded = arm.ArmData(held_out=0), arm.CodedArmData(held_out=0)
    plain.setup(), coded.setup()
    for split in ("train", "test"):
        (places, angles), (units, same) = plain.splits[split], coded.splits[split]
        assert angles.equal(same)
        x, y = places[:, :2, 0, 0].double().numpy().T
        grid = np.array([(a, b) for a in np.linspace(-2, 2, 10) for b in np.linspace(-1, 2, 10)])
        away = (x[:, None] - grid[:, 0]) ** 2 + (y[:, None] - grid[:, 1]) ** 2
        noise = units.flatten(1).double().numpy() - np.exp(-away / (2 * 0.16))
        assert noise.std() == pytest.approx(0.1, rel=0.02)
        assert abs(noise.mean()) < 0.002
        assert abs(np.corrcoef(noise[:, 3], noise[:, 4])[0, 1]) < 0.1
    assert not coded.splits["train"][0][:1000].equal(coded.splits["test"][0])


def test_the_hand_ends_where_the_angles_bring_it(trained):
    folder, result = trained(ARM)
    data = arm.CodedArmData()
    data.setup()
    inputs, angles = data.splits["test"]
    with torch.no_grad():
        found = network(ARM, folder)(inputs).double().numpy()
    ends = [
        np.array([np.cos(a) + np.cos(a + b), np.sin(a) + np.sin(a + b)])
        for a, b in (found.T, angles.double().numpy().T)
    ]
    assert result["endpoint"] == pytest.approx(np.hypot(*(ends[0] - ends[1])).mean(), rel=1e-4)
    assert result["error"] == pytest.approx(np.rad2deg(np.abs(found - angles.numpy())).mean(), rel=1e-4)
    guess = np.rad2deg(np.abs(angles.numpy() - data.splits["train"][1].mean(0).numpy()).mean())
    assert result["error"] < guess - 5
    assert (result["fewest"], result["most"]) == (8, 8)
