"""The Ray launcher, with a real Ray on this machine: results as without it, kills, failures, shared GPUs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training import counted, gone, job, until, without_time

from lit_hidden.engine import ray as module
from lit_hidden.engine.devices import LauncherError
from lit_hidden.engine.grid import Grid
from lit_hidden.engine.ray import Ray
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.run import Run

RUN = Run(density=0.5, epochs=2, net="conv2", width=0.05, data="digits", train_images=300)


def pretending() -> Callable[[Any], Any]:
    """Make a worker that does what the job's data folder says; Ray takes its code along, as it is defined inside."""

    def work(job: dict[str, Any]) -> int:
        import os
        import signal
        from pathlib import Path

        from lit_hidden.engine.pool import do

        begun = Path(job["runs_dir"]) / "begun"
        begun.parent.mkdir(parents=True, exist_ok=True)
        with begun.open("a") as file:
            file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')!r}\n")
        what = Path(job["data_dir"]).name
        if what == "dies once" and len(begun.read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "sleeps":
            time.sleep(600)
        return do(job) if what == "dies once" else 74

    return work


def begun(root: Path) -> list[list[str]]:
    """The processes that have begun, each with its GPUs."""
    path = root / "begun"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def start(pool: Ray, root: Path, *do: str) -> None:
    jobs = {place: {**job(RUN, root), "name": what, "data_dir": what} for place, what in enumerate(do)}
    pool.start(list(jobs), list(jobs.values()))


def ends(pool: Ray, number: int) -> dict[int, str | None]:
    found: dict[int, str | None] = {}
    until(lambda: found.update(pool.ended(0.2)) or len(found) == number)
    return found


@pytest.fixture(scope="module")
def started():
    """A pool that has started a Ray of two cores, which has as far as Ray knows a GPU that two runs share."""
    import ray

    real = ray.init
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, "")  # so that it is as before afterwards
            patch.delenv(name)
        patch.setattr(ray, "init", lambda **settings: real(**settings, num_gpus=1))
        patch.setattr(module, "do", pretending())
        patch.setattr(module, "fitting", lambda: 2)
        pool = Ray(None, per_run=0.5)
        yield pool
        pool.close()
        assert not ray.is_initialized()


@pytest.fixture
def cores(started, monkeypatch):
    """A pool of that Ray's cores."""
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr("ray.init", lambda **settings: None)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr(module, "do", pretending())
    return Ray(2)


def test_two_runs_share_a_gpu(started, tmp_path):
    assert (started.device, started.places) == ("cuda", 2)
    start(started, tmp_path, "fails", "fails")
    assert ends(started, 2) == dict.fromkeys(range(2), "ended with exit status 74")
    (one, gpu), (other, same) = begun(tmp_path)
    assert (one != other, gpu, same) == (True, "'0'", "'0'")


def test_closing_leaves_no_worker(cores, tmp_path):
    start(cores, tmp_path, "sleeps", "sleeps")
    until(lambda: len(begun(tmp_path)) == 2)
    cores.close()
    until(lambda: all(gone(int(pid)) for pid, _ in begun(tmp_path)))


def test_a_worker_that_is_killed_is_replaced_and_the_run_is_as_trained_without_ray(cores, tmp_path):
    store, said = Store(tmp_path / "runs"), list[str]()
    Grid({RUN.hash: RUN}, store, cores, "dies once", lambda *_: None, said.append).train(every=0.02)
    assert f"the worker of {RUN.name} was lost (WorkerCrashedError) after epoch 0; a new one goes on" in "\n".join(said)
    assert counted(store.result(RUN)) == counted(train(RUN, tmp_path))
    assert without_time(store.folder(RUN)) == without_time(tmp_path)


def test_a_cluster_is_found_by_its_address(started, python):
    import ray

    code = """
from lit_hidden.engine import ray
ray.do = lambda job: 9
one = ray.Ray(None, 0.25)
one.start([0], [{"name": "x"}])
ends = one.ended(60)
one.close()
print(one.device, one.places, ends)
"""
    address = ray.get_runtime_context().gcs_address
    assert python(code, RAY_ADDRESS=address) == "cuda 4 [(0, 'ended with exit status 9')]"


def test_a_cluster_that_does_not_answer_is_named_by_its_address(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(LauncherError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: .*refused"):
        Ray(None)
