"""Figure 2: edge-popup, drawn from the tensors of a run.

The paper's figure is a diagram: on the forward pass the edges with the top k% of scores are chosen, on the backward
pass the score of every edge gets a straight-through gradient, so that dead edges re-enter; weights never change. Here
every line, width and number is read from a traced run, and panel (c) asks whether the subnetwork is any good.

Source: Ramanujan et al., arXiv:1911.13299, figure 2 and section 3. Added here: panel (c).
Cost: quick 9 runs, 2 minutes on two cores; short 9, an hour or more; paper 15 of 100 epochs, on a GPU.
"""

from dataclasses import replace
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _diagram as diagram
from experiments import _panels as panels
from experiments import _player as player
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

DENSITY = 0.5
TRACE = (spec("trace.Trace", updates=600),)  # evenly spread
PRESETS = {  # a run, and how many seeds of it. Figure 1 draws the same runs.
    "smoke": (Run(density=DENSITY, data="digits", net="conv2", width=0.1, epochs=2, callbacks=TRACE), 3),
    "quick": (Run(density=DENSITY, data="digits", net="conv4", width=0.25, epochs=12, callbacks=TRACE), 3),
    "short": (Run(density=DENSITY, net="conv4", width=0.5, epochs=10, train_images=20_000, callbacks=TRACE), 3),
    "paper": (Run(density=DENSITY, net="conv4", callbacks=TRACE), 5),
}

ABOVE = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.99), "ncols": 3, "borderpad": 0, "columnspacing": 1.4}


def runs(preset: str) -> list[Run]:
    hidden, seeds = PRESETS[preset]
    methods = [hidden, replace(hidden, method="random", callbacks=()), replace(hidden, density=None)]
    return vary(methods, seed=range(seeds))


def kept_wrongly(results: Results) -> float:
    """Count the weights too many or too few in the worst layer at the worst step; NaN without layers."""
    errors = []
    for method in ("edge_popup", "random"):
        for _, result in results.select(method=method):
            for layer in result["layers"]:
                keep = layer["numel"] - int((1 - DENSITY) * layer["numel"])
                seen = result.get("kept", {}).get(layer["name"], [])  # of a traced run, at all steps
                errors += [abs(count - keep) for count in (layer["kept_min"], layer["kept_max"], *seen)]
    return max(errors, default=np.nan)


def changed(results: Results) -> float:
    """Count the runs whose random weights changed in any bit during training; NaN without hashes."""
    before, after = (
        [h for method in ("edge_popup", "random") for h in results.values(f"weights_{when}", method=method)]
        for when in ("before", "after")
    )
    return sum(b != a for b, a in zip(before, after, strict=True)) if all(before) else np.nan


def ahead(results: Results) -> float:
    """Give the points by which the found subnetwork beats the random mask."""
    return results.mean(method="edge_popup") - results.mean(method="random")


CLAIMS = [
    Claim(
        f"exactly {100 * DENSITY:g}% of every layer stays, at every step",
        lambda r: -kept_wrongly(r), "weights", "check", every=True,
    ),
    Claim("no weight ever changes", lambda r: -changed(r), "runs with another hash", "check", every=True),
    Claim("dead edges re-enter", lambda r: r.mean("reentered", method="edge_popup") - 1, "edges", "check",
          every=True),
    Claim("the found subnetwork beats a random mask of the same density", ahead),
]  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12, 8.2)
    hidden = panels.there(results, method="edge_popup")
    if not len(hidden):
        draw_accuracy(figure.add_axes((0.055, 0.1, 0.41, 0.27)), results)
        text = "No layer is drawn: no subnetwork has been searched yet."
        figure.text(0.02, 0.9, text, fontsize=10, color=style.COLORS["muted"])
        return
    first = min(hidden.rows, key=lambda row: row[0].seed)[0]
    trace = results.arrays("trace.npz", method="edge_popup", seed=first.seed)
    swap = diagram.find_swap(trace)
    outputs, inputs = trace["weight"].shape
    figure.text(
        0.02, 0.975, f"The last layer of {first.net}, seed {first.seed}: {inputs} inputs (left), {outputs} outputs "
        "(right). Drawn are the units at the ends of the swapped edges, and the next ones.",
        va="top", color=style.COLORS["muted"],
    )  # fmt: skip
    density = hidden.each("density")[0]
    draw_passes([figure.add_axes((x, 0.565, 0.27, 0.335)) for x in (0.02, 0.345)], trace, swap, density)
    draw_swap(figure, trace, swap)
    draw_accuracy(figure.add_axes((0.055, 0.1, 0.41, 0.27)), results)
    draw_swaps(figure.add_axes((0.575, 0.1, 0.41, 0.27)), results)


def draw_passes(axes: list[Axes], trace: diagram.Trace, swap: diagram.Swap | None, density: float) -> None:
    """Draw the layer before and after one update, with the formula of each pass."""
    record = swap.record if swap else 0
    update = 1 + int(trace["step"][record])
    edges = {swap.entered: "re-entered" if swap.again else "entered", swap.died: "died"} if swap else {}
    units = diagram.window(trace["weight"].shape, edges)
    passes: tuple[tuple[str, dict[diagram.Edge, str], str, str], ...] = (
        ("before", {}, f"(a) forward pass of update {update}: top {100 * density:g}% by $|s|$",
         r"$I_v=\sum_u\; w_{uv}\,Z_u\;[\,|s_{uv}|\ \mathrm{in\ the\ top}\ k\%\,]$"),
        ("after", edges, f"(b) backward pass: after update {update}",
         r"$s_{uv}\leftarrow s_{uv}-\alpha\,(g_{uv}+\ldots),\quad"
         r"g_{uv}=\frac{\partial L}{\partial I_v}\,Z_u\,w_{uv}\;\mathrm{sign}\,s_{uv}$"),
    )  # fmt: skip
    for ax, (time, marked, title, formula) in zip(axes, passes, strict=True):
        chosen = trace[f"chosen_{time}"][record]
        diagram.draw_layer(ax, trace["weight"], trace[time][record], chosen, units, highlight=marked)
        ax.set_title(title)
        ax.text(0.5, -0.06, formula, transform=ax.transAxes, ha="center", va="top", fontsize=10)
    axes[0].figure.legend(
        handles=diagram.edge_legend(), loc="center", bbox_to_anchor=(0.3175, 0.472), ncols=3,
        title="width of a chosen edge: in proportion to $|s|$", title_fontsize=8.5,
    )  # fmt: skip


def draw_swap(figure: Figure, trace: diagram.Trace, swap: diagram.Swap | None) -> None:
    """Draw the scores of the swapped edges across the threshold, and the numbers."""
    if swap is None:
        text = f"No edge of this layer was swapped\nat any of the {len(trace['step'])} recorded updates."
        figure.text(0.68, 0.75, text, fontsize=10, gid="rule")
        return
    comes = "re-enters" if swap.again else "enters"
    axes = figure.add_axes((0.735, 0.79, 0.25, 0.11))
    diagram.draw_scores(axes, trace, swap)
    axes.set_title("what moved two scores across the threshold", x=-0.32)
    axes.set_yticks([1, 0], [comes, "dies"])
    axes.legend(loc="upper center", bbox_to_anchor=(0.36, -0.4), ncols=3, fontsize=7.5, columnspacing=1.2)
    edges = (swap.entered, swap.died)
    moves = [diagram.move(trace, swap.record, edge) for edge in edges]
    words = {
        "weight": "weight $w$, never changes",
        "gradient": "straight-through gradient $1000\\,g$",
        "before": "score $1000\\,s$ before",
        "by_gradient": rf"$+$ gradient step $-1000\,\alpha g$, $\alpha={trace['lr'][swap.record]:.4g}$",
        "by_rest": "$+$ momentum, weight decay",
        "after": "$=$ score $1000\\,s$ after",
    }
    rows = [("edge", *(f"{i} \u2192 {o}, {verb}" for (o, i), verb in zip(edges, (comes, "dies"), strict=True)))]
    for name, said in words.items():
        times, digits = (1, 4) if name == "weight" else (1000, 3)
        rows.append((said, *(diagram.number(times * m[name], digits) for m in moves)))
    for row, texts in enumerate(rows):
        y = 0.65 - 0.0235 * row
        figure.text(0.655, y, texts[0], fontsize=8.5)
        for x, text in zip((0.905, 0.985), texts[1:], strict=True):
            figure.text(x, y, text, ha="right", fontsize=8.5, gid="number")
    figure.text(0.655, 0.487, fill(f"Chosen by rule: {swap.rule}.", 74), fontsize=7.5, va="top", gid="rule",
                color=style.COLORS["muted"])  # fmt: skip


def draw_accuracy(axes: Axes, results: Results) -> None:
    """Draw test accuracy over steps: the mean of the seeds, shaded from the smallest to the largest."""
    last = 1
    for method in ("dense", "edge_popup"):
        runs = panels.there(results, method=method)
        if len(kept := panels.trained(runs)):
            steps, values = kept.curve("test_top1")
            fails = f" ({panels.lost(runs)})" if len(kept) < len(runs) else ""
            panels.band(axes, steps, values, method, label=panels.NAMES[method] + fails)
            last = steps[-1]
    if len(random := panels.there(results, method="random")):
        still = np.array(random.values())[:, None]  # a random mask learns nothing: one number a seed
        panels.band(axes, [0, last], still.repeat(2, 1), "random", label="random mask, same density")
    axes.set(xlabel="update", ylabel="test accuracy (%)", xlim=(0, last), ylim=(0, 101))
    axes.grid(axis="y")
    axes.set_title(f"(c) test accuracy: mean and range of {len(results.seeds)} seeds", pad=20)
    axes.legend(**ABOVE)


def draw_swaps(axes: Axes, results: Results) -> None:
    """Draw how many edges each update swapped in all layers, and how many of these re-entered."""
    hidden = results.select(method="edge_popup")
    traces = [hidden.arrays("trace.npz", seed=run.seed) for run, _ in hidden]
    smooth = max(len(traces[0]["swapped"]) // 150, 1)
    every = f", mean of {smooth} updates" if smooth > 1 else ""
    names = (("swapped", "edge_popup", "out, and as many in"), ("reentered", "reentered", "in again, having died"))
    for name, kind, label in names:
        counts = np.mean([trace[name] for trace in traces], axis=0)
        steps, kernel, color = 1 + np.arange(len(counts)), np.ones(smooth) / smooth, style.COLORS[kind]
        if every:
            axes.plot(steps, counts, color=color, linewidth=0.5, alpha=0.35)
        axes.plot(
            np.convolve(steps, kernel, "valid"), np.convolve(counts, kernel, "valid"),
            color=color, linestyle=panels.LINESTYLES[kind], label=label + every,
        )  # fmt: skip
    axes.set(xlabel="update", ylabel="edges per update", xlim=(0, steps[-1]))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_title(f"edges swapped per update, of {hidden.mean('edges'):,.0f}: mean of {len(traces)} seeds", pad=20)
    axes.legend(**ABOVE)


def page(results: Results) -> str:
    return player.page(results)
