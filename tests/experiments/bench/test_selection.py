"""The bench of selection: every way it compares finds what it says."""

import pytest
import torch

from experiments.bench.selection import KINDS, scores_of, ways
from lit_hidden.selection import top_k_mask

EXACT, REACHING = {"ours", "sort", "topk"}, {"kthvalue", "partition"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [101, 1000])
def test_the_ways_give_the_mask_or_all_that_reaches_the_threshold(kind, size):
    scores = scores_of(kind, size)
    keep = size // 2
    threshold = scores.abs().sort().values[size - keep]
    found = ways(scores, keep)
    assert found.keys() == EXACT | REACHING | {"pass", "copy"}
    for way in EXACT:
        mask = found[way]()
        assert (mask.dtype, int(mask.sum())) == (torch.bool, keep)
        assert bool((scores.abs()[mask] >= threshold).all())
        assert bool((scores.abs()[~mask] <= threshold).all())
    for way in REACHING:
        assert torch.equal(found[way](), scores.abs() >= threshold)
    assert torch.equal(found["ours"](), top_k_mask(scores, keep))


def test_a_pass_reads_scores_and_writes_a_mask_that_is_there():
    scores = scores_of("random", 1000)
    found = ways(scores, 500)
    first = found["pass"]()
    assert torch.equal(first, scores >= scores.abs().median())
    assert found["pass"]().data_ptr() == first.data_ptr()
    assert torch.equal(found["copy"](), scores)
    assert found["copy"]().data_ptr() not in (scores.data_ptr(), first.data_ptr())


def test_scores_are_of_the_kind_they_are_called():
    random, tied, zeros = (scores_of(kind, 20_000) for kind in KINDS)
    assert random.abs().max() <= 1
    assert len(random.unique()) > 19_000
    assert tied.abs().unique().tolist() == [float(n) for n in range(16)]
    assert 0.89 < float((zeros == 0).float().mean()) < 0.91
    assert torch.equal(random, scores_of("random", 20_000))
