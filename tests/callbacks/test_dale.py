"""Signs of units: set by hand, balanced, and the mean over units subtracted, each against weights that say the same."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from training import TINY

from lit_hidden.callbacks import weights
from lit_hidden.callbacks.dale import Dale
from lit_hidden.code import spec
from lit_hidden.edge_popup import weight_layers
from lit_hidden.engine.network import make_data, make_module, network
from lit_hidden.run import Run

HIDDEN = Run(density=0.5, epochs=2, held_out=100, **TINY | {"width": 0.1})  # channels of 6, linear layers of 25


def begun(run: Run = HIDDEN, seed: int = 0, **options: Any) -> Any:
    """A net after `on_run_start`."""
    module, callback = make_module(run, make_data(run, "data")), Dale(**options)
    callback.run_seed = seed
    callback.on_run_start(SimpleNamespace(), module, None, None)
    return module.net


def test_magnitudes_stay_and_a_seed_draws_the_inhibitory_units_of_larger_fractions_among_them():
    plain, few, many = (weights(begun(inhibitory=share)) for share in (None, 0.2, 0.6))
    other = weights(begun(inhibitory=0.2, seed=1))
    for name in list(plain)[1:]:
        assert few[name].abs().equal(plain[name].abs())
        assert ((few[name] < 0) <= (many[name] < 0)).all()
    assert plain["0"].equal(few["0"])
    assert not few["8"].equal(other["8"])


def test_in_balance_inhibitory_weights_are_larger_by_the_ratio_of_units_and_the_sum_of_squares_stays():
    plain, found = weights(begun(inhibitory=0.2)), weights(begun(inhibitory=0.2, balanced=True))
    for name, units, inhibitory in (("2", 6, 1), ("6", 6, 1), ("8", 25, 5), ("10", 25, 5)):
        weight = found[name]
        ratio = weight[weight < 0].abs().mean() / weight[weight > 0].mean()
        torch.testing.assert_close(ratio, torch.tensor((units - inhibitory) / inhibitory))
        torch.testing.assert_close(weight.square().sum(), plain[name].square().sum(), rtol=1e-4, atol=0)
        assert abs(weight.sum()) < 1e-4 * weight.abs().sum()


def test_the_mean_over_units_is_that_of_weights_less_the_mean_of_their_rows():
    plain, subtracted = begun(inhibitory=0.2), begun(inhibitory=0.2, subtract=True)
    answers = torch.randn(4, 1, 32, 32)
    seen = answers.clone()
    for (name, layer), bare in zip(subtracted.named_children(), plain.children(), strict=True):
        seen = layer(seen)
        if name in weight_layers(plain):
            weight = bare.weight.detach()
            weight = weight - weight.mean(0) if name != "10" else weight
            linear = weight.ndim == 2
            answers = answers @ weight.T if linear else torch.conv2d(answers, weight, padding=1)
        else:
            answers = bare(answers)
        torch.testing.assert_close(seen, answers, rtol=1e-3, atol=1e-4)


def test_numbers_are_those_of_the_net_that_comes_back(trained):
    for share in (0.2, None):
        run = replace(HIDDEN, callbacks=(spec("dale.Dale", inhibitory=share),))
        folder, result = trained(run)
        net = network(run, folder)
        frozen = {name: weight.numpy() for name, weight in weights(net).items()}
        used = {name: getattr(*place).detach().double().numpy() for name, place in weight_layers(net).items()}
        with np.load(folder / "dale.npz") as arrays:
            for n, name in enumerate(list(frozen)[1:]):
                np.testing.assert_allclose(arrays["drive"][n], used[name].sum() / np.abs(used[name]).sum())
                chosen = used[name][frozen[name] < 0]
                np.testing.assert_allclose(arrays["kept_inhibitory"][n], 100 * (chosen < 0).mean())
            np.testing.assert_allclose(arrays["drive"].mean(), result["drive"])
            start = weight_layers(begun(run, inhibitory=share))
            before = [float(w.sum() / w.abs().sum()) for w in (getattr(*place).detach() for place in start.values())]
            np.testing.assert_allclose(arrays["drive_before"], before[1:], rtol=1e-5)
        rows = [used[name].T.reshape(25, -1) for name in ("8", "10")]
        rows += [used["2"].swapaxes(0, 1).reshape(6, -1), used["6"].T.reshape(6, -1)]
        assert result["mixed"] == sum(((row > 0).any(1) & (row < 0).any(1)).sum() for row in rows)
        assert (result["mixed"] == 0) == (share is not None)
        assert result["fails_below"] == 0
        data = make_data(run, "data")
        data.setup("fit")
        images, labels = next(iter(data.val_dataloader()))
        assert result["val_accuracy"] == 100 * (net(images).argmax(1) == labels).double().mean().item()
