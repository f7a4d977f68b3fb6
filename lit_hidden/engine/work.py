"""The one worker program: claim a run, build it, train it, write down what became of it.

A job is `{"run": description, "runs_dir", "data_dir", "device", "threads"}`, and may say how many `"devices"` train the
run, how many processes decode images for each, `"decoders"`, and whether to `"keep"` its net for the runs after it.
What becomes of it stands in the run's folder: `result.json`; or `failure.json`, with the error and what else it stops:
the `run`, all runs on its `data`, or the `grid`; and `notes.txt`, lines for the user.
"""

import csv
import errno
import json
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
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
_ROOM = 2**26  # bytes; with less the disk is full, however a library puts it


def run_of(job: Job) -> Run:
    """Read a job's run."""
    return Run.from_json(json.dumps(job["run"]))


def work(job: Job, log: Callable[[Path], None] = lambda path: None, group: "Group | None" = None) -> int:
    """Train one job's run, unless it is done or another process holds it, and write down what became of it.

    Args:
        job: see above.
        log: called with the path of the run's log before anything is printed.
        group: the processes that train it together, of which this one leads.

    Returns:
        the exit status: above 0 if a failure could not be written down.
    """
    run, store = run_of(job), Store(job["runs_dir"])
    try:
        note = store.mend(run, look=_foreign)  # before the log is opened, which moves with its folder
        log(store.folder(run) / "log.txt")
        with store.claim(run) as folder:
            if folder is None:
                return 0
            if note:
                _say(note)
                store.note(run, note)
            if store.result(run) is None:
                while note := _train(run, store, folder, job, group):
                    _say(note)
                    store.note(run, note)
                if damage := store.damage(run):
                    raise _UnusableError(f"what it left cannot be used: {damage}")
    except Exception as error:
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        return failed(run, store, error, group)
    return 0


def failed(run: Run, store: Store, error: Exception, group: "Group | None" = None) -> int:
    """Write down why a run failed and what that stops; of several processes the first to fail does.

    Returns:
        the exit status, as of `work`.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: what cannot be imported may be torch
    stops = "data" if "DataError" in kinds else "grid" if "StoreError" in kinds else "run"
    told = str(error) if kinds & {"DataError", "StoreError", "_UnusableError"} else f"{type(error).__name__}: {error}"
    if full := _full(error, store.root):
        told, stops = f"{store.folder(run)} {full}", "grid"
    if group is not None:
        group.broken = True
        group.left()
        if store.failure(run):  # another one has failed, and this one has only lost it
            return 1
        told, stops = f"rank {group.ranks.rank}: {told}", "grid" if stops == "run" and group.whole else stops
    try:
        store.fail(run, told, stops)
    except OSError:
        return os.EX_IOERR
    return 0


class _UnusableError(Exception):
    """What a run has left cannot be believed."""


def _train(run: Run, store: Store, folder: Path, job: Job, group: "Group | None") -> str | None:
    """Train; give a note if there was a checkpoint that does not fit, and is none any more."""
    # Here and not above: a worker that cannot import torch should say so in the folder.
    from lit_hidden.engine.network import make_data
    from lit_hidden.engine.ranks import ALONE
    from lit_hidden.engine.train import UnfitError, alone, train

    for part in folder.glob(".*.part"):  # of a process that was killed: nobody else writes here now
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    now, epochs = datetime.now(UTC).isoformat(timespec="seconds"), store.progress(run)[0]
    _say(f"{now} process {os.getpid()} on {socket.gethostname()} trains {run.name}, after epoch {epochs}")
    group = None if alone(run) else group
    if group is not None:
        make_data(run, job["data_dir"], job.get("decoders")).prepare_data()  # before others are told, who would wait
        group.tell(job)
    try:
        with group.together(job["device"]) if group is not None else nullcontext(ALONE) as ranks:
            result = train(
                run,
                folder,
                job["data_dir"],
                device=job["device"],
                threads=job["threads"],
                decoders=job.get("decoders"),
                ranks=ranks,
                keep=job.get("keep", False),
            )
    except UnfitError as error:
        if group is not None:  # the others are left in the middle
            raise
        return str(error)
    store.finish(run, result)
    return None


def _foreign(folder: Path) -> str | None:
    """Say why a run cannot go on from its checkpoint: it does not load, or belongs to other epochs than those there."""
    if not (folder / CHECKPOINT).exists():
        return None
    import torch

    try:
        checkpoint = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
        for name, then in checkpoint["callbacks"]["Recorder"].get("code", {}).items():
            if code.fingerprint(name) != then:
                return f"last.ckpt: it is stale: the code of {name} has changed since"
        rows = [
            {k: "" if v != v else str(v) for k, v in row.items()} for row in checkpoint["callbacks"]["Recorder"]["rows"]
        ]
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            # A run that is killed between the two has written an epoch more than it goes on from.
            if list(csv.DictReader(file))[: len(rows)] != rows:
                return "last.ckpt: its epochs are not those of metrics.csv"
    except Exception as error:  # of many kinds: torch's, pickle's, and KeyErrors of other checkpoints
        return f"last.ckpt: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def _full(error: Exception, root: Path) -> str | None:
    """Say that a folder cannot be written to, and how to mend that, if this is what an error comes from."""
    mend = "what is done is kept: mend that, and the same command goes on"
    error = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f"cannot be written to: {error}; {mend}"
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return None
    if free >= _ROOM:
        return None
    # torch and safetensors have errors of their own for a write that failed.
    return f"cannot be written to: {type(error).__name__}: {error}; {free / 1e6:.0f} MB are free there; {mend}"


def _say(line: str) -> None:
    """Write a line into the run's log at once, so that it stands there before what libraries write."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def write_to(log: Path) -> None:
    """Send what libraries print into the run's log, so that it does not come between the answers."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
