"""Processes of this machine: every run once, as in this process, ended in order; nothing is left behind."""

import csv
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.engine import pool as pools
from lit_hidden.engine.pool import Local
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.engine.work import log_of
from lit_hidden.run import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
job, counted, without_time = made["job"], made["counted"], made["without_time"]
ROOT = Path(__file__).parents[2]
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200, "epochs": 1}


@pytest.fixture
def pool(monkeypatch):
    """Make pools that are closed at the end."""
    monkeypatch.setattr("lit_hidden.engine.devices.gpus", lambda: 0)
    made: list[Local] = []

    def make(devices: int = 1) -> Local:
        made.append(Local(devices))
        return made[-1]

    yield make
    for one in made:
        one.close()


def jobs(store: Store, *runs: Run) -> dict[int, dict[str, Any]]:
    return {place: job(run, store.root, devices=1) for place, run in enumerate(runs)}


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def all_ended(one: Local, number: int) -> dict[int, str | None]:
    ends: dict[int, str | None] = {}
    until(lambda: ends.update(one.ended(0.1)) or len(ends) == number)
    return ends


def never(line: str = "") -> None:
    pytest.fail("only a pool of this process alone polls")


def test_two_processes_train_two_runs_as_this_one_does_and_a_failure_is_written_down(tmp_path, pool):
    store, both = Store(tmp_path / "runs"), pool(2)
    good, bad = Run(density=0.5, **TINY), Run(density=0.5, **{**TINY, "net": "no_such_module:net"})
    both.start(jobs(store, good, bad), [], never)
    assert all_ended(both, 2) == {0: None, 1: None}
    assert counted(store.result(good)) == counted(train(good, tmp_path))
    assert without_time(store.folder(good)) == without_time(tmp_path)
    assert store.failure(bad) == {
        "error": "CodeError: no_such_module.net cannot be imported: No module named 'no_such_module'; "
        "give package.module.name",
        "stops": "run",
    }
    assert "Traceback" in (store.folder(bad) / "log.txt").read_text()
    assert both.device_name == "CPU, 1 thread(s)"


def epochs(store: Store, run: Run) -> int:
    return store.progress(run)[0]


def test_a_process_that_is_killed_is_told_and_closing_lets_one_write_its_checkpoint(tmp_path, pool):
    store, one, long = Store(tmp_path), pool(), Run(density=0.5, **{**TINY, "epochs": 2000})
    one.start(jobs(store, long), [], never)
    until(lambda: epochs(store, long) >= 2)
    (process,) = one._processes.values()
    os.kill(process.pid, signal.SIGKILL)
    assert all_ended(one, 1) == {0: "was killed by SIGKILL"}
    one.start(jobs(store, long), [], never)
    until(lambda: epochs(store, long) >= 5)
    (process,) = one._processes.values()
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert (store.folder(long) / "last.ckpt").exists()
    with (store.folder(long) / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(n) for n in range(epochs(store, long) + 1)]
    assert "stopped by SIGTERM after step" in (store.folder(long) / "log.txt").read_text()


def test_a_process_that_does_not_end_is_killed_in_the_end(tmp_path, pool, monkeypatch):
    monkeypatch.setattr(pools, "_CHECKPOINT", 0.2)
    store, one, run = Store(tmp_path), pool(), Run(density=0.5, **{**TINY, "epochs": 2000})
    one.start(jobs(store, run), [], never)
    until(lambda: epochs(store, run) >= 1)
    (process,) = one._processes.values()
    os.kill(process.pid, signal.SIGSTOP)
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.parametrize(("command", "status"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_torchruns_end_is_the_jobs_and_its_signal_handler_goes_with_it(command, status, tmp_path, monkeypatch, capfd):
    (tmp_path / "python").write_text(f"#!/bin/sh\necho its words\n{command}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    before = signal.getsignal(signal.SIGTERM)
    order = job(Run(), tmp_path, devices=2)
    assert pools.do(order) == status
    assert log_of(order).read_text() == "its words\n"
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_a_library_that_cannot_be_imported_is_the_runs_failure(error, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"raise {error}('no libcudart')")
    code = (
        "from lit_hidden import Run\nfrom lit_hidden.engine.pool import Local\n"
        "from lit_hidden.engine.store import Store\nimport json\nrun, one = Run(net='conv2'), Local(1)\n"
        f"job = {{'run': json.loads(run.to_json()), 'runs_dir': {str(tmp_path)!r}, 'devices': 1}}\n"
        "one.start({0: job}, [], None)\n"
        f"print(one.ended(60), Store({str(tmp_path)!r}).failure(run)['error'])"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"[(0, None)] {error}: no libcudart\n"
