"""The notes on inhibition and on lesions: claims can hold, fail and stay open; what is read from curves, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import drawn, overlaps

from experiments import dale, lesion
from lit_hidden.judge import judge
from lit_hidden.results import Results
from lit_hidden.run import Run


def noise(run: Run, spread: float) -> np.ndarray:
    return spread * np.random.default_rng(int(run.hash, 16)).uniform(-1, 1, 4)


def judged(experiment: Any, results: Results) -> list[str]:
    return [judge(claim, results, results.runs).verdict for claim in experiment.CLAIMS]


# --- dale ------------------------------------------------------------------------------------------------------------

ARMS = {  # accuracy at the best rate, where the claims hold and where they fail
    "free": (95, 95), "half": (92, 75), "fifth": (80, 94), "balanced": (91, 93), "none": (50, 94),
    "free, subtracted": (95, 99), "fifth, subtracted": (93, 93), "none, subtracted": (92, 93),
}  # fmt: skip


def dale_results(case: int, spread: float = 0.1, folder: Path | None = None) -> Results:
    if folder is not None:
        np.savez(folder / "dale.npz", drive=[0.1, 0.2], drive_before=[0.5, 0.6])
    rows = []
    for run in (run.resolved for run in dale.runs("quick")):
        name, scatter = dale.arm(run), noise(run, spread)
        level = ARMS[name][case] - (0.0 if run.lr == dale.RATES[run.net][len(name) % 3] else 9.0)
        more = {"fifth": (20, 1), "half": (2, 9)}.get(name, (0, 0))[case] / 2 * np.sign(1.5 - case)
        result = {"accuracy": level + scatter[0], "val_accuracy": level + scatter[0], "fails_below": 0.0}
        kept = {"kept_inhibitory": 50 + more + scatter[1], "kept_excitatory": 50 - more + scatter[2]}
        mixed = 9 if "free" in name else case
        rows.append((run, result | kept | {"mixed": mixed, "drive": scatter[3]}, folder))
    return Results(rows)


def test_claims_about_dales_principle_can_hold_fail_and_stay_open():
    assert set(judged(dale, dale_results(0))) == {"supported"}
    assert set(judged(dale, dale_results(1))) == {"contradicted"}
    assert set(judged(dale, dale_results(0, 60.0))[:-1]) == {"undecided"}


def test_an_arm_counts_at_its_best_rate_on_held_out_images_chosen_by_all_seeds():
    found = dale.at(results := dale_results(0), "lenet", "signed_constant", "none")
    assert {run.lr for run in found.runs} == {0.05}
    best = found.rows[0][0]
    others = [run for run in found.runs if run != best]
    swapped = Results([(run, result | ({"val_accuracy": 0.0} if run in others else {}), None)
                       for run, result, _ in results.rows])  # fmt: skip
    assert dale.at(swapped, "lenet", "signed_constant", "none").runs[0].lr != 0.05
    assert {run.lr for run in dale.at(results.without([best.hash]), "lenet", "signed_constant", "none").runs} == {0.05}


def test_every_preset_has_each_arm_of_a_net_at_three_rates():
    for preset in ("smoke", "quick", "short", "paper"):
        cells: dict[Any, set[float]] = {}
        for run in (run.resolved for run in dale.runs(preset)):
            assert run.held_out > 0
            cells.setdefault((run.net, run.distribution, run.density, dale.arm(run), run.seed), set()).add(run.lr)
        assert all(len(rates) == 3 for rates in cells.values())


# --- lesion ----------------------------------------------------------------------------------------------------------


def lesion_results(case: int, spread: float = 0.1, folder: Path | None = None) -> Results:
    """Quick results where the claims hold (0) or fail (1), with curves that are back at 95% after `back` epochs."""
    rows, back = [], {}
    for run in (run.resolved for run in lesion.runs("quick")):
        age, restarted = run.option("Lesion.epoch")[0] / 8, run.option("SecondCosine.restarted")[0]
        anew, scatter = run.epochs > 8, noise(run, spread)
        if run.option("Lesion.fraction")[0] == 0:
            level = 95 if age == 0 else (95.5, 99)[case]
        elif case == 0:
            level = 94.9 if age == 0 or (restarted and anew) else 92 if restarted else 89
        else:
            masks = run.density is not None
            level = (85 - 4 * masks) - (
                0 if age == 0 else 6 if restarted and anew else -4 if not restarted and anew else 0
            )
        at_once = (30, 93)[case] + scatter[1]
        check = {"revived": case, "living": 1000, "parameters": (501, 520)[case]}
        where = None
        if folder is not None:
            where = folder / run.hash
            where.mkdir()
            lines = ["step,test_top1", *(f"{n},{10.0 + n}" for n in range(run.epochs + 1))]
            (where / "metrics.csv").write_text("\n".join(lines) + "\n")
        rows.append((run, {"accuracy": level + scatter[0], "immediate": at_once, **check}, where))
        back[run.hash] = ((7, 3) if age == 0 else (3, 7))[case] + scatter[2]
    results = Results(rows)
    results.reduce_by(lambda left: {
        "runs": np.array([run.hash for run in left.runs]), "epochs": np.array([back[run.hash] for run in left.runs])
    })  # fmt: skip
    return results


def test_claims_about_lesions_can_hold_fail_and_stay_open():
    assert set(judged(lesion, lesion_results(0))) == {"supported"}
    assert set(judged(lesion, lesion_results(1))) == {"contradicted"}
    assert set(judged(lesion, lesion_results(0, 150.0))[:-2]) == {"undecided"}


def test_95_percent_is_counted_from_the_lesion_and_one_more_than_the_epochs_if_it_is_not_reached(tmp_path):
    rows = [row for row in lesion_results(0, folder=tmp_path).rows if row[0].seed == 0 and row[0].density]
    curves = {(0, 8): [10, 50, 96] + [0] * 6, (4, 8): [96] * 5 + [50, 96, 0, 0], (4, 12): [96] * 5 + [50] * 8,
              (8, 16): [96] * 9 + [89] * 7 + [91]}  # fmt: skip
    for run, result, folder in rows:
        curve = curves.get((run.option("Lesion.epoch")[0], run.epochs), [96] * (run.epochs + 1))
        (folder / "metrics.csv").write_text("\n".join(["step,test_top1", *(f"{n},{y}" for n, y in enumerate(curve))]))
        result["accuracy"] = 95.0  # of which 95% are 90.25
    results = Results(rows)
    results.reduce_by(lesion.reduce)
    cell = ("lenet", "edge_popup", "edges")
    expected = {(0.0, True, True): 2, (0.5, True, False): 2, (0.5, True, True): 9, (1.0, True, True): 8}
    for key, epochs in expected.items():
        assert lesion.reached(results, lesion.at(results, cell, *key)) == [epochs]


def test_after_each_lesion_there_is_each_sequel_but_where_all_are_one():
    for preset, lenet in (("smoke", 4), ("quick", 8), ("short", 8)):
        found: dict[Any, list[tuple[bool, int]]] = {}
        for run in (run.resolved for run in lesion.runs(preset)):
            age = run.option("Lesion.epoch")[0] / run.option("SecondCosine.before")[0]
            key = run.net, run.method, *run.option("Lesion.of"), *run.option("Lesion.fraction"), age, run.seed
            found.setdefault(key, []).append((run.option("SecondCosine.restarted")[0], run.epochs))
        for (net, *_, fraction, age, _), sequels in found.items():
            whole = lenet if net == "lenet" else 4
            ends = {whole, whole + round(age * whole)}
            both = {(restarted, end) for restarted in (False, True) for end in ends}
            both = {(False, whole)} if age == 0 else {(True, 2 * whole)} if age == 1 else both
            assert set(sequels) == both
            assert len(sequels) == len(both)
            assert fraction in (0, 0.5)


@pytest.mark.parametrize(("experiment", "results"), [(dale, dale_results), (lesion, lesion_results)])
def test_a_drawing_can_be_read(experiment, results, tmp_path):
    found = results(0, folder=tmp_path)
    figure = drawn(experiment, found, "quick")
    assert not overlaps(figure)
    assert sum(len(axes.get_lines()) for axes in figure.axes) > 12
    half = Results(found.rows[: len(found) // 2])
    half.reduce_by(lambda _: found.summary)
    drawn(experiment, half, "quick")
