"""Intervals of statistics that are no means: what claims with an `interval` of their own give."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lit_hidden.judge import half_widths, spread


def more_scatter(few: Sequence[float], others: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Give the log2 ratio, with 95% bounds, of the standard deviation of `few` to that pooled over `others` (F test).

    NaN where a side does not scatter. With skewed noise the test supports equals in 9% of cases instead of 2.5%.
    """
    from scipy.special import fdtri

    free = len(few) - 1, sum(len(values) - 1 for values in others)
    pooled = sum((len(values) - 1) * np.var(values, ddof=1) for values in others) / free[1]
    ratio = float(np.var(few, ddof=1) / pooled) if pooled else math.nan
    if not ratio > 0:
        return math.nan, math.nan, math.nan
    low, high = (ratio / float(fdtri(*free, quantile)) for quantile in (0.975, 0.025))
    return 0.5 * math.log2(ratio), 0.5 * math.log2(low), 0.5 * math.log2(high)


def jackknifed(statistic: Callable[[list[list[Any]]], float], cells: Sequence[list[Any]]) -> tuple[float, float, float]:
    """Give a statistic of some cells with its 95% interval, leaving out one item of one cell at a time."""
    whole, cells = np.array([statistic(list(cells))]), list(cells)

    def without(cell: int, item: int) -> list[list[Any]]:
        return [*cells[:cell], cells[cell][:item] + cells[cell][item + 1 :], *cells[cell + 1 :]]

    left_out = [np.array([[statistic(without(n, at))] for at in range(len(cell))]) for n, cell in enumerate(cells)]
    (margin,), variance, freedom = spread(whole, left_out)
    (half,) = half_widths(variance, freedom, parts=1)
    return float(margin), float(margin - half), float(margin + half)
