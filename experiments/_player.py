"""Edges popping up over training, played in a browser: one HTML file that needs nothing else.

The page is `_player.html` with the numbers in it. Scores are rounded to 1/32767 of the largest of a seed; weights and
thresholds to 4 significant digits, accuracies to 0.01 points.
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _diagram as diagram
from experiments import _panels as panels
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

OUTPUTS, INPUTS = 10, 16
FRAMES = 400  # of one seed at most; more are thinned evenly: five seeds would take megabytes


def page(results: Results) -> str:
    """Write the page for the traced edge-popup runs among `results`, with the other methods' accuracies."""
    hidden = sorted((run for run, _ in results.select(method="edge_popup")), key=lambda run: run.seed)
    data = {
        "seeds": [_frames(run, results.arrays("trace.npz", method="edge_popup", seed=run.seed)) for run in hidden],
        "curves": {method: _curve(results, method) for method in ("dense", "edge_popup", "random")},
        "edges": round(results.mean("edges", method="edge_popup")),
        "colors": style.COLORS,
    }
    run = hidden[0]
    title = f"Edge-popup in the last layer of {run.net} on {run.data}, {100 * (run.density or 1):g}% of weights kept"
    template = Path(__file__).with_name("_player.html").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")  # no </script> inside
    return template.replace("{{title}}", html.escape(title)).replace("{{data}}", text)


def _curve(results: Results, method: str) -> dict[str, Any]:
    """Return the accuracies of each seed; of a random mask, which learns nothing, the last one."""
    steps, values = results.curve("test_top1", method=method)
    if method == "random":
        steps, values = steps[-1:], values[:, -1:]
    return {"name": panels.NAMES[method], "steps": steps.tolist(), "values": values.round(2).tolist()}


def _frames(run: Run, trace: diagram.Trace) -> dict[str, Any]:
    """Describe a window of the layer before the first recorded update and after each: F frames of E edges."""
    total = len(trace["step"])
    rows = np.unique(np.linspace(0, total - 1, min(total, FRAMES)).round().astype(int))
    swap = diagram.find_swap(trace)
    ends = [swap.entered, swap.died] if swap else []
    outputs, inputs = diagram.window(trace["weight"].shape, ends, OUTPUTS, INPUTS)
    inside = np.ix_(outputs, inputs)

    def stack(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.stack([frame[inside].ravel() for frame in (before[rows[0]], *after[rows])])

    scores = stack(trace["before"], trace["after"])
    chosen = stack(trace["chosen_before"], trace["chosen_after"])
    flips = trace["chosen_before"] ^ trace["chosen_after"]
    scale = float(np.abs(scores).max()) / 32767 or 1.0
    first = rows[0]
    gates = [diagram.threshold(trace["before"][first], trace["chosen_before"][first])]
    gates += [diagram.threshold(trace["after"][r], trace["chosen_after"][r]) for r in rows]
    steps = trace["step"][rows]
    return {
        "seed": run.seed,
        "size": list(trace["weight"].shape),
        "outputs": outputs.tolist(),
        "inputs": inputs.tolist(),
        "weight": [_round(w) for w in trace["weight"][inside].ravel()],
        "updates": [int(steps[0]), *(int(s) + 1 for s in steps)],  # how many updates have been made
        "total": len(trace["swapped"]),
        "swapped": [0, *trace["swapped"][steps].tolist()],
        "reentered": [0, *trace["reentered"][steps].tolist()],
        "threshold": [_round(gate) for gate in gates],
        "scale": scale,
        "scores": _pack((scores.astype(float) / scale).round().astype("<i2")),
        "chosen": _pack(np.packbits(chosen)),
        "flips": _pack(np.packbits(stack(np.zeros_like(flips), flips))),
    }


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _round(value: float) -> float:
    return float(f"{value:.4g}")
