"""Exact top-k on a CPU in about one pass over the scores, whatever their ties: a sample says where to look.

A sorted sample of the magnitudes brackets the threshold. One pass then marks what lies above the bracket and takes
out what lies inside it, about 2% of the scores, of which the right ones are found by the same rule. Where many
magnitudes are equal to one end of the bracket (90% zeros, say), another pass finds the right ones of them, as far as
it needs to. A sample that misleads costs time and nothing else: then numpy's partition finds the threshold.

Source: the sampling of R. Floyd and R. Rivest, "Expected time bounds for selection", CACM 18 (1975).

Measured with 4.2 million scores, one thread, no AVX-512: 6 to 9 ms where all differ, 5 with 16 values, 4 to 5 at 90%
zeros; `numpy.partition` alone 9, and 200; a copy of the scores 2. Tried and no faster: a bracket from
`numpy.partition` (slow among ties), several levels of samples, blocks that fit the second-level cache (numpy's calls
cost more than memory does), eight marks at a time where what is inside is looked for, torch's operators in place of
numpy's, the loop in numba, two threads (which wait for each other between numpy's calls).
"""

import math
from collections.abc import Iterator

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
    if bits.size > SMALL and (found := _bracketed(bits, keep)) is not None:
        return found
    pool = bits & _largest(bits)
    pool.partition(bits.size - keep)
    threshold = pool[bits.size - keep]
    mask = _above(bits, threshold)
    _settle(bits, mask, threshold, keep - int(np.count_nonzero(mask)))
    return mask


def _bracketed(bits: Bits, keep: int) -> Mask | None:
    """Select by a sample; None if it misled."""
    low, high = _bracket(bits, keep)
    if low < high:
        if (found := _between(bits, low, high)) is None:
            return None
        mask, inside, places = found
        room = keep - int(np.count_nonzero(mask))
        if 0 <= room <= inside.size:
            mask[places] = select(inside, room)
            return mask
        # Many are equal to one end, and the threshold is that; or the sample misled.
        if room < 0:
            return mask if _settle(bits, mask, high, room) else None
        mask[places] = True
        room -= inside.size
    else:
        mask = _above(bits, low)
        room = keep - int(np.count_nonzero(mask))
    return mask if room >= 0 and _settle(bits, mask, low, room) else None


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


def _blocks(bits: Bits, backwards: bool = False) -> Iterator[tuple[slice, Bits]]:
    """Give the magnitudes block by block, all in the same memory, and where each block lies."""
    magnitudes, largest = np.empty(BLOCK, bits.dtype), _largest(bits)
    for start in range(0, bits.size, BLOCK)[:: -1 if backwards else 1]:
        place = slice(start, start + BLOCK)
        yield place, np.bitwise_and(bits[place], largest, out=magnitudes[: bits[place].size])


def _between(bits: Bits, low: np.signedinteger, high: np.signedinteger) -> tuple[Mask, Bits, NDArray[np.intp]] | None:
    """Mark the magnitudes from `high` on; give those between `low` and `high`, without the ends, and their places.

    None as soon as they are half of all: that is no bracket.
    """
    mask, among = np.empty(bits.size, np.bool_), np.empty(BLOCK, np.bool_)
    values, places, found = [], [], 0
    for place, size in _blocks(bits):
        upper = np.greater_equal(size, high, out=mask[place])
        inside = np.greater(size, low, out=among[: size.size])
        where = np.flatnonzero(np.not_equal(inside, upper, out=inside))
        values.append(size[where])
        where += place.start
        places.append(where)
        found += where.size
        if 2 * found >= bits.size:
            return None
    return mask, np.concatenate(values), np.concatenate(places)


def _above(bits: Bits, threshold: np.signedinteger) -> Mask:
    """Mark the magnitudes that are larger than the threshold."""
    mask = np.empty(bits.size, np.bool_)
    for place, size in _blocks(bits):
        np.greater(size, threshold, out=mask[place])
    return mask


def _settle(bits: Bits, mask: Mask, tied: np.signedinteger, room: int) -> bool:
    """Mark the last `room` of the magnitudes equal to `tied`, of which none is marked; tell whether there are so many.

    Of a `room` below 0, unmark the first; then all are marked.
    """
    equal, left = np.empty(BLOCK, np.bool_), abs(room)
    for place, size in _blocks(bits, backwards=room > 0):
        if left == 0:
            break
        marked = mask[place]
        ties = np.equal(size, tied, out=equal[: size.size])
        count = int(np.count_nonzero(ties))
        if count <= left:
            np.not_equal(marked, ties, out=marked)
        else:
            where = np.flatnonzero(ties)
            marked[where[-left:] if room > 0 else where[:left]] = room > 0
        left -= min(left, count)
    return left == 0
