"""How the bench's numbers are shown: as a page, as JSON, as one drawing; and the machine."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch
from matplotlib.figure import Figure

from experiments.bench.rows import Section
from lit_hidden.engine.devices import cores
from lit_hidden.engine.store import write_atomically
from lit_hidden.report.style import context

MARKERS = "osv^D*XP<>"  # of a section's groups, in turn


def machine(device: torch.device) -> str:
    """Describe the machine, in one line."""
    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    trains = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return (
        f"{[*models, platform.machine()][0]}: cores {cores()}, threads {torch.get_num_threads()}; "
        f"training on {trains}; torch {torch.__version__}; load {os.getloadavg()[0]:.2f} at the start"
    )


def markdown(section: Section) -> str:
    """Write a section as Markdown: how it was measured, and its medians, with a column for each group."""
    groups = list(dict.fromkeys(row.group for row in section.rows))
    table: dict[str, dict[str, str]] = {}
    for row in section.rows:
        unit = "" if row.unit == "ratio" else f" ({row.unit})"
        table.setdefault(row.what + unit, {})[row.group] = _written(row.numbers["median"])
    cells = [["median", *groups], ["---", *["---:"] * len(groups)]]
    cells += [[what, *(found.get(group, "") for group in groups)] for what, found in table.items()]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return f"## {section.key.capitalize()}, {section.device}\n\n{section.about}\n\n{lines}"


def write(sections: list[Section], said: str, out: Path) -> None:
    """Write `bench.json` and, from the same numbers, `bench.md` and the drawing; `said` names the machine."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    plain = [
        {"section": each.key, "device": each.device, "about": each.about,
         "rows": [vars(row) | row.numbers for row in each.rows]}
        for each in sections
    ]  # fmt: skip
    record = {"finished": finished, "machine": said, "sections": plain}
    write_atomically(out / "bench.json", json.dumps(record, indent=1) + "\n")
    draw(sections, said, out)
    parts = ["# What this machine does", f"{said}. {finished}."]
    parts += ["![What was measured](bench.svg)", *map(markdown, sections)]
    write_atomically(out / "bench.md", "\n\n".join(parts) + "\n")


def draw(sections: list[Section], said: str, out: Path) -> None:
    """Draw `bench.svg` and `bench.png`: a panel for each section, with the medians in the unit of its first row."""
    with context():
        figure = Figure(figsize=(9, 2.6 * len(sections) + 0.4), layout="constrained")
        figure.suptitle(said, fontsize=7)
        for axes, section in zip(figure.subplots(len(sections), squeeze=False)[:, 0], sections, strict=True):
            shown = [row for row in section.rows if row.unit == section.rows[0].unit]
            for group, marker in zip(dict.fromkeys(row.group for row in shown), MARKERS, strict=False):
                same = [row for row in shown if row.group == group]
                medians = [row.numbers["median"] for row in same]
                axes.plot(medians, [row.what for row in same], linestyle="", marker=marker, label=group)
            axes.set(xscale="log", xlabel=shown[0].unit, title=f"{section.key.capitalize()}, {section.device}")
            axes.invert_yaxis()
            axes.grid()
            if any(row.group for row in shown):
                axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        for kind in ("svg", "png"):
            figure.savefig(out / f"bench.{kind}", metadata={"Date": None} if kind == "svg" else None)


def _written(number: float) -> str:
    """Write a number with three digits, or with all of those before the point."""
    return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:.3g}"
