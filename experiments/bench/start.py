"""How long one waits: for `lit-hidden --help`, for `import lit_hidden`, for the first training step.

As a program (`python -m experiments.bench.start cpu`) it trains one step of hidden Conv2 on drawn images. It prints as
JSON, in seconds since 1970, when it began, when imports, net and data were ready, and when the step ended.
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

if TYPE_CHECKING:  # the program measures these imports
    from experiments.bench.rows import Bench, Section

FIRST = "first training step"
STAGES = ("Python", "imports", "net and data", "Trainer and step")


def start(bench: "Bench") -> "Section":
    """Measure processes from start to end: seconds.

    Raises:
        OSError: a process failed.
    """
    from experiments.bench.rows import Section

    about = (
        "From the start of a process, its files in the disk's cache, to its end. The first step of hidden Conv2: "
        "Python's start, imports, making net and drawn data, Trainer and step, without the evaluation before it. "
        f"Medians of {bench.few} rounds."
    )
    section = Section("start", bench.device.type, about)
    stages: list[list[float]] = []

    def whole(*words: str) -> float:
        began = time.time()
        ended(*words)
        return time.time() - began

    def first() -> float:
        times = [time.time(), *json.loads(ended("-m", "experiments.bench.start", bench.device.type))]
        stages.append([after - before for before, after in pairwise(times)])
        return float(times[-1] - times[0])

    words = {"lit-hidden --help": ("-m", "lit_hidden", "--help"), "import lit_hidden": ("-c", "import lit_hidden")}
    measures = {what: partial(whole, *each) for what, each in words.items()}
    section.add("s", bench.turns("start", measures | {FIRST: first}, bench.few))
    section.add("s", dict(zip(STAGES, zip(*stages, strict=True), strict=True)), FIRST)
    return section


def ended(*words: str) -> str:
    """Run this Python with `words` and return what it prints.

    Raises:
        OSError: it failed; with the end of its standard error.
    """
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"python {' '.join(words)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> None:
    """Train a step, print the times, and exit: nothing is evaluated before, and nothing written after."""
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
