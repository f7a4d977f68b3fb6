"""The one worker program: claim a run, build it, train it, write down what became of it.

A job is `{"run": description, "runs_dir", "data_dir", "device", "threads", "devices"}`. It may say how many processes
decode images for each device, `"decoders"`, and whether to `"keep"` the run's net for the runs after it. What became
of it stands in the run's folder: `result.json`, or `failure.json`, and `notes.txt`, lines for the user.
"""

import csv
import errno
import json
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_hidden import code
from lit_hidden.engine.store import CHECKPOINT, Store
from lit_hidden.run import Run

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Group

Job = dict[str, Any]
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_ROOM = 2**26  # bytes; with less the disk counts as full, whatever error a library raises


def run_of(job: Job) -> Run:
    """Read a job's run."""
    return Run.from_json(json.dumps(job["run"]))


def log_of(job: Job) -> Path:
    """Return the path of a run's log."""
    return Store(job["runs_dir"]).folder(run_of(job)) / "log.txt"


def work(job: Job, group: "Group | None" = None, log: bool = False) -> int:
    """Train one job's run, unless it is done or another process holds it, and write down what became of it.

    The `group` that this process leads trains it together. What is printed goes into the run's log if `log` is set.
    Return the exit status, above 0 if a failure could not be written down.
    """
    run, store = run_of(job), Store(job["runs_dir"])
    with ExitStack() as stack:
        try:
            note = store.mend(run, look=_foreign)  # before the log is opened, which moves with its folder
            if log:
                stack.enter_context(printing_into(log_of(job)))
            with store.claim(run) as folder:
                if folder is None:
                    return 0
                if note:
                    _tell(run, store, note)
                if store.result(run) is None:
                    _train(run, store, folder, job, group)
                    if damage := store.damage(run):
                        raise _UnusableError(f"the files that it left cannot be used: {damage}")
        except Exception as error:
            with suppress(OSError):  # the log's disk may be full
                traceback.print_exc()
            return failed(run, store, error, group)
    return 0


def failed(run: Run, store: Store, error: Exception, group: "Group | None" = None) -> int:
    """Write down why a run failed and what that stops, unless another rank was first; return `work`'s exit status."""
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: torch may be what cannot be imported
    stops = "data" if "DataError" in kinds else "grid" if "StoreError" in kinds else "run"
    told = str(error) if kinds & {"DataError", "StoreError", "_UnusableError"} else f"{type(error).__name__}: {error}"
    if full := _full(error, store.root):
        told, stops = f"{store.folder(run)} {full}", "grid"
    if group is not None:
        group.break_up()
        if store.failure(run):  # another rank failed first, and this one lost it
            return 1
        told, stops = f"rank {group.ranks.rank}: {told}", "grid" if stops == "run" and group.whole else stops
    try:
        store.fail(run, told, stops)
    except OSError:
        return os.EX_IOERR
    return 0


class _UnusableError(Exception):
    """The files that a run left are damaged."""


def _train(run: Run, store: Store, folder: Path, job: Job, group: "Group | None") -> None:
    """Train the run; if its checkpoint is of another net, once more from the beginning."""
    # Imported here: a worker that cannot import torch must say so in the folder.
    from lit_hidden.engine.network import make_data
    from lit_hidden.engine.ranks import ALONE
    from lit_hidden.engine.train import UnfitError, alone, train

    for part in folder.glob(".*.part"):  # of a process that was killed: nobody else writes here now
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    now, epochs = datetime.now(UTC).isoformat(timespec="seconds"), store.progress(run)[0]
    _say(f"{now} process {os.getpid()} on {socket.gethostname()} trains {run.name}, after epoch {epochs}")
    group = None if alone(run) else group
    if group is not None:
        make_data(run, job["data_dir"], job.get("decoders")).prepare_data()  # before the others start: they would block
        group.tell(job)
    how = {name: job[name] for name in ("device", "threads", "decoders", "keep") if name in job}
    try:
        with group.together(job["device"]) if group is not None else nullcontext(ALONE) as ranks:
            result = train(run, folder, job["data_dir"], ranks=ranks, **how)
    except UnfitError as error:
        if group is not None:  # the others are in the middle of the run
            raise
        _tell(run, store, str(error))
        _train(run, store, folder, job, group)
    else:
        store.finish(run, result)


def _foreign(folder: Path) -> str | None:
    """Say why a run cannot go on from its checkpoint: it does not load, or its epochs are not those of the curve."""
    if not (folder / CHECKPOINT).exists():
        return None
    import torch

    try:
        checkpoint = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
        recorded = checkpoint["callbacks"]["Recorder"]
        for name, then in recorded.get("code", {}).items():
            if code.fingerprint(name) != then:
                return f"last.ckpt: it is stale: the code of {name} has changed since"
        rows = [{k: "" if v != v else str(v) for k, v in row.items()} for row in recorded["rows"]]  # NaN: ""
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            # A run that is killed between the two has written an epoch more than it goes on from.
            if list(csv.DictReader(file))[: len(rows)] != rows:
                return "last.ckpt: its epochs are not those of metrics.csv"
    except Exception as error:  # of many kinds: torch's, pickle's, and KeyErrors of other checkpoints
        return f"last.ckpt: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def _full(error: Exception, root: Path) -> str | None:
    """Say that a folder cannot be written to, and how to mend that, if this caused the error."""
    error = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        why = str(error)
    else:  # torch and safetensors have errors of their own for a write that failed
        try:
            free = shutil.disk_usage(root).free
        except OSError:
            return None
        if free >= _ROOM:
            return None
        why = f"{type(error).__name__}: {error}; {free / 1e6:.0f} MB are free there"
    return f"cannot be written to: {why}; what is done is kept: mend that, and the same command goes on"


def _tell(run: Run, store: Store, note: str) -> None:
    """Print a line, and leave it for the user."""
    _say(note)
    store.note(run, note)


def _say(line: str) -> None:
    """Print a line at once, so that it stands before what libraries write."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def printing_into(log: Path) -> Iterator[None]:
    """Append what this process and its libraries print to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)

    def print_into(*files: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)

    try:
        with log.open("a") as file:
            print_into(file.fileno(), file.fileno())
        yield
    finally:
        print_into(*kept)
        for copy in kept:
            os.close(copy)
