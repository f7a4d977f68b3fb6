"""SLURM, with submitit's local jobs: requeued and killed ones; without SLURM, what it would be told."""

import os
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training import counted, job, without_time

from lit_hidden.engine import slurm
from lit_hidden.engine.devices import LauncherError
from lit_hidden.engine.grid import Grid
from lit_hidden.engine.slurm import Slurm, serve
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.run import Run

RUNS = [Run(density=0.5, seed=seed, net="conv2", width=0.05, data="digits", epochs=6) for seed in range(4)]


def start(pool: Slurm, root: Path, first: list[Run], others: list[Run]) -> None:
    pool.start(range(len(first)), [job(run, root) for run in first + others])


def test_a_run_of_jobs_killed_and_stopped_ends_as_if_nothing_had_been(tmp_path, monkeypatch, forked):
    monkeypatch.setattr(subprocess, "Popen", forked)
    store, first = Store(tmp_path / "runs"), RUNS[0]
    pool = Slurm(store.root, 1, 1, 1, ["cluster=local", "gpus_per_node=0"])
    assert (pool.device, pool.places) == ("cpu", 1)
    log, killed, warned, said = store.folder(first) / "log.txt", [], [], list[str]()

    class Disturbed(Grid):
        def _look(self) -> None:
            super()._look()
            if not killed and log.exists():  # the job is submitit's process, which has started the one that trains
                (begun,) = pool._jobs.values()
                killed.append(begun.job_id)
                os.kill(int(Path(f"/proc/{begun.job_id}/task/{begun.job_id}/children").read_text()), signal.SIGKILL)
            elif not warned and store.progress(first) >= 2:  # what SLURM sends before it stops a job
                warned.extend(re.findall(r"process (\d+) on", log.read_text())[-1:])
                os.kill(int(warned[0]), signal.SIGUSR2)

    Disturbed({first.hash: first}, store, pool, "data", lambda *_: None, said.append).train(every=0.02)
    assert f"the worker of {first.name} ended with SLURM's job {killed[0]} " in "\n".join(said)
    assert "stopped after step" in log.read_text(), "when it was told, it wrote a checkpoint"
    assert int(re.findall(r"after epoch (\d+)\n", log.read_text())[-1]) > 0
    assert counted(store.result(first)) == counted(train(first, tmp_path))
    assert without_time(store.folder(first)) == without_time(tmp_path)


def test_a_job_trains_what_is_free_and_leaves_what_is_done_has_failed_is_held_or_waits(tmp_path, monkeypatch):
    import submitit

    store, trained = Store(tmp_path / "runs"), []
    free, failed, held, child = RUNS[0], RUNS[1], RUNS[2], RUNS[3].then()
    store.fail(failed, "no", "run")
    monkeypatch.setattr(slurm, "do", lambda job, group: trained.append(job["run"]["seed"]))
    monkeypatch.setattr(submitit, "JobEnvironment", SimpleNamespace(USR_SIG="USR2"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with store.claim(held):
        serve([job(run, store.root) for run in (failed, held, child, free)])
    assert trained == [0]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """SLURM's commands: `sbatch` keeps what it is told, and `sacct` says of its two jobs what a file says."""
    commands = {
        "srun": "",
        "sbatch": f"cp $1 {tmp_path}/submitted; echo Submitted batch job 12",
        "sacct": f"cat {tmp_path}/states",
        "scancel": f"echo $1 >> {tmp_path}/cancelled",
    }
    for name, code in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def states(first: str, second: str) -> None:
        import submitit

        (tmp_path / "states").write_text(f"JobID|State|NodeList\n12_0|{first}|one\n12_1|{second}|two\n")
        submitit.SlurmJob.watcher.clear()

    states("RUNNING", "RUNNING")
    return SimpleNamespace(folder=tmp_path, states=states)


def told(cluster: Any) -> dict[str, str]:
    return dict(re.findall(r"#SBATCH --(\S+?)=(.*)", (cluster.folder / "submitted").read_text()))


def test_slurm_is_told_what_is_needed_and_each_job_may_train_every_run(cluster):
    options = ["partition=gpu", "account=me", "timeout_min=60", "mem_gb=2", "constraint=h100"]
    pool = Slurm(cluster.folder / "runs", 4, 2, 1, options)
    assert (pool.device, pool.places) == ("cuda", 2)
    start(pool, cluster.folder / "runs", RUNS[:2], RUNS[2:])
    expected = {
        "array": "0-1%2", "partition": "gpu", "account": "me", "time": "60", "mem": "2GB", "constraint": "h100",
        "gpus-per-node": "2", "nodes": "1", "ntasks-per-node": "1", "job-name": "lit-hidden", "signal": "USR2@300",
    }  # fmt: skip
    assert expected.items() <= told(cluster).items()
    queues = [[one["run"]["seed"] for one in sent.submission().args[0]] for sent in pool._jobs.values()]
    assert [queue[0] for queue in queues] == [0, 1]
    assert [set(queue) for queue in queues] == [{0, 1, 2, 3}] * 2


def test_on_cpu_each_process_has_one_thread_and_on_several_machines_slurm_starts_all(cluster):
    pool = Slurm(cluster.folder / "runs", 8, 4, 2, ["gpus_per_node=0"])
    assert (pool.device, pool.places) == ("cpu", 2)
    start(pool, cluster.folder / "runs", RUNS[:1], [])
    expected = {"nodes": "2", "ntasks-per-node": "2", "cpus-per-task": "1"}
    assert expected.items() <= told(cluster).items()
    assert "export OMP_NUM_THREADS=1" in (cluster.folder / "submitted").read_text()
    pool = Slurm(cluster.folder / "runs", 1, 1, 1, ["gres=gpu:a100:1"])  # not every SLURM takes --gpus-per-node
    start(pool, cluster.folder / "runs", RUNS[:1], [])
    assert told(cluster)["gres"] == "gpu:a100:1"
    assert "gpus-per-node" not in told(cluster)


def test_jobs_that_die_are_told_and_those_left_are_cancelled_in_the_end(cluster):
    pool = Slurm(cluster.folder / "runs", 2, 1, 1, [])
    start(pool, cluster.folder / "runs", RUNS[:2], [])
    assert pool.ended(0) == []
    cluster.states("NODE_FAIL", "RUNNING")
    ((place, how),) = pool.ended(0)
    assert place == 0
    assert str(how).startswith("ended with SLURM's job 12_0 (NODE_FAIL; ")
    pool.close()
    assert (cluster.folder / "cancelled").read_text() == "12_1\n"


def test_a_job_that_somebody_cancels_is_not_replaced(cluster):
    pool = Slurm(cluster.folder / "runs", 2, 1, 1, [])
    start(pool, cluster.folder / "runs", RUNS[:2], [])
    cluster.states("CANCELLED by 1000", "RUNNING")
    with pytest.raises(LauncherError, match=r"SLURM's job 12_0 was cancelled; its log is .*12_0"):
        pool.ended(0)


def test_jobs_that_slurm_does_not_take_are_an_error_in_its_words(cluster):
    (cluster.folder / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition >&2\nexit 1\n")
    with pytest.raises(LauncherError, match=r"(?s)jobs cannot be submitted: .*sbatch: error: invalid partition"):
        start(Slurm(cluster.folder / "runs", 1, 1, 1, []), cluster.folder / "runs", RUNS[:1], [])
