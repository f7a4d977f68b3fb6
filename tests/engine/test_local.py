"""The local launcher: every run once, failures told with their logs, nothing left behind."""

import json
import subprocess
import sys

import pytest

from lit_hidden.engine import local
from lit_hidden.engine.local import Launcher, LauncherError, environments
from lit_hidden.engine.store import Store
from lit_hidden.engine.worker import work
from lit_hidden.experiment import Run

TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200, "epochs": 1}
JOB = {"data_dir": "data", "wandb": "disabled", "group": "test"}


def test_workers_train_every_run_and_a_failure_does_not_stop_the_others(tmp_path):
    store = Store(tmp_path / "runs")
    good = [Run(density=0.5, seed=s, **TINY) for s in range(2)]
    bad = Run(density=0.5, **{**TINY, "net": "no_such_module:net"})
    launcher = Launcher(store, 2, JOB)
    polls = []
    launcher.launch([bad, *good], lambda: polls.append(1), every=0.2)
    assert all(store.result(run) is not None for run in good)
    assert store.result(bad) is None
    (failure,) = launcher.failures
    assert failure.run == bad
    assert failure.error == (
        "ValueError: net='no_such_module:net' cannot be imported: No module named 'no_such_module'; "
        "give package.module:function"
    )
    assert failure.log == str(store.folder(bad) / "log.txt")
    assert "Traceback" in (store.folder(bad) / "log.txt").read_text()
    assert polls
    assert all(process.poll() is not None for process in launcher._processes)


def test_missing_data_stop_the_grid_at_once(tmp_path, monkeypatch):
    runs = [Run(density=0.5, seed=s, **{**TINY, "data": "cifar10"}) for s in range(3)]
    job = {
        **JOB,
        "data_dir": str(tmp_path / "nothing"),
        "runs_dir": str(tmp_path / "runs"),
        "device": "cpu",
        "threads": 1,
    }
    answer = work({**job, "run": json.loads(runs[0].to_json())})
    assert (answer["status"], answer["fatal"]) == ("failed", True)
    assert answer["error"].startswith("CIFAR10 is not in ")

    code = f"import sys\nfor _ in sys.stdin: print({json.dumps(answer)!r}, flush=True)"  # a worker that says so

    def start(self, extra):
        self._processes.append(subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True))
        return self._processes[-1]

    monkeypatch.setattr(Launcher, "_start", start)
    launcher = Launcher(Store(tmp_path / "runs"), 1, JOB)
    launcher.launch(runs, lambda: None)
    assert [(f.run, f.error, f.fatal) for f in launcher.failures] == [(runs[0], answer["error"], True)]


def test_a_worker_that_dies_is_a_failed_run_and_not_a_hang(tmp_path):
    store = Store(tmp_path / "runs")
    (tmp_path / "deadly.py").write_text("import os\ndef net(**_):\n    os._exit(9)\n")
    run = Run(density=0.5, **{**TINY, "net": "deadly:net"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        launcher = Launcher(store, 1, JOB)
        launcher.launch([run], lambda: None)
    assert [f.error for f in launcher.failures] == ["its worker ended with exit status 9"]


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path):
    run, store = Run(density=0.5, **TINY), Store(tmp_path)
    job = {**JOB, "run": json.loads(run.to_json()), "runs_dir": str(tmp_path), "device": "cpu", "threads": 1}
    with store.claim(run):
        assert work(job) == {"status": "held"}


def test_a_run_that_is_done_is_not_trained_again(tmp_path):
    run, store = Run(density=0.5, **TINY), Store(tmp_path)
    with store.claim(run) as folder:
        (folder / "run.json").write_text(run.to_json())
        store.finish(run, {"accuracy": 12.0})
    job = {**JOB, "run": json.loads(run.to_json()), "runs_dir": str(tmp_path), "device": "cpu", "threads": 1}
    assert work(job) == {"status": "done"}
    assert store.result(run) == {"accuracy": 12.0}


def test_each_gpu_is_one_workers_own(monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    assert environments(None) == ("cuda", [{"CUDA_VISIBLE_DEVICES": d} for d in "025"])
    assert environments(2) == ("cuda", [{"CUDA_VISIBLE_DEVICES": d} for d in "02"])
    with pytest.raises(LauncherError) as error:
        environments(4)
    assert str(error.value) == "--devices 4: this machine has 3 GPUs"


def test_without_a_gpu_each_worker_has_one_thread(monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda: 0)
    monkeypatch.setattr(local, "cores", lambda: 2)
    device, workers = environments(None)
    assert (device, len(workers)) == ("cpu", 2)
    assert workers[0]["OMP_NUM_THREADS"] == "1"
    with pytest.raises(LauncherError) as error:
        environments(0)
    assert str(error.value) == "--devices 0: this machine has 2 cores"


def test_gpus_are_counted_as_cuda_would_see_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 3")
    assert local.gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert local.gpus() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.gpus() == 0


def test_a_full_disk_stops_the_grid_and_is_named(tmp_path, monkeypatch):
    import lit_hidden.engine.train

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lit_hidden.engine.train, "train", full)
    job = {**JOB, "run": json.loads(Run(density=0.5, **TINY).to_json()), "runs_dir": str(tmp_path)}
    answer = work({**job, "device": "cpu", "threads": 1})
    assert answer == {"status": "failed", "error": "OSError: [Errno 28] No space left on device", "fatal": True}
    assert Store(tmp_path).result(Run(density=0.5, **TINY)) is None


def test_a_launcher_launches_again(tmp_path, monkeypatch):
    code = 'import sys\nfor _ in sys.stdin: print(\'{"status": "failed", "error": "no", "fatal": false}\', flush=True)'

    def start(self, extra):
        self._processes.append(subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True))
        return self._processes[-1]

    monkeypatch.setattr(Launcher, "_start", start)
    launcher = Launcher(Store(tmp_path), 1, JOB)
    for times in (1, 2):
        launcher.launch([Run(density=0.5, **TINY)], lambda: None)
        assert len(launcher.failures) == times
