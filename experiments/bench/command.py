"""`lit-hidden bench`: measure the sections that were asked for, print them, and write them down."""

import math
import shlex
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch.utils.benchmark.utils.common import set_torch_threads

from experiments.bench import inputs, page
from experiments.bench.epoch import epoch
from experiments.bench.rows import Bench, Section
from experiments.bench.selection import selection
from experiments.bench.start import start
from experiments.bench.steps import steps
from experiments.bench.training import made
from lit_hidden.data import DataError
from lit_hidden.engine.experiment import ReproduceError, UsageError
from lit_hidden.recipes import IMAGENET_SIZES

SECTIONS = ("selection", "steps", "input", "feeding", "epoch", "start")


def bench(
    only: str | None = None,
    device: str | None = None,
    data: str | None = None,
    data_dir: str | Path = "data",
    net: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    seconds: float = 1.0,
    out: str | Path = "results/bench",
    *,
    rounds: int = 5,
    console: Console | None = None,
) -> None:
    """Measure each section `rounds` times, print it, and write `bench.json`, `.md`, `.svg` and `.png` into `out`.

    `lit-hidden bench --help` explains the arguments. All sections are measured, or `feeding` alone where its `data`,
    `net`, `image_size` or `batch_size` is given.

    Raises:
        UsageError: an argument is unknown, out of bounds, or for a section that is not measured.
        ReproduceError: the data are missing or damaged, or `out` cannot be written to.
    """
    console, root, out = console or Console(highlight=False), Path(data_dir), Path(out)
    feeding: dict[str, Any] = {"data": data, "net": net, "image-size": image_size, "batch-size": batch_size}
    given = {"only": only, "device": device, **feeding, "data-dir": data and data_dir}
    given = {name: value for name, value in given.items() if value is not None}
    wanted = asked_for(only, [name for name in feeding if name in given])
    there = ("cpu", "cuda")[: 1 + torch.cuda.is_available()]
    if device is not None and device not in there:
        raise UsageError(f"--device {device} is not there; there is {', '.join(there)}")
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g} measures nothing; it must be more than 0")
    benches = [Bench(torch.device(each), seconds, rounds, console) for each in there if device in (None, each)]
    last = benches[-1]
    # As in the engine: one thread, and on a GPU the quickest algorithm of each convolution.
    tried = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
    with set_torch_threads(1), tried, tempfile.TemporaryDirectory(prefix="lit-hidden-bench-") as folder:
        scratch = Path(folder)
        try:
            measures: dict[str, list[Callable[[], Section]]] = {}
            if "feeding" in wanted:
                try:  # before anything is measured
                    fed = inputs.fed(data, root if data else scratch, last.device, image_size, batch_size)
                    net = net or ("resnet50" if data is None or data in IMAGENET_SIZES else "conv4")
                    made(net, 0.3, fed, last.device)  # there may be no such net
                except ValueError as error:
                    raise UsageError(str(error)) from error
                measures["feeding"] = [partial(inputs.feeding, last, fed, net, data is None)]
            pictures = inputs.pictures(root) if "input" in wanted else None
            out.mkdir(parents=True, exist_ok=True)
            found = page.machine(last.device)
            console.print(found["said"], markup=False, soft_wrap=True)
            measures |= {
                "selection": [partial(selection, each) for each in benches],
                "steps": [partial(steps, each) for each in benches],
                "input": [partial(inputs.inputs, each, *pictures) for each in benches if pictures],
                "epoch": [partial(epoch, each, scratch) for each in benches],
                "start": [partial(start, last)],
            }
            sections: list[Section] = []
            for measure in (each for name in wanted for each in measures[name]):
                sections.append(measure())
                console.print("", Markdown(page.markdown(sections[-1])))
            words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
            page.write(sections, found, shlex.join(["lit-hidden", "bench", *words, "--seconds", f"{seconds:g}"]), out)
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
    console.print(f"\nwritten: {out / 'bench.md'}, and bench.json beside it", markup=False, soft_wrap=True)


def asked_for(only: str | None, of_feeding: list[str]) -> list[str]:
    """List the sections that are asked for, in their order; `of_feeding` names the arguments for feeding alone."""
    names = only.split(",") if only is not None else ["feeding"] if of_feeding else [*SECTIONS]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UsageError(f"--only {only} names no section {unknown[0]!r}; sections are {', '.join(SECTIONS)}")
    if of_feeding and "feeding" not in names:
        raise UsageError(f"--{of_feeding[0]} is for feeding, which --only {only} leaves out")
    return [name for name in SECTIONS if name in names]
