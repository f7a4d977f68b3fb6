"""`lit-hidden bench`: measure the sections that were asked for, print them, and write them down."""

import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lit_hidden.data import CIFAR10Data, DataError
from lit_hidden.data.files import find
from lit_hidden.engine.bench import epoch, feeding, inputs, page, plot, runs, selection, start, steps
from lit_hidden.engine.bench.rows import Effort, Section, one_thread
from lit_hidden.engine.bench.targets import judged
from lit_hidden.engine.reproduce import ReproduceError, UsageError

ROUNDS = 5
SECTIONS = ("selection", "steps", "input", "feeding", "epoch", "runs", "start")
DEVICES = ("cpu", "cuda")


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
    rounds: int = ROUNDS,
    console: Console | None = None,
) -> None:
    """Measure each section, print it, and write all to `out`: `bench.json`, `bench.md`, `bench.svg` and `bench.png`.

    Args:
        only: sections, with commas between; None is all, but `runs` only where there are a GPU and CIFAR-10; or where
            one of the next but `data_dir` is given, which are for it, `feeding`.
        device: `cpu` or `cuda`; None is both where there is a GPU. Loaders feed, and processes start on, the last.
        data: a set by name; None generates files like ILSVRC-2012's, and takes scikit-learn's digits and, if it is
            there, CIFAR-10.
        data_dir: where the data sets lie.
        net: what is trained, by name; None is resnet50 on ImageNet and its subsets, conv4 on others.
        image_size: pixels, of ImageNet and its subsets; None is the set's custom.
        batch_size: images in a batch; None is 128, of ImageNet and its subsets 256 on a GPU and 8 on a CPU.
        seconds: how long a measurement takes at least.
        out: where to write.
        rounds: how often everything is measured, at least.
        console: where to print.

    Raises:
        UsageError: `seconds` is not above 0; a section, the device, the data, the net or a number is unknown, out of
            bounds, or for nothing that is measured.
        ReproduceError: the data are missing or damaged, or `out` cannot be written to.
    """
    console = console or Console(highlight=False)
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g} measures nothing; it must be more than 0")
    of_feeding = {"data": data, "net": net, "image-size": image_size, "batch-size": batch_size}
    wanted = _wanted(only, [name for name, value in of_feeding.items() if value is not None])
    devices = _devices(device)
    if "runs" in wanted and (why := _no_runs(devices, Path(data_dir))):
        if only is not None:
            raise UsageError(f"--only {only}: {why}")
        wanted.remove("runs")
    effort = Effort(seconds, rounds, console)
    # As the engine's trainer on a GPU has it: the quickest algorithm of each convolution is tried out.
    tried = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
    with one_thread(), tried, tempfile.TemporaryDirectory(prefix="lit-hidden-bench-") as scratch:
        place, last = Path(scratch), devices[-1]
        fed = []
        try:
            # Before anything expensive: all that may be wrong with the arguments.
            if "feeding" in wanted:
                sets = feeding.sets(data, Path(data_dir), place, image_size, batch_size, last)
                fed = [feeding.Feed(each, net, last) for each in sets]
            pictures = inputs.pictures(Path(data_dir)) if "input" in wanted else None
            Path(out).mkdir(parents=True, exist_ok=True)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
        found = page.machine(last)
        console.print(found["said"], markup=False, soft_wrap=True)
        measures: dict[str, list[Callable[[], Section]]] = {
            "selection": [partial(selection.selection, effort, each) for each in devices],
            "steps": [partial(steps.steps, effort, each) for each in devices],
            "input": [partial(inputs.inputs, effort, each, *pictures) for each in devices if pictures],
            "feeding": [partial(feeding.feeding, each, effort, place) for each in fed],
            "epoch": [partial(epoch.epoch, effort, each, place) for each in devices],
            "runs": [partial(runs.runs, effort, last, Path(data_dir))],
            "start": [partial(start.start, effort, last)],
        }
        given: dict[str, Any] = {"only": only, "device": device, "data": data}
        given |= {"data-dir": data and data_dir, "net": net, "image-size": image_size, "batch-size": batch_size}
        given |= {"seconds": f"{seconds:g}"}
        sections: list[Section] = []
        try:
            for measure in (each for name in wanted for each in measures[name]):
                sections.append(measure())
                page.show(sections[-1], console)
            if verdict := judged(sections):
                page.show(verdict, console)
                sections.append(verdict)
            drawn = plot.draw(sections, found["said"], Path(out))
            page.write(sections, found, given, Path(out), drawn)
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
    names = ["bench.md", "bench.json", *([drawn] if drawn else [])]
    console.print(f"\nwritten: {', '.join(str(Path(out) / name) for name in names)}", markup=False, soft_wrap=True)


def _wanted(only: str | None, of_feeding: list[str]) -> list[str]:
    """List the sections that are asked for, in their order."""
    if only is None:
        return ["feeding"] if of_feeding else [*SECTIONS]
    names = only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UsageError(f"--only {only} names no section {unknown[0]!r}; sections are {', '.join(SECTIONS)}")
    if of_feeding and "feeding" not in names:
        raise UsageError(f"--{of_feeding[0]} is for feeding, which --only {only} leaves out")
    return [name for name in SECTIONS if name in names]


def _no_runs(devices: list[torch.device], data_dir: Path) -> str:
    """Say why whole runs cannot be measured; empty if they can."""
    if devices[-1].type != "cuda":
        return "runs are whole trainings, measured on a GPU, and none is there or asked for"
    data = CIFAR10Data(str(data_dir))
    return "" if find(data.root, data.layouts) else f"runs train on CIFAR-10, which is not in {data_dir}"


def _devices(device: str | None) -> list[torch.device]:
    """List the devices to measure on."""
    there = DEVICES[: 1 + torch.cuda.is_available()]
    if device is not None and device not in there:
        raise UsageError(f"--device {device} is not there; there is {', '.join(there)}")
    return [torch.device(name) for name in there if device in (None, name)]
