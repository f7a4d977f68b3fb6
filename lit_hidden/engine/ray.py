"""Ray: a task a run, on the machines of a cluster or on this one alone; several runs may share a GPU."""

import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lit_hidden.engine import devices
from lit_hidden.engine.devices import LauncherError, at_a_time
from lit_hidden.engine.pool import Ended, Pool, do
from lit_hidden.engine.work import Job

_OBJECTS = 80 * 2**20  # bytes of shared memory, nearly Ray's least: tasks exchange descriptions alone
_DEATHS = {
    "WorkerCrashedError": "died",
    "OutOfMemoryError": "was ended by Ray, for its machine ran out of memory",
    "NodeDiedError": "was lost with its machine",
    "ObjectLostError": "was lost with its machine",
}


class Ray(Pool):
    """Train runs as Ray tasks, on the cluster that `RAY_ADDRESS` names or the Ray there is, else on one started here.

    `number` counts GPUs, or cores of a cluster without any; None takes all there are now. `per_run` of them train each
    run together, or it is which part of a GPU each run has. Ray retries nothing: the grid starts a new task.

    Raises:
        LauncherError: Ray is not installed, does not answer, or has no such devices.
    """

    shares = elsewhere = True

    def __init__(self, number: int | None, per_run: float = 1) -> None:
        super().__init__(per_run)
        self._address = os.environ.get("RAY_ADDRESS") or "local"
        self._ray: Any = _imported(self._address)
        self._tasks: dict[Any, int] = {}  # and the place that each has
        self._connected = False  # by this pool
        self._alone = self._address == "local" and not self._ray.is_initialized()
        cores = max(1, int(per_run))
        if self._alone:
            machines = [{"GPU": devices.gpus(), "CPU": number or max(cores, devices.fitting())}]
        else:
            self._connect()
            machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus, cpus = ([int(has.get(kind, 0)) for has in machines] for kind in ("GPU", "CPU"))
        self.device, there, each = ("cuda", gpus, per_run) if any(gpus) else ("cpu", cpus, cores)
        room = sum(devices.places(one, each) for one in there)
        self.places = room if number is None else at_a_time(number, each)
        if not 1 <= self.places <= room:
            given = "" if number is None else f"--devices {number}, "
            what = f"{sum(there)} {'GPUs' if any(gpus) else 'cores'} on {len(there)} machine(s)"
            raise LauncherError(f"{given}--per-run {each:g}: Ray has {what}, room for {room} run(s)")
        self._cpus = sum(cpus)
        on_gpu = self.device == "cuda"
        environment = {} if on_gpu else dict(devices.CPU)
        # As with the local launcher, your own code is found from here, and W&B's files are written here.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        environment["WANDB_DIR"] = os.path.abspath(os.environ.get("WANDB_DIR") or ".")
        self._task = self._ray.remote(
            max_retries=0,
            max_calls=int(on_gpu),  # a process that has used a GPU cannot change to another; 0 has no limit
            num_cpus=0 if on_gpu else each,
            num_gpus=each if on_gpu else 0,
            runtime_env={"env_vars": environment},
        )(do)

    def _gpu(self) -> str:
        return devices.gpu_name() if self._alone else ""

    def start(self, jobs: Mapping[int, Job], others: Sequence[Job], poll: Callable[[], None]) -> None:
        """Give Ray a task for each job."""
        self._connect()
        self._tasks |= {self._task.options(name=job["name"]).remote(job): place for place, job in jobs.items()}

    def ended(self, seconds: float) -> list[Ended]:
        """Wait at most so long for a task to end; an error of Ray's own, `LauncherError`, ends the grid."""
        found: list[Ended] = []
        for task in self._ray.wait(list(self._tasks), timeout=seconds)[0]:
            try:
                status = self._ray.get(task)
                how = f"ended with exit status {status}" if status else None
            except self._ray.exceptions.RayError as error:
                if (how := _DEATHS.get(type(error).__name__)) is None:
                    cause = getattr(error, "cause", None) or error
                    raise LauncherError(f"Ray cannot train runs: {type(cause).__name__}: {cause}") from error
            found.append((self._tasks.pop(task), how))
        return found

    def close(self) -> None:
        """End the tasks, and Ray if it was started here."""
        for task in self._tasks:
            with suppress(self._ray.exceptions.RayError):  # Ray itself may have died
                self._ray.cancel(task, force=True)
        self._tasks = {}
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def _connect(self) -> None:
        """Connect to the cluster, or start a small Ray here; do nothing if this process has one."""
        if self._ray.is_initialized():
            return
        settings: dict[str, Any] = {"address": self._address, "log_to_driver": False, "logging_level": "error"}
        if self._alone:
            settings |= {"num_cpus": self._cpus, "num_gpus": devices.gpus(), "include_dashboard": False}
            settings |= {"object_store_memory": _OBJECTS}
        try:
            host, _, port = self._address.rpartition("/")[2].rpartition(":")
            if port.isdigit():  # Ray itself would wait for minutes
                socket.create_connection((host, int(port)), 5).close()
            # Whatever log_to_driver says, Ray prints its daemons' logs when a worker or a machine is lost.
            self._ray._private.worker.print_to_stdstream = lambda *_, **__: None
            self._ray.init(**settings)
        except Exception as error:  # of many kinds
            self._ray.shutdown()
            where = "no Ray can be started here" if self._alone else f"RAY_ADDRESS={self._address} does not answer"
            raise LauncherError(f"--launcher ray: {where}: {str(error).partition(chr(10))[0]}") from error
        self._connected = True


def _imported(address: str) -> Any:
    """Import Ray, which reads its settings at that moment: one that is started here sends no usage statistics."""
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Its ports are open to others, so it has a token; Ray would write one into ~/.ray.
        if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError as error:
        raise LauncherError("--launcher ray needs Ray: pip install 'lit-hidden[ray]'") from error
    return ray
