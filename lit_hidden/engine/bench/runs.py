"""Whole runs as `reproduce` trains them: data, evaluation after each epoch, checkpoints, results."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from lit_hidden.engine.bench.rows import Effort, Row, Section, interleaved, written
from lit_hidden.engine.reproduce import load
from lit_hidden.engine.train import train
from lit_hidden.experiment import Run

EPOCHS, BATCH = 100, 128  # the paper's
FIRST, MORE = 2, 8  # epochs of the short run, and how many the long one has besides
RUNS = {net: Run(net=net, density=0.5) for net in ("conv2", "conv4", "conv6", "conv8")}
WHOLE = f"{EPOCHS} epochs"
FIGURE = "figure 3, one run after another"


def runs(
    effort: Effort, device: torch.device, data_dir: Path, of: dict[str, Run] | None = None, more: int = MORE
) -> Section:
    """Train short and longer runs by the paper's protocol, and say from them how long a whole one takes: seconds.

    Args:
        effort: how often.
        device: where.
        data_dir: where CIFAR-10 lies.
        of: the runs by net, as long as they may be; None is the paper's hidden Conv2 to Conv8, and in a checkout the
            figure that they are of.
        more: epochs that the longer run has besides.

    Raises:
        DataError: the data are damaged.
    """
    grid = _figure3() if of is None else []
    rows: list[Row] = []
    times: dict[str, dict[str, tuple[float, ...]]] = {}
    for net, run in (RUNS if of is None else of).items():
        lengths = {"short": FIRST, "longer": FIRST + more}

        def timed(epochs: int, run: Run = run) -> float:
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                train(replace(run, epochs=epochs), Path(folder), data_dir, device=device.type)
                return time.perf_counter() - began

        timed(FIRST)  # compiles, and chooses algorithms
        measures = {name: lambda _, epochs=epochs: timed(epochs) for name, epochs in lengths.items()}
        found = interleaved(measures, effort.few, f"{net}, whole runs", effort.console)
        each = tuple((b - a) / more for a, b in zip(found["short"], found["longer"], strict=True))
        times[net] = {"short": found["short"], "each": each}
        rows += [
            Row("an epoch, evaluation included", "s", each, net),
            Row(f"a run of {FIRST} epochs", "s", found["short"], net),
            Row(WHOLE, "s", tuple(a + (EPOCHS - FIRST) * b for a, b in zip(found["short"], each, strict=True)), net),
        ]
    about = (
        "Runs of the paper's figure 3 (density 0.5) as reproduce trains them, in this process: data, evaluation before "
        f"training and after each epoch, checkpoints, results. {FIRST} and {FIRST + more} epochs were trained, in "
        f"turn; {EPOCHS} are the first plus the difference between the two so often as there are epochs left. Medians "
        f"of {effort.few} rounds."
    )
    findings = [f"{row.group}: {EPOCHS} epochs take {written(row.median)} s" for row in rows if row.what == WHOLE]
    if grid:
        rows.append(row := _together(grid, times))
        findings.append(
            f"the {len(grid)} runs of figure 3's paper preset take about {written(row.median)} min one after another: "
            f"as many steps as each has, at what one of its net takes hidden at density 0.5 and batch {BATCH}"
        )
    return Section(f"Whole runs, {device.type}", about, rows, findings, "runs", device.type)


def _figure3() -> list[Run]:
    """List the runs of figure 3's paper preset; none outside a checkout, or where another's figure 3 lies."""
    try:
        grid = load("fig3").grid("paper")
    except Exception:  # whatever another's file may raise: there is no figure then, and all else is measured
        return []
    return grid if {run.net for run in grid} <= RUNS.keys() else []


def _together(grid: list[Run], times: Mapping[str, Mapping[str, tuple[float, ...]]]) -> Row:
    """Say how long runs take one after another, by what each net's took: minutes, by round."""
    minutes = []
    for i in range(len(next(iter(times.values()))["each"])):
        seconds = 0.0
        for run in grid:
            # Smaller batches are more steps, which on a large GPU take as long: Adam's baseline has 60 images.
            steps = max(1.0, BATCH / (run.batch_size or BATCH))
            seconds += steps * (times[run.net]["short"][i] + max(0, run.epochs - FIRST) * times[run.net]["each"][i])
        minutes.append(seconds / 60)
    return Row(FIGURE, "min", tuple(minutes))
