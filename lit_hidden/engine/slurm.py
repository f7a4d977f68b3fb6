"""SLURM: an array of jobs, submitted by submitit, each of which trains whatever runs of the grid are free.

A job takes a while to start (SLURM's queue, then some 10 seconds for torch), so it trains many runs. It sees in the
runs' folder which of them are free.
"""

import json
import secrets
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lit_hidden.engine.devices import CPU, LauncherError, at_a_time
from lit_hidden.engine.pool import Ended, Pool, do
from lit_hidden.engine.store import Store
from lit_hidden.engine.work import Job, run_of

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_MOST = 1000  # jobs of an array; SLURM takes 1001 unless it is configured otherwise
_ASK = 5.0  # seconds between two questions whether jobs have ended
_SHARED = {"name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout"}  # submitit's words
_OURS = {"time", "nodes", "tasks_per_node", "ntasks_per_node", "array_parallelism"}  # they follow from other options


class Slurm(Pool):
    """Train runs in SLURM jobs, which stay until no run is free; one that is preempted or out of time is requeued.

    Args:
        root: the folder of runs, which all machines share.
        devices: how many GPUs (or cores, with `gpus_per_node=0`) to use at a time; None: a job for each run.
        per_run: how many of them train each run together.
        nodes: on how many machines they are.
        options: of `sbatch`, by submitit's names: partition, account, qos, constraint, gpus_per_node, cpus_per_task,
            mem_gb, timeout_min (240 unless given: after that a job is requeued, and its run goes on) ... With
            `cluster=local` jobs run on this machine without SLURM, to try things out.

    Raises:
        LauncherError: submitit is not installed, there is no SLURM here, or an option is unknown.
    """

    elsewhere = True

    def __init__(self, root: Path, devices: int | None, per_run: float, nodes: int, options: Mapping[str, Any]) -> None:
        super().__init__(per_run)
        try:
            import submitit
        except ImportError as error:
            raise LauncherError("--launcher slurm needs submitit: pip install 'lit-hidden[slurm]'") from error
        self._submitit: Any = submitit
        given = {name: _value(value) for name, value in options.items()}
        self._cluster = given.pop("cluster", "slurm")
        if self._cluster == "slurm" and shutil.which("srun") is None:
            raise LauncherError("--launcher slurm: there is no srun here; run this where SLURM is, as on a login node")
        if nodes < 1 or per_run % nodes:
            raise LauncherError(f"--num-nodes {nodes}: {per_run:g} devices a run cannot be shared out evenly")
        if taken := given.keys() & _OURS:
            follows = "it follows from timeout_min, --num-nodes, --per-run and --devices"
            raise LauncherError(f"--slurm {', '.join(sorted(taken))}: {follows}")
        each = int(per_run) // nodes  # on a machine; on one machine alone, the first process starts the others
        self._settings = {"name": "lit-hidden", "timeout_min": 240, "slurm_signal_delay_s": 300, "nodes": nodes}
        self._settings |= {"tasks_per_node": each if nodes > 1 else 1}
        if not given.keys() & {"gres", "gpus_per_task"}:  # some SLURMs know no other way to ask for GPUs
            self._settings["gpus_per_node"] = each
        self.device = "cpu" if given.get("gpus_per_node") == 0 else "cuda"
        if self.device == "cpu":
            setup = [f"export {name}={shlex.quote(value)}" for name, value in CPU.items()]
            self._settings |= {"cpus_per_task": 1 if nodes > 1 else each, "slurm_setup": setup}
        self._settings |= {name if name in _SHARED else f"slurm_{name}": value for name, value in given.items()}
        self.nodes, self._root = nodes, root.absolute() / ".slurm"
        self._executor(self._root)  # refuses unknown options now
        self.places = _MOST if devices is None else at_a_time(devices, per_run)
        self._jobs: dict[int, Any] = {}  # by place
        self._folder = self._root / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(4)}"  # of jobs and logs
        self._asked = 0.0

    def _gpu(self) -> str:
        return ""  # of other machines

    def start(self, jobs: Mapping[int, Job], others: Sequence[Job], poll: Callable[[], None]) -> None:
        """Submit an array, a job a place, each of which begins with its run and goes on with the others."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tasks = [Task([job, *jobs.values(), *others], self._folder, self.nodes > 1) for job in jobs.values()]
        try:
            sent = self._executor(self._folder, slurm_array_parallelism=len(tasks)).submit_array(tasks)
        except (RuntimeError, OSError) as error:  # submitit's are RuntimeErrors
            raise LauncherError(f"--launcher slurm: the jobs cannot be submitted: {error}") from error
        self._jobs |= dict(zip(jobs, sent, strict=True))

    def ended(self, seconds: float) -> list[Ended]:
        """Wait, ask SLURM from time to time, and say which jobs have ended.

        A job that was cancelled, or never looked for runs, is not replaced; if all are like this, `LauncherError`.
        """
        time.sleep(seconds)
        if time.monotonic() < self._asked + _ASK:
            return []
        self._asked, found = time.monotonic(), list[Ended]()
        over = {place: job for place, job in self._jobs.items() if job.done()}
        for place, job in over.items():
            if _completed(job):
                found.append((place, None))
            elif _began(self._folder, job.job_id).exists() and not job.state.upper().startswith("CANCELLED"):
                found.append((place, f"ended with SLURM's job {job.job_id} ({job.state})"))
        if not found and len(over) == len(self._jobs) > 0:
            log = f"its log is {job.paths.stderr}"
            raise LauncherError(f"SLURM's jobs have ended, the last, {job.job_id}, as {job.state}; {log}")
        for place, _ in found:
            del self._jobs[place]
        return found

    def close(self) -> None:
        """Let the jobs end that find nothing more to do, and cancel those that do not."""
        self._wait(5)
        jobs = self._jobs.values()
        well = all(job.done() and _completed(job) for job in jobs)
        for job in jobs:
            if not job.done():
                job.cancel(check=False)
        self._wait(3)
        self._jobs = {}
        if well:
            shutil.rmtree(self._folder, ignore_errors=True)  # else the logs are needed

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not all(job.done() for job in self._jobs.values()):
            time.sleep(0.1)

    def _executor(self, folder: Path, **more: Any) -> Any:
        """Make submitit's executor; refuse options that are unknown or wrong."""
        try:
            executor = self._submitit.AutoExecutor(folder, self._cluster, slurm_max_num_timeout=10**6)
            executor.update_parameters(**self._settings, **more)
        except (AssertionError, NameError, ValueError) as error:
            raise LauncherError(f"--launcher slurm: {str(error).partition(chr(10))[0]}") from error
        return executor


class Task:
    """A SLURM job: train one of `jobs` after the other that is free; a file in `folder` says that it has begun.

    `together`: SLURM starts all processes that train a run, and the first leads.
    """

    def __init__(self, jobs: list[Job], folder: Path, together: bool) -> None:
        self.jobs, self.folder, self.together = jobs, folder, together

    def __call__(self) -> None:
        """Train until no run is free, or follow the process that does."""
        from submitit import JobEnvironment

        from lit_hidden.engine.torchrun import led, placed

        told: list[int] = []
        soon = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]  # SLURM's warning: out of time, or preempted
        requeue, idle = signal.getsignal(soon), signal.getsignal(signal.SIGTERM)
        assert callable(requeue)

        def stop(signum: int, frame: FrameType | None) -> None:
            told.append(signum)
            if signal.getsignal(signal.SIGTERM) == idle:
                requeue(signum, frame)
            signal.raise_signal(signal.SIGTERM)  # training writes its checkpoint first

        with led(placed() if self.together else None) as group:
            signal.signal(soon, stop)
            _began(self.folder, JobEnvironment().job_id).touch()
            try:
                for job in filter(_free, self.jobs):
                    do(job, group)
                    if told:
                        requeue(soon, None)
            except SystemExit:
                if told:
                    requeue(soon, None)
                raise

    def checkpoint(self) -> "DelayedSubmission":
        """Be requeued unchanged: the runs' folders say how far they are."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _free(job: Job) -> bool:
    """Tell whether a run can be trained now."""
    run, store = run_of(job), Store(job["runs_dir"])
    waits = run.parent is not None and not store.done(run.parent)
    return not (waits or store.done(run) or store.failure(run) or store.held(run))


def _began(folder: Path, job: str) -> Path:
    """Return the file that a job makes when it begins to look for runs."""
    return folder / f"{job}.began"


def _completed(job: Any) -> bool:
    return bool(job.state.upper() == "COMPLETED")


def _value(text: Any) -> Any:
    """Read a number where there is one."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
