"""SLURM: an array of jobs, each of which waits in a queue, and then trains whatever runs of the grid are free."""

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_hidden.engine.devices import CPU, LauncherError, places
from lit_hidden.engine.pool import Ended, Pool, do
from lit_hidden.engine.work import Job, opened

_MOST = 1000  # jobs of an array; SLURM takes 1001 unless it is configured otherwise


class Slurm(Pool):
    """Train runs in SLURM jobs, which stay until no run is free; one that SLURM stops writes a checkpoint first.

    They train as many runs at a time as `devices` allow (GPUs, or cores with `gpus_per_node=0`; None: a job for each
    run), each by `per_run` of these on `nodes` machines. `root` is the folder of runs, which all machines share.
    `options` are sbatch's by submitit's names, such as `partition=gpu`; with `cluster=local` jobs run here, as a trial.
    LauncherError: there is no SLURM here, or an option is unknown.
    """

    elsewhere = True

    def __init__(self, root: Path, devices: int | None, per_run: float, nodes: int, options: Sequence[str]) -> None:
        self.per_run = per_run
        texts = dict(option.partition("=")[::2] for option in options)
        cluster = texts.pop("cluster", "slurm")
        given = {name: int(text) if text.isdigit() else text for name, text in texts.items()}
        if per_run % nodes:
            raise LauncherError(f"--num-nodes {nodes}: {per_run:g} devices a run cannot be shared out evenly")
        each = int(per_run) // nodes  # on a machine; on one machine alone, the first process starts the others
        self.device = "cpu" if given.get("gpus_per_node") == 0 else "cuda"
        self.places = _MOST if devices is None else places([devices], devices, per_run)
        settings = {"name": "lit-hidden", "timeout_min": 240, "slurm_signal_delay_s": 300}
        settings |= {"nodes": nodes, "tasks_per_node": each if nodes > 1 else 1}
        if not given.keys() & {"gres", "gpus_per_task"}:  # some SLURMs know no other way to ask for GPUs
            settings["gpus_per_node"] = each
        if self.device == "cpu":
            setup = [f"export {name}={shlex.quote(value)}" for name, value in CPU.items()]
            settings |= {"cpus_per_task": 1 if nodes > 1 else each, "slurm_setup": setup}
        settings |= {f"{cluster}_{name}": value for name, value in given.items()}
        from submitit import AutoExecutor

        try:
            self._executor: Any = AutoExecutor(root.absolute() / ".slurm", cluster)
            self._executor.update_parameters(**settings)
        except (AssertionError, NameError, RuntimeError, ValueError) as error:  # no SLURM, or an unknown option
            raise LauncherError(f"--launcher slurm: {str(error).partition(chr(10))[0]}") from error
        self._jobs: dict[int, Any] = {}  # by place

    def start(self, places: Sequence[int], jobs: Sequence[Job]) -> None:
        """Submit an array, a job a place, each of which begins with its run and goes on with the others."""
        queues = [[*jobs[first:], *jobs[:first]] for first in range(min(len(places), len(jobs)))]
        self._executor.update_parameters(slurm_array_parallelism=len(queues))
        try:
            self._jobs |= dict(zip(places, self._executor.map_array(serve, queues), strict=False))
        except (RuntimeError, OSError) as error:  # submitit's are RuntimeErrors
            raise LauncherError(f"--launcher slurm: the jobs cannot be submitted: {error}") from error

    def ended(self, seconds: float) -> list[Ended]:
        """Wait so long, and say which jobs have ended; `LauncherError` if somebody cancelled one."""
        time.sleep(seconds)
        found = list[Ended]()
        for place in [place for place, job in self._jobs.items() if job.done()]:
            job, how = self._jobs.pop(place).task(0), None  # of several machines' tasks the first one leads
            if not job.paths.result_pickle.exists() or job.exception() is not None:
                how = f"ended with SLURM's job {job.job_id} ({job.state}; {job.paths.stderr})"
                if job.state.upper().startswith("CANCELLED"):
                    raise LauncherError(f"SLURM's job {job.job_id} was cancelled; its log is {job.paths.stderr}")
            found.append((place, how))
        return found

    def close(self) -> None:
        """Cancel the jobs, which then write a checkpoint."""
        for job in self._jobs.values():
            job.cancel(check=False)


def serve(jobs: Sequence[Job]) -> None:
    """Be a SLURM job: train those of `jobs` that are free, or follow the process that does; stop when SLURM warns."""
    from submitit import JobEnvironment

    from lit_hidden.engine.torchrun import led

    soon = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]  # SLURM's warning: out of time, or preempted
    with led() as group:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # where nothing is trained
        signal.signal(soon, lambda *_: signal.raise_signal(signal.SIGTERM))
        for job in jobs:
            if _free(job) and (status := do(job, group)):
                sys.exit(status)


def _free(job: Job) -> bool:
    """Tell whether a run can be trained now."""
    run, store = opened(job)
    waits = run.parent is not None and not store.done(run.parent)
    return not (waits or store.done(run) or store.failure(run) or store.held(run))
