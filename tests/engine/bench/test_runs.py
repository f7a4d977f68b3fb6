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
    trained = []
    took = {2: 5.0, 10: 9.0}  # half a second an epoch

    class Clock:
        now = 0.0

        @classmethod
        def perf_counter(cls):
            return cls.now

    def train(run, folder, data_dir, *, device):
        assert folder.is_dir()
        trained.append((run.epochs, run.net, device, str(data_dir)))
        Clock.now += took[run.epochs]

    monkeypatch.setattr(runs, "time", Clock)
    monkeypatch.setattr(runs, "train", train)
    section = runs.runs(effort(rounds=2), torch.device("cuda"), tmp_path)
    assert trained[:5] == [(epochs, "conv2", "cuda", str(tmp_path)) for epochs in (2, 2, 10, 10, 2)]
    assert section.find("an epoch, evaluation included", "conv8").rounds == (0.5, 0.5)
    assert section.find(runs.WHOLE, "conv2").rounds == (5 + 98 * 0.5,) * 2
    # 240 runs of 100 epochs, and 20 random ones, which take the 5 seconds of the short one.
    assert section.find(runs.FIGURE).rounds == ((240 * 54 + 20 * 5) / 60,) * 2
    assert section.findings[0] == "conv2: 100 epochs take 54 s"
    assert section.findings[-1].startswith("the 260 runs of figure 3's paper preset take 218 min one after another")
    assert [line[1:] for line in judged([section]).table[1:]] == [
        ("conv2: 100 epochs as reproduce trains them, s", "54", "at most 15", "missed"),
        ("conv8: 100 epochs as reproduce trains them, s", "54", "at most 40", "missed"),
        ("figure 3 by the paper's protocol, 5 seeds, min", "218", "at most 90", "missed"),
    ]
    assert runs.RUNS["conv8"].resolved.epochs == runs.EPOCHS, "the paper's"


def test_runs_are_trained(effort, tmp_path):
    section = runs.runs(effort(rounds=1), HERE, tmp_path, {"tiny": TINY}, more=1)
    assert {row.group for row in section.rows} == {"tiny"}
    assert section.find("a run of 2 epochs", "tiny").median > 0


def test_a_package_without_the_experiments_says_nothing_of_the_figure(monkeypatch):
    monkeypatch.setattr(reproduce, "experiments_folder", refused)
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
