"""Training a Run: what it writes, and that stopping it changes nothing."""

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from lit_hidden import __version__
from lit_hidden.data import DataError
from lit_hidden.engine.train import make_data, make_module, train
from lit_hidden.experiment import Results, Run

pytestmark = pytest.mark.xdist_group("train")  # one worker, so that the dear fixture is made once
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 300}
HIDDEN = Run(density=0.4, epochs=4, trace=100, **TINY)


def without_time(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(HIDDEN, folder)


def test_a_hidden_run_reports_what_its_claims_need(undisturbed):
    folder, result = undisturbed
    assert result["weights_before"] == result["weights_after"]
    assert [layer["name"] for layer in result["layers"]] == ["0", "2", "6", "8", "10"]
    for layer in result["layers"]:
        expected = layer["numel"] - int((1 - 0.4) * layer["numel"])
        assert (layer["kept_min"], layer["kept_max"]) == (expected, expected)
    assert result["edges"] == sum(layer["numel"] for layer in result["layers"])
    assert result["swapped"] == result["entered"] + result["reentered"] > 0
    assert result["steps"] == 4 * 3
    assert result["provenance"]["versions"]["lit_hidden"] == __version__
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.csv", "run.json", "trace.npz"]


def test_the_curve_starts_before_training_and_ends_at_the_reported_accuracy(undisturbed):
    folder, result = undisturbed
    steps, values = Results([(HIDDEN, result, folder)]).curve("test_top1")
    assert steps.tolist() == [0, 3, 6, 9, 12]
    assert values[0, -1] == result["accuracy"]
    rates = [float(row["lr"]) for row in without_time(folder)[1:]]
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * e / 4)) for e in range(4)])


def test_the_trace_obeys_the_update_rule(undisturbed):
    folder, result = undisturbed
    trace = Results([(HIDDEN, result, folder)]).trace()
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


def test_the_trace_counts_every_swap_of_every_layer(undisturbed):
    folder, result = undisturbed
    trace = Results([(HIDDEN, result, folder)]).trace()
    assert trace["swapped"].sum() == result["swapped"]
    assert trace["reentered"].sum() == result["reentered"]
    last = (trace["chosen_after"] & ~trace["chosen_before"]).sum(axis=(1, 2))
    assert (trace["swapped"] >= last).all()


def test_a_killed_run_goes_on_and_ends_bit_equal_to_one_never_stopped(undisturbed, tmp_path):
    folder, result = undisturbed
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from lit_hidden.engine.train import train; from lit_hidden.experiment import Run\n"
        "from lit_hidden.modules import LitSubnetwork\n"
        "real = LitSubnetwork.training_step\n"
        "def step(self, *batch):\n"
        "    if self.global_step == 7: os.kill(os.getpid(), signal.SIGKILL)\n"  # inside the third epoch
        "    return real(self, *batch)\n"
        "LitSubnetwork.training_step = step\n"
        f"train(Run.from_json(sys.stdin.read()), Path({str(tmp_path)!r}))\n"
    )
    child = subprocess.run([sys.executable, "-c", code], input=HIDDEN.to_json(), capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert len(without_time(tmp_path)) == 3, "the row before training and two epochs"
    resumed = train(HIDDEN, tmp_path)
    ours, theirs = dict(resumed), dict(result)
    del ours["provenance"], theirs["provenance"]
    assert ours == theirs
    assert without_time(tmp_path) == without_time(folder)
    with np.load(tmp_path / "trace.npz") as a, np.load(folder / "trace.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_same_seed_trains_the_same_subnetwork_in_another_process_with_other_threads(undisturbed, python):
    _, result = undisturbed
    code = (
        "import json, sys, tempfile, torch; from pathlib import Path\n"
        "from lit_hidden.engine.train import train; from lit_hidden.experiment import Run\n"
        f"run = Run.from_json({HIDDEN.to_json()!r})\n"
        "result = train(run, Path(tempfile.mkdtemp())); del result['provenance']\n"
        "assert torch.get_num_threads() == 2, 'the caller has its threads back'\n"
        "print('RESULT' + json.dumps(result))\n"
    )
    printed = python(code, OMP_NUM_THREADS="2", PYTHONHASHSEED="7")
    expected = {k: v for k, v in result.items() if k != "provenance"}
    assert json.loads(printed.split("RESULT")[1]) == expected


@pytest.mark.parametrize("method", ["dense", "random"])
def test_the_other_methods_leave_the_tensors_that_figure_1_draws(method, tmp_path):
    run = Run(method=method, density=None if method == "dense" else 0.5, epochs=1, trace=5, **TINY)
    result = train(run, tmp_path)
    with np.load(tmp_path / "trace.npz") as trace:
        assert trace["weight"].shape == (10, 12)
        if method == "dense":
            assert not np.array_equal(trace["weight"], trace["trained"])
            assert result["weights_before"] != result["weights_after"]
        else:
            assert trace["chosen_before"].shape == (1, 10, 12)
            assert trace["chosen_before"].sum() == 60
            assert result["weights_before"] == result["weights_after"]


def test_a_supermask_stopped_and_resumed_samples_the_masks_it_would_have_sampled(tmp_path, monkeypatch):
    run = Run(method="supermask", density=0.5, epochs=3, **TINY)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(run, tmp_path / "a")

    from lit_hidden.engine.train import Recorder

    real, calls = Recorder.on_train_epoch_end, []

    def stop_after_the_first_epoch(self, trainer, module):
        real(self, trainer, module)
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("stopped here")

    monkeypatch.setattr(Recorder, "on_train_epoch_end", stop_after_the_first_epoch)
    with pytest.raises(RuntimeError, match="stopped here"):
        train(run, tmp_path / "b")
    resumed = train(run, tmp_path / "b")
    del whole["provenance"], resumed["provenance"]
    assert resumed == whole
    assert without_time(tmp_path / "a") == without_time(tmp_path / "b")


def test_held_out_images_are_watched_and_the_test_set_is_read_once_at_the_end(tmp_path):
    run = Run(density=0.5, epochs=1, held_out=100, **TINY)
    result = train(run, tmp_path)
    assert "val_top1" in without_time(tmp_path)[0]
    assert 0 <= result["accuracy"] <= 100


def test_missing_data_end_a_run_before_anything_is_trained(tmp_path):
    with pytest.raises(DataError):
        train(Run(density=0.5, data="cifar10", epochs=1), tmp_path, data_dir=tmp_path / "nothing")
    assert [p.name for p in tmp_path.iterdir() if p.name != "nothing"] == ["run.json"]


def test_seeds_reach_weights_scores_and_data_each_alone():
    base = Run(density=0.5, epochs=1, **TINY)
    data = make_data(base, "data")
    from dataclasses import replace

    from lit_hidden.subnetwork import fingerprint, masks

    def first_mask(run):
        return next(iter(masks(make_module(run, data).net).values()))

    def order(run):
        data = make_data(run, "data")
        data.setup("fit")
        return next(iter(data.train_dataloader()))[1].tolist()

    weights, mask, labels = fingerprint(make_module(base, data).net), first_mask(base), order(base)
    for field in ("weight_seed", "score_seed", "data_seed"):
        run = replace(base, **{field: 9})
        assert (fingerprint(make_module(run, data).net) != weights) == (field == "weight_seed")
        assert (not first_mask(run).equal(mask)) == (field == "score_seed")
        assert (order(run) != labels) == (field == "data_seed")
