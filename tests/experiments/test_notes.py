"""The discussion notes, spiking nets and granule layers: each claim can hold, fail and stay open; drawings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import drawn, grid, overlaps

from experiments import cerebellum, spiking
from lit_hidden.judge import judge
from lit_hidden.results import Results
from lit_hidden.run import Run


def judged(experiment: Any, results: Results) -> list[str]:
    return [judge(claim, results, results.runs).verdict for claim in experiment.CLAIMS]


def noise(run: Run, spread: float) -> float:
    return spread * float(np.random.default_rng(int(run.hash, 16)).uniform(-1, 1))


def spiking_results(case: int, spread: float = 0.1, folder: Path | None = None) -> Results:
    """Quick results where the claims hold (0) or fail (1)."""
    if folder is not None:
        raster = {f"raster_{layer}": np.eye(8, 20, dtype=bool) for layer in (1, 2)}
        np.savez(folder / "spiking.npz", before=[10.0, 5.0], after=[8.0, 6.0], **raster)
    level = {  # of half of the synapses and of trained weights, by how many times the usual threshold
        0: {"edge_popup": {0.25: 70, 0.5: 94.5, 1: 95, 2: 94.5, 4: 85}, "dense": {0.25: 90, 4: 92}},
        1: {"edge_popup": {0.25: 80, 0.5: 70, 1: 80, 2: 70, 4: 82}, "dense": {0.25: 40, 4: 40}},
    }[case]  # fmt: skip
    rows = []
    for run in grid("spiking", "quick"):
        method, steps = str(run.method), run.net.rpartition("_")[2]
        factor = round(float((run.option("Neurons.threshold") or [0.7])[0]) / 0.7, 3)
        value = level.get(method, {}).get(factor, 96.0 if method == "dense" else 10.0)
        if method == "random":
            value = (10.0, 75.0)[case]
        elif not run.callbacks:
            value = 96.0
        elif run.density == spiking.SPARSE:
            value = (90.0, 80.0)[(run.option("Neurons.scaled") == [True]) == (case == 1)]
        elif steps == "1":
            value = (90.0, 79.5 if method == "edge_popup" else 96.0)[case]
        value -= 5.0 * (run.lr == min(spiking.RATES["lenet" if "lenet" in run.net else "conv2"]))
        value += noise(run, spread)
        spikes = {"edge_popup": (100.0, 300.0)[case], "dense": 200.0}.get(method, 50.0) * (
            int(steps) if steps in "148" else 1
        )
        rows.append((run, {"accuracy": value, "train_accuracy": value, "spikes": spikes + noise(run, spread)}, folder))
    return Results(rows)


def test_claims_about_spiking_nets_can_hold_fail_and_stay_open():
    assert set(judged(spiking, spiking_results(0))) == {"supported"}
    *failing, spikes = judged(spiking, spiking_results(1))
    assert set(failing) == {"contradicted"}
    assert spikes == "undecided", "hidden and trained nets are not equally accurate"
    assert set(judged(spiking, spiking_results(0, 150.0))) == {"undecided"}


def test_spikes_are_compared_where_both_nets_reach_the_same_training_accuracy():
    results = spiking_results(0, 0.0)
    found = {
        method: {run.net.rpartition(".")[2] for run in part.runs}
        for method, part in spiking.at_equal_accuracy(results).items()
    }
    assert found == {"edge_popup": {"lenet_4"}, "dense": {"lenet_4"}}  # nets of one step have 90%
    assert spiking.fewer_spikes(results) == pytest.approx(100 * (1 - 400 / 800))


# --- granule layers --------------------------------------------------------------------------------------------------

DIMENSION = {  # of random inputs by their number, where the claims hold and where they fail
    0: {1: 5.0, 2: 12.0, 4: 24.0, 8: 22.0, 32: 12.0}, 1: {1: 60.0, 2: 55.0, 4: 20.0, 8: 22.0, 32: 30.0},
}  # fmt: skip


def cerebellum_results(case: int, spread: float = 0.05) -> Results:
    rows = []
    for run in grid("cerebellum", "quick"):
        there = cerebellum.INPUTS[run.data]
        count, own = round(float(run.density or 0) * there), noise(run, spread)
        chosen, small = str(run.masker).endswith("TopPerUnit"), run.width == 0.1
        both = run.distribution == "kaiming_normal"
        dimension = DIMENSION[case].get(count, (2.0, 40.0)[case])
        if both:
            dimension = (20.0 + 10 * (count == there), 30.0 - 20 * (count == there))[case]
        merit = 80.0 + 2 * np.log2(min(count, 8)) - 10 * (count == there) if case == 0 else 80.0 + 5 * (count == there)
        if chosen:
            merit += (
                (6.0 if small else 3.0) + 2 * (count == 32)
                if case == 0
                else (-6.0 if small else -3.0) - 2 * (count == 32)
            )
        number = {"accuracy": merit + own} if run.task is None else {
            "metric": "error", "better": "lower", "unit": "degrees", "error": 100 - merit + own,
        }  # fmt: skip
        rows.append((run, number | {
            "dimension": dimension * 2 ** (own / 5), "fewest": count, "most": count + case,
            "held_out_metric": merit if run.task is None else 100 - merit,
            "endpoint": (100 - merit) / 50 + own / 10,
        }, None))  # fmt: skip
    return Results(rows)


def test_claims_about_granule_layers_can_hold_fail_and_stay_open():
    assert set(judged(cerebellum, cerebellum_results(0))) == {"supported"}
    assert set(judged(cerebellum, cerebellum_results(1))) == {"contradicted"}
    exact, *others = judged(cerebellum, cerebellum_results(0, 60.0))
    assert (exact, set(others)) == ("supported", {"undecided"})


@pytest.mark.parametrize("preset", ["quick", "short", "paper"])
def test_every_cell_of_a_task_has_a_whole_number_of_inputs(preset):
    for run in grid("cerebellum", preset):
        count = float(run.density or 0) * cerebellum.INPUTS[run.data]
        assert count == pytest.approx(round(count), abs=1e-6)
        assert round(count) in (*cerebellum.FEW, cerebellum.INPUTS[run.data])


# --- drawings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", [spiking, cerebellum])
def test_a_drawing_can_be_read_and_half_a_grid_is_one_too(experiment, tmp_path):
    results = spiking_results(0, folder=tmp_path) if experiment is spiking else cerebellum_results(0)
    figure = drawn(experiment, results, "quick")
    assert overlaps(figure) == []
    assert all(axes.get_lines() for axes in figure.axes)
    half = results.where(lambda run: run.method != "dense" and run.task is None and (run.density or 0) < 1)
    assert overlaps(drawn(experiment, half, "quick")) == []
