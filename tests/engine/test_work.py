"""A worker: what it trains, what it goes on from, and a failure that says what to mend."""

import csv
import os
import resource
import runpy
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.code import spec
from lit_hidden.engine.store import Store
from lit_hidden.engine.work import work
from lit_hidden.run import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
job, counted = made["job"], made["counted"]
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200, "epochs": 1}


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path):
    run, store = Run(density=0.5, **TINY), Store(tmp_path)
    with store.claim(run):
        assert work(job(run, tmp_path)) == 0
        assert not store.done(run)
        assert store.failure(run) is None


def test_a_run_that_is_done_is_not_trained_again(tmp_path):
    run, store = Run(density=0.5, **TINY), Store(tmp_path)
    with store.claim(run) as folder:
        (folder / "run.json").write_text(run.to_json())
        (folder / "metrics.csv").write_text("epoch,seconds,test_top1\n0,0,9.0\n1,1,12.0\n")
        store.finish(run, {"accuracy": 12.0})
    assert work(job(run, tmp_path)) == 0
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
    assert work(job(run, store.root)) == 0
    assert store.failure(run)["error"] == "RuntimeError: stopped"
    store.forgive(run)
    monkeypatch.setattr(Recorder, "on_train_epoch_end", real)
    assert store.progress(run)[0] == 1
    return run, store


def test_a_begun_run_goes_on_and_the_log_says_from_where(begun, capfd):
    run, store = begun
    (store.folder(run) / ".metrics.csv.123.part").write_text("of a worker that was killed")
    assert work(job(run, store.root)) == 0
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
    assert work(job(run, store.root), log=True) == 0
    assert store.done(run)
    (note,) = store.notes(run)
    assert note.startswith(f"{store.folder(run)} is damaged: {why}")
    assert note.endswith(f"; set aside as {run.hash}.damaged-1, {run.name} is trained again")
    assert (store.folder(run) / "log.txt").exists(), "opened after the old folder was moved"
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
    run = Run(density=0.5, **TINY)
    assert work(job(run, tmp_path)) == 0
    assert Store(tmp_path).failure(run) == {
        "error": "the files that it left cannot be used: result.json: its accuracy is nan, not a number",
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
    assert work(job(run, tmp_path)) == 0
    mend = "what is done is kept: mend that, and the same command goes on"
    told = f"{tmp_path / run.hash} cannot be written to: {text}; {mend}" if text else f"{type(error).__name__}: {error}"
    assert Store(tmp_path).failure(run) == {"error": told, "stops": stops}
    assert not Store(tmp_path).done(run)


def test_a_failure_that_cannot_be_written_down_is_the_exit_status(tmp_path):
    (tmp_path / "runs").write_text("a file")
    assert work(job(Run(density=0.5, **TINY), tmp_path / "runs")) == os.EX_IOERR, "nothing can be written down"


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    """A run that leaves every kind of file, and its result."""
    callbacks = spec("trace.Trace", updates=3), spec("swaps.Swaps", updates=1)
    run, store = Run(density=0.5, callbacks=callbacks, **TINY), Store(tmp_path / "undisturbed")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no_such_folder"))  # nothing is written elsewhere
    assert work(job(run, store.root)) == 0
    assert store.done(run)
    return run, counted(store.result(run))


def test_files_that_may_not_grow_stop_the_grid_and_nothing_half_written_counts(undisturbed, tmp_path):
    run, result = undisturbed
    store, before, stops = Store(tmp_path / "runs"), resource.getrlimit(resource.RLIMIT_FSIZE), 0
    sizes = sorted({path.stat().st_size for path in (tmp_path / "undisturbed").rglob("*.*")} - {0})
    for size in (sizes[0], *sizes[2::3]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))  # this file is the first to fail
        try:
            status = work(job(run, store.root))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if store.done(run):
            break
        stops += 1
        if status == 0:  # else not even that could be written
            failure = store.failure(run)
            assert failure["stops"] == "grid"
            assert failure["error"].startswith(f"{store.folder(run)} cannot be written to: [Errno 27] File too large")
        store.forgive(run)
        assert not store.done(run)
    assert stops >= 2
    assert work(job(run, store.root)) == 0
    assert store.done(run)
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
        for kilobytes in (4, 40):
            assert mount(f"remount,size={kilobytes}k")
            status, failure = work(job(run, store.root)), store.failure(run)
            assert status == os.EX_IOERR or failure["error"].startswith(
                f"{store.folder(run)} cannot be written to: [Errno 28] No space left on device"
            )
            store.forgive(run)
            assert not store.done(run)
        assert mount("remount,size=50m")
        assert work(job(run, store.root)) == 0
        assert store.done(run)
        assert counted(store.result(run)) == result
    finally:
        subprocess.run(["umount", str(disk)], check=True)
