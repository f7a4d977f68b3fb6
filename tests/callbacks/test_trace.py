"""The trace of a run: the update rule, every swap counted, and what figure 1 draws of the other methods."""

import numpy as np
import pytest
from training import HIDDEN, TINY

from lit_hidden.callbacks.trace import Trace
from lit_hidden.code import spec
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.network import make_data, make_module
from lit_hidden.engine.train import train
from lit_hidden.results import Results
from lit_hidden.run import Run


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The folder and the result of HIDDEN, and its masks, sorted, before the first update and after each."""
    folder, real, masks = tmp_path_factory.mktemp("traced"), Trace.on_train_batch_end, []

    def keep(net):
        masks.append({})
        for name, masker in maskers(net).items():
            order = np.argsort(masker.scores.detach().abs().flatten().numpy(), kind="stable")
            masks[-1][name] = np.isin(np.arange(len(order)), order[int(0.6 * len(order)) :])

    keep(make_module(HIDDEN, make_data(HIDDEN, "data")).net)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trace, "on_train_batch_end", lambda *args: real(*args) or keep(args[2].net))
        return folder, train(HIDDEN, folder), masks


def test_the_trace_obeys_the_update_rule(traced):
    folder, result, _ = traced
    trace = Results([(HIDDEN, result, folder)]).arrays("trace.npz")
    assert trace["step"].tolist() == list(range(12))
    # The scores after an update are the scores before the next one, and so are the masks.
    np.testing.assert_array_equal(trace["after"][:-1], trace["before"][1:])
    np.testing.assert_array_equal(trace["chosen_after"][:-1], trace["chosen_before"][1:])
    velocity = np.zeros_like(trace["before"][0])
    updates = zip(trace["before"], trace["after"], trace["gradient"], trace["lr"], strict=True)
    for step, (before, after, gradient, lr) in enumerate(updates):
        velocity = trace["momentum"] * velocity + (gradient + trace["weight_decay"] * before)
        np.testing.assert_allclose(after, before - lr * velocity, rtol=1e-4, atol=1e-7, err_msg=f"update {step}")
    for scores, chosen in zip(trace["before"], trace["chosen_before"], strict=True):
        assert np.abs(scores[chosen]).min() >= np.abs(scores[~chosen]).max()
    seen = np.logical_or.accumulate(trace["chosen_before"])
    np.testing.assert_array_equal(trace["seen"], seen)
    assert (trace["swapped"].sum(), trace["reentered"].sum()) == (result["swapped"], result["reentered"])


def test_swaps_and_re_entries_are_those_of_masks_sorted_step_by_step(traced):
    _, result, masks = traced
    swapped = reentered = 0
    for name, before in masks[0].items():
        ever = before.copy()
        for now in (later[name] for later in masks[1:]):
            swapped += (now & ~before).sum()
            reentered += (now & ~before & ever).sum()
            ever, before = ever | now, now
    assert (result["swapped"], result["reentered"]) == (swapped, reentered)
    assert 0 < reentered < swapped


@pytest.mark.parametrize("method", ["dense", "random"])
def test_the_other_methods_leave_the_tensors_that_figure_1_draws(method, tmp_path):
    density, trace = None if method == "dense" else 0.5, spec("trace.Trace", updates=5)
    run = Run(method=method, density=density, epochs=1, callbacks=(trace,), **TINY)
    result = train(run, tmp_path)
    with np.load(tmp_path / "trace.npz") as trace:
        assert trace["weight"].shape == (10, 12)
        if method == "dense":
            assert not np.array_equal(trace["weight"], trace["trained"])
            assert result["weights_before"] != result["weights_after"]
        else:
            assert trace["chosen_before"].shape == (1, 10, 12)
            assert trace["chosen_before"].sum() == 60
            np.testing.assert_array_equal(trace["weight"], trace["trained"])
            assert result["weights_before"] == result["weights_after"]
