"""Language: n-grams by hand, the grid, and claims that can hold, fail and stay open; a drawing that can be read."""

import csv
from pathlib import Path

import numpy as np
import pytest
from fabricated import drawn, grid, overlaps

from experiments import _language as nets
from experiments import _units, language
from experiments._ngrams import NGrams
from lit_hidden import build
from lit_hidden.callbacks import corpus
from lit_hidden.judge import judge
from lit_hidden.results import Results


def chance(symbols: list[int], size: int, order: int, context: list[int], after: int) -> float:
    """Interpolated Kneser-Ney as the books have it: recursive, by counting lists."""

    def counts(length: int) -> list[tuple[int, ...]]:
        """Grams as often as they count: at the highest order all, below each once for every symbol before it."""
        grams = [tuple(symbols[n : n + length]) for n in range(len(symbols) - length + 1)]
        if length == order:
            return grams
        # What stands at the start of the text has nothing before it; longer grams that do not fit do not count.
        return [gram[1:] for gram in sorted(set(counts(length + 1)))]

    def at(length: int) -> float:
        if length == 0:
            return 1 / size
        found = counts(length)
        kinds, history = sorted(set(found)), tuple(context[len(context) - length + 1 :])
        once, twice = (sum(found.count(kind) == n for kind in kinds) for n in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        total = sum(gram[:-1] == history for gram in found)
        if not total or len(context) < length - 1:
            return at(length - 1)
        different = sum(kind[:-1] == history for kind in kinds)
        own = max(found.count((*history, after)) - discount, 0)
        return (own + discount * different * at(length - 1)) / total

    return next(at(length) for length in range(order, 0, -1) if len(context) >= length - 1)


def number(context: list[int], size: int) -> int:
    return sum(symbol * size**back for back, symbol in enumerate(reversed(context)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_n_grams_are_those_of_the_books_and_their_probabilities_sum_to_1(order):
    symbols, size = [0, 1, 0, 2, 0, 1, 1, 0, 2, 2, 0, 1], 4  # 3 never comes
    model = NGrams(np.array(symbols), order, size)
    for context in ([0], [1, 0], [2, 2], [3], [3, 0], []):
        known = np.full(size, min(len(context), order - 1))
        found = model.chances(np.full(size, number(context, size)), np.arange(size), known)
        assert found.sum() == pytest.approx(1)
        expected = [chance(symbols, size, order, context[len(context) - known[0] :], n) for n in range(size)]
        assert found == pytest.approx(expected)


def test_a_bigram_done_by_hand_and_its_bits():
    """Of `abab c`: ab comes twice, ba and bc once; discount 2 / (2 + 2 * 1) = 0.5."""
    model = NGrams(np.array([0, 1, 0, 1, 2]), 2, 3)
    # How many symbols come before each: a 1, b 1, c 1; their discount is 3 / 3 = 1, which leaves the uniform 1/3.
    after_b = [0.5 / 2 + 0.5 * 2 / 2 / 3, 0.5 * 2 / 2 / 3, 0.5 / 2 + 0.5 * 2 / 2 / 3]
    assert model.chances(np.full(3, 1), np.arange(3), np.full(3, 1)) == pytest.approx(after_b)
    after_a = 1.5 / 2 + 0.5 / 2 / 3
    windows = np.array([[0, 1]]), np.array([[1, 2]])
    assert model.bits(*windows) == pytest.approx(-(np.log2(after_a) + np.log2(after_b[2])) / 2)
    assert model.write(np.array([0]), 5) == model.write(np.array([0]), 5)


def test_a_symbol_that_no_training_text_has_costs_bits_but_not_infinitely_many():
    text, new = np.array([0, 1] * 50), (np.array([[0, 2]]), np.array([[2, 0]]))
    for order in nets.ORDERS:
        assert 4 < NGrams(text, order, 128).bits(*new) < 50


def test_the_text_is_the_one_that_runs_are_held_to_and_content_not_path_names_runs(tmp_path, monkeypatch):
    assert nets.sha256() == corpus.source()[0]
    hashes = []
    for name, text in (("one.txt", "a b\n"), ("other.txt", "a b\n"), ("third.txt", "a c\n")):
        (tmp_path / name).write_text(text * 3_000)
        monkeypatch.setenv("DATA", str(tmp_path / name))
        assert nets.sha256() == corpus.source()[0]
        run = language.runs("smoke")[0]
        assert name not in run.to_json()
        hashes.append(run.hash)
    assert hashes[0] == hashes[1] != hashes[2]
    with pytest.raises(ValueError, match="12,000 characters, and this preset takes 294,912; give more text"):
        language.runs("quick")
    monkeypatch.setenv("DATA", "none.txt")
    with pytest.raises(ValueError, match=r"DATA=none\.txt cannot be read"):
        language.runs("smoke")


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_as_many_weights_are_kept_at_each_width_of_nets_whose_size_is_counted(preset):
    results = Results([(run, {}, None) for run in grid("language", preset)])
    kept = []
    for part in nets.as_many(results):
        (run, *_) = part.runs
        net = build(run.net, width=run.width, num_classes=128)
        own = sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1 and name != "token.weight")
        assert own == nets.weights(nets.layers(run), run.width)
        assert nets.units(run) == sum(len(block.norm1.weight) + len(block.widen.weight) for block in net.blocks)
        kept.append(own * float(run.density or 0))
        assert len(part.seeds) == len(part)
    assert kept == pytest.approx([kept[0]] * len(kept), rel=1e-4)


LEVELS = {  # bits where the claims hold and where they fail; a bigram has 3.7, six-grams 1.9
    "dense": (1.75, 3.0), "found": (1.65, 4.2), "learned": (1.5, 4.3), "learned_random": (3.0, 4.2),
    "random": (7.8, 4.0),
}  # fmt: skip


def results(case: int, spread: float = 0.01, folder: Path | None = None, bits: float = 0.0) -> Results:
    """Quick results where the claims hold (0) or fail (1)."""
    whole = Results([(run, {}, None) for run in grid("language", "quick")])
    arms = {run: name for name in nets.ARMS for run in nets.arm(whole, name).runs}
    many = {run: n for n, part in enumerate(nets.as_many(whole)) for run in part.runs}
    rows = []
    for n, run in enumerate(whole.runs):  # hashes differ between releases of Python
        noise = spread * float(np.random.default_rng(n).uniform(-1, 1))
        name = arms.get(run, "dense" if run.density is None else "found")
        noise *= 0.01 if name == "dense" else 1
        level = LEVELS[name][case]
        if run not in arms:  # other widths, depths and densities
            short = 3 * (1 - run.width) + (run.net[-1] == "1") + (run.density != 0.5) * (run.density is not None)
            level += (0.2 if case == 0 else -0.3) * (2 - many[run] if run in many else short)
        looks = (40.0, 10.0)[case] if name != "learned_random" else (10.0, 40.0)[case]
        rows.append((run, {
            "metric": "bits", "better": "lower", "unit": language.BITS, "bits": level + bits + noise,
            "previous": looks + 10 * noise, "untrained_previous": 6.0, "copying": 5.0, "untrained_copying": 2.0,
            "copied": (0.5, 0.0)[case] + noise, "parameters": (6554, 6554 + 500 * int(8 * run.width))[case],
        }, folder))  # fmt: skip
    made = Results(rows)
    made.reduce_by(language.reduce)
    return made


def judged(found: Results) -> list[str]:
    return [judge(claim, found, found.runs).verdict for claim in language.CLAIMS]


def test_claims_about_language_can_hold_fail_and_stay_open():
    assert set(judged(results(0))) == {"supported"}
    *failing, plateau = judged(results(1))
    assert set(failing) == {"contradicted"}
    assert plateau == "supported"
    noisy = [judge(claim, results(0, 25.0), results(0).runs) for claim in language.CLAIMS]
    assert {verdict.verdict for verdict in noisy if not verdict.every} == {"undecided"}
    assert all(np.isfinite(verdict.margin) for verdict in noisy)


def test_nothing_is_compared_where_the_trained_net_is_on_the_bigrams_plateau():
    found = dict(zip([claim.sentence for claim in language.CLAIMS], judged(results(0, bits=2.5)), strict=True))
    of_bits = [
        claim.sentence for claim in language.CLAIMS if claim.unit == language.BITS and "copies" not in claim.sentence
    ]
    alone = "the net trained is 0.1 bit better than a six-gram"
    *compared, control, plateau = (sentence for sentence in of_bits if sentence != alone)
    assert {found[sentence] for sentence in compared} == {"undecided"}
    assert [found[sentence] for sentence in (control, plateau, alone)] == ["supported", *["contradicted"] * 2]


def test_the_drawing_of_language_can_be_read_and_half_a_grid_is_drawn(tmp_path):
    written = ("Some $words$\x1b that a net has written. " * 8)[:264]
    np.savez(tmp_path / "text.npz", sample=np.frombuffer(written.encode(), np.uint8), prompt=64)
    whole = results(0, folder=tmp_path)
    figure = drawn(language, whole, "quick")
    assert not overlaps(figure)
    words = [text.get_text() for text in figure.texts]
    assert sum("that a net has written. Some $words$ that" in text for text in words) == len(nets.ARMS)
    bits = {round(float(y), 6) for line in figure.axes[0].get_lines() for y in line.get_ydata()}
    assert {round(nets.arm(whole, name).mean(), 6) for name in nets.ARMS} <= bits
    for keep in (lambda run: run.method == "dense", lambda run: run.width == 0.5, lambda run: run.seed == 0):
        part = Results(whole.where(keep).rows)
        part.reduce_by(language.reduce)
        drawn(language, part, "quick")


def test_what_is_drawn_of_published_nets_has_units_as_their_sources_count_them() -> None:
    lines = Path(str(_units.__file__)).with_name("_units.csv").read_text(encoding="utf-8").splitlines()
    rows = {row["name"]: row for row in csv.DictReader(lines)}
    for name, layers, states, behind in (("GPT-2", 48, 1600, 6400), ("GPT-3", 96, 12288, 49152),
                                         ("PaLM", 118, 18432, 73728)):  # fmt: skip
        assert float(rows[name]["units"]) == layers * (states + behind)
    assert all(row["source"] and (row["about"] == "about") == (row["kind"] == "brain") for row in rows.values())
