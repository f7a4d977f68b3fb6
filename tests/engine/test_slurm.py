"""The SLURM launcher, with submitit's local jobs: requeued and killed ones; without SLURM, what it would be told."""

import itertools
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_hidden.engine import slurm
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.launcher import Failure, LauncherError, launcher
from lit_hidden.engine.slurm import SlurmLauncher, Task
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.experiment import Run

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
JOB, counted, without_time = made["JOB"], made["counted"], made["without_time"]
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "epochs": 8}
RUNS = [Run(density=0.5, seed=seed, **TINY) for seed in range(4)]


def said(one: SlurmLauncher) -> list[str]:
    return [one.notes.get() for _ in range(one.notes.qsize())]


@pytest.mark.slow
def test_runs_of_jobs_killed_and_requeued_end_as_if_nothing_had_been(tmp_path, monkeypatch, forked):
    monkeypatch.setattr(slurm, "_ASK", 0.2)
    store, first, second = Store(tmp_path / "runs"), RUNS[0], Run(density=0.5, **{**TINY, "epochs": 1})
    one = launcher("slurm", store, 1, lambda run: JOB, options={"cluster": "local", "gpus_per_node": "0"})
    assert (one.device, one.device_name, one.running) == ("cpu", "CPU, 1 thread(s)", [None])
    log, killed, requeued, seen = store.folder(first) / "log.txt", [], [], []

    def disturb() -> None:
        seen.extend(run for run in one.running if run is not None)
        if seen and not killed:  # as soon as it has taken a run; the job is submitit's process, which has started it
            (job,) = one._jobs
            killed.append(job.job_id)
            listed = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", job.job_id], capture_output=True, text=True, check=True
            )
            os.kill(int(listed.stdout), signal.SIGKILL)
            monkeypatch.setattr(subprocess, "Popen", forked)  # that job has shown what starts; the next are quicker
        elif not requeued and store.progress(first)[0] >= 2:  # what SLURM sends before it stops a job
            requeued.extend(re.findall(r"process (\d+) on", log.read_text()))
            os.kill(int(requeued[0]), signal.SIGUSR2)

    one.launch([first, second], disturb, every=0.02)
    one.close()
    assert (one.failures, one.running) == ([], [None])
    assert list(dict.fromkeys(seen)) == [first, second]
    how = f"ended with SLURM's job {killed[0]} (FINISHED) after epoch 0"
    assert said(one) == [f"the worker of {first.name} {how}; a new one goes on with it"]
    assert "stopped by SIGTERM after step" in log.read_text(), "when it was told, it wrote a checkpoint"
    before, after = map(int, re.findall(r"after epoch (\d+)\n", log.read_text()))
    assert before == 0 < after
    assert counted(store.result(first)) == counted(train(first, tmp_path))
    assert without_time(store.folder(first)) == without_time(tmp_path)
    assert store.done(second)
    assert queues(one) == [], "logs of what went well are nobody's"
    assert Clock.read(store, one.device, one.device_name).estimate([], 1).measured == 2


class Job:
    """A job that does what a test says."""

    def __init__(self, number: int, folder: Path) -> None:
        self.job_id, self.folder, self.state, self.cancelled = str(number), folder, "RUNNING", False
        self.paths = SimpleNamespace(stderr=folder / f"{number}.err")

    def done(self) -> bool:
        return self.state != "RUNNING"

    def cancel(self, check: bool) -> None:
        self.state, self.cancelled = "CANCELLED by 0", True

    def take(self, run: Run) -> bool:
        return slurm._taker(self.folder, run.hash, self.job_id) == self.job_id

    def answer(self, run: Run, status: str, **more: Any) -> None:
        (self.folder / f"{run.hash}.answer").write_text(json.dumps({"status": status, **more}))

    def finish(self, run: Run) -> None:
        assert self.take(run)
        folder = self.folder.parents[1] / run.hash
        folder.mkdir()
        (folder / "result.json").write_text("{}")
        self.answer(run, "done", notes=[f"note of {run.name}"])


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Make launchers with the list of jobs that each submits; a job does nothing by itself."""
    monkeypatch.setattr(slurm, "_ASK", 0.0)

    def make(devices: int | None = None) -> tuple[SlurmLauncher, list[Job]]:
        one = SlurmLauncher(Store(tmp_path / "runs"), devices, lambda run: JOB, options={"cluster": "local"})
        jobs: list[Job] = []

        def submit_array(tasks: list[Task]) -> list[Job]:
            new = [Job(len(jobs) + n, task.folder) for n, task in enumerate(tasks, start=1)]
            jobs.extend(new)
            return new

        monkeypatch.setattr(one, "_executor", lambda folder, **more: SimpleNamespace(submit_array=submit_array))
        return one, jobs

    return make


def launch(one: SlurmLauncher, runs: list[Run], steps: Iterator[None]) -> None:
    """Launch runs; at each poll the next step is made, and a launch that goes on after what the last led to fails."""
    going = itertools.chain(steps, [None])
    one.launch(runs, lambda: next(going), every=0.0)


def queues(one: SlurmLauncher) -> list[Path]:
    return list((one.store.root / ".slurm").iterdir())


def test_as_many_jobs_as_devices_take_the_runs_one_after_the_other(pretended):
    one, jobs = pretended(2)

    def steps() -> Iterator[None]:
        assert len(jobs) == 2
        assert jobs[0].take(RUNS[0])
        assert not jobs[1].take(RUNS[0])
        yield
        assert one.running == [RUNS[0], None]
        jobs[1].finish(RUNS[1])
        jobs[1].finish(RUNS[2])
        jobs[1].state = "COMPLETED"
        yield
        jobs[0].answer(RUNS[0], "held")
        jobs[0].state = "COMPLETED"
        yield

    launch(one, RUNS[:3], steps())
    assert (one.failures, one.running, len(jobs)) == ([], [None, None], 2)
    assert sorted(said(one)) == [f"note of {run.name}" for run in RUNS[1:3]]
    assert queues(one) == []


def test_no_more_jobs_than_runs_are_submitted_and_none_for_no_runs(pretended):
    one, jobs = pretended()

    def steps() -> Iterator[None]:
        for job, run in zip(jobs, RUNS, strict=True):
            job.finish(run)
            job.state = "COMPLETED"
        yield

    launch(one, [], steps())
    assert jobs == []
    launch(one, RUNS, steps())
    assert len(one.running) == 1000, "as many at a time as SLURM likes"


def test_a_job_that_dies_is_replaced_as_long_as_its_run_gets_further(pretended):
    one, jobs = pretended(1)
    (bad, good), store = RUNS[:2], one.store

    def steps() -> Iterator[None]:
        jobs[0].take(bad)
        store.folder(bad).mkdir()
        (store.folder(bad) / "metrics.csv").write_text("epoch,seconds\n0,0.0\n1,1.0\n")
        jobs[0].state = "NODE_FAIL"
        yield
        assert len(jobs) == 2
        assert jobs[1].take(bad), "it is in the queue again"
        jobs[1].state = "OUT_OF_MEMORY"
        yield
        assert len(jobs) == 3
        assert not jobs[2].take(bad), "it is not"
        jobs[2].finish(good)
        jobs[2].state = "COMPLETED"
        yield

    launch(one, [bad, good], steps())
    error = "its worker ended with SLURM's job 2 (OUT_OF_MEMORY), and so did the next one, after epoch 1"
    assert one.failures == [Failure(bad, error, str(jobs[1].paths.stderr))]
    first = f"the worker of {bad.name} ended with SLURM's job 1 (NODE_FAIL) after epoch 1; a new one goes on with it"
    assert said(one) == [first, f"note of {good.name}"]
    assert len(queues(one)) == 1, "the logs are there"


def test_an_answer_that_comes_with_the_end_of_its_job_counts(pretended):
    one, jobs = pretended(1)

    def steps() -> Iterator[None]:
        jobs[0].take(RUNS[0])
        yield
        done = jobs[0].done

        def end_now() -> bool:  # between one look at the queue and the next
            if jobs[0].state == "RUNNING":
                jobs[0].answer(RUNS[0], "failed", error="no", stops="run")
                jobs[0].state = "COMPLETED"
            return done()

        jobs[0].done = end_now
        yield

    launch(one, RUNS[:1], steps())
    assert [failure.error for failure in one.failures] == ["no"]
    assert (said(one), len(jobs)) == ([], 1)


def test_a_job_that_somebody_cancels_is_not_replaced(pretended):
    one, jobs = pretended(2)

    def steps() -> Iterator[None]:
        jobs[0].take(RUNS[0])
        jobs[0].state = "CANCELLED by 1000"
        yield
        jobs[1].finish(RUNS[1])
        jobs[1].state = "CANCELLED by 1000"
        yield

    launch(one, RUNS[:3], steps())
    assert [(f.run, f.error, f.stops) for f in one.failures] == [
        (RUNS[0], "its worker ended with SLURM's job 1 (CANCELLED by 1000)", "run"),
        (RUNS[2], "SLURM's jobs have ended, the last, 2, as CANCELLED by 1000; runs left: 1", "grid"),
    ]
    assert len(jobs) == 2


def test_jobs_that_end_before_they_take_a_run_stop_the_grid_with_their_log(pretended):
    one, jobs = pretended(2)

    def steps() -> Iterator[None]:
        jobs[0].state = "FAILED"
        yield
        jobs[1].state = "FAILED"
        yield

    launch(one, RUNS, steps())
    error = "SLURM's jobs have ended, the last, 2, as FAILED; runs left: 4"
    assert one.failures == [Failure(RUNS[0], error, str(jobs[1].paths.stderr), "grid")]


def test_a_failure_on_data_takes_the_runs_on_them_out_of_the_queue(pretended):
    one, jobs = pretended(1)
    other = Run(density=0.5, **{**TINY, "data": "mnist"})

    def steps() -> Iterator[None]:
        jobs[0].take(RUNS[0])
        jobs[0].answer(RUNS[0], "failed", error="no digits", stops="data")
        yield
        assert not jobs[0].take(RUNS[1])
        jobs[0].finish(other)
        jobs[0].state = "COMPLETED"
        yield

    launch(one, [*RUNS[:2], other], steps())
    assert [(f.run, f.error) for f in one.failures] == [
        (RUNS[0], "no digits"),
        (RUNS[1], f"not tried: {RUNS[0].name} failed on the same data"),
    ]


def test_a_failure_of_the_grid_empties_the_queue_and_waits_for_what_is_being_trained(pretended):
    one, jobs = pretended(2)

    def steps() -> Iterator[None]:
        jobs[0].take(RUNS[0])
        jobs[1].take(RUNS[1])
        jobs[0].answer(RUNS[0], "failed", error="no room", stops="grid")
        yield
        assert not jobs[0].take(RUNS[2])
        jobs[0].state = "COMPLETED"
        yield
        jobs[1].answer(RUNS[1], "failed", error="no room either", stops="grid")
        jobs[1].state = "COMPLETED"
        yield

    launch(one, RUNS, steps())
    assert [f.error for f in one.failures] == ["no room"]
    assert len(jobs) == 2


def test_a_launch_that_is_interrupted_cancels_its_jobs(pretended):
    one, jobs = pretended(2)

    def steps() -> Iterator[None]:
        jobs[0].finish(RUNS[0])
        yield
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(one, RUNS[:3], steps())
    assert [job.cancelled for job in jobs] == [True, True]
    assert one.running == [None, None]


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
    one = launcher("slurm", Store(cluster / "runs"), 4, lambda run: JOB, 2, options=options)
    assert (one.device, one.device_name, one.running) == ("cuda", "", [None, None])
    one.launch(RUNS, lambda: None, every=0.0)
    (failure,) = one.failures
    assert (failure.error, failure.stops) == (
        "SLURM's jobs have ended, the last, 12_1, as FAILED; runs left: 4",
        "grid",
    )
    (queue,) = queues(one)
    assert failure.log == f"{queue}/12_1_0_log.err"
    told = dict(re.findall(r"#SBATCH --(\S+?)=(.*)", (cluster / "submitted").read_text()))
    expected = {
        "array": "0-1%2", "partition": "gpu", "account": "me", "time": "60", "mem": "1536MB", "constraint": "h100",
        "gpus-per-node": "2", "nodes": "1", "ntasks-per-node": "1", "job-name": "lit-hidden", "signal": "USR2@300",
    }  # fmt: skip
    assert expected.items() <= told.items()


def test_on_cpu_each_process_has_one_thread_and_on_several_machines_slurm_starts_all(cluster):
    one = SlurmLauncher(Store("runs"), 8, lambda run: JOB, 4, 2, {"gpus_per_node": 0})
    assert (one.device, one.device_name, len(one.running)) == ("cpu", "4 x CPU, 1 thread(s)", 2)
    told = one._executor(cluster).parameters
    assert (told["nodes"], told["ntasks_per_node"], told["cpus_per_task"]) == (2, 2, 1)
    assert "export OMP_NUM_THREADS=1" in told["setup"]
    job = one._describe(RUNS[0])
    assert (job["devices"], job["nodes"]) == (4, 2)
    # Not every SLURM takes --gpus-per-node.
    told = (
        SlurmLauncher(Store("runs"), 1, lambda run: JOB, options={"gres": "gpu:a100:1"})._executor(cluster).parameters
    )
    assert "gpus_per_node" not in told
    assert told["gres"] == "gpu:a100:1"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"options": {"colour": "red"}}, "--launcher slurm: Unknown argument 'colour' for executor 'slurm'"),
        ({"options": {"timeout_min": "an hour"}}, '--launcher slurm: Parameter "timeout_min" expected type'),
        ({"options": {"time": "1:00:00"}}, "--slurm time: give timeout_min, in minutes"),
        ({"options": {"nodes": "2"}}, "--slurm nodes: give --num-nodes"),
        ({"per_run": 3, "nodes": 2}, "--num-nodes 2: 3 devices a run cannot be shared out evenly"),
        ({"per_run": 0.5}, "--per-run 0.5: devices a run are 1 or another whole number; only local and ray"),
        ({"per_run": 4, "devices": 6}, "--devices 6, --per-run 4: give 4 or a multiple of it"),
        ({"options": {"cluster": "nowhere"}}, "--launcher slurm: AutoExecutor doesn't know any executor named nowhere"),
    ],
)
def test_what_slurm_would_not_understand_is_refused_at_once(arguments, error, cluster):
    with pytest.raises(LauncherError) as raised:
        SlurmLauncher(**{"store": Store("runs"), "devices": None, "job": lambda run: JOB, **arguments})
    assert str(raised.value).startswith(error)
    assert not (cluster / "submitted").exists()


def test_jobs_that_slurm_does_not_take_are_an_error_in_its_words(cluster):
    (cluster / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition >&2\nexit 1\n")
    one = SlurmLauncher(Store(cluster / "runs"), 1, lambda run: JOB)
    with pytest.raises(LauncherError) as error:
        one.launch(RUNS[:1], lambda: None)
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
            launcher("slurm", Store(tmp_path), 1, lambda run: JOB)
        assert str(raised.value) == error
