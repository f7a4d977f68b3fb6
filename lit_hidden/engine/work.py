"""The one worker program: claim a run, build it, train it, write down what became of it.

A job is `{"run": description, "runs_dir", "data_dir", "device", "threads", "devices"}`. It may say how many processes
decode images for each device, `"decoders"`, and whether to `"keep"` the run's net for the runs after it. What became
of it stands in the run's folder: `result.json`, or `failure.json`, and `notes.txt`, lines for the user.
"""

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

from lit_hidden.engine.store import Store, unwritable
from lit_hidden.run import Run

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Group

Job = dict[str, Any]
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


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
            from lit_hidden.engine.checkpoints import unusable  # here: without torch, `failed` must still say so

            note = store.mend(run, look=unusable)  # before the log is opened, which moves with its folder
            if log:
                stack.enter_context(printing_into(log_of(job)))
            with store.claim(run) as folder:
                if folder is None:
                    return 0
                if note:
                    _say(note)
                    store.note(run, note)
                if store.result(run) is None:
                    _train(run, store, folder, job, group)
        except Exception as error:
            with suppress(OSError):  # the log's disk may be full
                traceback.print_exc()
            return failed(run, store, error, group)
    return 0


def failed(run: Run, store: Store, error: Exception, group: "Group | None" = None) -> int:
    """Write down why a run failed and what that stops, unless another rank was first; return `work`'s exit status."""
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        error = unwritable(store.folder(run), error)
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: torch may be what cannot be imported
    stops = "data" if "DataError" in kinds else "grid" if "StoreError" in kinds else "run"
    told = str(error) if stops != "run" else f"{type(error).__name__}: {error}"
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


def _train(run: Run, store: Store, folder: Path, job: Job, group: "Group | None") -> None:
    from lit_hidden.engine.network import make_data
    from lit_hidden.engine.ranks import ALONE
    from lit_hidden.engine.train import alone, train

    for part in folder.glob(".*.part"):  # of a process that was killed: nobody else writes here now
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    now, epochs = datetime.now(UTC).isoformat(timespec="seconds"), store.progress(run)[0]
    _say(f"{now} process {os.getpid()} on {socket.gethostname()} trains {run.name}, after epoch {epochs}")
    group = None if alone(run) else group
    if group is not None:
        make_data(run, job["data_dir"], job.get("decoders")).prepare_data()  # before the others start: they would block
        group.tell(job)
    how = {name: job[name] for name in ("device", "threads", "decoders", "keep") if name in job}
    with group.together(job["device"]) if group is not None else nullcontext(ALONE) as ranks:
        result = train(run, folder, job["data_dir"], ranks=ranks, **how)
    store.finish(run, result)
    if damage := store.damage(run):
        raise RuntimeError(f"the files that it left cannot be used: {damage}")


def _say(line: str) -> None:
    """Print a line at once, so that it stands before what libraries write."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def printing_into(log: Path) -> Iterator[None]:
    """Append what this process and its libraries print to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, ExitStack() as stack:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            kept = os.dup(number)
            stack.callback(os.close, kept)  # done last: the callbacks run in reverse
            stack.callback(os.dup2, kept, number)
            stack.callback(stream.flush)
            stream.flush()
            os.dup2(file.fileno(), number)
        yield
