"""Exact top-k on a CPU in about one pass over the scores, whatever their ties.

A sorted sample of the magnitudes brackets the threshold (R. Floyd and R. Rivest, CACM 18, 1975). One pass marks what
lies above the bracket and takes out what lies inside it (about 2% of the scores), which is selected from by the same
rule. Where many magnitudes equal one end of the bracket, a second pass finds which of them stay. Where the sample
misleads, numpy's partition finds the threshold.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.signedinteger]  # of IEEE floats: without the sign bit they order as the magnitudes do
Mask = NDArray[np.bool_]

SMALL = 1 << 15  # up to so many scores, a partition is as quick as a bracket
SAMPLE = 1 << 15  # approximate size of the sample
BLOCK = 1 << 17  # scores handled by one numpy call
SLACK = 3.0  # half the bracket's width, in standard deviations of a sample's rank


def select(bits: Bits, keep: int) -> Mask:
    """Mark the `keep` scores of largest magnitude, 0 to N, among equals the later; `bits` `(N,)` are only read."""
    if keep in (0, bits.size):
        return np.full(bits.size, keep > 0)
    if bits.size > SMALL and (found := _within(bits, keep, *_bracket(bits, keep))) is not None:
        return found
    pool = bits & _largest(bits)
    pool.partition(bits.size - keep)
    threshold = pool[bits.size - keep]
    found = _within(bits, keep, threshold, threshold)
    assert found is not None
    return found


def _within(bits: Bits, keep: int, low: np.signedinteger, high: np.signedinteger) -> Mask | None:
    """Select, given two magnitudes between which the threshold lies, ends included; None if it does not."""
    low = min(low, high - 1)
    mask, among = np.empty(bits.size, np.bool_), np.empty(BLOCK, np.bool_)
    values, places, found = [bits[:0]], [np.empty(0, np.intp)], 0  # of the magnitudes strictly between
    for place, size in _blocks(bits):
        upper = np.greater_equal(size, high, out=mask[place])
        if low == high - 1:
            continue
        inside = np.greater(size, low, out=among[: size.size])
        where = np.flatnonzero(np.not_equal(inside, upper, out=inside))
        values.append(size[where])
        places.append(where + place.start)
        found += where.size
        if 2 * found >= bits.size:
            return None
    room = keep - int(np.count_nonzero(mask))
    if room < 0:  # then `high` itself is the threshold, or the bracket is wrong
        return mask if _settle(bits, mask, high, room) else None
    mask[np.concatenate(places)] = select(np.concatenate(values), min(room, found))
    return mask if room <= found or _settle(bits, mask, low, room - found) else None


def _largest(bits: Bits) -> np.signedinteger:
    return bits.dtype.type(np.iinfo(bits.dtype).max)  # all bits but the sign's


def _bracket(bits: Bits, keep: int) -> tuple[np.signedinteger, np.signedinteger]:
    """Guess two magnitudes between which the smallest that stays lies, ends included; nearly always right."""
    sample = bits[:: max(8, bits.size // SAMPLE) | 1] & _largest(bits)  # odd: not in step with powers of 2
    sample.sort()
    share = 1 - keep / bits.size
    slack = SLACK * math.sqrt(sample.size * share * (1 - share)) + 1
    first, last = math.floor(share * sample.size - slack), math.ceil(share * sample.size + slack)
    low = sample[first] if first >= 0 else bits.dtype.type(-1)
    return low, sample[last] if last < sample.size else _largest(bits)


def _blocks(bits: Bits, backwards: bool = False) -> Iterator[tuple[slice, Bits]]:
    """Yield the place of each block and its magnitudes, which the next block overwrites."""
    magnitudes, largest = np.empty(BLOCK, bits.dtype), _largest(bits)
    for start in range(0, bits.size, BLOCK)[:: -1 if backwards else 1]:
        place = slice(start, start + BLOCK)
        yield place, np.bitwise_and(bits[place], largest, out=magnitudes[: bits[place].size])


def _settle(bits: Bits, mask: Mask, tied: np.signedinteger, room: int) -> bool:
    """Mark the last `room` magnitudes equal to `tied`; if `room` is negative unmark the first; False: too few."""
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
