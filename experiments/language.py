"""Language: what a random transformer of few units can write, if only a mask is learned.

The discussion's note: language models have hundreds of billions of parameters and few neurons. All answers are ours. A
decoder-only transformer, random and hidden, learns to predict the next character: of the topics of Python's own
documentation (the text differs between releases, and its SHA-256 is part of each run), or of a text of one's own (`make
reproduce-language DATA=mine.txt`). Topics that share 40 characters stand on one side of the split. Embeddings are
random and stay so; the mask lies on all other matrices, the head too. Beside it: the same net trained; a random mask;
embeddings and head ("ends") trained beside the scores, at their rate, and under a random mask; n-grams with Kneser-Ney
smoothing, which see no more than the net: the window. Widths are compared at half of the weights, and at as many
weights kept. Do heads look at the previous character, and copy? The chart sets parameters over units of nets here
beside those of published models and nervous systems: units of a transformer are layers x (d_model + d_ff).

A claim is open where the trained net is not below the bigram: then nothing has been learned that could be compared.

Source: Chen and Goodman 1999 (n-grams); Olsson et al., arXiv:2209.11895 (heads); those of the chart are in _units.csv.
Cost: quick 45 runs, of 512 steps, 4 minutes on two cores; short 45, of 5,200 steps, about 1 core-hour; paper 75, of
26,000 steps and four layers, on a GPU.
"""

import os
import sys
from dataclasses import replace
from itertools import pairwise
from math import nan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _panels as panels
from experiments import _units
from experiments._language import (
    ARMS,
    FEW,
    NET,
    ORDERS,
    arm,
    as_many,
    gram,
    layers,
    ngrams,
    present,
    sha256,
    thinned,
    units,
    widths,
)
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import style
from lit_hidden.results import Results
from lit_hidden.run import Run

READER = Run(
    net=f"{NET}2", data="text.TextData", task="text.NextToken", optimizer="adam", schedule="cosine", batch_size=16,
)  # fmt: skip
PRESETS = {  # a run, its widths, the number of seeds
    "smoke": (replace(READER, epochs=1, train_images=160), (0.25, 0.5), 1),
    "quick": (replace(READER, epochs=2, train_images=4_096), (0.25, 0.5, 1.0), 3),
    "short": (replace(READER, epochs=16), (0.25, 0.5, 1.0), 3),
    "paper": (replace(READER, net=f"{NET}4", epochs=80), (1.0, 2.0, 4.0), 5),
}


def runs(preset: str) -> list[Run]:
    base, wider, seeds = PRESETS[preset]
    characters = 72 * (base.train_images or 0)  # windows have 64, and a ninth of the text is held out
    text = (spec("text.Text", sha256=sha256(characters)), spec("heads.Heads"))
    grid = []
    for seed in range(seeds):
        hidden = replace(base, seed=seed, density=0.5, lr=1e-2, callbacks=text)
        dense = replace(hidden, density=None, lr=3e-3)
        wide = replace(hidden, width=wider[-1])
        shallow = f"{NET}{layers(base) // 2}"
        for width in wider:
            there = replace(hidden, width=width)
            grid += [there, replace(dense, width=width), replace(there, density=thinned(layers(base), width, wider[0]))]
        grid += [replace(wide, density=FEW), replace(wide, net=shallow), replace(dense, net=shallow, width=wide.width)]
        grid.append(replace(wide, method="random", optimizer="sgd", lr=None, schedule=None))
        own = replace(wide, net=wide.net.replace("layers_", "learned_"))
        for scores in (True, False):
            grid.append(replace(own, callbacks=(*text, spec("transformer.LearnedEmbeddings", scores=scores))))
    return grid


def gained(results: Results, worse: Results | float, better: Results, least: float = 0.1) -> float:
    """Give the bits by which `better` is below `worse`, less `least`; NaN unless the trained net beats a bigram."""
    bits = (worse if isinstance(worse, float) else worse.mean()) - better.mean() - least
    return bits if arm(results, "dense").mean() < gram(results, 2) else nan


def looks(results: Results, name: str) -> float:
    """Give by how many points a head's attention to the previous character exceeds that of the untrained net's best."""
    same = arm(results, name)
    return same.mean("previous") - same.mean("untrained_previous")


BITS = "bits per character"
CLAIMS = [
    Claim("half of the random net writes at most 0.1 bit worse than the net trained",
          lambda r: gained(r, arm(r, "dense"), arm(r, "found"), -0.1), BITS),
    Claim("the found half is 0.1 bit better than a random half, embeddings and head trained in both",
          lambda r: gained(r, arm(r, "learned_random"), arm(r, "learned")), BITS),
    Claim("the found half, all else random, is 0.1 bit better than a bigram",
          lambda r: gained(r, gram(r, 2), arm(r, "found")), BITS),
    Claim("with as many weights kept, embeddings not counted, each doubling of the width gains 0.1 bit",
          lambda r: [gained(r, one, other) for one, other in pairwise(as_many(r))], BITS),
    Claim("a head of the found half looks 20 points more at the previous character than any before training",
          lambda r: looks(r, "found") - 20, "points of attention"),
    Claim("the found half copies: a random text costs it 0.1 bit less after itself than after another",
          lambda r: arm(r, "found").mean("copied") - 0.1, BITS),
    Claim("the found half is 0.1 bit better than a six-gram", lambda r: gained(r, gram(r, 6), arm(r, "found")), BITS,
          "secondary"),
    Claim("the net trained is 0.1 bit better than a six-gram",
          lambda r: gram(r, 6) - arm(r, "dense").mean() - 0.1, BITS, "secondary"),
    Claim("at half of the weights each doubling of the width gains 0.1 bit",
          lambda r: [gained(r, *two) for two in pairwise([arm(r, "found", width) for width in widths(r)])], BITS,
          "secondary"),
    Claim("twice the layers gain 0.1 bit, found and trained",
          lambda r: [gained(r, arm(r, name, deep=False), arm(r, name)) for name in ("found", "dense")], BITS,
          "secondary"),
    Claim("embeddings and head that learn beside the scores gain 0.1 bit",
          lambda r: gained(r, arm(r, "found"), arm(r, "learned")), BITS, "exploratory"),
    Claim("half of the weights are 0.1 bit better than a fifth",
          lambda r: gained(r, arm(r, "found", few=FEW), arm(r, "found")), BITS, "exploratory"),
    Claim("control: under a random mask no head comes to look 20 points more at the previous character",
          lambda r: 20 - looks(r, "learned_random"), "points of attention", "secondary"),
    Claim("control: a random half of which nothing learns is 1 bit worse than a bigram",
          lambda r: arm(r, "random").mean() - gram(r, 2) - 1, BITS, "secondary"),
    Claim("as many weights are kept at each width, within 1%",
          lambda r: [1 - abs(100 * part.mean("parameters") / as_many(r)[0].mean("parameters") - 100)
                     for part in as_many(r)], "%", "check", every=True),
    Claim("the trained net is past the bigram's plateau, by 0.1 bit",
          lambda r: gram(r, 2) - arm(r, "dense").mean() - 0.1, BITS, "check", every=True),
]  # fmt: skip


def reduce(results: Results) -> dict[str, np.ndarray]:
    """Keep what each net writes, the n-grams' bits and what they write, and which text it is."""
    (sha,) = {run.option("Text.sha256")[0] for run in results.runs}
    bits, sample = ngrams(sha)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = "a text of one's own" if os.environ.get("DATA", "").endswith(".txt") else f"pydoc_data, Python {version}"
    found = {"text": np.array(f"{name}, SHA-256 {sha}"), "ngrams": np.array(bits), "six-gram": np.array(sample)}
    for kind in ARMS:
        for _, _, folder in present(results, kind).rows[:1]:
            if folder is not None:
                with np.load(folder / "text.npz") as arrays:
                    found[kind] = np.array(arrays["sample"].tobytes().decode())
    return found


# --- drawing ---------------------------------------------------------------------------------------------------------

LOOKS = {
    "dense": panels.Look("trained", style.ORANGE, (0, (5, 1.5)), "s"),
    "found": panels.Look("found, all else random", style.NAVY, "-", "o"),
    "learned": panels.Look("found, embeddings and head trained", style.PURPLE, "-", "D"),
    "learned_random": panels.Look("random mask, embeddings and head trained", style.BLACK, "", "v", "white"),
    "random": panels.RANDOM,
}
SHORT = {"dense": "trained", "found": "found", "learned": "found\n+ ends", "learned_random": "random\n+ ends",
         "random": "random\nmask"}  # fmt: skip


def draw(results: Results, figure: Figure) -> None:
    figure.set_size_inches(12.5, 10.5)
    grid = figure.add_gridspec(2, 3, left=0.055, right=0.985, top=0.965, bottom=0.37, wspace=0.2, hspace=0.34)
    arms, wide, few, before, copies, chart = (figure.add_subplot(grid[n]) for n in range(6))
    for name, look in LOOKS.items():
        x = list(LOOKS).index(name)
        same = present(results, name)
        panels.bars(arms, {x: same.values()} if len(same) else {}, look)
        for axes, number in ((before, "previous"), (copies, "copying")):
            panels.bars(axes, {x: same.values(number)} if len(same) else {}, look, aside=3)
            untrained = replace(look, face="white", label="_", marker="o")
            panels.bars(axes, {x: same.values(f"untrained_{number}")} if len(same) else {}, untrained, aside=-3)
    for axes in (arms, before, copies):
        axes.set_xticks(range(len(LOOKS)), [SHORT[name] for name in LOOKS])
        axes.set_xlim(-0.5, len(LOOKS) - 0.5)
    draw_widths(wide, results)
    draw_densities(few, results)
    _units.chart(chart, [(units(run), result["parameters"]) for run, result in results if run.method == "edge_popup"])
    for axes, title in ((arms, "(a) what learns, and n-grams"), (wide, "(b) wider nets"), (few, "(c) fewer weights")):
        for order, bits in zip(ORDERS, results.summary["ngrams"], strict=True):
            if order in (2, 3, 6):
                axes.axhline(bits, color=style.COLORS["muted"], linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
                if axes is arms:
                    axes.annotate(f"n = {order}", (1, bits), (-3, 2), xycoords=axes.get_yaxis_transform(), ha="right",
                                  textcoords="offset points", fontsize=7, color=style.COLORS["muted"])  # fmt: skip
        axes.set(ylabel=BITS, title=title)
    before.set(ylabel="attention of the best head (%)", title="(d) to the previous character (left, hollow: untrained)")
    copies.set(ylabel="attention of the best head (%)", title="(e) to what is to be copied (left, hollow: untrained)")
    for axes in (arms, wide, few, before, copies):
        axes.grid(axis="y")
    spans = [(axes, axes.get_ylim()) for axes in (few, wide)]
    panels.finish(figure, [arms, few, wide], ncols=4, bbox_to_anchor=(0.5, 0.265))
    for axes, span in spans:  # which were widened as if they were points of accuracy
        axes.set_ylim(span)
    labels = {"six-gram": "n-gram, n = 6"} | {name: SHORT[name].replace("\n", " ") for name in LOOKS}
    _units.samples(figure, results.summary, labels)


def draw_widths(axes: Axes, results: Results) -> None:
    """Draw bits over units: trained, half found, and as many weights kept."""
    for n, name in enumerate(("dense", "found")):
        parts = [part for width in widths(results) if len(part := present(results, name, width))]
        panels.bars(axes, {units(part.runs[0]): part.values() for part in parts}, LOOKS[name], aside=3 * n)
    same = {float(units(part.runs[0])): part.values() for part in drawn_as_many(results)}
    panels.bars(axes, same, panels.Look("found, as many weights kept", style.SKY, (0, (1.2, 1.2)), "^"), aside=-3)
    if ticks := sorted({units(run) for run in results.runs if layers(run) == max(map(layers, results.runs))}):
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("units")


def drawn_as_many(results: Results) -> list[Results]:
    """Part the nets that keep as many weights, by width; none of half a grid."""
    try:
        return as_many(results)
    except ValueError:
        return []


def draw_densities(axes: Axes, results: Results) -> None:
    """Draw bits over the weights kept of the widest net; hollow: of half the layers."""
    for deep, line in ((True, "-"), (False, "")):
        found = {k: part for k in (0.5, FEW) if len(part := present(results, "found", None, deep, k))}
        if deep:
            found |= {float(part.runs[0].density or 0): part for part in drawn_as_many(results)[-1:]}
        look = LOOKS["found"] if deep else panels.Look("half the layers, found", style.NAVY, line, "o", "white")
        panels.bars(axes, {100 * k: found[k].values() for k in sorted(found)}, look)
        trained = present(results, "dense", None, deep)
        look = LOOKS["dense"] if deep else panels.Look("half the layers, trained", style.ORANGE, line, "s", "white")
        panels.bars(axes, {100.0: trained.values()} if len(trained) else {}, replace(look, linestyle=""))
    axes.set(xlabel="% of weights kept, or trained", xscale="log")
    axes.minorticks_off()
    axes.set_xticks([6, 20, 50, 100], ["6", "20", "50", "100"])
