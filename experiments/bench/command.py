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

from experiments.bench import epoch, inputs, page
from experiments.bench.rows import Bench, Section
from experiments.bench.selection import selection
from experiments.bench.start import start
from experiments.bench.steps import steps
from experiments.bench.training import made
from lit_hidden.data import CIFAR10Data, DataError
from lit_hidden.data.files import find
from lit_hidden.engine.reproduce import ReproduceError, UsageError
from lit_hidden.recipes import IMAGENET_SIZES

SECTIONS = ("selection", "steps", "input", "feeding", "epoch", "runs", "start")


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

    `lit-hidden bench --help` says what the arguments are. All sections are measured, or `feeding` alone where its
    `data`, `net`, `image_size` or `batch_size` is given; `runs` only where there are a GPU and CIFAR-10.

    Raises:
        UsageError: `seconds` is not above 0; a section, the device, the data, the net or a number is unknown, out of
            bounds, or for nothing that is measured.
        ReproduceError: the data are missing or damaged, or `out` cannot be written to.
    """
    console = console or Console(highlight=False)
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g} measures nothing; it must be more than 0")
    of_feeding: dict[str, Any] = {"data": data, "data-dir": data and data_dir, "net": net}
    of_feeding |= {"image-size": image_size, "batch-size": batch_size}
    given = {name: value for name, value in {"only": only, "device": device, **of_feeding}.items() if value is not None}
    places = ("cpu", "cuda")[: 1 + torch.cuda.is_available()]
    if device is not None and device not in places:
        raise UsageError(f"--device {device} is not there; there is {', '.join(places)}")
    benches = [Bench(torch.device(each), seconds, rounds, console) for each in places if device in (None, each)]
    last, root = benches[-1], Path(data_dir)
    wanted = asked_for(only, [name for name in of_feeding if name in given], last.device.type, root)
    # As in the engine: one thread, and on a GPU the quickest algorithm of each convolution.
    tried = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
    with set_torch_threads(1), tried, tempfile.TemporaryDirectory(prefix="lit-hidden-bench-") as folder:
        scratch = Path(folder)
        try:  # before anything expensive, all that may be wrong with the arguments
            feeds = []
            if "feeding" in wanted:
                for each in inputs.sets(data, root, scratch, image_size, batch_size, last.device):
                    feeds.append((each, net or ("resnet50" if each.name in IMAGENET_SIZES else "conv4")))
                    made(feeds[-1][1], 0.3, each, last.device)
            pictures = inputs.pictures(root) if "input" in wanted else None
            Path(out).mkdir(parents=True, exist_ok=True)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
        found = page.machine(last.device)
        console.print(found["said"], markup=False, soft_wrap=True)
        measures: dict[str, list[Callable[[], Section]]] = {
            "selection": [partial(selection, each) for each in benches],
            "steps": [partial(steps, each) for each in benches],
            "input": [partial(inputs.inputs, each, *pictures) for each in benches if pictures],
            "feeding": [partial(inputs.feeding, last, *each, scratch) for each in feeds],
            "epoch": [partial(epoch.epoch, each, scratch) for each in benches],
            "runs": [partial(epoch.runs, last, root)],
            "start": [partial(start, last)],
        }
        sections: list[Section] = []
        try:
            for measure in (each for name in wanted for each in measures[name]):
                sections.append(measure())
                console.print("", Markdown(page.markdown(sections[-1])))
            if (verdict := page.judged(sections)).findings:
                console.print("", Markdown(page.markdown(verdict)))
                sections.append(verdict)
            words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
            command = shlex.join(["lit-hidden", "bench", *words, "--seconds", f"{seconds:g}"])
            page.write(sections, found, command, Path(out))
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
    console.print(f"\nwritten: {Path(out) / 'bench.md'}, and bench.json beside it", markup=False, soft_wrap=True)


def asked_for(only: str | None, of_feeding: list[str], device: str, data_dir: Path) -> list[str]:
    """List the sections that are asked for, in their order."""
    names = only.split(",") if only is not None else ["feeding"] if of_feeding else [*SECTIONS]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UsageError(f"--only {only} names no section {unknown[0]!r}; sections are {', '.join(SECTIONS)}")
    if of_feeding and "feeding" not in names:
        raise UsageError(f"--{of_feeding[0]} is for feeding, which --only {only} leaves out")
    if "runs" in names:
        data, why = CIFAR10Data(str(data_dir)), ""
        if device != "cuda":
            why = "runs are whole trainings, measured on a GPU, and none is there or asked for"
        elif not find(data.root, data.layouts):
            why = f"runs train on CIFAR-10, which is not in {data_dir}"
        if why and only is not None:
            raise UsageError(f"--only {only}: {why}")
        names = [name for name in names if not why or name != "runs"]
    return [name for name in SECTIONS if name in names]
