"""The speed numbers of docs/speed.md are those of the committed bench, on CPU cores and on a GPU."""

import csv
import json
import re
import tarfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from lit_hidden.engine.experiment import load

ROOT = Path(__file__).parent.parent
GPU = ROOT / "experiments" / "results" / "gpu"
README = " ".join((ROOT / "docs" / "speed.md").read_text().split())
NETS = ("conv2", "conv4", "conv6", "conv8")


def test_the_readmes_ratios_and_times_are_the_committed_ones() -> None:
    found = json.loads((ROOT / "experiments" / "results" / "bench" / "bench.json").read_text())
    numbers = {(row.get("group"), row["what"]): row["median"] for s in found["sections"] for row in s["rows"]}
    zeros, tied, drawn = (f"4.2 million, {kind}" for kind in ("90% zeros", "tied", "random"))
    lightning = "Lightning's share"
    most = [f"{100 * numbers[n, 'plain / hidden'] / numbers[n, 'share of the peak']:.1f}" for n in NETS[:2]]
    said = [
        ", ".join(f"{numbers[net, 'hidden / dense']:.2f}" for net in NETS),
        ", ".join(f"{numbers[net, 'plain / hidden']:.1f}" for net in NETS),
        f"small batch: {numbers['resnet50', 'plain / hidden']:.1f}",
        f"{numbers[drawn, 'ours']:.1f} ms; 16 values {numbers[tied, 'ours']:.1f};",
        f"90% zeros {numbers[zeros, 'ours']:.1f} (",
        ", ".join(f"{numbers[kind, 'sort']:.0f}" for kind in (drawn, tied, zeros)),
        ", ".join(f"{numbers[kind, 'partition']:.0f}" for kind in (drawn, tied, zeros)),
        ", ".join(f"{numbers[net, 'share of the peak']:.0f}%" for net in NETS[:2]),
        f"{numbers[zeros, 'ours / copy']:.1f} to {numbers[drawn, 'ours / copy']:.1f} times a copy",
        f"a plain step takes {numbers['conv2', 'plain / hidden']:.1f} times ours on Conv2",
        f"and {numbers['conv4', 'plain / hidden']:.1f} on Conv4",
        f"the ratios would be {' and '.join(most)}.",
        f"({numbers[zeros, 'ours / pass']:.0f} to {numbers[drawn, 'ours / pass']:.0f} times the quickest",
        f"{round(numbers[None, 'ours'], -3):,.0f} (kornia {round(numbers[None, 'kornia'], -3):,.0f};",
        ", ".join(f"{numbers[net, lightning]:.2f}%" for net in NETS[:2]),
        f"; {numbers[None, 'first training step']:.1f} s |",
    ]
    assert [words for words in said if words not in README] == []


def test_what_the_readme_says_of_a_gpu_is_what_was_measured_there() -> None:
    found = json.loads((GPU / "bench.json").read_text())
    steps = {(row["group"], row["what"]): row["median"] for row in found["sections"][0]["rows"]}
    rows = [json.loads(line) for line in (GPU / "measure.jsonl").read_text().splitlines()]
    ms = {row["step"]: row["ms"] for row in rows if "step" in row}
    us = {row["selection"]: row for row in rows if "by_topk_us" in row}
    epochs = {row["epochs"]: median(row["seconds"][1:]) for row in rows if "epochs" in row}
    small = [row["us"] for n, row in us.items() if 2560 < n <= 65_536]
    small += [row["us_many"] for row in rows if "us_many" in row]
    cost = {net: steps[net, "hidden"] - steps[net, "dense"] for net in NETS}
    curves = paper_runs()
    hidden = {run["net"]: curve for run, curve in curves if run.get("method", "edge_popup") == "edge_popup"}
    said = [
        cells("hidden step, ms", [f"{steps[net, 'hidden']:.2f}" for net in NETS]),
        cells("dense step, ms", [f"{steps[net, 'dense']:.2f}" for net in NETS]),
        cells("hidden / dense", [f"{steps[net, 'hidden / dense']:.2f}" for net in NETS]),
        cells("the published algorithm written plainly, ms", [f"{steps[net, 'plain']:.1f}" for net in NETS]),
        *(f"{ms[f'{net} hidden float32']:.2f}; {ms[f'{net} hidden bf16']:.2f} |" for net in ("conv2", "conv8")),
        cells("evaluation included, s", [f"{epochs['conv2']:.2f}", "", "", f"{epochs['conv8']:.2f}"]),
        f"takes {us[4_194_304]['us']:.0f} us (by `torch.topk` {us[4_194_304]['by_topk_us']:.0f})",
        f"of up to 65,536 scores {min(small):.0f} to {max(small):.0f} us",
        f"pass {re.findall('([0-9]+) passed', (GPU / 'tests.txt').read_text())[0]} tests there",
        f"costs {cost['conv2']:.2f} ms of a step of Conv2 and {cost['conv8']:.2f} of Conv8",
        f"The {len(curves)} runs that are done",
        f"with {hidden['conv2'][-1]:.0f} s for 100 epochs of a hidden Conv2 and {hidden['conv8'][-1]:.0f} s of Conv8",
        f"beside it takes {median(b - a for a, b in pairwise(hidden['conv2'])):.2f} s",
    ]
    assert [words for words in said if words not in README] == []
    assert all(steps[net, "hidden / dense"] > 1.15 for net in NETS), "missed"
    assert (100 * epochs["conv2"] > 15, 100 * epochs["conv8"] > 40) == (True, True), "missed"


def test_the_estimate_of_figure_3_is_that_of_the_runs_that_are_done() -> None:
    seconds = {(run["net"], run.get("method") or "edge_popup"): curve[-1] for run, curve in paper_runs()}
    grid = load("fig3").grid("paper")
    # Adam's batches are smaller: of as many images more updates, each taken to last as long.
    whole = sum(seconds[run.net, run.method] * (128 / run.batch_size) for run in grid)
    assert f"{len(grid)} runs, takes an estimated {whole / 2 / 3600:.0f} hours" in README


def cells(first: str, others: list[str]) -> str:
    """A row of a table, spaces gathered."""
    return " ".join(f"{first} | {' | '.join(others)} |".split())


def paper_runs() -> list[tuple[dict[str, Any], list[float]]]:
    """The description of each run of figure 3's paper preset that is committed, and its seconds by epoch."""
    found = []
    with tarfile.open(ROOT / "experiments" / "results" / "fig3" / "paper" / "runs.tar.gz") as tar:
        files = {entry.name: tar.extractfile(entry).read().decode() for entry in tar if entry.name[-3:] != "ors"}
    for name, text in files.items():
        if name.endswith("run.json"):
            rows = csv.DictReader(files[name.replace("run.json", "metrics.csv")].splitlines())
            found.append((json.loads(text), [float(row["seconds"]) for row in rows]))
    return found
