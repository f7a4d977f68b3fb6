"""What the bench measures: rows of numbers, one a round, taken in turn; sections of rows."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from torch.utils.benchmark import timer


@dataclass(frozen=True)
class Row:
    """One thing measured: its number in each round; `group` is what it shares with others, such as a net."""

    what: str
    unit: str
    rounds: tuple[float, ...]
    group: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """Median, smallest and largest."""
        return {"median": median(self.rounds), "min": min(self.rounds), "max": max(self.rounds)}


@dataclass
class Section:
    """What was measured together on a device, and how (`about`)."""

    key: str
    device: str
    about: str
    rows: list[Row] = field(default_factory=list)

    def add(self, unit: str, found: Mapping[str, Iterable[float]], group: str = "") -> None:
        """Append a row for each name in `found`."""
        self.rows += [Row(what, unit, tuple(rounds), group) for what, rounds in found.items()]

    def ratio(self, above: str, below: str, group: str = "") -> None:
        """Append one row divided by another, by the rounds that both have: a busy round slows both."""
        rounds = {row.what: row.rounds for row in self.rows if row.group == group}
        pairs = zip(rounds[above], rounds[below], strict=False)
        self.add("ratio", {f"{above} / {below}": [x / y for x, y in pairs]}, group)


@dataclass(frozen=True)
class Bench:
    """Where to measure, how long (at least, in seconds) and how often."""

    device: torch.device
    seconds: float
    rounds: int


def turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure everything once a round, every other round backwards, so that drifts are shared by all."""
    found: dict[str, list[float]] = {what: [] for what in measures}
    for number in range(rounds):
        for what in reversed(list(measures)) if number % 2 else measures:
            found[what].append(measures[what]())
    return found


def timed(work: Callable[[], object], seconds: float, many: int = 1) -> Callable[[], float]:
    """Warm up, and give a measurement: the mean milliseconds of a call, divided by the `many` steps in it.

    Calls are repeated for `seconds`, at least once: a slow step is measured close to the step it is compared with.
    """
    work()

    def measure() -> float:
        calls, began = 0, timer()
        while not calls or time.perf_counter() - began < seconds:
            work()
            calls += 1
        return 1000 / many * (timer() - began) / calls

    return measure
