"""SLURM, with submitit's local jobs: requeued and killed ones; without SLURM, what it would be told."""

import io
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lit_hidden.engine import slurm
from lit_hidden.engine.devices import LauncherError
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.grid import Grid, Plan
from lit_hidden.engine.slurm import Slurm, Task
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.run import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
job, counted, without_time = made["job"], made["counted"], made["without_time"]
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "epochs": 8}
RUNS = [Run(density=0.5, seed=seed, **TINY) for seed in range(4)]


@pytest.mark.slow
def test_runs_of_jobs_killed_and_requeued_end_as_if_nothing_had_been(tmp_path, monkeypatch, forked):
    monkeypatch.setattr(slurm, "_ASK", 0.2)
    monkeypatch.setattr(subprocess, "Popen", forked)
    store, first, second = Store(tmp_path / "runs"), RUNS[0], Run(density=0.5, **{**TINY, "epochs": 1})
    bad = Run(density=0.5, **{**TINY, "net": "no_such_module:net"})
    one = Slurm(store.root, 1, 1, 1, {"cluster": "local", "gpus_per_node": "0"})
    assert (one.device, one.device_name, one.places) == ("cpu", "CPU, 1 thread(s)", 1)
    log, killed, requeued, out = store.folder(first) / "log.txt", [], [], io.StringIO()

    class Disturbed(Grid):
        def look(self) -> None:
            super().look()
            if not killed and log.exists():  # the job is submitit's process, which has started the one that trains
                (begun,) = one._jobs.values()
                killed.append(begun.job_id)
                os.kill(int(Path(f"/proc/{begun.job_id}/task/{begun.job_id}/children").read_text()), signal.SIGKILL)
            elif not requeued and store.progress(first)[0] >= 2:  # what SLURM sends before it stops a job
                requeued.extend(re.findall(r"process (\d+) on", log.read_text())[-1:])
                os.kill(int(requeued[0]), signal.SIGUSR2)

    todo, say = Plan({run.hash: run for run in (first, second, bad)}, {}, {}), Console(file=out, width=200)
    data = {"data_dir": "data"}
    grid = Disturbed(todo, store, one, lambda run: data, lambda *_: None, Clock("cpu", one.device_name), say)
    grid.train(every=0.02)
    assert [failure.run for failure in grid.failures] == [bad]
    how = f"ended with SLURM's job {killed[0]} (FINISHED) after epoch 0"
    assert f"the worker of {first.name} {how}; a new one goes on with it" in out.getvalue()
    assert "stopped by SIGTERM after step" in log.read_text(), "when it was told, it wrote a checkpoint"
    assert int(re.findall(r"after epoch (\d+)\n", log.read_text())[-1]) > 0
    assert counted(store.result(first)) == counted(train(first, tmp_path))
    assert without_time(store.folder(first)) == without_time(tmp_path)
    assert store.done(second)


class Job:
    """A job that does what a test says."""

    def __init__(self, number: int, task: Task) -> None:
        self.job_id, self.task, self.state, self.cancelled = str(number), task, "RUNNING", False
        self.paths = SimpleNamespace(stderr=f"{number}.err")

    def done(self) -> bool:
        return self.state != "RUNNING"

    def cancel(self, check: bool) -> None:
        self.state, self.cancelled = "CANCELLED by 0", True


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """A pool with the list of jobs that it submits; a job does nothing by itself."""
    monkeypatch.setattr(slurm, "_ASK", 0.0)
    one, jobs = Slurm(tmp_path, 3, 1, 1, {"cluster": "local"}), []

    def submit_array(tasks: list[Task]) -> list[Job]:
        jobs.extend([Job(len(jobs) + number, task) for number, task in enumerate(tasks, start=1)])
        return jobs[-len(tasks) :]

    monkeypatch.setattr(one, "_executor", lambda folder, **more: SimpleNamespace(submit_array=submit_array))
    return one, jobs


def named(tmp_path: Path, *runs: Run) -> list[dict[str, Any]]:
    return [job(run, tmp_path) for run in runs]


def test_each_job_begins_with_a_run_of_its_own_and_goes_on_with_the_others(pretended, tmp_path):
    one, jobs = pretended
    first, second, third, fourth = named(tmp_path, *RUNS)
    one.start({0: first, 2: second}, [third, fourth], lambda: None)
    assert [[each["run"]["seed"] for each in made.task.jobs[:1]] for made in jobs] == [[0], [1]]
    assert all({each["run"]["seed"] for each in made.task.jobs} == {0, 1, 2, 3} for made in jobs)
    assert one.ended(0) == []
    slurm._began(one._folder, "1").touch()
    jobs[0].state, jobs[1].state = "NODE_FAIL", "COMPLETED"
    assert one.ended(0) == [(0, "ended with SLURM's job 1 (NODE_FAIL)"), (2, None)]
    assert one.ended(0) == []


@pytest.mark.parametrize(("state", "began"), [("CANCELLED by 1000", True), ("FAILED", False)])
def test_jobs_that_somebody_cancels_or_that_never_begin_are_not_replaced(state, began, pretended, tmp_path):
    one, jobs = pretended
    one.start(dict(enumerate(named(tmp_path, *RUNS[:2]))), [], lambda: None)
    for each in jobs:
        if began:
            slurm._began(one._folder, each.job_id).touch()
    jobs[0].state = state
    assert one.ended(0) == [], "the other one is there"
    jobs[1].state = state
    with pytest.raises(LauncherError) as error:
        one.ended(0)
    assert str(error.value) == f"SLURM's jobs have ended, the last, 2, as {state}; its log is 2.err"


def test_closing_cancels_what_does_not_end_and_keeps_the_logs_of_what_went_wrong(pretended, tmp_path, monkeypatch):
    monkeypatch.setattr(Slurm, "_wait", lambda self, seconds: None)
    one, jobs = pretended
    one.start(dict(enumerate(named(tmp_path, *RUNS[:2]))), [], lambda: None)
    jobs[0].state = "COMPLETED"
    one.close()
    assert [each.cancelled for each in jobs] == [False, True]
    assert one._folder.exists()
    one.start({0: job(RUNS[0], tmp_path)}, [], lambda: None)
    jobs[2].state = "COMPLETED"
    one.close()
    assert not one._folder.exists()


def test_a_job_trains_what_is_free_and_leaves_what_is_done_has_failed_is_held_or_waits(tmp_path, monkeypatch):
    import submitit

    store, done = Store(tmp_path / "runs"), []
    free, failed, held, child = RUNS[0], RUNS[1], RUNS[2], RUNS[3].then()
    store.fail(failed, "no", "run")
    monkeypatch.setattr(slurm, "do", lambda job, group: done.append(job["run"]["seed"]))
    monkeypatch.setattr(submitit, "JobEnvironment", Environment)
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with store.claim(held):
            Task([job(run, store.root) for run in (failed, held, child, free)], tmp_path, False)()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert done == [0]
    assert (tmp_path / "7.began").exists()


class Environment:
    """What submitit says of a job."""

    USR_SIG, job_id = "USR2", "7"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """SLURM's commands: `sbatch` keeps what it is told and `sacct` says of its two jobs what a file says."""
    commands = {
        "srun": "",
        "sbatch": f"cp $1 {tmp_path}/submitted; echo Submitted batch job 12",
        "sacct": f"cat {tmp_path}/states",
    }
    for name, code in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_ASK", 0.0)
    (tmp_path / "states").write_text("JobID|State|NodeList\n12_0|NODE_FAIL|one\n12_1|FAILED|two\n")
    return tmp_path


def test_slurm_is_told_what_is_needed(cluster):
    options = {"partition": "gpu", "account": "me", "timeout_min": "60", "mem_gb": "1.5", "constraint": "h100"}
    one = Slurm(cluster / "runs", 4, 2, 1, options)
    assert (one.device, one.device_name, one.places) == ("cuda", "", 2)
    one.start(dict(enumerate(named(cluster / "runs", *RUNS[:2]))), [], lambda: None)
    with pytest.raises(LauncherError) as error:
        one.ended(0)
    log = f"{one._folder}/12_1_0_log.err"
    assert str(error.value) == f"SLURM's jobs have ended, the last, 12_1, as FAILED; its log is {log}"
    told = dict(re.findall(r"#SBATCH --(\S+?)=(.*)", (cluster / "submitted").read_text()))
    expected = {
        "array": "0-1%2", "partition": "gpu", "account": "me", "time": "60", "mem": "1536MB", "constraint": "h100",
        "gpus-per-node": "2", "nodes": "1", "ntasks-per-node": "1", "job-name": "lit-hidden", "signal": "USR2@300",
    }  # fmt: skip
    assert expected.items() <= told.items()


def test_on_cpu_each_process_has_one_thread_and_on_several_machines_slurm_starts_all(cluster):
    one = Slurm(Path("runs"), 8, 4, 2, {"gpus_per_node": 0})
    assert (one.device, one.device_name, one.places) == ("cpu", "4 x CPU, 1 thread(s)", 2)
    told = one._executor(cluster).parameters
    assert (told["nodes"], told["ntasks_per_node"], told["cpus_per_task"]) == (2, 2, 1)
    assert "export OMP_NUM_THREADS=1" in told["setup"]
    # Not every SLURM takes --gpus-per-node.
    told = Slurm(Path("runs"), 1, 1, 1, {"gres": "gpu:a100:1"})._executor(cluster).parameters
    assert "gpus_per_node" not in told
    assert told["gres"] == "gpu:a100:1"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"options": {"colour": "red"}}, "--launcher slurm: Unknown argument 'colour' for executor 'slurm'"),
        ({"options": {"timeout_min": "an hour"}}, '--launcher slurm: Parameter "timeout_min" expected type'),
        (
            {"options": {"time": "1:00:00", "nodes": "2"}},
            "--slurm nodes, time: it follows from",
        ),
        ({"per_run": 3, "nodes": 2}, "--num-nodes 2: 3 devices a run cannot be shared out evenly"),
        ({"per_run": 0.5}, "--per-run 0.5: this launcher takes a whole number; local and ray"),
        ({"per_run": 4, "devices": 6}, "--devices 6, --per-run 4: give 4 or a multiple of it"),
        ({"options": {"cluster": "nowhere"}}, "--launcher slurm: AutoExecutor doesn't know any executor named nowhere"),
    ],
)
def test_what_slurm_would_not_understand_is_refused_at_once(arguments, error, cluster):
    with pytest.raises(LauncherError) as raised:
        Slurm(**{"root": Path("runs"), "devices": None, "per_run": 1, "nodes": 1, "options": {}, **arguments})
    assert str(raised.value).startswith(error)
    assert not (cluster / "submitted").exists()


def test_jobs_that_slurm_does_not_take_are_an_error_in_its_words(cluster):
    (cluster / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition >&2\nexit 1\n")
    one = Slurm(cluster / "runs", 1, 1, 1, {})
    with pytest.raises(LauncherError) as error:
        one.start({0: job(RUNS[0], cluster)}, [], lambda: None)
    assert str(error.value).startswith("--launcher slurm: the jobs cannot be submitted: ")
    assert "sbatch: error: invalid partition" in str(error.value)


def test_without_slurm_or_submitit_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for gone, error in (
        ({}, "--launcher slurm: there is no srun here; run this where SLURM is, as on a login node"),
        ({"submitit": None}, "--launcher slurm needs submitit: pip install 'lit-hidden[slurm]'"),
    ):
        for name, nothing in gone.items():
            monkeypatch.setitem(sys.modules, name, nothing)
        with pytest.raises(LauncherError) as raised:
            Slurm(tmp_path, 1, 1, 1, {})
        assert str(raised.value) == error
