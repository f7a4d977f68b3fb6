"""`successors`: claims that can hold, fail and stay open; which rate counts, and where a rule is compared."""

from typing import Any

import numpy as np
import pytest
from fabricated import drawn, overlaps

from experiments import _searches, successors
from lit_hidden.judge import judge
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

LEVELS = {  # accuracy of each rule, where the claims hold and where they fail
    "edge_popup": (80.0, 80.0), "global": (85.0, 75.0), "iterand": (85.0, 75.0), "iterand_all": (70.0, 85.0),
    "signed": (90.0, 70.0), "gates": (82.0, 60.0), "zhou": (70.0, 90.0), "normal": (70.0, 80.0),
    "biprop": (75.0, 70.0), "random": (10.0, 95.0), "dense": (88.0, 92.0),
}  # fmt: skip


def alike(run: Run, rule: str) -> bool:
    """Whether a run is selected as one of a rule."""
    try:
        return len(Results([(run, {}, None)]).select(**_searches.RULES[rule])) == 1
    except NoRunsError:
        return False


def rule_of(run: Run) -> str:
    return next((rule for rule in _searches.RULES if alike(run, rule)), "dense")


def fabricated(case: int, spread: float = 0.1, preset: str = "quick", **more: float) -> Results:
    rows = []
    for run in (run.resolved for run in successors.runs(preset)):
        noise = spread * np.random.default_rng(int(run.hash, 16)).uniform(-1, 1)
        rule = rule_of(run)
        accuracy = LEVELS[rule][case] + noise - 5 * (run.lr == 0.3)
        kept = {"gates": 0.1, "dense": 1.0}.get(rule, run.density)
        result: dict[str, Any] = {"accuracy": accuracy, "train_accuracy": accuracy, "parameters": 1000 * kept}
        result |= {"steps": 135 - 5 * (case == 1 and rule == "signed"), "provenance": {"seconds": 1.0}, **more}
        rows.append((run, result | ({"density_sampled": 0.4} if rule == "zhou" else {}), None))
    return Results(rows)


def judged(results: Results) -> dict[str, str]:
    return {claim.sentence: judge(claim, results, results.runs).verdict for claim in successors.CLAIMS}


def test_claims_can_hold_fail_and_stay_open():
    assert set(judged(fabricated(0)).values()) == {"supported"}
    assert set(judged(fabricated(1)).values()) == {"contradicted"}
    *noisy, steps = judged(fabricated(0, 150.0)).values()
    assert (set(noisy), steps) == ({"undecided"}, "supported")


def test_where_no_net_learns_nothing_is_supported_but_the_number_of_updates():
    *words, steps = judged(fabricated(0, accuracy=10.0, train_accuracy=10.0)).values()
    assert (set(words), steps) == ({"undecided"}, "supported")


def test_each_run_has_one_rule_and_each_rule_all_nets_and_seeds():
    for preset in ("quick", "short", "paper"):
        runs = [run.resolved for run in successors.runs(preset)]
        rules = {rule: {(run.net, run.seed) for run in runs if alike(run, rule)} for rule in _searches.RULES}
        assert len({frozenset(cells) for cells in rules.values()}) == 1
        assert all(sum(alike(run, rule) for rule in rules) == (run.density is not None) for run in runs)


def result(run: Run, accuracy: float, kept: float, train: float = 0.0) -> Any:
    return run, {"accuracy": accuracy, "parameters": 1000 * kept, "train_accuracy": train or accuracy}, None


def test_a_rule_is_compared_where_it_ended_at_the_rate_that_trains_better():
    net = Run(net="conv2", data="digits")
    signed = {"net": "conv2", "data": "digits", **_searches.RULES["signed"]}
    rows = [result(net, 95.0, 1.0)]
    for density, accuracy in ((0.2, 60.0), (0.4, 80.0)):
        rows += [result(Run(net="conv2", data="digits", density=density, lr=0.1), accuracy, density, 50.0),
                 result(Run(net="conv2", data="digits", density=density, lr=0.3), 99.0, density, 40.0)]  # fmt: skip
    rows.append(result(Run(**signed, density=0.5), 75.0, 0.3))  # began at 50%, ended at 30%: there edge-popup has 70
    assert successors.ahead(Results(rows), "signed") == [pytest.approx(5.0)]
    beyond = Results([*rows, result(Run(**signed, density=0.9), 99.0, 0.8)])  # edge-popup was not tried there
    assert successors.ahead(beyond, "signed") == [pytest.approx(5.0)]
    only = Results([*rows[:-1], result(Run(**signed, density=0.9), 99.0, 0.8)])
    assert np.isnan(successors.ahead(only, "signed")).all()


def test_the_drawing_can_be_read_and_half_a_grid_is_drawn():
    figure = drawn(successors, fabricated(0), "quick")
    assert overlaps(figure) == []
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    ends = {name: pytest.approx([x for x, _ in lines[name]]) for name in ("signed supermask", "Zhou's supermask")}
    assert ends == {"signed supermask": [0.2, 0.5], "Zhou's supermask": [0.4]}
    assert overlaps(drawn(successors, fabricated(0, preset="paper"), "paper")) == []
    drawn(successors, fabricated(0).where(lambda run: run.masker is None), "quick")
