"""What the bench's sections are made of: rows of numbers, one a round, measured in turn."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console

COLUMNS = ("what", "median", "min", "max", "unit")
FEW, MOST = 3, 40  # rounds, however long or short they are

Measure = Callable[[int], float]  # of a round, from 0


@dataclass(frozen=True)
class Row:
    """One thing measured: its number in each round; `group` is what it shares with others, such as a net."""

    what: str
    unit: str
    rounds: tuple[float, ...]
    group: str = ""

    @property
    def median(self) -> float:
        """The middle one of its numbers, or the mean of two."""
        return statistics.median(self.rounds)

    @property
    def numbers(self) -> dict[str, float]:
        """Median, smallest and largest."""
        return {"median": self.median, "min": min(self.rounds), "max": max(self.rounds)}

    @property
    def cells(self) -> tuple[str, ...]:
        """What tables show: `COLUMNS`."""
        what = f"{self.group}: {self.what}" if self.group else self.what
        return what, *map(written, self.numbers.values()), self.unit


@dataclass(frozen=True)
class Section:
    """What was measured together: on what, the rows, and the sentences that follow from them.

    Args:
        title: of the section.
        about: how it was measured.
        rows: every number.
        findings: sentences.
        key: by which the section is asked for, and its numbers are looked up.
        device: `cpu` or `cuda`.
        table: lines of cells to show in place of the rows, the first of them the columns; empty shows the rows.
    """

    title: str
    about: str
    rows: list[Row]
    findings: list[str]
    key: str = ""
    device: str = "cpu"
    table: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def shown(self) -> list[tuple[str, ...]]:
        """The table, columns first."""
        return self.table or [COLUMNS, *(row.cells for row in self.rows)]

    def find(self, what: str, group: str = "") -> Row | None:
        """Give the row called so, or None."""
        return next((row for row in self.rows if (row.what, row.group) == (what, group)), None)

    def groups(self) -> list[str]:
        """Name the groups, in their order."""
        return list(dict.fromkeys(row.group for row in self.rows if row.group))


@dataclass(frozen=True)
class Effort:
    """How long and how often to measure.

    Args:
        seconds: how long a measurement takes at least; sections scale their time by it.
        rounds: how often everything is measured, at least.
        console: where to show how far it is.
    """

    seconds: float
    rounds: int
    console: Console

    @property
    def few(self) -> int:
        """Count the rounds of what takes long, such as ResNet-50 on a CPU."""
        return min(FEW, self.rounds)

    def enough(self, total: float, each: float) -> int:
        """Count the rounds of `each` seconds that fit into `total` times `seconds`: at least `rounds`."""
        return max(self.rounds, min(MOST, int(total * self.seconds / max(each, 1e-9))))


def written(number: float) -> str:
    """Write a number with three digits, or with all of those before the point."""
    return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:.3g}"


def counted(number: int, what: str) -> str:
    """Write a number of things: 1 core, 2 cores."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def ratio(what: str, above: Row, below: Row) -> Row:
    """Divide two rows round by round: what disturbed a round disturbed both."""
    pairs = zip(above.rounds, below.rounds, strict=False)  # what is slow is measured in the first rounds alone
    return Row(what, "ratio", tuple(a / b for a, b in pairs), above.group)


def interleaved(
    measures: Mapping[str, Measure], rounds: int, title: str, console: Console
) -> dict[str, tuple[float, ...]]:
    """Measure everything once a round, every other round from the last to the first; give each one's numbers.

    What changes slowly, such as the machine's warmth and its other work, then falls on all of them alike.
    """
    found: dict[str, list[float]] = {what: [] for what in measures}
    for number in range(rounds):
        for what in reversed(list(measures)) if number % 2 else measures:
            with console.status(f"{title}: round {number + 1} of {rounds}: {what}"):
                found[what].append(measures[what](number))
    return {what: tuple(numbers) for what, numbers in found.items()}


def each(work: Callable[[], object], device: torch.device, seconds: float = 0.0) -> float:
    """Do `work` again and again, once at least, for so many seconds; give the seconds that one took.

    The device has ended everything before the clock starts and before it stops.
    """
    wait(device)
    began, done = time.perf_counter(), 0
    while True:
        work()
        done += 1
        if time.perf_counter() - began >= seconds:
            wait(device)
            return (time.perf_counter() - began) / done


def wait(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Take one thread, as the engine's workers do: two on busy cores wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
