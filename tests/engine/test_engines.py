"""`lit-hidden reproduce` as users run it, whole trees of processes: killed, stopped, two at a time on one folder."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from training import counted, gone, job, until, without_time

from lit_hidden.engine.store import Store
from lit_hidden.engine.work import work
from lit_hidden.run import Run

ROOT = Path(__file__).parents[2]
EXPERIMENT = '''
"""A grid of every method."""
from lit_hidden.run import Run, vary
from lit_hidden.judge import Claim

TINY = {"net": "conv2", "width": 0.1, "data": "digits", "train_images": 300}

def runs(preset):
    hidden = Run(density=0.5, epochs=8, **TINY)
    return [hidden, Run(density=0.5, method="ticket", epochs=8, **TINY), Run(epochs=2, **TINY),
            Run(density=0.5, method="random", **TINY)]

CLAIMS = [Claim("above chance", lambda r: r.mean() - 10)]

def draw(results, figure):
    figure.add_subplot().plot(results.values())
'''


COMMAND = """
import os, signal, sys
from multiprocessing import util
from lit_hidden.cli import main

def fork(path, arguments, files):
    '''Start multiprocessing's fork server from this process, where torch is imported, and not from a new one.'''
    if child := os.fork():
        return child
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for first, last in zip([2, *sorted(files)], [*sorted(files), os.sysconf("SC_OPEN_MAX")]):
            os.closerange(first + 1, last)
        exec(arguments[-1])
    finally:
        os._exit(0)

util.spawnv_passfds = fork
main(sys.argv[1:])
"""


class Engine:
    """`lit-hidden reproduce grid` with one worker, in a process group of its own."""

    def __init__(self, checkout: Path, start: Callable[..., Any]) -> None:
        settings = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "COLUMNS": "160", "CUDA_VISIBLE_DEVICES": ""}
        self.process = start(
            [sys.executable, "-c", COMMAND, "reproduce", "grid", "--preset", "smoke", "--devices", "1"],
            cwd=checkout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
            start_new_session=True,
        )

    def worker(self, other_than: int | None = None) -> int:
        """Wait for its worker, a process that one of its own has forked, and return the id of that process."""
        while True:
            for pid in [pid for child in children(self.process.pid) for pid in children(child)]:
                if pid != other_than and not gone(pid):
                    return pid
            time.sleep(0.02)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end and return its status and what it printed."""
        printed, said = self.process.communicate(timeout=300)
        return self.process.returncode, printed, said


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    with suppress(OSError):
        return [int(child) for path in tasks for child in path.read_text().split()]
    return []


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "grid.py").write_text(EXPERIMENT)
    return tmp_path


def grid() -> list[Run]:
    names: dict[str, Any] = {}
    exec(EXPERIMENT, names)
    runs: list[Run] = names["runs"]("smoke")
    return runs


def outcomes(store: Store) -> list[Any]:
    """What the runs left but for times."""
    found = []
    for run in grid():
        result = store.result(run)
        assert result is not None
        assert store.damage(run) is None
        found.append((without_time(store.folder(run)), counted(result)))
    return found


def times_trained(store: Store, run: Run) -> int:
    log = store.folder(run) / "log.txt"
    text = log.read_text() if log.exists() else ""
    return len(re.findall(rf"^\S+ process \d+ on \S+ trains {re.escape(run.name)}, ", text, re.MULTILINE))


def test_a_grid_killed_and_stopped_in_every_way_is_finished_by_two_engines_at_once(checkout, forked):
    store, runs = Store(checkout / "runs"), grid()

    def epochs() -> int:
        return sum(store.progress(run) for run in runs)

    # A worker is killed and replaced; then Ctrl-C, which in a terminal reaches the whole process group.
    engine = Engine(checkout, forked)
    worker = engine.worker()
    until(lambda: epochs() >= 1)
    os.kill(worker, signal.SIGKILL)
    worker, before = engine.worker(other_than=worker), epochs()
    until(lambda: epochs() > before)
    os.killpg(engine.process.pid, signal.SIGINT)
    status, printed, said = engine.end()
    assert status == 130
    assert said == "lit-hidden: stopped; the same command goes on where this one was\n"
    assert re.search(r"the worker of \S+ was killed by SIGKILL after epoch \d; a new one goes on with it", printed)
    assert gone(worker)

    # The engine is killed, and its worker with it.
    engine, before = Engine(checkout, forked), epochs()
    worker = engine.worker()
    until(lambda: epochs() > before)
    engine.process.kill()
    until(lambda: gone(worker), 10)
    assert engine.end()[0] == -signal.SIGKILL

    # Two engines finish it: each run that is left is trained by one of them.
    left = [run for run in runs if not store.done(run)]
    assert len(left) >= 2
    trained = {run: times_trained(store, run) for run in left}
    engines = [Engine(checkout, forked), Engine(checkout, forked)]
    ends = [engine.end() for engine in engines]
    for status, printed, said in ends:
        assert (status, said) == (0, "")
        assert "results/grid/smoke/figure.svg" in printed
    first, second = ([line for line in printed.splitlines() if "above chance" in line] for _, printed, _ in ends)
    assert first == second != []
    assert [times_trained(store, run) - trained[run] for run in left] == [1] * len(left)
    assert {path.name for path in store.root.iterdir()} == {run.hash for run in runs}, "nothing was set aside"
    written = checkout / "results" / "grid" / "smoke"
    assert {path.name for path in written.iterdir()} == {"figure.svg", "figure.png", "results.csv", "verdicts.json"}

    undisturbed = Store(checkout / "undisturbed")
    for run in runs:
        work(job(run, undisturbed.root))
    assert outcomes(store) == outcomes(undisturbed)
