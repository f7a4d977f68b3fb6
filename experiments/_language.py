"""What language.py compares: the text, the size of its nets, its arms, and n-grams on the same text."""

from functools import cache
from typing import Any

from experiments._ngrams import NGrams
from lit_hidden import code, texts
from lit_hidden.results import Results
from lit_hidden.run import Run

ROOM = "lit_hidden.callbacks."
NET = f"{ROOM}transformer.layers_"
ORDERS = range(1, 7)  # of n-grams
NARROWEST = 0.8  # of the weights, kept at the first width where as many are kept at each
FEW = 0.2
ARMS: dict[str, tuple[str, dict[str, Any]]] = {  # the net's embeddings, what a run has
    "found": ("layers_", {"method": "edge_popup"}),
    "dense": ("layers_", {"method": "dense"}),
    "random": ("layers_", {"method": "random"}),
    "learned": ("learned_", {"LearnedEmbeddings.scores": True}),
    "learned_random": ("learned_", {"LearnedEmbeddings.scores": False}),
}


def sha256(least: int = 0) -> str:
    """Give the text's SHA-256; ValueError: it cannot be read, or has fewer than `least` characters."""
    found, documents = texts.read()
    if (there := len("\n".join(documents))) < least:
        raise ValueError(
            f"the text has {there:,} characters, and this preset takes {least:,}; give more text, or take the "
            "preset short, which uses what there is"
        )
    return found


def size(width: float) -> int:
    """Give the model's width, 16 units for each head."""
    return 16 * max(1, round(4 * width))


def layers(run: Run) -> int:
    return int(run.net[-1])


def units(run: Run) -> int:
    """Count the units: of the states and behind them, in each layer."""
    return layers(run) * 5 * size(run.width)


def weights(depth: int, width: float) -> int:
    """Count the weights that are hidden: of attention, of both layers behind it, and of the head."""
    return depth * 12 * size(width) ** 2 + 128 * size(width)


def thinned(depth: int, width: float, first: float) -> float:
    """Give the density at which a net keeps as many weights as the narrowest one does of its own."""
    return round(NARROWEST * weights(depth, first) / weights(depth, width), 6)


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
    depth = max(layers(run) for run in results.whole.runs)
    found = results.select(method="edge_popup", net=f"{NET}{depth}")
    there = widths(results)
    return [found.select(width=width, density=thinned(depth, width, there[0])) for width in there]


@cache
def ngrams(sha: str) -> tuple[list[float], str]:
    """Give the bits of n-grams by their order on the test windows of a text, and what the longest write."""
    corpus = f"{ROOM}corpus."
    alphabet, train, test = code.load(f"{corpus}read")(sha)
    found = [NGrams(train, order, 128) for order in ORDERS]
    windows = code.load(f"{corpus}windows")(test, 64)
    return [one.bits(*windows) for one in found], code.load(f"{corpus}told")(alphabet, found[-1].write(test[:64], 120))


def gram(results: Results, order: int) -> float:
    (sha,) = {run.option("Text.sha256")[0] for run in results.whole.runs}
    return ngrams(sha)[0][order - 1]


def present(results: Results, name: str, *which: Any) -> Results:
    """Keep the runs of an arm, maybe none."""
    try:
        return arm(results, name, *which)
    except ValueError:  # half a grid
        return Results([])
