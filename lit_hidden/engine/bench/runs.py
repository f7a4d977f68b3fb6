"""Whole runs as `reproduce` trains them: data, evaluation after each epoch, checkpoints, results."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from lit_hidden.engine.bench.rows import Effort, Row, Section, interleaved, written
from lit_hidden.engine.train import train
from lit_hidden.experiment import Run

EPOCHS = 100  # the paper's
FIRST, MORE = 2, 8  # epochs of the short run, and how many the long one has besides
RUNS = {"conv2": Run(net="conv2", density=0.5), "conv8": Run(net="conv8", density=0.5)}
WHOLE = f"{EPOCHS} epochs"


def runs(
    effort: Effort, device: torch.device, data_dir: Path, of: dict[str, Run] | None = None, more: int = MORE
) -> Section:
    """Train short and longer runs by the paper's protocol, and say from them how long a whole one takes: seconds.

    Args:
        effort: how often.
        device: where.
        data_dir: where CIFAR-10 lies.
        of: the runs by name, as long as they may be; None is hidden Conv2 and Conv8 of the paper.
        more: epochs that the longer run has besides.

    Raises:
        DataError: the data are damaged.
    """
    rows: list[Row] = []
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
    return Section(f"Whole runs, {device.type}", about, rows, findings, "runs", device.type)
