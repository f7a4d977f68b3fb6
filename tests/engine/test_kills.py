"""`kill -9` at any moment: nothing half-written is believed, and what ends is bit-equal to what was never disturbed.

Workers are real processes, forked from one that has imported torch, so that a kill costs no 10 seconds.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from lit_hidden.code import spec
from lit_hidden.engine.store import Store
from lit_hidden.run import Run

pytestmark = pytest.mark.slow

TINY = {"net": "conv2", "width": 0.1, "data": "digits", "train_images": 300, "epochs": 2}
TICKET = Run(density=0.5, method="ticket", **TINY)
PRUNED = Run(**TINY).then(callbacks=(spec("rewind.Prune", density=0.5),))
GRID = [
    Run(density=0.5, callbacks=(spec("trace.Trace", updates=20),), **TINY),
    Run(**TINY),
    Run(density=0.5, method="supermask", **TINY),
    Run(density=0.5, method="random", **TINY),
    TICKET.parent,
    TICKET,
    Run(callbacks=(spec("lesion.Lesion", epoch=1),), **TINY),
    PRUNED,
    PRUNED.then(callbacks=(spec("rewind.Prune", density=0.25),)),
]
NURSERY = """
import json, os, signal, sys, time
import torch
import lit_hidden.engine.train
from lit_hidden.engine.work import work

torch.set_num_threads(1)

def die_at(number, folder):
    '''Kill this process before its file operation of that number in a folder.'''
    def hook(event, args):
        nonlocal number
        writes = event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ('os.rename', 'os.remove')) and folder in str(args[0]) + str(args[1]):
            number -= 1
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def spent(child):
    '''Give a process' seconds of CPU time: a busy machine kills as early as an idle one.'''
    with open(f'/proc/{child}/stat') as file:
        return sum(map(int, file.read().rpartition(')')[2].split()[11:13])) / os.sysconf('SC_CLK_TCK')

answers = os.fdopen(os.dup(1), 'w', buffering=1)
os.dup2(2, 1)
work(json.loads(sys.stdin.readline()))  # what is imported and read now is there in every child
for line in sys.stdin:
    jobs, seconds, number = json.loads(line)
    child = os.fork()
    if child == 0:
        if number:
            die_at(number, jobs[0]['runs_dir'])
        os._exit(any(work(job) for job in jobs))
    while seconds is not None and os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if spent(child) >= seconds:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.005)
    _, status, used = os.wait4(child, 0)
    print(status, used.ru_utime + used.ru_stime, file=answers)
"""


class Nursery:
    """Train runs one by one in a worker, which is killed or not."""

    def __init__(self, forked: Callable[..., Any], folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = forked([sys.executable, "-c", NURSERY], **pipes, env=environment)
        self._tell(self._jobs(GRID[2:3], folder / "warm")[0])

    def train(self, runs: list[Run], runs_dir: Path, *, seconds: float | None = None, number: int | None = None) -> int:
        """Return how the worker ended: 0, or SIGKILL, sent after so many seconds or before that file operation."""
        self._tell([self._jobs(runs, runs_dir), seconds, number])
        assert self.process.stdout is not None
        status, used = self.process.stdout.readline().split()
        self.seconds = float(used)
        return int(status)

    def _jobs(self, runs: list[Run], runs_dir: Path) -> list[dict[str, Any]]:
        here = {"runs_dir": str(runs_dir), "data_dir": "data", "device": "cpu", "threads": 1}
        return [{**here, "run": json.loads(run.to_json()), "devices": 1} for run in runs]

    def _tell(self, order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def nursery(forked, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("tmp")
    nursery = Nursery(forked, temporary)
    yield nursery
    nursery.process.stdin.close()
    nursery.process.wait()
    nursery.process.stdout.close()
    assert [path.name for path in temporary.iterdir()] == ["warm"], "a worker that is killed leaves nothing elsewhere"


def outcome(run: Run, store: Store) -> dict[str, Any]:
    """Everything that a run left but for times and its log.

    Nor is a checkpoint compared: a kill may come between the result and its removal, and then nobody reads it.
    """
    result, folder = store.result(run), store.folder(run)
    assert result is not None, store.damage(run)
    assert store.damage(run) is None
    with (folder / "metrics.csv").open(newline="") as file:
        curve = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
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
    return {"result": {k: v for k, v in result.items() if k != "provenance"}, "curve": curve, "files": files}


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    assert nursery.train(GRID, store.root) == 0
    assert not list(store.root.rglob("last.ckpt"))
    return [outcome(run, store) for run in GRID], nursery.seconds


def kept(run: Run, store: Store) -> int:
    """Count the epochs that a run does not have to do again."""
    return store.progress(run)[0] if store.done(run) or (store.folder(run) / "last.ckpt").exists() else 0


def phase(store: Store) -> str:
    """Say at what a worker was that has just been killed."""
    folder = next((store.folder(run) for run in GRID if not store.done(run)), None)
    if folder is None or not folder.exists():
        return "between runs"
    names = {path.name for path in folder.iterdir()}
    if any(name.endswith(".part") for name in names):
        return "while writing"
    return "after a checkpoint" if "last.ckpt" in names else "before the first checkpoint"


def test_workers_killed_at_random_moments_leave_what_undisturbed_ones_leave(nursery, undisturbed, tmp_path):
    expected, seconds = undisturbed
    moments, kills, grids = random.Random(0), Counter(), []
    while sum(kills.values()) < 10 or min(kills["before the first checkpoint"], kills["after a checkpoint"]) < 3:
        store = Store(tmp_path / f"grid-{len(grids)}")
        grids.append(store)
        ended, most = None, seconds / 8
        while ended != 0:
            before = [kept(run, store) for run in GRID]
            ended = nursery.train(GRID, store.root, seconds=moments.uniform(0, most))
            assert ended in (0, signal.SIGKILL)
            kills[phase(store)] += ended == signal.SIGKILL
            after = [kept(run, store) for run in GRID]
            assert all(now >= then for now, then in zip(after, before, strict=True)), "an epoch was lost that was kept"
            most = seconds / 8 if after != before else 1.3 * most  # until an epoch fits in
    for store in grids:
        assert [outcome(run, store) for run in GRID] == expected
        assert {path.name for path in store.root.iterdir()} == {run.hash for run in GRID}, "nothing was set aside"


def test_a_worker_killed_before_each_of_its_file_operations_leaves_what_an_undisturbed_one_leaves(nursery, tmp_path):
    small = {**TINY, "epochs": 1, "width": 0.05, "train_images": 200}
    run = Run(density=0.5, callbacks=(spec("trace.Trace", updates=3),), **small)
    assert nursery.train([run], tmp_path / "undisturbed") == 0
    expected, kills, before = outcome(run, Store(tmp_path / "undisturbed")), 0, 0
    while nursery.train([run], tmp_path / str(kills + 1), number=kills + 1) == signal.SIGKILL:
        kills += 1
        store = Store(tmp_path / str(kills))
        assert not store.done(run) or outcome(run, store) == expected
        assert kept(run, store) >= before, f"file operation {kills - 1} loses an epoch that was kept"
        before = kept(run, store)
        assert nursery.train([run], store.root) == 0
        assert outcome(run, store) == expected, f"killed before file operation {kills}"
    assert kills >= 15
