"""Rows and sections: what follows from the numbers of each round."""

import io

import pytest
import torch
from rich.console import Console

from lit_hidden.engine.bench.rows import Effort, Row, Section, each, interleaved, one_thread, ratio, written


def test_a_row_shows_its_numbers_and_its_group():
    row = Row("this", "ms", (3.0, 1.0, 2.0))
    assert row.cells == ("this", "2", "1", "3", "ms")
    assert Row("this", "ms", (1.0, 2.0), "conv2").cells == ("conv2: this", "1.5", "1", "2", "ms")


def test_numbers_have_three_digits_or_all_before_the_point():
    numbers = (1234567.8, 1000, 99.96, 99.94, 12.345, 0.01234)
    assert [written(n) for n in numbers] == ["1,234,568", "1,000", "100", "99.9", "12.3", "0.0123"]


def test_a_ratio_is_of_the_same_round_as_long_as_both_were_measured():
    found = ratio("a / b", Row("a", "ms", (2.0, 9.0, 5.0), "net"), Row("b", "ms", (1.0, 3.0), "net"))
    assert found == Row("a / b", "ratio", (2.0, 3.0), "net")


def test_every_other_round_goes_from_the_last_to_the_first():
    asked: list[str] = []
    measures = {what: lambda number, what=what: asked.append(f"{what}{number}") or float(number) for what in "abc"}
    found = interleaved(measures, 3, "", Console(file=io.StringIO()))
    assert asked == ["a0", "b0", "c0", "c1", "b1", "a1", "a2", "b2", "c2"]
    assert found == dict.fromkeys("abc", (0.0, 1.0, 2.0))


@pytest.mark.parametrize(("each", "rounds"), [(1.0, 8), (0.5, 16), (0.0, 40), (100.0, 5)])
def test_short_rounds_are_more_and_long_ones_enough(each, rounds):
    assert Effort(0.5, 5, Console()).enough(16, each) == rounds


def test_what_takes_long_has_few_rounds():
    assert [Effort(1.0, rounds, Console()).few for rounds in (1, 3, 5)] == [1, 3, 3]


def test_work_is_done_once_at_least_and_then_until_the_time_is_over(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    done: list[int] = []
    assert each(lambda: done.append(1), torch.device("cpu")) == 2.0  # asked at 0, 1 and 2
    assert len(done) == 1
    assert each(lambda: done.append(1), torch.device("cpu"), 3.0) == 4 / 3  # at 3, then 4, 5, 6 and 7
    assert len(done) == 4


def test_a_section_is_shown_by_its_rows_unless_it_has_a_table():
    rows = [Row("a", "ms", (1.0,), "x"), Row("b", "ms", (2.0,)), Row("a", "ms", (3.0,), "y")]
    section = Section("title", "about", rows, [])
    assert section.shown == [("what", "median", "min", "max", "unit"), *(row.cells for row in rows)]
    assert Section("title", "about", rows, [], table=[("a",), ("1",)]).shown == [("a",), ("1",)]
    assert section.groups() == ["x", "y"]
    assert (section.find("a", "y"), section.find("a")) == (rows[2], None)


def test_one_thread_is_taken_and_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError), one_thread():  # noqa: PT012
            assert torch.get_num_threads() == 1
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
