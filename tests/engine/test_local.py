"""The local launcher: every run once, failures told with their logs, nothing left behind."""

import json
import os
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.engine import local
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.launcher import Failure
from lit_hidden.engine.local import LocalLauncher
from lit_hidden.engine.store import Store
from lit_hidden.engine.worker import work
from lit_hidden.experiment import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
JOB, job = made["JOB"], made["job"]
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200, "epochs": 1}


@pytest.fixture
def launcher():
    """Make launchers that are closed at the end."""
    made = []

    def make(store: Store, devices: int = 1) -> LocalLauncher:
        made.append(LocalLauncher(store, devices, lambda run: JOB))
        return made[-1]

    yield make
    for one in made:
        one.close()


def said(launcher: LocalLauncher) -> list[str]:
    return [launcher.notes.get() for _ in range(launcher.notes.qsize())]


WORKER = """
import json, os, signal, sys
from pathlib import Path
def answer(status, **more):
    print(json.dumps({"status": status, **more}), flush=True)
def epochs(number):
    folder = next(Path(job["runs_dir"]).iterdir())
    (folder / "metrics.csv").write_text("epoch,seconds\\n" + "".join(f"{e},{e}.0\\n" for e in range(number + 1)))
for line in sys.stdin:
    job = json.loads(line)
"""


@pytest.fixture
def workers(monkeypatch):
    """Make workers of a few lines, which have `job`, `answer(status, ...)` and `epochs(number)`."""

    def make(code: str) -> None:
        script = WORKER + "".join(f"    {line}\n" for line in code.splitlines())
        monkeypatch.setattr(local, "_WORKER", [sys.executable, "-c", script])

    return make


def test_workers_train_every_run_and_a_failure_does_not_stop_the_others(tmp_path, launcher, forked, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", forked)
    store = Store(tmp_path / "runs")
    good = [Run(density=0.5, seed=s, **TINY) for s in range(2)]
    bad = Run(density=0.5, **{**TINY, "net": "no_such_module:net"})
    both, polls = launcher(store, 2), []
    both.launch([bad, *good], lambda: polls.append([run for run in both.running if run]), every=0.2)
    assert all(store.result(run) is not None for run in good)
    assert store.result(bad) is None
    (failure,) = both.failures
    assert failure == Failure(
        bad,
        "CodeError: no_such_module.net cannot be imported: No module named 'no_such_module'; give package.module.name",
        str(store.folder(bad) / "log.txt"),
        "run",
    )
    assert "Traceback" in Path(failure.log).read_text()
    assert {run for running in polls for run in running} == {bad, *good}
    assert max(len(running) for running in polls) == 2
    assert both.running == [None, None]
    assert Clock.read(store, both.device, both.device_name).estimate([], 1).measured == 2


def test_missing_data_stop_the_runs_on_them_alone(tmp_path, workers, launcher):
    on_cifar10 = [Run(density=0.5, seed=s, **{**TINY, "data": "cifar10"}) for s in range(3)]
    on_digits = Run(density=0.5, **TINY)
    answer = work(job(on_cifar10[0], tmp_path / "runs", data_dir=str(tmp_path / "nothing")))
    assert (answer["status"], answer["stops"]) == ("failed", "data")
    assert answer["error"].startswith("CIFAR10 is not in ")

    workers(f"answer('done') if job['run']['data'] == 'digits' else print({json.dumps(answer)!r}, flush=True)")
    one, polls = launcher(Store(tmp_path / "runs")), []
    one.launch([*on_cifar10, on_digits], lambda: polls.append(one.running[0]), every=0.01)
    assert [(f.run, f.stops) for f in one.failures] == [(on_cifar10[0], "data"), *((r, "data") for r in on_cifar10[1:])]
    assert one.failures[0].error == answer["error"]
    assert {f.error for f in one.failures[1:]} == {f"not tried: {on_cifar10[0].name} failed on the same data"}
    assert {f.log for f in one.failures[1:]} == {""}


def test_a_worker_that_is_killed_is_replaced_and_its_run_goes_on(tmp_path, workers, launcher):
    store, run = Store(tmp_path), Run(density=0.5, **{**TINY, "epochs": 9})
    store.folder(run).mkdir()
    workers(
        "starts = Path(job['runs_dir'] + '.starts')\n"
        "with starts.open('a') as file: before = file.tell(); file.write('x')\n"
        "if before < 3: epochs(2 * before); os.kill(os.getpid(), signal.SIGKILL)\n"
        "answer('done', notes=['a note'])"
    )
    one = launcher(store)
    one.launch([run], lambda: None)
    assert one.failures == []
    assert said(one) == [
        *(
            f"the worker of {run.name} was killed by SIGKILL after epoch {epoch}; a new one goes on with it"
            for epoch in (0, 2, 4)
        ),
        "a note",
    ]


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os._exit(9)", "ended with exit status 9"),
        ("print('half an ans', end='', flush=True); os._exit(0)", "ended with exit status 0"),
    ],
)
def test_a_run_whose_worker_dies_again_without_getting_further_has_failed_and_the_others_are_trained(
    end, how, tmp_path, workers, launcher
):
    store = Store(tmp_path)
    bad, *good = [Run(density=0.5, seed=s, **{**TINY, "epochs": 9}) for s in range(3)]
    store.folder(bad).mkdir()
    workers(f"if job['run']['seed'] == 0: epochs(3); {end}\nanswer('done')")
    one = launcher(store)
    one.launch([bad, *good], lambda: None)
    assert one.failures == [
        Failure(bad, f"its worker {how}, and so did the next one, after epoch 3", str(store.folder(bad) / "log.txt"))
    ]
    assert len(said(one)) == 1


def test_a_worker_that_cannot_be_started_stops_the_grid(tmp_path, monkeypatch, launcher):
    monkeypatch.setattr(local, "_WORKER", [str(tmp_path / "no_python")])
    one = launcher(Store(tmp_path))
    one.launch([Run(density=0.5, seed=s, **TINY) for s in range(3)], lambda: None)
    assert [(f.error, f.stops) for f in one.failures] == [
        (f"no worker can be started: [Errno 2] No such file or directory: '{tmp_path}/no_python'", "grid")
    ]


def test_a_failure_of_the_grid_is_the_last(tmp_path, workers, launcher):
    workers("answer('failed', error='no room', stops='grid')")
    one = launcher(Store(tmp_path))
    one.launch([Run(density=0.5, seed=s, **TINY) for s in range(3)], lambda: None)
    assert [(f.error, f.stops) for f in one.failures] == [("no room", "grid")]


def test_a_launch_that_is_interrupted_leaves_no_worker_and_waits_for_none(tmp_path, workers, launcher):
    workers("import time; time.sleep(600)")
    two = launcher(Store(tmp_path), 2)
    pids, began = [], []

    def interrupt() -> None:
        if all(two._workers):
            pids.extend(process.pid for process in two._workers)
            began.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        two.launch([Run(density=0.5, seed=s, **TINY) for s in range(5)], interrupt, every=0.05)
    assert time.monotonic() - began[0] < 4, "they are not waited for"
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert two.failures == []


def test_a_worker_that_trains_is_given_the_time_to_write_its_checkpoint(tmp_path, workers, launcher):
    workers(
        "import time\n"
        "def stop(*_):\n"
        "    time.sleep(0.5); Path(job['runs_dir'], 'checkpoint').touch(); os._exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "Path(job['runs_dir'], 'ready').touch(); time.sleep(600)"
    )
    one = launcher(Store(tmp_path))

    def interrupt() -> None:
        if (tmp_path / "ready").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.launch([Run(density=0.5, **TINY)], interrupt, every=0.05)
    assert (tmp_path / "checkpoint").exists()
    assert one.failures == []


class Watched:
    """A lock that tells when somebody is about to wait for it."""

    def __init__(self, waited_for: threading.Event) -> None:
        self.lock, self.waited_for = threading.Lock(), waited_for

    def __enter__(self) -> None:
        if self.lock.locked():
            self.waited_for.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_worker_that_is_being_started_while_the_others_are_stopped_is_stopped_too(
    tmp_path, monkeypatch, workers, launcher
):
    # The worker is there as soon as those who stop them wait for the lock, or, if they do without, have looked for
    # workers and wait for the thread that starts it.
    workers("answer('done')")
    one, started = launcher(Store(tmp_path)), []
    starting, stopping, popen, join = threading.Event(), threading.Event(), subprocess.Popen, threading.Thread.join

    def start_late(*args: Any, **settings: Any) -> subprocess.Popen[str]:
        starting.set()
        assert stopping.wait(60)
        started.append(popen(*args, **settings))
        return started[-1]

    def tell_and_join(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout is None:
            stopping.set()
        join(thread, timeout)

    def interrupt() -> None:
        assert starting.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_starting", Watched(stopping))
    monkeypatch.setattr(local.subprocess, "Popen", start_late)
    monkeypatch.setattr(threading.Thread, "join", tell_and_join)
    with pytest.raises(KeyboardInterrupt):
        one.launch([Run(density=0.5, **TINY)], interrupt, every=0)
    (process,) = started
    try:
        assert process.returncode is not None, "it was waited for"
    finally:
        process.kill()
        local._bury(process)
    assert one.failures == []


def test_workers_serve_all_runs_of_all_launches_until_they_are_closed(tmp_path, workers, launcher):
    workers("answer('failed', error=str(os.getpid()), stops='run')")
    one, runs = launcher(Store(tmp_path)), [Run(density=0.5, seed=seed, **TINY) for seed in range(2)]
    for _ in range(2):
        one.launch(runs, lambda: None)
    one.close()
    one.launch(runs, lambda: None)
    pids = [failure.error for failure in one.failures]
    assert pids[0] == pids[1] == pids[2] == pids[3] != pids[4] == pids[5]


def test_the_device_is_named_as_provenance_names_it(monkeypatch, tmp_path, launcher):
    monkeypatch.setattr(local, "gpus", lambda: 0)
    assert launcher(Store(tmp_path)).device_name == "CPU, 1 thread(s)"
    monkeypatch.setattr(local, "gpus", lambda: 2)
    both = launcher(Store(tmp_path))
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA H100\necho NVIDIA H100\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert both.device_name == "NVIDIA H100"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert both.device_name == ""
