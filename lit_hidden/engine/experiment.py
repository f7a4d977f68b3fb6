"""An experiment: one file of `experiments/`, found by its name."""

import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_hidden.errors import UserError
from lit_hidden.judge import Claim
from lit_hidden.recipes import IMAGENET_SIZES
from lit_hidden.report.tables import order as by_number
from lit_hidden.results import Results
from lit_hidden.run import PRESETS, Run


class ReproduceError(UserError):
    """A reproduction that cannot begin or did not end well, and what to do about it."""


class UsageError(ReproduceError):
    """An experiment, a preset or an argument that cannot be."""

    status = 2


@dataclass(frozen=True)
class Experiment:
    """One file of `experiments/`: its runs, its claims, its drawing; maybe a `page` beside it.

    Runs of a smaller `order` are trained first. `reduce` compares runs, such as their nets: its arrays are
    `results.summary` and `summary.npz`.
    """

    name: str
    path: Path
    title: str
    runs: Callable[[str], list[Run]]
    claims: list[Claim]
    draw: Callable[[Results, Any], None]
    page: Callable[[Results], str] | None
    order: Callable[[Run], Any]
    reduce: Callable[[Results], dict[str, np.ndarray]] | None

    def grid(self, preset: str) -> list[Run]:
        """List the runs of a preset, resolved and each once; `paper-imagenet100` is `paper` on those data."""
        base, _, data = preset.partition("-")
        if base not in PRESETS:
            raise UsageError(f"no preset {preset!r}; presets are {', '.join(PRESETS)}")
        try:
            runs = self.runs(base)
        except ValueError as error:
            raise UsageError(f"{self.path}: {error}") from error
        if data and not {data, *(run.data for run in runs)} <= IMAGENET_SIZES.keys():
            raise UsageError(f"{self.name} ({base}) on {data}: both must be of {', '.join(IMAGENET_SIZES)}")
        return list(dict.fromkeys((replace(run, data=data) if data else run).resolved for run in runs))


def folder() -> Path:
    """Find `experiments/`: yours in the working directory, else the one that came with the package."""
    own = Path.cwd() / "experiments"
    return own if list(own.glob("*.py")) else Path(__file__).parents[2] / "experiments"


def names() -> list[str]:
    """List the experiments there are, fig2 before fig10."""
    return sorted((path.stem for path in folder().glob("[!_]*.py")), key=by_number)


def load(name: str) -> Experiment:
    """Load the experiment `name`; ReproduceError: there is no such file, or it lacks a part."""
    if name not in names():
        raise UsageError(f"no experiment {name!r}; experiments are {', '.join(names())}")
    path = folder() / f"{name}.py"
    parts = runpy.run_path(str(path), run_name=f"experiments.{name}")
    if lacking := [part for part in ("runs", "CLAIMS", "draw") if part not in parts]:
        raise ReproduceError(f"{path} lacks {', '.join(lacking)}; names of helpers begin with _")
    title = (parts["__doc__"] or name).strip().splitlines()[0]
    page, order, reduce = parts.get("page"), parts.get("order", lambda run: 0), parts.get("reduce")
    return Experiment(name, path, title, parts["runs"], parts["CLAIMS"], parts["draw"], page, order, reduce)
