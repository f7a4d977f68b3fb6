"""A worker process: reads jobs from standard input, one JSON object a line; trains; answers a line each.

A job is `{"run": description, "runs_dir", "data_dir", "device", "threads", "wandb": mode, "group"}`; the answer
`{"status": "done" | "held" | "failed", "error": text, "fatal": bool}`. It carries run descriptions only.
"""

import errno
import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train one job's run, unless it is done or another process holds it."""
    # Here and not above: a worker that cannot import torch should say so as an answer.
    from lit_hidden.data import DataError
    from lit_hidden.engine.store import Store, StoreError
    from lit_hidden.engine.tracking import Tracker
    from lit_hidden.engine.train import train
    from lit_hidden.experiment import Run

    run, store = Run.from_json(json.dumps(job["run"])), Store(job["runs_dir"])
    try:
        with store.claim(run) as folder:
            if folder is None:
                return {"status": "held"}
            if store.result(run) is None:
                tracker = Tracker(job["wandb"], job["group"])
                result = train(
                    run, folder, job["data_dir"], device=job["device"], threads=job["threads"], tracker=tracker
                )
                store.finish(run, result)
        return {"status": "done"}
    except (DataError, StoreError) as error:  # every other run would fail alike
        return {"status": "failed", "error": str(error), "fatal": True}
    except OSError as error:
        traceback.print_exc()
        everyone = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # the next run would fail alike
        return {"status": "failed", "error": f"{type(error).__name__}: {error}", "fatal": error.errno in everyone}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "error": f"{type(error).__name__}: {error}", "fatal": False}


def _write_to(log: Path) -> None:
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
            lines.put(line)
        if busy.is_set():
            os._exit(1)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        busy.set()
        job = json.loads(line)
        try:
            _write_to(Path(job["log"]))
            answer = work(job)
        except OSError as error:  # not even the log can be written
            answer = {"status": "failed", "error": f"{type(error).__name__}: {error}", "fatal": True}
        busy.clear()
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
