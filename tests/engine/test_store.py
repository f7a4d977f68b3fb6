"""`runs/`: whole files or none, one owner at a time, and damage that is named and set aside."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fabricated import leave

from experiments._archive import pack, unpack
from lit_hidden.code import spec
from lit_hidden.engine.store import Store, StoreError, write_atomically
from lit_hidden.run import Run

RUN = Run(density=0.5, net="conv2", data="digits", epochs=2)
OTHER = Run(density=0.3, net="conv2", data="digits", epochs=2)
BOTH = (spec("trace.Trace", updates=5), spec("swaps.Swaps", updates=5))
TRACED = Run(density=0.5, net="conv2", data="digits", epochs=2, callbacks=BOTH)
CHILD = RUN.then(method="ticket")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_a_finished_run_is_found_again_by_an_equal_description_with_all_that_json_holds(store):
    odd = {"accuracy": 50.0, "loss": float("inf"), "none": None, "third": 1 / 3, "text": "π", "list": [1, [2.0]]}
    leave(store, RUN, **odd)
    equal = Run(density=0.5, method="edge_popup", net="conv2", data="digits", epochs=2, lr=0.1)
    assert store.result(equal) == odd
    assert store.done(equal)
    assert store.damage(equal) is None
    assert json.loads((store.folder(equal) / "run.json").read_text())["lr"] == 0.1, "the full description"


def test_a_run_without_result_is_not_done(store):
    assert (store.result(RUN), store.done(RUN), store.progress(RUN)) == (None, False, 0)
    with store.claim(RUN) as folder:
        (folder / "metrics.csv").write_text("epoch,step,seconds,test_top1\n0,0,0.0,10.0\n1,12,1.5,40.0\n")
    assert (store.result(RUN), store.done(RUN), store.progress(RUN)) == (None, False, 1)
    assert store.damage(RUN) is None
    assert store.mend(RUN) is None


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new, 1))


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


ANOTHER = "it is not the one whose checksum is in result.json"
DAMAGE = [
    (write("result.json", '{"accuracy": 5'), "result.json: Expecting ',' delimiter"),
    (write("result.json", "[" * 100_000), "result.json: maximum recursion depth exceeded"),
    (write("result.json", "[]"), "result.json: it is not what its checksum is of"),
    (replace("result.json", "50.0", "50.1"), "result.json: it is not what its checksum is of"),
    (remove("run.json"), "run.json: "),
    (replace("run.json", "}", " }"), f"run.json: {ANOTHER}"),
    (replace("run.json", '"schema": 1', '"schema": 2'), "run.json: not a run description of schema 1: "),
    (replace("run.json", '"conv2"', "[]"), "run.json: "),
    (write("run.json", OTHER.to_json()), f"run.json: it describes another run, {OTHER.name}, than asked for, "),
    (replace("metrics.csv", "11.0", "12.0"), f"metrics.csv: {ANOTHER}"),
    (remove("swaps.npz"), "swaps.npz: "),
]


@pytest.mark.parametrize(("harm", "why"), DAMAGE, ids=[why for _, why in DAMAGE])
def test_a_damaged_folder_is_named_and_set_aside_whole(harm, why, store, tmp_path):
    folder = leave(store, TRACED)
    harm(folder)
    before = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    assert store.result(TRACED) is None
    reason = store.damage(TRACED)
    assert reason is not None
    assert reason.startswith(f"{folder} is damaged: {why}")
    with pytest.raises(StoreError) as error:
        store.results([TRACED])
    assert str(error.value) == reason
    aside = tmp_path / "runs" / f"{TRACED.hash}.damaged-1"
    assert store.mend(TRACED) == f"{error.value}; set aside as {aside.name}, {TRACED.name} is trained again"
    assert [path.name for path in folder.iterdir()] == [".claim"]
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert store.mend(TRACED) is None
    leave(store, TRACED)
    assert store.result(TRACED) == {"accuracy": 50.0}


def test_a_result_has_checksums_of_itself_and_of_what_was_left_beside_it(store):
    folder = leave(store, TRACED)
    sums = json.loads((folder / "result.json").read_text())["checksums"]
    names = ["metrics.csv", "run.json", "subnetwork.safetensors", "swaps.npz", "trace.npz"]
    expected = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    assert sums == {"result.json": hashlib.sha256(b'{"accuracy": 50.0}').hexdigest(), **expected}


def test_a_bit_that_turns_in_a_folder_is_found_or_changes_nothing_that_is_read(store):
    folder = leave(store, TRACED)
    told = store.result(TRACED)
    for path in folder.glob("*.*"):
        before, net = path.read_bytes(), path.suffix == ".safetensors"
        for bit in range(0, 8 * len(before), 61):
            flipped = bytearray(before)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert net or store.result(TRACED) in (None, told)
            assert path.name == "result.json" or store.damage(TRACED, TRACED.then(method="ticket")) is not None
        path.write_bytes(before)
    assert store.result(TRACED) == told


def test_a_parent_without_its_subnetwork_is_set_aside_for_its_child_alone(store):
    folder = leave(store, RUN)
    (folder / "subnetwork.safetensors").unlink()
    assert store.damage(RUN) is None
    either = "subnetwork.safetensors or scores.safetensors"
    assert store.damage(RUN, CHILD) == f"{folder} lacks {either}, which {CHILD.name} needs"
    (folder / "subnetwork.safetensors").write_bytes(b"")
    assert store.mend(RUN, CHILD) is None
    assert store.damage(RUN, RUN.then()) == f"{folder} lacks scores.safetensors, which {RUN.then().name} needs"
    (folder / "subnetwork.safetensors").write_bytes(b"another")
    assert store.damage(RUN) == store.damage(RUN, CHILD) == f"{folder} is damaged: subnetwork.safetensors: {ANOTHER}"
    assert store.mend(RUN, CHILD) is not None
    assert not store.done(RUN)


def test_nothing_set_aside_is_overwritten(store):
    for number in (1, 2, 3):
        leave(store, RUN)
        (store.folder(RUN) / "result.json").write_text(str(number))
        assert store.mend(RUN) is not None
        assert Path(f"{store.folder(RUN)}.damaged-{number}/result.json").read_text() == str(number)


HOLD = """
import sys
from experiments._archive import pack, unpack
from lit_hidden.engine.store import Store
from lit_hidden.run import Run
with Store(sys.argv[1]).claim(Run.from_json(sys.argv[2])) as folder:
    print(folder is not None, flush=True)
    sys.stdin.readline()
"""


def test_a_claim_keeps_other_processes_out_and_ends_with_its_owner(store, forked):
    assert not store.held(RUN)
    assert not store.root.exists(), "asking leaves nothing"
    (leave(store, RUN) / "result.json").write_text("{")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(store.root), RUN.to_json()]
    other = forked(command, stdin=-1, stdout=-1, text=True, env=environment)
    assert other.stdout.readline() == "True\n"
    assert store.held(RUN)
    with store.claim(RUN) as folder:
        assert folder is None
    assert store.mend(RUN) is None, "a damaged folder in which a process is at work is left to it"
    other.kill()
    other.communicate()
    assert not store.held(RUN)
    with store.claim(RUN) as folder:
        assert folder == store.folder(RUN)
        assert store.mend(RUN) is None
    assert store.mend(RUN) is not None


def test_of_many_that_mend_at_once_one_does(store):
    (leave(store, RUN) / "result.json").write_text("{")
    with ThreadPoolExecutor(4) as pool:  # a lock is held by an opened file, so threads exclude each other too
        answers = list(pool.map(lambda _: store.mend(RUN), range(8)))
    assert sum(answer is not None for answer in answers) == 1
    assert {path.name for path in store.root.iterdir()} == {RUN.hash, f"{RUN.hash}.damaged-1"}


def test_a_kill_while_files_are_set_aside_leaves_a_damaged_run_or_none(store, monkeypatch):
    folder, real, moved = leave(store, TRACED), Path.rename, []
    (folder / "metrics.csv").write_text("epoch")

    def rename(path: Path, other: Path) -> None:
        if len(moved) % 3 == 2:
            moved.append("killed")
            raise KeyboardInterrupt
        moved.append(path.name)
        real(path, other)

    monkeypatch.setattr(Path, "rename", rename)
    kills = 0
    while store.done(TRACED):
        assert store.result(TRACED) is None
        try:
            store.mend(TRACED)
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 2
    assert [path.name for path in folder.iterdir()] == [".claim"]


def test_a_write_is_tried_without_a_trace_and_an_interrupted_one_leaves_the_old_file(store, monkeypatch):
    store.check_writable()
    assert list(store.root.iterdir()) == []
    path = store.root / "result.json"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    with pytest.raises(StoreError, match=rf"^{store.root} cannot be written to: .* No space left .* --runs-dir$"):
        store.check_writable()
    assert path.read_text() == "old"
    assert os.listdir(store.root) == ["result.json"]


@pytest.mark.parametrize("place", [Store.folder, lambda store, run: store.root])
@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda p: p.symlink_to(p), lambda p: p.symlink_to("gone")])
def test_what_is_no_folder_is_said_and_a_fifo_blocks_nothing(make, place, store, tmp_path):
    archive, whole, path = tmp_path / "one.tar.gz", Store(tmp_path / "whole"), place(store, RUN)
    leave(whole, RUN)
    pack(whole, [RUN], archive)
    path.parent.mkdir(exist_ok=True)
    make(path)
    several = (
        lambda run: store.results([run]),
        lambda run: pack(store, [run], archive),
        lambda _: unpack(archive, store),
    )
    for use in (store.done, store.read, store.damage, store.mend, store.progress, store.held, *several):
        with pytest.raises(StoreError, match=f"^{path} is no folder and links to none; remove it, or choose"):
            use(RUN)


def test_a_fifo_in_a_folder_is_damage(store):
    folder = leave(store, RUN)
    for name, why in (("metrics.csv", "metrics.csv: there is no such file"), ("result.json", None)):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert str(store.damage(RUN)) == (f"{folder} is damaged: {why}" if why else "None")
    assert (store.done(RUN), store.progress(RUN)) == (False, 0)
