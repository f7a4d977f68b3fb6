"""Processes of this machine: every run once, as in this process, ended in order; nothing is left behind."""

import os
import signal
import sys

import pytest
from training import counted, job, until, without_time

from lit_hidden.engine.pool import Local, do
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.run import Run

TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200}
LONG = Run(density=0.5, epochs=2000, **TINY)


@pytest.fixture
def pool(monkeypatch):
    """A pool of two processes, closed at the end."""
    monkeypatch.setattr("lit_hidden.engine.devices.gpus", lambda: 0)
    one = Local(2)
    yield one
    one.close()


def start(one: Local, store: Store, *runs: Run) -> None:
    one.start([0, 1], [job(run, store.root) for run in runs])


def all_ended(one: Local, number: int) -> dict[int, str | None]:
    ends: dict[int, str | None] = {}
    until(lambda: ends.update(one.ended(0.1)) or len(ends) == number)
    return ends


def test_two_processes_train_two_runs_as_this_one_does_and_a_failure_is_written_down(tmp_path, pool):
    store, good = Store(tmp_path / "runs"), Run(density=0.5, epochs=1, **TINY)
    bad = Run(density=0.5, **{**TINY, "net": "no_such_module:net"})
    start(pool, store, good, bad)
    assert all_ended(pool, 2) == {0: None, 1: None}
    assert counted(store.result(good)) == counted(train(good, tmp_path))
    assert without_time(store.folder(good)) == without_time(tmp_path)
    assert "CodeError: no_such_module.net cannot be imported" in store.failure(bad)["error"]
    assert "Traceback" in (store.folder(bad) / "log.txt").read_text()


def test_a_process_that_is_killed_is_told_and_closing_lets_one_write_its_checkpoint(tmp_path, pool):
    store = Store(tmp_path)
    start(pool, store, LONG)
    until(lambda: store.progress(LONG) >= 2)
    (process,) = pool._processes.values()
    os.kill(process.pid, signal.SIGKILL)
    assert all_ended(pool, 1) == {0: "was killed by SIGKILL"}
    start(pool, store, LONG)
    until(lambda: store.progress(LONG) >= 5)
    (process,) = pool._processes.values()
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert (store.folder(LONG) / "last.ckpt").exists()
    epochs = [row["epoch"] for row in without_time(store.folder(LONG))]
    assert epochs == [str(n) for n in range(store.progress(LONG) + 1)]
    assert "stopped after step" in (store.folder(LONG) / "log.txt").read_text()


def test_torchruns_end_is_the_jobs_and_its_signal_handler_goes_with_it(tmp_path, monkeypatch, capfd):
    (tmp_path / "python").write_text("#!/bin/sh\necho its words\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    before = signal.getsignal(signal.SIGTERM)
    assert do(job(Run(), tmp_path, devices=2)) == 3
    assert (Store(tmp_path).folder(Run()) / "log.txt").read_text() == "its words\n"
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) == before
