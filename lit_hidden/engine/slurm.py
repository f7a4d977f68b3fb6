"""SLURM: an array of jobs, sent off by submitit, each of which takes runs from one queue until it is empty.

A job takes a while to start (in SLURM's queue, then some 10 seconds for torch), so it trains many runs, not one. The
queue is a folder, `.slurm/` in that of the runs: a job takes a run by making a link of that run's name, which points to
its own number, and leaves the answer in a file beside it.
"""

import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lit_hidden.engine.launcher import Job, Launcher, LauncherError, at_a_time, failed, work_here
from lit_hidden.engine.local import CPU
from lit_hidden.engine.store import Store, write_atomically
from lit_hidden.experiment import Run

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


class SlurmLauncher(Launcher):
    """Train runs in SLURM jobs, which stay until no run is left; one that is preempted or out of time is requeued.

    Args:
        store: where the runs live, a folder that all machines share.
        devices: how many GPUs (or cores, with `gpus_per_node=0`) to use at a time; None: a job for each run.
        job: gives what a run's job says besides the run.
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
        store: Store,
        devices: int | None,
        job: Callable[[Run], Job],
        per_run: float = 1,
        nodes: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(store, job, per_run, nodes)
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
        self._settings: Job = {"name": "lit-hidden", "timeout_min": 240, "slurm_signal_delay_s": 300}
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
        self._executor(self.store.root / ".slurm")  # says now what is unknown
        self.running = [None] * (_MOST if devices is None else at_a_time(devices, per_run))
        self._jobs: list[Any] = []

    def launch(self, runs: Iterable[Run], poll: Callable[[], None], every: float = 0.5) -> None:
        """Train `runs`; the jobs end with the launch."""
        self._stop.clear()
        todo = {run.hash: run for run in runs}  # by name: what is not answered yet
        if not todo:
            return
        folder, known, asked = self._queue(todo), len(self.failures), 0.0
        try:
            self._submit(folder, min(len(todo), len(self.running)))
            while self._look() or todo:
                time.sleep(every)
                ended = []
                if time.monotonic() >= asked + _ASK:
                    # Asked before the folder is read, which holds all that they did then; submitit, which looks for a
                    # file there too, makes a shared folder show what is new.
                    ended, asked = [job for job in self._jobs if job.done()], time.monotonic()
                self._read(folder, todo)
                self._replace(folder, todo, ended)
                poll()
            self._cancel()
        except BaseException:  # Ctrl-C above all
            self.close()
            raise
        if len(self.failures) == known:  # else their logs are there
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Cancel the jobs."""
        self._stop.set()
        self._cancel()

    def _queue(self, todo: dict[str, Run]) -> Path:
        """Make a queue's folder."""
        root = self.store.root.absolute() / ".slurm"
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d-%H%M%S-"), dir=root))
        jobs = {name: self._describe(run) for name, run in todo.items()}
        write_atomically(folder / "jobs.json", json.dumps(jobs))
        return folder

    def _submit(self, folder: Path, number: int) -> None:
        """Submit so many jobs, an array.

        Raises:
            LauncherError: SLURM takes none.
        """
        try:
            self._jobs += self._executor(folder, slurm_array_parallelism=number).submit_array([Task(folder)] * number)
        except (RuntimeError, OSError) as error:  # submitit's are of the first kind
            raise LauncherError(f"--launcher slurm: the jobs cannot be submitted: {error}") from error

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

    def _read(self, folder: Path, todo: dict[str, Run]) -> None:
        """Take the answers that are there; take what is not to be trained any more out of the queue."""
        for path in folder.glob("*.answer"):
            if run := todo.pop(path.stem, None):
                self._take(run, json.loads(path.read_text()))
        for name, run in list(todo.items()):
            if (self._stop.is_set() or run.data in self._spoilt) and _taker(folder, name, "nobody") == "nobody":
                del todo[name]
                self._spoils(run)
        taken = [run for name, run in todo.items() if os.path.lexists(folder / name)]
        self.running = (taken + [None] * len(self.running))[: len(self.running)]

    def _replace(self, folder: Path, todo: dict[str, Run], ended: list[Any]) -> None:
        """Submit new jobs for those that have ended, if runs are left in the queue."""
        if not ended:
            return
        takers = {path.name: os.readlink(path) for path in folder.iterdir() if path.is_symlink()}
        useful = 0  # of those, how many came as far as to take runs: so will the next
        for job in ended:
            self._jobs.remove(job)
            state, log, cancelled = job.state, str(job.paths.stderr), job.state.upper().startswith("CANCELLED")
            how = f"ended with SLURM's job {job.job_id} ({state})"
            its = [name for name, taker in takers.items() if taker == job.job_id]
            useful += bool(its) and not cancelled
            for name in todo.keys() & its:
                answer = failed(f"its worker {how}", "run") if cancelled else self._after_death(todo[name], how)
                if answer is None:
                    (folder / name).unlink()
                else:
                    self._take(todo.pop(name), answer, log)
        left = [name for name in todo if not os.path.lexists(folder / name)]
        if number := min(useful, len(left)):
            self._submit(folder, number)
        elif left and not self._jobs:
            error = f"SLURM's jobs have ended, the last, {job.job_id}, as {state}; runs left: {len(left)}"
            self._take(todo[left[0]], failed(error, "grid"), log)
            todo.clear()

    def _cancel(self) -> None:
        """Let the jobs end that find nothing more to do, and cancel those that do not."""
        if not self._stop.is_set():
            self._wait(5)
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)
        self._wait(3)
        self._jobs, self.running = [], [None] * len(self.running)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not all(job.done() for job in self._jobs):
            time.sleep(0.1)


class Task:
    """What a SLURM job does: take runs from a queue and train them; of several processes the first leads the others.

    Args:
        folder: the queue.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        """Train until no run is left, or follow the process that does."""
        from lit_hidden.engine import team

        try:
            with team.led(team.placed()) as leads:
                if leads:
                    self._lead()
        finally:
            team.end()

    def _lead(self) -> None:
        from submitit import JobEnvironment

        from lit_hidden.engine import team

        own, told = JobEnvironment().job_id, []
        soon = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]  # SLURM's warning: out of time, or another is preferred
        requeue, idle = signal.getsignal(soon), signal.getsignal(signal.SIGTERM)
        assert callable(requeue)

        def stop(signum: int, frame: FrameType | None) -> None:
            told.append(signum)
            if signal.getsignal(signal.SIGTERM) == idle:
                requeue(signum, frame)
            os.kill(os.getpid(), signal.SIGTERM)  # training writes its checkpoint first

        signal.signal(soon, stop)
        try:
            for name, job in json.loads((self.folder / "jobs.json").read_text()).items():
                answer = self.folder / f"{name}.answer"
                if _taker(self.folder, name, own) == own and not answer.exists():
                    write_atomically(answer, json.dumps(work_here(job)))
                    if team.broken:
                        sys.exit(1)  # another job goes on
        except SystemExit:
            if told:
                requeue(soon, None)
            raise

    def checkpoint(self) -> "DelayedSubmission":
        """Be requeued as it is: the folder says what it was at."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _taker(folder: Path, name: str, who: str) -> str:
    """Take a run out of the queue for `who`, unless another has; return who has it."""
    while True:
        with suppress(FileExistsError):
            os.symlink(who, folder / name)
        with suppress(FileNotFoundError):  # it has just been put back
            return os.readlink(folder / name)


def _value(text: Any) -> Any:
    """Read a number where there is one."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
