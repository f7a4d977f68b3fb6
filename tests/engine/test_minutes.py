"""`reproduce --minutes` where runs are trained in its own process: stopped within a run, drawn, gone on with."""

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training import job, without_time

from lit_hidden.engine import torchrun
from lit_hidden.engine.checkpoints import StoppedError
from lit_hidden.engine.ranks import Ranks
from lit_hidden.engine.reproduce import TimeUpError, reproduce
from lit_hidden.engine.store import Store
from lit_hidden.engine.where import Where
from lit_hidden.engine.work import work
from lit_hidden.modules import LitSubnetwork

EXPERIMENT = '''
"""Three seeds, of which one takes longer than the others."""
from lit_hidden.run import Run

def runs(preset):
    tiny = {"net": "conv2", "width": 0.1, "data": "digits", "train_images": 600}
    return [Run(density=0.5, epochs=3 if seed == 1 else 1, seed=seed, **tiny) for seed in range(3)]

CLAIMS = []

def draw(results, figure):
    figure.add_subplot().plot(results.values())
'''


@pytest.fixture
def lockstep(monkeypatch):
    """The pool that trains in this process, as if torchrun had started it: it leads nobody."""
    monkeypatch.setattr(torchrun, "gpus", lambda: 0)
    pool = torchrun.Lockstep(SimpleNamespace(ranks=Ranks()))
    pool.group = None
    return pool


def test_a_grid_stopped_within_a_run_is_drawn_and_ends_as_one_never_stopped(tmp_path, monkeypatch, lockstep):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "grid.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(Where, "start", lambda self, root, runs: lockstep)
    names: dict[str, Any] = {}
    exec(EXPERIMENT, names)
    store, (first, long, last) = Store("runs"), [run.resolved for run in names["runs"]("smoke")]
    step, late = LitSubnetwork.training_step, [0.0]

    def slow(self: Any, *batch: Any) -> Any:
        if self.trainer.max_epochs == 3 and self.global_step == 7:  # of 5 in an epoch
            late.append(3600.0)
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(LitSubnetwork, "training_step", slow)
        for clock in (time.time, time.monotonic):
            patch.setattr(time, clock.__name__, lambda clock=clock: clock() + late[-1])
        with pytest.raises(TimeUpError, match=r"^time is up: 1 of 3 runs are done; "):
            reproduce("grid", preset="smoke", minutes=30)
    assert [store.done(run) for run in (first, long, last)] == [True, False, False]
    assert torch.load(store.folder(long) / "last.ckpt", weights_only=True)["global_step"] == 8
    assert not store.held(long)
    assert "1 of 3 runs" in Path("results/grid/smoke/figure.svg").read_text()

    reproduce("grid", preset="smoke", minutes=30)
    work(job(long, tmp_path / "undisturbed"))
    ours, theirs = store.folder(long), Store(tmp_path / "undisturbed").folder(long)
    assert without_time(ours) == without_time(theirs)
    assert (ours / "subnetwork.safetensors").read_bytes() == (theirs / "subnetwork.safetensors").read_bytes()


def test_a_signal_before_the_time_is_up_stops_all(monkeypatch, lockstep):
    def stopped(*_: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(torchrun, "work", stopped)
    lockstep.start([0], [{"until": 0.0}])
    with pytest.raises(StoppedError):
        lockstep.start([0], [{"until": math.inf}])
