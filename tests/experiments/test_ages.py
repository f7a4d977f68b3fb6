"""Maturity and critical periods: which runs a claim compares; that it can hold, fail and stay open; the drawings."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import drawn, grid, overlaps

from experiments import critical_period, maturity
from lit_hidden.judge import judge
from lit_hidden.results import Results
from lit_hidden.run import Run

MATURITY = {  # accuracies of each arm, and of the first task with the last layer of then: where claims hold, and fail
    "learns": (95, 95), "nothing": (94.5, 85), "last": (97, 70), "pruned": (98, 90), "grown": (90, 95),
    "plastic": (90, 50), "mature": (60, 55), "fresh": (80, 90), "continued": (95, 80),
}  # fmt: skip
FIRST = {"plastic": (70, 94), "mature": (95, 80), "fresh": (10, 10)}
DEFICITS = {"clear": (95, 95), "total": (80, 94), "rest": (90, 97), "flip": (95, 96), "restarted": (95, 80)}


def maturity_level(run: Run, case: int) -> float:
    name, life = maturity.arm(run), 8 if run.net == "lenet" else 4
    if name == "moved":
        name = "pruned" if run.option("Density.start") == [1.0] else "grown"
    if name == "nothing" and maturity.end(run) == 0:
        return (10, 90)[case]
    if name == "learns" and run.epochs < life:
        return (97, 70)[case]
    return MATURITY[name][case]


def critical_level(run: Run, case: int) -> float:
    life = 8 if run.net == "lenet" else 4
    name, part = critical_period.arm(run, life), critical_period.age(run) / life
    if name == "parent":
        return 50.0
    if name == "restarted" and not part:
        return (95, 99)[case]
    more = {"total": 10, "rest": 4}.get(name, 0) * (part - 1) * (-1 if case == 0 else 1)
    return DEFICITS[name][case] + more - (2, -2)[case] * (name == "rest" and run.density is not None)


def fabricated(experiment: Any, case: int, spread: float = 0.1, folder: Path | None = None) -> Results:
    """Quick results where the claims hold (0) or fail (1), with curves if there is a folder."""
    level, rows = {maturity: maturity_level, critical_period: critical_level}[experiment], []
    for run in grid(experiment.__name__.rpartition(".")[2], "quick"):
        noise = spread * np.random.default_rng(int(run.hash, 16)).uniform(-1, 1, 2)
        result = {"accuracy": level(run, case) + noise[0], "parameters": 100 + case * run.epochs, "fails_below": 0.0}
        if (name := maturity.arm(run) if experiment is maturity else "") in FIRST:
            whole = level(run.after, case) if run.after else 0.0
            first = FIRST[name][case] if name != "mature" or case else whole
            result["first_readout"] = first + noise[1] * (name != "mature")
            result["first"] = result["first_readout"] - 20
        where = folder and folder / run.hash
        if where is not None:
            where.mkdir()
            lines = [f"{epoch},{10 + 80 * epoch / run.epochs}" for epoch in range(run.epochs + 1)]
            (where / "metrics.csv").write_text("\n".join(["step,test_top1", *lines]))
        rows.append((run, result, where))
    if case == 0 and experiment is maturity:  # exact: the mature net knows what its parent knew
        known = {run.hash: result["accuracy"] for run, result, _ in rows}
        for run, result, _ in rows:
            if maturity.arm(run) == "mature":
                result["first_readout"] = known[run.after.hash]
    return Results(rows)


@pytest.mark.parametrize("experiment", [maturity, critical_period])
def test_claims_can_hold_fail_and_stay_open(experiment):
    def judged(*how: Any) -> list[str]:
        results = fabricated(experiment, *how)
        return [judge(claim, results, results.runs).verdict for claim in experiment.CLAIMS]

    assert set(judged(0)) == {"supported"}
    assert set(judged(1)) == {"contradicted"}
    exact = [claim.every for claim in experiment.CLAIMS]
    assert {word for word, every in zip(judged(0, 60.0), exact, strict=True) if not every} == {"undecided"}


def test_arms_are_what_they_are_called():
    """Counted from the descriptions of the runs, of one seed."""
    runs = [run for run in grid("maturity", "short") if run.seed == 0]
    assert Counter((run.net, maturity.arm(run)) for run in runs if run.net == "lenet") == {
        ("lenet", "learns"): 5, ("lenet", "nothing"): 4, ("lenet", "last"): 4, ("lenet", "moved"): 4,
        ("lenet", "plastic"): 1, ("lenet", "mature"): 1, ("lenet", "continued"): 1, ("lenet", "fresh"): 1,
    }  # fmt: skip
    runs = [run for run in grid("critical_period", "short") if (run.seed, run.net, run.method) == (0, "lenet", "dense")]
    found = {name: [run for run in runs if critical_period.arm(run, 8) == name] for name in (*DEFICITS, "parent")}
    assert sum(map(len, found.values())) == len(runs)
    told = {name: [(critical_period.age(run), run.epochs) for run in part] for name, part in found.items()}
    assert told == {
        "clear": [(0, 8)], "total": [(2, 8), (4, 8), (8, 8)], "rest": [(2, 10), (4, 12), (8, 16)],
        "flip": [(2, 10), (4, 12), (8, 16)], "restarted": [(0, 8), (2, 8), (4, 8), (8, 8)], "parent": [(2, 2), (4, 4)],
    }  # fmt: skip
    assert all(run.after.option("Deficit.until") == [run.after.epochs] for run in found["restarted"][1:])
    assert found["restarted"][0].after == found["clear"][0]


@pytest.mark.parametrize("experiment", [maturity, critical_period])
def test_a_drawing_can_be_read_and_half_a_grid_is_drawn(experiment, tmp_path):
    results = fabricated(experiment, 0, folder=tmp_path)
    figure = drawn(experiment, results, "quick")
    assert not overlaps(figure)
    assert sum(len(axes.get_lines()) for axes in figure.axes) > 15
    drawn(experiment, results.where(lambda run: run.net == "lenet" and run.after is None and run.epochs > 4), "quick")
