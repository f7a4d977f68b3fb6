"""Spiking neurons: the membrane in closed form, the surrogate by hand, a net step by step, spikes counted again."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_hidden import build, hide
from lit_hidden.callbacks.spiking import LEAK, LIF, Neurons, Readout
from lit_hidden.code import spec
from lit_hidden.data import DigitsData
from lit_hidden.data.tensors import balanced_order
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.network import network
from lit_hidden.run import Run

RUN = Run(
    net="spiking.lenet_4", width=0.3, density=0.3, data="digits", train_images=300, epochs=2, batch_size=16,
    optimizer="adam", callbacks=(spec("spiking.Neurons", images=40),),
)  # fmt: skip


def neurons(steps: int, threshold: float, constant: bool = False) -> LIF:
    made = LIF(steps, constant).double()
    made.threshold.fill_(threshold)
    return made


def voltages(currents: np.ndarray, spikes: np.ndarray, threshold: float) -> np.ndarray:
    """Voltages before the reset, in closed form: what came in and what was subtracted, each with its decay."""
    steps = len(currents)
    decay = np.tril(LEAK ** np.subtract.outer(np.arange(steps), np.arange(steps)).clip(0))
    return decay @ currents - threshold * np.tril(decay, -1) @ spikes


def test_spikes_come_where_the_voltage_in_closed_form_reaches_the_threshold():
    currents = torch.randn(12, 50, generator=torch.Generator().manual_seed(0)).double() + 0.4
    spikes = neurons(12, 0.9)(currents.flatten()[:, None]).view(12, 50).numpy()
    assert 0.1 < spikes.mean() < 0.6
    np.testing.assert_array_equal(spikes, voltages(currents.numpy(), spikes, 0.9) >= 0.9)


@pytest.mark.parametrize("current", [0.05, 0.11, 0.3, 0.95, 2.0])
def test_a_constant_current_brings_the_first_spike_when_the_charge_says(current):
    spikes = neurons(60, 0.9, constant=True)(torch.tensor([[current]]).double()).flatten()
    reached = 1 - 0.9 * (1 - LEAK) / current  # I (1 - leak^n) / (1 - leak) = threshold
    first = math.ceil(math.log(reached) / math.log(LEAK)) if reached > 0 else None
    assert (int(spikes.argmax()) + 1 if spikes.any() else None) == (max(first, 1) if first is not None else None)


def test_the_gradient_is_the_surrogates_by_hand_and_passes_by_the_reset():
    theta, weights = 0.8, torch.randn(5, 7).double()
    current = (torch.rand(7).double() + 0.2).requires_grad_()
    spikes = neurons(5, theta, constant=True)(current[None]).view(5, 7)
    (spikes * weights).sum().backward()
    voltage = voltages(np.tile(current.detach().numpy(), (5, 1)), spikes.detach().numpy(), theta)
    slope = 1 / (1 + (np.pi * (voltage / theta - 1)) ** 2) / theta
    into = np.cumsum(LEAK ** np.arange(5))  # how much of a constant current is there after n steps
    expected = (weights.numpy() * slope * into[:, None]).sum(0)
    np.testing.assert_allclose(current.grad.numpy(), expected, rtol=1e-12)


def test_the_answer_is_the_last_voltage_of_membranes_that_never_spike():
    currents = torch.randn(4, 3, 10).double()
    voltage = torch.zeros(3, 10).double()
    for now in currents:
        voltage = 0.9 * voltage + now
    torch.testing.assert_close(Readout(4)(currents.flatten(0, 1)), voltage)


@pytest.mark.parametrize(("name", "steps"), [("lenet", 1), ("lenet", 8), ("conv2", 4)])
def test_a_net_layer_by_layer_is_the_net_step_by_step_with_the_relu_nets_weights(name, steps):
    size = {"in_channels": 1, "image_size": 8, "width": 0.1}
    net = hide(build(f"spiking.{name}_{steps}", **size), 0.5, seed=3).double()
    relu = hide(build(name, **size), 0.5, seed=3).double()
    images = torch.randn(6, 1, 8, 8).double()
    thresholds = [part.threshold for part in net if isinstance(part, LIF)]
    voltage = [torch.zeros(())] * (len(relu) + 1)
    for _ in range(steps):
        x, count = images, 0
        for n, layer in enumerate(relu):
            if isinstance(layer, nn.ReLU):
                total = LEAK * voltage[n] + x
                x = (total >= thresholds[count]).double()
                voltage[n], count = total - thresholds[count] * x, count + 1
            else:
                x = layer(x)
        voltage[-1] = LEAK * voltage[-1] + x
    torch.testing.assert_close(net(images), voltage[-1])


def test_a_mask_is_made_once_a_forward_pass(monkeypatch):
    net, made = hide(build("spiking.lenet_8", in_channels=1, image_size=8, width=0.1)), []
    for name, masker in maskers(net).items():
        masker.register_forward_hook(lambda *_, name=name: made.append(name))
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    assert sorted(made) == sorted(maskers(net))


def test_a_run_learns_with_a_threshold_of_its_density_and_counts_its_spikes(trained):
    folder, result = trained(RUN)
    assert result["accuracy"] > 30
    net: Any = network(RUN, folder)
    thresholds = [part.threshold.item() for part in net if isinstance(part, LIF)]
    assert thresholds == pytest.approx([0.7 * 0.3**0.5] * 2)
    data = DigitsData()
    data.setup()
    images, labels = data.splits["test"]
    chosen = (images[balanced_order(labels)[:40]] / 255 - data.mean[0]) / data.std[0]
    currents = F.linear(chosen.flatten(1), net[1].weight).detach()
    total = 0.0
    with np.load(folder / "spiking.npz") as found:
        for layer, following in ((0, net[3].weight.detach()), (1, None)):
            spikes, voltage = [], torch.zeros(())
            for step in range(4):
                voltage = LEAK * voltage + (currents if layer == 0 else currents[step])
                spikes.append((voltage >= thresholds[0]).float())
                voltage = voltage - thresholds[0] * spikes[-1]
            every = torch.stack(spikes)
            total += every.sum().item() / 40
            assert found["after"][layer] == pytest.approx(100 * every.mean().item(), rel=0.01)
            assert (found[f"raster_{layer + 1}"] == every[:, 0].bool().numpy()).mean() > 0.98  # but for rounding
            currents = [F.linear(each, following) for each in spikes] if following is not None else currents
        assert 0 < found["before"].min() < found["before"].max() < 100
    assert result["spikes"] == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize(
    ("density", "scaled", "expected"), [(0.1, True, 0.7 * 0.1**0.5), (0.1, False, 0.7), (None, True, 0.7)]
)
def test_a_threshold_shrinks_with_the_density_unless_it_is_not_to(density, scaled, expected):
    data, net = DigitsData(train_images=20), build("spiking.lenet_1", in_channels=1, width=0.05)
    data.setup()
    module = SimpleNamespace(net=net if density is None else hide(net, density))
    Neurons(scaled=scaled).on_run_start(None, module, data, None)
    assert [part.threshold.item() for part in net if isinstance(part, LIF)] == pytest.approx([expected] * 2)


def test_what_cannot_be_is_refused(trained):
    with pytest.raises(ValueError, match="threshold=0: neurons would spike at rest; it must be above 0"):
        Neurons(threshold=0)
    with pytest.raises(ValueError, match=r"Sequential has no neurons that spike; take net='spiking\.lenet_4'"):
        trained(replace(RUN, net="lenet"))
