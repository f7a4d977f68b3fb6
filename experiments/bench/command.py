"""`lit-hidden bench`: measure the sections that were asked for, print them, and write them down."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from lit_hidden.data import DataError
from lit_hidden.engine.experiment import ReproduceError, UsageError


def bench(
    only: str | None = None,
    device: str | None = None,
    data: str | None = None,
    data_dir: str | Path = "data",
    net: str | None = None,
    seconds: float = 1.0,
    out: str | Path = "results/bench",
    *,
    rounds: int = 3,
    console: Console | None = None,
) -> None:
    """Measure each section `rounds` times, print it, and write `bench.json`, `.md`, `.svg` and `.png` into `out`.

    `lit-hidden bench --help` explains the arguments.

    Raises:
        UsageError: an argument is unknown, or has no use.
        ReproduceError: the data are missing or damaged, or `out` cannot be written to.
    """
    console, out = console or Console(highlight=False), Path(out)
    measures: dict[str, Callable[[Bench], Section]] = {
        "selection": selection, "steps": steps, "input": inputs.inputs, "epoch": epoch, "start": start,
    }  # fmt: skip
    wanted = only.split(",") if only is not None else [*measures]
    if unknown := [name for name in wanted if name not in measures]:
        raise UsageError(f"--only {only} names no section {unknown[0]!r}; sections are {', '.join(measures)}")
    if data is not None:
        measures = {"feeding": partial(inputs.feeding, name=data, net=net, data_dir=Path(data_dir))}
        wanted = [*measures]
    if (only and data) or (net and not data):
        raise UsageError("--data measures its loader and training alone: --net needs it, and --only excludes it")
    there = ("cpu", "cuda")[: 1 + torch.cuda.is_available()]
    if device is not None and device not in there:
        raise UsageError(f"--device {device} is not there; there is {', '.join(there)}")
    benches = [Bench(torch.device(each), seconds, rounds) for each in there if device in (None, each)]
    # As in the engine: one thread, and on a GPU the quickest algorithm of each convolution.
    tried = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
    with set_torch_threads(1), tried:
        try:
            out.mkdir(parents=True, exist_ok=True)
            how = f"medians of {rounds} rounds, {seconds:g} s a measurement"
            said = f"{page.machine(benches[-1].device)}; {how}"
            console.print(said, markup=False, soft_wrap=True)
            sections: list[Section] = []
            for name in (name for name in measures if name in wanted):
                # How long one waits, and whether a loader keeps up, is asked of the device that trains.
                for each in benches[-1:] if name in ("start", "feeding") else benches:
                    with console.status(f"{name}, {each.device.type}"):
                        sections.append(measures[name](each))
                    console.print("", Markdown(page.markdown(sections[-1])))
            page.write(sections, said, out)
        except (DataError, OSError) as error:
            raise ReproduceError(str(error)) from error
    console.print(f"\nwritten: {out / 'bench.md'}, and bench.json beside it", markup=False, soft_wrap=True)
