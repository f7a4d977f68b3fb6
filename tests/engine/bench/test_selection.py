"""The bench of selection: every way it compares finds what it says."""

import pytest
import torch

from lit_hidden.engine.bench import selection
from lit_hidden.engine.bench.selection import KINDS, scores_of, ways
from lit_hidden.selection import top_k_mask

EXACT, REACHING = {"ours", "sort", "topk"}, {"kthvalue", "partition"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [101, 1000])
def test_the_ways_give_the_mask_or_all_that_reaches_the_threshold(kind, size):
    scores = scores_of(kind, size)
    keep = size // 2
    threshold = scores.abs().sort().values[size - keep]
    found = ways(scores, keep)
    assert found.keys() == EXACT | REACHING | {"pass", "torch.ge", "copy"}
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
    one, other, copy = found["pass"], found["torch.ge"], found["copy"]
    first = one()
    assert torch.equal(first, scores >= scores.abs().median())
    assert one().data_ptr() == first.data_ptr() == other().data_ptr()
    assert torch.equal(first, scores >= scores.abs().median())
    assert torch.equal(copy(), scores)
    assert copy().data_ptr() not in (scores.data_ptr(), first.data_ptr())


def test_scores_are_of_the_kind_they_are_called():
    random, tied, zeros = (scores_of(kind, 20_000) for kind in KINDS)
    assert random.abs().max() <= 1
    assert len(random.unique()) > 19_000
    assert tied.abs().unique().tolist() == [float(n) for n in range(16)]
    assert 0.89 < float((zeros == 0).float().mean()) < 0.91
    assert torch.equal(random, scores_of("random", 20_000))
    with pytest.raises(ValueError, match=r"^kind='all' is unknown; kinds are random, tied, 90% zeros$"):
        scores_of("all", 3)


def test_what_is_slow_has_two_rounds_and_its_ratios_are_of_those(monkeypatch, effort):
    # A sort takes 7 s, ours 1; a second is enough for a measurement.
    took = {"pass": 0.5, "torch.ge": 0.8, "copy": 0.4, "ours": 1.0, "sort": 7.0}
    monkeypatch.setattr(selection, "ways", lambda scores, keep: took)
    monkeypatch.setattr(selection, "each", lambda work, *_: work)
    rows = selection._of(1000, "random", effort(seconds=1.0, rounds=5), torch.device("cpu"))
    assert {(row.what, row.rounds) for row in rows} == {
        ("pass", (500.0,) * 5), ("torch.ge", (800.0,) * 5), ("copy", (400.0,) * 5), ("ours", (1000.0,) * 5),
        ("sort", (7000.0,) * 2), ("ours / pass", (2.0,) * 5), ("ours / torch.ge", (1.25,) * 5),
        ("ours / copy", (2.5,) * 5), ("sort / ours", (7.0,) * 2), ("sort / pass", (14.0,) * 2),
    }  # fmt: skip
    assert {row.group for row in rows} == {"0.001 million, random"}
