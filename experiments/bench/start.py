"""How long one waits: for `lit-hidden --help`, for `import lit_hidden`, for the first training step.

As a program (`python -m experiments.bench.start cpu`) it trains one step of hidden Conv2 on drawn images and prints
when it began, had imported all, had made net and data, and had taken the step: seconds since 1970, as JSON.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # as a program it measures these imports
    from experiments.bench.rows import Bench, Section

FIRST = "first training step"
STAGES = ("Python", "imports", "net and data", "Trainer and step")  # what ends at each of its times


def start(bench: "Bench") -> "Section":
    """Measure processes from start to end: seconds.

    Raises:
        OSError: a process failed.
    """
    from experiments.bench.rows import Section

    about = (
        "From the start of a process, its files in the disk's cache, to its end; of hidden Conv2's first step, to the "
        "end of that: Python's start, imports, making the net and drawn data, and Trainer and step, without the "
        f"evaluation that runs begin with. Medians of {bench.few} rounds."
    )
    section = Section("start", bench.device.type, about)
    stages: list[list[float]] = []

    def whole(*words: str) -> float:
        began = time.time()
        ended(*words)
        return time.time() - began

    def first() -> float:
        began = time.time()
        times = [began, *json.loads(ended("-m", "experiments.bench.start", bench.device.type))]
        stages.append([after - before for before, after in pairwise(times)])
        return float(times[-1]) - began

    words = {"lit-hidden --help": ("-m", "lit_hidden", "--help"), "import lit_hidden": ("-c", "import lit_hidden")}
    measures = {what: partial(whole, *each) for what, each in words.items()}
    section.add("s", bench.turns("start", measures | {FIRST: first}, bench.few))
    section.add("s", dict(zip(STAGES, zip(*stages, strict=True), strict=True)), FIRST)
    return section


def ended(*words: str) -> str:
    """Run this Python with `words` and give what it prints.

    Raises:
        OSError: it failed; with the end of what it said.
    """
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"python {' '.join(words)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> None:
    """Train a step, print the times, and end at once: nothing is evaluated before, and nothing written after."""
    times = [time.time()]
    import torch

    from experiments.bench.training import BATCH, Watched, fit, like, made

    torch.set_num_threads(1)
    times.append(time.time())
    device = torch.device(sys.argv[1])
    module, loader = made("conv2", 0.5, like("conv2", 32, BATCH), device), Watched(1, BATCH, device)
    times.append(time.time())

    def end(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        sys.stdout.write(json.dumps([*times, time.time()]) + "\n")
        sys.stdout.flush()
        os._exit(0)

    module.on_train_batch_end = end  # type: ignore[assignment,method-assign]
    fit(module, loader, Path(os.devnull).parent)


if __name__ == "__main__":
    main()
