"""Theorem 1's experiment: its grid, claims that can hold and can fail, a drawing that can be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import drawn, experiment, overlaps
from matplotlib.figure import Figure

from lit_hidden.callbacks.swaps import KINDS, RATES, summary
from lit_hidden.judge import judge
from lit_hidden.results import Results
from lit_hidden.run import Run

theorem = experiment("theorem")
STEPS, LAYERS, SWAPPING = 10, 4, RATES[3:]  # nothing swaps at the smallest rates

Falls = Callable[[Run, str, float, int], bool]


def all_fall(run: Run, kind: str, rate: float, n: int) -> bool:
    return True


def as_the_theorem_says(run: Run, kind: str, rate: float, n: int) -> bool:
    """At first only narrow nets fail, now and then; at large rates many swaps at once do."""
    if kind == "first":
        return n % 40 >= 0.25 / run.width - 1 + run.seed % 2
    return n % 40 >= {"pair": 3, "unit": 3, "layer": 12, "network": 24}[kind] * rate * (1 + 0.2 * run.seed)


def measured(runs: list[Run], folder: Path, falls: Falls | None, **changes: np.ndarray) -> Results:
    """Write what the engine writes: each kind of swap at each step, layer and rate, of which the n-th falls or not."""
    rows = []
    for run in (run.resolved for run in runs):
        table = []
        for k, kind in enumerate(KINDS):
            layers = [-1] if kind == "network" else range(LAYERS)
            cells = [(step, layer) for step in range(STEPS) for layer in layers]
            for rate in (0.02,) if kind == "first" else SWAPPING:
                for n, (step, layer) in enumerate(cells):
                    size = 1e-3 * (1 + n) * rate
                    change = -size if (falls or all_fall)(run, kind, rate, n) else 0.2 * size
                    swaps = 1 if kind in ("first", "pair", "unit") else round(1 + 100 * rate)
                    table.append((step, k, layer, rate, swaps, 0, kind == "unit", -size, change))
        names = ("step", "kind", "layer", "rate", "swaps", "flips", "same_unit", "predicted", "measured")
        arrays = dict(zip(names, map(np.array, zip(*table, strict=True)), strict=True))
        for name, column in changes.items():
            arrays[name] = np.resize(column, len(table))
        arrays = {name: column if falls else column[:0] for name, column in arrays.items()}
        where = folder / run.hash
        where.mkdir(parents=True)
        np.savez(where / "swaps.npz", **arrays)
        rows.append((run, {"accuracy": 50.0, **summary(arrays, LAYERS)}, where))
    return Results(rows)


def drawing(results: Results, preset: str) -> Figure:
    figure: Figure = drawn(theorem, results, preset)
    return figure


def contrary(run: Run, kind: str, rate: float, n: int) -> bool:
    if kind == "first":
        return n % 40 >= 10 + 20 * run.width + run.seed % 2
    return n % 40 < {"pair": 5, "unit": 5, "layer": 30, "network": 20}[kind] * rate * (1 + 0.1 * run.seed) + 2


UPHILL = np.where(np.arange(1000) == 17, 1.0, -1.0)  # one swap that first order does not expect to lower the loss


@pytest.mark.parametrize(
    ("falls", "changes", "expected"),
    [
        (as_the_theorem_says, {}, ["supported"] * 6),
        (contrary, {"predicted": UPHILL}, ["contradicted"] * 6),
        (all_fall, {}, ["supported", *["undecided"] * 5]),  # no interval has a width
        (None, {}, ["undecided"] * 6),  # nothing swaps
        (all_fall, {"predicted": UPHILL, "flips": UPHILL > 0}, ["supported", *["undecided"] * 5]),  # a changed sign
    ],
)
def test_claims_follow_the_swaps(falls: Any, changes: Any, expected: list[str], tmp_path: Path) -> None:
    found = measured(theorem.runs("quick"), tmp_path, falls, **changes)
    assert [judge(claim, found).verdict for claim in theorem.CLAIMS] == expected


def test_shares_and_trends_are_those_of_the_rows(tmp_path: Path) -> None:
    assert theorem.KINDS == KINDS
    results = measured(theorem.runs("smoke")[:1], tmp_path, lambda run, kind, rate, n: n % 4 != 0 or rate < 0.1)
    rows = theorem.table(results)
    pair = rows["kind"] == KINDS.index("pair")
    assert theorem.share(results, "pair") == pytest.approx(100 * (rows["measured"][pair] < 0).mean())
    assert theorem.counts(results, "pair").tolist() == [[0] * 3 + [40] * 6, [0] * 3 + [40] * 3 + [30] * 3]


def test_a_trend_is_within_a_layer_at_a_step_and_not_between_layers(tmp_path: Path) -> None:
    # Layer 0 never falls and swaps at large rates alone; layer 1 always falls, at small rates alone; 2 falls at 0.1.
    results = measured(theorem.runs("smoke")[:1], tmp_path, all_fall)
    folder = results.rows[0][2] or tmp_path
    rows = theorem.table(results)
    pair, large = rows["kind"] == KINDS.index("pair"), rows["rate"] >= 0.1

    def trend(keep: np.ndarray, measured: np.ndarray) -> float:
        kept = {name: column[pair & keep] for name, column in (rows | {"measured": measured}).items()}
        np.savez(folder / "swaps.npz", **kept)
        return theorem.trend(results, "pair")

    of = (rows["layer"] < 2) & ((rows["layer"] == 0) == large)
    assert trend(of, np.where(rows["layer"] == 0, 1.0, -1.0)) == 0
    assert np.isnan(trend(rows["rate"] == 0.1, rows["measured"])), "one rate has no trend"
    slope = np.polyfit(np.log10(SWAPPING), [100] * 3 + [0] * 3, 1)[0]
    assert trend(pair, np.where(large, 1.0, -1.0)) == pytest.approx(-slope)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return measured(theorem.runs("quick"), tmp_path_factory.mktemp("runs"), as_the_theorem_says)


@pytest.fixture(scope="module")
def figure(results: Results) -> Figure:
    return drawing(results, "quick")


def test_the_points_are_the_shares_and_no_text_lies_on_another(figure: Figure, results: Results) -> None:
    assert overlaps(figure) == []
    lines = {c.get_label(): np.asarray(c.lines[0].get_ydata(), float) for c in figure.axes[0].containers}
    assert set(lines) == {look.label for look in theorem.LOOKS.values()}
    for kind in KINDS:
        asked, fell = theorem.counts(theorem.widest(results), kind)
        np.testing.assert_allclose(lines[theorem.LOOKS[kind].label], 100 * fell[asked > 0] / asked[asked > 0])
    widths = [theorem.share(results.select(width=width), "first") for width in (0.0625, 0.125, 0.25)]
    np.testing.assert_allclose(figure.axes[3].containers[0].lines[0].get_ydata(), widths)
    expected = [round(1 + 100 * rate) * STEPS / 10 for rate in SWAPPING]  # of 10 steps; at others nothing would swap
    for line in figure.axes[1].lines[:2]:
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), expected)


def test_runs_in_which_nothing_swaps_or_of_one_width_are_drawn_too(tmp_path: Path) -> None:
    figure = drawing(measured(theorem.runs("smoke"), tmp_path / "still", None), "smoke")
    assert figure.texts[0].get_text() == "At no step would any learning rate have swapped an edge."
    begun = drawing(measured(theorem.runs("quick")[:1], tmp_path / "begun", all_fall), "quick")
    assert overlaps(figure) == overlaps(begun) == []
