"""The local launcher and its workers: every run once, failures told with their logs, nothing left behind."""

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lit_hidden.engine import local
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.local import Failure, Launcher, LauncherError, environments
from lit_hidden.engine.store import Store
from lit_hidden.engine.worker import work
from lit_hidden.experiment import Run

TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200, "epochs": 1}
JOB = {"data_dir": "data", "wandb": "disabled", "group": "test"}


def job(run: Run, runs_dir: Path, **other: str) -> dict[str, object]:
    here = {"run": json.loads(run.to_json()), "runs_dir": str(runs_dir), "device": "cpu", "threads": 1}
    return {**JOB, **here, **other}


@pytest.fixture
def launcher():
    """Make launchers that are closed at the end."""
    made = []

    def make(store: Store, devices: int = 1) -> Launcher:
        made.append(Launcher(store, devices, lambda run: JOB))
        return made[-1]

    yield make
    for one in made:
        one.close()


def said(launcher: Launcher) -> list[str]:
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


def test_workers_train_every_run_and_a_failure_does_not_stop_the_others(tmp_path, launcher):
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
        "ValueError: net='no_such_module:net' cannot be imported: No module named 'no_such_module'; "
        "give package.module:function",
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


def test_workers_serve_all_runs_of_all_launches_until_they_are_closed(tmp_path, workers, launcher):
    workers("answer('failed', error=str(os.getpid()), stops='run')")
    one, runs = launcher(Store(tmp_path)), [Run(density=0.5, seed=seed, **TINY) for seed in range(2)]
    for _ in range(2):
        one.launch(runs, lambda: None)
    one.close()
    one.launch(runs, lambda: None)
    pids = [failure.error for failure in one.failures]
    assert pids[0] == pids[1] == pids[2] == pids[3] != pids[4] == pids[5]


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
    monkeypatch.setattr(local, "fitting", lambda: 2)
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


def test_on_cpu_there_are_as_many_workers_as_have_a_core_and_memory(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 4)
    for megabytes, workers in ((100, 1), (2_000, 1), (4_500, 2), (64_000, 4)):
        text = f"MemTotal: 99999999 kB\nMemAvailable:   {1024 * megabytes} kB\n"
        monkeypatch.setattr(Path, "read_text", lambda path, text=text: text)
        assert local.fitting() == workers
    monkeypatch.setattr(Path, "read_text", lambda path: "no such line")
    assert local.fitting() == 4


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


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path):
    run, store = Run(density=0.5, **TINY), Store(tmp_path)
    with store.claim(run):
        assert work(job(run, tmp_path)) == {"status": "held", "notes": []}


def test_a_run_that_is_done_is_not_trained_again(tmp_path):
    run, store = Run(density=0.5, **TINY), Store(tmp_path)
    with store.claim(run) as folder:
        (folder / "run.json").write_text(run.to_json())
        (folder / "metrics.csv").write_text("epoch,seconds,test_top1\n0,0,9.0\n1,1,12.0\n")
        store.finish(run, {"accuracy": 12.0})
    assert work(job(run, tmp_path)) == {"status": "done", "notes": []}
    assert store.result(run) == {"accuracy": 12.0}


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run of two epochs that was stopped after its first, with a true checkpoint."""
    from lit_hidden.engine.train import Recorder

    run, store = Run(density=0.5, **{**TINY, "epochs": 2}), Store(tmp_path / "runs")
    real = Recorder.on_train_epoch_end

    def stop(self, *args):
        real(self, *args)
        raise RuntimeError("stopped")

    monkeypatch.setattr(Recorder, "on_train_epoch_end", stop)
    assert work(job(run, store.root))["error"] == "RuntimeError: stopped"
    monkeypatch.setattr(Recorder, "on_train_epoch_end", real)
    assert store.progress(run)[0] == 1
    return run, store


def test_a_begun_run_goes_on_and_the_log_says_from_where(begun, capfd):
    run, store = begun
    (store.folder(run) / ".metrics.csv.123.part").write_text("of a worker that was killed")
    assert work(job(run, store.root)) == {"status": "done", "notes": []}
    assert f"trains {run.name}, after epoch 1\n" in capfd.readouterr().out
    assert sorted(p.name for p in store.folder(run).iterdir()) == [
        ".claim", "metrics.csv", "result.json", "run.json", "subnetwork.safetensors"
    ]  # fmt: skip


def spoil_rows(folder: Path) -> None:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    rows[1][rows[0].index("test_loss")] = "2.0"
    (folder / "metrics.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def spoil_checkpoint(folder: Path) -> None:
    import torch

    torch.save({"callbacks": {}}, folder / "last.ckpt")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (spoil_rows, "last.ckpt: its epochs are not those of metrics.csv"),
        (spoil_checkpoint, "last.ckpt: KeyError: 'Recorder'"),
        (lambda folder: (folder / "last.ckpt").write_bytes(b"PK"), "last.ckpt: File is not a zip file"),
        (lambda folder: (folder / "metrics.csv").unlink(), "last.ckpt: FileNotFoundError: "),
    ],
)
def test_a_worker_sets_a_damaged_checkpoint_aside_says_so_and_begins_anew(harm, why, begun, capfd):
    run, store = begun
    harm(store.folder(run))
    logs = []
    answer = work(job(run, store.root), logs.append)
    assert answer["status"] == "done"
    (note,) = answer["notes"]
    assert note.startswith(f"{store.folder(run)} is damaged: {why}")
    assert note.endswith(f"; set aside as {run.hash}.damaged-1, the run is trained again")
    assert logs == [store.folder(run) / "log.txt"]
    printed = capfd.readouterr().out
    assert note in printed
    assert f"trains {run.name}, after epoch 0\n" in printed
    assert (store.root / f"{run.hash}.damaged-1" / "last.ckpt").exists()


def test_a_result_that_could_not_be_believed_is_a_failure(tmp_path, monkeypatch):
    import lit_hidden.engine.train

    def diverged(run, folder, *_, **__):
        (folder / "run.json").write_text(run.to_json())
        return {"accuracy": float("nan")}

    monkeypatch.setattr(lit_hidden.engine.train, "train", diverged)
    answer = work(job(Run(density=0.5, **TINY), tmp_path))
    assert answer == {
        "status": "failed",
        "notes": [],
        "error": "what it left cannot be used: result.json: its accuracy is nan, not a number",
        "stops": "run",
    }


class Safetensors(Exception):
    """An error of a library's own for a write that failed."""


@pytest.mark.parametrize(
    ("error", "free", "text", "stops"),
    [
        (OSError(28, "No space left on device"), 10**9, "[Errno 28] No space left on device", "grid"),
        (OSError(122, "Disk quota exceeded"), 10**9, "[Errno 122] Disk quota exceeded", "grid"),
        (OSError(30, "Read-only file system", "x"), 10**9, "[Errno 30] Read-only file system: 'x'", "grid"),
        (Safetensors("not written"), 10**6, "Safetensors: not written; 1 MB are free there", "grid"),
        (Safetensors("not written"), 10**9, None, "run"),
        (OSError(2, "No such file"), 10**9, None, "run"),
    ],
)
def test_an_error_of_a_full_disk_stops_the_grid_whoever_raises_it(error, free, text, stops, tmp_path, monkeypatch):
    import lit_hidden.engine.train

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(lit_hidden.engine.train, "train", fail)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    run = Run(density=0.5, **TINY)
    answer = work(job(run, tmp_path))
    mend = "what is done is kept: mend that, and the same command goes on"
    told = f"{tmp_path / run.hash} cannot be written to: {text}; {mend}" if text else f"{type(error).__name__}: {error}"
    assert answer == {"status": "failed", "notes": [], "error": told, "stops": stops}
    assert not Store(tmp_path).done(run)


def test_a_folder_that_cannot_be_used_stops_the_grid(tmp_path):
    (tmp_path / "runs").write_text("a file")
    answer = work(job(Run(density=0.5, **TINY), tmp_path / "runs"))
    assert (answer["status"], answer["stops"]) == ("failed", "grid")
    assert answer["error"].startswith(f"{tmp_path}/runs/")
    assert " cannot be written to: [Errno 20] Not a directory: " in answer["error"]


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    """A run that leaves every kind of file, and its result."""
    run, store = Run(density=0.5, trace=3, swaps=1, **TINY), Store(tmp_path / "undisturbed")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # fsspec leaves there what it cannot move
    assert work(job(run, store.root))["status"] == "done"
    return run, counted(store.result(run))


def counted(result: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in result.items() if name != "provenance"}


def test_files_that_may_not_grow_stop_the_grid_and_nothing_half_written_counts(undisturbed, tmp_path):
    run, result = undisturbed
    store, before, stops = Store(tmp_path / "runs"), resource.getrlimit(resource.RLIMIT_FSIZE), 0
    for size in sorted({path.stat().st_size for path in (tmp_path / "undisturbed").rglob("*.*")} - {0}):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))  # this file is the first to fail
        try:
            answer = work(job(run, store.root))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if answer["status"] == "done":
            break
        stops += 1
        assert answer["stops"] == "grid"
        assert answer["error"].startswith(f"{store.folder(run)} cannot be written to: [Errno 27] File too large")
        assert not store.done(run)
    assert stops >= 4
    assert work(job(run, store.root))["status"] == "done"
    assert counted(store.result(run)) == result


def test_a_full_disk_stops_the_grid_and_with_room_the_run_goes_on(undisturbed, tmp_path):
    run, result = undisturbed
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=4k"):
        pytest.skip("only root can mount a small disk")
    try:
        store = Store(disk / "runs")
        for kilobytes in (4, 12, 40, 100):
            assert mount(f"remount,size={kilobytes}k")
            answer = work(job(run, store.root))
            assert (answer["status"], answer["stops"]) == ("failed", "grid")
            assert answer["error"].startswith(
                f"{store.folder(run)} cannot be written to: [Errno 28] No space left on device"
            )
            assert not store.done(run)
        assert mount("remount,size=50m")
        assert work(job(run, store.root))["status"] == "done"
        assert counted(store.result(run)) == result
    finally:
        subprocess.run(["umount", str(disk)], check=True)
