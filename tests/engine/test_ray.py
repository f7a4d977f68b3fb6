"""The Ray launcher, with a real Ray on this machine: results as without it, kills, failures, shared GPUs."""

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

from lit_hidden.engine import launcher as launchers
from lit_hidden.engine import local
from lit_hidden.engine import ray as module
from lit_hidden.engine.launcher import Failure, LauncherError, launcher
from lit_hidden.engine.ray import RayLauncher
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.experiment import Run

pytestmark = pytest.mark.slow

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "training.py"))
JOB, counted, without_time = made["JOB"], made["counted"], made["without_time"]
TRAIN = module._work
TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 300, "epochs": 16}


def runs(number: int, **other: Any) -> list[Run]:
    return [Run(density=0.5, seed=seed, **{**TINY, **other}) for seed in range(number)]


def said(one: RayLauncher) -> list[str]:
    return [one.notes.get() for _ in range(one.notes.qsize())]


def pretending() -> Callable[[Any], Any]:
    """Make a worker that does what the run's `net` says; Ray takes its code along, as it is defined inside."""

    def work(job: dict[str, Any]) -> dict[str, Any]:
        import json
        import os
        import signal
        import time
        from pathlib import Path

        from lit_hidden.engine.store import Store
        from lit_hidden.experiment import Run

        run, begun = Run.from_json(json.dumps(job["run"])), Path(job["runs_dir"]) / "begun"
        what, folder = run.net, Store(job["runs_dir"]).folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        with begun.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "sleeps":
            time.sleep(600)
        if what == "raises":
            raise MemoryError("too much")
        if what in ("run", "data", "grid"):
            return {"status": "failed", "error": f"no {what}", "stops": what}
        deadline = time.monotonic() + 30
        while what == "meets" and time.monotonic() < deadline and len(begun.read_text().split()) < 2:
            time.sleep(0.01)
        if what != "vanishes":
            (folder / "result.json").write_text("{}")
        seen = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        return {"status": "done", "notes": [f"met {len(begun.read_text().split())}", *map(os.environ.get, seen)]}

    return work


def begun(one: RayLauncher) -> list[int]:
    """The processes that have begun with runs."""
    path = one.store.root / "begun"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A launcher that has started a Ray of two cores and, as far as Ray knows, a GPU that two runs share."""
    token = Path.home() / ".ray"
    before = token.exists()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, "")  # so that it is as before afterwards
            patch.delenv(name)
        patch.setattr(local, "gpus", lambda: 1)
        patch.setattr(local, "fitting", lambda: 2)
        patch.setattr(local, "gpu_name", lambda: "NVIDIA Nothing")
        patch.setattr(module, "_work", pretending())
        one = RayLauncher(Store(tmp_path_factory.mktemp("runs")), None, lambda run: JOB, per_run=0.5)
        one.launch([], lambda: None)
        yield one
        one.close()
    assert token.exists() == before, "it left a token there"


@pytest.fixture
def cores(started, tmp_path, monkeypatch):
    """Make launchers for that Ray's cores; workers do what `pretending` says, or train."""
    machines = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 9.0}}]
    monkeypatch.setattr("ray.nodes", lambda: machines)

    def make(devices: int = 2, pretend: bool = True) -> RayLauncher:
        monkeypatch.setattr(module, "_work", pretending() if pretend else TRAIN)
        return RayLauncher(Store(tmp_path / "runs"), devices, lambda run: JOB)

    return make


def test_two_runs_share_a_gpu(started):
    assert (started.device, started.device_name, started.running) == ("cuda", "NVIDIA Nothing", [None, None])
    started.launch(runs(2, net="meets"), lambda: None)
    assert started.failures == []
    notes = said(started)
    assert {"met 2", "0"} <= set(notes), "at the same time, on GPU 0; equal notes are told once"


def test_a_run_whose_worker_dies_twice_has_failed_and_the_others_are_trained(cores):
    one = cores()
    bad, good = runs(1, net="dies")[0], runs(1, net="fine")[0]
    one.launch([bad, good], lambda: None)
    assert one.failures == [
        Failure(bad, "its worker died, and so did the next one, after epoch 0", str(one.store.folder(bad) / "log.txt"))
    ]
    notes = said(one)
    assert f"the worker of {bad.name} died after epoch 0; a new one goes on with it" in notes
    assert notes[-2:] == ["", "1"] or notes[-3:-1] == ["", "1"], "without a GPU, with one thread"
    assert len(begun(one)) == 3
    assert one.store.done(good)


def test_failures_stop_what_they_concern(cores):
    one = cores(1)
    one.launch([*runs(2, net="data"), *runs(1, net="fine", data="mnist")], lambda: None)
    assert [(f.error, f.stops) for f in one.failures] == [
        ("no data", "data"),
        (f"not tried: {one.failures[0].run.name} failed on the same data", "data"),
    ]
    assert len(begun(one)) == 2
    two = cores(1)
    two.launch([*runs(1, net="run", data="mnist"), *runs(2, net="grid")], lambda: None)
    assert [(f.error, f.stops) for f in two.failures] == [("no run", "run"), ("no grid", "grid")]
    assert len(begun(two)) == 4
    three = cores(1)
    three.launch(runs(2, net="raises"), lambda: None)
    (failure,) = three.failures
    assert (failure.error, failure.stops) == ("Ray cannot have runs trained: MemoryError: too much", "grid")
    assert len(begun(three)) == 5


def test_a_result_that_does_not_come_in_sight_stops_the_grid(cores, monkeypatch):
    monkeypatch.setattr(launchers, "_SEEN", 0.3)
    one, polls = cores(), []
    one.launch(runs(1, net="vanishes"), lambda: polls.append(one.running), every=0.05)
    (failure,) = one.failures
    assert failure.stops == "grid"
    assert failure.error.endswith("--runs-dir must be a folder that all machines share")
    assert polls[-1] == [None, None]


def gone(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.strip() or state.startswith("Z")


def test_a_launch_that_is_interrupted_leaves_no_worker(cores):
    one = cores()

    def interrupt() -> None:
        if len(begun(one)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.launch(runs(5, net="sleeps"), interrupt, every=0.05)
    assert (one.failures, one.running) == ([], [None, None])
    deadline = time.monotonic() + 30
    while not all(gone(pid) for pid in begun(one)):
        assert time.monotonic() < deadline, "they sleep on"
        time.sleep(0.05)
    assert len(begun(one)) == 2


def test_a_cluster_is_found_by_its_address(started, python, tmp_path):
    import ray

    code = f"""
import os
from lit_hidden.engine import ray
from lit_hidden.engine.launcher import launcher
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run

os.chdir({str(tmp_path)!r})
ray._work = lambda job: {{"status": "failed", "error": job["runs_dir"], "stops": "run"}}
one = launcher("ray", Store("runs"), None, lambda run: {{}}, 0.25)
one.launch([Run(density=0.5, net="conv2", data="digits")], lambda: None)
one.close()
print(one.device, len(one.running), repr(one.device_name), [failure.error for failure in one.failures])
"""
    address = ray.get_runtime_context().gcs_address
    assert python(code, RAY_ADDRESS=address) == f"cuda 4 '' ['{tmp_path}/runs']"


def test_a_worker_killed_in_the_middle_is_replaced_and_all_is_as_trained_without_ray(cores, tmp_path, capfd):
    one, bad = cores(1, pretend=False), Run(density=0.5, **{**TINY, "net": "no_such_module:net"})
    first, second = runs(2)
    killed, log = [], one.store.folder(first) / "log.txt"

    def kill() -> None:
        if not killed and one.store.progress(first)[0] >= 2:
            (pid,) = re.findall(r"process (\d+) on", log.read_text())
            os.kill(int(pid), signal.SIGKILL)
            killed.append(one.store.progress(first)[0])

    one.launch([first, second, bad], kill, every=0.02)
    assert 2 <= killed[0] < first.epochs
    assert capfd.readouterr() == ("", ""), "Ray is quiet about it"
    (note,) = said(one)
    assert re.fullmatch(rf"the worker of {first.name} died after epoch \d+; a new one goes on with it", note)
    before, after = map(int, re.findall(r"after epoch (\d+)\n", log.read_text()))
    assert before == 0 < after
    (failure,) = one.failures
    assert failure.error.startswith("CodeError: no_such_module.net cannot be imported")
    assert "Traceback" in Path(failure.log).read_text()
    assert counted(one.store.result(first)) == counted(train(first, tmp_path))
    assert without_time(one.store.folder(first)) == without_time(tmp_path)
    assert one.store.done(second)


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
    """Make launchers for a Ray that is not started, at an address."""

    def make(ray: Pretended, devices: int | None, per_run: float, address: str = "auto") -> RayLauncher:
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(module, "_imported", lambda address: ray)
        return RayLauncher(Store("runs"), devices, lambda run: JOB, per_run)

    return make


@pytest.mark.parametrize(
    ("machines", "devices", "per_run", "device", "places", "asked"),
    [
        ([{"CPU": 3.0}, {"CPU": 2.0}], None, 1, "cpu", 5, (1, 0, 0)),
        ([{"CPU": 3.0}, {"CPU": 2.0}], None, 2, "cpu", 2, (2, 0, 1)),
        ([{"CPU": 3.0}, {"CPU": 2.0}], 4, 0.5, "cpu", 4, (1, 0, 0)),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}], None, 1, "cuda", 5, (0, 1, 1)),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}], None, 2, "cuda", 2, (0, 2, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], 1, 0.25, "cuda", 4, (0, 0.25, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], None, 0.4, "cuda", 4, (0, 0.4, 1)),
    ],
)
def test_there_is_room_for_as_many_runs_as_machines_have_devices(
    machines, devices, per_run, device, places, asked, pretended
):
    ray = Pretended(*machines)
    one = pretended(ray, devices, per_run)
    assert (one.device, len(one.running)) == (device, places)
    assert (ray.asked["num_cpus"], ray.asked["num_gpus"], ray.asked["max_calls"]) == asked
    environment = ray.asked["runtime_env"]["env_vars"]
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == os.getcwd()
    assert ("OMP_NUM_THREADS" in environment) == (device == "cpu")


@pytest.mark.parametrize(
    ("machines", "devices", "per_run", "error"),
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
def test_devices_that_a_cluster_has_not_are_refused(machines, devices, per_run, error, pretended):
    with pytest.raises(LauncherError) as raised:
        pretended(Pretended(*machines), devices, per_run)
    assert str(raised.value) == error


def test_a_ray_of_ones_own_is_small_quiet_and_not_started_before_it_is_needed(pretended, monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda: 0)
    monkeypatch.setattr(local, "fitting", lambda: 3)
    ray = Pretended()
    one = pretended(ray, None, 1, address="")
    assert (one.device, len(one.running), ray.settings) == ("cpu", 3, {})
    for _ in range(2):
        one.launch([], lambda: None)
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


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LauncherError) as error:
        launcher("ray", Store(tmp_path), None, lambda run: JOB)
    assert str(error.value) == "--launcher ray needs Ray: pip install 'lit-hidden[ray]'"
