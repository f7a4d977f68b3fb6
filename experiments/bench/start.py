"""How long one waits: for `lit-hidden --help`, for `import lit_hidden`, for the first training step.

As a program (`python -m experiments.bench.start cpu`) it trains one step of hidden Conv2 on drawn images, and ends.
"""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.bench.rows import Bench, Section, turns
from experiments.bench.training import BATCH, Watched, fit, like, made

NET = "conv2"


def start(bench: Bench) -> Section:
    """Measure processes from start to end: seconds; an OSError if one fails."""
    about = (
        "From the start of a process, its files in the disk's cache, to its end. The first step is one of hidden "
        "Conv2 on drawn images, without the evaluation before it."
    )
    section = Section("start", bench.device.type, about)
    words = {
        "lit-hidden --help": ("-m", "lit_hidden", "--help"),
        "import lit_hidden": ("-c", "import lit_hidden"),
        "first training step": ("-m", "experiments.bench.start", bench.device.type),
    }
    section.add("s", turns({what: partial(_whole, *each) for what, each in words.items()}, bench.rounds))
    return section


def _whole(*words: str) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"python {' '.join(words)} failed: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - began


def main() -> None:
    """Train a step, and exit: nothing is evaluated before, and nothing written after."""
    torch.set_num_threads(1)
    device = torch.device(sys.argv[1])
    module, loader = made(NET, 0.5, like(NET, 32, BATCH), device), Watched(1, BATCH, device)

    def end(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        os._exit(0)

    module.on_train_batch_end = end  # type: ignore[assignment,method-assign]
    fit(module, loader, Path(os.devnull).parent)


if __name__ == "__main__":
    main()
