"""Selection alone: the mask of the largest scores, ours and what else finds it, in passes over the memory."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lit_hidden.engine.bench.rows import Effort, Row, Section, each, ratio, written
from lit_hidden.selection import kept, top_k_mask

DENSITY = 0.5
SIZES = (600_000, 2_400_000, 4_200_000, 25_000_000)
KINDS = ("random", "tied", "90% zeros")
SLOW = 2  # rounds of what takes longer than a measurement should


def selection(effort: Effort, device: torch.device) -> Section:
    """Measure every way to select, of every size and kind: milliseconds, and ratios paired by round."""
    rows: list[Row] = []
    for size in SIZES:
        for kind in KINDS:
            rows += _of(size, kind, effort, device)
    about = (
        "The mask of the larger half by magnitude, from float32 scores: random (uniform in [-1, 1]), tied (of 16 "
        "magnitudes) and 90% zeros. A pass: every score read once and every byte of a mask that is there written once, "
        "by the quickest `scores >= t` there is (on a CPU numpy's: torch.ge takes longer, see bench.json). Ours, "
        "torch.sort and torch.topk(sorted=False) give the mask with exactly "
        "as many entries as wanted; torch.kthvalue and numpy.partition the threshold and all that reach it, which "
        f"where scores are equal are too many. Medians of {effort.rounds} rounds after one that does not count; "
        f"what takes longer than {effort.seconds:g} s has {SLOW}."
    )
    section = Section(f"Selection, {device.type}", about, rows, [], "selection", device.type)
    return Section(**vars(section) | {"table": _table(section)})


def scores_of(kind: str, size: int) -> Tensor:
    """Draw float32 scores `(size,)`, the same at every call.

    Raises:
        ValueError: no kind is called so.
    """
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(size, generator=generator).mul_(2).sub_(1)
    if kind == "random":
        return scores
    if kind == "tied":
        return scores.mul_(16).trunc_()
    if kind == "90% zeros":
        return scores.mul_(torch.rand(size, generator=generator) < 0.1)
    raise ValueError(f"kind={kind!r} is unknown; kinds are {', '.join(KINDS)}")


def ways(scores: Tensor, keep: int) -> dict[str, Callable[[], Tensor]]:
    """Map each way to select the `keep` largest of `scores` `(N,)` by magnitude to what gives the mask: bool `(N,)`.

    `pass`, `torch.ge` and `copy` are what they are measured by: they select nothing, and give what they write.
    """
    drop, half = scores.numel() - keep, scores.abs().median()
    ready, other = torch.empty_like(scores, dtype=torch.bool), torch.empty_like(scores)

    def compared() -> Tensor:
        np.greater_equal(scores.numpy(), half.numpy(), out=ready.numpy())
        return ready

    def by(places: Tensor) -> Tensor:
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask[places] = True
        return mask

    def partition() -> Tensor:
        magnitudes = scores.abs().numpy()
        return torch.from_numpy(magnitudes >= np.partition(magnitudes, drop)[drop])

    def kthvalue() -> Tensor:
        magnitudes = scores.abs()
        return magnitudes >= magnitudes.kthvalue(drop + 1).values

    found = {
        "pass": (lambda: torch.ge(scores, half, out=ready)) if scores.is_cuda else compared,
        "torch.ge": lambda: torch.ge(scores, half, out=ready),
        "copy": lambda: other.copy_(scores),
        "ours": lambda: top_k_mask(scores, keep),
        "sort": lambda: by(scores.abs().sort().indices[drop:]),
        "topk": lambda: by(scores.abs().topk(keep, sorted=False).indices),
        "kthvalue": kthvalue,
    }
    return found if scores.is_cuda else {**found, "partition": partition}


def _of(size: int, kind: str, effort: Effort, device: torch.device) -> list[Row]:
    scores, group = scores_of(kind, size).to(device), f"{size / 1e6:g} million, {kind}"
    work = ways(scores, kept(size, DENSITY))
    found: dict[str, list[float]] = {way: [] for way in work}
    for number in range(effort.rounds + 1):
        for way in reversed(list(work)) if number % 2 else work:
            if number > SLOW and min(found[way]) > 1000 * effort.seconds:
                continue
            with effort.console.status(f"selection of {group}: round {number} of {effort.rounds}: {way}"):
                found[way].append(1000 * each(work[way], device, effort.seconds / 40))
    rows = {way: Row(way, "ms", tuple(numbers[1:]), group) for way, numbers in found.items()}
    others = [way for way in work if way not in ("pass", "torch.ge", "copy", "ours")]
    return [
        *rows.values(),
        *(ratio(f"ours / {by}", rows["ours"], rows[by]) for by in ("pass", "torch.ge", "copy")),
        *(ratio(f"{way} / ours", rows[way], rows["ours"]) for way in others),
        *(ratio(f"{way} / pass", rows[way], rows["pass"]) for way in others),
    ]


def _table(section: Section) -> list[tuple[str, ...]]:
    """One line for each size and kind: medians."""
    first = section.groups()[0]
    others = [row.what for row in section.rows if row.group == first and row.what.endswith(" / ours")]
    times, ratios = ("pass", "copy", "ours"), ("ours / pass", *others)
    table: list[tuple[str, ...]] = [("million", "kind", *(f"{name} ms" for name in times), *ratios)]
    for group in section.groups():
        rows = [section.find(name, group) for name in (*times, *ratios)]
        size, _, kind = group.partition(", ")
        table.append((size.removesuffix(" million"), kind, *(written(row.median) for row in rows if row)))
    return table
