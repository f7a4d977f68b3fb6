"""`lit-hidden reproduce fig2 --preset smoke`, as a user runs it, and once more."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def reproduce(name: str, work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    settings = {"WANDB_MODE": "offline", "WANDB_DIR": str(work), "WANDB_DATA_DIR": str(work), "COLUMNS": "160"}
    command = [sys.executable, "-m", "lit_hidden", "reproduce", name, "--preset", "smoke", "--devices", "1"]
    command += ["--runs-dir", str(work / "runs"), "--out", str(work / "results"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | settings, check=False, timeout=280
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    work = tmp_path_factory.mktemp("reproduce")
    done = reproduce("fig2", work)
    assert done.returncode == 0, done.stdout + done.stderr
    return work, done.stdout


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
    work, _ = first
    judged = json.loads((work / "results" / "fig2" / "smoke" / "verdicts.json").read_text())
    assert judged["preset"] == "smoke"
    assert "digits" in judged["conditions"]
    assert "2 of 100 epochs" in judged["conditions"]
    verdicts = {claim["sentence"]: claim["verdict"] for claim in judged["claims"]}
    assert len(verdicts) == 4
    for word in ("stays", "weight", "re-enter"):
        (exact,) = (v for sentence, v in verdicts.items() if word in sentence and "random" not in sentence)
        assert exact == "supported"


def test_the_table_holds_every_run_with_its_provenance(first):
    work, _ = first
    with (work / "results" / "fig2" / "smoke" / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 9
    assert {row["method"] for row in table} == {"edge_popup", "dense", "random"}
    for row in table:
        result = json.loads((work / "runs" / row["run"] / "result.json").read_text())
        assert float(row["accuracy"]) == result["accuracy"]
        for column in ("seconds", "device", "finished", "torch", "python"):
            assert row[column]
    hidden = [row for row in table if row["method"] != "dense"]
    assert all(row["weights_before"] == row["weights_after"] for row in hidden)


def test_a_second_call_trains_nothing_and_draws_the_same_bytes(first):
    work, _ = first
    target = work / "results" / "fig2" / "smoke"
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    done = reproduce("fig2", work)
    assert "9 runs: 9 done, 0 to train" in done.stdout
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before


def test_figure_1_uses_the_runs_of_figure_2(first):
    work, _ = first
    done = reproduce("fig1", work)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d runs: (\d) done, 0 to train", done.stdout)
    assert (work / "results" / "fig1" / "smoke" / "figure.svg").exists()


def test_a_dry_run_prints_the_grid_and_trains_nothing(tmp_path):
    done = reproduce("fig2", tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("to train  ") == 9
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "results").exists()


def test_wandb_holds_a_run_for_each_run_and_one_summary(first):
    work, _ = first
    folders = list((work / "wandb").glob("offline-run-*"))
    hashes = {p.name for p in (work / "runs").iterdir()}
    of_runs = [f for f in folders if f.name.rsplit("-", 1)[1] in hashes]
    assert len(of_runs) == 9
    assert len(folders) >= 10


def test_a_failed_run_ends_the_command_with_its_log(tmp_path):
    done = reproduce("fig2", tmp_path, "--devices", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("lit-hidden: --devices 0: this machine has ")
