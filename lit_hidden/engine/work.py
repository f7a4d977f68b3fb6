"""The one worker program: claim a run, build it, train it, and leave `result.json` or `failure.json` in its folder.

A job is `{"run": description, "runs_dir", "data_dir", "device", "devices"}`. It may say how many processes decode
images for each device, `"decoders"`, whether to `"keep"` the run's scores, and when to stop, `"until"`.
"""

import errno
import json
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lit_hidden.engine.beforehand import now
from lit_hidden.engine.ranks import Group
from lit_hidden.engine.store import Store, unwritable
from lit_hidden.run import Run

Job = dict[str, Any]
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_GRACE = 2.0  # seconds for torchrun to end this process, because another one has died


def opened(job: Job) -> tuple[Run, Store]:
    """Read a job's run, and open the store that it lives in."""
    return Run.from_json(json.dumps(job["run"])), Store(job["runs_dir"])


def work(job: Job, group: Group | None = None) -> None:
    """Train one job's run, with the `group` that this process leads, unless it is done or another process holds it."""
    run, store = opened(job)
    with ExitStack() as stack:
        try:
            from lit_hidden.engine.checkpoints import unusable  # here: without torch, `_fail` must still say so

            folder = stack.enter_context(store.claim(run))
            if folder is None:
                return
            why = store.damage(run) if store.done(run) else unusable(run, folder)
            if why:
                sys.stderr.write(f"{store.set_aside(run, why)}\n")
            if store.done(run):
                return
            stack.enter_context(printing_into(folder))
            for part in folder.glob(".*.part"):  # of a process that was killed: nobody else writes here now
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            here, epochs = f"process {os.getpid()} on {socket.gethostname()}", store.progress(run)
            sys.stderr.write(f"{now()} {here} trains {run.name}, after epoch {epochs}\n")
            store.finish(run, _trained(job, run, folder, group))
            if damage := store.damage(run):  # its own code was changed meanwhile
                raise RuntimeError(damage)
        except Exception as error:
            _fail(run, store, error, group)


def follow(group: Group) -> None:
    """Train what the leader of the group says, until it says no more."""
    while (job := group.take()) is not None:
        run, store = opened(job)
        try:
            _trained(job, run, store.folder(run), group)
        except SystemExit:  # all ranks stop after the same step; the leader decides what is next
            continue
        except Exception as error:
            _fail(run, store, error, group)


def _trained(job: Job, run: Run, folder: Path, group: Group | None) -> dict[str, Any]:
    """Train a run in each process of a group, or in this one alone, and return its result."""
    from lit_hidden.engine.network import make_data
    from lit_hidden.engine.train import alone, train

    how: dict[str, Any] = {name: job[name] for name in ("device", "decoders", "keep", "until") if name in job}
    if group is None or alone(run):
        return train(run, folder, job["data_dir"], **how)
    if group.ranks.local == 0:  # before all meet: the others would block, and each machine may have a cache of its own
        make_data(run, job["data_dir"], job.get("decoders")).prepare_data()
    if group.ranks.rank == 0:
        group.tell(job)
    with group.together(job["device"]):
        return train(run, folder, job["data_dir"], ranks=group.ranks, **how)


def _fail(run: Run, store: Store, error: Exception, group: Group | None) -> None:
    """Write down why a run failed and what that stops. In a group this process ends, as others may wait for it."""
    traceback.print_exc()
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        error = unwritable(store.folder(run), error)
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: torch may be what cannot be imported
    stops = "data" if "DataError" in kinds else "grid" if "StoreError" in kinds else "run"
    told = str(error) if stops != "run" else f"{type(error).__name__}: {error}"
    if group is None:
        return store.fail(run, told, stops)
    time.sleep(_GRACE)
    if store.failure(run) is None:  # else another rank failed first, and this one lost it
        store.fail(run, told, stops)
    sys.exit(1)


@contextmanager
def printing_into(folder: Path) -> Iterator[None]:
    """Append what this process and its libraries print to the log in a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as file, ExitStack() as stack:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            kept = os.dup(number)
            stack.callback(os.close, kept)  # done last: the callbacks run in reverse
            stack.callback(os.dup2, kept, number)
            stack.callback(stream.flush)
            stream.flush()
            os.dup2(file.fileno(), number)
        yield
