"""What the bench measures: rows of numbers, one a round, taken in turn; sections of rows."""

import math
import time
import timeit
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from rich.console import Console
from torch.utils.benchmark import Timer, timer


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
    """What was measured together, and how (`about`); `key` is its name in `--only`.

    The page shows a line for each row, or with `columns` a line for each group with these rows beside each other.
    """

    key: str
    device: str
    about: str
    columns: tuple[str, ...] = ()
    title: str = ""
    rows: list[Row] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.title = self.title or ", ".join(filter(None, (self.key.capitalize(), self.device)))

    def add(self, unit: str, found: Mapping[str, Iterable[float]], group: str = "") -> None:
        """Append a row for each name in `found`."""
        self.rows += [Row(what, unit, tuple(rounds), group) for what, rounds in found.items()]

    def ratio(self, above: str, below: str, group: str = "") -> None:
        """Append one row divided by another, by the rounds that both have: a busy round slows both."""
        rounds = {row.what: row.rounds for row in self.rows if row.group == group}
        pairs = zip(rounds[above], rounds[below], strict=False)
        self.add("ratio", {f"{above} / {below}": [x / y for x, y in pairs]}, group)

    def medians(self, what: str) -> dict[str, float]:
        """Give the medians of the rows with this name, by group."""
        return {row.group: row.numbers["median"] for row in self.rows if row.what == what}


@dataclass(frozen=True)
class Bench:
    """Where to measure, how long (at least, in seconds) and how often; `console` shows the progress."""

    device: torch.device
    seconds: float
    rounds: int
    console: Console

    @property
    def few(self) -> int:
        """The number of rounds of slow measurements, such as ResNet-50 on a CPU."""
        return min(3, self.rounds)

    def turns(
        self, title: str, measures: Mapping[str, Callable[[], float]], rounds: int, slow: float = math.inf
    ) -> dict[str, list[float]]:
        """Measure everything once a round, every other round backwards, so that drifts are shared by all.

        A measurement that takes longer than `slow` seconds has two rounds.
        """
        found: dict[str, list[float]] = {what: [] for what in measures}
        took = dict.fromkeys(measures, 0.0)
        for number in range(rounds):
            for what in reversed(list(measures)) if number % 2 else measures:
                if number < 2 or took[what] <= slow:
                    with self.console.status(f"{title}: round {number + 1} of {rounds}: {what}"):
                        began = time.perf_counter()
                        found[what].append(measures[what]())
                        took[what] = time.perf_counter() - began
        return found


def timed(work: Callable[[], object], seconds: float, many: int = 1) -> Callable[[], float]:
    """Give a measurement: the median milliseconds of a call, divided by the `many` steps in it.

    The first measurement warms up and chooses how many calls fill `seconds`: torch's Timer needs at least two. The
    next ones repeat these calls, so of a slow step each measurement is one call, close to the step it is compared with.
    """
    chosen: list[tuple[int, int]] = []

    def measure() -> float:
        if not chosen:
            first = Timer("work()", globals={"work": work}).blocked_autorange(min_run_time=seconds)
            chosen.append((len(first.times), first.number_per_run))
            return 1000 / many * first.median
        blocks, calls = chosen[0]
        return 1000 / many * median(timeit.repeat(work, timer=timer, repeat=blocks, number=calls)) / calls

    return measure


def written(number: float) -> str:
    """Write a number with three digits, or with all of those before the point."""
    return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:.3g}"
