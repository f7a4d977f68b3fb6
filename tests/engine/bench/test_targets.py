"""Targets: the right number is held against the right limit."""

import pytest

from lit_hidden.engine.bench.rows import Row, Section
from lit_hidden.engine.bench.targets import TARGETS, judged


def section(key: str, rows: list[Row], device: str = "cpu") -> Section:
    return Section("title", "about", rows, [], key, device)


def ratio(what: str, number: float, group: str = "") -> Row:
    return Row(what, "ratio", (number - 0.5, number, number + 9), group)


def verdicts(*sections: Section) -> list[tuple[str, ...]]:
    found = judged([*sections])
    return found.table[1:] if found else []


@pytest.mark.parametrize(
    ("here", "verdict"), [(1.08, "reached"), (1.0801, "missed"), (0.9, "reached")]
)  # fmt: skip
def test_a_number_at_most_the_limit_is_reached(here, verdict):
    (line,) = verdicts(section("steps", [ratio("hidden / dense", here, "conv2")]))
    assert line == ("cpu", "conv2: hidden / dense step", f"{here:.3f}", "at most 1.08", verdict)


@pytest.mark.parametrize(("here", "verdict"), [(3.5, "reached"), (3.49, "missed")])
def test_a_number_at_least_the_limit_is_reached(here, verdict):
    (line,) = verdicts(section("steps", [ratio("plain / hidden", here, "conv2")]))
    assert line == ("cpu", "conv2: plain / hidden step", f"{here:.3f}", "at least 3.5", verdict)


def test_each_net_and_device_has_its_limit():
    rows = [ratio("hidden / dense", 1.1, f"conv{depth}") for depth in (2, 4, 6, 8)]
    assert [line[-2:] for line in verdicts(section("steps", rows))] == [
        ("at most 1.08", "missed"), *[("at most 1.05", "missed")] * 3
    ]  # fmt: skip
    assert [line[0] for line in verdicts(section("steps", rows, "cuda"))] == ["cuda"] * 4
    assert [line[-2:] for line in verdicts(section("steps", rows, "cuda"))] == [("at most 1.15", "reached")] * 4


def test_the_worst_kind_and_the_worst_net_count():
    kinds = {"4.2 million, random": 2.0, "4.2 million, tied": 3.1, "25 million, tied": 9.0, "2.4 million, tied": 8.0}
    passes = section("selection", [ratio("ours / pass", number, kind) for kind, number in kinds.items()])
    shares = section("epoch", [ratio("Lightning's share", share, net) for net, share in (("conv2", 1.9), ("c", 0.3))])
    passes.rows.extend(ratio("ours / copy", number, kind) for kind, number in (("4.2 million, tied", 1.5), ("25", 7)))
    found = {line[1]: line[2:] for line in verdicts(passes, shares)}
    assert found["selection of 4.2 million, worst kind, copies"] == ("1.500", "at most 3", "reached")
    assert found["selection of 4.2 million, worst kind, passes"] == ("3.100", "at most 3", "missed")
    assert found["Lightning's share of a step, worst net, %"] == ("1.900", "at most 2", "reached")


def test_faster_than_kornia_is_reached_above_one():
    (line,) = verdicts(section("input", [ratio("ours / kornia", 0.99), ratio("ours / other", 0.1)]))
    assert line[2:] == ("0.990", "at least 1", "missed")


def test_what_was_not_measured_has_no_line():
    assert judged([section("steps", [ratio("hidden / dense", 1.0, "resnet50")])]) is None
    assert judged([]) is None
    some = judged([section("steps", [ratio("hidden / dense", 1.0, "conv2"), ratio("plain / hidden", 1.0, "conv4")])])
    assert (some.findings, len(some.rows)) == (["1 of 2 reached"], 2)


def test_the_targets_are_those_of_the_project():
    assert len(TARGETS) == 4 + 2 + 4 + 4 + 3
    assert {target.limit for target in TARGETS if target.least} == {3.5, 2.5, 1}
