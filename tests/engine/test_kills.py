"""`kill -9` at any moment: nothing half-written is believed, and what ends is bit-equal to what was never disturbed.

What a kill leaves changes only with the operations on files, so workers are killed before these. They are real
processes.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from training import counted, job, without_time

from lit_hidden.code import spec
from lit_hidden.engine.store import Store
from lit_hidden.engine.work import work
from lit_hidden.run import Run

TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200}
TRACE = (spec("trace.Trace", updates=3),)
FOUND = Run(density=0.5, epochs=2, callbacks=TRACE, **TINY)
EARLY = spec("early.Early", every=1)
WATCHED = (spec("lesion.Lesion", epoch=1), EARLY, spec("rewind.Snapshot", update=1))
LESIONED = Run(epochs=2, held_out=40, callbacks=WATCHED, **TINY)
GRID = [
    FOUND,
    FOUND.then(method="ticket"),
    Run(density=0.5, method="supermask", epochs=2, **TINY),
    LESIONED,
    LESIONED.then(callbacks=(EARLY, spec("rewind.Prune", density=0.1, rewind=1))),
]
# Does jobs in a folder. Before an operation on a file there, the one of the number sys.argv[2] kills it; or, if that
# is 0, the folder is copied, which is what a kill would leave.
CODE = """
import json, os, shutil, signal, sys
from lit_hidden.engine.work import work

folder, number, count = sys.argv[1], int(sys.argv[2]), 0

def look(event, args):
    global count
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or event in ("os.rename", "os.remove")) and f"{folder}/" in f"{args[0]} {args[1]}":
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 0:
            shutil.copytree(folder, f"{folder}-{count}")

sys.addaudithook(look)
for job in json.loads(sys.argv[3]):
    work(job)
"""


@pytest.fixture
def worker(forked, tmp_path):
    """Start a worker on runs in a store, and return how it ended."""
    (tmp_path / "tmp").mkdir()

    def start(runs: list[Run], store: Store, number: int) -> int:
        jobs = json.dumps([job(run, store.root) for run in runs])
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path / "tmp")}
        process = forked([sys.executable, "-c", CODE, str(store.root), str(number), jobs], stdout=-1, env=environment)
        process.communicate()
        return process.returncode

    yield start
    assert list((tmp_path / "tmp").iterdir()) == [], "a worker that is killed leaves nothing elsewhere"


def outcome(run: Run, store: Store) -> dict[str, Any]:
    """Everything that a run left but for times. A kill may come before the checkpoint's removal: nobody reads it."""
    result, folder = store.result(run), store.folder(run)
    assert result is not None, store.damage(run)
    assert store.damage(run) is None
    files: dict[str, Any] = {}
    for path in sorted(set(folder.iterdir()) - {folder / "last.ckpt"}):
        files[path.name] = None
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                files[path.name] = {name: (array.shape, array.tobytes()) for name, array in arrays.items()}
        elif path.suffix == ".safetensors":
            tensors = {name: (tensor.shape, tensor.tobytes()) for name, tensor in load_file(path).items()}
            with safe_open(path, "np") as file:  # its entries have no order
                files[path.name] = tensors, file.metadata()
    return {"result": counted(result), "curve": without_time(folder), "files": files}


def kept(run: Run, store: Store) -> int:
    """Count the epochs that a run does not have to do again."""
    path = store.folder(run) / "last.ckpt"
    if store.done(run) or not path.exists():
        return run.epochs if store.done(run) else 0
    return int(torch.load(path, weights_only=True)["callbacks"]["Recorder"]["rows"][-1]["epoch"])


def test_workers_killed_again_and_again_leave_what_undisturbed_ones_leave(worker, tmp_path):
    whole, store, moments, kills = Store(tmp_path / "whole"), Store(tmp_path / "killed"), random.Random(0), 0
    before = [0] * len(GRID)
    while (ended := worker(GRID, store, moments.randint(20, 45))) != 0:
        assert ended == -signal.SIGKILL
        kills += 1
        after = [kept(run, store) for run in GRID]
        assert all(now >= then for now, then in zip(after, before, strict=True)), "an epoch was lost that was kept"
        before = after
    assert kills >= 5
    for run in GRID:
        work(job(run, whole.root))
        assert outcome(run, store) == outcome(run, whole), run.name
    assert {path.name for path in store.root.iterdir()} == {run.hash for run in GRID}, "nothing was set aside"


def test_a_worker_killed_before_each_of_its_operations_on_files_loses_no_epoch(worker, tmp_path):
    run, whole = Run(density=0.5, epochs=1, callbacks=TRACE, **TINY), Store(tmp_path / "whole")
    count, before, seen, resumed = 0, 0, None, 0
    whole.check_writable()
    assert worker([run], whole, 0) == 0
    while (root := tmp_path / f"whole-{count + 1}").exists():
        count, store = count + 1, Store(root)
        there = {path.name: path.read_bytes() for path in root.rglob("*.*") if path.suffix != ".part"}
        if there == seen:  # a file was opened beside its place
            continue
        seen, resumed = there, resumed + 1
        assert not store.done(run) or outcome(run, store)["files"].keys() >= outcome(run, whole)["files"].keys()
        assert kept(run, store) >= before, f"operation {count - 1} loses an epoch that was kept"
        before = kept(run, store)
        work(job(run, root))
        assert outcome(run, store) == outcome(run, whole), f"killed before operation {count}"
    assert (count, resumed) >= (15, 8)
