"""The options of `lit-hidden bench`, and the environment of the engine's workers, which it takes on first."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from lit_hidden.engine.devices import CPU, environments


def parsed(words: Sequence[str], own: bool) -> dict[str, Any]:
    """Parse a command line that begins with `bench`, for `lit_hidden.cli`; enter the environment in a process `own`."""
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser("lit-hidden bench", formatter_class=shown, argument_default=argparse.SUPPRESS)
    sections = "with commas: selection, steps, input, epoch, start; without it all"
    parser.add_argument("--only", metavar="SECTIONS", help=sections)
    parser.add_argument("--device", help="cpu or cuda; both, if there is a GPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="the shortest time of a measurement")
    parser.add_argument("--out", default="results/bench", help="folder of the numbers, the page and the plot")
    found = vars(parser.parse_args(words[1:]))
    if own:
        enter(words)
    return {"command": "bench", "run": "experiments.bench.command:bench", **found}


def enter(words: Sequence[str]) -> None:
    """Replace this process by `lit-hidden` with `words` in that environment, unless it has it: glibc reads it once."""
    wanted = CPU | environments(None)[1][0]  # of a CPU worker and, with GPUs, of the first GPU's
    if not wanted.items() <= os.environ.items():
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "lit_hidden", *words], {**os.environ, **wanted})
