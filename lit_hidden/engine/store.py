"""`runs/<hash>/`: one folder per run. `result.json` is written last and atomically; it means done.

`result.json` has a checksum of itself and of each other file, so that damage is found when the run is read. What is
damaged is neither used nor deleted: it is moved to `runs/<hash>.damaged-1`, and the run is trained again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from lit_hidden import code
from lit_hidden.errors import UserError
from lit_hidden.results import Results
from lit_hidden.run import Run

# The net of a run: a hidden net's masks, where seeds give its weights back; otherwise, and for a search that goes on
# from it, all its tensors. All tensors of a dense net or a ticket.
SUBNETWORK, SCORES, WEIGHTS = "subnetwork.safetensors", "scores.safetensors", "weights.safetensors"
NETS = (SUBNETWORK, SCORES, WEIGHTS)
CHECKPOINT = "last.ckpt"  # of a run that was begun; not read once there is a result
_CLAIM = ".claim"  # locked by the process that trains the run
RESULT, FAILURE = "result.json", "failure.json"


class StoreError(UserError):
    """A folder cannot be used; says what to do about it."""


def needed(child: Run) -> tuple[str, ...]:
    """Name the files of its parent that `child` can begin with; one of them is enough."""
    before = child.parent
    if before is None or before.kind != "hidden":
        return (WEIGHTS,)
    if child.kind == "hidden" and (child.resolved.epochs or before.method == "supermask"):
        return (SCORES,)  # masks do not tell the scores, nor a supermask's probabilities
    return SUBNETWORK, SCORES


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `path` whole or not at all, even if the process is killed; text as UTF-8."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def content(path: Path) -> bytes:
    """Read a file; FileNotFoundError: there is none, or a FIFO, which would block, or a link in a circle."""
    if not os.path.isfile(path):
        raise FileNotFoundError("there is no such file")
    return path.read_bytes()


class Store:
    """The folder `root` that holds runs; made when first written to."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Write and remove a file, before anything expensive is done; StoreError: that is forbidden."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self.root / ".writable", "yes")
            (self.root / ".writable").unlink(missing_ok=True)  # another engine may do the same
        except OSError as error:
            raise unwritable(self.root, error) from error

    def folder(self, run: Run) -> Path:
        """Return where `run` lives, whether it is there or not; StoreError: something else is in its place."""
        folder = self.root / run.hash
        for path in () if os.path.isdir(folder) else (folder, self.root):
            if os.path.lexists(path) and not os.path.isdir(path):
                raise StoreError(f"{path} is no folder and links to none; remove it, or choose another with --runs-dir")
        return folder

    def done(self, run: Run) -> bool:
        """Tell whether a run has a result, without reading it: cheap enough to poll."""
        return os.path.isfile(self.folder(run) / RESULT)

    def read(self, run: Run, *nets: str) -> dict[str, Any] | None:
        """Read the result of a run; None if it is not done. StoreError: its files, or these nets, are damaged."""
        folder = self.folder(run)
        if not self.done(run):
            return None
        result = check(run, folder, lambda name: content(folder / name), nets)
        for name, then in result.get("code", {}).items():
            if code.fingerprint(name) not in (then, None):  # None: the code is not on this machine
                raise StoreError(f"{folder} is stale: the code of {name} has changed since")
        return result

    def result(self, run: Run) -> dict[str, Any] | None:
        """Read the result of a run; None if it is not done or damaged."""
        with suppress(StoreError):
            return self.read(run)
        return None

    def results(self, runs: Iterable[Run]) -> Results:
        """Gather the results of the runs that are done; StoreError: one of them is damaged."""
        read = ((run, self.read(run), self.folder(run)) for run in runs)
        return Results((run, result, folder) for run, result, folder in read if result is not None)

    def progress(self, run: Run) -> int:
        """Return the last epoch in `metrics.csv`, its first column: cheap enough to poll."""
        try:
            *_, last = content(self.folder(run) / "metrics.csv").decode().splitlines()
            return int(last.partition(",")[0])
        except (OSError, ValueError):
            return 0

    def damage(self, run: Run, child: Run | None = None) -> str | None:
        """Say why a run that is done cannot be used, or not by a `child` that begins with its net; None if it can."""
        there = [name for name in NETS if (self.folder(run) / name).exists()]  # archives leave large ones out
        try:
            result = self.read(run, *there)
        except StoreError as damage:
            return str(damage)
        if result is None or child is None or {*needed(child)} & {*there}:
            return None
        return f"{self.folder(run)} lacks {' or '.join(needed(child))}, which {child.name} needs"

    def mend(self, run: Run, child: Run | None = None) -> str | None:
        """Set a damaged run aside, unless a process holds it; return a line that says so and why."""
        with self.claim(run) as folder:
            why = folder and self.damage(run, child)
            return self.set_aside(run, why) if why else None

    def set_aside(self, run: Run, why: str) -> str:
        """Move all files of a run that this process holds out of its folder; return a line that says so and why."""
        folder = self.folder(run)
        aside = next(new for number in count(1) if not (new := Path(f"{folder}.damaged-{number}")).exists())
        aside.mkdir()
        # Last what says that the others are there: if this process is killed meanwhile, the rest is damaged.
        for path in sorted(folder.iterdir(), key=lambda path: path.name in (RESULT, CHECKPOINT)):
            if path.name != _CLAIM:
                path.rename(aside / path.name)
        return f"{why}; set aside as {aside.name}, {run.name} is trained again"

    @contextmanager
    def claim(self, run: Run) -> Iterator[Path | None]:
        """Hold a run's folder, at most until this process ends; yields None if another process holds it."""
        folder = self.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _CLAIM).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield folder

    def held(self, run: Run) -> bool:
        """Tell whether a process holds a run."""
        if (self.folder(run) / _CLAIM).exists():
            with suppress(OSError), self.claim(run) as folder:  # others' folders may be forbidden
                return folder is None
        return False

    def fail(self, run: Run, error: str, stops: str) -> None:
        """Write down why a run failed, and what that stops: the `run`, all runs on its `data`, or the `grid`."""
        self.folder(run).mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder(run) / FAILURE, json.dumps({"error": error, "stops": stops}) + "\n")

    def failure(self, run: Run) -> dict[str, str] | None:
        """Read why a run failed; None if it has not: cheap enough to poll."""
        with suppress(OSError):
            return dict(json.loads((self.folder(run) / FAILURE).read_text(encoding="utf-8")))
        return None

    def forgive(self, run: Run) -> None:
        """Remove a run's failure before it is tried again."""
        (self.folder(run) / FAILURE).unlink(missing_ok=True)

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Write the result with checksums of all files, then remove the checkpoint: a kill must lose nothing."""
        folder, temporary = self.folder(run), (".", RESULT, CHECKPOINT, FAILURE, "log.txt")
        sums = {RESULT: _sum(json.dumps(result).encode())}
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith(temporary):
                sums[path.name] = _sum(path.read_bytes())
        write_atomically(folder / RESULT, json.dumps({**result, "checksums": sums}, indent=1) + "\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)


def check(run: Run, folder: str | Path, read: Callable[[str], bytes], nets: Iterable[str] = ()) -> dict[str, Any]:
    """Compare what `read` returns, `nets` too, with its checksums, and return a run's result; StoreError: damage."""
    name = RESULT  # the file that is read
    try:
        result = dict(json.loads(read(name)))
        sums = dict(result.pop("checksums", {}))
        if sums.pop(name, None) != _sum(json.dumps(result).encode()):
            raise ValueError("it is not what its checksum is of")
        name = "run.json"
        if (other := Run.from_json(read(name).decode())) != run:
            raise ValueError(f"it describes another run, {other.name}, than asked for, {run.name}")
        for name in sorted({*sums.keys() - {*NETS}, "run.json", "metrics.csv", *nets}):
            if _sum(read(name)) != sums.get(name):
                raise ValueError(f"it is not the one whose checksum is in {RESULT}")
    except (ValueError, TypeError, OverflowError, RecursionError, FileNotFoundError) as error:
        raise StoreError(f"{folder} is damaged: {name}: {error}") from error
    return result


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unwritable(folder: Path, error: OSError) -> StoreError:
    """Say what to do where a folder cannot be written to."""
    return StoreError(f"{folder} cannot be written to: {error}; choose another with --runs-dir")
