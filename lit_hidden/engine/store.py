"""`runs/<hash>/`: one folder per run; `result.json`, written atomically and last, means done.

A folder that cannot be believed is neither used nor deleted: it is set aside as `runs/<hash>.damaged-1`, and the run
is trained again.
"""

import csv
import fcntl
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lit_hidden import code
from lit_hidden.experiment import Results, Run, diverged, primary
from lit_hidden.recipes import method

# What a run leaves of its net. A hidden run: its masks, if seeds give the weights back; all tensors, if seeds do not or
# if another search goes on from it. A dense run or a ticket: all tensors.
SUBNETWORK, SCORES, WEIGHTS = "subnetwork.safetensors", "scores.safetensors", "weights.safetensors"
CHECKPOINT = "last.ckpt"  # in the folder of a run that was begun and is not done; one that is left over is not read

_SUMS = "checksums"  # in result.json: of the rest of it, of metrics.csv, and of each file of arrays or tensors


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


class _Damage(Exception):
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
            return self._result(run)
        except _Damage:
            return None

    def results(self, runs: Iterable[Run]) -> Results:
        """Gather the results of the runs that are done.

        Raises:
            StoreError: a result is damaged or another run's, or a folder may not be read.
        """
        rows = []
        for run in runs:
            try:
                if (result := self._result(run)) is not None:
                    rows.append((run, result, self.folder(run)))
            except _Damage as damage:
                mend = "lit-hidden reproduce sets it aside and trains it again"
                raise StoreError(f"{self.folder(run)} is damaged: {damage}; {mend}") from damage
        return Results(rows)

    def done(self, run: Run) -> bool:
        """Tell whether a run has a result, unread: cheap enough to poll."""
        return os.path.exists(self.folder(run) / "result.json")

    def progress(self, run: Run) -> tuple[int, float]:
        """Count the epochs in `metrics.csv` and the seconds they took: cheap enough to poll."""
        try:
            heading, *_, last = (self.folder(run) / "metrics.csv").read_text(encoding="utf-8").splitlines()
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
        try:
            read = self._read(run)
            if read is None:
                self._check_begun(run)
            else:
                self._check_done(run, *read)
            if read is not None and child is not None:
                there = [name for name in needed(child) if (folder / name).exists()]
                if not there:
                    raise _Damage(f"it lacks {' or '.join(needed(child))}, which {child.name} needs")
                self._check_files(folder, read[1], there[:1])
        except _Damage as damage:
            return str(damage)
        return None

    def check_file(self, run: Run, name: str) -> None:
        """Hold a file of a run that is done against its checksum.

        Raises:
            StoreError: it is another, or the folder cannot be believed.
        """
        try:
            if (read := self._read(run)) is not None:
                self._check_files(self.folder(run), read[1], [name])
        except _Damage as damage:
            raise StoreError(f"{self.folder(run)} is damaged: {damage}; reproduce trains the run again") from damage

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
                aside = next(path for n in range(1, 10**9) if not (path := Path(f"{folder}.damaged-{n}")).exists())
                folder.rename(aside)
        except (FileNotFoundError, IsADirectoryError):  # another process has just mended it
            return None
        except OSError as error:
            raise StoreError(f"{folder} is damaged ({reason}) and cannot be set aside: {error}") from error
        return f"{folder} is damaged: {reason}; set aside as {aside.name}, the run is trained again"

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

    def held(self, run: Run) -> bool:
        """Tell whether a process holds a run."""
        try:
            with _locked(self.folder(run) / ".claim", make=False) as ours:
                return not ours
        except OSError:  # there is nothing to hold
            return False

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Mark a run done, then remove its checkpoint: in this order, or a kill in between would lose the training.

        With the result go checksums of it and of `metrics.csv`, so that a bit that turns later is found.
        """
        folder = self.folder(run)
        sums: dict[str, Any] = {"result": _sum(json.dumps(result).encode())}
        if (folder / "metrics.csv").exists():  # without it the run is damaged, which is asked after this
            sums["metrics.csv"] = _sum((folder / "metrics.csv").read_bytes())
        files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".safetensors"))
        sums["files"] = {path.name: _sum(path.read_bytes()) for path in files}
        write_atomically(folder / "result.json", json.dumps({**result, _SUMS: sums}, indent=1) + "\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _result(self, run: Run) -> dict[str, Any] | None:
        """Read the result of a run without its checksums; None if there is none."""
        read = self._read(run)
        return None if read is None else read[0]

    def _read(self, run: Run) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Read the result of a run, and apart from it its checksums; runs that were done before these have none."""
        folder = self.folder(run)
        try:
            text = (folder / "result.json").read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, IsADirectoryError) as error:
            raise _Damage(f"result.json: {error}") from error
        except OSError as error:
            raise _unreadable(folder, error) from error
        try:
            result: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise _Damage(f"result.json: {error}") from error
        result = result if isinstance(result, dict) else {}
        sums: dict[str, Any] = result.pop(_SUMS, {})
        _check_result(run, result, sums)
        self._check_description(run)
        for name, then in result.get("code", {}).items():
            if code.fingerprint(name) not in (then, None):  # None: another machine, which cannot train it
                raise _Damage(f"it is stale: the code of {name} has changed since")
        return result, sums

    def _check_done(self, run: Run, result: dict[str, Any], sums: dict[str, Any]) -> None:
        """Check what figures are drawn from besides the result."""
        folder, metric = self.folder(run), primary(result)
        epochs = result.get("diverged", run.resolved.epochs)
        last = f"test_{'top1' if metric == 'accuracy' else metric}"
        try:
            text = (folder / "metrics.csv").read_text(encoding="utf-8")
            rows = list(csv.DictReader(text.splitlines()))
            if [row["epoch"] for row in rows] != [str(epoch) for epoch in range(epochs + 1)]:
                raise _Damage(f"metrics.csv: not the epochs 0 to {epochs}, each once")
            if not diverged(result) and float(rows[-1].get(last, result[metric])) != result[metric]:
                ends, said = (f"{value}{'%' * (metric == 'accuracy')}" for value in (rows[-1][last], result[metric]))
                raise _Damage(f"metrics.csv: it ends at {ends}, result.json says {said}")
            for row in rows:
                for name, value in row.items():
                    if value != "" and not _parses(value):  # empty is what an epoch has not, as row 0 a rate
                        raise _Damage(f"metrics.csv: epoch {row['epoch']}: its {name} is {value}, not a number")
        except (ValueError, TypeError, KeyError, csv.Error, FileNotFoundError, IsADirectoryError) as error:
            raise _Damage(f"metrics.csv: {error}") from error
        except OSError as error:
            raise _unreadable(folder, error) from error
        if sums and sums.get("metrics.csv") != _sum(text.encode()):
            raise _Damage("metrics.csv: it is not the one whose checksum is in result.json")
        # Tensors are not asked for: archives of runs leave large ones out, and only the runs that follow need them.
        self._check_files(folder, sums, [name for name in _files(sums) if name.endswith(".npz")])

    def _check_files(self, folder: Path, sums: dict[str, Any], names: Iterable[str]) -> None:
        for name in names:
            try:
                found = _sum((folder / name).read_bytes())
            except (FileNotFoundError, IsADirectoryError) as error:
                raise _Damage(f"{name}: it is missing") from error
            except OSError as error:
                raise _unreadable(folder / name, error) from error
            if _files(sums).get(name) not in (found, None):  # None: done before files had checksums
                raise _Damage(f"{name}: it is not the one whose checksum is in result.json")

    def _check_begun(self, run: Run) -> None:
        """Check what a run that is not done would go on from."""
        last = self.folder(run) / CHECKPOINT
        if not os.path.exists(last):
            return
        self._check_description(run)
        try:
            with zipfile.ZipFile(last) as parts:  # torch.save writes checksums, torch.load does not compare them
                bad = parts.testzip()
        except FileNotFoundError:  # a worker has finished meanwhile
            return
        except PermissionError as error:
            raise _unreadable(last, error) from error
        except Exception as error:  # of many kinds; zipfile documents none
            raise _Damage(f"{CHECKPOINT}: {error}") from error
        if bad:
            raise _Damage(f"{CHECKPOINT}: the checksum of {bad} is wrong")

    def _check_description(self, run: Run) -> None:
        folder = self.folder(run)
        try:
            described = Run.from_json((folder / "run.json").read_text(encoding="utf-8"))
            other = None if described.hash == folder.name else described.name
        except (ValueError, TypeError, FileNotFoundError, IsADirectoryError) as error:
            raise _Damage(f"run.json: {error}") from error
        except OSError as error:
            raise _unreadable(folder, error) from error
        if other is not None:
            raise _Damage(f"it holds another run, {other}, than asked for, {run.name}")


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _files(sums: dict[str, Any]) -> dict[str, str]:
    files = sums.get("files")
    return files if isinstance(files, dict) else {}


def _parses(cell: Any) -> bool:
    try:
        float(cell)  # neither what a row lacks, None, nor what it has too much, a list
    except (TypeError, ValueError):
        return False
    return True


def _check_result(run: Run, result: dict[str, Any], sums: Any) -> None:
    """Check that a result is as it was written; one without checksums, that what figures and tables read is there."""
    run = run.resolved
    metric, lost = primary(result), diverged(result)
    for name in (metric, *(name.format(metric=metric) for name in method(str(run.method)).numbers)):
        value = result.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not (math.isfinite(value) or lost):
            raise _Damage(f"result.json: its {name} is {value}, not a number")
    provenance = result.get("provenance", {})
    dictionaries = {"provenance": provenance, "code": result.get("code", {})}
    if isinstance(provenance, dict):
        dictionaries["provenance's versions"] = provenance.get("versions", {})
    for name, value in dictionaries.items():
        if not isinstance(value, dict):
            raise _Damage(f"result.json: its {name} is {value}, not a dictionary")
    if sums != {} and (not isinstance(sums, dict) or sums.get("result") != _sum(json.dumps(result).encode())):
        raise _Damage("result.json: it is not what its checksum is of")


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
