"""Tasks of one's own, an arm and a text: what their data are, and that they are learnt and measured in their units."""

import math

import numpy as np
import pytest
import torch
from training import ARM, TEXT, without_time

from lit_hidden.callbacks import arm, text
from lit_hidden.engine.network import make_module, network
from lit_hidden.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:only .* of the matrix weights")  # the rest are embeddings


def test_the_angles_bring_the_hand_to_the_place_and_no_others_do():
    data = arm.ArmData(held_out=0)
    data.setup()
    for split, count in (("train", 4000), ("test", 1000)):
        places, angles = data.splits[split]
        (x, y, one), (shoulder, elbow) = places.flatten(1).double().T, angles.double().T
        assert len(places) == count
        assert (one == 1).all()
        # The other way round: the law of cosines, as robotics books have it.
        found = torch.arccos(((x**2 + y**2 - 2) / 2).clamp(-1, 1))
        torch.testing.assert_close(found, elbow, atol=2e-3, rtol=0)
        found = torch.atan2(y, x) - torch.atan2(elbow.sin(), 1 + elbow.cos())
        torch.testing.assert_close(found % (2 * math.pi), shoulder, atol=2e-3, rtol=0)


def test_an_arm_is_measured_in_degrees_and_learnt_better_than_a_guess_of_the_mean(trained):
    run = Run(**ARM, density=0.5)
    folder, result = trained(run)
    assert (result["metric"], result["unit"], result["better"]) == ("error", "degrees", "lower")
    assert not {"accuracy", "top5", "train_accuracy"} & result.keys()
    (before, *_, last) = without_time(folder)
    assert set(last) == {"epoch", "step", "lr", "train_error", "train_loss", "test_error", "test_loss"}
    data = arm.ArmData()
    data.setup()
    (_, angles), (places, truth) = data.splits["train"], data.splits["test"]
    guess = np.rad2deg(np.abs(truth.numpy() - angles.mean(0).numpy()).mean())
    assert 40 < guess < float(before["test_error"])
    assert result["error"] == float(last["test_error"]) < guess / 2
    found = network(run, folder)(places).detach().numpy()
    assert result["error"] == pytest.approx(np.rad2deg(np.abs(found - truth.numpy()).mean()), rel=1e-4)


def test_a_text_is_measured_in_bits_and_learnt_better_than_a_guess(trained):
    run = Run(**TEXT, density=0.5)
    folder, result = trained(run)
    assert (result["metric"], result["unit"], result["better"]) == ("bits", "bits per character", "lower")
    data = text.TextData()
    data.setup()
    inputs, targets = data.splits["test"]
    uniform = text.NextToken().measure(torch.zeros(*targets.shape, 128), targets)
    torch.testing.assert_close(uniform, torch.full((len(targets),), 7.0))
    assert result["bits"] < 6
    p = network(run, folder)(inputs).detach().double().softmax(-1).gather(-1, targets[..., None])
    assert result["bits"] == pytest.approx(-p.log2().mean().item(), rel=1e-4)
    assert result["loss"] == pytest.approx(result["bits"] * math.log(2), rel=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_later_characters_change_no_earlier_answer(training):
    module = make_module(Run(**TEXT, density=0.5), text.TextData())
    module.train(training)
    characters = torch.randint(128, (3, 64))
    later = characters.clone()
    later[:, 40:] = torch.randint(128, (3, 24))
    with torch.set_grad_enabled(training):
        one, other = module(characters), module(later)
    torch.testing.assert_close(one[:, :40], other[:, :40])
    assert not torch.allclose(one[:, 40:], other[:, 40:])
