"""What is wanted of the numbers: reached or missed is said, and nothing fails because of it."""

from collections.abc import Callable
from dataclasses import dataclass

from lit_hidden.engine.bench.rows import Row, Section, written
from lit_hidden.engine.bench.runs import FIGURE

COLUMNS = ("device", "what", "here", "target", "")


@dataclass(frozen=True)
class Target:
    """A number that is wanted.

    Args:
        what: it is, for the table.
        key: of the section that measures it.
        device: on which it is wanted.
        row: what its row is called.
        limit: what it is to reach.
        least: whether it is to be at least the limit; else at most.
        group: of the row; where it fits several, the worst counts.
    """

    what: str
    key: str
    device: str
    row: str
    limit: float
    least: bool = False
    group: Callable[[str], bool] = lambda group: True

    def number(self, sections: list[Section]) -> float | None:
        """Give the median, of several the worst; None if it was not measured."""
        found: list[Row] = [
            row
            for section in sections
            if (section.key, section.device) == (self.key, self.device)
            for row in section.rows
            if row.what == self.row and self.group(row.group)
        ]
        worst = min if self.least else max
        return worst((row.median for row in found), default=None)

    def reached(self, number: float) -> bool:
        """Tell whether a number is as wanted."""
        return number >= self.limit if self.least else number <= self.limit

    def cells(self, number: float) -> tuple[str, ...]:
        """What the table shows: `COLUMNS`."""
        wanted = f"{'at least' if self.least else 'at most'} {self.limit:g}"
        # Two digits behind the point, or 1.084 of at most 1.08 would look reached.
        here = f"{number:.3f}" if abs(number) < 10 else written(number)
        return self.device, self.what, here, wanted, "reached" if self.reached(number) else "missed"


def _steps(row: str, device: str, limits: dict[str, float], least: bool = False) -> list[Target]:
    return [
        Target(f"{net}: {row} step", "steps", device, row, limit, least, net.__eq__) for net, limit in limits.items()
    ]


TARGETS = [
    *_steps("hidden / dense", "cpu", {"conv2": 1.08, "conv4": 1.05, "conv6": 1.05, "conv8": 1.05}),
    *_steps("plain / hidden", "cpu", {"conv2": 3.5, "conv4": 2.5}, least=True),
    *(  # a pass over the memory is at the least a read and a mask, and as commonly measured a copy
        Target(
            f"selection of 4.2 million, worst kind, {passes}", "selection", "cpu", row, 3,
            group=lambda group: group.startswith("4.2 million, "),
        )
        for passes, row in (("passes", "ours / pass"), ("copies", "ours / copy"))
    ),
    Target("augmentation: ours / kornia, images/s", "input", "cpu", "ours / kornia", 1, least=True),
    Target("Lightning's share of a step, worst net, %", "epoch", "cpu", "Lightning's share", 2),
    *_steps("hidden / dense", "cuda", dict.fromkeys(("conv2", "conv4", "conv6", "conv8"), 1.15)),
    *(
        Target(f"{net}: 100 epochs as reproduce trains them, s", "runs", "cuda", "100 epochs", limit, group=net.__eq__)
        for net, limit in (("conv2", 15), ("conv8", 40))
    ),
    Target("figure 3, paper, 5 seeds, estimated from runs, min", "runs", "cuda", FIGURE, 90),
]  # fmt: skip


def judged(sections: list[Section]) -> Section | None:
    """Hold what was measured against the targets; None if nothing was that has one.

    Args:
        sections: measured ones.
    """
    there = [(target, number) for target in TARGETS if (number := target.number(sections)) is not None]
    if not there:
        return None
    rows = [Row("here", "", (number,), f"{target.device}, {target.what}") for target, number in there]
    table = [COLUMNS, *(target.cells(number) for target, number in there)]
    about = "Medians of this run, of several the worst. Nothing fails: another machine, or a busy one, has others."
    reached = sum(target.reached(number) for target, number in there)
    return Section("Targets", about, rows, [f"{reached} of {len(there)} reached"], "targets", table=table)
