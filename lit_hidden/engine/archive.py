"""Runs that are done, in one file: to commit beside the drawings, to redraw them, and to go on from elsewhere."""

import gzip
import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from lit_hidden.engine.reproduce import ReproduceError, load
from lit_hidden.engine.store import CHECKPOINT, SUBNETWORK, WEIGHTS, Store, StoreError, write_atomically
from lit_hidden.experiment import Run

RECORD = ("run.json", "metrics.csv", "result.json")  # in the order of writing: the last means done
NETS = (SUBNETWORK, WEIGHTS)
LIMIT = 1_000_000  # bytes of arrays, or of a net, that a run may bring along
ROOM = 20_000_000  # bytes of nets in an archive; those beyond are left out
NAME = "runs.tar.gz"  # in experiments/results/NAME/PRESET/


def pack(store: Store, runs: Iterable[Run], path: Path) -> tuple[list[Run], list[Run]]:
    """Write those of `runs` that are done into the archive `path`; equal runs make equal bytes.

    Returns:
        The runs packed, and those left out because their arrays are larger than `LIMIT`.

    Raises:
        StoreError: the archive cannot be written, or a run's folder is damaged or may not be read.
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
                    f"{folder} is damaged: {why}; nothing is packed: reproduce sets it aside and trains the run again"
                )
            arrays = sorted(path.name for path in folder.glob("*.npz"))
            if sum((folder / name).stat().st_size for name in arrays) > LIMIT:
                left_out.append(run)
                continue
            for name in NETS:
                size = (folder / name).stat().st_size if (folder / name).exists() else 0
                if 0 < size <= min(LIMIT, room):
                    arrays.append(name)
                    room -= size
            for name in (*arrays, *RECORD):
                data = (folder / name).read_bytes()
                entry = tarfile.TarInfo(f"{run.hash}/{name}")  # no dates, no owners
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            packed.append(run)
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
        StoreError: not an archive of runs; nothing of a damaged run is taken for done.
    """
    new = known = 0
    for name, files in contents(path).items():
        try:
            run = Run.from_json(files["run.json"].decode())
        except (KeyError, ValueError) as error:
            raise StoreError(f"{path}: {name} holds no run: {error}") from error
        if run.hash != name or not files.keys() >= set(RECORD):
            raise StoreError(f"{path}: {name} is not the whole of {run.name}, {run.hash}; pack it again")
        with store.claim(run) as folder:
            if folder is None or store.result(run) is not None:
                known += 1
                continue
            for file in (*(files.keys() - set(RECORD)), *RECORD):
                write_atomically(folder / file, files[file])
            (folder / CHECKPOINT).unlink(missing_ok=True)
            new += 1
    return new, known


def contents(path: Path) -> dict[str, dict[str, bytes]]:
    """Read the files of each run of an archive; nothing is written, so names cannot lead outside.

    Raises:
        StoreError: not an archive of runs.
    """
    runs: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for entry in tar:
                folder, _, file = entry.name.partition("/")
                data = tar.extractfile(entry)
                if data is None or not (file in (*NETS, *RECORD) or re.fullmatch(r"\w[\w.-]*\.npz", file)):
                    raise StoreError(f"{path} is no archive of runs: it holds {entry.name!r}")
                runs.setdefault(folder, {})[file] = data.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise StoreError(f"{path} is no archive of runs, or damaged: {error}") from error
    return runs


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
