"""Runs that are done, in one file: to commit beside the drawings, to redraw them, and to go on from elsewhere."""

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from lit_hidden.engine.reproduce import ReproduceError, load
from lit_hidden.engine.store import (
    CHECKPOINT,
    NETS,
    RESULT,
    SUBNETWORK,
    Damage,
    Store,
    StoreError,
    check,
    write_atomically,
)  # fmt: skip
from lit_hidden.files import regular
from lit_hidden.run import Run

RECORD = ("run.json", "metrics.csv", RESULT)  # in the order of writing: the last means done
LIMIT = 1_000_000  # bytes of arrays, or of a subnetwork, that a run may bring along
ROOM = 20_000_000  # bytes of subnetworks in an archive; those beyond are left out
MOST = 100_000_000  # bytes of an archive that is unpacked; the largest committed one has 4 million
NAME = "runs.tar.gz"  # in experiments/results/NAME/PRESET/


def pack(store: Store, runs: Iterable[Run], path: Path) -> tuple[list[Run], list[Run]]:
    """Write those of `runs` that are done into the archive `path`; equal runs make equal bytes.

    Returns:
        The runs packed, and those left out because their arrays are larger than `LIMIT`.

    Raises:
        StoreError: the archive cannot be written, or would be larger than `MOST`; a run's folder is damaged or may not
            be read.
    """
    packed, left_out, room = [], [], ROOM
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for run in sorted(set(runs), key=lambda run: run.hash):
            folder = store.folder(run)
            if not store.done(run):
                continue
            if why := store.damage(run):
                raise StoreError(
                    f"{folder} is damaged: {why}; nothing is packed: reproduce sets it aside, trains {run.name} again"
                )
            left = json.loads((folder / RESULT).read_bytes())["checksums"].keys()
            brought = sorted(left - {*RECORD, *NETS})
            if sum((folder / name).stat().st_size for name in brought) > LIMIT:
                left_out.append(run)
                continue
            size = (folder / SUBNETWORK).stat().st_size if (folder / SUBNETWORK).exists() else 0
            if 0 < size <= min(LIMIT, room):  # dense nets are 32 times as large, and stay behind
                brought.append(SUBNETWORK)
                room -= size
            for name in (*brought, *RECORD):
                data = (folder / name).read_bytes()
                entry = tarfile.TarInfo(f"{run.hash}/{name}")  # no dates, no owners
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            packed.append(run)
    if out.tell() > MOST:
        raise StoreError(f"{path} would hold {out.tell()} bytes, and archives of more than {MOST} are not unpacked")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, gzip.compress(out.getvalue(), mtime=0))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}; choose another folder with --results") from error
    return packed, left_out


def unpack(path: Path, store: Store) -> tuple[int, int]:
    """Put the runs of an archive into `store`; what is done there already, or being trained, stays as it is.

    Returns:
        How many runs were new, and how many were not.

    Raises:
        StoreError: not an archive of runs, or damaged: see `contents`; nothing of it is taken. Or a folder cannot be
            written to.
    """
    new = known = 0
    for run, files in contents(path).items():
        with store.claim(run) as folder:
            if folder is None or store.result(run) is not None:
                known += 1
                continue
            try:
                for file in (*(files.keys() - set(RECORD)), *RECORD):
                    write_atomically(folder / file, files[file])
                (folder / CHECKPOINT).unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"{folder} cannot be written to: {error}; mend that, and unpack again") from error
            new += 1
    return new, known


def contents(path: Path) -> dict[Run, dict[str, bytes]]:
    """Read an archive to its last byte, and hold all files of its runs against their checksums.

    Nothing is written, so names cannot lead outside; nothing but plain files is read, and no more than `MOST` bytes.

    Raises:
        StoreError: it is damaged, larger, or holds other than the runs that `pack` writes: links, devices, a file
            twice, one that its run did not leave.
    """
    found: dict[Run, dict[str, bytes]] = {}
    try:
        with gzip.open(regular(path)) as file:
            content = file.read(MOST + 1)  # to the end, where the checksum is, or beyond what is taken
        if len(content) > MOST:
            raise StoreError(f"{path} unpacks to more than {MOST} bytes; an archive of runs has no more")
        runs: dict[str, dict[str, bytes]] = {}
        for name, data in _entries(content):
            folder, _, file_name = name.partition("/")
            if not re.fullmatch(r"\w[\w.-]*", file_name) or file_name in runs.setdefault(folder, {}):
                raise StoreError(f"{path} is no archive of runs: it holds {name!r}")
            runs[folder][file_name] = data
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise StoreError(f"{path} is no archive of runs, or damaged: {error}") from error
    for name, files in runs.items():
        try:
            run = Run.from_json(files["run.json"].decode())
            described = run.hash
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise StoreError(f"{path}: {name} holds no run: {error}") from error
        if described != name or not files.keys() >= set(RECORD):
            raise StoreError(f"{path}: {name} is not the whole of {run.name}, {run.hash}; pack it again")
        try:
            check(run, partial(_file, files), files.keys() - {RESULT})
        except Damage as damage:
            raise StoreError(f"{path}: {name}, {run.name}, is damaged: {damage}; pack it again") from damage
        found[run] = files
    return found


def _file(files: dict[str, bytes], name: str) -> bytes:
    if name not in files:
        raise Damage(f"{name}: it is missing")
    return files[name]


def _entries(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Give names and contents of the plain files in a tar.

    Python's own reader takes a bad header for the end, and follows links and extensions that no archive of runs has.

    Raises:
        TarError: a header is bad, of something else than a plain file, or missing.
    """
    at = 0
    while any(header := content[at : at + tarfile.BLOCKSIZE]):
        entry = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        data = content[at + tarfile.BLOCKSIZE : at + tarfile.BLOCKSIZE + entry.size]
        if entry.type != tarfile.REGTYPE or len(data) != entry.size:
            raise tarfile.ReadError(f"{entry.name!r} is no file, or cut")
        yield entry.name, data
        at += tarfile.BLOCKSIZE * (1 + -(-entry.size // tarfile.BLOCKSIZE))
    if len(content) < at + 2 * tarfile.BLOCKSIZE or any(content[at:]):
        raise tarfile.ReadError("it has no end, or more after it")


def pack_experiment(name: str, preset: str, *, runs_dir: str | Path, results: str | Path) -> str:
    """Pack the runs of an experiment that are done, into `results/name/preset/`; returns what to tell the user.

    Raises:
        UsageError: an unknown experiment or preset.
        ReproduceError: no run of it is done.
        StoreError: a run's folder may not be read, or the archive not be written.
    """
    runs, path = load(name).grid(preset), Path(results) / name / preset / NAME
    store = Store(runs_dir)
    if not any(map(store.done, runs)):
        raise ReproduceError(
            f"none of the {len(runs)} runs of {name} ({preset}) is done in {runs_dir}; train some first"
        )
    packed, left_out = pack(store, runs, path)
    told = f"{path}: {len(packed)} of {len(runs)} runs ({_size(path.stat().st_size)})"
    if left_out:
        told += f"; {len(left_out)} left out, whose traces are larger than {LIMIT / 1e6:g} MB"
    return told


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def unpack_all(*, runs_dir: str | Path, results: str | Path) -> str:
    """Put the runs of every archive under `results` into `runs_dir`; returns what to tell the user, a line each.

    Raises:
        ReproduceError: there is none.
        StoreError: one is no archive of runs, or `runs_dir` cannot be written to.
    """
    paths = sorted(Path(results).glob(f"*/*/{NAME}"))
    if not paths:
        raise ReproduceError(f"{results} holds no NAME/PRESET/{NAME}; lit-hidden pack NAME writes one")
    store = Store(runs_dir)
    store.check_writable()
    lines = []
    for path in paths:
        new, known = unpack(path, store)
        lines.append(f"{path}: {new} runs new in {runs_dir}, {known} there already")
    return "\n".join(lines)
