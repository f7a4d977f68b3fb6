"""Reproducing an experiment: what it refuses, what it writes, how it ends."""

import csv
import io
import json

import pytest
from rich.console import Console

from lit_hidden.engine.local import Failure, Launcher
from lit_hidden.engine.reproduce import ReproduceError, conditions, load, reproduce
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Results, Run

EXPERIMENT = '''
"""Figure 0: a figure of three seeds."""
from lit_hidden.experiment import Claim, Run

def runs(preset):
    return [Run(density=0.5, net="conv2", data="digits", epochs=1, seed=s) for s in range(3)]

CLAIMS = [
    Claim("above fifty", lambda r: r.mean() - 50),
    Claim("above ninety", lambda r: r.mean() - 90),
    Claim("never below sixty", lambda r: r.mean() - 60, every=True),
]

def draw(results, figure):
    figure.add_subplot().plot(results.seeds, results.values(), label="accuracy")
'''


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one experiment whose runs are done: 70, 71 and 72%."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "fig0.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    store = Store("runs")
    for run in load("fig0").runs("smoke"):
        with store.claim(run) as folder:
            (folder / "run.json").write_text(run.to_json())
            store.finish(run, {"accuracy": 70.0 + run.seed, "layers": [1]})
    return tmp_path


def printed(**kwargs) -> str:
    console = Console(file=io.StringIO(), width=160)
    reproduce("fig0", console=console, **kwargs)
    return console.file.getvalue()


def test_verdicts_are_printed_and_written(checkout):
    text = printed(preset="short")
    judged = json.loads((checkout / "results" / "fig0" / "short" / "verdicts.json").read_text())
    assert [claim["verdict"] for claim in judged["claims"]] == ["supported", "contradicted", "supported"]
    first = judged["claims"][0]
    assert first["margin"] == 21.0
    assert first["low"] == pytest.approx(21 - 4.302653 / 3**0.5, abs=1e-5)  # Student's t with 2 degrees of freedom
    for word in ("above fifty", "supported", "contradicted", "figure.svg", "3 runs: 3 done, 0 to train"):
        assert word in text
    with (checkout / "results" / "fig0" / "short" / "results.csv").open(newline="") as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [70.0, 71.0, 72.0]


def test_strict_fails_a_contradicted_claim_of_the_paper_preset_alone(checkout):
    printed(preset="short", strict=True)
    with pytest.raises(ReproduceError) as error:
        printed(preset="paper", strict=True)
    assert str(error.value) == "contradicted at the paper preset: above ninety"


def test_an_experiment_that_lacks_a_part_is_named(checkout):
    (checkout / "experiments" / "fig9.py").write_text('"""Nothing."""\nCLAIMS = []\n')
    with pytest.raises(ReproduceError) as error:
        load("fig9")
    assert str(error.value) == (
        f"{checkout}/experiments/fig9.py lacks runs, draw; an experiment has runs(preset), CLAIMS and draw"
    )


def test_unknown_experiments_and_presets_are_refused_with_what_there_is(checkout):
    with pytest.raises(ReproduceError) as error:
        load("fig7")
    assert str(error.value) == "no experiment 'fig7'; experiments are fig0"
    with pytest.raises(ReproduceError) as error:
        printed(preset="large")
    assert str(error.value) == "no preset 'large'; presets are smoke, quick, short, paper"


def test_a_run_that_failed_is_reported_at_the_end_with_its_log(checkout, monkeypatch):
    path = checkout / "experiments" / "fig0.py"
    path.write_text(EXPERIMENT.replace('net="conv2"', 'net="conv2" if s else "nowhere:net"'))

    def fail(self, runs, poll):
        (run,) = runs
        self.failures.append(Failure(run, "ValueError: no such net", f"runs/{run.hash}/log.txt", False))

    monkeypatch.setattr(Launcher, "launch", fail)
    with pytest.raises(ReproduceError) as error:
        printed(devices=1)
    (bad,) = (run for run in load("fig0").runs("quick") if run.net == "nowhere:net")
    assert str(error.value) == (
        "1 of 1 runs failed:\n  nowhere:net-k50-signed_constant-s0: ValueError: no such net; "
        f"its log is runs/{bad.hash}/log.txt"
    )
    assert not (checkout / "results" / "fig0" / "quick" / "verdicts.json").exists()


def test_a_folder_that_cannot_be_written_is_told_before_training(checkout):
    (checkout / "results").write_text("a file where the folder should be")
    with pytest.raises(ReproduceError) as error:
        printed()
    assert str(error.value) == (
        "results/fig0/quick cannot be written to: [Errno 20] Not a directory: 'results/fig0/quick'; "
        "choose another with --out"
    )


def test_the_conditions_say_what_was_cut():
    runs = [Run(density=0.5, net="conv4", width=0.25, data="digits", epochs=10, seed=s) for s in range(3)]
    runs += [Run(density=0.5, method="random", net="conv4", width=0.25, data="digits", seed=0)]
    results = Results((run, {}, None) for run in runs)
    assert conditions("quick", results) == (
        "preset quick; data digits; 3 seeds (0, 1, 2); net conv4; "
        "cut: width x0.25, 10 of 100 epochs, scikit-learn's digits for CIFAR-10"
    )
    whole = Results([(Run(density=0.5), {}, None)])
    assert conditions("paper", whole) == "preset paper; data cifar10; 1 seed (0); net conv4; nothing cut"


def test_a_run_that_another_engine_lets_go_of_is_taken_over_and_not_started_before(checkout, monkeypatch):
    store, (run, *_) = Store("runs"), load("fig0").runs("quick")
    (store.folder(run) / "result.json").unlink()
    monkeypatch.setattr("lit_hidden.engine.reproduce.time.sleep", lambda seconds: naps.append(seconds))
    naps, launches, claims = [], [], [store.claim(run)]
    claims[0].__enter__()

    def launch(self, runs, poll):
        launches.append(len(naps))
        if len(launches) == 2:
            store.finish(run, {"accuracy": 70.0})

    def held(self, run):
        if len(naps) == 3:  # the other engine is killed
            claims.pop().__exit__(None, None, None)
        return real(self, run)

    real = Store.held
    monkeypatch.setattr(Launcher, "launch", launch)
    monkeypatch.setattr(Store, "held", held)
    text = printed()
    assert launches == [0, 3]
    assert "3 runs: 2 done, 1 to train" in text
