"""Ray: a task a run, on the machines of a cluster or on this one alone; several runs may share a GPU."""

import os
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from lit_hidden.engine.devices import CPU, LauncherError, fitting, places
from lit_hidden.engine.pool import Ended, Pool, do
from lit_hidden.engine.work import Job


class Ray(Pool):
    """Train runs as Ray tasks: on the cluster that `RAY_ADDRESS` names, else on a Ray started here.

    `number` counts GPUs, or cores of a cluster without any; None takes all there are now. LauncherError: Ray
    does not answer, or has no such devices.
    """

    elsewhere = True

    def __init__(self, number: int | None, per_run: float = 1) -> None:
        self.per_run, self._ray = per_run, _connected(number or fitting())
        self._tasks: dict[Any, int] = {}  # and the place that each has
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        on_gpu = any(has.get("GPU") for has in machines)
        self.device, kind, each = ("cuda", "GPU", per_run) if on_gpu else ("cpu", "CPU", max(1, int(per_run)))
        self.places = places([int(has.get(kind, 0)) for has in machines], number, each)
        # Your own code is found from here, as with the local launcher.
        path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        self._task = self._ray.remote(
            max_retries=0,
            max_calls=int(on_gpu),  # a process that has used a GPU cannot change to another; 0 has no limit
            num_cpus=0 if on_gpu else each,
            num_gpus=each if on_gpu else 0,
            runtime_env={"env_vars": {"PYTHONPATH": path, **({} if on_gpu else CPU)}},
        )(do)

    def start(self, places: Sequence[int], jobs: Sequence[Job]) -> None:
        """Give Ray a task for each place."""
        for place, job in zip(places, jobs, strict=False):
            self._tasks[self._task.options(name=job["name"]).remote(job)] = place

    def ended(self, seconds: float) -> list[Ended]:
        """Wait at most so long for a task to end."""
        found = list[Ended]()
        for task in self._ray.wait(list(self._tasks), timeout=seconds)[0]:
            try:
                status = self._ray.get(task)
                how = f"ended with exit status {status}" if status else None
            except self._ray.exceptions.RayError as error:
                how = f"was lost ({type(error).__name__})"
            found.append((self._tasks.pop(task), how))
        return found

    def close(self) -> None:
        """End the tasks, and Ray or the connection to it."""
        for task in self._tasks:
            with suppress(self._ray.exceptions.RayError):  # Ray itself may have died
                self._ray.cancel(task, force=True)
        self._ray.shutdown()


def _connected(cores: int) -> Any:
    """Import Ray, and connect to a cluster or start a small Ray here."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        # Tasks exchange descriptions alone: 80 MB of shared memory are nearly Ray's least.
        settings |= {"num_cpus": cores, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:  # its ports are open to others
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    try:
        host, _, port = address.rpartition("/")[2].rpartition(":")
        if port.isdigit():  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), 5).close()
        ray.init(**settings)
    except Exception as error:  # of many kinds
        raise LauncherError(f"--launcher ray: RAY_ADDRESS={address}: {str(error).partition(chr(10))[0]}") from error
    return ray
