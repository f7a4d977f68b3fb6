"""How the bench's numbers are shown: in the terminal, as a page, as JSON; and on which machine they were taken."""

import json
import os
import platform
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from lit_hidden.engine.bench.environment import as_workers
from lit_hidden.engine.bench.rows import Section, counted
from lit_hidden.engine.local import cores
from lit_hidden.engine.store import write_atomically

WORDS = ("what", "unit", "kind", "net", "device", "middle half", "target", "")  # columns that hold words


def machine(device: torch.device) -> dict[str, Any]:
    """Say on what was measured: in parts, and in one line, `said`."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        pass
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    load = round(os.getloadavg()[0], 2)  # processes that wanted a core in the last minute
    found = {
        "cpu": model,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "workers": cores(),
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": load,
        "environment": "a worker's" if as_workers() else "not a worker's",
    }
    told = f"{model}: {counted(cores(), 'core')}, {counted(torch.get_num_threads(), 'thread')}; training on {name}; "
    told += f"torch {torch.__version__}; load {load} at the start"
    if load > cores() / 2:
        told += " (busy: of a quiet machine expect more)"
    if not as_workers():
        told += "; memory is not kept between steps as workers keep it (lit-hidden bench sees to that)"
    return {**found, "said": told}


def show(section: Section, console: Console) -> None:
    """Print a section."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    columns, *lines = section.shown
    for column in columns:
        head = column.replace(" / ", "\n/").replace(" ms", "\nms")  # numbers are narrower
        words = column in WORDS
        table.add_column(head, justify="left" if words else "right", no_wrap=column != "what", overflow="fold")
    for cells in lines:
        table.add_row(*cells)
    console.print("")
    console.print(section.title, style="bold", markup=False)
    console.print(section.about, markup=False)
    console.print("", table, "")
    for line in section.findings:
        console.print(line, markup=False)


def write(sections: list[Section], found: dict[str, Any], given: dict[str, Any], out: Path, plot: str | None) -> None:
    """Write `bench.json` and, of the same numbers, `bench.md`.

    Args:
        sections: what was measured.
        found: the machine.
        given: the command's options and their values; None was not given.
        out: the folder.
        plot: a file there to show on the page.
    """
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", f"{value}")]
    command, finished = shlex.join(["lit-hidden", "bench", *words]), datetime.now(UTC).isoformat(timespec="seconds")
    record = {"command": command, "finished": finished, "machine": found, "sections": [*map(_plain, sections)]}
    write_atomically(out / "bench.json", json.dumps(record, indent=1) + "\n")
    told = f"{found['said']}. `{command}`, {finished}."
    picture = [f"![What was measured]({plot})"] if plot else []
    page = ["# What this machine does", told, *picture, *map(_markdown, sections)]
    write_atomically(out / "bench.md", "\n\n".join(page) + "\n")


def _markdown(section: Section) -> str:
    columns, *cells = section.shown
    rule = tuple("---" if column in WORDS else "---:" for column in columns)
    table = "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *cells))
    findings = "\n".join(f"- {line}" for line in section.findings)
    return f"## {section.title}\n\n{section.about}\n\n{table}" + (f"\n\n{findings}" if findings else "")


def _plain(section: Section) -> dict[str, Any]:
    rows = [
        {**({"group": r.group} if r.group else {}), "what": r.what, "unit": r.unit, **r.numbers, "rounds": r.rounds}
        for r in section.rows
    ]
    kept = {"title": section.title, "section": section.key, "device": section.device}
    return {**kept, "about": section.about, "rows": rows, "findings": section.findings}
