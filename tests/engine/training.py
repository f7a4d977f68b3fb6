"""What the tests of training share: a run, what it leaves, a worker's job."""

import csv
import io
import json
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch

from lit_hidden.code import spec
from lit_hidden.engine.checkpoints import Recorder
from lit_hidden.engine.store import Store
from lit_hidden.engine.train import train
from lit_hidden.engine.work import opened, work
from lit_hidden.results import Results
from lit_hidden.run import Run

TINY = {"net": "conv2", "width": 0.05, "data": "digits", "train_images": 300}
ARM: dict[str, Any] = {
    "net": "lenet", "width": 0.3, "data": "arm.ArmData", "task": "arm.Angles", "epochs": 2, "lr": 0.05,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "net": "transformer.layers_1", "data": "text.TextData", "task": "text.NextToken", "train_images": 200,
    "batch_size": 20, "width": 0.25, "epochs": 2, "lr": 0.1,
}  # fmt: skip
# A decay that can be seen: at the published 1e-4 its share of a step is lost in rounding.
HIDDEN = Run(density=0.4, epochs=4, callbacks=(spec("trace.Trace", updates=100),), weight_decay=0.05, **TINY)
JOB = {"data_dir": "data"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder and the result of HIDDEN, trained in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(HIDDEN, folder)


def without_time(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def evaluate(module, data):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        return L.Trainer(accelerator="cpu", **quiet).test(module, data, verbose=False)


def counted(result: dict[str, Any]) -> dict[str, Any]:
    """What is the same wherever and whenever a run is trained."""
    return {name: value for name, value in result.items() if name != "provenance"}


def job(run: Run, runs_dir: Path, **other: str) -> dict[str, object]:
    here = {"run": json.loads(run.to_json()), "runs_dir": str(runs_dir), "device": "cpu", "devices": 1}
    return {**JOB, **here, **other}


def answered(job: dict[str, object]) -> dict[str, object]:
    """Do a job, and say what became of it; the run's folder then forgets a failure."""
    run, store = opened(job)
    with redirect_stderr(io.StringIO()) as said:
        work(job)
    sys.stderr.write(said.getvalue())
    notes, failure = [line for line in said.getvalue().splitlines() if "; set aside as " in line], store.failure(run)
    store.forgive(run)
    return {"status": "failed" if failure else "done" if store.done(run) else "held", "notes": notes, **(failure or {})}


def stopped(run: Run, store: Store) -> Path:
    """Train the first epoch of a run, and leave its checkpoint in the folder that is returned."""
    real = Recorder.on_train_epoch_end

    def stop(*arguments: Any) -> None:
        real(*arguments)
        raise RuntimeError("stopped here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "on_train_epoch_end", stop)
        assert answered(job(run, store.root))["error"] == "RuntimeError: stopped here"
    return store.folder(run)


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("runs"))


def done(store: Store, run: Run, keep: bool = True) -> dict[str, Any]:
    """Train a run, unless that was done, and those before it."""
    if (result := store.result(run)) is None:
        if run.parent is not None:
            done(store, run.parent)
        with store.claim(run) as folder:
            assert folder is not None
            store.finish(run, train(run, folder, keep=keep))
        assert store.damage(run) is None
        result = store.result(run)
    assert result is not None
    return result


def network(store: Store, run: Run) -> torch.nn.Module:
    return Results([(run, done(store, run), store.folder(run))]).network(run)
