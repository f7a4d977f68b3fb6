"""The kernels run in Triton's interpreter on the CPU, are compiled where no GPU is, and run on one where there is."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no package for this platform")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="runs on a CUDA device")

ROOT = Path(__file__).parent.parent
POINTERS = {torch.int32: "*i32", torch.bool: "*i1"}
Select = Callable[[Tensor, list[int]], list[Tensor]]

# Triton must see TRITON_INTERPRET before it is imported, and torch's compiler in this process must not: a child it is.
# Its blocks are half of the real ones, so that few scores make several blocks: the interpreter is slow.
CHILD = """
import pickle, sys
from lit_hidden.selection import gpu
gpu._OPTIONS["BLOCK"] = 1024
while request := sys.stdin.buffer.peek(1):
    scores, keeps = pickle.load(sys.stdin.buffer)
    pickle.dump([gpu.select_triton(scores, keep) for keep in keeps], sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


def older(name: str, version: str) -> bool:
    return [int(part) for part in metadata.version(name).split(".")[:2]] < [int(part) for part in version.split(".")]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Select]:
    """Call `select_triton` in a process where Triton interprets its kernels."""
    if older("triton", "3.7") and not older("numpy", "2.4"):
        pytest.skip("Triton's interpreter before 3.7 takes int() of arrays, which numpy refuses from 2.4 on")
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def select(scores: Tensor, keeps: list[int]) -> list[Tensor]:
            pickle.dump((scores.view(torch.int32), keeps), child.stdin)
            child.stdin.flush()
            return pickle.load(child.stdout)

        yield select
        child.stdin.close()
        assert child.wait() == 0


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """List what `select_triton` launches, as (kernel, arguments, keywords), launching nothing."""
    import triton

    from lit_hidden.selection.gpu import select_triton

    seen: list[tuple[Any, Any, Any]] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        seen.append((kernel, args, keywords))

    monkeypatch.setattr(triton.JITFunction, "run", run)
    select_triton(torch.zeros(73_728, dtype=torch.int32), 36_864)
    return seen


def by_ranking(scores: Tensor, keep: int) -> Tensor:
    """The definition: rank by magnitude's bits, then by index, in numpy; the last `keep` stay."""
    bits = scores.cpu().view(torch.int32).numpy() & (2**31 - 1)
    mask = np.zeros(bits.size, dtype=bool)
    mask[np.lexsort((np.arange(bits.size), bits))[bits.size - keep :]] = True
    return torch.from_numpy(mask)


KINDS: dict[str, Callable[[int], Tensor]] = {
    "uniform": lambda n: torch.rand(n) * 2 - 1,
    "normal": lambda n: torch.randn(n),
    "a few values": lambda n: torch.randint(-3, 4, (n,)).float(),
    "90% zeros": lambda n: torch.randn(n) * (torch.rand(n) > 0.9) * (torch.randint(0, 2, (n,)) * 2 - 1),
    "all equal": lambda n: torch.full((n,), -0.37),
    "all zero": lambda n: torch.zeros(n),
    "special": lambda n: torch.tensor([0.0, -0.0, 1e-45, -6e-8, 1.0, 65504.0, -3e38, inf, -inf, nan, -nan]).repeat(
        n // 11 + 1
    )[:n],
}


def test_every_count_of_a_few_scores(interpreted: Select) -> None:
    scores = torch.tensor([0.5, -0.25, nan, 0.5, -inf, -0.5, 0.0])
    for keep, mask in enumerate(interpreted(scores, [*range(1, 7)]), 1):
        assert mask.tolist() == by_ranking(scores, keep).tolist(), keep


@pytest.mark.parametrize("kind", ["a few values", "all zero", "special"])
def test_a_thousand_scores_of_every_kind(interpreted: Select, kind: str) -> None:
    scores, keeps = KINDS[kind](1000), [50, 501, 900]
    for keep, mask in zip(keeps, interpreted(scores, keeps), strict=True):
        assert torch.equal(mask, by_ranking(scores, keep)), keep


@pytest.mark.parametrize("kind", ["90% zeros", "all equal"])
def test_several_blocks_and_several_programs_and_ties_split_at_their_ends(interpreted: Select, kind: str) -> None:
    # They are 7 blocks of 1024 for 4 programs of 2: the last program has one, and that is not full.
    scores, keeps = KINDS[kind](6251), [312, 3125, 6251 - 1024, 6251 - 4096]
    for keep, mask in zip(keeps, interpreted(scores, keeps), strict=True):
        assert torch.equal(mask, by_ranking(scores, keep)), keep


def test_neighbouring_numbers_and_nans_of_any_payload_are_told_apart(interpreted: Select) -> None:
    for high in (1, 512, 2**31 - 1):  # across the border of digits too
        scores = torch.tensor([high, high - 1, high], dtype=torch.int32)  # raw bits do for the scores
        assert interpreted(scores, [2])[0].tolist() == [True, False, True], high


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_a_gpu_that_is_not_here(
    launches: Any, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert [kernel.__name__ for kernel, _, _ in launches] == ["_count"] * 4 + ["_mark"], "one launch for each digit"
    for kernel, args, keywords in launches:
        values = dict(zip(kernel.arg_names, args, strict=False)) | keywords
        constants = {p.name: values[p.name] for p in kernel.params if p.is_constexpr}
        signature = {
            p: "constexpr" if p in constants else POINTERS[values[p].dtype] if isinstance(values[p], Tensor) else "i32"
            for p in kernel.arg_names
        }
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, p in enumerate(kernel.arg_names)
            if isinstance(values[p], Tensor) or p == "n"
        }
        options = {k: v for k, v in keywords.items() if k not in kernel.arg_names}
        source = ASTSource(kernel, signature, constants, aligned)
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]


@gpu
@pytest.mark.parametrize("n", [2, 1728, 2048, 2049, 36_864, 589_824, 4_200_000, 40_000_003])
def test_masks_on_a_gpu(n: int) -> None:
    from lit_hidden.selection.gpu import select_triton

    for kind, make in KINDS.items():
        raw = make(n).cuda().view(torch.int32)
        order = torch.sort(raw & (2**31 - 1), stable=True).indices
        for keep in {1, max(1, n // 20), n // 2, n - 1}:
            expected = torch.zeros(n, dtype=torch.bool, device="cuda")
            expected[order[n - keep :]] = True
            assert torch.equal(select_triton(raw, keep), expected), (kind, keep)


@gpu
@pytest.mark.parametrize("n", [2560, 36_864, 4_200_000])
def test_a_graph_on_a_gpu_selects_again_from_what_the_scores_have_become(n: int) -> None:
    from lit_hidden.selection.gpu import select_triton

    scores, keep = torch.randn(n, device="cuda"), n // 3
    select_triton(scores.view(torch.int32), keep)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask = select_triton(scores.view(torch.int32), keep)
    for kind in ("normal", "90% zeros", "all equal", "special", "uniform"):
        scores.copy_(KINDS[kind](n))
        graph.replay()
        assert torch.equal(mask.cpu(), by_ranking(scores, keep)), kind


@gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_on_a_gpu_nothing_waits_for_it() -> None:
    from lit_hidden.selection.gpu import select_triton

    for n in (1728, 589_824):
        scores = torch.randn(n, device="cuda").view(torch.int32)
        select_triton(scores, n // 2)
        torch.cuda.set_sync_debug_mode("error")
        try:
            select_triton(scores, n // 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
