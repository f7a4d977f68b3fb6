"""Reproduce an experiment: train what is missing, judge its claims, draw it, write one folder."""

import csv
import importlib.util
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lit_hidden.engine.local import Launcher
from lit_hidden.engine.store import Store, write_atomically
from lit_hidden.engine.tracking import Tracker, choose_mode
from lit_hidden.experiment import Claim, Results, Run, Verdict, judge

PRESETS = ("smoke", "quick", "short", "paper")


class ReproduceError(RuntimeError):
    """A reproduction that cannot begin or did not end well, and what to do about it."""


@dataclass(frozen=True)
class Experiment:
    """One file of `experiments/`: its runs, its claims, its drawing."""

    name: str
    title: str
    runs: Callable[[str], list[Run]]
    claims: list[Claim]
    draw: Callable[[Results, Any], None]
    page: Callable[[Results], str] | None


def experiments_folder() -> Path:
    """Find the folder `experiments/`: in the working directory, or beside the package in a checkout.

    Raises:
        ReproduceError: there is none.
    """
    for base in (Path.cwd(), Path(__file__).parents[2]):
        if list((base / "experiments").glob("*.py")):
            return base / "experiments"
    raise ReproduceError(
        f"no experiments/ in {Path.cwd()}: they live in the repository, not in the installed package; "
        "run this from a checkout"
    )


def load(name: str) -> Experiment:
    """Load the experiment `name`.

    Raises:
        ReproduceError: there is no such file, or it lacks a part.
    """
    folder = experiments_folder()
    path = folder / f"{name}.py"
    names = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    if name not in names:
        raise ReproduceError(f"no experiment {name!r}; experiments are {', '.join(names)}")
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if lacking := [part for part in ("runs", "CLAIMS", "draw") if not hasattr(module, part)]:
        raise ReproduceError(f"{path} lacks {', '.join(lacking)}; an experiment has runs(preset), CLAIMS and draw")
    title = (module.__doc__ or name).strip().splitlines()[0]
    return Experiment(name, title, module.runs, module.CLAIMS, module.draw, getattr(module, "page", None))


def reproduce(
    name: str,
    preset: str = "quick",
    *,
    runs_dir: str | Path = "runs",
    out: str | Path = "results",
    data_dir: str | Path = "data",
    devices: int | None = None,
    strict: bool = False,
    dry_run: bool = False,
    console: Console | None = None,
) -> list[Verdict]:
    """Train the missing runs of an experiment, judge its claims, draw it, and print what came out.

    Args:
        name: a file of `experiments/`, such as `fig2`.
        preset: `smoke`, `quick`, `short` or `paper`.
        runs_dir: where runs live; equal runs of other experiments there are used.
        out: where `<name>/<preset>/` is written.
        data_dir: where the data sets lie.
        devices: how many workers; None takes all GPUs, or without one all CPU cores.
        strict: a contradicted claim of the paper preset is an error.
        dry_run: print the grid and train nothing.
        console: where to print.

    Raises:
        ReproduceError: unknown experiment or preset, a run that failed, or with `strict` a contradicted claim.
        StoreError: `runs_dir` cannot be written to or holds a damaged run.
        LauncherError: `devices` are not there.
    """
    console = console or Console()
    if preset not in PRESETS:
        raise ReproduceError(f"no preset {preset!r}; presets are {', '.join(PRESETS)}")
    experiment = load(name)
    runs = list(dict.fromkeys(run.resolved for run in experiment.runs(preset)))
    store = Store(runs_dir)
    missing = [run for run in runs if store.result(run) is None]
    console.print(f"[bold]{name}[/bold] ({preset}): {experiment.title}", highlight=False)
    console.print(f"{len(runs)} runs: {len(runs) - len(missing)} done, {len(missing)} to train", highlight=False)
    if dry_run:
        for run in runs:
            console.print(f"  {run.hash}  {'to train' if run in missing else 'done':8}  {run.name}", highlight=False)
        return []
    target = Path(out) / name / preset
    try:  # before the expensive part
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReproduceError(f"{target} cannot be written to: {error}; choose another with --out") from error
    group = f"{name}/{preset}"
    if missing:
        store.check_writable()
        mode, line = choose_mode()
        if line:
            console.print(line, highlight=False)
        _train(missing, store, devices, {"data_dir": str(data_dir), "wandb": mode, "group": group}, console)
    results = store.results(runs)
    verdicts = [judge(claim, results) for claim in experiment.claims]
    written = _write(experiment, preset, results, verdicts, target)
    if missing:  # drawing again shows nothing new
        tracker = Tracker(mode, group)
        tracker.start_summary(group)
        tracker.figure(rows(results), target / "figure.png", verdicts)
        tracker.finish()
    console.print(_table(verdicts))
    for path in written:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    contradicted = [v.sentence for v in verdicts if v.verdict == "contradicted"]
    if strict and preset == "paper" and contradicted:
        raise ReproduceError(f"contradicted at the paper preset: {'; '.join(contradicted)}")
    return verdicts


def _train(missing: list[Run], store: Store, devices: int | None, job: dict[str, Any], console: Console) -> None:
    """Train runs until each has a result, some failed, or the user stops it."""
    total = sum(run.epochs for run in missing)
    launcher = Launcher(store, devices, job)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeElapsedColumn()
    )  # fmt: skip
    done: set[Run] = set()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting workers", total=total)

        def poll() -> None:
            epochs = sum(min(run.epochs, store.epochs_done(run)) for run in missing)
            for run in missing:
                if run not in done and (result := store.result(run)) is not None:
                    done.add(run)
                    line = f"  {len(done)}/{len(missing)}  {run.name}: {result['accuracy']:.1f}% test accuracy"
                    console.print(line, highlight=False)
            begun = epochs or any((store.folder(run) / "metrics.csv").exists() for run in missing)
            state = f"{len(done)} of {len(missing)} runs" if begun else "starting workers"
            progress.update(bar, completed=epochs, description=state)

        try:
            todo = sorted(missing, key=lambda run: -run.epochs)  # the longest first, so that workers end together
            while todo:
                launcher.launch(todo, poll)
                if launcher.failures:
                    break
                # What is left is held by another engine on this folder: wait for it, or take over when it lets go.
                while todo := [run for run in todo if store.result(run) is None]:
                    if not all(store.held(run) for run in todo):
                        break
                    time.sleep(1)
                    poll()
            poll()
        except KeyboardInterrupt:
            raise ReproduceError(
                f"stopped: {len(done)} of {len(missing)} runs are done; the same command goes on where this one was"
            ) from None
    if launcher.failures:
        first = launcher.failures[0]
        if first.fatal:
            raise ReproduceError(first.error)
        reports = "\n".join(f"  {f.run.name}: {f.error}; its log is {f.log}" for f in launcher.failures)
        raise ReproduceError(f"{len(launcher.failures)} of {len(missing)} runs failed:\n{reports}")


def rows(results: Results) -> list[dict[str, Any]]:
    """Make the table of `results.csv`: a run a row, its description first, then its numbers and where they are from."""
    table = []
    for run, result in results:
        row: dict[str, Any] = {"run": run.hash, **asdict(run)}
        row |= {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
        provenance = result.get("provenance", {})
        row |= {k: provenance.get(k) for k in ("seconds", "device", "commit", "finished")}
        row |= provenance.get("versions", {})
        table.append(row)
    columns = list(dict.fromkeys(name for row in table for name in row))
    return [{name: row.get(name) for name in columns} for row in table]


def _write(experiment: Experiment, preset: str, results: Results, verdicts: list[Verdict], target: Path) -> list[Path]:
    from matplotlib.figure import Figure

    from lit_hidden import style

    out = io.StringIO()
    table = rows(results)
    writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(target / "results.csv", out.getvalue())
    judged = {
        "experiment": experiment.name,
        "title": experiment.title,
        "preset": preset,
        "conditions": conditions(preset, results),
        "claims": [{k: _plain(v) for k, v in asdict(verdict).items()} for verdict in verdicts],
    }
    write_atomically(target / "verdicts.json", json.dumps(judged, indent=1) + "\n")
    with style.context():
        figure = Figure()
        experiment.draw(results, figure)
        style.footer(figure, conditions(preset, results))
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            part = target / f".figure.part.{kind}"
            figure.savefig(part, format=kind, metadata=metadata)
            os.replace(part, target / f"figure.{kind}")
    names = ["figure.svg", "figure.png", "results.csv", "verdicts.json"]
    if experiment.page is not None:
        write_atomically(target / "figure.html", experiment.page(results))
        names.insert(2, "figure.html")
    return [target / name for name in names]


def _plain(value: Any) -> Any:
    # JSON has no infinity; an interval nobody can bound is null.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def conditions(preset: str, results: Results) -> str:
    """Say under what conditions results were obtained, for the foot of a drawing: preset, data, seeds, cuts."""
    runs = [run for run, _ in results]

    def several(values: Iterable[Any]) -> str:
        return ", ".join(map(str, dict.fromkeys(values)))

    trained = [run for run in runs if run.method != "random"]
    parts = [f"preset {preset}", f"data {several(run.data for run in runs)}"]
    parts.append(f"{len(results.seeds)} seed{'s' if len(results.seeds) > 1 else ''} ({several(results.seeds)})")
    parts.append(f"net {several(run.net for run in runs)}")
    cut = []
    if any(run.width != 1 for run in runs):
        cut.append(f"width x{several(f'{run.width:g}' for run in runs)}")
    if any(run.epochs != 100 for run in trained):
        cut.append(f"{several(run.epochs for run in trained)} of 100 epochs")
    if any(run.train_images for run in runs):
        cut.append(f"{several(run.train_images for run in runs)} training images")
    if any(run.data == "digits" for run in runs):
        cut.append("scikit-learn's digits for CIFAR-10")
    parts.append(f"cut: {', '.join(cut)}" if cut else "nothing cut")
    return "; ".join(parts)


def _table(verdicts: list[Verdict]) -> Table:
    colors = {"supported": "green", "contradicted": "red", "undecided": "yellow"}
    table = Table("claim", "verdict", "margin", "95% interval")
    for v in verdicts:
        interval = f"{v.low:.4g} to {v.high:.4g}" if math.isfinite(v.low) and not v.every else v.why
        color = colors[v.verdict]
        table.add_row(v.sentence, f"[{color}]{v.verdict}[/{color}]", f"{v.margin:.4g} {v.unit}", interval)
    return table
