"""Rows, sections and turns: what follows from the numbers of each round."""

import json
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments.bench.page import judged, markdown, paint
from experiments.bench.rows import Section, timed, written

BENCH = Path(__file__).parents[3] / "experiments" / "results" / "bench"


def test_numbers_have_three_digits_or_all_before_the_point():
    numbers = (1234567.8, 1000, 99.96, 99.94, 12.345, 0.01234)
    assert [written(n) for n in numbers] == ["1,234,568", "1,000", "100", "99.9", "12.3", "0.0123"]


def test_a_ratio_is_of_the_same_round_as_long_as_both_were_measured():
    section = Section("steps", "cpu", "")
    section.add("ms", {"a": [2.0, 9.0, 5.0], "b": [1.0, 3.0]}, "net")
    section.add("ms", {"b": [100.0]}, "other")
    section.ratio("a", "b", "net")
    assert (section.rows[-1].rounds, section.rows[-1].group) == ((2.0, 3.0), "net")
    assert section.medians("a / b") == {"net": 2.5}
    assert section.medians("b") == {"net": 2.0, "other": 100.0}


def test_every_other_round_goes_backwards_and_what_is_slow_has_two(effort):
    asked: list[str] = []

    def measure(what: str, takes: float) -> float:
        asked.append(what)
        time.sleep(takes)
        return float(len(asked))

    measures = {what: lambda what=what, takes=t: measure(what, takes) for what, t in (("a", 0), ("b", 0.05), ("c", 0))}
    found = effort().turns("", measures, 3, slow=0.04)
    assert "".join(asked) == "abc" + "cba" + "ac"
    assert found == {"a": [1, 6, 7], "b": [2, 5], "c": [3, 4, 8]}


def test_a_call_is_timed_in_milliseconds_and_by_each_of_its_steps():
    assert 20 <= timed(lambda: time.sleep(0.02), 0) < 100
    assert 2 <= timed(lambda: time.sleep(0.02), 0, many=10) < 10


def test_a_section_is_shown_by_row_or_with_columns_by_group():
    section = Section("steps", "cpu", "about it", findings=["so"])
    section.add("ms", {"a": [3.0, 1.0, 2.0], "b": [4.0, 8.0]}, "x")
    section.ratio("b", "a", "x")
    head, *lines = markdown(section).splitlines()
    assert head == "## Steps, cpu"
    assert lines[3:] == [
        "| what | median | min | max | unit |", "| --- | ---: | ---: | ---: | ---: |",
        "| x: a | 2 | 1 | 3 | ms |", "| x: b | 6 | 4 | 8 | ms |", "| x: b / a | 4.67 | 1.33 | 8 | ratio |", "", "- so",
    ]  # fmt: skip
    section.columns = ("b", "b / a")
    assert "|  | b ms | b / a |\n| --- | ---: | ---: |\n| x | 6 | 4.67 |" in markdown(section)


@pytest.mark.parametrize(
    ("key", "device", "what", "numbers", "verdict"),
    [
        ("steps", "cpu", "hidden / dense", {"conv2": 1.08, "resnet50": 9}, "reached: cpu, conv2, hidden / dense 1.080"),
        ("steps", "cpu", "hidden / dense", {"conv2": 1.0801}, "missed: cpu, conv2, hidden / dense 1.080, at most 1.08"),
        ("steps", "cuda", "hidden / dense", {"conv8": 1.16}, "missed: cuda, conv8, hidden / dense 1.160, at most 1.15"),
        ("steps", "cpu", "plain / hidden", {"conv2": 3.5}, "reached: cpu, conv2, plain / hidden 3.500, at least 3.5"),
        ("steps", "cpu", "plain / hidden", {"conv4": 2.4}, "missed: cpu, conv4, plain / hidden 2.400, at least 2.5"),
        # Of several kinds or nets the worst counts; other sizes and the tiny net do not.
        (
            "selection", "cpu", "ours / pass",
            {"4.2 million, tied": 2.0, "4.2 million, random": 3.1, "25 million, tied": 9},
            "missed: cpu, 4.2 million, ours / pass 3.100, at most 3",
        ),
        ("epoch", "cpu", "Lightning's share", {"tiny net": 40, "conv2": 1.9, "conv4": 0.3}, "reached: cpu, conv"),
        ("input", "cpu", "ours / kornia", {"": 0.99}, "missed: cpu, ours / kornia 0.990, at least 1"),
        ("runs", "cuda", "100 epochs", {"conv2": 15.1}, "missed: cuda, conv2, 100 epochs 15.1, at most 15"),
    ],
)  # fmt: skip
def test_the_right_number_is_held_against_the_right_limit(key, device, what, numbers, verdict):
    section = Section(key, device, "")
    for group, number in numbers.items():
        section.add("", {what: [number - 0.5, number, number + 9]}, group)
    (said,) = judged([section]).findings
    assert said.startswith(verdict)
    section.key = "start"
    assert judged([section]).findings == [], "what was not measured has no verdict"


@pytest.mark.parametrize("key", ["selection", "steps", "input", "epoch", "start"])
def test_a_panels_numbers_are_the_medians(key):
    (found,) = (s for s in json.loads((BENCH / "bench.json").read_text())["sections"] if s["section"] == key)
    section, axes = Section(key, "cpu", ""), Figure().subplots()
    for row in found["rows"]:
        section.add(row["unit"], {row["what"]: row["rounds"]}, row.get("group", ""))
    paint(axes, "tied" if key == "selection" else key, section)
    kept = {
        "selection": lambda row: row["what"] == "ours / pass" and row["group"].endswith("tied"),
        "steps": lambda row: row["what"] in ("hidden / dense", "plain / hidden"),
        "input": lambda row: row["unit"] == "images/s",
        "epoch": lambda row: row["unit"] == "%",
        "start": lambda row: row["unit"] == "s",
    }[key]
    shown = sorted(float(text.get_text().replace(",", "")) for text in axes.texts)
    assert shown == pytest.approx(sorted(row["median"] for row in found["rows"] if kept(row)), rel=0.006)
