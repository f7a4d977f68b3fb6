"""`lit-hidden reproduce fig2 --preset smoke --where seed=0`, and once more; runs are trained in this process."""

import csv
import json
import re
from pathlib import Path

import pytest

from lit_hidden.cli import main
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.where import Where
from lit_hidden.engine.work import work

ROOT = Path(__file__).parent.parent


class Here(Pool):
    """Train each run in this process: it needs no new one that imports torch."""

    device, places = "cpu", 1

    def start(self, places, jobs):
        work(jobs[0])

    def ended(self, seconds):
        return [(0, None)]

    def close(self):
        pass


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Reproduce figures into one folder; each call returns it and what is printed."""
    work_folder = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(Where, "start", lambda self, root, runs: Here())
        for name, value in (("WANDB_MODE", "offline"), ("COLUMNS", "160")):
            patch.setenv(name, value)
        for name in ("WANDB_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(work_folder))
        folders = ["--runs-dir", str(work_folder / "runs"), "--out", str(work_folder / "results")]
        yield (
            work_folder,
            lambda *arguments: main(["reproduce", *arguments, "--preset", "smoke", "--where", "seed=0", *folders]),
        )


def test_figure_2_is_trained_judged_drawn_and_shown_and_a_second_call_draws_the_same_bytes(reproduced, capsys):
    work_folder, reproduce = reproduced
    reproduce("fig2")
    printed = capsys.readouterr().out
    target = work_folder / "results" / "fig2" / "smoke"
    files = {path.name: path.read_bytes() for path in target.iterdir()}
    assert set(files) == {"figure.html", "figure.png", "figure.svg", "results.csv", "verdicts.json"}
    for name, content in files.items():
        assert str(target / name) in printed
        assert content
    assert "3 runs: 0 done, 3 to train" in printed
    assert "3/3" in printed

    judged = json.loads(files["verdicts.json"])
    assert judged["preset"] == "smoke"
    assert "digits" in judged["conditions"]
    assert "2 of 100 epochs" in judged["conditions"]
    verdicts = {claim["sentence"]: claim["verdict"] for claim in judged["claims"]}
    assert len(verdicts) == 4
    for word in ("stays", "weight", "re-enter"):  # exact claims, which even a smoke run supports
        (exact,) = (v for sentence, v in verdicts.items() if word in sentence and "random" not in sentence)
        assert exact == "supported"

    table = list(csv.DictReader(files["results.csv"].decode().splitlines()))
    assert len(table) == 3
    assert {row["method"] for row in table} == {"edge_popup", "dense", "random"}
    for row in table:
        result = json.loads((work_folder / "runs" / row["run"] / "result.json").read_text())
        assert float(row["accuracy"]) == result["accuracy"]
        assert all(row[column] for column in ("seconds", "device", "finished", "torch", "python"))
        assert row["method"] == "dense" or row["weights_before"] == row["weights_after"]
    shown = [folder.name.rsplit("-", 1)[1] for folder in (work_folder / "wandb").glob("offline-run-*")]
    assert {row["run"] for row in table} <= set(shown)
    assert len(shown) == 4  # and a summary

    reproduce("fig2")
    assert "3 runs: 3 done, 0 to train" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in target.iterdir()} == files

    reproduce("fig1")
    assert re.search(r"\d runs: \d done, 0 to train", capsys.readouterr().out), "it uses the runs of figure 2"
    assert (work_folder / "results" / "fig1" / "smoke" / "figure.svg").exists()
