"""Ray: a task a run, on the machines of a cluster or on this one alone; several runs may share a GPU."""

import os
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from lit_hidden.engine import local
from lit_hidden.engine.launcher import Answer, Job, Launcher, LauncherError, at_a_time, failed, places, work_here
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run

_OBJECTS = 80 * 2**20  # bytes of shared memory, nearly Ray's least: what goes to and fro are descriptions
_DEATHS = {
    "WorkerCrashedError": "died",
    "OutOfMemoryError": "was ended by Ray, for its machine ran out of memory",
    "NodeDiedError": "was lost with its machine",
    "ObjectLostError": "was lost with its machine",
}


class RayLauncher(Launcher):
    """Train runs as Ray tasks, on the cluster that `RAY_ADDRESS` names or the Ray there is, else on one started here.

    A machine that joins later gets runs of later launchers. Ray itself tries nothing again: a new task goes on with a
    run whose worker died, on whatever machine has room.

    Args:
        store: where the runs live, a folder that all machines share.
        devices: how many GPUs, or cores of a cluster without any; None takes all there are when it is made.
        job: gives what a run's job says besides the run.
        per_run: how many of them train each run together, or which part of a GPU. Cores are not shared.

    Raises:
        LauncherError: Ray is not installed, does not answer, or has no such devices.
    """

    shares = elsewhere = True

    def __init__(self, store: Store, devices: int | None, job: Callable[[Run], Job], per_run: float = 1) -> None:
        super().__init__(store, job, per_run)
        self._address = os.environ.get("RAY_ADDRESS") or "local"
        ray = _imported(self._address)
        self._ray: Any = ray
        self._flying: dict[Any, tuple[Run, int]] = {}  # tasks, and the place that each has
        self._connected = False  # by this launcher
        self._alone = self._address == "local" and not ray.is_initialized()
        cores = max(1, int(per_run))
        machines = [{"GPU": local.gpus(), "CPU": devices or max(cores, local.fitting())}]
        if not self._alone:
            self._connect()
            machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus, cpus = ([int(has.get(kind, 0)) for has in machines] for kind in ("GPU", "CPU"))
        self.device, there, each = ("cuda", gpus, per_run) if any(gpus) else ("cpu", cpus, cores)
        room = sum(places(number, each) for number in there)
        wanted = room if devices is None else at_a_time(devices, each)
        if not 1 <= wanted <= room:
            given = "" if devices is None else f"--devices {devices}, "
            what = f"{sum(there)} {'GPUs' if any(gpus) else 'cores'} on {len(there)} machine(s)"
            raise LauncherError(f"{given}--per-run {each:g}: Ray has {what}, room for {room} run(s)")
        self.running = [None] * wanted
        self._cpus = sum(cpus)
        environment = dict(local.CPU) if self.device == "cpu" else {}
        # As with the local launcher: nets of one's own are found from here, and W&B's files lie here.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        environment["WANDB_DIR"] = os.path.abspath(os.environ.get("WANDB_DIR") or ".")
        self._task = ray.remote(
            max_retries=0,
            # A process that has begun on a GPU cannot change to another; nor does one that leads others know of it.
            max_calls=0 if (self.device, each) == ("cpu", 1) else 1,
            num_cpus=0 if self.device == "cuda" else each,
            num_gpus=each if self.device == "cuda" else 0,
            runtime_env={"env_vars": environment},
        )(_work)

    def _gpu(self) -> str:
        return local.gpu_name() if self._alone else ""

    def launch(self, runs: Iterable[Run], poll: Callable[[], None], every: float = 0.5) -> None:
        """Train `runs`; Ray stays for the next launch, until `close`."""
        self._stop.clear()
        todo = deque(runs)
        try:
            self._connect()
            while True:
                while todo and None in self.running and not self._stop.is_set():
                    if not self._spoils(run := todo.popleft()):
                        place = self.running.index(None)
                        self.running[place] = run
                        task = self._task.options(name=run.name).remote(self._describe(run))
                        self._flying[task] = (run, place)
                if not self._look() and not self._flying:
                    return
                for task in self._ended(every):
                    run, place = self._flying.pop(task)
                    self.running[place] = None
                    if (answer := self._answer(task, run)) is None:
                        todo.appendleft(run)
                    else:
                        self._take(run, answer)
                poll()
        except BaseException:  # Ctrl-C above all
            self.close()
            raise

    def close(self) -> None:
        """End the tasks, and Ray if it was started here."""
        self._stop.set()
        for task in self._flying:
            with suppress(self._ray.exceptions.RayError):  # it may be Ray that has died
                self._ray.cancel(task, force=True)
        self._flying, self.running = {}, [None] * len(self.running)
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def _ended(self, seconds: float) -> list[Any]:
        """Wait so long at most for a task to end."""
        if not self._flying:  # a result is waited for
            time.sleep(seconds)
            return []
        ended: list[Any] = self._ray.wait(list(self._flying), timeout=seconds)[0]
        return ended

    def _answer(self, task: Any, run: Run) -> Answer | None:
        """Return the answer of a task that has ended; None if its worker died and a new one is to go on."""
        try:
            answer: Answer = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            if how := _DEATHS.get(type(error).__name__):
                return self._after_death(run, how)
            cause = getattr(error, "cause", None) or error
            return failed(f"Ray cannot have runs trained: {type(cause).__name__}: {cause}", "grid")
        return answer

    def _connect(self) -> None:
        """Connect to the cluster, or start a small Ray of one's own; nothing if this process has one."""
        if self._ray.is_initialized():
            return
        settings: dict[str, Any] = {"address": self._address, "log_to_driver": False, "logging_level": "error"}
        if self._alone:
            settings |= {"num_cpus": self._cpus, "num_gpus": local.gpus(), "include_dashboard": False}
            settings |= {"object_store_memory": _OBJECTS}
        try:
            host, _, port = self._address.rpartition("/")[2].rpartition(":")
            if port.isdigit():  # asked first: Ray itself waits for minutes
                socket.create_connection((host, int(port)), 5).close()
            # Whatever log_to_driver says, Ray prints what its daemons have logged when a worker or a machine is lost.
            self._ray._private.worker.print_to_stdstream = _ignore
            self._ray.init(**settings)
        except Exception as error:  # of many kinds
            self._ray.shutdown()
            where = "no Ray can be started here" if self._alone else f"RAY_ADDRESS={self._address} does not answer"
            raise LauncherError(f"--launcher ray: {where}: {str(error).partition(chr(10))[0]}") from error
        self._connected = True


def _ignore(*_: Any, **__: Any) -> None:
    pass


def _imported(address: str) -> Any:
    """Import Ray, which reads its settings at that moment; one that is started here is a user's own and tells nobody.

    Raises:
        LauncherError: it is not installed.
    """
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Its ports are open to others, so it has a token; here, or Ray would write one into ~/.ray.
        if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError as error:
        raise LauncherError("--launcher ray needs Ray: pip install 'lit-hidden[ray]'") from error
    return ray


def _work(job: Job) -> Answer:
    """Do a job, and let those go who helped."""
    from lit_hidden.engine import team

    try:
        return work_here(job)
    finally:
        team.end()
