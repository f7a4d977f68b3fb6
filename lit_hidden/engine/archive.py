"""Runs that are done, in one file: to commit beside the drawings, to redraw them, and to go on from elsewhere."""

import gzip
import io
import json
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lit_hidden.engine.experiment import ReproduceError, load
from lit_hidden.engine.store import RESULT, SUBNETWORK, Damage, Store, StoreError, check, described, write_atomically
from lit_hidden.run import Run

RECORD = ("run.json", "metrics.csv", RESULT)
LIMIT = 1_000_000  # bytes of arrays, or of a subnetwork, that a run may bring along
ROOM = 20_000_000  # bytes of subnetworks in an archive; those beyond are left out
MOST = 100_000_000  # bytes of an unpacked archive; the largest committed one has 4 million
NAME = "runs.tar.gz"  # in experiments/results/NAME/PRESET/


def pack(store: Store, runs: Iterable[Run], path: Path) -> tuple[list[Run], list[Run]]:
    """Write those of `runs` that are done into the archive `path`; equal runs make equal bytes.

    Returns the runs packed, and those left out because their arrays are larger than `LIMIT`. Raises a StoreError if a
    run's folder is damaged.
    """
    packed, left_out, room = [], [], ROOM
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for run in sorted({run for run in runs if store.done(run)}, key=lambda run: run.hash):
            folder = store.folder(run)
            size = (folder / SUBNETWORK).stat().st_size if (folder / SUBNETWORK).exists() else 0
            store.check_file(run, *([SUBNETWORK] if size else []))
            listed = json.loads((folder / RESULT).read_bytes())["checksums"].keys() - {*RECORD}
            arrays = sorted(name for name in listed if not name.endswith(".safetensors"))
            if sum((folder / name).stat().st_size for name in arrays) > LIMIT:
                left_out.append(run)
                continue
            packed.append(run)
            bring = [SUBNETWORK] if 0 < size <= min(LIMIT, room) else []  # other nets are 32 times as large
            room -= size if bring else 0
            for name in (*arrays, *bring, *RECORD):
                data = (folder / name).read_bytes()
                entry = tarfile.TarInfo(f"{run.hash}/{name}")  # no dates, no owners
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    if out.tell() > MOST:
        raise StoreError(f"{path} would hold {out.tell()} bytes; archives of more than {MOST} are not unpacked")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, gzip.compress(out.getvalue(), mtime=0))
    return packed, left_out


def unpack(path: Path, store: Store) -> tuple[int, int]:
    """Put the runs of an archive into `store`; return how many were new, and how many were there or are being trained.

    Raises a StoreError if the archive is damaged, see `contents`; then nothing is taken.
    """
    new = known = 0
    for run, files in contents(path).items():
        with store.claim(run) as folder:
            if folder is None or store.result(run) is not None:
                known += 1
                continue
            for name in sorted(files, key=lambda name: name == RESULT):  # the result last: it means done
                write_atomically(folder / name, files[name])
            new += 1
    return new, known


def contents(path: Path) -> dict[Run, dict[str, bytes]]:
    """Read an archive into memory, at most `MOST` bytes, and compare all files of its runs with their checksums.

    Raises a StoreError if it is damaged, larger, or holds anything but the files of runs.
    """
    runs: defaultdict[str, defaultdict[str, bytes]] = defaultdict(lambda: defaultdict(bytes))
    try:
        with gzip.open(path) as file:
            content = file.read(MOST + 1)  # to the end, where gzip's checksum is
        if len(content) > MOST:
            raise tarfile.ReadError(f"it unpacks to more than {MOST} bytes")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for entry in tar:
                folder, _, name = entry.name.partition("/")
                data = tar.extractfile(entry) if entry.type == tarfile.REGTYPE and not entry.issparse() else None
                if data is None or not re.fullmatch(r"\w[\w.-]*", name):  # nothing leads outside
                    raise tarfile.ReadError(f"it holds {entry.name!r}")
                runs[folder][name] = data.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise StoreError(f"{path} is no archive of runs, or damaged: {error}") from error
    found: dict[Run, dict[str, bytes]] = {}
    for folder, files in runs.items():
        names = files.keys() - {RESULT}
        try:
            run = described(files["run.json"])  # a missing file is empty, and has a wrong checksum
            if run.hash != folder:
                raise Damage(f"it holds {run.name}, whose name is {run.hash}")
            check(run, files.__getitem__, names)
        except Damage as damage:
            raise StoreError(f"{path}: {folder} is damaged: {damage}; pack it again") from damage
        found[run] = files
    return found


def pack_experiment(name: str, preset: str, *, runs_dir: str | Path, results: str | Path) -> str:
    """Pack the runs of an experiment that are done into `results/name/preset/`; return what to tell the user."""
    runs, path, store = load(name).grid(preset), Path(results) / name / preset / NAME, Store(runs_dir)
    if not any(map(store.done, runs)):
        raise ReproduceError(f"none of the {len(runs)} runs of {name} ({preset}) is done in {runs_dir}; train some")
    packed, left_out = pack(store, runs, path)
    told = f"; {len(left_out)} left out: their arrays exceed {LIMIT} bytes" if left_out else ""
    return f"{path}: {len(packed)} of {len(runs)} runs{told}"


def unpack_all(*, runs_dir: str | Path, results: str | Path) -> str:
    """Put the runs of every archive under `results` into `runs_dir`; return what to tell the user, a line each."""
    paths = sorted(Path(results).glob(f"*/*/{NAME}"))
    if not paths:
        raise ReproduceError(f"{results} holds no NAME/PRESET/{NAME}; lit-hidden pack NAME writes one")
    store = Store(runs_dir)
    counts = {path: unpack(path, store) for path in paths}
    return "\n".join(f"{path}: {new} runs new in {runs_dir}, {known} there" for path, (new, known) in counts.items())
