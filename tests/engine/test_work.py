"""A worker: what it trains, what it goes on from, and a failure that says what to mend."""

import os
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import training
from training import TINY, answered, counted, stopped, without_time

from lit_hidden.code import spec
from lit_hidden.data import DataError
from lit_hidden.engine.ranks import Ranks
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.engine.work import work
from lit_hidden.run import Run

RUN = Run(density=0.5, epochs=2, callbacks=(spec("trace.Trace", updates=3),), **TINY)
DONE = {"status": "done", "notes": []}


def job(store: Store) -> dict[str, object]:
    return training.job(RUN, store.root)


def left(store: Store) -> tuple[dict[str, Any], list[dict[str, str]], list[str]]:
    """The result but for the provenance, the curve, and the names of the files."""
    result, folder = store.result(RUN), store.folder(RUN)
    assert result is not None, store.damage(RUN)
    return counted(result), without_time(folder), sorted(path.name for path in folder.iterdir())


def epochs(folder: Path) -> list[int]:
    """The epochs that a checkpoint holds."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    return [row["epoch"] for row in checkpoint["callbacks"]["Recorder"]["rows"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    assert answered(job(store)) == DONE
    return left(store)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder in which the first epoch of RUN is trained."""
    return stopped(RUN, Store(tmp_path_factory.mktemp("begun")))


@pytest.fixture
def store(begun, tmp_path):
    """A copy of it, in a store."""
    store = Store(tmp_path / "runs")
    with store.claim(RUN) as folder:
        for path in begun.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    return store


def test_a_run_that_is_held_or_done_is_left_alone(tmp_path):
    store = Store(tmp_path)
    with store.claim(RUN) as folder:
        assert answered(job(store)) == {"status": "held", "notes": []}
        (folder / "run.json").write_text(RUN.to_json())
        (folder / "metrics.csv").write_text("epoch,seconds,test_top1\n0,0,9.0\n1,1,12.0\n")
        store.finish(RUN, {"accuracy": 12.0})
    assert answered(job(store)) == DONE
    assert store.result(RUN) == {"accuracy": 12.0}


@pytest.mark.parametrize(
    "lost", [lambda path: None, Path.unlink, lambda path: path.write_text("epoch")], ids=["none", "curve", "rows"]
)
def test_a_begun_run_goes_on_and_writes_its_curve_again(lost, store, undisturbed, capfd):
    assert epochs(store.folder(RUN)) == [0, 1]
    (store.folder(RUN) / ".metrics.csv.123.part").write_text("of a worker that was killed")
    lost(store.folder(RUN) / "metrics.csv")
    assert answered(job(store)) == DONE
    assert left(store) == undisturbed
    assert f"trains {RUN.name}, after epoch " in capfd.readouterr().err


def cut(folder: Path) -> None:
    os.truncate(folder / "last.ckpt", 700)


def flip(folder: Path) -> None:
    data = bytearray((folder / "last.ckpt").read_bytes())
    with zipfile.ZipFile(folder / "last.ckpt") as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    data[largest.header_offset + largest.file_size // 2] ^= 1
    (folder / "last.ckpt").write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut, "File is not a zip file"),
        (flip, "the checksum of archive/data/"),
        (lambda folder: torch.save({"callbacks": {}}, folder / "last.ckpt"), "'Recorder'"),
        (lambda folder: (folder / "run.json").unlink(), "[Errno 2] No such file"),
        (lambda folder: (folder / "run.json").write_text(Run().to_json()), f"it is of another run, {Run().name}"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_anew(harm, why, store, undisturbed, capfd):
    harm(store.folder(RUN))
    work(job(store))
    note, begun, *_ = capfd.readouterr().err.splitlines()
    assert note.startswith(f"{store.folder(RUN)}/last.ckpt is damaged: {why}")
    assert note.endswith(f"; set aside as {RUN.hash}.damaged-1, {RUN.name} is trained again")
    assert (store.folder(RUN) / "log.txt").exists(), "opened after the old files were moved"
    assert begun.endswith(f"trains {RUN.name}, after epoch 0")
    assert (store.root / f"{RUN.hash}.damaged-1" / "last.ckpt").exists()
    assert left(store)[:2] == undisturbed[:2]


def test_a_disk_that_is_full_leaves_the_checkpoint_before_and_stops_the_grid(undisturbed, tmp_path, monkeypatch):
    store, written = Store(tmp_path / "runs"), []
    folder, real = store.folder(RUN), os.fsync
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no_such_folder"))  # nothing is written elsewhere

    def full_at_the_second_checkpoint(file: int) -> None:
        if ".ckpt" in os.readlink(f"/proc/self/fd/{file}"):
            written.append(file)
            if len(written) == 2:
                raise OSError(28, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_at_the_second_checkpoint)
        answer = answered(job(store))
    assert len(written) == 2, "every checkpoint is on the disk before it takes the place of the one before"
    told = f"{folder} cannot be written to: [Errno 28] No space left on device; choose another with --runs-dir"
    assert answer == {"status": "failed", "notes": [], "error": told, "stops": "grid"}
    assert sorted(path.name for path in folder.iterdir()) == [
        ".claim",
        "last.ckpt",
        "log.txt",
        "metrics.csv",
        "run.json",
    ]
    assert epochs(folder) == [0, 1]
    assert answered(job(store)) == DONE
    assert left(store) == undisturbed


@pytest.mark.parametrize(
    ("error", "text", "stops"),
    [
        (OSError(30, "Read-only file system"), " cannot be written to: [Errno 30] Read-only file system; ", "grid"),
        (OSError(2, "No such file"), "FileNotFoundError: [Errno 2] No such file", "run"),
        (DataError("no data"), "no data", "data"),
        (torch.OutOfMemoryError("the GPU is full"), "OutOfMemoryError: the GPU is full", "run"),
    ],
)
def test_a_failure_says_what_to_mend_and_what_it_stops(error, text, stops, store, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("lit_hidden.engine.train.train", fail)
    answer = answered(job(store))
    assert (answer["status"], answer["stops"]) == ("failed", stops)
    assert text in answer["error"]
    assert epochs(store.folder(RUN)) == [0, 1]
    monkeypatch.setattr("lit_hidden.engine.work._GRACE", 0.0)
    monkeypatch.setattr("lit_hidden.engine.network.make_data", fail)
    with pytest.raises(SystemExit):  # others may wait for this process
        work(job(store), SimpleNamespace(ranks=Ranks(0, 2, 0, 2)))
    assert text in store.failure(RUN)["error"]


def test_a_library_that_cannot_be_imported_is_a_failure_too(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lit_hidden.engine.checkpoints", None)
    assert "lit_hidden.engine.checkpoints" in str(answered(job(Store(tmp_path)))["error"])


def test_a_failure_that_cannot_be_written_down_ends_the_worker(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StoreError, match="runs is no folder"):
        work(job(Store(tmp_path / "runs")))
