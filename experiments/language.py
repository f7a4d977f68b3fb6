"""Language: what a random transformer of few units can write, if only a mask is learned.

The discussion's note: language models have hundreds of billions of parameters and few neurons. All answers are ours. A
decoder-only transformer, random and hidden, learns to predict the next character: of the topics of Python's own
documentation (the text differs between releases, and its SHA-256 is part of each run), or of a text of one's own
(`make reproduce-language DATA=mine.txt`). Topics that share 40 characters stand on one side of the split. Beside it: the
same net trained; a random mask; embeddings and head trained beside the scores, at their rate, and under a random
mask; n-grams with Kneser-Ney smoothing, which see no more than the net, the window. Otherwise embeddings are random
and stay so, the mask lies on all other matrices, the head too. Widths are at half of the weights, and at as many
weights kept. Do heads look at the previous character, and copy? The chart sets parameters over units of nets here
beside those of published models and nervous systems: units of a transformer are layers x (d_model + d_ff).

A claim is open where the trained net is not below the bigram: then nothing has been learned that could be compared.

Source: Chen and Goodman 1999 (n-grams); Olsson et al., arXiv:2209.11895 (heads); those of the chart are in _units.csv.
Cost: quick 48 runs of 650 steps, 4 minutes on two cores; short 48 of 5,200, about 1 core-hour; paper 80 of 26,000, four
layers, on a GPU.
"""

import csv
import hashlib
import os
import sys
from dataclasses import replace
from functools import cache
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._ngrams import NGrams
from lit_hidden import code
from lit_hidden.code import spec
from lit_hidden.judge import Claim
from lit_hidden.report import panels, style
from lit_hidden.results import Results
from lit_hidden.run import Run

ROOM = "lit_hidden.callbacks."
NET = f"{ROOM}transformer.layers_"
ORDERS = range(1, 7)  # of n-grams
NARROWEST = 0.8  # of the weights, kept at the first width where as many are kept at each
FEW = 0.2
READER = Run(
    net=f"{NET}2", data="text.TextData", task="text.NextToken", optimizer="adam", schedule="cosine", batch_size=16,
)  # fmt: skip
PRESETS = {  # a run, its widths, the number of seeds
    "smoke": (replace(READER, epochs=1, train_images=160), (0.25, 0.5), 1),
    "quick": (replace(READER, epochs=2), (0.25, 0.5, 1.0), 3),
    "short": (replace(READER, epochs=16), (0.25, 0.5, 1.0), 3),
    "paper": (replace(READER, net=f"{NET}4", epochs=80), (1.0, 2.0, 4.0), 5),
}
ARMS = {  # the net's embeddings, what a run has
    "found": ("layers_", {"method": "edge_popup"}),
    "dense": ("layers_", {"method": "dense"}),
    "random": ("layers_", {"method": "random"}),
    "learned": ("learned_", {"LearnedEmbeddings.scores": True}),
    "learned_random": ("learned_", {"LearnedEmbeddings.scores": False}),
}


def sha256() -> str:
    """Give the text's SHA-256, 16 digits, as `lit_hidden.callbacks.corpus.source`, which imports torch."""
    if (path := os.environ.get("DATA", "")).endswith(".txt"):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"DATA={path} cannot be read: {error}; give a text in UTF-8") from error
    else:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def size(width: float) -> int:
    """Give the model's width, 16 units for each head."""
    return 16 * max(1, round(4 * width))


def layers(run: Run) -> int:
    return int(run.net[-1])


def units(run: Run) -> int:
    return layers(run) * 5 * size(run.width)


def weights(run: Run) -> int:
    """Count the weights that are hidden: of attention, of both layers behind it, and of the head."""
    return layers(run) * 12 * size(run.width) ** 2 + 128 * size(run.width)


def runs(preset: str) -> list[Run]:
    base, widths, seeds = PRESETS[preset]
    text = (spec("text.Text", sha256=sha256()), spec("heads.Heads"))
    grid = []
    for seed in range(seeds):
        hidden = replace(base, seed=seed, density=0.5, lr=1e-2, callbacks=text)
        dense = replace(hidden, density=None, lr=3e-3)
        wide = replace(hidden, width=widths[-1])
        shallow = f"{NET}{layers(base) // 2}"
        kept = NARROWEST * weights(replace(hidden, width=widths[0]))
        for width in widths:
            there = replace(hidden, width=width)
            grid += [there, replace(dense, width=width), replace(there, density=round(kept / weights(there), 6))]
        grid += [replace(wide, density=FEW), replace(wide, net=shallow), replace(dense, net=shallow, width=wide.width)]
        grid.append(replace(wide, method="random", optimizer="sgd", lr=None, schedule=None))
        own = replace(wide, net=wide.net.replace("layers_", "learned_"))
        for scores in (True, False):
            grid.append(replace(own, callbacks=(*text, spec("transformer.LearnedEmbeddings", scores=scores))))
    return grid


def widths(results: Results) -> list[float]:
    return sorted({run.width for run in results.whole.runs})


def arm(results: Results, name: str, width: float | None = None, deep: bool = True, few: float = 0.5) -> Results:
    """Keep the runs of an arm: at the largest width and depth, at half of the weights, unless others are asked for."""
    net, where = ARMS[name]
    depths = {layers(run) for run in results.whole.runs}
    density = None if name == "dense" else few
    width = max(widths(results)) if width is None else width
    net = f"{ROOM}transformer.{net}{max(depths) if deep else min(depths)}"
    return results.select(net=net, width=width, density=density, **where)


def as_many(results: Results) -> list[Results]:
    """Part the nets that keep as many weights as the narrowest one, by width."""
    found = results.select(method="edge_popup", net=f"{NET}{max(layers(run) for run in results.whole.runs)}")
    first, *wider = widths(results)
    kept = NARROWEST * weights(replace(found.runs[0], width=first))
    densities = {w: round(kept / weights(replace(found.runs[0], width=w)), 6) for w in (first, *wider)}
    return [found.select(width=width, density=density) for width, density in densities.items()]


@cache
def ngrams(sha: str) -> tuple[list[float], str]:
    """Give the bits of n-grams by their order on the test windows of a text, and what the longest write."""
    corpus = f"{ROOM}corpus."
    alphabet, train, test = code.load(f"{corpus}read")(sha)
    found = [NGrams(train, order, 128) for order in ORDERS]
    windows = code.load(f"{corpus}windows")(test, 64)
    return [one.bits(*windows) for one in found], code.load(f"{corpus}told")(alphabet, found[-1].write(test[:64], 200))


def gram(results: Results, order: int) -> float:
    (sha,) = {run.option("Text.sha256")[0] for run in results.whole.runs}
    return ngrams(sha)[0][order - 1]


def gained(results: Results, worse: Results | float, better: Results, least: float = 0.1) -> float:
    """Give the bits by which `better` is below `worse`, less `least`; NaN where the trained net is no better than pairs."""
    bits = (worse if isinstance(worse, float) else worse.mean()) - better.mean() - least
    return bits if arm(results, "dense").mean() < gram(results, 2) else nan


def looks(results: Results, name: str) -> float:
    """Give by how many points a head's attention to the previous character exceeds that of the untrained net's best."""
    same = arm(results, name)
    return same.mean("previous") - same.mean("untrained_previous")


def pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items, items[1:], strict=False))


BITS = "bits per character"
CLAIMS = [
    Claim("half of the random net writes at most 0.1 bit worse than the net trained",
          lambda r: gained(r, arm(r, "dense"), arm(r, "found"), -0.1), BITS),
    Claim("the found half is 0.1 bit better than a random half, embeddings and head trained in both",
          lambda r: gained(r, arm(r, "learned_random"), arm(r, "learned")), BITS),
    Claim("the found half, all else random, is 0.1 bit better than a bigram",
          lambda r: gained(r, gram(r, 2), arm(r, "found")), BITS),
    Claim("with as many weights kept, each doubling of the width gains 0.1 bit",
          lambda r: [gained(r, one, other) for one, other in pairs(as_many(r))], BITS),
    Claim("a head of the found half looks 20 points more at the previous character than any before training",
          lambda r: looks(r, "found") - 20, "points of attention"),
    Claim("the found half copies: a second copy costs it 0.1 bit less than the first",
          lambda r: arm(r, "found").mean("copied") - 0.1, BITS),
    Claim("the found half is 0.1 bit better than a six-gram", lambda r: gained(r, gram(r, 6), arm(r, "found")), BITS,
          "secondary"),
    Claim("the net trained is 0.1 bit better than a six-gram", lambda r: gained(r, gram(r, 6), arm(r, "dense")), BITS,
          "secondary"),
    Claim("at half of the weights each doubling of the width gains 0.1 bit",
          lambda r: [gained(r, *two) for two in pairs([arm(r, "found", width) for width in widths(r)])], BITS,
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
    Claim("the trained net is past the bigram's plateau, by 0.1 bit", lambda r: gram(r, 2) - arm(r, "dense").mean() - 0.1,
          BITS, "check", every=True),
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


def present(results: Results, name: str, *which: Any) -> Results:
    """Keep the runs of an arm, maybe none."""
    try:
        return arm(results, name, *which)
    except ValueError:  # half a grid
        return Results([])


def draw(results: Results, figure: Figure) -> None:
    figure.add_subplot()
