"""What committed presets still lack: counted against runs, tables and archives, each run once, with its time."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.cli import main
from lit_hidden.engine.archive import pack
from lit_hidden.engine.experiment import UsageError
from lit_hidden.engine.missing import missing
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.run import Run, vary

ROOT = Path(__file__).parents[2]
made: dict[str, Callable[..., Any]] = runpy.run_path(str(ROOT / "tests" / "committed.py"))
leave = runpy.run_path(str(ROOT / "tests" / "fabricated.py"))["leave"]
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


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two experiments: fig10 of 4 epochs a run, fig9 of 2; to stand in, on a machine of no GPU and 2 workers."""
    (tmp_path / "experiments").mkdir()
    for name, epochs in (("fig9", 2), ("fig10", 4), ("mine", 4)):
        (tmp_path / "experiments" / f"{name}.py").write_text(EXPERIMENT.replace("EPOCHS", str(epochs)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_hidden.engine.devices.gpus", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    return tmp_path / "experiments" / "results"


def table(results: Path, name: str, preset: str, runs: list[Run]) -> None:
    made["folder"](results, name, preset, made["results"](runs))


def archive(results: Path, name: str, preset: str, runs: list[Run]) -> None:
    store = Store(results.parent / "elsewhere")
    for run in runs:
        minute = {"device": "CPU, 1 thread(s)", "seconds": 60.0 * run.epochs}
        times = {"started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T10:00:01+00:00"}
        leave(store, run, provenance=minute | times)
    pack(store, runs, results / name / preset / "runs.tar.gz")


def test_runs_neither_done_nor_committed_are_counted_once_in_the_order_of_experiments(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, quick = grid(["conv4"], 4), grid(["conv2", "conv4"], 2)
    archive(results, "fig10", "short", short[:1])
    table(results, "fig9", "quick", quick[:2])
    archive(results, "mine", "short", [])
    leave(Store("runs"), quick[2])
    leave(Store("runs"), short[1], epochs=3)
    for other in ("gpu/bench.json", "notes/quick/README.md", "fig10/paper/figure.svg"):  # nobody's results
        (results / other).parent.mkdir(parents=True)
        (results / other).touch()
    main(["missing"])
    # fig10's run in the archive took 4 minutes for 4 epochs, and one was begun at a minute an epoch: of 8 epochs that
    # 2 more runs have, 3 are done. Of fig9 3 runs of 2 epochs are left. Conv4 is conv4, however many epochs.
    assert capsys.readouterr().out.splitlines() == [
        "fig9 (quick): 3 of 6 runs missing, about 3 min on 2 worker(s)",
        "fig9 (short): 0 of 3 runs missing",  # which are among those of quick
        "fig10 (short): 2 of 3 runs missing, about 4 min on 2 worker(s)",
        "mine (short): 0 of 3 runs missing",  # which are fig10's
        "in all 5 runs missing, about 6 min on 2 worker(s)",
    ]


def test_a_preset_asked_for_is_listed_of_every_experiment(results: Path) -> None:
    table(results, "fig9", "paper", grid(["conv6"], 2))
    assert [line.partition(" runs")[0] for line in missing("short").splitlines()] == [
        "fig9 (short): 3 of 3", "fig10 (short): 3 of 3", "mine (short): 0 of 3", "in all 6"
    ]  # fmt: skip


def test_what_is_no_preset_or_no_archive_is_named(results: Path) -> None:
    archive(results, "fig9", "long", [])
    with pytest.raises(UsageError, match=r"no preset 'long'; presets are smoke, quick, short, paper"):
        missing()
    (results / "fig9" / "long" / "runs.tar.gz").write_text("none")
    with pytest.raises(StoreError, match=r"fig9/long/runs\.tar\.gz is no archive of runs, or damaged"):
        missing()
