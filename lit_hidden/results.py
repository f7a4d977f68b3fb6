"""Runs with their results, selected by fields and averaged over seeds."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lit_hidden import code, recipes
from lit_hidden.run import Run

Row = tuple[Run, dict[str, Any], Path | None]  # a run, its result, the folder of its curves and arrays
Arrays = dict[str, np.ndarray]


def primary(result: Mapping[str, Any]) -> str:
    """Name the primary metric of a result, or of its row of a table: `accuracy`, unless its task has another."""
    return result.get("metric") or "accuracy"


def quality(result: Mapping[str, Any]) -> float:
    """Give the primary metric, negated where lower is better; NaN if it is missing."""
    value = float(result.get(primary(result), math.nan))
    return -value if result.get("better") == "lower" else value


def diverged(result: Mapping[str, Any]) -> bool:
    """Tell whether a training or test loss was not finite; of a result, or of its row of a table."""
    return result.get("diverged") is not None or not math.isfinite(result.get("loss") or 0.0)


def failed(run: Run, result: Mapping[str, Any]) -> bool:
    """Tell whether a resolved run did not learn: it diverged, or its test accuracy is no better than chance.

    That is below the .999 quantile of a guesser's: of 10,000 images of 10 classes, 10.94%. It is unknown for tasks and
    data of your own; a callback whose runs may well be at chance returns another bound, `fails_below`. A random mask
    does not learn and so cannot fail. `result` may be a row of `results.csv`.
    """
    accuracy = quality(result)
    if recipes.method(str(run.method)).learns is None:
        return False
    if diverged(result) or not math.isfinite(accuracy):
        return True
    if (below := result.get("fails_below")) is not None:
        return accuracy < float(below)
    if run.task is not None or not run.num_classes:
        return False
    from scipy.special import bdtrik

    _, _, _, images, classes = recipes.IMAGES[run.data]
    images = round(images * run.num_classes / classes)
    return bool(round(accuracy * images / 100) < math.ceil(bdtrik(0.999, images, 1 / run.num_classes)))


class NoRunsError(ValueError):
    """A selection is empty."""


class Results:
    """Pairs of a Run and its result, with the folders of their curves and arrays."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = [(run.resolved, result, folder) for run, result, folder in rows]
        self._left_out: frozenset[str] = frozenset()  # hashes
        self._selected: dict[str, Results] = {}  # by `where`, whatever is left out
        self._summary: Callable[[frozenset[str]], Arrays] | None = None  # of all but those left out

    def _but(self, **attributes: Any) -> "Results":
        other = object.__new__(Results)
        vars(other).update(vars(self) | attributes)
        return other

    @property
    def rows(self) -> list[Row]:
        """The runs with their results and folders."""
        return [row for row in self._rows if row[0].hash not in self._left_out]

    @property
    def runs(self) -> list[Run]:
        """The runs alone."""
        return [run for run, _, _ in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Run, dict[str, Any]]]:
        return ((run, result) for run, result, _ in self.rows)

    @property
    def folders(self) -> list[Path]:
        """The folders of the runs that have one here."""
        return [folder for _, _, folder in self.rows if folder is not None]

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted({run.seed for run in self.runs})

    def without(self, hashes: Iterable[str]) -> "Results":
        """Leave runs out, also of what is selected from the rest and of `summary`."""
        return self._but(_left_out=self._left_out.union(hashes))

    @property
    def whole(self) -> "Results":
        """These results with those that were left out."""
        return self._but(_left_out=frozenset())

    def where(self, keep: Callable[[Run], bool]) -> "Results":
        """Keep the runs for which `keep` is true; maybe none."""
        return self._but(_rows=[row for row in self._rows if keep(row[0])], _selected={})

    def by(self, key: Callable[[Run], Any]) -> dict[Any, "Results"]:
        """Part the runs by what `key` gives for each."""

        def part(value: Any) -> Results:
            return self.where(lambda run: key(run) == value)

        return {value: part(value) for value in dict.fromkeys(map(key, self.runs))}

    def select(self, **where: Any) -> "Results":
        """Keep the runs whose fields equal `where`; options of callbacks are `Class.option`: `{"Lesion.epoch": 25}`.

        Raises a NoRunsError if nothing is left, an AttributeError for a name that is no field of Run.
        """
        key = repr(where)  # values may be lists
        if key not in self._selected:  # judging makes the same selection for every run that it leaves out
            wanted = {name: code.canonical(value) if "." in name else value for name, value in where.items()}
            wanted |= {name: code.real(value) for name, value in where.items() if isinstance(value, float)}
            self._selected[key] = self.where(lambda run: all(value in _of(run, n) for n, value in wanted.items()))
        chosen = self._selected[key]._but(_left_out=self._left_out)
        if not len(chosen):
            raise NoRunsError(f"no run has {where}; there are {len(self)} runs")
        return chosen

    def each(self, name: str, **where: Any) -> list[Any]:
        """List the values that a field or an option has among the selected runs, ascending, without None."""
        found = {value for run in self.select(**where).runs for value in _of(run, name)} - {None}
        return sorted(found, key=lambda value: (isinstance(value, str), value))  # `scaled` has both

    def values(self, metric: str | None = None, /, **where: Any) -> list[Any]:
        """List a metric of the selected runs, by seed.

        None is the primary metric of their task: `accuracy`, test top-1 after the last epoch, in percent.
        """
        rows = sorted(self.select(**where).rows, key=lambda row: row[0].seed)
        return [result[metric or primary(result)] for _, result, _ in rows]

    def mean(self, metric: str | None = None, /, **where: Any) -> float:
        """Average a metric over the selected runs."""
        values: list[float] = self.values(metric, **where)
        return sum(values) / len(values)

    def curve(self, metric: str, **where: Any) -> tuple[np.ndarray, np.ndarray]:
        """Read a column of `metrics.csv` of the selected runs that did not diverge.

        Returns steps `(E,)`, and values by seed `(runs, E)`; raises a ValueError where steps differ between runs.
        """
        rows = sorted(self.select(**where).rows, key=lambda row: row[0].seed)
        files = [folder / "metrics.csv" for _, result, folder in rows if folder is not None and not diverged(result)]
        curves = [np.genfromtxt(file, delimiter=",", names=True, deletechars="", ndmin=1) for file in files]
        if len(steps := {tuple(curve["step"].astype(int)) for curve in curves}) != 1:
            raise ValueError(f"the runs with {where} were measured at different steps, or all of them diverged")
        return np.array(steps.pop()), np.array([curve[metric] for curve in curves])

    def arrays(self, name: str, **where: Any) -> Arrays:
        """Load a file of arrays, such as `trace.npz`, from the folder of the one run selected."""
        folders = self.select(**where).folders
        if len(folders) != 1:
            raise ValueError(f"{len(folders)} runs with a folder have {where}; select one whose callbacks leave {name}")
        with np.load(folders[0] / name) as arrays:
            return dict(arrays)

    def reduce_by(self, reduce: Callable[["Results"], Arrays]) -> None:
        """Set the function that makes `summary`, before anything is selected."""
        self._summary = cache(lambda left_out: reduce(self.without(left_out)))

    @property
    def summary(self) -> Arrays:
        """What the experiment's `reduce` returns for all its results but those left out; made once."""
        if self._summary is None:
            raise ValueError("these results have no summary: it is what an experiment's reduce(results) returns")
        return self._summary(self._left_out)

    def network(self, run: Run) -> Any:
        """Build the net that a run ended with, in eval mode: see `lit_hidden.engine.network`."""
        folders = {known.hash: folder for known, _, folder in self.rows}
        if (folder := folders.get(run.hash)) is None:
            raise ValueError(f"{run.name} is not among these {len(folders)} runs, or its folder is not here")
        # By name: the engine lies above, and imports torch.
        return code.load("lit_hidden.engine.network.network")(run, folder)


def _of(run: Run, name: str) -> list[Any]:
    return run.option(name) if "." in name else [getattr(run, name)]
