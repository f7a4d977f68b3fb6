"""The yardstick of language models: n-grams with interpolated Kneser-Ney smoothing.

Source: Chen and Goodman, An empirical study of smoothing techniques for language modeling, 1999; one discount an order,
`n1 / (n1 + 2 n2)`, or 0.5 where no gram counts once: a discount of 0 would make what is new impossible.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class NGrams:
    """Count the n-grams, up to `order`, of a text of `symbols` below `size`, int `(M,)`.

    Below the highest order a gram counts by how many symbols come before it.
    """

    def __init__(self, symbols: Array, order: int, size: int) -> None:
        self.order, self.size = order, size
        wide = symbols.astype(np.int64)
        grams = sum(wide[n : len(wide) - order + n + 1] * size ** (order - 1 - n) for n in range(order))
        self.tables: list[tuple[Array, Array, Array, Array, Array, float]] = []
        codes, counts = np.unique(grams, return_counts=True)
        for length in range(order, 0, -1):
            once, twice = ((counts == n).sum() for n in (1, 2))
            contexts, first = np.unique(codes // size, return_index=True)
            totals, kinds = np.add.reduceat(counts, first), np.diff([*first, len(codes)])
            self.tables.insert(0, (codes, counts, contexts, totals, kinds, once / (once + 2 * twice) if once else 0.5))
            codes, counts = np.unique(codes % size ** (length - 1), return_counts=True)

    def chances(self, contexts: Array, nexts: Array, known: Array) -> Array:
        """Give the probability of the symbols `nexts` after `contexts`; all `(N,)`.

        A context is a number whose digits, in base `size`, are the symbols before, the last one lowest; `known` tells
        how many of them there are.
        """
        found = np.full(len(nexts), 1 / self.size)
        for before, (codes, counts, seen, totals, kinds, discount) in enumerate(self.tables):
            context = contexts % self.size**before
            at, there = _places(seen, context)
            own, is_own = _places(codes, context * self.size + nexts)
            count = np.where(is_own, counts[own], 0)
            mixed = (np.maximum(count - discount, 0) + discount * kinds[at] * found) / totals[at]
            found = np.where(there & (known >= before), mixed, found)
        return found

    def bits(self, inputs: Array, targets: Array) -> float:
        """Give the bits per character of windows `(N, T)` and what follows; nothing before a window is known."""
        known = np.minimum(np.arange(inputs.shape[1]) + 1, self.order - 1)
        contexts = np.zeros(inputs.shape, np.int64)
        for back in range(self.order - 1):
            contexts[:, back:] += inputs[:, : inputs.shape[1] - back].astype(np.int64) * self.size**back
        chances = self.chances(contexts.ravel(), targets.ravel(), np.broadcast_to(known, inputs.shape).ravel())
        return float(-np.log2(chances).mean())

    def write(self, begun: Array, count: int, seed: int = 0) -> list[int]:
        """Go on from the symbols `begun`, each next one drawn by its probability."""
        random, nexts, written = np.random.default_rng(seed), np.arange(self.size), [int(symbol) for symbol in begun]
        for _ in range(count):
            last = written[len(written) - self.order + 1 :]
            context = sum(symbol * self.size**back for back, symbol in enumerate(last[::-1]))
            same = np.full(self.size, context, np.int64)
            chances = self.chances(same, nexts, np.full(self.size, len(last)))
            written.append(int(random.choice(self.size, p=chances / chances.sum())))
        return written


def _places(table: Array, wanted: Array) -> tuple[Array, Array]:
    at = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return at, table[at] == wanted
