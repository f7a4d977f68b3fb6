"""`lit-hidden bench`: measure the sections that were asked for, print them, and write them down."""

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch.utils.benchmark.utils.common import set_torch_threads

from experiments.bench import page
from experiments.bench.epoch import epoch
from experiments.bench.inputs import inputs
from experiments.bench.rows import Bench, Section
from experiments.bench.selection import selection
from experiments.bench.start import start
from experiments.bench.steps import steps
from lit_hidden.engine.experiment import UsageError

SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "selection": selection, "steps": steps, "input": inputs, "epoch": epoch, "start": start,
}  # fmt: skip


def bench(
    only: str | None = None,
    device: str | None = None,
    seconds: float = 1.0,
    out: str | Path = "results/bench",
    rounds: int = 3,
) -> None:
    """Measure each section `rounds` times, print it, and write `bench.json`, `.md`, `.svg` and `.png` into `out`.

    `lit-hidden bench --help` explains the arguments.

    Raises:
        UsageError: there is no such section or device.
        OSError: a process fails, or `out` cannot be written to.
    """
    console, out = Console(highlight=False), Path(out)
    wanted = only.split(",") if only is not None else [*SECTIONS]
    if unknown := [name for name in wanted if name not in SECTIONS]:
        raise UsageError(f"--only {only} names no section {unknown[0]!r}; sections are {', '.join(SECTIONS)}")
    there = ("cpu", "cuda")[: 1 + torch.cuda.is_available()]
    if device is not None and device not in there:
        raise UsageError(f"--device {device} is not there; there is {', '.join(there)}")
    benches = [Bench(torch.device(each), seconds, rounds) for each in there if device in (None, each)]
    # As in the engine: one thread, and on a GPU the quickest algorithm of each convolution.
    tried = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
    with set_torch_threads(1), tried:
        out.mkdir(parents=True, exist_ok=True)
        said = f"{page.machine(benches[-1].device)}; medians of {rounds} rounds, {seconds:g} s a measurement"
        console.print(said, markup=False, soft_wrap=True)
        sections: list[Section] = []
        for name in (name for name in SECTIONS if name in wanted):
            for each in benches[-1:] if name == "start" else benches:  # one waits for the device that trains
                with console.status(f"{name}, {each.device.type}"):
                    sections.append(SECTIONS[name](each))
                console.print("", Markdown(page.markdown(sections[-1])))
        page.write(sections, said, out)
    console.print(f"\nwritten: {out / 'bench.md'}, and bench.json beside it", markup=False, soft_wrap=True)
