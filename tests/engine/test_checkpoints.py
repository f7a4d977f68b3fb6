"""Checkpoints: whole or not at all, beside where they go, and what is there is what a run goes on from."""

import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hidden.code import spec
from lit_hidden.engine import store as writing
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import Recorder
from lit_hidden.run import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
RUN = Run(density=0.5, epochs=3, callbacks=(spec("trace.Trace", updates=3),), **made["TINY"])
# Trains in the folder sys.argv[1]. When it writes its second checkpoint no file may grow beyond half of the first:
# the kernel kills it in the middle of the write.
CODE = f"""
import resource, signal, sys
from pathlib import Path
from lit_hidden.engine.train import Recorder, train
from lit_hidden.run import Run

folder, end = Path(sys.argv[1]), Recorder.on_train_epoch_end

def killed_in_the_second(recorder, *args):
    if (folder / "last.ckpt").exists():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = (folder / "last.ckpt").stat().st_size // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    end(recorder, *args)

Recorder.on_train_epoch_end = killed_in_the_second
train(Run.from_json({RUN.to_json()!r}), folder)
"""


answered = made["answered"]


def job(store: Store) -> dict[str, object]:
    return made["job"](RUN, store.root)


def counted(store: Store) -> dict[str, object]:
    """What a run that is done leaves, but for its provenance."""
    result = store.result(RUN)
    assert result is not None, store.damage(RUN)
    return {**made["counted"](result), "files": sorted(path.name for path in store.folder(RUN).iterdir())}


def epochs(folder: Path) -> list[int]:
    """The epochs that a checkpoint holds."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    return [row["epoch"] for row in checkpoint["callbacks"]["Recorder"]["rows"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    assert answered(job(store))["status"] == "done"
    return counted(store)


def test_a_process_killed_while_it_writes_a_checkpoint_leaves_the_one_before(undisturbed, tmp_path, forked):
    store, temporary = Store(tmp_path / "runs"), tmp_path / "tmp"
    folder = store.folder(RUN)
    folder.mkdir(parents=True)
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(temporary)}
    child = forked([sys.executable, "-c", CODE, str(folder)], stdout=-1, stderr=-1, text=True, env=environment)
    _, told = child.communicate()
    assert child.returncode == -signal.SIGXFSZ, told
    assert epochs(folder) == [0, 1]
    (half,) = folder.glob("*.part")
    assert half.stat().st_size == (folder / "last.ckpt").stat().st_size // 2
    assert list(temporary.iterdir()) == []
    assert store.damage(RUN) is None
    assert answered(job(store)) == {"status": "done", "notes": []}
    assert counted(store) == undisturbed, "no part is left"


def test_a_disk_that_is_full_leaves_the_checkpoint_before_and_says_which_folder(undisturbed, tmp_path, monkeypatch):
    store, written, temporary = Store(tmp_path / "runs"), [], tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder, real = store.folder(RUN), os.fsync

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
    assert answer == {
        "status": "failed",
        "notes": [],
        "error": f"{folder} cannot be written to: [Errno 28] No space left on device; "
        "what is done is kept: mend that, and the same command goes on",
        "stops": "grid",
    }
    assert sorted(path.name for path in folder.iterdir()) == [".claim", "last.ckpt", "metrics.csv", "run.json"]
    assert epochs(folder) == [0, 1]
    assert list(temporary.iterdir()) == []
    assert answered(job(store)) == {"status": "done", "notes": []}
    assert counted(store) == undisturbed


def stop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train an epoch, and leave its checkpoint."""
    real = Recorder.on_train_epoch_end

    def stopped(recorder: Recorder, *arguments: Any) -> None:
        real(recorder, *arguments)
        raise RuntimeError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_epoch_end", stopped)
        assert answered(job(store))["error"] == "RuntimeError: stopped here"


def lose_a_tensor(checkpoint: dict[str, Any]) -> None:
    del checkpoint["state_dict"][next(name for name in checkpoint["state_dict"] if name.endswith("scores"))]


def lose_a_callback_s(checkpoint: dict[str, Any]) -> None:
    (state,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("Trace"))
    del state["rows"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lose_a_tensor, "RuntimeError: Error(s) in loading state_dict for LitSubnetwork:"),
        (lose_a_callback_s, "KeyError: 'rows'"),
    ],
)
def test_a_checkpoint_that_loads_and_does_not_fit_is_set_aside_and_the_run_begins_anew(
    change, why, undisturbed, tmp_path, monkeypatch, capfd
):
    store, folder = Store(tmp_path), Store(tmp_path).folder(RUN)
    stop(store, monkeypatch)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / "last.ckpt")
    answer = answered(job(store))
    (note,) = answer["notes"]
    assert answer["status"] == "done", answer
    assert note.startswith(f"{folder}/last.ckpt does not fit {RUN.name}: {why}")
    assert note.endswith("; set aside as last.ckpt.damaged-1, the run begins anew")
    assert note in capfd.readouterr().out
    assert (folder / "last.ckpt.damaged-1").exists()
    (folder / "last.ckpt.damaged-1").unlink()
    assert counted(store) == undisturbed


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("the GPU is full"), OSError(5, "Input/output error")])
def test_what_is_not_the_checkpoint_s_fault_leaves_it(error, tmp_path, monkeypatch):
    store = Store(tmp_path)
    stop(store, monkeypatch)
    before = (store.folder(RUN) / "last.ckpt").read_bytes()

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Recorder, "load_state_dict", fails)
    answer = answered(job(store))
    assert (answer["status"], answer["notes"]) == ("failed", [])
    assert (store.folder(RUN) / "last.ckpt").read_bytes() == before


def test_the_checkpoint_stays_until_the_result_is_written(undisturbed, tmp_path, monkeypatch):
    store, write = Store(tmp_path), writing.write_atomically

    def stop_at_the_result(path: Path, content: str) -> None:
        if path.name == "result.json":
            raise RuntimeError("stopped here")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_atomically", stop_at_the_result)
        assert answered(job(store))["error"] == "RuntimeError: stopped here"
    assert epochs(store.folder(RUN)) == [0, 1, 2, 3]
    assert answered(job(store)) == {"status": "done", "notes": []}
    assert counted(store) == undisturbed
