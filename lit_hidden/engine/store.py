"""`runs/<hash>/`: one folder per run. `result.json` is written last and atomically; it means done.

`result.json` has a checksum of itself and of each other file, so that damage is found when the run is read. A damaged
folder is neither used nor deleted: it is renamed to `runs/<hash>.damaged-1`, and the run is trained again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
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
RESULT, FAILURE, NOTES = "result.json", "failure.json", "notes.txt"


class StoreError(UserError):
    """A folder cannot be used; says what to do about it."""


class Damage(Exception):
    """Why a run's files cannot be used."""


def needed(child: Run) -> tuple[str, ...]:
    """Name the files of its parent that `child` can begin with; one of them is enough."""
    before = child.parent
    if before is None:
        return ()
    if before.kind != "hidden":
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


class Store:
    """The folder `root` that holds runs; made when first written to.

    StoreError where the folder's permissions or disk forbid what a method does.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Write and remove a file, before anything expensive is done."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self.root / ".writable", "yes")
            (self.root / ".writable").unlink(missing_ok=True)  # another engine may do the same
        except OSError as error:
            raise unwritable(self.root, error) from error

    def folder(self, run: Run) -> Path:
        """Return where `run` lives, whether it is there or not."""
        return self.root / run.hash

    def done(self, run: Run) -> bool:
        """Tell whether a run has a result, without reading it: cheap enough to poll."""
        return os.path.exists(self.folder(run) / RESULT)

    def result(self, run: Run) -> dict[str, Any] | None:
        """Read the result of a run; None if it is not done or damaged."""
        try:
            return self._read(run)
        except Damage:
            return None

    def results(self, runs: Iterable[Run]) -> Results:
        """Gather the results of the runs that are done; StoreError also where one is damaged."""
        read = ((run, self.check_file(run), self.folder(run)) for run in runs)
        return Results((run, result, folder) for run, result, folder in read if result is not None)

    def check_file(self, run: Run, *names: str) -> dict[str, Any] | None:
        """Compare a run's files and these nets with their checksums; return its result. StoreError: one is damaged."""
        try:
            return self._read(run, names)
        except Damage as damage:
            advice = f"reproduce sets it aside and trains {run.name} again"
            raise StoreError(f"{self.folder(run)} is damaged: {damage}; {advice}") from damage

    def progress(self, run: Run) -> tuple[int, float]:
        """Return the epochs in `metrics.csv` and the seconds they took: cheap enough to poll."""
        try:
            heading, *_, last = (self.folder(run) / "metrics.csv").read_text(encoding="utf-8").splitlines()
            row = dict(zip(heading.split(","), last.split(","), strict=True))
            return int(row["epoch"]), float(row["seconds"])
        except (OSError, ValueError, KeyError):
            return 0, 0.0

    def damage(self, run: Run, child: Run | None = None) -> str | None:
        """Say why a run that is done cannot be used, or not by a `child` that begins with its net; None if it can."""
        nets = () if child is None else needed(child)
        there = [name for name in NETS if (self.folder(run) / name).exists()]  # archives leave large ones out
        try:
            if self._read(run, there) is not None and child is not None and nets and not {*nets} & {*there}:
                return f"it lacks {' or '.join(nets)}, which {child.name} needs"
        except Damage as damage:
            return str(damage)
        return None

    def mend(
        self, run: Run, child: Run | None = None, look: Callable[[Run, Path], str | None] = lambda run, folder: None
    ) -> str | None:
        """Set a damaged folder aside, unless a process holds it; return a line that says so and why.

        `look` finds further damage in the folder of a run that is not done.
        """
        folder = self.folder(run)
        try:
            with _locked(folder / ".claim") as ours:
                why = ours and (self.damage(run, child) or (None if self.done(run) else look(run, folder)))
                if not why:
                    return None
                aside = next(new for n in range(1, 10**9) if not (new := Path(f"{folder}.damaged-{n}")).exists())
                folder.rename(aside)
        except FileNotFoundError:  # there is no folder, or another process has just set it aside
            return None
        except OSError as error:
            raise unwritable(folder, error) from error
        return f"{folder} is damaged: {why}; set aside as {aside.name}, {run.name} is trained again"

    @contextmanager
    def claim(self, run: Run) -> Iterator[Path | None]:
        """Hold a run's folder, at most until this process ends; yields None if another process holds it."""
        folder, ours = self.folder(run), None
        with ExitStack() as stack:
            while ours is None:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):  # the folder was set aside just now
                        ours = stack.enter_context(_locked(folder / ".claim"))
                except OSError as error:
                    raise unwritable(folder, error) from error
            yield folder if ours else None

    def held(self, run: Run) -> bool:
        """Tell whether a process holds a run."""
        try:
            with _locked(self.folder(run) / ".claim", make=False) as ours:
                return not ours
        except OSError:  # there is nothing to hold
            return False

    def fail(self, run: Run, error: str, stops: str) -> None:
        """Write down why a run failed, and what that stops: the `run`, all runs on its `data`, or the `grid`."""
        self.folder(run).mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder(run) / FAILURE, json.dumps({"error": error, "stops": stops}) + "\n")

    def failure(self, run: Run) -> dict[str, str] | None:
        """Read why a run failed; None if it has not: cheap enough to poll."""
        found: dict[str, str] | None = json.loads(self._said(run, FAILURE) or "null")
        return found

    def note(self, run: Run, line: str) -> None:
        """Leave a line for the user in a run's folder."""
        with (self.folder(run) / NOTES).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def notes(self, run: Run) -> list[str]:
        """Read the lines for the user: cheap enough to poll."""
        return self._said(run, NOTES).splitlines()

    def _said(self, run: Run, name: str) -> str:
        try:
            return (self.folder(run) / name).read_text(encoding="utf-8")
        except OSError:
            return ""

    def forgive(self, run: Run) -> None:
        """Remove a run's failure and notes before it is tried again."""
        for name in (FAILURE, NOTES):
            with suppress(OSError):
                (self.folder(run) / name).unlink()

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Write the result with checksums of all files, then remove the checkpoint: a kill must lose nothing."""
        folder, temporary = self.folder(run), (".", RESULT, CHECKPOINT, FAILURE, NOTES, "log.txt")
        sums = {RESULT: _sum(json.dumps(result).encode())}
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith(temporary):
                sums[path.name] = _sum(path.read_bytes())
        write_atomically(folder / RESULT, json.dumps({**result, "checksums": sums}, indent=1) + "\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _read(self, run: Run, nets: Iterable[str] = ()) -> dict[str, Any] | None:
        """Read the result of a run that is done, and check all its files but nets, and these nets."""
        if not self.done(run):
            return None
        result = check(run, partial(_content, self.folder(run)), nets)
        for name, then in result.get("code", {}).items():
            if code.fingerprint(name) not in (then, None):  # None: the code is not on this machine
                raise Damage(f"it is stale: the code of {name} has changed since")
        return result


def check(run: Run, read: Callable[[str], bytes], nets: Iterable[str] = ()) -> dict[str, Any]:
    """Compare the files of a run, which `read` returns, with their checksums; return its result without these.

    Damage: a file or one of `nets` is missing or another.
    """
    try:
        result = dict(json.loads(read(RESULT)))
        sums = dict(result.pop("checksums", {}))
    except (ValueError, TypeError, RecursionError) as error:
        raise Damage(f"{RESULT}: {error}") from error
    if sums.get(RESULT) != _sum(json.dumps(result).encode()):
        raise Damage(f"{RESULT}: it is not what its checksum is of")
    if (other := described(read("run.json"))) != run:
        raise Damage(f"it holds another run, {other.name}, than asked for, {run.name}")
    for name in sorted({*sums.keys() - {RESULT, *NETS}, "run.json", "metrics.csv", *nets}):
        if _sum(read(name)) != sums.get(name):
            raise Damage(f"{name}: it is not the one whose checksum is in {RESULT}")
    return result


def described(content: bytes) -> Run:
    """Read a `run.json`; Damage: it describes no run."""
    try:
        run = Run.from_json(content.decode())
        hash(run)  # which reads all of it
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Damage(f"run.json: {error}") from error
    return run


def _content(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Damage(f"{name}: {error}") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error}; mend that, or choose another with --runs-dir") from error


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unwritable(folder: Path, error: OSError) -> StoreError:
    """Say that a folder cannot be written to, and what to do."""
    return StoreError(f"{folder} cannot be written to: {error}; choose another with --runs-dir")


@contextmanager
def _locked(path: Path, make: bool = True) -> Iterator[bool]:
    """Lock a file for this process; yields False if another has it. FileNotFoundError: it is not there any more."""
    with open(os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o666), "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # Between opening and locking, the folder may have been set aside and made again.
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise FileNotFoundError(f"{path} was replaced")
        yield True
