"""What a reproduction writes of an experiment: its table, its verdicts, its drawing with the conditions at its foot."""

import csv
import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lit_hidden.engine import beforehand
from lit_hidden.engine.experiment import Experiment, ReproduceError
from lit_hidden.judge import Verdict, clopper_pearson
from lit_hidden.recipes import method
from lit_hidden.report.tables import cells, departures, in_tf32, listed
from lit_hidden.results import Results, diverged, failed
from lit_hidden.run import Run

SUMMARY = 2_000_000  # bytes of summary.npz
# A foot is one line: the rates that a figure is about are told in its drawing.
FOOT = (
    "width", "epochs", "warmup_epochs", "train_images", "images_per_class", "batch_size", "classes", "image_size",
    "data",
)  # fmt: skip


def rows(results: Results) -> list[dict[str, Any]]:
    """Make the table of `results.csv`: a run a row, its description first, then its numbers and where they are from.

    Two columns are added here: whether a run `failed` to train, and `best_accuracy`, the largest of all epochs. That is
    chosen on the test set, so nothing is judged by it.
    """
    table = []
    for run, result, folder in results.rows:
        provenance = result.get("provenance", {})
        row: dict[str, Any] = {"run": run.hash, **run.row}
        row |= {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
        row |= {"failed": failed(run, result), "best_accuracy": _best(run, folder)}
        row |= {k: provenance.get(k) for k in ("seconds", "device", "cpu", "commit", "finished")}
        row |= {"tf32": _tf32(result), **provenance.get("versions", {})}
        table.append(row)
    columns = list(dict.fromkeys(name for row in table for name in row))
    return [{name: row.get(name) for name in columns} for row in table]


def as_csv(table: list[dict[str, Any]]) -> str:
    """Write a table as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def _best(run: Run, folder: Path | None) -> float | None:
    """Return the largest test accuracy after an epoch; None without a curve of test images."""
    if run.held_out or folder is None or not (folder / "metrics.csv").exists():
        return None
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        curve = [row.get("test_top1") for row in csv.DictReader(file)][1:]  # the first row is the untrained net's
    return max((float(value) for value in curve if value), default=None)


def judged(
    experiment: Experiment, preset: str, told: str, results: Results, grid: list[Run], verdicts: list[Verdict]
) -> dict[str, Any]:
    """Make the content of `verdicts.json`; `absent` lists the cells of the grid of which no run is done."""
    commit, changed = beforehand.changed(experiment.path)
    provenance = [result.get("provenance", {}) for _, result in results]
    began = [when for known in provenance if (when := known.get("started") or known.get("finished"))]
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "preset": preset,
        "conditions": told,
        "claims_commit": commit,
        "claims_changed": changed,
        "first_run": min(began, default=None),
        "absent": sorted({run.cell for run in grid} - {run.cell for run, _ in results}),
        "diverged": [run.name for run, result in results if diverged(result)],
        "claims": [{k: _plain(v) for k, v in asdict(verdict).items()} for verdict in verdicts],
    }


def failures(table: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Count the seeds of each cell that fail to train, with the 95% interval of the rate; a random mask cannot fail."""
    found = {}
    for cell in (cell for cell in cells(table) if method(str(cell.run.method)).learns):
        fail, of = len(cell.rows) - len(cell.trained), len(cell.rows)
        low, high = clopper_pearson(fail, of)
        found[cell.run.cell] = {"failed": fail, "seeds": of, "low": low, "high": high}
    return found


def draw(experiment: Experiment, results: Results, told: str) -> dict[str, str | bytes]:
    """Make the drawing with `told` at its foot, and the page and the summary of an experiment that has them."""
    from matplotlib.figure import Figure

    from lit_hidden.report import style

    files: dict[str, str | bytes] = {}
    with style.context():
        figure = Figure()
        experiment.draw(results, figure)
        style.footer(figure, told)
        for name, metadata in (("figure.svg", {"Date": None}), ("figure.png", {"Software": None})):
            drawing = io.BytesIO()
            figure.savefig(drawing, format=Path(name).suffix[1:], metadata=metadata)
            files[name] = drawing.getvalue()
    if experiment.page is not None:
        files["figure.html"] = experiment.page(results)
    if experiment.reduce is not None:
        out = io.BytesIO()
        np.savez_compressed(out, **results.summary)  # type: ignore[arg-type]
        if out.tell() > SUMMARY:
            size = f"{out.tell() / 1e6:.1f} MB; {SUMMARY / 1e6:g} MB is the most that is committed"
            raise ReproduceError(f"the arrays of reduce(results) of {experiment.name} take {size}")
        files["summary.npz"] = out.getvalue()
    return files


def _plain(value: Any) -> Any:
    """Write the bounds of an unbounded interval as null: JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tf32(result: dict[str, Any]) -> str | None:
    return ", ".join(result.get("provenance", {}).get("tf32", [])) or None


def conditions(preset: str, results: Results, whole: int | None = None) -> str:
    """Say for the foot of a drawing how results were obtained: preset, data, seeds, cuts, TF32.

    `whole` is how many runs the grid has, if some may be absent.
    """
    runs, seeds = [run for run, _ in results], results.seeds
    parts = [f"preset {preset}", f"data {listed(run.data for run in runs)}"]
    parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({listed(seeds)})")
    if whole is not None and len(runs) < whole:
        parts.append(f"{len(runs)} of {whole} runs")
    parts.append(f"net {listed(run.net for run in runs)}")
    found, widths = departures(runs), sorted({run.width for run in runs})
    if widths and widths[-1] > 1:  # widths are what the figure is about: nets wider than published cut nothing
        parts.append(f"widths {listed(f'x{width:g}' for width in widths)}")
        del found["width"]
    cut = [found[name] for name in FOOT if name in found]
    parts.append(f"cut: {', '.join(cut)}" if cut else "nothing cut")
    told = [{"precision": run.precision, "tf32": _tf32(result)} for run, result in results]
    return "; ".join(parts + in_tf32(told))
