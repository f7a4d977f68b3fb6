"""Runs that are done, in one file: to commit beside the drawings, to redraw them, and to go on from elsewhere."""

import gzip
import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lit_hidden.engine.experiment import ReproduceError, load
from lit_hidden.engine.store import NETS, RESULT, SUBNETWORK, Store, StoreError, check, write_atomically
from lit_hidden.run import Run

ROOM = 20_000_000  # bytes that `pack` puts into an archive; subnetworks may take half of them
MOST = 100_000_000  # bytes of an unpacked archive; the largest committed one has 4 million
NAME = "runs.tar.gz"  # in experiments/results/NAME/PRESET/


def pack(store: Store, runs: Iterable[Run], path: Path) -> list[Run]:
    """Write those of `runs` that are done into the archive `path`, and return those for which there was `ROOM`.

    Equal runs make equal bytes. StoreError: a run's folder is damaged.
    """
    packed, out = [], io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for run in sorted({run for run in runs if store.done(run)}, key=lambda run: run.hash):
            folder = store.folder(run)
            small = [SUBNETWORK] if (folder / SUBNETWORK).exists() else []  # other nets are 32 times as large
            store.read(run, *small)
            listed = json.loads((folder / RESULT).read_bytes())["checksums"].keys() - {*NETS}
            files = {name: (folder / name).read_bytes() for name in (*sorted(listed), *small)}
            if out.tell() + sum(map(len, files.values())) > ROOM / 2:
                files.pop(SUBNETWORK, None)
            if out.tell() + sum(map(len, files.values())) > ROOM:
                continue
            packed.append(run)
            for name, data in files.items():
                entry = tarfile.TarInfo(f"{run.hash}/{name}")  # no dates, no owners
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, gzip.compress(out.getvalue(), mtime=0))
    return packed


def unpack(path: Path, store: Store) -> tuple[int, int]:
    """Put the runs of an archive into `store`; return how many were new, and how many were there or are held."""
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
    """Read an archive of at most `MOST` bytes; StoreError: it is damaged, or holds anything but the files of runs."""
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    found: dict[Run, dict[str, bytes]] = {}
    try:
        with gzip.open(path) as file:
            content = file.read(MOST + 1)  # to the end, where gzip's checksum is
        if len(content) > MOST:
            raise ValueError(f"it unpacks to more than {MOST} bytes")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for entry in tar:
                folder, _, name = entry.name.partition("/")
                data = tar.extractfile(entry) if entry.type == tarfile.REGTYPE and not entry.issparse() else None
                if data is None or not re.fullmatch(r"\w[\w.-]*", name):  # nothing leads outside
                    raise ValueError(f"it holds {entry.name!r}")
                folders[folder][name] = data.read()
        for folder, files in folders.items():
            run = Run.from_json(files["run.json"].decode())
            check(run, folder, files.__getitem__, files.keys() - {RESULT})
            found[run] = files
    except Exception as error:  # a damaged archive may raise anything
        raise StoreError(f"{path} is no archive of runs, or damaged: {error}") from error
    return found


def pack_experiment(name: str, preset: str, *, runs_dir: str | Path, results: str | Path) -> str:
    """Pack the runs of an experiment that are done into `results/name/preset/`; return what to tell the user."""
    runs, path, store = load(name).grid(preset), Path(results) / name / preset / NAME, Store(runs_dir)
    done = sum(map(store.done, runs))
    if not done:
        raise ReproduceError(f"none of the {len(runs)} runs of {name} ({preset}) is done in {runs_dir}; train some")
    packed = len(pack(store, runs, path))
    left_out = f"; {done - packed} left out: an archive has room for {ROOM} bytes" if packed < done else ""
    return f"{path}: {packed} of {len(runs)} runs{left_out}"


def unpack_all(*, runs_dir: str | Path, results: str | Path) -> str:
    """Put the runs of every archive under `results` into `runs_dir`; return what to tell the user, a line each."""
    paths = sorted(Path(results).glob(f"*/*/{NAME}"))
    if not paths:
        raise ReproduceError(f"{results} holds no NAME/PRESET/{NAME}; lit-hidden pack NAME writes one")
    store = Store(runs_dir)
    counts = {path: unpack(path, store) for path in paths}
    return "\n".join(f"{path}: {new} runs new in {runs_dir}, {known} there" for path, (new, known) in counts.items())
