"""Runs, traces and results made by hand and by numpy, as the engine leaves them."""

import csv
import importlib
import zipfile
from collections.abc import Callable, Collection, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lit_hidden.engine.store import SUBNETWORK, Store
from lit_hidden.engine.written import conditions
from lit_hidden.recipes import IMAGENET, IMAGES
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

EXPERIMENTS = sorted(path.stem for path in (Path(__file__).parents[1] / "experiments").glob("[!_]*.py"))


def experiment(name: str) -> ModuleType:
    """Import `experiments/<name>.py`."""
    return importlib.import_module(f"experiments.{name}")


@cache
def grid(name: str, preset: str) -> list[Run]:
    """List an experiment's runs, once: a Run remembers what it works out, such as its hash."""
    return [run.resolved for run in experiment(name).runs(preset)]


def leave(store: Store, run: Run, epochs: int | None = None, **result: Any) -> Path:
    """Leave in `store` what a run leaves that is done or was killed after so many epochs, of a minute each.

    It ends at 50% and its seed, if `result` says nothing else.
    """
    own = {"supermask": {"density_sampled": 0.5}, "ticket": {"accuracy_before": 10.0}}
    result = {"accuracy": 50.0 + run.seed, **own.get(str(run.resolved.method), {}), **result}
    whole = run.resolved.epochs
    curve = [10.0 + epoch for epoch in range(whole)] + [result["accuracy"]]
    with store.claim(run) as folder:
        assert folder is not None
        (folder / "run.json").write_text(run.to_json())
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("epoch", "step", "seconds", "test_top1"))
            writer.writerows((e, 12 * e, 60.0 * e, curve[e]) for e in range((whole if epochs is None else epochs) + 1))
        if epochs in (None, whole):
            for one in run.callbacks:  # `trace.Trace` and `swaps.Swaps` leave arrays of their names
                zipfile.ZipFile(folder / f"{one.class_path.split('.')[-2]}.npz", "w").close()
            if run.density is not None:
                (folder / SUBNETWORK).touch()
            store.finish(run, result)
    return folder


def planted() -> dict[str, np.ndarray]:
    """A layer of 2 x 3 that keeps 3, at three recorded updates; (0, 1) and (0, 2) take turns.

    Update 3 brings (0, 2) in for the first time, by its gradient. Update 7 brings (0, 1) back, by momentum alone.
    Update 9 brings (0, 2) back, by its gradient.
    """
    turns = np.array([[2.0, 1.0], [0.9, 2.2], [2.1, 0.8], [1.5, 1.9]])  # scores of (0, 1) and (0, 2)
    scores = np.tile(np.array([[3.0, 0, 0], [0.5, -2.5, 0.1]]), (4, 1, 1))
    scores[:, 0, 1:] = turns
    chosen = np.abs(scores) > 1.6
    gradient = np.zeros((3, 2, 3))
    gradient[0, 0, 1:] = 1.1, -1.2
    gradient[2, 0, 1:] = 0.6, -1.1
    return {
        "weight": np.array([[0.5, -0.5, 0.25], [-0.25, 0.5, -0.5]], np.float32),
        "step": np.array([3, 7, 9]),
        "before": scores[:3].astype(np.float32),
        "after": scores[1:].astype(np.float32),
        "gradient": gradient.astype(np.float32),
        "chosen_before": chosen[:3],
        "chosen_after": chosen[1:],
        "seen": np.logical_or.accumulate(chosen)[:3],
        "lr": np.ones(3, np.float32),
        "momentum": np.array(0.9),
        "weight_decay": np.array(0.0),
        "swapped": np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 1]),
        "reentered": np.array([0, 0, 0, 0, 0, 0, 0, 1, 0, 1]),
    }


def simulated(seed: int = 0, shape: tuple[int, int] = (10, 25), updates: int = 24) -> dict[str, np.ndarray]:
    """Edge-popup's update of scores, momentum and all, under gradients that are noise."""
    random, lr, momentum, decay = np.random.default_rng(seed), 0.1, 0.9, 1e-4
    keep = shape[0] * shape[1] // 2

    def top(scores: np.ndarray) -> np.ndarray:
        mask = np.zeros(scores.size, bool)
        mask[np.argsort(np.abs(scores).ravel(), kind="stable")[-keep:]] = True
        return mask.reshape(shape)

    scores, velocity = random.uniform(-0.2, 0.2, shape).astype(np.float32), np.zeros(shape, np.float32)
    seen, rows = top(scores), []
    for step in range(updates):
        gradient = random.normal(0, 0.02, shape).astype(np.float32)
        velocity = momentum * velocity + gradient + decay * scores
        after = (scores - lr * velocity).astype(np.float32)
        rows.append((step, scores, after, gradient, top(scores), top(after), seen, np.float32(lr)))
        scores, seen = after, seen | top(after)
    names = ("step", "before", "after", "gradient", "chosen_before", "chosen_after", "seen", "lr")
    trace = {name: np.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    came = trace["chosen_after"] & ~trace["chosen_before"]
    weight = random.choice([-0.28, 0.28], shape).astype(np.float32)
    counts = {"swapped": came.sum((1, 2)), "reentered": (came & trace["seen"]).sum((1, 2))}
    return trace | counts | {"weight": weight, "momentum": np.array(momentum), "weight_decay": np.array(decay)}


def hidden(**changes: Any) -> dict[str, Any]:
    """The result of a hidden run in which nothing is wrong: 7 of 14 and 51 of 101 weights stay."""
    layers = [
        {"name": "0", "numel": 14, "kept_min": 7, "kept_max": 7},
        {"name": "1", "numel": 101, "kept_min": 51, "kept_max": 51},
    ]
    same = {"weights_before": "ab12", "weights_after": "ab12", "edges": 115, "swapped": 40, "entered": 15}
    return {"accuracy": 60.0, "layers": layers, "reentered": 5, **same, **changes}


def results(runs: Iterable[Run], folder: Path, traces: dict[int, dict[str, np.ndarray]] | None = None) -> Results:
    """Write what the engine writes for `runs`: accuracies of dense 90, edge-popup 80, random 10, plus the seed."""
    rows = []
    for run in (run.resolved for run in runs):
        trace = (traces or {}).get(run.seed) or simulated(run.seed)
        where = folder / run.hash
        where.mkdir(parents=True)
        accuracy = {"dense": 90.0, "edge_popup": 80.0, "random": 10.0}[str(run.method)] + run.seed
        result = hidden(accuracy=accuracy)
        total = len(trace["swapped"])
        if run.method == "edge_popup":
            np.savez(where / "trace.npz", **trace)
            result |= {"reentered": int(trace["reentered"].sum()), "edges": trace["weight"].size}
        elif run.method == "dense":
            np.savez(where / "trace.npz", weight=trace["weight"], trained=trace["weight"] + trace["after"][-1])
        curve = [(0, 10.0), (total // 2, accuracy / 2), (total, accuracy)]
        with (where / "metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "test_top1"), *curve[:: 2 if run.method == "random" else 1]])
        rows.append((run, result, where))
    return Results(rows)


@cache
def _sizes(net: str, **arguments: Any) -> list[tuple[int, bool]]:
    """Number of entries of each parameter of a net, and whether it is a weight that is hidden."""
    import torch

    from lit_hidden import build

    with torch.device("meta"):  # without memory: the largest has 69 million
        return [(p.numel(), p.ndim > 1) for p in build(net, **arguments).parameters()]


def parameters(run: Run) -> int:
    """Weights kept of a hidden net, layer by layer; parameters of a dense one."""
    channels, size, *_ = IMAGES[run.data]
    arguments = {"in_channels": channels, "image_size": run.image_size or size, "num_classes": run.num_classes}
    sizes = _sizes(run.net, width=run.width, **arguments)
    if run.density is None:
        return sum(numel for numel, _ in sizes)
    return sum(numel - int((1 - run.density) * numel) for numel, hidden in sizes if hidden)


def measured(
    runs: Iterable[Run],
    accuracy: Callable[[Run], float],
    spread: Callable[[Run], float] = lambda run: 0.1,
    **more: Any,
) -> Results:
    """Results of `runs` with the accuracies given, scattered over seeds by `spread`, but no folders.

    `more` are numbers, or functions of a run that give them.
    """
    rows = []
    for run in (run.resolved for run in runs):
        # To record something changes no accuracy.
        noise = spread(run) * np.random.default_rng(int(run.unrecorded.hash, 16)).uniform(-1, 1)
        result = {"accuracy": accuracy(run) + noise}
        result |= {name: value(run) if callable(value) else value for name, value in more.items()}
        if run.net in IMAGENET and "parameters" not in more:  # of other nets no figure asks for them
            result["parameters"] = parameters(run)
        if run.method == "supermask":  # learns to keep more, or fewer, than it began with
            result |= {"density_sampled": 0.25 + 0.5 * (run.density or 0), "density_rounded": 0.5}
            result["accuracy_rounded"] = result["accuracy"]
        rows.append((run, result, None))
    return Results(rows)


def drawn(figure: Any, results: Results, preset: str) -> Figure:
    """Draw a figure with its foot, as the engine does."""
    with style.context():
        drawing = Figure()
        figure.draw(results, drawing)
        style.footer(drawing, conditions(preset, results))
        drawing.draw_without_rendering()
    return drawing


def hollow(figure: Figure) -> set[float]:
    """Heights of the points of others'."""
    lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
    return {float(line.get_ydata()[0]) for line in lines}


def overlaps(figure: Figure, lying_on_lines: Collection[str] = ()) -> list[tuple[str, str]]:
    """Texts that lie on one another or outside the figure, but for those with these gids, which lie on lines."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [*axes.texts, axes._left_title, *(axes.get_legend().get_texts() if axes.get_legend() else ())]
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, axes.get_ylim())):
            if axes.axison:
                axis.get_ticklabels()  # which brings the ticks up to date; panels that share an axis show some of them
                ticks = [tick for tick in axis.get_major_ticks() if tick.label1.get_visible()]
                texts += [axis.label, *(tick.label1 for tick in ticks if low <= tick.get_loc() <= high)]
    shown = [
        (t.get_text(), t.get_window_extent())
        for t in texts
        if t.get_text().strip() and t.get_gid() not in lying_on_lines
    ]
    bad = [(t, "outside") for t, b in shown if b.x0 < 0 or b.y0 < 0 or b.x1 > figure.bbox.x1 or b.y1 > figure.bbox.y1]
    for n, (one, a) in enumerate(shown):
        bad += [(one, other) for other, b in shown[:n] if a.overlaps(b)]
    return bad
