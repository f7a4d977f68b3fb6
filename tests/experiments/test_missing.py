"""What committed presets still lack: counted against runs and tables, each run once, with its time."""

from pathlib import Path

import committed
import pytest
from committed import folder
from fabricated import leave

from experiments._missing import missing
from lit_hidden.cli import main
from lit_hidden.engine.store import Store
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parents[2]
EXPERIMENT = '''
"""Mine: a grid."""
from lit_hidden.run import Run, vary

def runs(preset):
    nets = {"smoke": ["conv2"], "quick": ["conv2", "conv4"], "short": ["conv4"], "paper": ["conv6"]}[preset]
    return vary([Run(data="digits", density=0.5, epochs=EPOCHS)], net=nets, seed=range(3))

CLAIMS = []

def draw(results, figure):
    pass
'''


def grid(nets: list[str], epochs: int) -> list[Run]:
    return vary([Run(data="digits", density=0.5, epochs=epochs)], net=nets, seed=range(3))


def commit(name: str, preset: str, runs: list[Run]) -> None:
    """Write a table of runs that took 90 seconds each."""
    folder(Path("experiments/results"), name, preset, committed.results(runs))


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand where fig10 and mine have runs of 4 epochs, fig9 of 2; on a machine of no GPU and 2 workers."""
    (tmp_path / "experiments").mkdir()
    for name, epochs in (("fig9", 2), ("fig10", 4), ("mine", 4)):
        (tmp_path / "experiments" / f"{name}.py").write_text(EXPERIMENT.replace("EPOCHS", str(epochs)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_hidden.engine.devices.gpus", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})


def test_runs_neither_done_nor_committed_are_counted_once_in_the_order_of_experiments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    short, quick = grid(["conv4"], 4), grid(["conv2", "conv4"], 2)
    commit("fig10", "short", short[:1])
    commit("fig9", "quick", quick[3:4])
    commit("mine", "quick", grid(["conv2", "conv4"], 4)[:3])
    leave(Store("runs"), quick[4])
    leave(Store("runs"), short[1], epochs=3)
    main(["missing"])
    # Committed: 6 epochs of Conv4 in 180 s, and 12 of Conv2 in 270 s. Left: 6 of Conv2, and of Conv4 2 in fig9 and 5 in
    # fig10, where a run was stopped after 3.
    assert capsys.readouterr().out.splitlines() == [
        "fig9 (quick): 4 of 6 runs missing, about 1.62 min on 2 worker(s)",
        "fig9 (short): 0 of 3 runs missing",  # which are among those of quick
        "fig10 (short): 2 of 3 runs missing, about 2 min on 2 worker(s)",  # that of the run with 4 epochs left
        "mine (quick): 0 of 6 runs missing",  # which are committed, or fig10's
        "mine (short): 0 of 3 runs missing",
        "in all 6 runs missing, about 2.88 min on 2 worker(s)",
    ]


def test_a_preset_asked_for_is_listed_of_every_experiment() -> None:
    commit("fig9", "paper", grid(["conv6"], 2))
    assert [line.partition(" runs")[0] for line in missing("short").splitlines()] == [
        "fig9 (short): 3 of 3", "fig10 (short): 3 of 3", "mine (short): 0 of 3", "in all 6"
    ]  # fmt: skip
