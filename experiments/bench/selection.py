"""Selection alone: the mask of the largest scores, by our code and by others, in passes over the memory."""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from experiments.bench.rows import Bench, Section, timed, turns
from lit_hidden.selection import kept, top_k_mask

SIZES = (600_000, 4_200_000)
KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # from scores in [-1, 1] and draws in [0, 1]
    "random": lambda scores, draw: scores,
    "tied": lambda scores, draw: (16 * scores).trunc(),
    "90% zeros": lambda scores, draw: scores * (draw < 0.1),
}


def selection(bench: Bench) -> Section:
    """Measure every way to select, at every size and kind of scores: milliseconds, and ratios by round."""
    about = (
        "The mask of the larger half by magnitude, from float32 scores: random (uniform in [-1, 1]), tied (16 "
        "magnitudes) and 90% zeros. A pass reads every score and writes every byte of an existing mask (on a CPU by "
        "numpy: torch.ge takes longer). Ours, torch.sort and torch.topk(sorted=False) keep exactly half; "
        "torch.kthvalue and numpy.partition keep all that reach the threshold, too many where scores are equal."
    )
    section = Section("selection", bench.device.type, about)
    for size, kind in product(SIZES, KINDS):
        group, work = f"{size / 1e6:g} million, {kind}", ways(scores_of(kind, size).to(bench.device), kept(size, 0.5))
        measures = {way: timed(one, bench.seconds / 40) for way, one in work.items()}
        section.add("ms", turns(measures, bench.rounds), group)
        others = [way for way in work if way not in ("pass", "copy", "ours")]
        for above, below in [("ours", "pass"), ("ours", "copy"), *product(others, ["ours"])]:
            section.ratio(above, below, group)
    return section


def scores_of(kind: str, size: int) -> Tensor:
    """Draw float32 scores `(size,)` of one of `KINDS`, the same at every call."""
    scores, draw = torch.rand(2, size, generator=torch.Generator().manual_seed(0))
    return KINDS[kind](2 * scores - 1, draw)


def ways(scores: Tensor, keep: int) -> dict[str, Callable[[], Tensor]]:
    """Map each way to select the `keep` largest of `scores` `(N,)` by magnitude to a function: the mask, bool `(N,)`.

    `pass` and `copy` select nothing: they are the yardsticks, and return what they write.
    """
    drop, half, cpu = scores.numel() - keep, scores.abs().median(), not scores.is_cuda
    ready, other = torch.empty_like(scores, dtype=torch.bool), torch.empty_like(scores)

    def compared() -> Tensor:
        if cpu:
            np.greater_equal(scores.numpy(), half.numpy(), out=ready.numpy())
            return ready
        return torch.ge(scores, half, out=ready)

    def partition() -> Tensor:
        magnitudes = scores.abs().numpy()
        return torch.from_numpy(magnitudes >= np.partition(magnitudes, drop)[drop])

    def by(places: Tensor) -> Tensor:
        return torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, places, True)

    return {
        "pass": compared,
        "copy": lambda: other.copy_(scores),
        "ours": lambda: top_k_mask(scores, keep),
        "sort": lambda: by(scores.abs().sort().indices[drop:]),
        "topk": lambda: by(scores.abs().topk(keep, sorted=False).indices),
        "kthvalue": lambda: (magnitudes := scores.abs()) >= magnitudes.kthvalue(drop + 1).values,
        **({"partition": partition} if cpu else {}),
    }
