"""Exact top-k on a CPU in about one pass over the scores, whatever their ties: a sample says where to look.

A sorted sample of the magnitudes brackets the threshold. One pass then marks what lies above the bracket and takes
out what lies inside it, about 2% of the scores, of which the right ones are found by the same rule. Where many
magnitudes are equal to one end of the bracket (90% zeros, say), another pass counts them instead. A sample that
misleads costs time and nothing else: then numpy's partition finds the threshold.

Source: the sampling of R. Floyd and R. Rivest, "Expected time bounds for selection", CACM 18 (1975).

Measured with 4.2 million scores, one thread, no AVX-512: 7 to 9 ms where all differ, 5 at 90% zeros; `numpy.partition`
alone 9, and 200; a copy of the scores 2.2. Tried and no faster: a bracket from `numpy.partition` (slow among ties),
several levels of samples, blocks that fit the second-level cache (numpy's calls cost more than memory does), torch's
operators in place of numpy's.
"""

import math

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.signedinteger]  # of IEEE floats: without the sign bit they order as the magnitudes do
Mask = NDArray[np.bool_]

SMALL = 1 << 15  # so many scores are partitioned as quickly as they are bracketed
SAMPLE = 1 << 15  # about so many are sorted
BLOCK = 1 << 17  # looked at together
SLACK = 3.0  # standard deviations of a sample's rank, to either side


def select(bits: Bits, keep: int) -> Mask:
    """Mark the `keep` scores of largest magnitude; among equals the later stays.

    Args:
        bits: `(N,)`, the bits of the scores as signed integers of their size; only read.
        keep: 0 to N.

    Returns:
        bool `(N,)`, with exactly `keep` entries True.
    """
    if keep in (0, bits.size):
        return np.full(bits.size, keep > 0)
    if bits.size > SMALL:
        low, high = _bracket(bits, keep)
        if low < high:
            mask, inside, places = _between(bits, low, high)
            above = int(np.count_nonzero(mask))
            if above <= keep <= above + inside.size and 2 * inside.size < bits.size:
                mask[places] = select(inside, keep - above)
                return mask
            # Many are equal to one end, and the threshold is that; or the sample misled.
            low = high if keep < above else low
        if (guessed := _from(bits, low, keep)) is not None:
            return guessed
    pool = bits & _largest(bits)
    pool.partition(bits.size - keep)
    exact = _from(bits, pool[bits.size - keep], keep)
    assert exact is not None
    return exact


def _largest(bits: Bits) -> np.signedinteger:
    """All bits but the sign's."""
    return bits.dtype.type(np.iinfo(bits.dtype).max)


def _bracket(bits: Bits, keep: int) -> tuple[np.signedinteger, np.signedinteger]:
    """Give two magnitudes between which the smallest that stays lies, nearly always, ends included."""
    sample = bits[:: max(8, bits.size // SAMPLE) | 1] & _largest(bits)  # odd: not in step with powers of 2
    sample.sort()
    share = 1 - keep / bits.size
    slack = SLACK * math.sqrt(sample.size * share * (1 - share)) + 1
    first, last = math.floor(share * sample.size - slack), math.ceil(share * sample.size + slack)
    # Beyond its ends a sample says nothing.
    low = sample[first] if first >= 0 else bits.dtype.type(-1)
    return low, sample[last] if last < sample.size else _largest(bits)


def _between(bits: Bits, low: np.signedinteger, high: np.signedinteger) -> tuple[Mask, Bits, NDArray[np.intp]]:
    """Mark the magnitudes from `high` on; give those between `low` and `high`, without the ends, and their places."""
    mask, largest = np.empty(bits.size, np.bool_), _largest(bits)
    magnitudes, among = np.empty(BLOCK, bits.dtype), np.empty(BLOCK, np.bool_)
    values, places = [], []
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        size = np.bitwise_and(block, largest, out=magnitudes[: block.size])
        upper = np.greater_equal(size, high, out=mask[start : start + BLOCK])
        inside = np.greater(size, low, out=among[: block.size])
        where = np.flatnonzero(np.not_equal(inside, upper, out=inside))
        values.append(size[where])
        where += start
        places.append(where)
    return mask, np.concatenate(values), np.concatenate(places)


def _from(bits: Bits, threshold: np.signedinteger, keep: int) -> Mask | None:
    """Mark what is larger than the threshold, and of those equal to it the last; None if it is not the threshold."""
    mask, ties, largest = np.empty(bits.size, np.bool_), np.empty(bits.size, np.bool_), _largest(bits)
    magnitudes = np.empty(BLOCK, bits.dtype)
    above, tied = 0, list[int]()
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        size = np.bitwise_and(block, largest, out=magnitudes[: block.size])
        above += int(np.count_nonzero(np.greater(size, threshold, out=mask[start : start + BLOCK])))
        tied.append(int(np.count_nonzero(np.equal(size, threshold, out=ties[start : start + BLOCK]))))
    room = keep - above
    if not 0 <= room <= sum(tied):
        return None
    first = bits.size  # of the ties that stay, all of them from there on
    for start, count in zip(range(0, bits.size, BLOCK)[::-1], tied[::-1], strict=True):
        if room == 0:
            break
        first = start
        if count > room:
            first += int(np.flatnonzero(ties[start : start + BLOCK])[-room])
        room -= min(room, count)
    mask[first:] |= ties[first:]
    return mask
