from collections.abc import Callable
from math import inf, nan, prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_hidden.selection import _BITS, _kernels_work, _select_torch, cpu, kept, top_k_mask

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# Zeros of both signs, subnormals of each dtype, the largest numbers, infinities and NaN.
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 6e-8, -6e-8, 5e-324, 1.0, -1.0, 65504.0, -3e38, inf, -inf, nan, -nan]


def by_sorting(scores: Tensor, keep: int) -> Tensor:
    """The definition: sort all magnitudes, ascending and stable, and keep the last `keep`."""
    order = torch.sort(scores.abs().reshape(-1), stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[scores.numel() - keep :]] = True
    return mask.view(scores.shape)


def by_counting(scores: list[float], keep: int) -> list[bool]:
    """The definition without a sort: an entry stays if fewer than `keep` others beat it."""
    ranks = [(inf if s != s else abs(s), s != s, i) for i, s in enumerate(scores)]
    return [sum(other > mine for other in ranks) < keep for mine in ranks]


def bits(scores: Tensor) -> Tensor:
    return scores.view(_BITS[scores.dtype]).flatten()


def sampled(scores: Tensor, keep: int) -> Tensor:
    return torch.from_numpy(cpu.select(bits(scores).numpy(), keep)).view(scores.shape)


def radix(scores: Tensor, keep: int) -> Tensor:
    return _select_torch(bits(scores), keep).view(scores.shape)


def agree(scores: Tensor, keep: int) -> None:
    """The front door, the CPU path and the GPU path (here on the CPU) against the sort."""
    expected = by_sorting(scores, keep)
    assert int(expected.sum()) == keep
    assert torch.equal(top_k_mask(scores, keep), expected)
    if 0 < keep < scores.numel():
        assert torch.equal(sampled(scores, keep), expected)
        assert torch.equal(radix(scores, keep), expected)


@pytest.fixture(params=["as it is", "by samples"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a few scores be sampled, and passed over in several blocks, as many are."""
    if request.param == "by samples":
        monkeypatch.setattr(cpu, "SMALL", 3)
        monkeypatch.setattr(cpu, "BLOCK", 7)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_equal_a_stable_sort_for_a_thousand_random_tied_and_special_tensors(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    for case in range(1000):
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


@settings(max_examples=300, deadline=None)
@given(
    scores=st.lists(st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, inf, nan]), min_size=1, max_size=40),
    share=st.floats(0, 1),
)
def test_masks_keep_what_fewer_than_keep_others_beat(scores: list[float], share: float) -> None:
    keep = round(share * len(scores))
    mask = top_k_mask(torch.tensor(scores), keep)
    assert mask.tolist() == by_counting(scores, keep)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_float32_bits_are_ranked_as_numpy_ranks_them(data: st.DataObject) -> None:
    words = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30))
    values = np.array(words, dtype=np.uint32).view(np.float32)
    values[np.isnan(values)] = np.nan  # a NaN is a NaN: which payload it carries must not matter to the sort
    keep = data.draw(st.integers(0, len(words)))
    expected = np.zeros(len(words), dtype=bool)
    expected[np.argsort(np.abs(values), kind="stable")[len(words) - keep :]] = True
    assert top_k_mask(torch.from_numpy(values), keep).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("keep", range(7))
def test_among_equals_the_later_index_stays(keep: int) -> None:
    assert top_k_mask(torch.tensor([1.0, -1, 1, -1, 1, -1]), keep).tolist() == [False] * (6 - keep) + [True] * keep


def test_ties_at_the_threshold_go_earliest_first_and_the_rest_stays() -> None:
    scores = torch.tensor([3.0, 1, -2, 2, 0, -2, 2, 5])
    assert top_k_mask(scores, 4).nonzero().flatten().tolist() == [0, 5, 6, 7]
    assert top_k_mask(scores, 3).nonzero().flatten().tolist() == [0, 6, 7]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_ranks_above_infinity_and_minus_zero_equals_zero(dtype: torch.dtype) -> None:
    assert top_k_mask(torch.tensor([nan, inf, 1, -inf, -nan], dtype=dtype), 2).tolist() == [
        True,
        *[False] * 3,
        True,
    ]
    assert top_k_mask(torch.tensor([0.0, -0.0, -0.0, 0.0], dtype=dtype), 2).tolist() == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neighbouring_numbers_are_told_apart(dtype: torch.dtype) -> None:
    for start in (0.0, 1.0, 3.0):
        here = torch.tensor(start, dtype=dtype)
        up = (here.view(_BITS[dtype]) + 1).view(dtype)  # the next larger number there is, subnormal after 0
        assert top_k_mask(torch.stack([up, here, here]), 1).tolist() == [True, False, False]


LAYOUTS = {
    "channels_last": lambda: torch.randn(4, 3, 5, 5).round(decimals=1).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(7, 9).round(decimals=1).t(),
    "every second": lambda: torch.randn(6, 10).round(decimals=1)[:, ::2],
    "offset": lambda: torch.randn(50).round(decimals=1)[3:45],
    "expanded": lambda: torch.randn(1, 6).expand(5, 6),
    "permuted": lambda: torch.randn(2, 3, 4).round(decimals=1).permute(2, 0, 1),
    "flipped view": lambda: torch.randn(3, 8).round(decimals=1)[::2].t(),
    "a dimension of one": lambda: torch.randn(5, 1, 4, 1).to(memory_format=torch.channels_last),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_does_not_change_the_mask(layout: str) -> None:
    scores = LAYOUTS[layout]()
    for keep in range(0, scores.numel() + 1, 3):
        agree(scores, keep)


def test_the_mask_is_laid_out_as_the_scores() -> None:
    scores = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    for keep in (0, 7, scores.numel()):
        assert top_k_mask(scores, keep).stride() == scores.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operator_keeps_the_contract_that_compile_and_export_rely_on(layout: str) -> None:
    scores = LAYOUTS[layout]()
    for keep in (0, scores.numel() // 2, scores.numel()):
        torch.library.opcheck(torch.ops.lit_hidden.top_k_mask, (scores, keep))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_scores_are_read_and_never_written(dtype: torch.dtype) -> None:
    scores = torch.randn(20, 10).to(dtype).round(decimals=1)
    before, version = scores.clone(), scores._version
    top_k_mask(scores, 77)
    radix(scores, 77)
    assert torch.equal(scores, before)
    assert scores._version == version


def test_the_mask_shares_no_memory_with_the_scores_or_another_mask() -> None:
    scores = torch.randn(10)
    first, second = top_k_mask(scores, 5), top_k_mask(scores, 5)
    first.fill_(False)
    assert int(second.sum()) == int(top_k_mask(scores, 5).sum()) == 5


def test_scores_that_want_a_gradient_give_a_mask_that_wants_none() -> None:
    assert not top_k_mask(torch.randn(10, requires_grad=True), 5).requires_grad


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1), (0,), (3, 0, 2)])
def test_single_and_empty_tensors_keep_all_or_nothing(shape: tuple[int, ...]) -> None:
    for keep in range(prod(shape) + 1):
        mask = top_k_mask(torch.ones(shape), keep)
        assert mask.shape == torch.Size(shape)
        assert int(mask.sum()) == keep


def test_the_gpu_path_asks_the_device_for_no_number() -> None:
    class Recorder(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    scores = bits(torch.randn(6, 9).round(decimals=1))
    with Recorder() as recorder:
        _select_torch(scores, 20)
    waits = {
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "unique",
        "_unique2",
    }
    assert "topk" in recorder.seen
    assert not waits & set(recorder.seen)
    with Recorder() as recorder:  # the recorder does see a number fetched
        int(scores.sum())
    assert "_local_scalar_dense" in recorder.seen


@pytest.mark.parametrize(("path", "name"), [(sampled, "numpy"), (radix, "torch")])
def test_a_million_scores_keep_exactly_as_many_as_asked(path: Callable[..., Tensor], name: str) -> None:
    scores = torch.randn(1_000_003).round(decimals=3)
    for keep in (1, 12_345, 500_001, 1_000_002):
        assert torch.equal(path(scores, keep), by_sorting(scores, keep)), name


@pytest.mark.parametrize(
    ("numel", "density", "expected"),
    [
        (100, 0.9, 91),  # int((1 - 0.9) * 100) = int(9.999...) = 9: the authors' float rounding, not 90
        (10, 0.9, 10),  # int(0.999...) = 0
        (1000, 0.9, 901),
        (100, 0.7, 70),  # int(30.000000000000004)
        (10, 0.3, 3),
        (10, 0.7, 7),
        (10, 0.1, 1),
        (100, 0.1, 10),
        (1728, 0.5, 864),
        (5, 0.5, 3),  # int(2.5) = 2 are dropped
        (1, 0.5, 1),
        (1, 1.0, 1),
        (7, 1.0, 7),
        (38_592, 0.3, 11_578),
        (0, 0.5, 0),
    ],
)
def test_kept_rounds_as_the_authors_do(numel: int, density: float, expected: int) -> None:
    assert kept(numel, density) == expected


def test_nine_of_a_hundred_are_dropped_at_density_nine_tenths() -> None:
    assert int((1 - 0.9) * 100) == 9
    assert int(top_k_mask(torch.randn(100), kept(100, 0.9)).sum()) == 91


@given(st.integers(1, 10**7), st.floats(0, 1, exclude_min=True))
def test_kept_lies_within_one_of_the_exact_fraction(numel: int, density: float) -> None:
    assert 0 <= kept(numel, density) <= numel
    assert abs(kept(numel, density) - density * numel) <= 1


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the passes over 200,000 scores: inside a bracket, above a threshold, and for those equal to it."""
    passes = dict.fromkeys(("_between", "_above", "_settle"), 0)

    def count(name: str) -> Callable[..., object]:
        real = getattr(cpu, name)

        def counting(bits: np.ndarray, *rest: object) -> object:
            passes[name] += bits.size >= 200_000
            return real(bits, *rest)

        return counting

    for name in passes:
        monkeypatch.setattr(cpu, name, count(name))
    return passes


RNG = np.random.default_rng(0)
ONCE = {"_between": 0, "_above": 1, "_settle": 1}
KINDS = {  # with the passes that each takes
    "random": (RNG.standard_normal(200_000), {"_between": 1, "_above": 0, "_settle": 0}),
    "90% zeros": (np.where(RNG.random(200_000) < 0.9, 0, RNG.standard_normal(200_000)), ONCE),
    "all equal": (np.full(200_000, 0.3), ONCE),
    # A fifth of them, the 80,000th to the 120,000th by size, are equal.
    "a tie beside the threshold": (np.r_[np.full(40_000, 1.0), np.arange(160_000) / 80_000], {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [100_000, 20_300, 199_000, 1])
def test_ties_take_at_most_two_passes(kind: str, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, usual = KINDS[kind]
    scores = torch.tensor(values, dtype=torch.float32)
    passes = counted(monkeypatch)
    assert torch.equal(top_k_mask(scores, keep), by_sorting(scores, keep))
    assert sum(passes.values()) <= 2
    if keep == 100_000 and usual:
        assert passes == usual


@pytest.mark.parametrize("keep", [80_200, 119_800])  # what a sample says is too near an end to leave the ties out
def test_ties_at_one_end_of_the_bracket_are_found_without_a_partition(
    keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, _ = KINDS["a tie beside the threshold"]
    scores = torch.tensor(values, dtype=torch.float32)
    passes = counted(monkeypatch)
    assert torch.equal(top_k_mask(scores, keep), by_sorting(scores, keep))
    assert passes == {"_between": 1, "_above": 0, "_settle": 1}


def test_a_sample_that_misleads_costs_time_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.standard_normal(200_000)
    values[:: max(8, 200_000 // cpu.SAMPLE) | 1] = 9  # all that the sample sees
    scores = torch.tensor(values, dtype=torch.float32)
    passes = counted(monkeypatch)
    for keep in (100_000, 30_000, 22_000, 1000):  # two of more than there are nines
        assert torch.equal(top_k_mask(scores, keep), by_sorting(scores, keep))
    assert passes["_above"] == 2 * 2 + 2


@pytest.mark.parametrize("keep", [150_000, 100_000, 50_000])
@pytest.mark.parametrize("seen", [(0.0, 0.1), (0.45, 0.55), (8.0, 9.0)])
def test_a_bracket_beside_the_threshold_or_of_nearly_all_is_no_guess(
    seen: tuple[float, float], keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.from_numpy(RNG.uniform(-1, 1, 200_000).astype(np.float32))
    numbers = np.array(seen, np.float32).view(np.int32)
    monkeypatch.setattr(cpu, "_bracket", lambda *_: (*numbers,))
    assert torch.equal(top_k_mask(scores, keep), by_sorting(scores, keep))
    monkeypatch.setattr(cpu, "_bracket", lambda *_: (np.int32(-1), np.int32(2**31 - 1)))
    assert cpu._between(bits(scores).numpy(), *cpu._bracket()) is None
    assert torch.equal(top_k_mask(scores, keep), by_sorting(scores, keep))


def test_kernels_that_fail_or_err_on_a_device_are_left_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = pytest.importorskip("lit_hidden.selection.gpu")
    device = torch.device("cpu")  # Triton's kernels cannot run here
    _kernels_work.cache_clear()
    with pytest.warns(UserWarning, match="selection on cpu uses torch.topk, which is slower: Triton failed: "):
        assert not _kernels_work(device)
    _kernels_work.cache_clear()
    monkeypatch.setattr(gpu, "select_triton", lambda raw, keep: _select_torch(raw, keep).roll(1))
    with pytest.warns(UserWarning, match=r"keep=500 of 1000 scores as torch.int32 gave another mask"):
        assert not _kernels_work(device)
    _kernels_work.cache_clear()
    monkeypatch.setattr(gpu, "select_triton", _select_torch)
    assert _kernels_work(device)
    _kernels_work.cache_clear()
