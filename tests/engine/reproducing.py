"""What the tests of reproducing share: a checkout with an experiment, and workers that need no time."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricated
import pytest
from matplotlib.figure import Figure

from lit_hidden.engine.experiment import load
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.reproduce import reproduce
from lit_hidden.engine.store import Store
from lit_hidden.engine.where import Where
from lit_hidden.engine.work import opened
from lit_hidden.run import Run

EXPERIMENT = '''
"""Figure 0: a figure of three seeds."""
import numpy as np
from lit_hidden.run import Run
from lit_hidden.judge import Claim

def runs(preset):
    return [Run(density=0.5, net="conv2", data="digits", epochs=1, seed=s) for s in range(3)]

CLAIMS = [
    Claim("above [50] in [red]", lambda r: r.mean() - 50),
    Claim("above ninety", lambda r: r.mean() - 90),
    Claim("never below sixty", lambda r: r.mean() - 60, every=True, kind="check"),
]

def draw(results, figure):
    figure.add_subplot().plot(results.seeds, results.values(), label="accuracy")
'''


def leave(run: Run, **result: Any) -> None:
    """Leave what a run leaves that ended at 70% and its seed."""
    fabricated.leave(Store("runs"), run, **{"accuracy": 70.0 + run.seed, "layers": [1], **result})


def add(name: str, *replaced: tuple[str, str]) -> list[Run]:
    """Add an experiment that is fig0 but for some words; return its runs."""
    text = EXPERIMENT
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    Path("experiments", f"{name}.py").write_text(text)
    return load(name).grid("quick")


def judged(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("results", name, "quick", "verdicts.json").read_text())
    return found


def column(name: str, column: str) -> list[str]:
    """Read a column of the table that was written."""
    with Path("results", name, "quick", "results.csv").open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


def written(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("results", name, "quick").iterdir()}


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    """Stand in a checkout with one experiment whose runs are done: 70, 71 and 72%; drawings are not rendered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "160")

    def quick(experiment, results, told) -> dict[str, str | bytes]:
        experiment.draw(results, Figure())
        return {"figure.svg": told, "figure.png": told.encode()}

    monkeypatch.setattr("lit_hidden.engine.reproduce.draw", quick)
    Path("experiments").mkdir()
    for run in add("fig0"):
        leave(run)


class Workers(Pool):
    """Workers that need no time: they `leave` a result, or do what is asked of them once or several times.

    A pair makes a run fail, a text is how its worker dies, and a function of the run may do either.
    """

    device = "cpu"

    def __init__(
        self, store: Store, leave: Callable[..., Any], places: int, does: dict[Run, list[Any]] | None = None
    ) -> None:
        self.store, self.leave, self.places = store, leave, places
        self.does = {run: list(deeds) for run, deeds in (does or {}).items()}
        self.jobs: list[dict[str, Any]] = []  # all that were given
        self.starts: list[list[Run]] = []  # those begun
        self.begun: dict[int, Run] = {}
        self.closed = 0

    def start(self, places, jobs) -> None:
        self.jobs += jobs
        self.begun |= {place: opened(job)[0] for place, job in zip(places, jobs, strict=False)}
        self.starts.append(list(self.begun.values()))

    def ended(self, seconds: float) -> list[tuple[int, str | None]]:
        ends = [(place, self._work(run)) for place, run in self.begun.items()]
        self.begun.clear()
        return ends

    def _work(self, run: Run) -> str | None:
        deed = self.does[run].pop(0) if self.does.get(run) else lambda run: self.leave(self.store, run)
        if isinstance(deed, tuple):
            return self.store.fail(run, *deed)
        how = deed if isinstance(deed, str) else deed(run)
        return how if isinstance(how, str) else None

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def workers(monkeypatch):
    pool = Workers(Store("runs"), lambda store, run: leave(run), 1)
    monkeypatch.setattr(Where, "start", lambda self, root, runs: pool)
    return pool


@pytest.fixture
def printed(capsys):
    """Reproduce, and return what is printed."""

    def run(*experiments: str, **options: Any) -> str:
        reproduce(*(experiments or ["fig0"]), **options)
        return capsys.readouterr().out

    return run
