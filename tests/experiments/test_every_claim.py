"""Every claim of every experiment: some results support it, some contradict it, some do not decide it; chance none."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from fabricated import EXPERIMENTS, experiment, grid, measured

from experiments import _margins as margins
from experiments._published import points
from lit_hidden.judge import judge
from lit_hidden.results import Results
from lit_hidden.run import Run

# These are about more than accuracies; tests of their own have results of the three kinds for each claim.
OTHERS = (
    "fig2", "theorem", "lottery", "random_labels", "individuals", "variance", "feedback", "predictive_coding",
    "similarity", "spiking", "cerebellum", "maturity", "critical_period", "dale", "lesion", "successors", "language",
)  # fmt: skip
NAMES = [name for name in EXPERIMENTS if name not in OTHERS]
Accuracy = Callable[[Run], float]


@cache
def verdicts(name: str, accuracy: Accuracy, spread: float | Accuracy = 0.1) -> list[str]:
    """Judge the paper preset of an experiment by made-up accuracies, scattered evenly by `spread` either way."""
    results = measured(grid(name, "paper"), accuracy, spread if callable(spread) else lambda run: spread)
    return [judge(claim, results, grid(name, "paper")).verdict for claim in experiment(name).CLAIMS]


def of_the_paper(run: Run) -> float:
    """Half is best (30% on ImageNet), deeper, wider and constants are better."""
    if run.method == "random":
        return 100 / run.num_classes
    depth = {"conv2": 0, "conv4": 3, "conv6": 5, "conv8": 6, "resnet50": 0, "resnet101": 4, "wide_resnet50_2": 5}
    level = 70.0 + depth.get(run.net, 0) + 3 * float(np.log2(run.width))
    if run.method == "dense":
        small = {"resnet18": -4.0, "resnet34": 3.0}.get(run.net, 6.0)  # figure 8's is as good as a larger one's 30%
        return level + small - 0.8 * depth.get(run.net, 0) - (0 if run.net.startswith("conv") else 3)
    best = 0.3 if run.net.startswith(("resnet", "wide")) else 0.5
    level -= 20 * abs((run.density or 0) - best) if run.width == 1 or run.data != "cifar10" else 0
    level += {"signed_constant": 2.5, "kaiming_normal": -1.0}.get(str(run.distribution), -4.0)
    return level + (3 if raised(run) else 0) - (3 if run.method == "supermask" else 0)


def opposite(run: Run) -> float:
    """All of that the other way round."""
    return {"random": 97.0, "dense": 95.0}.get(str(run.method), 140.0 - of_the_paper(run))


def raised(run: Run) -> bool:
    """Whether it is figure 7's control."""
    return run.distribution == "xavier_normal" and (run.lr or 0) > 1 and run.method == "edge_popup"


def few_normal(run: Run) -> float:
    """What one third party's runs have ahead at 10%."""
    return 5.0 if (run.distribution, run.density) == ("kaiming_normal", 0.1) else 0.0


def by_method(**accuracies: float) -> Accuracy:
    """Give each method an accuracy, and tickets one by what they were found by."""

    def accuracy(run: Run) -> float:
        return accuracies[f"ticket_{run.found_by}" if run.method == "ticket" else str(run.method)]

    return accuracy


def by_the_authors(run: Run) -> float:
    """What their README says of 30% of ResNets on ImageNet; 60 of others."""
    where = {"net": run.net, "method": run.method, "distribution": run.distribution, "density": run.density}
    return next((point.accuracy for point in points(source="authors", **where)), 60.0) if run.density else 60.0


def closing(run: Run) -> float:
    """Conv4 and Conv6 gain 3 points found and 2 trained with each doubling of the width."""
    return 80 + float(np.log2(run.width)) * (2 if run.method == "dense" else 3) + 0.5 * (run.method == "dense")


SUPPORTING: dict[str, Accuracy] = {
    "fig1": by_method(dense=75.0, edge_popup=75.2, random=10.0),
    "fig3": lambda run: of_the_paper(run) + few_normal(run),
    "fig4": closing,
    "table2": by_the_authors,
    "tickets": by_method(dense=86.0, edge_popup=80.0, random=10.0, ticket_edge_popup=84.0, ticket_random=83.8),
}
CONTRADICTING: dict[str, Accuracy] = {
    "fig3": lambda run: opposite(run) - few_normal(run),
    "fig7": lambda run: opposite(run) + 5 * (run.scaled is True) + 5 * raised(run),
    "tickets": by_method(dense=80.0, edge_popup=90.0, random=10.0, ticket_edge_popup=85.0, ticket_random=70.0),
}


def lucky(run: Run) -> float:
    return 2.0 if (run.net, run.density) == ("conv8", 0.1) else 0.1


def steady(run: Run) -> float:
    return 2.0 if run.net == "conv8" and run.density in (0.3, 0.5, 0.7) else 0.05


def alike(run: Run) -> float:
    """Equal, but that a trained net is ahead by the point at which it may be."""
    return 61.0 if run.method == "dense" else 60.0


def at_chance(run: Run) -> float:
    return 100 / run.num_classes


def just_above_chance(run: Run) -> float:
    """Where no run counts as failed, and nothing was learned to speak of."""
    return 100 / run.num_classes * 1.6 if run.method != "random" else at_chance(run)


@pytest.mark.parametrize("name", NAMES)
def test_nets_that_are_alike_decide_nothing_but_what_is_counted(name: str) -> None:
    for claim, verdict in zip(
        experiment(name).CLAIMS, verdicts(name, by_the_authors if name == "table2" else alike, 8.0), strict=True
    ):
        assert verdict == "undecided" or claim.every, claim.sentence


@pytest.mark.parametrize("name", NAMES)
def test_some_results_support_and_some_contradict_each_claim(name: str) -> None:
    found = zip(
        verdicts(name, SUPPORTING.get(name, of_the_paper), lucky),
        verdicts(name, CONTRADICTING.get(name, opposite), steady),
        strict=True,
    )
    for claim, pair in zip(experiment(name).CLAIMS, found, strict=True):
        assert pair == ("supported", "contradicted") or claim.kind == "check", claim.sentence


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("accuracy", [at_chance, just_above_chance])
def test_nothing_that_stays_at_chance_supports_anything_but_checks(name: str, accuracy: Accuracy) -> None:
    for claim, verdict in zip(experiment(name).CLAIMS, verdicts(name, accuracy, 0.02), strict=True):
        # 16% do beat a random mask's 10%, and that is all that such a claim says.
        ahead = "beats a random" in claim.sentence or "beats one chosen at random" in claim.sentence
        allowed = claim.kind == "check" or (accuracy is just_above_chance and ahead)
        assert verdict != "supported" or allowed, claim.sentence


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_checks_are_exact_and_secondary_claims_come_after_primary_ones(name: str) -> None:
    claims = experiment(name).CLAIMS
    assert all(claim.every for claim in claims if claim.kind == "check")
    assert all(claim.sentence == claim.sentence.strip(". ") for claim in claims)
    assert len({claim.sentence for claim in claims}) == len(claims)
    assert claims[0].kind in ("primary", "check")


IS_101 = {"net": "resnet101", "method": "edge_popup", "distribution": "kaiming_normal"}


@pytest.mark.parametrize(
    ("name", "where", "value", "contradicted"),
    [
        ("fig3", {"method": "random", "net": "conv6"}, 90.0, {0}),
        ("fig3", {"method": "dense", "net": "conv8", "optimizer": "adam"}, 95.0, {2, 3, 4, 7, 8}),
        ("fig3", {"net": "conv6", "density": 0.5, "distribution": "signed_constant"}, 84.0, {1}),
        ("fig7", {"scaled": True, "distribution": "kaiming_normal"}, 90.0, {3}),
        ("fig8", IS_101, 80.0, {2}),
        ("fig8", {"net": "resnet34"}, 79.0, {0}),
        ("fig8", {"method": "random"}, 73.5, {4}),
        ("fig10", IS_101, 74.1, {1}),  # a gain of 2.4 points
        ("table2", IS_101, 64.0, {0}),
        ("fig9", {"density": 0.7, "distribution": "signed_constant", "method": "edge_popup"}, 75.0, {0}),
        ("fig9", {"method": "supermask", "distribution": "kaiming_normal"}, 80.0, {1, 2}),
    ],
)
def test_one_cell_is_enough_to_fail_a_claim_about_all(name: str, where: Any, value: float, contradicted: Any) -> None:
    def changed(run: Run) -> float:
        return value if where.items() <= vars(run).items() else SUPPORTING.get(name, of_the_paper)(run)

    told = verdicts(name, changed, lucky)
    assert {number for number, verdict in enumerate(told) if verdict == "contradicted"} == contradicted


def test_a_subnetwork_with_more_weights_than_the_smaller_net_contradicts_figure_8() -> None:
    more = {"parameters": lambda run: 22e6 if run.density else 21.8e6}
    results = measured(grid("fig8", "paper"), of_the_paper, **more)
    told = [judge(claim, results).verdict for claim in experiment("fig8").CLAIMS]
    assert [number for number, verdict in enumerate(told) if verdict == "contradicted"] == [1]


def test_a_gap_that_is_small_at_the_ends_alone_does_not_shrink_with_depth() -> None:
    gaps = {"conv2": 2.0, "conv4": 9.0, "conv6": 12.0, "conv8": 1.0}
    assert verdicts("fig3", lambda run: 90.0 - (gaps[run.net] if run.method != "dense" else 0.0))[2] == "undecided"


def test_adam_is_judged_by_the_published_protocol_alone() -> None:
    """In cut presets its batches of 60 make twice as many updates."""
    fig3 = experiment("fig3")
    for preset, expected in (("quick", 40), ("paper", 90)):
        results = measured(fig3.runs(preset), lambda run: 90.0 if run.optimizer == "adam" else 40.0)
        assert fig3.trained(results, "conv2") == pytest.approx(expected, abs=0.1)


def test_a_supermask_is_compared_where_it_ended_and_not_where_it_began() -> None:
    """Started at 10%, it ends at 30%: there edge-popup has 80, between its 70 at 10% and its 90 at 50%."""
    rows = [(Run(net="conv2", density=d), {"accuracy": 65.0 + 50 * d}, None) for d in (0.1, 0.5)]
    zhou = Run(net="conv2", density=0.1, method="supermask")
    results = Results([*rows, (zhou, {"accuracy": 78.0, "density_sampled": 0.3}, None)])
    assert margins.supermasks_behind(results) == pytest.approx(2.0)
    assert experiment("fig6").ahead(results, "signed_constant") == [pytest.approx(2.0)]
    few = Results([*rows, (zhou, {"accuracy": 78.0, "density_sampled": 0.05}, None)])
    assert np.isnan(margins.supermasks_behind(few)), "no subnetwork has so few weights"
