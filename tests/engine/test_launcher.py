"""What all launchers share: which there are, what follows from an answer and from a death, what a job says."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from lit_hidden.engine import launcher as launchers
from lit_hidden.engine import local
from lit_hidden.engine.launcher import Failure, Launcher, LauncherError, at_a_time, launcher, places, work_here
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run

TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 200, "epochs": 9}
RUN = Run(density=0.5, **TINY)


class Fake(Launcher):
    """A launcher whose workers answer what is asked of them."""

    device, running = "cpu", []

    def launch(self, runs: Iterable[Run], poll: Callable[[], None], every: float = 0.5) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Elsewhere(Fake):
    elsewhere = True


def fake(store: Store, kind: type[Fake] = Fake) -> Fake:
    return kind(store, lambda run: {"data_dir": "data"})


def said(launcher: Launcher) -> list[str]:
    return [launcher.notes.get() for _ in range(launcher.notes.qsize())]


def test_local_is_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda: 0)
    one = launcher("local", Store(tmp_path), 4, lambda run: {}, 2)
    assert isinstance(one, local.LocalLauncher)
    assert (one.device, len(one.running), one.device_name) == ("cpu", 2, "2 x CPU, 1 thread(s)")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": "dask"}, "--launcher dask: there are local, ray and slurm"),
        (
            {"name": "local", "per_run": 0.5},
            "--per-run 0.5: runs share a GPU, and this machine has none; leave it out",
        ),
        ({"name": "local", "per_run": 1.5}, "--per-run 1.5: devices a run are 1 or another whole number"),
        ({"name": "ray", "per_run": -0.5}, "--per-run -0.5: devices a run are 1 or another whole number"),
        (
            {"name": "ray", "nodes": 2},
            "--num-nodes 2: one process cannot start others on other machines. On each of them: torchrun --nnodes 2 "
            "--nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m lit_hidden reproduce ...; in a "
            "SLURM job: srun lit-hidden reproduce ...; or give --launcher slurm",
        ),
        (
            {"name": "local", "options": {"partition": "gpu", "qos": "low"}},
            "--slurm partition, qos: an option of --launcher slurm, not of local",
        ),
    ],
)
def test_what_a_launcher_cannot_do_is_refused(arguments, error, tmp_path):
    with pytest.raises(LauncherError) as raised:
        launcher(**{"store": Store(tmp_path), "devices": 1, "job": lambda run: {}, **arguments})
    assert str(raised.value) == error


def test_devices_are_shared_out_evenly_or_not_at_all():
    assert [at_a_time(4, per_run) for per_run in (1, 2, 4, 0.5, 0.3)] == [4, 2, 1, 8, 12]
    assert [places(3, per_run) for per_run in (1, 2, 4, 0.4)] == [3, 1, 0, 6]
    for devices, per_run, least in ((3, 2, 2), (2, 4, 4), (0, 1, 1), (0, 0.5, 1)):
        with pytest.raises(LauncherError) as error:
            at_a_time(devices, per_run)
        assert str(error.value) == f"--devices {devices}, --per-run {per_run:g}: give {least} or a multiple of it"


def test_a_job_says_where_and_on_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = fake(Store("runs"))._describe(RUN)
    assert job == {
        "run": json.loads(RUN.to_json()), "runs_dir": "runs", "data_dir": "data",
        "device": "cpu", "threads": 1, "devices": 1, "nodes": 1, "decoders": None,
    }  # fmt: skip
    # A worker elsewhere has another working directory.
    absolute = {"runs_dir": f"{tmp_path}/runs", "data_dir": f"{tmp_path}/data"}
    assert fake(Store("runs"), Elsewhere)._describe(RUN) == job | absolute


def test_a_failure_on_data_stops_the_runs_on_them_alone(tmp_path):
    one, other = fake(Store(tmp_path)), Run(density=0.5, **{**TINY, "data": "mnist"})
    one._take(RUN, {"status": "failed", "error": "no digits", "stops": "data", "notes": ["a note"]})
    again = Run(density=0.3, **TINY)
    assert (one._spoils(again), one._spoils(other)) == (True, False)
    assert one.failures == [
        Failure(RUN, "no digits", str(tmp_path / RUN.hash / "log.txt"), "data"),
        Failure(again, f"not tried: {RUN.name} failed on the same data", "", "data"),
    ]
    assert not one._stop.is_set()
    assert said(one) == ["a note"]


def test_a_failure_of_the_grid_stops_it_and_is_the_last(tmp_path):
    one = fake(Store(tmp_path))
    for status in ("held", "done"):
        one._take(RUN, {"status": status})
    for error in ("no room", "no room either"):
        one._take(RUN, {"status": "failed", "error": error, "stops": "grid"}, "a log")
    assert one._stop.is_set()
    assert one.failures == [Failure(RUN, "no room", "a log", "grid")]


def begin(store: Store, epochs: int) -> Path:
    folder = store.folder(RUN)
    folder.mkdir(exist_ok=True)
    lines = ["epoch,seconds", *(f"{epoch},{epoch}.0" for epoch in range(epochs + 1))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder / "last.ckpt"


def test_a_worker_that_dies_is_replaced_as_long_as_the_run_gets_further(tmp_path):
    store = Store(tmp_path)
    one = fake(store)
    assert one._after_death(RUN, "died") is None
    checkpoint = begin(store, 1)
    assert one._after_death(RUN, "died") is None
    checkpoint.write_text("of the middle of an epoch")
    assert one._after_death(RUN, "died") is None
    os.utime(checkpoint, ns=(0, checkpoint.stat().st_mtime_ns + 1))
    assert one._after_death(RUN, "died") is None
    assert one._after_death(RUN, "was killed") == {
        "status": "failed",
        "error": "its worker was killed, and so did the next one, after epoch 1",
        "stops": "run",
    }
    epochs = (0, 1, 1, 1)
    assert said(one) == [f"the worker of {RUN.name} died after epoch {e}; a new one goes on with it" for e in epochs]
    # A run that has answered since begins anew.
    one._take(RUN, {"status": "held"})
    assert one._after_death(RUN, "died") is None


def test_a_result_that_does_not_come_in_sight_stops_the_grid(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(launchers.time, "monotonic", lambda: now[0])
    store, other = Store(tmp_path), Run(density=0.3, **TINY)
    one = fake(store, Elsewhere)
    for run in (RUN, other):
        one._take(run, {"status": "done"})
    assert one._look()
    now[0] += 59
    begin(store, 9).with_name("result.json").write_text("{}")
    assert one._look()
    now[0] += 2
    assert not one._look()
    (failure,) = one.failures
    assert (failure.run, failure.stops, failure.log) == (other, "grid", "")
    assert failure.error == (
        f"a worker has finished it, but {tmp_path / other.hash} here has no result: "
        "--runs-dir must be a folder that all machines share"
    )
    # On this machine there is nothing to wait for.
    here = fake(store)
    here._take(other, {"status": "done"})
    assert not here._look()


def test_what_a_job_prints_goes_to_its_log_and_nothing_else_does(tmp_path, monkeypatch, capfd):
    import lit_hidden.engine.worker

    def work(job, log):
        log(Path(job["log"]))
        os.write(1, b"to the log\n")
        os.write(2, b"and this\n")
        if "fail" in job:
            raise SystemExit(3)
        return {"status": "done"}

    monkeypatch.setattr(lit_hidden.engine.worker, "work", work)
    job = {"log": str(tmp_path / "run" / "log.txt")}
    assert work_here(job) == {"status": "done"}
    with pytest.raises(SystemExit):
        work_here({**job, "fail": True})
    os.write(1, b"out\n")
    os.write(2, b"err\n")
    assert capfd.readouterr() == ("out\n", "err\n")
    assert Path(job["log"]).read_text() == 2 * "to the log\nand this\n"
