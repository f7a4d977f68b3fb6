"""Masks against a stable sort, whatever the ties, dtypes and layouts, on the CPU's path and on torch's."""

from math import inf, nan

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_hidden.selection import _kernels_work, _select_torch, cpu, kept, top_k_mask

BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
DTYPES = list(BITS)
# Zeros of both signs, subnormals of each dtype, the largest numbers, infinities and NaN.
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 6e-8, -6e-8, 5e-324, 1.0, -1.0, 65504.0, -3e38, inf, -inf, nan, -nan]
RNG = np.random.default_rng(0)


def by_sorting(scores: Tensor, keep: int) -> Tensor:
    """The definition: sort all magnitudes, ascending and stable, and keep the last `keep`."""
    order = torch.sort(scores.abs().reshape(-1), stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[scores.numel() - keep :]] = True
    return mask.view(scores.shape)


def bits(scores: Tensor) -> Tensor:
    return scores.view(BITS[scores.dtype]).flatten()


def agree(scores: Tensor, keep: int) -> None:
    """The front door, which takes the CPU's path, and torch's path against the sort."""
    expected = by_sorting(scores, keep)
    assert int(expected.sum()) == keep
    assert torch.equal(top_k_mask(scores, keep), expected)
    if 0 < keep < scores.numel():
        assert torch.equal(_select_torch(bits(scores), keep).view(scores.shape), expected)


@pytest.fixture(params=["as it is", "by samples"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a few scores be sampled, and passed over in several blocks, as many are."""
    if request.param == "by samples":
        monkeypatch.setattr(cpu, "SMALL", 3)
        monkeypatch.setattr(cpu, "BLOCK", 7)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_equal_a_stable_sort_for_random_tied_and_special_tensors(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    for case in range(200):
        shape = tuple(rng.integers(1, 7, size=rng.integers(1, 5)))
        values = [
            rng.standard_normal(shape),
            rng.integers(-2, 3, shape),
            np.full(shape, rng.standard_normal()),
            rng.choice(SPECIAL, shape),
        ][case % 4]
        scores = torch.tensor(values, dtype=dtype)
        scores[scores.isnan()] = nan  # NaNs of one payload: they rank by their bits, sort calls them equal
        agree(scores, int(rng.integers(0, scores.numel() + 1)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_later_of_equals_stays_nan_ranks_above_infinity_and_neighbours_differ(dtype: torch.dtype) -> None:
    def marked(values: list[float], keep: int) -> list[int]:
        return top_k_mask(torch.tensor(values, dtype=dtype), keep).nonzero().flatten().tolist()

    for keep in range(7):
        assert marked([1, -1, 1, -1, 1, -1], keep) == list(range(6 - keep, 6))
    assert marked([3, 1, -2, 2, 0, -2, 2, 5], 4) == [0, 5, 6, 7]
    assert marked([nan, inf, 1, -inf, -nan], 2) == [0, 4]
    assert marked([0.0, -0.0, -0.0, 0.0], 2) == [2, 3]
    for start in (0.0, 1.0, 3.0):
        here = torch.tensor(start, dtype=dtype)
        up = (here.view(BITS[dtype]) + 1).view(dtype)  # the next larger number there is, subnormal after 0
        assert top_k_mask(torch.stack([up, here, here]), 1).tolist() == [True, False, False]


LAYOUTS = {
    "channels_last": lambda: torch.randn(4, 3, 5, 5).round(decimals=1).to(memory_format=torch.channels_last),
    "every second": lambda: torch.randn(6, 10).round(decimals=1)[:, ::2],
    "flipped view": lambda: torch.randn(3, 8).round(decimals=1)[::2].t(),
    "a dimension of one": lambda: torch.randn(5, 1, 4, 1).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_is_the_masks_and_does_not_change_it(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = LAYOUTS[layout]()
    if layout in ("channels_last", "a dimension of one"):
        assert top_k_mask(scores, 7).stride() == scores.stride()
    monkeypatch.setattr(cpu, "SMALL", 3)
    monkeypatch.setattr(cpu, "BLOCK", 7)
    for keep in range(0, scores.numel() + 1, 3):
        agree(scores, keep)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_scores_are_never_written_and_share_no_memory_with_the_mask(dtype: torch.dtype) -> None:
    scores = torch.randn(20, 10).to(dtype).round(decimals=1).requires_grad_()
    before, version = scores.detach().clone(), scores._version
    first, second = top_k_mask(scores, 77), top_k_mask(scores, 77)
    first.fill_(False)
    _select_torch(bits(scores.detach()), 77)
    assert torch.equal(scores, before)
    assert scores._version == version
    assert int(second.sum()) == int(top_k_mask(scores, 77).sum()) == 77
    assert not second.requires_grad


@pytest.mark.parametrize(
    ("numel", "density", "expected"),
    [
        (100, 0.9, 91),  # int((1 - 0.9) * 100) = int(9.999...) = 9: the authors' float rounding, not 90
        (100, 0.7, 70),  # int(30.000000000000004)
        (5, 0.5, 3),  # int(2.5) = 2 are dropped
        (7, 1.0, 7),
        (38_592, 0.3, 11_578),
    ],
)
def test_kept_rounds_as_the_authors_do(numel: int, density: float, expected: int) -> None:
    assert kept(numel, density) == expected


KINDS = {
    "random": RNG.standard_normal(200_000),
    "all equal": np.full(200_000, 0.3),
    # A fifth of them, the 80,000th to the 120,000th by size, are equal.
    "ties beside": np.r_[np.full(40_000, 1.0), np.arange(160_000) / 80_000],
}


@pytest.mark.parametrize("kind", KINDS)
def test_ties_take_at_most_two_passes_and_a_usual_selection_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, blocks, passes = torch.tensor(KINDS[kind], dtype=torch.float32), cpu._blocks, []
    monkeypatch.setattr(cpu, "_blocks", lambda bits, **how: passes.append(bits.size) or blocks(bits, **how))
    # At 80,200 and 119,800 the sample is too near an end of the ties beside to leave them out.
    for keep in (100_000, 199_000, 80_200, 119_800):
        passes.clear()
        assert torch.equal(top_k_mask(scores, keep), by_sorting(scores, keep))
        assert passes.count(200_000) <= 1 + (kind != "random")


@pytest.mark.parametrize("seen", ["nines", (0.0, 0.1), (0.45, 0.55), (8.0, 9.0), "all"])
def test_a_sample_that_misleads_costs_time_and_nothing_else(seen: object, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.from_numpy(RNG.uniform(-1, 1, 200_000).astype(np.float32))
    if seen == "nines":
        scores[:: max(8, 200_000 // cpu.SAMPLE) | 1] = 9  # all that the sample sees
    else:
        bracket = (-1, 2**31 - 1) if seen == "all" else np.array(seen, np.float32).view(np.int32)
        monkeypatch.setattr(cpu, "_bracket", lambda *_: tuple(map(np.int32, bracket)))
    for keep in (150_000, 22_000):
        assert torch.equal(top_k_mask(scores, keep), by_sorting(scores, keep))


def test_kernels_that_fail_or_err_on_a_device_are_left_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pytest.importorskip("lit_hidden.selection.gpu")
    device = torch.device("cpu")  # Triton's kernels cannot run here
    for select, expected in (
        (gpu.select_triton, "selection on cpu uses torch.topk, which is slower: Triton failed: "),
        (
            lambda raw, keep: _select_torch(raw, keep).roll(1),
            "of 1000 scores they select others",
        ),
    ):
        monkeypatch.setattr(gpu, "select_triton", select)
        _kernels_work.cache_clear()
        with pytest.warns(UserWarning, match=expected):
            assert not _kernels_work(device)
    monkeypatch.setattr(gpu, "select_triton", _select_torch)
    _kernels_work.cache_clear()
    assert _kernels_work(device)
    _kernels_work.cache_clear()
