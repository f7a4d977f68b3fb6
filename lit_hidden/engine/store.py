"""`runs/<hash>/`: one folder per run; `result.json`, written atomically and last, means done.

`result.json` has a checksum of each other file and of itself: a bit that turns anywhere is found when the run is read.
A folder that cannot be believed is neither used nor deleted: it is set aside as `runs/<hash>.damaged-1`, and the run
is trained again.
"""

import fcntl
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, BinaryIO

from lit_hidden import code
from lit_hidden.files import regular
from lit_hidden.recipes import method
from lit_hidden.results import Results, diverged, primary
from lit_hidden.run import Run

# What a run leaves of its net. A hidden run: its masks, if seeds give the weights back; all tensors, if seeds do not or
# if another search goes on from it. A dense run or a ticket: all tensors.
SUBNETWORK, SCORES, WEIGHTS = "subnetwork.safetensors", "scores.safetensors", "weights.safetensors"
NETS = (SUBNETWORK, SCORES, WEIGHTS)
CHECKPOINT = "last.ckpt"  # in the folder of a run that was begun and is not done; one that is left over is not read
RESULT = "result.json"

FAILURE, NOTES = "failure.json", "notes.txt"  # what a worker has to say besides

_SUMS = "checksums"  # in result.json: of the rest of it, and of each other file that the run left


class StoreError(RuntimeError):
    """A folder that cannot be read or written, and what to do about it."""


def needed(child: Run) -> tuple[str, ...]:
    """Name the files, one of which a run must have left for `child` to begin with."""
    before = child.parent
    if before is None:
        return ()
    if before.kind != "hidden":
        return (WEIGHTS,)
    if child.kind == "hidden" and (child.resolved.epochs or before.method == "supermask"):
        return (SCORES,)  # masks do not say where the search stood, nor how likely each weight was
    return SUBNETWORK, SCORES


class Damage(Exception):
    """Why a run's files cannot be believed."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `path` whole or not at all, whatever happens in between; text as UTF-8, its line ends as they are.

    Raises:
        OSError: it cannot be written; one that names a file names the folder, which is what to mend.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _opened(part) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _opened(part: Path) -> BinaryIO:
    try:
        return part.open("wb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(part.parent)) from error


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
        """Read the result of a run; None if it is not done, or the result is damaged or another run's.

        Raises:
            StoreError: the folder may not be read.
        """
        try:
            return self._read(run)
        except Damage:
            return None

    def results(self, runs: Iterable[Run]) -> Results:
        """Gather the results of the runs that are done.

        Raises:
            StoreError: a result is damaged or another run's, or a folder may not be read.
        """
        rows = []
        for run in runs:
            try:
                if (result := self._read(run)) is not None:
                    rows.append((run, result, self.folder(run)))
            except Damage as damage:
                raise StoreError(self._told(run, damage)) from damage
        return Results(rows)

    def done(self, run: Run) -> bool:
        """Tell whether a run has a result, unread: cheap enough to poll."""
        return os.path.exists(self.folder(run) / "result.json")

    def progress(self, run: Run) -> tuple[int, float]:
        """Count the epochs in `metrics.csv` and the seconds they took: cheap enough to poll."""
        try:
            heading, *_, last = regular(self.folder(run) / "metrics.csv").read_text(encoding="utf-8").splitlines()
            row = dict(zip(heading.split(","), last.split(","), strict=True))
            return int(row["epoch"]), float(row["seconds"])
        except (OSError, ValueError, KeyError):
            return 0, 0.0

    def damage(self, run: Run, child: Run | None = None) -> str | None:
        """Say why a run's folder cannot be believed; None if it can, or if there is none.

        Args:
            run: whose folder.
            child: a run that begins with the net of `run`, and so needs its file.

        Raises:
            StoreError: the folder may not be read.
        """
        folder = self.folder(run)
        if os.path.exists(folder) and not os.path.isdir(folder):
            return "it is no folder"
        nets = () if child is None else needed(child)
        there = [name for name in NETS if (folder / name).exists()]  # an archive may have left large ones out
        try:
            if self._read(run, there) is None:
                self._check_begun(run)
            elif child is not None and nets and not {*nets} & {*there}:
                raise Damage(f"it lacks {' or '.join(nets)}, which {child.name} needs")
        except Damage as damage:
            return str(damage)
        return None

    def check_file(self, run: Run, name: str) -> None:
        """Hold a file of a run that is done against its checksum.

        Raises:
            StoreError: it is another, or the folder cannot be believed.
        """
        try:
            self._read(run, [name])
        except Damage as damage:
            raise StoreError(self._told(run, damage)) from damage

    def mend(
        self, run: Run, child: Run | None = None, look: Callable[[Path], str | None] = lambda folder: None
    ) -> str | None:
        """Set a damaged folder aside, unless a process is at work in it; return a line that names it and says why.

        Args:
            run: whose folder.
            child: as for `damage`.
            look: looks closer at the folder of a run that is not done, and says what is damaged there or None.

        Raises:
            StoreError: the folder may not be read or moved.
        """
        folder = self.folder(run)

        def why() -> str | None:
            return self.damage(run, child) or (None if self.done(run) else look(folder))

        if (reason := why()) is None:
            return None
        inside = os.path.isdir(folder)
        try:
            with _locked(folder / ".claim" if inside else folder, make=inside) as ours:
                # Asked again: only now does nobody else train or mend here.
                if not ours or (reason := why()) is None:
                    return None
                aside = set_aside(folder)
        except (FileNotFoundError, IsADirectoryError):  # another process has just mended it
            return None
        except OSError as error:
            raise StoreError(f"{folder} is damaged ({reason}) and cannot be set aside: {error}") from error
        return f"{folder} is damaged: {reason}; set aside as {aside.name}, {run.name} is trained again"

    @contextmanager
    def claim(self, run: Run) -> Iterator[Path | None]:
        """Hold a run's folder for this process; yields None if another process holds it.

        The claim is a lock of the operating system, so one who is killed lets go of it.

        Raises:
            StoreError: the folder cannot be made or written to.
        """
        folder, ours = self.folder(run), None
        with ExitStack() as stack:
            try:
                while ours is None:
                    folder.mkdir(parents=True, exist_ok=True)
                    try:
                        ours = stack.enter_context(_locked(folder / ".claim"))
                    except FileNotFoundError:  # the folder was set aside at this very moment
                        continue
            except OSError as error:
                raise StoreError(f"{folder} cannot be written to: {error}; choose another with --runs-dir") from error
            yield folder if ours else None

    def fail(self, run: Run, error: str, stops: str) -> None:
        """Write down why a run failed, and what that stops: the `run`, all runs on its `data`, or the `grid`.

        Raises:
            OSError: it cannot be written.
        """
        self.folder(run).mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder(run) / FAILURE, json.dumps({"error": error, "stops": stops}) + "\n")

    def failure(self, run: Run) -> dict[str, str] | None:
        """Read why a run failed; None if it has not: cheap enough to poll."""
        try:
            found: dict[str, str] = json.loads((self.folder(run) / FAILURE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def forgive(self, run: Run) -> None:
        """Forget a run's failure and notes, since it is tried again."""
        for name in (FAILURE, NOTES):
            with suppress(OSError):
                (self.folder(run) / name).unlink()

    def note(self, run: Run, line: str) -> None:
        """Leave a line for the user in a run's folder."""
        with (self.folder(run) / NOTES).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def notes(self, run: Run) -> list[str]:
        """Read the lines for the user: cheap enough to poll."""
        try:
            return (self.folder(run) / NOTES).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []

    def held(self, run: Run) -> bool:
        """Tell whether a process holds a run."""
        try:
            with _locked(self.folder(run) / ".claim", make=False) as ours:
                return not ours
        except OSError:  # there is nothing to hold
            return False

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Mark a run done, then remove its checkpoint: in this order, or a kill in between would lose the training.

        With the result go checksums of it and of all files that the run leaves.
        """
        folder = self.folder(run)
        sums = {RESULT: _sum(json.dumps(result).encode())}
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith((".", RESULT, CHECKPOINT, FAILURE, NOTES, "log.txt")):
                sums[path.name] = _sum(path.read_bytes())
        write_atomically(folder / RESULT, json.dumps({**result, _SUMS: sums}, indent=1) + "\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _told(self, run: Run, damage: Damage) -> str:
        return f"{self.folder(run)} is damaged: {damage}; reproduce sets it aside and trains {run.name} again"

    def _read(self, run: Run, nets: Iterable[str] = ()) -> dict[str, Any] | None:
        """Read the result of a run, and hold all its files but nets, and these nets, against their checksums."""
        try:
            os.stat(self.folder(run) / RESULT)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(self.folder(run), error) from error
        result = check(run, self._reader(run), nets)
        for name, then in result.get("code", {}).items():
            if code.fingerprint(name) not in (then, None):  # None: another machine, which cannot train it
                raise Damage(f"it is stale: the code of {name} has changed since")
        return result

    def _reader(self, run: Run) -> Callable[[str], bytes]:
        folder = self.folder(run)

        def read(name: str) -> bytes:
            try:
                return regular(folder / name).read_bytes()
            except FileNotFoundError as error:
                raise Damage(f"{name}: it is missing") from error
            except (IsADirectoryError, UnsupportedOperation) as error:
                raise Damage(f"{name}: {error}") from error
            except OSError as error:
                raise _unreadable(folder, error) from error

        return read

    def _check_begun(self, run: Run) -> None:
        """Check what a run that is not done would go on from."""
        last = self.folder(run) / CHECKPOINT
        if not os.path.exists(last):
            return
        _check_description(run, self._reader(run))
        try:
            # torch.save writes checksums, torch.load does not compare them.
            with zipfile.ZipFile(regular(last)) as parts:
                bad = parts.testzip()
        except FileNotFoundError:  # a worker has finished meanwhile
            return
        except PermissionError as error:
            raise _unreadable(last, error) from error
        except Exception as error:  # of many kinds; zipfile documents none
            raise Damage(f"{CHECKPOINT}: {error}") from error
        if bad:
            raise Damage(f"{CHECKPOINT}: the checksum of {bad} is wrong")


def set_aside(path: Path) -> Path:
    """Give a path a name that nothing has, such as `last.ckpt.damaged-1`, and return that."""
    aside = next(new for n in range(1, 10**9) if not (new := Path(f"{path}.damaged-{n}")).exists())
    return path.rename(aside)


def check(run: Run, read: Callable[[str], bytes], nets: Iterable[str] = ()) -> dict[str, Any]:
    """Return what `result.json` says besides checksums, if the files of a run are those that it left.

    Args:
        run: what was trained.
        read: gives a file's content by its name.
        nets: which nets are to be held against their checksums too; large ones stay behind when runs are packed.

    Raises:
        Damage: a file is missing or another, or a number that the run's method leaves is not there.
    """
    try:
        content = json.loads(read(RESULT).decode())
        result: dict[str, Any] = content if isinstance(content, dict) else {}
        sums = result.pop(_SUMS, None)
        own = {RESULT: _sum(json.dumps(result).encode())}
    except (ValueError, RecursionError) as error:
        raise Damage(f"{RESULT}: {error}") from error
    metric, lost = primary(result), diverged(result)
    for name in (metric, *(name.format(metric=metric) for name in method(str(run.resolved.method)).numbers)):
        value = result.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (lost or math.isfinite(value)):
            raise Damage(f"{RESULT}: its {name} is {value}, not a number")
    if not isinstance(sums, dict) or not own.items() <= sums.items():
        raise Damage(f"{RESULT}: it is not what its checksum is of")
    _check_description(run, read)
    left = sums.keys() - own.keys() - set(NETS)
    for name in sorted(left | {"run.json", "metrics.csv", *nets}):
        if _sum(read(name)) != sums.get(name):
            raise Damage(f"{name}: it is not the one whose checksum is in {RESULT}")
    return result


def _check_description(run: Run, read: Callable[[str], bytes]) -> None:
    try:
        described = Run.from_json(read("run.json").decode())
        other = described.hash
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Damage(f"run.json: {error}") from error
    if other != run.hash:
        raise Damage(f"it holds another run, {described.name}, than asked for, {run.name}")


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {error}; mend that, or choose another folder with --runs-dir")


@contextmanager
def _locked(path: Path, make: bool = True) -> Iterator[bool]:
    """Lock a file for this process; yields False if another has it.

    Raises:
        FileNotFoundError: the file is not there (any more).
        OSError: it cannot be opened.
    """
    with open(os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o666), "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # Between opening and locking, its folder may have been set aside and another made in its place.
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise FileNotFoundError(f"{path} was replaced")
        yield True
