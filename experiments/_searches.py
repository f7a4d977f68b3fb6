"""Searches of a random network, for `successors`: the fields that say a rule, its runs, and which of them count."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np

from lit_hidden.code import Spec, full, spec
from lit_hidden.results import NoRunsError, Results
from lit_hidden.run import Run

CONSTANT, NORMAL = "signed_constant", "kaiming_normal"
RULES: dict[str, dict[str, Any]] = {  # fields of a run that say its rule
    "edge_popup": {"method": "edge_popup", "distribution": CONSTANT, "masker": None, "callbacks": ()},
    "global": {"masker": full("global_topk.GlobalPopup")},
    "iterand": {"IteRand.rate": 0.1},
    "iterand_all": {"IteRand.rate": 1.0},
    "signed": {"masker": full("signed.SignedSupermask"), "weight_decay": 5e-4},  # the decay of the authors' code
    "gates": {"masker": full("gates.Gates"), "optimizer": "adam"},
    "zhou": {"method": "supermask"},
    "normal": {"method": "edge_popup", "distribution": NORMAL, "masker": None},
    "biprop": {"distribution": NORMAL, "masker": full("biprop.Biprop")},
    "random": {"method": "random"},
}
RATES: dict[str, tuple[float | None, ...]] = {"gates": (0.03, 0.1), "zhou": (None,), "random": (None,)}


@dataclass(frozen=True)
class Protocol:
    """What a preset trains: its nets, where edge-popup and the others start, and how often IteRand draws."""

    nets: tuple[Run, ...]
    seeds: int
    densities: tuple[float, ...]  # the first is `few`, and 0.5 is among them
    reference: tuple[float, ...]  # of edge-popup on constants
    penalties: tuple[float, ...]
    zhou: tuple[float, ...]
    every: int

    def starts(self, rule: str) -> tuple[float, ...]:
        """List the densities that a rule keeps, or starts from."""
        own = {"edge_popup": self.reference, "zhou": self.zhou}
        own |= dict.fromkeys(("normal", "biprop"), self.densities[:-1])
        half = ("iterand", "iterand_all", "gates")
        return own.get(rule, (0.5,) if rule in half else self.densities)

    def callbacks(self, rule: str) -> list[tuple[Spec, ...]]:
        """List what runs of a rule do besides."""
        own: dict[str, list[tuple[Spec, ...]]] = {
            "global": [(spec("global_topk.GlobalTopK"),)],
            "iterand": [(spec("iterand.IteRand", every=self.every),)],
            "iterand_all": [(spec("iterand.IteRand", every=self.every, rate=1.0),)],
            "gates": [(spec("gates.Sparsity", penalty=penalty),) for penalty in self.penalties],
        }
        return own.get(rule, [()])

    def grid(self, net: Run) -> Iterator[Run]:
        """List the runs of a net: trained, then each rule from each start at each rate."""
        yield net
        for rule, given in RULES.items():
            own = {name: value for name, value in given.items() if "." not in name}
            for density in self.starts(rule):
                for callbacks in self.callbacks(rule):
                    for rate in RATES.get(rule, (0.1, 0.3)):
                        yield replace(net, **own | {"density": density, "callbacks": callbacks, "lr": rate})


def of(results: Results, net: str, rule: str, **where: Any) -> Results:
    """Keep a net's runs of a rule and a setting, at the rate that gives the better training accuracy."""
    same = results.select(net=net, **RULES[rule], **where)
    rates = same.whole.by(lambda run: run.lr)  # chosen once, by all seeds
    if len(rates) == 1:
        return same
    return same.select(lr=max(rates, key=lambda rate: rates[rate].mean("train_accuracy")))


def settings(results: Results, net: str, rule: str) -> list[Results]:
    """List a net's runs of a rule by setting, from few weights to many."""
    name = "Sparsity.penalty" if rule == "gates" else "density"
    same = results.select(net=net, **RULES[rule])
    values = same.whole.each(name)
    return [of(results, net, rule, **{name: value}) for value in (values[::-1] if rule == "gates" else values)]


def share(results: Results, part: Results) -> float:
    """Give the share of weights that the runs of a rule and a setting keep."""
    run = part.runs[0]
    if run.method == "supermask":
        return part.mean("density_sampled")
    return part.mean("parameters") / results.mean("parameters", net=run.net, method="dense")


def update(results: Results, rule: str) -> float:
    """Give the median time of an update of a rule, in seconds; NaN where nothing was timed."""
    try:
        timed = [result for _, result in results.select(**RULES[rule]) if "provenance" in result]
    except NoRunsError:
        timed = []
    return float(np.median([one["provenance"]["seconds"] / one["steps"] for one in timed])) if timed else nan
