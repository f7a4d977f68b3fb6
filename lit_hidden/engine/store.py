"""`runs/<hash>/`: one folder per run; `result.json`, written atomically and last, means done."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_hidden.experiment import Results, Run


class StoreError(RuntimeError):
    """A run folder that cannot be used, and what to do about it."""


def write_atomically(path: Path, text: str) -> None:
    """Write `path` whole or not at all, whatever happens in between."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Store:
    """The folder that holds runs.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Write and remove a file, before anything expensive.

        Raises:
            StoreError: that failed.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self.root / ".writable", "yes")
            (self.root / ".writable").unlink(missing_ok=True)  # another engine may try it too
        except OSError as error:
            raise StoreError(f"{self.root} cannot be written to: {error}; choose another with --runs-dir") from error

    def folder(self, run: Run) -> Path:
        """Return where `run` lives, whether it is there or not."""
        return self.root / run.hash

    def result(self, run: Run) -> dict[str, Any] | None:
        """Read the result of a run; None if it is not done.

        Raises:
            StoreError: the folder holds another run, or its files are damaged.
        """
        folder = self.folder(run)
        try:
            text = (folder / "result.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        mend = f"delete {folder} to train it again"
        try:
            result = json.loads(text)
            described = Run.from_json((folder / "run.json").read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise StoreError(f"{folder} is damaged: {error}; {mend}") from error
        if not isinstance(result, dict) or "accuracy" not in result:
            raise StoreError(f"{folder}/result.json holds no result; {mend}")
        if described != run:
            raise StoreError(f"{folder} holds another run, {described.name}, than asked for, {run.name}; {mend}")
        return result

    def results(self, runs: Iterable[Run]) -> Results:
        """Gather the results of the runs that are done."""
        found = ((run, self.result(run), self.folder(run)) for run in runs)
        return Results((run, result, folder) for run, result, folder in found if result is not None)

    def epochs_done(self, run: Run) -> int:
        """Count the epochs that `metrics.csv` has; cheap enough to poll."""
        try:
            rows = (self.folder(run) / "metrics.csv").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0
        return max(0, rows - 2)  # the heading, and the row before training

    @contextmanager
    def claim(self, run: Run) -> Iterator[Path | None]:
        """Hold a run's folder for this process; yields None if another process holds it.

        The claim is a lock of the operating system, so one who is killed lets go of it.

        Raises:
            StoreError: the folder cannot be made or written to.
        """
        folder = self.folder(run)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".claim").open("w")
        except OSError as error:
            raise StoreError(f"{folder} cannot be written to: {error}; choose another with --runs-dir") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield folder

    def held(self, run: Run) -> bool:
        """Tell whether another process holds a run."""
        with self.claim(run) as folder:
            return folder is None

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Mark a run done."""
        write_atomically(self.folder(run) / "result.json", json.dumps(result, indent=1) + "\n")
