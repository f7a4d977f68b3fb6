"""Runs in one file: what went in comes out, nothing half, nothing over what is there."""

import gzip
import io
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fabricated import leave

from experiments import _archive as archive
from experiments._archive import contents, pack, unpack
from lit_hidden.cli import main
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.run import Run

RUNS = [Run(density=0.5, net="conv2", data="digits", epochs=2, seed=seed) for seed in range(3)]
NAMES = ["result.json", "run.json", "metrics.csv", "subnetwork.safetensors"]
FIRST, LAST = sorted(RUNS[:2], key=lambda run: run.hash)  # of those that are done


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    for run in RUNS[:2]:
        folder = leave(store, run)
        (folder / "last.ckpt").write_text("large")
        (folder / "log.txt").write_text("chatty")
    return store


@pytest.fixture
def path(store: Store, tmp_path: Path) -> Path:
    """An archive of two runs."""
    assert pack(store, RUNS, tmp_path / "out" / archive.NAME) == [FIRST, LAST]
    return tmp_path / "out" / archive.NAME


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "elsewhere")


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_what_is_done_goes_in_and_comes_out_and_equal_runs_are_equal_bytes(store, path, other, tmp_path) -> None:
    assert {Path(name).name for name in names(path)} == {*NAMES}
    assert unpack(path, other) == (2, 0)
    for run in RUNS[:2]:
        assert other.result(run) == store.result(run)
        for name in NAMES[1:]:
            assert (other.folder(run) / name).read_bytes() == (store.folder(run) / name).read_bytes()
    assert other.result(RUNS[2]) is None
    pack(store, [*RUNS[::-1], RUNS[0]], tmp_path / "two.tar.gz")
    assert path.read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_arrays_come_along_and_subnetworks_while_there_is_room(store, tmp_path, other, monkeypatch) -> None:
    np.savez(store.folder(FIRST) / "swaps.npz", a=np.arange(10))
    for run in (FIRST, LAST):
        (store.folder(run) / "subnetwork.safetensors").write_bytes(bytes(900))
        (store.folder(run) / "scores.safetensors").write_bytes(bytes(900))
        store.finish(run, store.result(run))  # with checksums of what lies beside it now
    path = tmp_path / "runs.tar.gz"

    def brought(room: int) -> list[str]:
        monkeypatch.setattr(archive, "ROOM", room)
        pack(store, RUNS, path)
        return [name.partition("/")[0] for name in names(path) if name.endswith(".safetensors")]

    assert brought(archive.ROOM) == [FIRST.hash, LAST.hash]
    unpack(path, other)
    assert (other.folder(FIRST) / "subnetwork.safetensors").read_bytes() == bytes(900)
    assert np.load(other.folder(FIRST) / "swaps.npz")["a"].sum() == 45
    assert brought(15_000) == [FIRST.hash]
    assert {run.partition("/")[0] for run in names(path)} == {FIRST.hash, LAST.hash}
    unpack(path, Store(tmp_path / "third"))
    assert Store(tmp_path / "third").damage(LAST) is None, "its subnetwork stayed behind"
    brought(6_000)
    assert {run.partition("/")[0] for run in names(path)} == {FIRST.hash}, "the other run has no room"


def test_what_is_done_or_held_already_stays(path: Path, other: Store) -> None:
    leave(other, RUNS[0], accuracy=99.0)
    with other.claim(RUNS[1]):
        assert unpack(path, other) == (0, 2)
        assert other.result(RUNS[1]) is None
    assert unpack(path, other) == (1, 1)
    assert other.result(RUNS[0]) == {"accuracy": 99.0}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one experiment."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(
        "from lit_hidden.run import Run, vary\n"
        "def runs(preset): return vary([Run(density=0.5, net='conv2', data='digits', epochs=2)], seed=range(3))\n"
        "CLAIMS, draw = [], print\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_grid_is_packed_in_pieces_and_goes_on_elsewhere(store: Store, mine: Path, capsys) -> None:
    where = ["--runs-dir", "runs", "--results", "results"]
    main(["pack", "mine", "--preset", "short", *where])
    store.root.rename(mine / "before")
    leave(Store("runs"), RUNS[1], accuracy=99.0)
    main(["unpack", *where])
    path = "results/mine/short/runs.tar.gz"
    assert capsys.readouterr().out == f"{path}: 2 of 3 runs\n{path}: 1 runs new in runs, 1 there\n"
    assert [(store.result(run) or {}).get("accuracy") for run in RUNS] == [50.0, 99.0, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "mine"], "none of the 3 runs of mine (quick) is done in none"),
        (["unpack"], "results holds no NAME/PRESET/runs.tar.gz; lit-hidden pack NAME writes one"),
    ],
)
def test_what_cannot_be_packed_or_unpacked_is_said_in_a_line(arguments, message, mine, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--runs-dir", "none", "--results", "results"])
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"lit-hidden: {message}")


def planted(name: str, kind: bytes = tarfile.REGTYPE, **pax: str) -> Callable[[Path], None]:
    """Put an entry before those that are there."""

    def harm(path: Path) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.pax_headers = kind, "/etc/passwd", pax
        rest = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(entry.tobuf(tarfile.PAX_FORMAT) + rest))

    return harm


def changed(files: dict[str, bytes | None]) -> Callable[[Path], None]:
    """Put files in place of those of the last run, None for none."""

    def harm(path: Path) -> None:
        found = contents(path)
        last = {name: data for name, data in (found.pop(LAST) | files).items() if data is not None}
        with tarfile.open(path, "w:gz") as tar:
            for run, its in (found | {LAST: last}).items():
                for name, data in its.items():
                    entry = tarfile.TarInfo(f"{run.hash}/{name}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))

    return harm


def zeros(path: Path) -> None:
    """600 MB of them, in less than one."""
    path.write_bytes(gzip.compress(bytes(10**8), 1) * 6)


ANOTHER, NO_ARCHIVE = "it is not the one whose checksum is in result.json", "is no archive of runs, or damaged: "
DAMAGED = f"{NO_ARCHIVE}{LAST.hash} is damaged: "
KINDS = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE)
REFUSED = [
    (planted("../../evil"), f"{NO_ARCHIVE}it holds '../../evil'"),
    (planted(f"{FIRST.hash}/..evil"), f"{NO_ARCHIVE}it holds '{FIRST.hash}/..evil'"),
    *((planted(f"{FIRST.hash}/swaps.npz", kind), f"{NO_ARCHIVE}it holds ") for kind in KINDS),
    (planted(f"{FIRST.hash}/swaps.npz", **{"GNU.sparse.map": "0,0", "GNU.sparse.size": "10000000000"}), "it holds "),
    (changed({"run.json": b'{"schema": 0}'}), f"{NO_ARCHIVE}not a run description of schema"),
    (changed({"run.json": b"[" * 100_000}), f"{NO_ARCHIVE}maximum recursion"),
    (changed({"result.json": b"[" * 100_000}), f"{DAMAGED}result.json: maximum recursion"),
    (changed({"result.json": None}), f"{NO_ARCHIVE}'result.json'"),
    (changed({"metrics.csv": None}), f"{NO_ARCHIVE}'metrics.csv'"),
    (changed({"metrics.csv": b"1"}), f"{DAMAGED}metrics.csv: {ANOTHER}"),
    (changed({"last.ckpt": b"1"}), f"{DAMAGED}last.ckpt: {ANOTHER}"),
    (lambda path: path.write_bytes(path.read_bytes()[:-40]), NO_ARCHIVE),
    (lambda path: path.write_bytes(gzip.compress(b"")), NO_ARCHIVE),
    (lambda path: path.unlink(), f"{NO_ARCHIVE}[Errno 2] No such file"),
    (zeros, f"{NO_ARCHIVE}it unpacks to more than 100000000 bytes"),
]


@pytest.mark.parametrize(("harm", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_an_archive_is_taken_whole_or_not_at_all(harm, why, path: Path, other: Store) -> None:
    harm(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError) as error:
        unpack(path, other)
    assert str(error.value).startswith(str(path))
    assert why in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kB"
    assert not other.root.exists()


def test_what_is_damaged_is_not_packed(store, tmp_path) -> None:
    (store.folder(FIRST) / "metrics.csv").write_text("epoch")
    with pytest.raises(StoreError, match=f"{FIRST.hash} is damaged: metrics.csv: {ANOTHER}"):
        pack(store, RUNS, tmp_path / "runs.tar.gz")
    assert not (tmp_path / "runs.tar.gz").exists()


def test_a_bit_that_turns_in_an_archive_or_a_cut_is_found_or_changes_nothing(path: Path) -> None:
    whole, told, refused = path.read_bytes(), contents(path), 0
    count = 8 * len(whole)
    bits = [*range(80), *range(80, count, count // 50), *range(count - 64, count)]
    flips = [whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in bits]
    cuts = [whole[:length] for length in range(0, len(whole), len(whole) // 30)]
    for damaged in [*flips, *cuts, whole[:-1], whole + b"more"]:
        path.write_bytes(damaged)
        try:
            assert contents(path) == told, "the date of a gzip says nothing"
        except StoreError:
            refused += 1
    assert refused > 150
