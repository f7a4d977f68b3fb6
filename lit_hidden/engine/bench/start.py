"""How long one waits: for `lit-hidden --help`, for `import lit_hidden`, for the first training step."""

import json
import subprocess
import sys
import time

import torch

from lit_hidden.engine.bench.first_step import STAGES
from lit_hidden.engine.bench.rows import Effort, Measure, Row, Section, interleaved

HELP, IMPORT, FIRST = "lit-hidden --help", "import lit_hidden", "first training step"
ROUNDS = 3  # of the first step, which takes seconds


def start(effort: Effort, device: torch.device) -> Section:
    """Measure processes from start to end: seconds.

    Raises:
        OSError: a process failed.
    """
    stages: list[list[float]] = []

    def step(number: int) -> float:
        if number >= ROUNDS:
            return 0.0
        began = time.time()
        times = json.loads(ended("-m", "lit_hidden.engine.bench.first_step", device.type))
        stages.append([after - before for before, after in zip([began, *times], times, strict=False)])
        return float(times[-1] - began)

    measures: dict[str, Measure] = {
        HELP: lambda _: _seconds("-m", "lit_hidden", "--help"),
        IMPORT: lambda _: _seconds("-c", "import lit_hidden"),
        FIRST: step,
    }
    found = interleaved(measures, effort.rounds, "start", effort.console)
    rows = [Row(what, "s", numbers[: ROUNDS if what == FIRST else None]) for what, numbers in found.items()]
    rows += [Row(what, "s", numbers, FIRST) for what, numbers in zip(STAGES, zip(*stages, strict=True), strict=True)]
    about = (
        "From the start of a process, its files in the disk's cache, to its end; of hidden Conv2's first step, to the "
        "end of that: Python's start, imports, making the net and drawn data, and Trainer and step. Without the "
        f"evaluation that runs begin with. Medians of {effort.rounds} rounds, of the first step at most {ROUNDS}."
    )
    return Section("Start", about, rows, [], "start", device.type)


def ended(*words: str) -> str:
    """Run this Python with `words` and give what it prints.

    Raises:
        OSError: it failed; with the end of what it said.
    """
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"python {' '.join(words)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _seconds(*words: str) -> float:
    began = time.perf_counter()
    ended(*words)
    return time.perf_counter() - began
