"""How devices are shared out: each worker has a GPU of its own, or a core, a thread and memory."""

from pathlib import Path

import pytest

from lit_hidden.engine import devices
from lit_hidden.engine.devices import LauncherError, at_a_time, environments, places


def test_each_gpu_is_one_workers_own(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    assert environments(None) == ("cuda", [{"CUDA_VISIBLE_DEVICES": d} for d in "025"])
    assert environments(2) == ("cuda", [{"CUDA_VISIBLE_DEVICES": d} for d in "02"])
    with pytest.raises(LauncherError) as error:
        environments(4)
    assert str(error.value) == "--devices 4: this machine has 3 GPUs"


def test_gpus_that_train_a_run_together_are_one_workers(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: 5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 2,5,6,7")
    pairs = [{"CUDA_VISIBLE_DEVICES": d} for d in ("0,2", "5,6")]
    assert environments(None, 2) == ("cuda", pairs), "one is left over"
    assert environments(4, 2) == ("cuda", pairs)
    assert environments(5, 5) == ("cuda", [{"CUDA_VISIBLE_DEVICES": "0,2,5,6,7"}])
    for number, per_run, error in (
        (3, 2, "--devices 3, --per-run 2: give 2 or a multiple of it"),
        (2, 4, "--devices 2, --per-run 4: give 4 or a multiple of it"),
        (None, 6, "--per-run 6: this machine has 5 GPUs"),
    ):
        with pytest.raises(LauncherError) as raised:
            environments(number, per_run)
        assert str(raised.value) == error


def test_runs_that_share_gpus_are_spread_over_them(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 4")
    assert environments(None, 0.5) == ("cuda", [{"CUDA_VISIBLE_DEVICES": d} for d in "3434"])
    assert environments(1, 0.3) == ("cuda", [{"CUDA_VISIBLE_DEVICES": "3"}] * 3)
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    with pytest.raises(LauncherError) as error:
        environments(2, 0.5)
    assert str(error.value) == "--per-run 0.5: runs share a GPU, and this machine has none; leave it out"


def test_without_a_gpu_each_worker_has_one_thread(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    monkeypatch.setattr(devices, "cores", lambda: 2)
    monkeypatch.setattr(devices, "fitting", lambda: 2)
    device, workers = environments(None)
    assert (device, len(workers)) == ("cpu", 2)
    assert workers[0]["OMP_NUM_THREADS"] == "1"
    assert [len(environments(number, 2)[1]) for number in (None, 2, 4)] == [1, 1, 2]
    assert len(environments(None, 3)[1]) == 1, "slower than it could be, but it works"
    with pytest.raises(LauncherError) as error:
        environments(0)
    assert str(error.value) == "--devices 0: this machine has 2 cores; 1 is the least"


def test_gpus_are_counted_as_cuda_would_see_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 3")
    assert devices.gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.gpus() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.gpus() == 0


def test_on_cpu_there_are_as_many_workers_as_have_a_core_and_memory(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 4)
    for megabytes, workers in ((100, 1), (2_000, 1), (4_500, 2), (64_000, 4)):
        text = f"MemTotal: 99999999 kB\nMemAvailable:   {1024 * megabytes} kB\n"
        monkeypatch.setattr(Path, "read_text", lambda path, text=text: text)
        assert devices.fitting() == workers
    monkeypatch.setattr(Path, "read_text", lambda path: "no such line")
    assert devices.fitting() == 4


def test_devices_are_shared_out_evenly_or_not_at_all():
    assert [at_a_time(4, per_run) for per_run in (1, 2, 4, 0.5, 0.3)] == [4, 2, 1, 8, 12]
    assert [places(3, per_run) for per_run in (1, 2, 4, 0.4)] == [3, 1, 0, 6]
    for number, per_run, least in ((3, 2, 2), (2, 4, 4), (0, 1, 1), (0, 0.5, 1)):
        with pytest.raises(LauncherError) as error:
            at_a_time(number, per_run)
        assert str(error.value) == f"--devices {number}, --per-run {per_run:g}: give {least} or a multiple of it"
