"""An experiment: one file of `experiments/`, found by its name."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_hidden.errors import UserError
from lit_hidden.judge import Claim
from lit_hidden.recipes import IMAGENET_SIZES
from lit_hidden.report.tables import order
from lit_hidden.results import Results
from lit_hidden.run import PRESETS, Run


class ReproduceError(UserError):
    """A reproduction that cannot begin or did not end well, and what to do about it."""


class UsageError(ReproduceError):
    """An experiment, a preset or an argument that cannot be."""

    status = 2


@dataclass(frozen=True)
class Experiment:
    """One file of `experiments/`: its runs, its claims, its drawing; a `page` beside it if it has one.

    `order` gives a key for each run: runs of smaller keys are trained first. `reduce` compares runs, such as their
    nets, for claims and drawing: its arrays are `results.summary` and `summary.npz`.
    """

    name: str
    path: Path
    title: str
    runs: Callable[[str], list[Run]]
    claims: list[Claim]
    draw: Callable[[Results, Any], None]
    page: Callable[[Results], str] | None
    order: Callable[[Run], Any]
    reduce: Callable[[Results], dict[str, np.ndarray]] | None = None

    def grid(self, preset: str) -> list[Run]:
        """List the runs of a preset, resolved and each once; `paper-imagenet100` is `paper` on those data.

        Raises:
            UsageError: an unknown preset, or data that this experiment's runs cannot be trained on.
        """
        base, _, data = preset.partition("-")
        if base not in PRESETS:
            raise UsageError(f"no preset {preset!r}; presets are {', '.join(PRESETS)}")
        try:
            runs = self.runs(base)
        except ValueError as error:
            raise UsageError(f"{self.path}: {error}") from error
        if data:
            if data not in IMAGENET_SIZES:
                raise UsageError(f"no data {data!r} to choose; there are {', '.join(IMAGENET_SIZES)}")
            if other := {run.data for run in runs} - IMAGENET_SIZES.keys():
                raise UsageError(
                    f"{self.name} ({base}) is on {', '.join(sorted(other))}; data can be chosen where a preset is on "
                    "ImageNet or a subset, such as fig8's short and paper"
                )
            runs = [replace(run, data=data) for run in runs]
        return list(dict.fromkeys(run.resolved for run in runs))


def experiments_folder() -> Path:
    """Find the folder `experiments/`: yours in the working directory, else the one that came with the package."""
    own = Path.cwd() / "experiments"
    return own if list(own.glob("*.py")) else Path(__file__).parents[2] / "experiments"


def names() -> list[str]:
    """List the experiments there are, fig2 before fig10."""
    found = [p.stem for p in experiments_folder().glob("*.py") if not p.stem.startswith("_")]
    return sorted(found, key=order)


def load(name: str) -> Experiment:
    """Load the experiment `name`.

    Raises:
        UsageError: there is no such file.
        ReproduceError: it lacks a part.
    """
    if name not in names():
        raise UsageError(f"no experiment {name!r}; experiments are {', '.join(names())}")
    path = experiments_folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if lacking := [part for part in ("runs", "CLAIMS", "draw") if not hasattr(module, part)]:
        has = "an experiment has runs(preset), CLAIMS and draw; the name of a helper begins with _"
        raise ReproduceError(f"{path} lacks {', '.join(lacking)}; {has}")
    title = (module.__doc__ or name).strip().splitlines()[0]
    page, order = getattr(module, "page", None), getattr(module, "order", lambda run: 0)
    reduce = getattr(module, "reduce", None)
    return Experiment(name, path, title, module.runs, module.CLAIMS, module.draw, page, order, reduce)
