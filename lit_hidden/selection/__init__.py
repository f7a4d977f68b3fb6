"""Exact top-k of scores: the one hot kernel of edge-popup.

The authors' code sorts all scores of a layer. Only the set of kept scores matters, so a look at a sample (CPU) or a
radix select (GPU) finds the same set in a fraction of the time. It is exact: `keep` entries stay whatever the ties, and
among equal magnitudes the later index stays, as after a stable ascending sort.
"""

import functools
import warnings

import torch
from torch import Tensor

from lit_hidden.selection.cpu import select

# Without the sign, an IEEE float orders as the integer with its bits. So every comparison is exact, and NaN ranks above
# infinity, as in `torch.sort`.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a float


def kept(numel: int, density: float) -> int:
    """Count the weights that stay of `numel` at `density`, with the authors' rounding; at least one (else ValueError).

    Source: `GetSubnet` in allenai/hidden-networks drops the first `int((1 - k) * numel)` of the sorted scores.
    """
    if not (0 < density <= 1 and (keep := numel - int((1 - density) * numel))):
        raise ValueError(f"density={density} keeps none, or more than all, of {numel} weights; it must lie in (0, 1]")
    return keep


def top_k_mask(scores: Tensor, keep: int) -> Tensor:
    """Mark the `keep` scores of largest magnitude; among equals the later (row-major) index stays.

    `scores` are `(*)`, floating point, of any rank and memory layout, on any device; `keep` is 0 to `scores.numel()`.
    The mask is bool `(*)`, laid out as `scores`. A GPU is never waited for.
    """
    mask: Tensor = torch.ops.lit_hidden.top_k_mask(scores, keep)
    return mask


# A custom operator, so that torch.compile and torch.export see one opaque node and not what numpy does.
@torch.library.custom_op("lit_hidden::top_k_mask", mutates_args=())
def _top_k_mask(scores: Tensor, keep: int) -> Tensor:
    bits = scores.detach().view(_BITS[scores.element_size()])
    mask = torch.empty_like(bits, dtype=torch.bool)
    if keep in (0, bits.numel()):
        return mask.fill_(keep > 0)
    flat = bits.flatten()  # row-major whatever the layout, so that ties are broken alike
    if flat.device.type == "cpu":
        chosen = torch.from_numpy(select(flat.numpy(), keep))
    elif flat.device.type == "cuda" and flat.dtype == torch.int32 and _kernels_work(flat.device):
        from lit_hidden.selection.gpu import select_triton

        chosen = select_triton(flat, keep)
    else:
        chosen = _select_torch(flat, keep)
    # as_strided: the fake below promises these strides, also of dimensions of size 1.
    return chosen.as_strided(mask.shape, mask.stride()) if bits.is_contiguous() else mask.copy_(chosen.view(bits.shape))


@_top_k_mask.register_fake
def _(scores: Tensor, keep: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@_top_k_mask.register_vmap
def _(info: object, in_dims: tuple[int, None], scores: Tensor, keep: int) -> tuple[Tensor, int]:
    return torch.stack([top_k_mask(one, keep) for one in scores.unbind(in_dims[0])]), 0


@functools.cache
def _kernels_work(device: torch.device) -> bool:
    """Try the GPU kernels once per device; waits for it, so no CUDA graph may capture the first selection."""
    try:
        from lit_hidden.selection.gpu import select_triton

        for numel in (1000, 100_000):  # one program, and many
            bits = torch.linspace(-3, 3, numel, device=device).round(decimals=3).view(torch.int32)  # tied
            if not torch.equal(select_triton(bits, numel // 2), _select_torch(bits, numel // 2)):
                raise RuntimeError(f"of {numel} scores they select others")
    except Exception as error:  # compilers and drivers raise of many kinds
        warnings.warn(f"selection on {device} uses torch.topk, which is slower: Triton failed: {error}", stacklevel=2)
        return False
    return True


def _select_torch(bits: Tensor, keep: int) -> Tensor:
    """Select by torch's operators; no number comes back to the host, so a CUDA graph can hold it."""
    magnitudes = bits & torch.iinfo(bits.dtype).max
    threshold = magnitudes.topk(keep, sorted=False).values.amin()
    above, ties = magnitudes > threshold, magnitudes == threshold
    room = keep - above.sum()
    latest = ties.sum() - ties.cumsum(0) < room  # fewer than `room` ties follow
    return above | (ties & latest)
