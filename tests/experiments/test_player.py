import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabricated
import numpy as np
import pytest
from fabricated import experiment

from experiments import _diagram as diagram
from experiments import _player as player
from lit_hidden.results import Results

simulated, fig2 = fabricated.simulated, experiment("fig2")
RUNS = fig2.runs("smoke")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    found: Results = fabricated.results(RUNS, tmp_path_factory.mktemp("runs"))
    return found


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return player.page(results)


def data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    parsed: dict[str, Any] = json.loads(found.group(1))
    return parsed


def bits(text: str, shape: tuple[int, ...]) -> np.ndarray:
    flat = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=int(np.prod(shape)))
    return flat.reshape(shape).astype(bool)


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    assert "{{" not in page
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttpRequest|import\(", page)
    assert len(page) < 300_000
    assert "<title>Edge-popup in the last layer of conv2 on digits, 50% of weights kept</title>" in page
    assert "prefers-reduced-motion" in page


def test_scores_choices_and_swaps_are_the_traces(page: str) -> None:
    for seed in data(page)["seeds"]:
        trace = simulated(seed["seed"])
        inside = (slice(None), *np.ix_(seed["outputs"], seed["inputs"]))
        edges, frames = len(seed["outputs"]) * len(seed["inputs"]), 25
        assert edges == 160
        scores = np.concatenate([trace["before"][:1], trace["after"]])[inside].reshape(frames, edges)
        quanta = np.frombuffer(base64.b64decode(seed["scores"]), "<i2").reshape(frames, edges)
        np.testing.assert_allclose(quanta * seed["scale"], scores, rtol=0, atol=seed["scale"] * 0.5001)
        assert np.abs(quanta).max() == 32767
        chosen = np.concatenate([trace["chosen_before"][:1], trace["chosen_after"]])[inside].reshape(frames, edges)
        np.testing.assert_array_equal(bits(seed["chosen"], (frames, edges)), chosen)
        flips = bits(seed["flips"], (frames, edges))
        assert not flips[0].any()
        np.testing.assert_array_equal(flips[1:], chosen[1:] ^ chosen[:-1])
        np.testing.assert_allclose(seed["weight"], trace["weight"][inside[1:]].ravel(), rtol=1e-3)
        assert seed["swapped"] == [0, *trace["swapped"]]
        assert seed["reentered"] == [0, *trace["reentered"]]
        assert seed["updates"] == list(range(25))
        swap = diagram.find_swap(trace)
        assert swap is not None
        assert {swap.entered[0], swap.died[0]} <= set(seed["outputs"]), "the swap that figure 2 draws"
        assert {swap.entered[1], swap.died[1]} <= set(seed["inputs"])
        gates = [diagram.threshold(s, c) for s, c in zip(trace["after"], trace["chosen_after"], strict=True)]
        assert seed["threshold"][1:] == pytest.approx(gates, rel=1e-3)


def test_accuracies_are_the_runs_and_a_random_mask_has_one(page: str, results: Results) -> None:
    curves = data(page)["curves"]
    for method in ("dense", "edge_popup"):
        steps, values = results.curve("test_top1", method=method)
        assert curves[method]["steps"] == steps.tolist()
        assert curves[method]["values"] == values.tolist()
    assert curves["random"]["values"] == [[10.0], [11.0], [12.0]]


def test_five_long_seeds_of_a_wide_layer_stay_below_two_megabytes_and_no_name_breaks_out(tmp_path: Path) -> None:
    trace = simulated(0, (10, 64), 600)
    trace |= {name: np.tile(trace[name], 65) for name in ("swapped", "reentered")}  # 39,000 updates, 600 recorded
    trace["step"] = np.linspace(0, 38_999, 600).round().astype(int)
    runs = [replace(run, seed=seed, net="a.b:</script><b>") for run in RUNS[::3] for seed in range(5)]
    text = player.page(fabricated.results(runs, tmp_path, dict.fromkeys(range(5), trace)))
    assert len(text) < 2_000_000
    assert "<b>" not in text
    seed = data(text)["seeds"][4]
    recorded = trace["step"][np.linspace(0, 599, player.FRAMES).round().astype(int)]
    assert seed["updates"] == [0, *(recorded + 1)], "thinned evenly, with their own numbers"
    assert seed["swapped"] == [0, *trace["swapped"][recorded]]
