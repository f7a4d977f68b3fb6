"""SLURM: an array of jobs, sent off by submitit, each of which trains whatever run of the grid is free.

A job takes a while to start (in SLURM's queue, then some 10 seconds for torch), so it trains many runs, not one. What
is free, held or done the runs' folder says, to the jobs as to everybody.
"""

import json
import shlex
import shutil
import signal
import tempfile
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

_MOST = 1000  # jobs of an array; SLURM takes 1001 unless it is told otherwise
_ASK = 5.0  # seconds between two questions whether jobs have ended
_SHARED = {"name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout"}  # submitit's words
_OURS = {  # what follows from other things
    "time": "give timeout_min, in minutes",
    "nodes": "give --num-nodes",
    "tasks_per_node": "it follows from --per-run",
    "ntasks_per_node": "it follows from --per-run",
    "array_parallelism": "it follows from --devices",
}


class Slurm(Pool):
    """Train runs in SLURM jobs, which stay until no run is free; one that is preempted or out of time is requeued.

    Args:
        root: the folder of runs, which all machines share.
        devices: how many GPUs (or cores, with `gpus_per_node=0`) to use at a time; None: a job for each run.
        per_run: how many of them train each run together.
        nodes: on how many machines they are.
        options: of `sbatch`, by submitit's names: partition, account, qos, constraint, gpus_per_node, cpus_per_task,
            mem_gb, timeout_min (240 unless given: after that a job is requeued, and its run goes on) ... Besides,
            `cluster=local` has the jobs run on this machine without SLURM, to try things out.

    Raises:
        LauncherError: submitit is not installed, there is no SLURM here, or an option is unknown.
    """

    elsewhere = True

    def __init__(
        self,
        root: Path,
        devices: int | None,
        per_run: float = 1,
        nodes: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(per_run)
        try:
            import submitit
        except ImportError as error:
            raise LauncherError("--launcher slurm needs submitit: pip install 'lit-hidden[slurm]'") from error
        self._submitit: Any = submitit
        given = {name: _value(value) for name, value in (options or {}).items()}
        self._cluster = given.pop("cluster", "slurm")
        if self._cluster == "slurm" and shutil.which("srun") is None:
            raise LauncherError("--launcher slurm: there is no srun here; run this where SLURM is, as on a login node")
        if nodes < 1 or per_run % nodes:
            raise LauncherError(f"--num-nodes {nodes}: {per_run:g} devices a run cannot be shared out evenly")
        each = int(per_run) // nodes  # on a machine; of one machine, the first process starts the others
        self._settings: dict[str, Any] = {"name": "lit-hidden", "timeout_min": 240, "slurm_signal_delay_s": 300}
        self._settings |= {"nodes": nodes, "tasks_per_node": each if nodes > 1 else 1}
        if not given.keys() & {"gres", "gpus_per_task"}:  # of some SLURMs the only ways to ask for GPUs
            self._settings["gpus_per_node"] = each
        self.device = "cpu" if given.get("gpus_per_node") == 0 else "cuda"
        if self.device == "cpu":
            setup = [f"export {name}={shlex.quote(value)}" for name, value in CPU.items()]
            self._settings |= {"cpus_per_task": 1 if nodes > 1 else each, "slurm_setup": setup}
        for name, value in given.items():
            if name in _OURS:
                raise LauncherError(f"--slurm {name}: {_OURS[name]}")
            self._settings[name if name in _SHARED else f"slurm_{name}"] = value
        self.nodes, self._root = nodes, root.absolute() / ".slurm"
        self._executor(self._root)  # says now what is unknown
        self.places = _MOST if devices is None else at_a_time(devices, per_run)
        self._jobs: dict[int, Any] = {}  # by place
        self._folder: Path | None = None
        self._asked = 0.0

    def _gpu(self) -> str:
        return ""  # of other machines

    def start(self, jobs: Mapping[int, Job], others: Sequence[Job], poll: Callable[[], None]) -> None:
        """Submit an array, a job a place, each of which begins with its run and goes on with the others."""
        if self._folder is None:
            self._root.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d-%H%M%S-"), dir=self._root))
        tasks = [Task([job, *jobs.values(), *others], self._folder, self.nodes > 1) for job in jobs.values()]
        try:
            sent = self._executor(self._folder, slurm_array_parallelism=len(tasks)).submit_array(tasks)
        except (RuntimeError, OSError) as error:  # submitit's are of the first kind
            raise LauncherError(f"--launcher slurm: the jobs cannot be submitted: {error}") from error
        self._jobs |= dict(zip(jobs, sent, strict=True))

    def ended(self, seconds: float) -> list[Ended]:
        """Wait, ask SLURM from time to time, and say which jobs have ended.

        The place of a job that somebody cancelled, or that never came as far as to look for runs, is not free again.

        Raises:
            LauncherError: no place is left.
        """
        time.sleep(seconds)
        if time.monotonic() < self._asked + _ASK:
            return []
        self._asked, found = time.monotonic(), []
        ended = {place: job for place, job in self._jobs.items() if job.done()}
        for place, job in ended.items():
            state = job.state.upper()
            if state == "COMPLETED" or (_began(self._folder, job.job_id) and not state.startswith("CANCELLED")):
                del self._jobs[place]
                how = None if state == "COMPLETED" else f"ended with SLURM's job {job.job_id} ({job.state})"
                found.append((place, how))
        if not found and len(ended) == len(self._jobs) > 0:
            log = f"its log is {job.paths.stderr}"
            raise LauncherError(f"SLURM's jobs have ended, the last, {job.job_id}, as {job.state}; {log}")
        return found

    def close(self) -> None:
        """Let the jobs end that find nothing more to do, and cancel those that do not."""
        self._wait(5)
        well = all(job.done() and job.state.upper() == "COMPLETED" for job in self._jobs.values())
        for job in self._jobs.values():
            if not job.done():
                job.cancel(check=False)
        self._wait(3)
        self._jobs = {}
        if well and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)  # else their logs are there

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not all(job.done() for job in self._jobs.values()):
            time.sleep(0.1)

    def _executor(self, folder: Path, **more: Any) -> Any:
        """Make what submits.

        Raises:
            LauncherError: an option is unknown or wrong.
        """
        try:
            executor = self._submitit.AutoExecutor(folder, self._cluster, slurm_max_num_timeout=10**6)
            executor.update_parameters(**self._settings, **more)
        except (AssertionError, NameError, ValueError) as error:
            raise LauncherError(f"--launcher slurm: {str(error).partition(chr(10))[0]}") from error
        return executor


class Task:
    """What a SLURM job does: train one run after the other that is free; of several processes the first leads.

    Args:
        jobs: the runs, and how they are trained; what has failed already is left.
        folder: where a file says that it has begun.
        together: whether SLURM starts all processes that train a run.
    """

    def __init__(self, jobs: list[Job], folder: Path, together: bool) -> None:
        self.jobs, self.folder, self.together = jobs, folder, together

    def __call__(self) -> None:
        """Train until no run is free, or follow the process that does."""
        from submitit import JobEnvironment

        from lit_hidden.engine.torchrun import led, placed

        told: list[int] = []
        soon = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]  # SLURM's warning: out of time, or another is preferred
        requeue, idle = signal.getsignal(soon), signal.getsignal(signal.SIGTERM)
        assert callable(requeue)

        def stop(signum: int, frame: FrameType | None) -> None:
            told.append(signum)
            if signal.getsignal(signal.SIGTERM) == idle:
                requeue(signum, frame)
            signal.raise_signal(signal.SIGTERM)  # training writes its checkpoint first

        with led(placed() if self.together else None) as group:
            signal.signal(soon, stop)
            _began(self.folder, JobEnvironment().job_id, now=True)
            try:
                for job in self.jobs:
                    run, store = run_of(job), Store(job["runs_dir"])
                    waits = run.parent is not None and not store.done(run.parent)
                    if not (waits or store.done(run) or store.failure(run) or store.held(run)):
                        do(job, group)
                        if told:
                            requeue(soon, None)
            except SystemExit:
                if told:
                    requeue(soon, None)
                raise

    def checkpoint(self) -> "DelayedSubmission":
        """Be requeued as it is: the runs' folders say how far they are."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _began(folder: Path | None, job: str, now: bool = False) -> bool:
    """Tell whether a job has begun to look for runs, or say that it has."""
    assert folder is not None
    if now:
        (folder / f"{job}.began").touch()
    return (folder / f"{job}.began").exists()


def _value(text: Any) -> Any:
    """Read a number where there is one."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
