"""What the bench measures: rows of numbers, one a round, taken in turn; sections of rows."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from rich.console import Console
from torch.utils.benchmark import Timer


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

    def ratio(self, above: str, below: str, group: str = "", what: str = "") -> None:
        """Append one row divided by another, round by round as long as both have them: a busy round slows both."""
        pairs = zip(
            *(next(r.rounds for r in self.of(group) if r.what == each) for each in (above, below)), strict=False
        )
        self.add("ratio", {what or f"{above} / {below}": [x / y for x, y in pairs]}, group)

    def of(self, group: str) -> list[Row]:
        """List a group's rows."""
        return [row for row in self.rows if row.group == group]

    def medians(self, what: str) -> dict[str, float]:
        """Give the medians of the rows called so, by group."""
        return {row.group: row.numbers["median"] for row in self.rows if row.what == what}


@dataclass(frozen=True)
class Bench:
    """Where to measure, how long (at least, in seconds) and how often; `console` shows how far it is."""

    device: torch.device
    seconds: float
    rounds: int
    console: Console

    @property
    def few(self) -> int:
        """The number of rounds of what takes long, such as ResNet-50 on a CPU."""
        return min(3, self.rounds)

    def turns(
        self, title: str, measures: Mapping[str, Callable[[], float]], rounds: int, slow: float = math.inf
    ) -> dict[str, list[float]]:
        """Measure everything once a round, every other round backwards, so that slow changes fall on all alike.

        What took longer than `slow` seconds has two rounds.
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


def timed(work: Callable[[], object], seconds: float, many: int = 1) -> float:
    """Give the median milliseconds of a call, by each of `many` steps in it: on one thread, the device waited for."""
    return 1000 / many * Timer("work()", globals={"work": work}).blocked_autorange(min_run_time=seconds).median


def written(number: float) -> str:
    """Write a number with three digits, or with all of those before the point."""
    return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:.3g}"
