"""Whole runs: how long a hundred epochs take follows from how long a few do; where they can be measured."""

import pytest
import torch

from lit_hidden.engine import reproduce
from lit_hidden.engine.bench import command, runs
from lit_hidden.engine.bench.targets import judged
from lit_hidden.engine.reproduce import ReproduceError, UsageError
from lit_hidden.experiment import Run

HERE = torch.device("cpu")
TINY = Run(net="conv2", width=0.05, density=0.5, data="digits", train_images=200)


def test_a_whole_run_is_the_short_one_and_the_epochs_that_are_left(effort, tmp_path, monkeypatch):
    trained: list[tuple[int, str, str, str]] = []
    rates = {"conv2": 0.5, "conv4": 1.0, "conv6": 1.5, "conv8": 2.0}  # seconds an epoch, after 3 s of start

    class Clock:
        now = 0.0

        @classmethod
        def perf_counter(cls):
            return cls.now

    def train(run, folder, data_dir, *, device):
        assert folder.is_dir()
        trained.append((run.epochs, run.net, device, str(data_dir)))
        later = sum(net == run.net for _, net, *_ in trained) > 3  # a second round: twice as slow
        Clock.now += (3 + run.epochs * rates[run.net]) * (2 if later else 1)

    monkeypatch.setattr(runs, "time", Clock)
    monkeypatch.setattr(runs, "train", train)
    section = runs.runs(effort(rounds=2), torch.device("cuda"), tmp_path)
    assert trained[:5] == [(epochs, "conv2", "cuda", str(tmp_path)) for epochs in (2, 2, 10, 10, 2)]
    assert section.find("an epoch, evaluation included", "conv8").rounds == (2.0, 4.0)
    assert section.find(runs.WHOLE, "conv2").rounds == (53.0, 106.0)
    # Of each net 55 runs of 100 epochs, 5 more in batches of 60 (Adam), and 5 random ones, charged the short one's.
    minutes = sum((55 + 5 * 128 / 60) * (3 + 100 * rate) + 5 * (3 + 2 * rate) for rate in rates.values()) / 60
    assert section.find(runs.FIGURE).rounds == pytest.approx((minutes, 2 * minutes))
    assert section.findings[0] == "conv2: 100 epochs take 79.5 s"
    said = f"the 260 runs of figure 3's paper preset take about {1.5 * minutes:,.0f} min one after another: "
    assert section.findings[-1].startswith(said)
    assert [line[1:] for line in judged([section]).table[1:]] == [
        ("conv2: 100 epochs as reproduce trains them, s", "79.5", "at most 15", "missed"),
        ("conv8: 100 epochs as reproduce trains them, s", "304", "at most 40", "missed"),
        ("figure 3, paper, 5 seeds, estimated from runs, min", f"{1.5 * minutes:,.0f}", "at most 90", "missed"),
    ]
    assert runs.RUNS["conv8"].resolved.epochs == runs.EPOCHS, "the paper's"


def test_runs_are_trained(effort, tmp_path):
    section = runs.runs(effort(rounds=1), HERE, tmp_path, {"tiny": TINY}, more=1)
    assert {row.group for row in section.rows} == {"tiny"}
    assert section.find("a run of 2 epochs", "tiny").median > 0


def test_a_package_without_the_experiments_says_nothing_of_the_figure(monkeypatch):
    monkeypatch.setattr(reproduce, "experiments_folder", refused)
    assert runs._figure3() == []


@pytest.mark.parametrize("source", ["import nothere", "raise OSError", "from lit_hidden import Run\nx = 1"])
def test_anothers_figure_3_is_none(source, tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "fig3.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert runs._figure3() == []
    whole = "CLAIMS = []\ndraw = None\ndef runs(preset):\n    from lit_hidden.experiment import Run\n"
    (tmp_path / "experiments" / "fig3.py").write_text(whole + "    return [Run(net='lenet')]")
    assert runs._figure3() == []


def refused():
    raise ReproduceError("no experiments/ here")


def test_runs_want_a_gpu_and_cifar10(tmp_path, monkeypatch):
    with pytest.raises(UsageError) as error:
        command.bench(only="runs", data_dir=tmp_path, out=tmp_path)
    assert (
        str(error.value) == "--only runs: runs are whole trainings, measured on a GPU, and none is there or asked for"
    )
    monkeypatch.setattr(command, "_devices", lambda device: [HERE, torch.device("cuda")])
    with pytest.raises(UsageError) as error:
        command.bench(only="start,runs", data_dir=tmp_path, out=tmp_path)
    assert str(error.value) == f"--only start,runs: runs train on CIFAR-10, which is not in {tmp_path}"
