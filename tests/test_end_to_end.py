"""`lit-hidden reproduce fig2 --preset smoke --where seed=0`, and once more; runs are trained in this process."""

import csv
import json
import re
from pathlib import Path

from lit_hidden.cli import main
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.where import Where
from lit_hidden.engine.work import work


class Here(Pool):
    """Train each run in this process: it needs no new one that imports torch."""

    device, places = "cpu", 1

    def start(self, places, jobs):
        work(jobs[0])

    def ended(self, seconds):
        return [(0, None)]

    def close(self):
        pass


def test_figure_2_is_trained_judged_drawn_and_shown_and_a_second_call_draws_the_same_bytes(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(Path(__file__).parent.parent)
    monkeypatch.setattr(Where, "start", lambda self, root, runs: Here())
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", tmp_path), ("WANDB_DATA_DIR", tmp_path)):
        monkeypatch.setenv(name, str(value))

    def reproduce(name: str) -> tuple[str, dict[str, bytes]]:
        """Reproduce a figure; return what is printed and what is written."""
        folders = ["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "results")]
        main(["reproduce", name, "--preset", "smoke", "--where", "seed=0", *folders])
        target = tmp_path / "results" / name / "smoke"
        return capsys.readouterr().out, {str(path): path.read_bytes() for path in sorted(target.iterdir())}

    printed, files = reproduce("fig2")
    *_, table, verdicts = files
    assert [Path(name).suffix for name in files] == [".html", ".png", ".svg", ".csv", ".json"]
    assert all(name in printed and content for name, content in files.items())
    assert "3 runs: 0 done, 3 to train" in printed
    assert "3/3" in printed

    judged = json.loads(files[verdicts])
    assert "preset smoke; data digits; " in judged["conditions"]
    assert "2 of 100 epochs" in judged["conditions"]
    supported = [claim["sentence"] for claim in judged["claims"] if claim["verdict"] == "supported"]
    assert len(supported) >= 3, "its three exact claims, which even a smoke run supports"

    rows = list(csv.DictReader(files[table].decode().splitlines()))
    assert sorted(row["method"] for row in rows) == ["dense", "edge_popup", "random"]
    for row in rows:
        result = json.loads((tmp_path / "runs" / row["run"] / "result.json").read_text())
        assert float(row["accuracy"]) == result["accuracy"]
        assert all(row[column] for column in ("seconds", "device", "finished", "torch", "python"))
        assert row["method"] == "dense" or row["weights_before"] == row["weights_after"]
    shown = [folder.name.rsplit("-", 1)[1] for folder in (tmp_path / "wandb").glob("offline-run-*")]
    assert {row["run"] for row in rows} <= set(shown)
    assert len(shown) == 4  # and a summary

    printed, again = reproduce("fig2")
    assert "3 runs: 3 done, 0 to train" in printed
    assert again == files
    printed, files = reproduce("fig1")
    assert re.search(r"\d runs: \d done, 0 to train", printed), "it uses the runs of figure 2"
    assert any(name.endswith("figure.svg") for name in files)
