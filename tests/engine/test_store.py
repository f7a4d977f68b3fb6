"""`runs/`: whole files or none, one owner at a time, and damage that is named and set aside."""

import hashlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.code import spec
from lit_hidden.engine.store import Store, StoreError, write_atomically
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
RUN = Run(density=0.5, net="conv2", data="digits", epochs=2)
BOTH = (spec("trace.Trace", updates=5), spec("swaps.Swaps", updates=5))
TRACED = Run(density=0.5, net="conv2", data="digits", epochs=2, callbacks=BOTH)
CHILD = RUN.then(method="ticket")
CURVE = "epoch,step,seconds,test_top1\n0,0,0.0,10.0\n1,12,1.5,40.0\n2,24,3.0,50.0\n"


def finish(store: Store, run: Run = RUN) -> Path:
    """Leave what a run of two epochs leaves that ended at 50%."""
    folder: Path = made["leave"](store, run)
    return folder


def begin(store: Store) -> Path:
    """Leave what a run leaves that was killed in its second epoch."""
    with store.claim(RUN) as folder:
        assert folder is not None
        (folder / "run.json").write_text(RUN.to_json())
        (folder / "metrics.csv").write_text(CURVE.rpartition("2,24")[0])
        with zipfile.ZipFile(folder / "last.ckpt", "w") as parts:
            parts.writestr("archive/data/0", bytes(1000))
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_a_finished_run_is_found_again_by_an_equal_description(store):
    finish(store)
    equal = Run(density=0.5, method="edge_popup", net="conv2", data="digits", epochs=2, lr=0.1)
    assert store.result(equal) == {"accuracy": 50.0}
    assert store.done(equal)
    assert store.damage(equal) is None


def test_a_run_without_result_is_not_done(store):
    assert (store.result(RUN), store.done(RUN), store.progress(RUN)) == (None, False, (0, 0.0))
    begin(store)
    assert (store.result(RUN), store.done(RUN), store.progress(RUN)) == (None, False, (1, 1.5))
    assert store.damage(RUN) is None
    assert store.mend(RUN) is None


def write(name: str, text: str | None):
    def damage(folder: Path) -> None:
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)

    return damage


OTHER = Run(density=0.3, net="conv2", data="digits", epochs=2)
NEWER = json.dumps({**json.loads(RUN.to_json()), "schema": 2})


def socketed(path: Path) -> None:
    """Put a socket where a file was; its address may have 107 bytes, so it is made elsewhere."""
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{short}/s")
        os.rename(f"{short}/s", path)


DAMAGE = {
    "result cut": (write("result.json", '{"accuracy": 5'), "result.json: Expecting ',' delimiter: line 1 column 15"),
    "result empty": (write("result.json", ""), "result.json: Expecting value: line 1 column 1 (char 0)"),
    "result no text": (lambda f: (f / "result.json").write_bytes(b"\xff\xfe"), "result.json: 'utf-8' codec can't"),
    "result no dictionary": (write("result.json", "[]"), "result.json: its accuracy is None, not a number"),
    "no accuracy": (write("result.json", '{"top5": 1}'), "result.json: its accuracy is None, not a number"),
    "accuracy nan": (write("result.json", '{"accuracy": NaN}'), "result.json: its accuracy is nan, not a number"),
    "accuracy null": (write("result.json", '{"accuracy": null}'), "result.json: its accuracy is None, not a number"),
    "accuracy text": (write("result.json", '{"accuracy": "9"}'), "result.json: its accuracy is 9, not a number"),
    "accuracy true": (write("result.json", '{"accuracy": true}'), "result.json: its accuracy is True, not a number"),
    "no description": (write("run.json", None), "run.json: it is missing"),
    "description worded otherwise": (
        lambda f: (f / "run.json").write_text((f / "run.json").read_text() + " "),
        "run.json: it is not the one whose checksum is in result.json",
    ),
    "result nested": (write("result.json", "[" * 100_000), "result.json: maximum recursion depth exceeded"),
    "description nested": (write("run.json", "[" * 100_000), "run.json: maximum recursion depth exceeded"),
    "result without checksums": (
        write("result.json", '{"accuracy": 50.0, "swaps": {}}'), "result.json: it is not what its checksum is of"
    ),
    "result changed": (
        lambda f: (f / "result.json").write_text((f / "result.json").read_text().replace("50.0", "50.1")),
        "result.json: it is not what its checksum is of",
    ),
    "checksum no checksum": (
        write("result.json", '{"accuracy": 50.0, "swaps": {}, "checksums": 3}'),
        "result.json: it is not what its checksum is of",
    ),
    "description newer": (write("run.json", NEWER), "run.json: not a run description of schema 1: "),
    "description of no run": (write("run.json", RUN.to_json().replace('"conv2"', "[]")), "run.json: "),
    "another run": (
        write("run.json", OTHER.to_json()),
        f"it holds another run, {OTHER.name}, than asked for, {TRACED.name}",
    ),
    "no curve": (write("metrics.csv", None), "metrics.csv: it is missing"),
    "another number in the middle of the curve": (
        write("metrics.csv", CURVE.replace("40.0", "41.0")),
        "metrics.csv: it is not the one whose checksum is in result.json",
    ),
    "no trace": (write("trace.npz", None), "trace.npz: it is missing"),
    "no swaps": (write("swaps.npz", None), "swaps.npz: it is missing"),
    "a pipe": (lambda f: ((f / "metrics.csv").unlink(), os.mkfifo(f / "metrics.csv")), "metrics.csv: "),
    "a socket": (lambda f: ((f / "trace.npz").unlink(), socketed(f / "trace.npz")), "trace.npz: "),
    "trace cut": (
        lambda f: (f / "trace.npz").write_bytes(b"PK\x03\x04 and no end"),
        "trace.npz: it is not the one whose checksum is in result.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_named_and_set_aside_whole(kind, store, tmp_path):
    harm, why = DAMAGE[kind]
    folder = finish(store, TRACED)
    harm(folder)
    if kind == "another run":
        why = why.replace("conv2-k50-signed_constant-s0", TRACED.name)
    before = {path.name: path.is_file() and path.read_bytes() for path in folder.iterdir()}
    assert store.result(TRACED) is None
    reason = store.damage(TRACED)
    assert reason is not None
    assert reason.startswith(why)
    aside = tmp_path / "runs" / f"{TRACED.hash}.damaged-1"
    assert store.mend(TRACED) == (
        f"{folder} is damaged: {reason}; set aside as {aside.name}, {TRACED.name} is trained again"
    )
    assert not folder.exists()
    assert {path.name: path.is_file() and path.read_bytes() for path in aside.iterdir()} == before
    assert store.mend(TRACED) is None
    assert finish(store, TRACED) == folder
    assert store.result(TRACED) == {"accuracy": 50.0}


OWN = {"supermask": "density_sampled", "ticket": "accuracy_before"}


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("value", [None, "0.5", float("nan")])
def test_a_result_without_a_number_that_its_method_must_have_is_damaged(method, value, store):
    run = Run(density=0.5, method=method, net="conv2", data="digits", epochs=2)
    finish(store, run)
    assert store.damage(run) is None
    made["leave"](store, run, **{OWN[method]: value})
    assert store.result(run) is None
    assert store.damage(run) == f"result.json: its {OWN[method]} is {value}, not a number"


def test_a_result_says_what_was_left_beside_it(store):
    folder = finish(store, TRACED)
    sums = json.loads((folder / "result.json").read_text())["checksums"]
    names = ["metrics.csv", "run.json", "subnetwork.safetensors", "swaps.npz", "trace.npz"]
    expected = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    assert sums == {"result.json": hashlib.sha256(b'{"accuracy": 50.0}').hexdigest(), **expected}
    assert "checksums" not in store.result(TRACED)


def test_whatever_json_holds_comes_back_under_its_checksum(store):
    odd = {"accuracy": 50.0, "loss": float("inf"), "none": None, "third": 1 / 3, "text": "π", "list": [1, [2.0]]}
    made["leave"](store, RUN, **odd)
    assert store.damage(RUN) is None
    assert store.result(RUN) == odd


def test_a_bit_that_turns_in_a_folder_is_found_or_changes_nothing_that_is_read(store):
    folder = finish(store, TRACED)
    told = store.result(TRACED)
    for path in folder.glob("*.*"):
        before, net = path.read_bytes(), path.suffix == ".safetensors"
        for bit in range(0, 8 * len(before), 13):
            flipped = bytearray(before)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert net or store.result(TRACED) in (None, told)
            assert path.name == "result.json" or store.damage(TRACED, TRACED.then(method="ticket")) is not None
        path.write_bytes(before)
    assert store.result(TRACED) == told


def test_who_reads_results_hears_of_damage(store):
    finish(store)
    assert len(store.results([RUN, OTHER])) == 1
    (store.folder(RUN) / "result.json").write_text("[]")
    with pytest.raises(StoreError) as error:
        store.results([RUN, OTHER])
    assert str(error.value) == (
        f"{store.folder(RUN)} is damaged: result.json: its accuracy is None, not a number; "
        f"reproduce sets it aside and trains {RUN.name} again"
    )


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


BEGUN = {
    "checkpoint cut": (lambda f: (f / "last.ckpt").write_bytes((f / "last.ckpt").read_bytes()[:700]),
                       "last.ckpt: File is not a zip file"),
    "checkpoint empty": (lambda f: (f / "last.ckpt").write_bytes(b""), "last.ckpt: File is not a zip file"),
    "a bit turned": (lambda f: flip(f / "last.ckpt"), "last.ckpt: the checksum of archive/data/0 is wrong"),
    "a pipe": (lambda f: ((f / "last.ckpt").unlink(), os.mkfifo(f / "last.ckpt")), "last.ckpt: "),
    "of nobody": (write("run.json", None), "run.json: it is missing"),
    "another's": (write("run.json", OTHER.to_json()), f"it holds another run, {OTHER.name}, than "),
}  # fmt: skip


@pytest.mark.parametrize("kind", BEGUN)
def test_a_run_does_not_go_on_from_a_damaged_checkpoint(kind, store):
    harm, why = BEGUN[kind]
    harm(begin(store))
    reason = store.damage(RUN)
    assert reason is not None
    assert reason.startswith(why)
    assert store.mend(RUN) is not None
    assert store.progress(RUN) == (0, 0.0)


def test_a_run_that_has_no_checkpoint_yet_begins_anew_whatever_else_is_there(store):
    folder = begin(store)
    (folder / "last.ckpt").unlink()
    (folder / "run.json").write_text("{")
    assert store.damage(RUN) is None


def test_a_closer_look_is_taken_at_runs_that_are_not_done(store):
    begin(store)
    line = store.mend(RUN, look=lambda folder: f"{folder.name} looks odd")
    assert line is not None
    assert f"is damaged: {RUN.hash} looks odd; set aside" in line
    finish(store)
    assert store.mend(RUN, look=lambda folder: "never called") is None


def test_a_parent_without_its_subnetwork_is_set_aside_for_its_child_alone(store):
    folder = finish(store)
    (folder / "subnetwork.safetensors").unlink()
    assert store.damage(RUN) is None
    either = "subnetwork.safetensors or scores.safetensors"
    assert store.damage(RUN, CHILD) == f"it lacks {either}, which {CHILD.name} needs"
    (folder / "subnetwork.safetensors").write_bytes(b"")
    assert store.mend(RUN, CHILD) is None
    assert store.damage(RUN, RUN.then()) == f"it lacks scores.safetensors, which {RUN.then().name} needs"
    (folder / "subnetwork.safetensors").write_bytes(b"another")
    why = "subnetwork.safetensors: it is not the one whose checksum is in result.json"
    assert store.damage(RUN) == store.damage(RUN, CHILD) == why
    with pytest.raises(StoreError) as error:
        store.check_file(RUN, "subnetwork.safetensors")
    assert str(error.value) == f"{folder} is damaged: {why}; reproduce sets it aside and trains {RUN.name} again"
    assert store.mend(RUN, CHILD) is not None
    assert not folder.exists()


def test_a_file_where_the_folder_should_be_is_set_aside(store):
    store.root.mkdir()
    store.folder(RUN).write_text("a file")
    assert store.result(RUN) is None
    assert store.progress(RUN) == (0, 0.0)
    assert not store.held(RUN)
    aside = Path(f"{store.folder(RUN)}.damaged-1")
    assert store.mend(RUN) == (
        f"{store.folder(RUN)} is damaged: it is no folder; set aside as {aside.name}, {RUN.name} is trained again"
    )
    assert aside.read_text() == "a file"
    finish(store)


def test_nothing_set_aside_is_overwritten(store):
    for number in (1, 2, 3):
        finish(store)
        (store.folder(RUN) / "result.json").write_text(str(number))
        assert store.mend(RUN) is not None
        assert Path(f"{store.folder(RUN)}.damaged-{number}/result.json").read_text() == str(number)


CODE = """
import sys
from lit_hidden.engine.store import Store
from lit_hidden.run import Run
store, run = Store(sys.argv[1]), Run.from_json(sys.argv[2])
"""


@pytest.fixture
def process(store):
    """Start a process that has `store` and `run` and does what it is told, line by line."""
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CODE + code, str(store.root), RUN.to_json()]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        started.append(subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


HOLD = "with store.claim(run) as folder: print(folder is not None, flush=True); sys.stdin.readline()"


def test_a_claim_keeps_another_process_out_and_ends_with_its_owner(store, process):
    other = process(HOLD)
    assert other.stdout.readline() == "True\n"
    assert store.held(RUN)
    with store.claim(RUN) as folder:
        assert folder is None
    other.kill()
    other.communicate()
    assert not store.held(RUN)
    with store.claim(RUN) as folder:
        assert folder == store.folder(RUN)


def test_a_damaged_folder_in_which_a_process_is_at_work_is_left_to_it(store, process):
    (finish(store) / "result.json").write_text("{")
    other = process(HOLD)
    assert other.stdout.readline() == "True\n"
    assert store.mend(RUN) is None
    assert (store.folder(RUN) / "result.json").read_text() == "{"
    other.kill()
    other.communicate()
    assert store.mend(RUN) is not None


def test_of_many_processes_that_mend_at_once_one_does(store, process):
    (finish(store) / "result.json").write_text("{")
    others = [process("print(flush=True); sys.stdin.readline(); print(store.mend(run) is not None)") for _ in range(6)]
    for other in others:
        other.stdout.readline()
    for other in others:
        other.stdin.write("now\n")
        other.stdin.flush()
    assert sorted(other.communicate()[0] for other in others) == ["False\n"] * 5 + ["True\n"]
    assert [path.name for path in store.root.iterdir()] == [f"{RUN.hash}.damaged-1"]


def test_a_run_that_ends_well_while_it_is_looked_at_is_not_set_aside(store, monkeypatch):
    import fcntl

    (begin(store) / "last.ckpt").write_bytes(b"")
    assert store.damage(RUN) is not None
    lock = fcntl.flock

    def flock(file, how):
        monkeypatch.undo()
        finish(store)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert store.mend(RUN) is None
    assert store.result(RUN) == {"accuracy": 50.0}


def test_a_claim_on_a_folder_that_is_set_aside_meanwhile_is_on_the_new_one(store, monkeypatch):
    import fcntl

    folder = finish(store)
    lock, moves = fcntl.flock, []

    def flock(file, how):
        if not moves:  # between opening the lock and taking it
            moves.append(folder.rename(f"{folder}.damaged-1"))
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with store.claim(RUN) as claimed:
        assert claimed == folder
        assert [path.name for path in folder.iterdir()] == [".claim"]
        monkeypatch.undo()
        assert store.held(RUN)
        assert not Store(store.root.with_name("elsewhere")).held(RUN)


def test_asking_whether_a_run_is_held_leaves_nothing(store):
    assert not store.held(RUN)
    assert not store.root.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    store = Store(tmp_path / "runs")
    with pytest.raises(StoreError) as error, store.claim(RUN):
        pass
    folder = store.folder(RUN)
    assert str(error.value) == (
        f"{folder} cannot be written to: [Errno 20] Not a directory: '{folder}'; choose another with --runs-dir"
    )


@pytest.mark.parametrize("name", ["result.json", "run.json", "metrics.csv"])
def test_a_folder_that_may_not_be_read_is_named_and_not_set_aside(name, store, monkeypatch):
    folder, read = finish(store), Path.read_bytes

    def forbidden(path, *args, **kwargs):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    for look in (store.damage, store.mend, store.result):
        with pytest.raises(StoreError) as error:
            look(RUN)
        assert str(error.value) == (
            f"{folder} cannot be read: [Errno 13] Permission denied: '{folder}/{name}'; "
            "mend that, or choose another folder with --runs-dir"
        )


def test_a_damaged_folder_that_cannot_be_moved_is_named(store, monkeypatch):
    (finish(store) / "result.json").write_text("[]")

    def forbidden(path, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", forbidden)
    with pytest.raises(StoreError) as error:
        store.mend(RUN)
    assert str(error.value) == (
        f"{store.folder(RUN)} is damaged (result.json: its accuracy is None, not a number) and cannot be set aside: "
        "[Errno 13] Permission denied"
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


def test_a_folder_that_cannot_be_written_is_named_and_not_the_part_of_a_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(tmp_path / "nowhere" / "result.json", "new")
    assert str(error.value) == f"[Errno 2] No such file or directory: '{tmp_path}/nowhere'"


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
    finish(store)
    described = json.loads((store.folder(RUN) / "run.json").read_text())
    assert described["lr"] == 0.1
    assert described["schema"] == 1


def test_a_folders_name_is_hashed_once(store, monkeypatch):
    runs, hashed, sha256 = [Run(density=0.5, seed=seed) for seed in range(3)], [], hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda text: hashed.append(text) or sha256(text))
    for _ in range(4):
        assert len({store.folder(run) for run in runs}) == 3
    assert len(hashed) == 3
