"""What a reproduction writes of an experiment: its table, its verdicts, its drawing with the conditions at its foot."""

import csv
import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lit_hidden.engine import beforehand
from lit_hidden.engine.experiment import Experiment
from lit_hidden.judge import Verdict
from lit_hidden.recipes import method
from lit_hidden.report.tables import cells, departures, in_tf32, listed
from lit_hidden.results import Results, diverged, failed
from lit_hidden.run import Run

SUMMARY = 2_000_000  # bytes of summary.npz, which is committed
# A foot is one line: the rates that a figure is about are told in its drawing.
FOOT = (
    "width", "epochs", "warmup_epochs", "train_images", "images_per_class", "batch_size", "classes", "image_size",
    "data",
)  # fmt: skip


def rows(results: Results) -> list[dict[str, Any]]:
    """Make the table of `results.csv`: a run a row, its description first, then its numbers and where they are from.

    `failed`: it did not train. `best_accuracy`, of all epochs, is chosen on the test set, so no claim reads it.
    """
    table = []
    for run, result, folder in results.rows:
        provenance = result.get("provenance", {})
        row: dict[str, Any] = {"run": run.hash, **run.row}
        row |= {name: value for name, value in result.items() if isinstance(value, (int, float, str))}
        row |= {"failed": failed(run, result), "best_accuracy": _best(run, folder)}
        row |= {name: provenance.get(name) for name in ("seconds", "device", "cpu", "commit", "finished")}
        row |= {"tf32": _tf32(result), **provenance.get("versions", {})}
        table.append(row)
    columns = dict.fromkeys(name for row in table for name in row)
    return [{name: row.get(name) for name in columns} for row in table]


def _best(run: Run, folder: Path | None) -> float | None:
    """Return the largest test accuracy after an epoch; None without a curve of test images."""
    if run.held_out or folder is None or not (folder / "metrics.csv").exists():
        return None
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        _, *trained = [row.get("test_top1") for row in csv.DictReader(file)]  # the first row is the untrained net's
    return max((float(value) for value in trained if value), default=None)


def _tf32(result: dict[str, Any]) -> str | None:
    return ", ".join(result.get("provenance", {}).get("tf32", [])) or None


def as_csv(table: list[dict[str, Any]]) -> str:
    """Write a table as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def judged(
    experiment: Experiment, preset: str, results: Results, table: list[dict[str, Any]], verdicts: list[Verdict]
) -> dict[str, Any]:
    """Make the content of `verdicts.json`; `absent` lists the cells of the grid of which no run is done."""
    from scipy.special import betaincinv

    grid, (commit, changed) = experiment.grid(preset), beforehand.changed(experiment.path)
    provenance = [result.get("provenance", {}) for _, result in results]
    began = [when for known in provenance if (when := known.get("started") or known.get("finished"))]
    failures = {}  # the seeds of each cell that fail to train, with the 95% interval of the rate
    for cell in cells(table):
        if method(str(cell.run.method)).learns:  # a random mask cannot fail
            fail, of = len(cell.rows) - len(cell.trained), len(cell.rows)
            low = float(betaincinv(fail, of - fail + 1, 0.025)) if fail else 0.0  # Clopper & Pearson 1934
            high = float(betaincinv(fail + 1, of - fail, 0.975)) if fail < of else 1.0
            failures[cell.run.cell] = {"failed": fail, "seeds": of, "low": low, "high": high}
    for claim in (told := list(map(asdict, verdicts))):  # JSON has no infinity
        claim |= {n: None for n, value in claim.items() if isinstance(value, float) and not math.isfinite(value)}
    return {
        "experiment": experiment.name, "title": experiment.title, "preset": preset,
        "conditions": conditions(preset, results, len(grid)),
        "claims_commit": commit, "claims_changed": changed, "first_run": min(began, default=None),
        "absent": sorted({run.cell for run in grid} - {run.cell for run in results.runs}),
        "diverged": [run.name for run, result in results if diverged(result)],
        "claims": told, "failures": failures,
    }  # fmt: skip


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
            raise ValueError(f"the arrays of reduce(results) take {out.tell():,} bytes, more than {SUMMARY:,}")
        files["summary.npz"] = out.getvalue()
    return files


def conditions(preset: str, results: Results, whole: int | None = None) -> str:
    """Say for the foot of a drawing how results were obtained: preset, data, seeds, cuts, TF32; of `whole` runs."""
    runs, seeds = results.runs, results.seeds
    parts = [f"preset {preset}", f"data {listed(run.data for run in runs)}"]
    parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({listed(seeds)})")
    if whole is not None and len(runs) < whole:
        parts.append(f"{len(runs)} of {whole} runs")
    parts.append(f"net {listed(run.net for run in runs)}")
    found, widths = departures([run for run in runs if run.epochs] or runs), sorted({run.width for run in runs})
    if widths and widths[-1] > 1:  # widths are what the figure is about: nets wider than published cut nothing
        parts.append(f"widths {listed(f'x{width:g}' for width in widths)}")
        del found["width"]
    cut = [found[name] for name in FOOT if name in found]
    parts.append(f"cut: {', '.join(cut)}" if cut else "nothing cut")
    told = [{"precision": run.precision, "tf32": _tf32(result)} for run, result in results]
    return "; ".join(parts + in_tf32(told))
