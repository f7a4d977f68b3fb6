"""`lit-hidden reproduce fig2 --preset smoke`, as a user runs it, and once more."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lit_hidden.cli import main

ROOT = Path(__file__).parent.parent


def arguments(name: str, work: Path, *options: str) -> list[str]:
    folders = ["--runs-dir", str(work / "runs"), "--out", str(work / "results")]
    return ["reproduce", name, "--preset", "smoke", "--devices", "1", *folders, *options]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    work = tmp_path_factory.mktemp("reproduce")
    settings = {"WANDB_MODE": "offline", "WANDB_DIR": str(work), "WANDB_DATA_DIR": str(work), "COLUMNS": "160"}
    command = [sys.executable, "-m", "lit_hidden", *arguments("fig2", work)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | settings, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return work, done.stdout


@pytest.fixture
def again(monkeypatch, capsys):
    """Reproduce in this process, and return what it prints."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "160")

    def run(name: str, work: Path, *options: str) -> str:
        main(arguments(name, work, *options))
        return capsys.readouterr().out

    return run


def test_figure_2_writes_its_folder_and_says_where(first):
    work, printed = first
    target = work / "results" / "fig2" / "smoke"
    assert sorted(p.name for p in target.iterdir()) == [
        "figure.html", "figure.png", "figure.svg", "results.csv", "verdicts.json"
    ]  # fmt: skip
    for path in target.iterdir():
        assert str(path) in printed
        assert path.stat().st_size > 0
    assert "9 runs: 0 done, 9 to train" in printed
    assert "9/9" in printed


def test_the_exact_claims_are_supported_even_by_a_smoke_run(first):
    judged = json.loads((first[0] / "results" / "fig2" / "smoke" / "verdicts.json").read_text())
    assert judged["preset"] == "smoke"
    assert "digits" in judged["conditions"]
    assert "2 of 100 epochs" in judged["conditions"]
    verdicts = {claim["sentence"]: claim["verdict"] for claim in judged["claims"]}
    assert len(verdicts) == 4
    for word in ("stays", "weight", "re-enter"):
        (exact,) = (v for sentence, v in verdicts.items() if word in sentence and "random" not in sentence)
        assert exact == "supported"


def test_the_table_holds_every_run_with_its_provenance_and_wandb_shows_it(first):
    work, _ = first
    with (work / "results" / "fig2" / "smoke" / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 9
    assert {row["method"] for row in table} == {"edge_popup", "dense", "random"}
    for row in table:
        result = json.loads((work / "runs" / row["run"] / "result.json").read_text())
        assert float(row["accuracy"]) == result["accuracy"]
        assert all(row[column] for column in ("seconds", "device", "finished", "torch", "python"))
        assert row["method"] == "dense" or row["weights_before"] == row["weights_after"]
    shown = [folder.name.rsplit("-", 1)[1] for folder in (work / "wandb").glob("offline-run-*")]
    assert {row["run"] for row in table} <= set(shown)
    assert len(shown) >= 10  # and a summary


def test_a_second_call_trains_nothing_and_draws_the_same_bytes(first, again):
    work, _ = first
    target = work / "results" / "fig2" / "smoke"
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    assert "9 runs: 9 done, 0 to train" in again("fig2", work)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before


def test_figure_1_uses_the_runs_of_figure_2(first, again):
    assert re.search(r"\d runs: (\d) done, 0 to train", again("fig1", first[0]))
    assert (first[0] / "results" / "fig1" / "smoke" / "figure.svg").exists()


def test_a_dry_run_prints_the_grid_and_trains_nothing(again, tmp_path, capsys):
    assert again("fig2", tmp_path, "--dry-run").count("to train  ") == 9
    assert not any(tmp_path.iterdir())
    with pytest.raises(SystemExit) as end:
        again("fig2", tmp_path, "--devices", "0")
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("lit-hidden: --devices 0, --per-run 1: give 1 or ")
