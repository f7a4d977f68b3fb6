"""What came out of runs: which ran well, and how they are selected."""

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_hidden import code
from lit_hidden.run import Run


def primary(result: Mapping[str, Any]) -> str:
    """Name the metric that a result, or a row of results, is about: `accuracy`, unless its task has another."""
    return result.get("metric") or "accuracy"


def quality(result: Mapping[str, Any]) -> float:
    """Give the primary metric, negated where lower is better; NaN if it is not there."""
    value = float(result.get(primary(result), math.nan))
    return -value if result.get("better") == "lower" else value


def diverged(result: Mapping[str, Any]) -> bool:
    """Tell whether a run's loss was not finite, in training or of the test set; of a result or its row of a table."""
    return result.get("diverged") is not None or not math.isfinite(result.get("loss") or 0.0)


class NoRunsError(ValueError):
    """Runs were selected of which there are none."""


Row = tuple[Run, dict[str, Any], Path | None]  # a run, its result, the folder of its curves and traces


@dataclass
class _View:
    """What results and all that is selected from them share: runs left out for a while, runs that were read."""

    left_out: frozenset[str] = frozenset()  # hashes
    read: set[str] | None = None  # hashes; None: nobody asks
    reduce: Callable[[], dict[str, np.ndarray]] | None = None  # the experiment's, of all its results
    summaries: dict[frozenset[str], tuple[dict[str, np.ndarray], set[str]]] = field(default_factory=dict)


class Results:
    """What came out of some runs: pairs of a Run and its result, with the folders their curves and traces are in."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = [(run.resolved, result, folder) for run, result, folder in rows]
        self._view = _View()
        self._selected: dict[str, Results] = {}

    @property
    def rows(self) -> list[Row]:
        """The runs with their results and folders."""
        rows = self._there()
        if self._view.read is not None:
            self._view.read.update(run.hash for run, _, _ in rows)
        return rows

    @property
    def runs(self) -> list[Run]:
        """The runs alone, whose results are not read."""
        return [run for run, _, _ in self._there()]

    def _there(self) -> list[Row]:
        left_out = self._view.left_out
        return [row for row in self._rows if row[0].hash not in left_out] if left_out else self._rows

    @contextmanager
    def without(self, hashes: Iterable[str]) -> Iterator[None]:
        """Leave runs out of these results, and of all that is selected from them, for a while."""
        before, self._view.left_out = self._view.left_out, frozenset(hashes)
        try:
            yield
        finally:
            self._view.left_out = before

    @contextmanager
    def reading(self) -> Iterator[set[str]]:
        """Note the hashes of the runs whose results are read meanwhile."""
        self._view.read = set()
        try:
            yield self._view.read
        finally:
            self._view.read = None

    def reduce_by(self, reduce: Callable[["Results"], dict[str, np.ndarray]]) -> None:
        """Set what `summary` is made by."""
        self._view.reduce = lambda: reduce(self)

    @property
    def summary(self) -> dict[str, np.ndarray]:
        """What the experiment's `reduce` makes of all its results, without the runs that are left out for a while.

        Raises:
            ValueError: the experiment has none.
        """
        view = self._view
        if view.reduce is None:
            raise ValueError("these results have no summary: it is what an experiment's reduce(results) returns")
        if view.left_out not in view.summaries:
            outer, view.read = view.read, set()
            try:
                view.summaries[view.left_out] = view.reduce(), view.read
            finally:
                view.read = outer
        arrays, read = view.summaries[view.left_out]
        if view.read is not None:
            view.read |= read
        return arrays

    def where(self, keep: Callable[[Run], bool]) -> "Results":
        """Keep the runs that `keep` says; maybe none."""
        kept = Results([])
        kept._rows = [row for row in self._rows if keep(row[0])]  # resolved already, which costs more than selecting
        kept._view = self._view
        return kept

    def __len__(self) -> int:
        return len(self._there())

    def __iter__(self) -> Iterator[tuple[Run, dict[str, Any]]]:
        return ((run, result) for run, result, _ in self.rows)

    @property
    def seeds(self) -> list[int]:
        """The seeds there are, ascending."""
        return sorted({run.seed for run in self.runs})

    def select(self, **where: Any) -> "Results":
        """Keep the runs whose fields equal `where`; of callbacks `Class.option`, as in `{"Lesion.epoch": 25}`.

        Raises:
            ValueError: a name that is no field of Run.
            NoRunsError: nothing is left.
        """
        key = repr(where)  # values may be lists
        if key not in self._selected:  # judging selects the same runs again for every run that it leaves out
            plain = {
                name: code.real(value) if isinstance(value, float) else value  # as where it entered a run
                for name, value in where.items()
                if "." not in name
            }
            if unknown := sorted(plain.keys() - Run.__dataclass_fields__.keys()):
                raise ValueError(f"Run has no field {', '.join(unknown)}")
            dotted = {name: code.canonical(value) for name, value in where.items() if name not in plain}.items()
            self._selected[key] = self.where(
                lambda run: plain.items() <= vars(run).items() and all(value in run.option(n) for n, value in dotted)
            )
        chosen = self._selected[key]
        if not len(chosen):
            raise NoRunsError(f"no run has {where}; there are {len(self)} runs")
        return chosen

    def each(self, name: str, **where: Any) -> list[Any]:
        """List the values of a field that occur among the selected runs, ascending, without None."""
        runs = self.select(**where).runs
        values = (run.option(name) if "." in name else [getattr(run, name)] for run in runs)
        found = {value for there in values for value in there} - {None}
        return sorted(found, key=lambda value: (isinstance(value, str), value))  # `scaled` has both

    def values(self, metric: str | None = None, /, **where: Any) -> list[Any]:
        """List a metric of the selected runs, by seed.

        None is the primary one of their task: `accuracy`, test top-1 after the last epoch, in percent.
        """
        rows = sorted(self.select(**where).rows, key=lambda row: row[0].seed)
        names = [metric or primary(result) for _, result, _ in rows]
        for name, (run, result, _) in zip(names, rows, strict=True):
            if name not in result:
                raise ValueError(f"the result of {run.name} has no {name!r}; it has {', '.join(result)}")
        return [row[1][name] for name, row in zip(names, rows, strict=True)]

    def mean(self, metric: str | None = None, /, **where: Any) -> float:
        """Average a metric over the selected runs."""
        values: list[float] = self.values(metric, **where)
        return sum(values) / len(values)

    def curve(self, metric: str, **where: Any) -> tuple[np.ndarray, np.ndarray]:
        """Read a column of `metrics.csv`: steps `(E,)` and values `(runs, E)`, by seed, of runs that did not diverge.

        Raises:
            ValueError: the runs have different steps, or no such column; all have diverged.
        """
        steps, values = [], []
        chosen = [row for row in self.select(**where).rows if not diverged(row[1])]
        if not chosen:
            raise ValueError(f"all runs with {where} diverged; their curves end where they did")
        for _, _, folder in sorted(chosen, key=lambda row: row[0].seed):
            assert folder is not None
            with (folder / "metrics.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            if metric not in rows[0]:
                raise ValueError(f"{folder}/metrics.csv has no column {metric!r}; it has {', '.join(rows[0])}")
            steps.append([int(row["step"]) for row in rows])
            values.append([float(row[metric] or "nan") for row in rows])
        if any(s != steps[0] for s in steps):
            raise ValueError(f"the runs with {where} were measured at different steps; select runs of one length")
        return np.array(steps[0]), np.array(values)

    def arrays(self, name: str, **where: Any) -> dict[str, np.ndarray]:
        """Load a file of arrays, such as `trace.npz`, from the folder of the one run selected.

        Raises:
            ValueError: not exactly one run, or it left no such file.
        """
        rows = self.select(**where).rows
        folder = rows[0][2]
        if len(rows) != 1 or folder is None or not (folder / name).exists():
            raise ValueError(f"{len(rows)} runs have {where}; {name} is one run's, whose callbacks leave it behind")
        with np.load(folder / name) as arrays:
            return dict(arrays)

    def network(self, run: Run) -> Any:
        """Build the net of a run that is done, as it was at its end, in eval mode: see `lit_hidden.engine.network`.

        Raises:
            ValueError: the run is not among these, or left no net behind.
        """
        folders = {known.hash: folder for known, _, folder in self.rows}
        if (folder := folders.get(run.hash)) is None:
            raise ValueError(f"{run.name} is not among these {len(folders)} runs, or its folder is not here")
        # By name: building nets is the engine's, which lies above and waits for torch.
        return code.load("lit_hidden.engine.network.network")(run, folder)
