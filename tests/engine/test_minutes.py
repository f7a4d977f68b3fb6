"""`reproduce --minutes`: stopped in the middle of a run, drawn, gone on with; what a poll raises stops a leader."""

import runpy
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_hidden.engine import torchrun
from lit_hidden.engine.grid import Grid
from lit_hidden.engine.ranks import Ranks, StoppedError
from lit_hidden.engine.reproduce import TimeUpError, reproduce
from lit_hidden.engine.store import Store
from lit_hidden.engine.where import Where

training: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("training.py")))
answered, job, without_time = (training[name] for name in ("answered", "job", "without_time"))
EXPERIMENT = '''
"""Three seeds, one much longer than the others."""
from lit_hidden.run import Run

def runs(preset):
    tiny = {"net": "conv2", "width": 0.1, "data": "digits", "train_images": 600}
    return [Run(density=0.5, epochs=6 if seed == 1 else 1, seed=seed, **tiny) for seed in range(3)]

CLAIMS = []

def draw(results, figure):
    figure.add_subplot().plot(results.values())
'''


@pytest.fixture
def lockstep(monkeypatch):
    """The pool that trains in this process, as if torchrun had started it: it leads nobody."""
    monkeypatch.setattr(torchrun, "gpus", lambda: 0)
    return torchrun.Lockstep(SimpleNamespace(ranks=Ranks(0, 2, 0, 2)))


def test_a_grid_stopped_in_the_middle_of_a_run_is_drawn_and_ends_as_one_never_stopped(tmp_path, monkeypatch, lockstep):
    lockstep.group, lockstep.per_run = None, 1
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "grid.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(Where, "start", lambda self, root, runs: lockstep)
    names: dict[str, Any] = {}
    exec(EXPERIMENT, names)
    store, (first, long, last) = Store("runs"), [run.resolved for run in names["runs"]("smoke")]
    real = Grid.look

    def look(self: Grid) -> None:
        real(self)
        if store.progress(long)[0] > 0:  # so long it took
            self.until = time.monotonic()

    with monkeypatch.context() as hurried:
        hurried.setattr(Grid, "look", look)
        with pytest.raises(TimeUpError, match=r"^time is up: 1 of 3 runs are done; "):
            reproduce("grid", preset="smoke", minutes=30)
    assert [store.done(run) for run in (first, long, last)] == [True, False, False]
    assert 0 < store.progress(long)[0] < 6
    assert (store.folder(long) / "last.ckpt").exists()
    assert not store.held(long)
    assert "1 of 3 runs" in Path("results/grid/smoke/figure.svg").read_text()

    reproduce("grid", preset="smoke", minutes=30)
    assert answered(job(long, tmp_path / "undisturbed"))["status"] == "done"
    ours, theirs = store.folder(long), Store(tmp_path / "undisturbed").folder(long)
    assert without_time(ours) == without_time(theirs)
    assert (ours / "subnetwork.safetensors").read_bytes() == (theirs / "subnetwork.safetensors").read_bytes()


class TimeIsUpError(Exception):
    """What a poll raises."""


@pytest.mark.parametrize("takes", ["training", "preparing", "ending", "another's"])
def test_what_a_poll_raises_stops_the_leader_where_it_trains_and_is_raised_there(takes, monkeypatch, lockstep):
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
    kept = signal.signal(signal.SIGTERM, before)
    try:
        with pytest.raises(StoppedError if takes == "another's" else TimeIsUpError):
            lockstep.start({0: {}}, [], poll)
    finally:
        signal.signal(signal.SIGTERM, kept)
