"""What networks are compared by: responses, errors, noise and FGSM by hand; a training that was stopped."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training import TINY, without_time

from lit_hidden.callbacks.similarity import Probe, gradient
from lit_hidden.code import spec
from lit_hidden.data.tensors import balanced_order
from lit_hidden.engine.network import make_data, network
from lit_hidden.run import Run

HIDDEN = Run(density=0.5, epochs=2, held_out=100, **TINY)
PROBED = HIDDEN.then(epochs=0, callbacks=(spec("similarity.Probe", images=40, noise=[0.3], fgsm=[0.02, 0.05]),))
DENSE = Run(epochs=2, callbacks=(spec("rewind.Snapshot", update=1), spec("rewind.Snapshot", update=3)), **TINY)
STOPPED = DENSE.then(epochs=0, callbacks=(spec("similarity.Stopped", snapshot=2),))


def test_responses_errors_and_robustness_are_those_found_by_hand(trained):
    folder, result = trained(PROBED)
    assert result["accuracy"] == trained(HIDDEN)[1]["accuracy"]
    net, data = network(HIDDEN, trained(HIDDEN)[0]), make_data(HIDDEN, "data")
    data.setup("fit")
    images, labels = data.splits["test"]
    order = balanced_order(labels)
    pixels, truth = images[order[:40]] / 255, labels[order[:40]]

    def decided(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return net((x - data.mean[0]) / data.std[0]).argmax(1)

    def accuracy(x: torch.Tensor) -> float:
        return 100 * (decided(x.clamp(0, 1)) == truth).double().mean().item()

    with np.load(folder / "similarity.npz") as arrays:
        found = dict(arrays)
    assert found["right"].tolist() == (decided(images[order] / 255) == labels[order]).tolist()
    assert 100 * found["right"].mean() == pytest.approx(result["accuracy"], abs=1e-4)
    answers = (pixels - data.mean[0]) / data.std[0]
    layers = [name.removesuffix(".gram") for name in found if name.endswith(".gram")]
    assert layers == ["0", "2", "6", "8", "10"]
    with torch.no_grad():
        for name, layer in net.named_children():
            answers = layer(answers)
            if name in layers:
                flat = answers.flatten(1).double().numpy()
                expected = (flat - flat.mean(0)) @ (flat - flat.mean(0)).T
                np.testing.assert_allclose(found[f"{name}.gram"], expected[np.triu_indices(40)], rtol=1e-3, atol=1e-3)
                alive = [bool((answers[:, unit] > 0).any()) for unit in range(answers.shape[1])]
                assert found[f"{name}.alive"].tolist() == alive
    probe = Probe()
    probe.run_seed = PROBED.seed
    drawn = torch.randn(pixels.shape, generator=probe.generator("noise"))
    seen = pixels.double().requires_grad_()
    F.cross_entropy(net.double()((seen - data.mean[0]) / data.std[0]), truth).backward()
    net.float()
    assert found["noise"] == pytest.approx([accuracy(pixels + 0.3 * drawn)])
    attacked = [accuracy(pixels + size * seen.grad.float().sign()) for size in (0.02, 0.05)]
    assert found["fgsm"] == pytest.approx(attacked, abs=2.6)  # an image may lie on a decision's border
    assert result["fgsm_lost"] == pytest.approx(accuracy(pixels) - found["fgsm"].mean())
    assert result["noise_lost"] == pytest.approx(accuracy(pixels) - found["noise"].mean())
    held_out, answers = data.splits["val"]
    assert result["val_accuracy"] == pytest.approx(100 * (decided(held_out / 255) == answers).double().mean().item())


def test_the_gradient_is_that_of_cross_entropy_and_does_not_vanish_where_a_net_is_sure():
    torch.manual_seed(0)
    net, x, y = torch.nn.Linear(5, 4, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 4
    seen = x.clone().requires_grad_()
    F.cross_entropy(net(seen), y, reduction="sum").backward()
    others = 1 - net(x).softmax(1).gather(1, y[:, None])
    torch.testing.assert_close(gradient(net, x, y) * others, seen.grad)
    net.weight.data *= 1e4
    sure = net(x).argmax(1)
    assert gradient(net.float(), x.float(), sure).abs().amin() > 1


def test_a_stopped_training_is_what_it_was_at_that_update(trained):
    folder, result = trained(STOPPED)
    row = without_time(trained(DENSE)[0])[1]  # an epoch has three updates
    assert row["step"] == "3"
    assert result["accuracy"] == pytest.approx(float(row["test_top1"]))
    assert result["fails_below"] == 0
    with np.load(trained(DENSE)[0] / "snapshot_2.npz") as kept:
        for name, tensor in network(STOPPED, folder).state_dict().items():
            assert (tensor.numpy() == kept[name]).all(), name
