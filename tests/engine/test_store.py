"""`runs/`: whole files or none, one owner at a time, and damage that is named."""

import json
import os
import subprocess
import sys

import pytest

from lit_hidden.engine.store import Store, StoreError, write_atomically
from lit_hidden.experiment import Run

RUN = Run(density=0.5, net="conv2", data="digits", epochs=2)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs")
    with store.claim(RUN) as folder:
        (folder / "run.json").write_text(RUN.to_json())
        store.finish(RUN, {"accuracy": 50.0})
    return store


def test_a_finished_run_is_found_again_by_an_equal_description(store):
    assert store.result(Run(density=0.5, method="edge_popup", net="conv2", data="digits", epochs=2, lr=0.1)) == {
        "accuracy": 50.0
    }


def test_a_run_without_result_is_not_done(tmp_path):
    store = Store(tmp_path)
    with store.claim(RUN) as folder:
        (folder / "run.json").write_text(RUN.to_json())
        (folder / "metrics.csv").write_text("epoch\n0\n1\n2\n")
    assert store.result(RUN) is None
    assert store.epochs_done(RUN) == 2


def test_damage_is_named_with_its_mend(store):
    folder = store.folder(RUN)
    (folder / "result.json").write_text('{"accuracy": 5')
    with pytest.raises(StoreError) as error:
        store.result(RUN)
    assert str(error.value) == (
        f"{folder} is damaged: Expecting ',' delimiter: line 1 column 15 (char 14); delete {folder} to train it again"
    )
    (folder / "result.json").write_text("[]")
    with pytest.raises(StoreError) as error:
        store.result(RUN)
    assert str(error.value) == f"{folder}/result.json holds no result; delete {folder} to train it again"


def test_a_folder_that_holds_another_run_is_not_believed(store):
    other = Run(density=0.3, net="conv2", data="digits", epochs=2)
    (store.folder(RUN) / "run.json").write_text(other.to_json())
    with pytest.raises(StoreError) as error:
        store.result(RUN)
    assert str(error.value) == (
        f"{store.folder(RUN)} holds another run, conv2-k30-signed_constant-s0, than asked for, "
        f"conv2-k50-signed_constant-s0; delete {store.folder(RUN)} to train it again"
    )


def test_a_claim_keeps_another_process_out_and_ends_with_its_owner(tmp_path):
    store = Store(tmp_path)
    code = (
        "import sys; from lit_hidden.engine.store import Store; from lit_hidden.experiment import Run\n"
        f"run = Run(density=0.5, net='conv2', data='digits', epochs=2)\n"
        f"with Store({str(tmp_path)!r}).claim(run) as folder:\n"
        "    print(folder is not None, flush=True); sys.stdin.readline()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert other.stdout.readline() == "True\n"
    with store.claim(RUN) as folder:
        assert folder is None
    other.kill()
    other.communicate()
    with store.claim(RUN) as folder:
        assert folder == store.folder(RUN)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    store = Store(tmp_path / "runs")
    with pytest.raises(StoreError) as error, store.claim(RUN):
        pass
    folder = store.folder(RUN)
    assert str(error.value) == (
        f"{folder} cannot be written to: [Errno 20] Not a directory: '{folder}'; choose another with --runs-dir"
    )


def test_a_folder_is_tried_before_anything_expensive(tmp_path):
    Store(tmp_path / "new" / "runs").check_writable()
    assert list((tmp_path / "new" / "runs").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as error:
        Store(tmp_path / "file").check_writable()
    assert str(error.value) == (
        f"{tmp_path}/file cannot be written to: [Errno 17] File exists: '{tmp_path}/file'; "
        "choose another with --runs-dir"
    )


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_the_full_description_lies_beside_the_result(store):
    described = json.loads((store.folder(RUN) / "run.json").read_text())
    assert described["lr"] == 0.1
    assert described["schema"] == 1
