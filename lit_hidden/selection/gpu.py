"""Exact top-k of float32 scores on a GPU: a radix select in Triton. Import it only where there is a CUDA device.

A selection zeroes 4 kB, passes over the scores once per digit of the magnitude (8, 8, 8 and 7 bits), and writes the
mask. So n scores take 6 launches, read 20n bytes and write n. Triton counts a histogram with one ballot per bin, so
digits are narrow. Scratch: 4 kB and one histogram per program (4 programs per multiprocessor).
"""

from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

_DIGITS = (8, 8, 8, 7)  # bits of each digit, the highest first
_OPTIONS: dict[str, Any] = {"BLOCK": 2048, "num_warps": 4, "enable_fp_fusion": False}  # Triton 3.9 wants fusion named
# Scratch has a row per digit: its histogram, then the digits above it and how many scores to drop among theirs.
_STATE = tl.constexpr(256)
_ROW = tl.constexpr(256 + 16)


def select_triton(raw: Tensor, keep: int) -> Tensor:
    """Mark the `keep` scores of largest magnitude, 1 to N - 1, exactly as `selection.top_k_mask` does.

    `raw` are the bits of the scores, int32 `(N,)`, contiguous. The host never waits and all sizes are known beforehand,
    so a CUDA graph can hold it, after a first call that compiles the kernels.
    """
    n = raw.numel()
    assert raw.is_contiguous()
    assert 0 < keep < n < 2**31 - _OPTIONS["BLOCK"]  # every index and every count fits 32 bits
    mask = torch.empty_like(raw, dtype=torch.bool)
    most = 4 * torch.cuda.get_device_properties(raw.device).multi_processor_count if raw.is_cuda else 4
    blocks = triton.cdiv(n, _OPTIONS["BLOCK"])
    each = triton.cdiv(blocks, most)
    grid = (triton.cdiv(blocks, each),)
    scratch = torch.zeros((len(_DIGITS), _ROW.value), dtype=torch.int32, device=raw.device)
    table = torch.empty((*grid, 2 ** _DIGITS[-1]), dtype=torch.int32, device=raw.device)
    sizes = (n, n - keep, each)
    with torch.cuda.device(raw.get_device()):
        for level, width in enumerate(_DIGITS):
            prior, below = _DIGITS[level - 1] if level else 0, sum(_DIGITS[level + 1 :])
            _count[grid](raw, scratch, table, *sizes, LEVEL=level, PRIOR=prior, WIDTH=width, SHIFT=below, **_OPTIONS)
        programs = triton.next_power_of_2(most)
        _mark[grid](raw, scratch, table, mask, *sizes, LEVEL=level + 1, PRIOR=width, PROGRAMS=programs, **_OPTIONS)
    return mask


# In the kernels, `drop` counts the scores to drop among those that share the digits `prefix` found so far. With all
# digits found, `prefix` is the threshold and `drop` counts the ties to drop: the earliest. Each program has consecutive
# blocks of the scores, the same in every launch, and finds the last digit itself from the histogram.


@triton.jit(do_not_specialize=["drop", "each"])  # type: ignore[untyped-decorator,unused-ignore]
def _count(  # type: ignore[no-untyped-def]
    raw, scratch, table, n, drop, each,
    LEVEL: tl.constexpr, PRIOR: tl.constexpr, WIDTH: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = scratch + LEVEL * _ROW
    prefix = 0
    if LEVEL > 0:
        prefix, drop = _resume(scratch, drop, LEVEL, PRIOR)
        if program == 0:
            tl.store(row + _STATE, prefix)
            tl.store(row + _STATE + 1, drop)
    first = program * each
    histogram = tl.zeros((1 << WIDTH,), tl.int32)
    for block in range(first, tl.minimum(first + each, tl.cdiv(n, BLOCK))):
        at, bits = _load(raw, block, n, BLOCK)
        digit = (bits >> SHIFT) & ((1 << WIDTH) - 1)
        histogram += tl.histogram(digit, 1 << WIDTH, mask=(at < n) & (bits >> (SHIFT + WIDTH) == prefix))
    digits = tl.arange(0, 1 << WIDTH)
    tl.atomic_add(row + digits, histogram, mask=histogram > 0, sem="relaxed")
    if SHIFT == 0:
        tl.store(table + (program << WIDTH) + digits, histogram)


@triton.jit(do_not_specialize=["drop", "each"])  # type: ignore[untyped-decorator,unused-ignore]
def _mark(  # type: ignore[no-untyped-def]
    raw, scratch, table, mask, n, drop, each,
    LEVEL: tl.constexpr, PRIOR: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    threshold, drop = _resume(scratch, drop, LEVEL, PRIOR)
    ties = table + (threshold & ((1 << PRIOR) - 1))
    others = tl.arange(0, PROGRAMS)
    before = tl.sum(tl.load(ties + (others << PRIOR), mask=others < program, other=0), 0)
    after = before + tl.load(ties + (program << PRIOR))
    first = program * each
    last = tl.minimum(first + each, tl.cdiv(n, BLOCK))
    if (before < drop) & (drop < after):  # some of this program's ties stay
        drop -= before
        for quarter in range(first * 4, last * 4):  # of a block: a cumulative sum takes registers, in every program
            at, bits = _load(raw, quarter, n, BLOCK // 4)
            tie = ((bits == threshold) & (at < n)).to(tl.int32)
            tl.store(mask + at, (bits > threshold) | ((tie > 0) & (tl.cumsum(tie, 0) > drop)), mask=at < n)
            drop -= tl.sum(tie, 0)
    else:
        floor = threshold - (before >= drop).to(tl.int32)
        for block in range(first, last):
            at, bits = _load(raw, block, n, BLOCK)
            tl.store(mask + at, bits > floor, mask=at < n)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _load(raw, block, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Read a block of magnitudes: without the sign, IEEE bits order as integers."""
    at = block * BLOCK + tl.arange(0, BLOCK)
    return at, tl.load(raw + at, mask=at < n, other=0) & 0x7FFFFFFF


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _resume(scratch, drop, LEVEL: tl.constexpr, PRIOR: tl.constexpr):  # type: ignore[no-untyped-def]
    """Find the digit that the previous launch counted: the one at which the scores to drop run out."""
    row = scratch + (LEVEL - 1) * _ROW
    prefix = 0
    if LEVEL > 1:
        prefix = tl.load(row + _STATE)
        drop = tl.load(row + _STATE + 1)
    histogram = tl.load(row + tl.arange(0, 1 << PRIOR))
    whole = tl.cumsum(histogram, 0) <= drop
    digit = tl.sum(whole.to(tl.int32), 0)
    return (prefix << PRIOR) | digit, drop - tl.sum(tl.where(whole, histogram, 0), 0)
