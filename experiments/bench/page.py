"""How the bench's numbers are shown: as a page, as JSON, as one drawing; and the machine."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.bench.rows import Section, written
from experiments.bench.selection import KINDS
from lit_hidden.engine.devices import cores
from lit_hidden.engine.store import write_atomically
from lit_hidden.report.style import COLORS, GREY, NAVY, ORANGE, PURPLE, SKY, context, footer

WAYS: dict[str, tuple[str, str, Any, str]] = {  # name, colour, line and marker
    "ours": ("ours", NAVY, "-", "o"),
    "partition": ("numpy.partition", SKY, (0, (5, 1.5)), "s"),
    "kthvalue": ("torch.kthvalue", PURPLE, (0, (1.2, 1.2)), "D"),
    "topk": ("torch.topk", ORANGE, "-.", "^"),
    "sort": ("torch.sort", GREY, "-", "v"),
}
BARS = {"steps": "ratio", "input": "images/s", "epoch": "%", "start": "s"}  # the unit that a section's panel shows
PANELS = (tuple(KINDS), ("steps", "input"), ("epoch", "start"))  # beside each other


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where it was measured: in parts, and in one line, `said`."""
    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[0]
    found = {
        "cpu": [*models, platform.processor() or platform.machine()][0],
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(load, 2),
    }
    told = "{cpu}: cores {cores}, threads {threads}; training on {device}; torch {torch}; load {load} at the start"
    told += " (busy: a quiet machine is faster)" if load > cores() / 2 else ""
    return {**found, "said": told.format(**found)}


def markdown(section: Section) -> str:
    """Write a section as Markdown: title, how it was measured, table, findings."""
    cells = [["what", "median", "min", "max", "unit"]]
    for row in section.rows:
        what = f"{row.group}: {row.what}" if row.group else row.what
        cells.append([what, *map(written, row.numbers.values()), row.unit])
    if section.columns:
        units = {row.what: "" if row.unit == "ratio" else f" {row.unit}" for row in section.rows}
        table = [section.medians(what) for what in section.columns]
        cells = [["", *(what + units[what] for what in section.columns)]]
        cells += [[group, *(written(column[group]) for column in table)] for group in table[0]]
    cells.insert(1, ["---", *["---:"] * (len(cells[0]) - 1)])
    shown = "\n".join(f"| {' | '.join(line)} |" for line in cells) if section.rows else ""
    parts = (f"## {section.title}", section.about, shown, "\n".join(f"- {line}" for line in section.findings))
    return "\n\n".join(filter(None, parts))


def write(sections: list[Section], found: dict[str, Any], command: str, out: Path) -> None:
    """Write `bench.json` and, from the same numbers, `bench.md` and the drawing; `found` is the machine."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    plain = [
        {**vars(each), "section": each.key, "rows": [vars(row) | row.numbers for row in each.rows]} for each in sections
    ]
    record = {"command": command, "finished": finished, "machine": found, "sections": plain}
    write_atomically(out / "bench.json", json.dumps(record, indent=1) + "\n")
    parts = ["# What this machine does", f"{found['said']}. `{command}`, {finished}."]
    parts += ["![What was measured](bench.svg)"] if draw(sections, found["said"], out) else []
    write_atomically(out / "bench.md", "\n\n".join([*parts, *map(markdown, sections)]) + "\n")


def draw(sections: list[Section], said: str, out: Path) -> bool:
    """Draw `bench.svg` and `bench.png` in `out`, with the machine at the foot; return whether any panel was drawn."""
    lines = []
    for device in ("cpu", "cuda"):
        there = {section.key: section for section in sections if section.device == device}
        there |= {kind: there["selection"] for kind in KINDS if "selection" in there}
        lines += [panels for line in PANELS if (panels := [(name, there[name]) for name in line if name in there])]
    if not lines:
        return False
    with context():
        figure = Figure(figsize=(11, 3.0 * len(lines) + 0.4), layout="constrained")
        rows = [3.0] * len(lines) + [0.4]  # the last for the foot
        parts = figure.subfigures(len(rows), squeeze=False, height_ratios=rows).flat
        for part, line in zip(parts, lines, strict=False):
            for axes, (name, section) in zip(part.subplots(1, len(line), squeeze=False).flat, line, strict=True):
                paint(axes, name, section)
        footer(figure, said)
        for kind in ("svg", "png"):
            figure.savefig(out / f"bench.{kind}", metadata={"Date": None} if kind == "svg" else None)
    return True


def paint(axes: Axes, name: str, section: Section) -> None:
    """Draw a panel: of `selection` one kind of scores, of other sections the medians in one unit as bars."""
    if name in BARS:
        unit = BARS[name]
        rows = [row for row in section.rows if row.unit == unit and not row.group.startswith("tiny")]
        names = [": ".join(filter(None, (row.group, row.what))) for row in rows]
        numbers = [row.numbers["median"] for row in rows]
        axes.bar_label(axes.barh(names, numbers, 0.6, color=NAVY), list(map(written, numbers)), padding=3, fontsize=8)
        axes.set(xlabel=f"{unit}, {section.device}", title=section.title)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        return
    for way, (label, color, line, marker) in WAYS.items():
        found = {group: n for group, n in section.medians(f"{way} / pass").items() if group.endswith(name)}
        at, wide = [float(group.split()[0]) for group in found], 2.2 if way == "ours" else 1.4
        if found:  # numpy's is measured on CPUs alone
            axes.plot(at, list(found.values()), c=color, ls=line, marker=marker, ms=4, lw=wide, label=label)
        for size, number in zip(at, found.values(), strict=True) if way == "ours" else ():
            axes.text(size, number / 2, written(number), color=NAVY, fontsize=7.5, ha="center")
    axes.axhline(3, color=COLORS["muted"], lw=0.8, ls=(0, (4, 3)), label="target: 3")
    axes.set(xscale="log", yscale="log", ylim=(0.6, 20_000), xlabel="million scores", title=f"Selection: {name}")
    axes.set_ylabel(f"passes over the memory, {section.device}")
    axes.legend(fontsize=7.5, ncols=2, loc="upper left", borderaxespad=0, columnspacing=1)
