"""A worker process: reads jobs from standard input, one JSON object a line; trains; answers a line each.

A job is `{"run": description, "runs_dir", "data_dir", "device", "threads", "wandb": mode, "group"}`, maybe with how
many `"devices"` train the run, and how many processes decode images for each, `"decoders"`; the answer
`{"status": "done" | "held" | "failed", "notes": lines for the user, "error": text, "stops": "run" | "data" | "grid"}`.
It carries run descriptions only.
"""

import csv
import errno
import gc
import json
import os
import queue
import shutil
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_hidden import code
from lit_hidden.engine import team
from lit_hidden.engine.store import CHECKPOINT, Store, StoreError
from lit_hidden.experiment import Run

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_ROOM = 2**26  # bytes; with less the disk is full, however a library puts it


def work(job: dict[str, Any], log: Callable[[Path], None] = lambda path: None) -> dict[str, Any]:
    """Train one job's run, unless it is done or another process holds it, and answer.

    Args:
        job: see above.
        log: called with the path of the run's log before anything is printed.
    """
    run, store = Run.from_json(json.dumps(job["run"])), Store(job["runs_dir"])
    notes: list[str] = []
    try:
        if note := store.mend(run, look=_foreign):  # before the log is opened, which moves with its folder
            notes.append(note)
        log(store.folder(run) / "log.txt")
        for note in notes:
            _say(note)
        while (answer := _work(run, store, job, notes)) is None:
            pass
        return {"notes": notes, **answer}
    except StoreError as error:
        failed = {"error": str(error), "stops": "grid"}
    except Exception as error:
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        full = _full(error, store.root)
        failed = {
            "error": f"{type(error).__name__}: {error}" if full is None else f"{store.folder(run)} {full}",
            "stops": "run" if full is None else "grid",
        }
    return {"status": "failed", "notes": notes, **failed}


def _work(run: Run, store: Store, job: dict[str, Any], notes: list[str]) -> dict[str, Any] | None:
    """Train; None if there was a checkpoint that does not fit, and is none any more."""
    collects = gc.isenabled()
    gc.disable()  # a tenth of the time that imports take went into looking for garbage among what they make
    try:
        # Here and not above: a worker that cannot import torch should say so as an answer.
        from lit_hidden.data import DataError
        from lit_hidden.engine.network import make_data
        from lit_hidden.engine.tracking import show
        from lit_hidden.engine.train import UnfitError, alone, train
    finally:
        if collects:
            gc.enable()

    with store.claim(run) as folder:
        if folder is None:
            return {"status": "held"}
        if store.result(run) is None:
            for part in folder.glob(".*.part"):  # of a process that was killed: nobody else writes here now
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            now, epochs = datetime.now(UTC).isoformat(timespec="seconds"), store.progress(run)[0]
            who = f"process {os.getpid()} on {socket.gethostname()}"
            _say(f"{now} {who} trains {run.name}, after epoch {epochs}")
            try:
                if job.get("devices", 1) > 1:  # before others are told, who would wait for this
                    make_data(run, job["data_dir"], job.get("decoders")).prepare_data()
                with team.team_for(job, alone(run)) as ranks:
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
            except DataError as error:
                return {"status": "failed", "error": str(error), "stops": "data"}
            except UnfitError as error:
                _say(str(error))
                notes.append(str(error))
                return None
            store.finish(run, result)
            if damage := store.damage(run):
                return {"status": "failed", "error": f"what it left cannot be used: {damage}", "stops": "run"}
            if note := show(run, folder, result, job["wandb"], job["group"]):
                notes.append(note)
    return {"status": "done"}


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


def main() -> None:
    """Serve jobs until standard input ends; if it ends during a job, the parent is gone: stop at once."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            busy.set()  # here, so that a job is never begun for a parent that is gone
            lines.put(line)
        if busy.is_set():
            os._exit(1)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while not team.broken and (line := lines.get()) is not None:
        try:
            answer = work(json.loads(line), write_to)
        except SystemExit as stopped:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(stopped.code or 0))  # past Python's own end, which would wait for the thread that reads
        busy.clear()
        answers.write(json.dumps(answer) + "\n")
    team.end()


if __name__ == "__main__":
    main()
