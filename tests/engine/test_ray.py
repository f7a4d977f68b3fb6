"""The Ray launcher, with a real Ray on this machine: results as without it, kills, failures, shared GPUs."""

import io
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lit_hidden.engine import devices
from lit_hidden.engine import ray as module
from lit_hidden.engine.devices import LauncherError
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.grid import Grid, Plan
from lit_hidden.engine.pool import do
from lit_hidden.engine.ray import Ray
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.run import Run

pytestmark = pytest.mark.slow

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
job, counted, without_time = made["job"], made["counted"], made["without_time"]
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 300, "epochs": 8}


def runs(number: int, **other: Any) -> list[Run]:
    return [Run(density=0.5, seed=seed, **{**TINY, **other}) for seed in range(number)]


def pretending() -> Callable[[Any], Any]:
    """Make a worker that does what the run's `net` says; Ray takes its code along, as it is defined inside."""

    def work(job: dict[str, Any]) -> int:
        import os
        import signal
        import time
        from pathlib import Path

        what, begun = job["run"]["net"], Path(job["runs_dir"]) / "begun"
        begun.parent.mkdir(parents=True, exist_ok=True)
        with begun.open("a") as file:
            file.write(
                f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')!r} {os.environ.get('OMP_NUM_THREADS')}\n"
            )
        if what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "sleeps":
            time.sleep(600)
        if what == "raises":
            raise MemoryError("too much")
        deadline = time.monotonic() + 30
        while what == "meets" and time.monotonic() < deadline and len(begun.read_text().splitlines()) < 2:
            time.sleep(0.01)
        return 74 if what == "fails" else 0

    return work


def begun(root: Path) -> list[list[str]]:
    """The processes that have begun, each with its GPUs and threads."""
    path = root / "begun"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def jobs(root: Path, *runs: Run) -> dict[int, dict[str, Any]]:
    return {place: {**job(run, root), "name": run.name} for place, run in enumerate(runs)}


def ends(one: Ray, number: int) -> dict[int, str | None]:
    found: dict[int, str | None] = {}
    deadline = time.monotonic() + 60
    while len(found) < number:
        assert time.monotonic() < deadline
        found |= dict(one.ended(0.2))
    return found


@pytest.fixture(scope="module")
def started():
    """A pool that has started a Ray of two cores and, as far as Ray knows, a GPU that two runs share."""
    token = Path.home() / ".ray"
    before = token.exists()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, "")  # so that it is as before afterwards
            patch.delenv(name)
        patch.setattr(devices, "gpus", lambda: 1)
        patch.setattr(devices, "fitting", lambda: 2)
        patch.setattr(devices, "gpu_name", lambda: "NVIDIA Nothing")
        patch.setattr(module, "do", pretending())
        one = Ray(None, per_run=0.5)
        one.start({}, [], never)
        yield one
        one.close()
    assert token.exists() == before, "it left a token there"


def never() -> None:
    pytest.fail("only a pool of this process alone polls")


@pytest.fixture
def cores(started, monkeypatch):
    """Make pools of that Ray's cores; workers do what `pretending` says, or train."""
    machines = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 9.0}}]
    monkeypatch.setattr("ray.nodes", lambda: machines)

    def make(number: int = 2, pretend: bool = True) -> Ray:
        monkeypatch.setattr(module, "do", pretending() if pretend else do)
        return Ray(number)

    return make


def test_two_runs_share_a_gpu(started, tmp_path):
    assert (started.device, started.device_name, started.places) == ("cuda", "NVIDIA Nothing", 2)
    started.start(jobs(tmp_path, *runs(2, net="meets")), [], never)
    assert ends(started, 2) == {0: None, 1: None}
    (one, gpu, _), (other, same, _) = begun(tmp_path)
    assert (one != other, gpu, same) == (True, "'0'", "'0'")


def test_how_tasks_end_is_told(cores, tmp_path):
    one = cores()
    one.start(jobs(tmp_path, *runs(1, net="dies"), *runs(1, net="fails")), [], never)
    assert ends(one, 2) == {0: "died", 1: "ended with exit status 74"}
    one.start(jobs(tmp_path, *runs(1, net="fine")), [], never)
    assert ends(one, 1) == {0: None}
    assert {threads for _, _, threads in begun(tmp_path)} == {"1"}
    one.start(jobs(tmp_path, *runs(1, net="raises")), [], never)
    with pytest.raises(LauncherError, match=r"^Ray cannot train runs: MemoryError: too much$"):
        ends(one, 1)


def gone(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.strip() or state.startswith("Z")


def test_closing_leaves_no_worker(cores, tmp_path):
    one = cores()
    one.start(jobs(tmp_path, *runs(2, net="sleeps")), [], never)
    deadline = time.monotonic() + 60
    while len(begun(tmp_path)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    one.close()
    while not all(gone(int(pid)) for pid, *_ in begun(tmp_path)):
        assert time.monotonic() < deadline, "they sleep on"
        time.sleep(0.05)


def test_a_cluster_is_found_by_its_address(started, python, tmp_path):
    import ray

    code = """
from lit_hidden.engine import ray
ray.do = lambda job: 9
one = ray.Ray(None, 0.25)
one.start({0: {"name": "x"}}, [], None)
ends = one.ended(60)
one.close()
print(one.device, one.places, repr(one.device_name), ends)
"""
    address = ray.get_runtime_context().gcs_address
    assert python(code, RAY_ADDRESS=address) == "cuda 4 '' [(0, 'ended with exit status 9')]"


def test_a_worker_killed_in_the_middle_is_replaced_and_all_is_as_trained_without_ray(cores, tmp_path, capfd):
    store, (first,) = Store(tmp_path / "runs"), runs(1)
    bad = Run(density=0.5, **{**TINY, "net": "no_such_module:net"})
    killed, log, out = [], store.folder(first) / "log.txt", io.StringIO()

    class Killing(Grid):
        def look(self) -> None:
            super().look()
            if not killed and self.store.progress(first)[0] >= 2:
                (pid,) = re.findall(r"process (\d+) on", log.read_text())
                os.kill(int(pid), signal.SIGKILL)
                killed.append(self.store.progress(first)[0])

    todo = Plan({run.hash: run for run in (first, bad)}, {}, {})
    say = Console(file=out, width=200)
    data = {"data_dir": "data"}
    grid = Killing(todo, store, cores(1, pretend=False), lambda run: data, lambda *_: None, Clock("cpu", "CPU"), say)
    grid.train(every=0.02)
    assert 2 <= killed[0] < first.epochs
    assert capfd.readouterr() == ("", ""), "Ray is quiet about it"
    assert re.search(rf"the worker of {first.name} died after epoch \d+; a new one goes on with it", out.getvalue())
    before, after = map(int, re.findall(r"after epoch (\d+)\n", log.read_text()))
    assert before == 0 < after
    (failure,) = grid.failures
    assert failure.error.startswith("CodeError: no_such_module.net cannot be imported")
    assert "Traceback" in Path(failure.log).read_text()
    assert counted(store.result(first)) == counted(train(first, tmp_path))
    assert without_time(store.folder(first)) == without_time(tmp_path)


class Pretended:
    """A Ray that is not started."""

    def __init__(self, *machines: dict[str, Any], error: Exception | None = None) -> None:
        self.machines, self.error, self.settings, self.asked = machines, error, {}, {}
        self._private = SimpleNamespace(worker=SimpleNamespace())

    def is_initialized(self) -> bool:
        return bool(self.settings)

    def init(self, **settings: Any) -> None:
        if self.error is not None:
            raise self.error
        self.settings = settings

    def shutdown(self) -> None:
        self.settings = {}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": machine} for machine in self.machines]

    def remote(self, **asked: Any) -> Callable[[Any], Any]:
        self.asked = asked
        return lambda function: SimpleNamespace(function=function)


@pytest.fixture
def pretended(monkeypatch):
    """Make pools of a Ray that is not started, at an address."""

    def make(ray: Pretended, number: int | None, per_run: float, address: str = "auto") -> Ray:
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(module, "_imported", lambda address: ray)
        return Ray(number, per_run)

    return make


@pytest.mark.parametrize(
    ("machines", "number", "per_run", "device", "places", "asked"),
    [
        ([{"CPU": 3.0}, {"CPU": 2.0}], None, 1, "cpu", 5, (1, 0, 0)),
        ([{"CPU": 3.0}, {"CPU": 2.0}], None, 2, "cpu", 2, (2, 0, 0)),
        ([{"CPU": 3.0}, {"CPU": 2.0}], 4, 0.5, "cpu", 4, (1, 0, 0)),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}], None, 1, "cuda", 5, (0, 1, 1)),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}], None, 2, "cuda", 2, (0, 2, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], 1, 0.25, "cuda", 4, (0, 0.25, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], None, 0.4, "cuda", 4, (0, 0.4, 1)),
    ],
)
def test_there_is_room_for_as_many_runs_as_machines_have_devices(
    machines, number, per_run, device, places, asked, pretended
):
    ray = Pretended(*machines)
    one = pretended(ray, number, per_run)
    assert (one.device, one.places) == (device, places)
    assert (ray.asked["num_cpus"], ray.asked["num_gpus"], ray.asked["max_calls"]) == asked
    environment = ray.asked["runtime_env"]["env_vars"]
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == os.getcwd()
    assert ("OMP_NUM_THREADS" in environment) == (device == "cpu")


@pytest.mark.parametrize(
    ("machines", "number", "per_run", "error"),
    [
        ([{"GPU": 3.0}], 4, 1, "--devices 4, --per-run 1: Ray has 3 GPUs on 1 machine(s), room for 3 run(s)"),
        ([{"GPU": 1.0}] * 2, None, 2, "--per-run 2: Ray has 2 GPUs on 2 machine(s), room for 0 run(s)"),
        (
            [{"CPU": 2.0}],
            4,
            2,
            "--devices 4, --per-run 2: Ray has 2 cores on 1 machine(s), room for 1 run(s)",
        ),
        ([{"CPU": 2.0}], 3, 2, "--devices 3, --per-run 2: give 2 or a multiple of it"),
    ],
)
def test_devices_that_a_cluster_has_not_are_refused(machines, number, per_run, error, pretended):
    with pytest.raises(LauncherError) as raised:
        pretended(Pretended(*machines), number, per_run)
    assert str(raised.value) == error


def test_a_ray_of_ones_own_is_small_quiet_and_not_started_before_it_is_needed(pretended, monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    monkeypatch.setattr(devices, "fitting", lambda: 3)
    ray = Pretended()
    one = pretended(ray, None, 1, address="")
    assert (one.device, one.places, ray.settings) == ("cpu", 3, {})
    for _ in range(2):
        one.start({}, [], never)
        assert ray.settings == {
            "address": "local", "num_cpus": 3, "num_gpus": 0, "object_store_memory": 80 * 2**20,
            "include_dashboard": False, "log_to_driver": False, "logging_level": "error",
        }  # fmt: skip
        one.close()
        assert ray.settings == {}


def test_a_cluster_that_does_not_answer_is_told_by_its_address(pretended):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, why in (
        (f"127.0.0.1:{port}", "[Errno 111] Connection refused"),
        (f"ray://127.0.0.1:{port}", "[Errno 111] Connection refused"),
        ("auto", "no Ray here"),
    ):
        with pytest.raises(LauncherError) as error:
            pretended(Pretended(error=ConnectionError("no Ray here\nand more")), None, 1, address=address)
        assert str(error.value) == f"--launcher ray: RAY_ADDRESS={address} does not answer: {why}"


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LauncherError) as error:
        Ray(None)
    assert str(error.value) == "--launcher ray needs Ray: pip install 'lit-hidden[ray]'"
