"""`reproduce --minutes`: stopped in the middle of a run, drawn, gone on with; alone and under torchrun."""

import runpy
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_hidden.cli import main
from lit_hidden.engine import torchrun
from lit_hidden.engine.grid import Grid
from lit_hidden.engine.ranks import Ranks, StoppedError
from lit_hidden.engine.store import Store
from lit_hidden.run import Run

training: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("training.py")))
answered, job, without_time = (training[name] for name in ("answered", "job", "without_time"))
EXPERIMENT = '''
"""Three seeds, one much longer than the others."""
from lit_hidden.run import Run
from lit_hidden.judge import Claim

def runs(preset):
    tiny = {"net": "conv2", "width": 0.1, "data": "digits", "train_images": 300}
    return [Run(density=0.5, epochs=30 if seed == 1 else 1, seed=seed, **tiny) for seed in range(3)]

def order(run):
    return run.seed

CLAIMS = [Claim("above chance", lambda r: r.mean() - 10)]

def draw(results, figure):
    figure.add_subplot().plot(results.values())
'''


def grid() -> list[Run]:
    names: dict[str, Any] = {}
    exec(EXPERIMENT, names)
    return [run.resolved for run in names["runs"]("smoke")]


def test_a_grid_stopped_in_the_middle_of_a_run_is_drawn_and_ends_as_one_never_stopped(
    tmp_path, monkeypatch, capsys, forked
):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "grid.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(subprocess, "Popen", forked)
    store, (first, long, last) = Store("runs"), grid()
    real = Grid.look

    def look(self: Grid) -> None:
        real(self)
        if store.progress(long)[0] > 0:  # so long it took
            self.until = time.monotonic()

    command = ["reproduce", "grid", "--preset", "smoke", "--devices", "1"]
    with monkeypatch.context() as hurried:
        hurried.setattr(Grid, "look", look)
        with pytest.raises(SystemExit) as end:
            main([*command, "--minutes", "30"])
    assert end.value.code == 75
    assert capsys.readouterr().err.splitlines() == [
        "lit-hidden: time is up after 30 minutes: 1 of 3 runs are done; the same command goes on where this one was",
        "grid is judged without 2 of its 3 runs, which are missing",
    ]
    assert [store.done(run) for run in (first, long, last)] == [True, False, False]
    assert "stopped by SIGTERM after step" in (store.folder(long) / "log.txt").read_text(), "in an epoch"
    assert not store.held(long)
    assert "1 of 3 runs" in (tmp_path / "results" / "grid" / "smoke" / "figure.svg").read_text()

    main([*command, "--minutes", "30"])
    undisturbed = tmp_path / "undisturbed"
    for run in (first, long, last):
        assert answered(job(run, undisturbed))["status"] == "done"
        ours, theirs = store.folder(run), Store(undisturbed).folder(run)
        assert without_time(ours) == without_time(theirs)
        assert (ours / "subnetwork.safetensors").read_bytes() == (theirs / "subnetwork.safetensors").read_bytes()


# --- torchrun and srun ------------------------------------------------------------------------------------


class TimeIsUpError(Exception):
    """What a poll raises."""


@pytest.mark.parametrize("takes", ["training", "preparing", "ending", "another's"])
def test_what_a_poll_raises_stops_the_leader_where_it_trains_and_is_raised_there(takes, monkeypatch):
    told = threading.Event()

    def before(*_: Any) -> None:
        raise KeyboardInterrupt

    def work(job: dict[str, Any], group: Any) -> int:
        if takes == "another's":  # a SIGTERM that no poll asked for
            raise StoppedError
        if takes != "preparing":
            signal.signal(signal.SIGTERM, lambda *_: told.set())
        while not told.is_set():
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, before)
        if takes == "training":
            raise StoppedError
        return 0

    def poll() -> None:
        raise TimeIsUpError

    monkeypatch.setattr(torchrun, "work", work)
    monkeypatch.setattr(torchrun, "gpus", lambda: 0)
    lockstep = torchrun.Lockstep(SimpleNamespace(ranks=Ranks(0, 2, 0, 2)))  # it leads nobody
    kept = signal.signal(signal.SIGTERM, before)
    try:
        with pytest.raises(StoppedError if takes == "another's" else TimeIsUpError):
            lockstep.start({0: {}}, [], poll)
    finally:
        signal.signal(signal.SIGTERM, kept)
