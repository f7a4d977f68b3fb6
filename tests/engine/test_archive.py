"""Runs in one file: what went in comes out, nothing half, nothing over what is there."""

import gzip
import io
import json
import os
import random
import re
import resource
import runpy
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_hidden.cli import main
from lit_hidden.engine import archive
from lit_hidden.engine.archive import pack, unpack
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
leave = made["leave"]
RUNS = [Run(density=0.5, net="conv2", data="digits", epochs=2, seed=seed) for seed in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    for run in RUNS[:2]:
        folder = leave(store, run)
        (folder / "last.ckpt").write_text("large")
        (folder / "log.txt").write_text("chatty")
    return store


def finish(store: Store) -> None:
    """Write the results anew, with checksums of what lies beside them now."""
    for run in RUNS[:2]:
        result = json.loads((store.folder(run) / "result.json").read_text())
        del result["checksums"]
        store.finish(run, result)


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_what_is_done_goes_in_and_comes_out(store: Store, tmp_path: Path) -> None:
    path, other = tmp_path / "out" / "runs.tar.gz", Store(tmp_path / "elsewhere")
    assert pack(store, RUNS, path) == (sorted(RUNS[:2], key=lambda r: r.hash), [])
    assert unpack(path, other) == (2, 0)
    for run in RUNS[:2]:
        assert other.result(run) == store.result(run)
        assert other.damage(run) is None, "its subnetwork stays behind"
        for name in ("run.json", "metrics.csv"):
            assert (other.folder(run) / name).read_bytes() == (store.folder(run) / name).read_bytes()
    assert other.result(RUNS[2]) is None
    assert {Path(name).name for name in names(path)} == {"run.json", "metrics.csv", "result.json"}


def test_equal_runs_are_equal_bytes(store: Store, tmp_path: Path) -> None:
    pack(store, RUNS, tmp_path / "one.tar.gz")
    pack(store, [*RUNS[::-1], RUNS[0]], tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_arrays_come_along_unless_they_are_large(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(store.folder(RUNS[0]) / "swaps.npz", a=np.arange(10))
    np.savez(store.folder(RUNS[1]) / "trace.npz", a=np.arange(10_000))
    finish(store)
    monkeypatch.setattr(archive, "LIMIT", 10_000)
    path, other = tmp_path / "runs.tar.gz", Store(tmp_path / "elsewhere")
    assert pack(store, RUNS, path) == ([RUNS[0]], [RUNS[1]])
    assert unpack(path, other) == (1, 0)
    assert np.load(other.folder(RUNS[0]) / "swaps.npz")["a"].sum() == 45


def test_subnetworks_come_along_as_far_as_there_is_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (store.folder(run) / "subnetwork.safetensors" for run in sorted(RUNS[:2], key=lambda r: r.hash))
    first.write_bytes(bytes(900)), second.write_bytes(bytes(300))
    finish(store)
    path = tmp_path / "runs.tar.gz"

    def brought() -> list[str]:
        assert len(pack(store, RUNS, path)[0]) == 2
        return [Path(name).parent.name for name in names(path) if Path(name).name == first.name]

    assert brought() == [first.parent.name, second.parent.name]
    other = Store(tmp_path / "elsewhere")
    unpack(path, other)
    assert (other.root / first.parent.name / first.name).read_bytes() == bytes(900)
    monkeypatch.setattr(archive, "ROOM", 1000)
    assert brought() == [first.parent.name]
    monkeypatch.setattr(archive, "LIMIT", 500)
    assert brought() == [second.parent.name]


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_damaged_run_is_not_packed(store: Store, tmp_path: Path, damage: str) -> None:
    runs = [Run(density=0.5, epochs=2, seed=seed).resolved for seed in range(2)]
    for run in runs:
        leave(store, run)
    metrics = store.folder(runs[1]) / "metrics.csv"
    metrics.unlink() if damage == "missing" else metrics.write_text(metrics.read_text()[:-20])
    with pytest.raises(StoreError) as error:
        pack(store, runs, tmp_path / "runs.tar.gz")
    assert re.match(
        rf"{store.folder(runs[1])} is damaged: metrics.csv: .*; nothing is packed: "
        rf"reproduce sets it aside, trains {runs[1].name} again$",
        str(error.value),
    )
    assert not (tmp_path / "runs.tar.gz").exists()


def test_what_is_done_already_stays(store: Store, tmp_path: Path) -> None:
    path, other = tmp_path / "runs.tar.gz", Store(tmp_path / "elsewhere")
    pack(store, RUNS, path)
    leave(other, RUNS[0], accuracy=99.0)
    assert unpack(path, other) == (1, 1)
    assert other.result(RUNS[0]) == {"accuracy": 99.0}
    assert unpack(path, other) == (0, 2)


def test_a_run_that_was_begun_is_done_now_and_its_checkpoint_gone(store: Store, tmp_path: Path) -> None:
    path, other = tmp_path / "runs.tar.gz", Store(tmp_path / "elsewhere")
    pack(store, RUNS, path)
    with other.claim(RUNS[0]) as folder:
        assert folder is not None
        (folder / "last.ckpt").write_text("half")
    assert unpack(path, other) == (2, 0)
    assert not (other.folder(RUNS[0]) / "last.ckpt").exists()


def test_a_run_that_is_being_trained_is_let_alone(store: Store, tmp_path: Path) -> None:
    path, other = tmp_path / "runs.tar.gz", Store(tmp_path / "elsewhere")
    pack(store, RUNS, path)
    with other.claim(RUNS[0]):
        assert unpack(path, other) == (1, 1)
        assert other.result(RUNS[0]) is None


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one experiment."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(
        "from lit_hidden.run import Run, vary\n"
        "def runs(preset): return vary([Run(density=0.5, net='conv2', data='digits', epochs=2)], seed=range(3))\n"
        "CLAIMS = []\n"
        "def draw(results, figure): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main([*arguments, "--runs-dir", "runs", "--results", "results"])
    return capsys.readouterr().out.strip()


def test_a_grid_is_packed_in_pieces_and_goes_on_elsewhere(
    store: Store, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "results/mine/short/runs.tar.gz"
    said = told(capsys, "pack", "mine", "--preset", "short")
    assert said == f"{path}: 2 of 3 runs ({Path(path).stat().st_size / 1000:.1f} kB)"
    store.root.rename(mine / "before")
    leave(Store("runs"), RUNS[1], accuracy=99.0)
    assert told(capsys, "unpack") == f"{path}: 1 runs new in runs, 1 there already"
    assert [(store.result(run) or {}).get("accuracy") for run in RUNS] == [50.0, 99.0, None]


def test_what_cannot_be_packed_or_unpacked_is_said(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for status, arguments, message in (
        (1, ("pack", "mine"), "none of the 3 runs of mine (quick) is done in runs; train some first"),
        (2, ("pack", "yours"), "no experiment 'yours'; experiments are mine"),
        (2, ("pack", "mine", "--preset", "long"), "no preset 'long'; presets are smoke, quick, short, paper"),
        (1, ("unpack",), "results holds no NAME/PRESET/runs.tar.gz; lit-hidden pack NAME writes one"),
    ):
        with pytest.raises(SystemExit) as end:
            told(capsys, *arguments)
        assert end.value.code == status
        assert capsys.readouterr().err == f"lit-hidden: {message}\n"


def test_an_archive_that_cannot_be_written_is_said_in_a_line(
    store: Store, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "results").write_text("a file where the folder should be")
    with pytest.raises(SystemExit) as end:
        told(capsys, "pack", "mine")
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "lit-hidden: results/mine/quick/runs.tar.gz cannot be written: "
        "[Errno 20] Not a directory: 'results/mine/quick'; choose another folder with --results\n"
    )


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0.0 kB"), (2345, "2.3 kB"), (999_999, "1000.0 kB"), (1_234_567, "1.23 MB")]
)
def test_sizes_are_said_in_units_that_show_them(count: int, words: str) -> None:
    assert archive._size(count) == words


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_names_cannot_lead_outside(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "evil.tar.gz", {"../../evil": b"x"})
    with pytest.raises(StoreError, match=r"it holds '\.\./\.\./evil'"):
        unpack(path, Store(tmp_path / "runs"))
    path = tar_of(tmp_path / "evil.tar.gz", {"../run.json": RUNS[0].to_json().encode(), "../result.json": b"{}"})
    with pytest.raises(StoreError, match=f"^{path}: .. is not the whole of {RUNS[0].name}, {RUNS[0].hash}; pack it"):
        unpack(path, Store(tmp_path / "runs"))
    assert not (tmp_path / "run.json").exists()


def test_a_run_under_anothers_name_or_with_a_file_missing_is_refused(tmp_path: Path) -> None:
    run = RUNS[0]
    whole = {"run.json": run.to_json().encode(), "metrics.csv": b"", "result.json": b'{"accuracy": 5.0}'}
    for folder, files in (("abc", whole), (run.hash, {k: v for k, v in whole.items() if k != "metrics.csv"})):
        path = tar_of(tmp_path / "t.tar.gz", {f"{folder}/{name}": data for name, data in files.items()})
        with pytest.raises(StoreError, match=f"{folder} is not the whole of {run.name}"):
            unpack(path, Store(tmp_path / "runs"))
    path = tar_of(tmp_path / "t.tar.gz", {"abc/run.json": json.dumps({"schema": 0}).encode()})
    with pytest.raises(StoreError, match="abc holds no run: not a run description of schema"):
        unpack(path, Store(tmp_path / "runs"))


def test_a_cut_file_and_no_file_are_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "runs.tar.gz"
    with pytest.raises(StoreError, match=r"runs.tar.gz is no archive of runs, or damaged: .*No such file"):
        unpack(path, store)
    pack(store, RUNS, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoreError, match="is no archive of runs, or damaged"):
        unpack(path, Store(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()


COMMITTED = Path(__file__).parents[2] / "experiments" / "results" / "imagenet18" / "short" / archive.NAME


def test_a_bit_that_turns_in_an_archive_or_a_cut_is_found_or_changes_nothing(tmp_path: Path) -> None:
    whole, path, chosen = COMMITTED.read_bytes(), tmp_path / "runs.tar.gz", random.Random(0)
    told, kinds = archive.contents(COMMITTED), {"refused": 0, "equal": 0}
    assert gzip.decompress(whole)[-1024:] == bytes(1024)
    count = 8 * len(whole)
    bits = [*range(80), *(chosen.randrange(count) for _ in range(400)), *range(count - 64, count)]
    flips = [whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in bits]
    cuts = [whole[: chosen.randrange(len(whole))] for _ in range(100)]
    for damaged in [*flips, *cuts, whole[:-1], whole + b"more", whole + whole]:
        path.write_bytes(damaged)
        try:
            found = archive.contents(path)
        except StoreError as error:
            kinds["refused"] += str(error).startswith(f"{path} is no archive of runs, or damaged: ")
        else:
            kinds["equal"] += found == told
    assert kinds["refused"] > 550
    assert sum(kinds.values()) == len(flips) + len(cuts) + 3
    assert kinds["equal"] >= 32, "the date of a gzip says nothing"


def test_an_archive_is_taken_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    path, other = tmp_path / "runs.tar.gz", Store(tmp_path / "elsewhere")
    pack(store, RUNS, path)
    files = {f"{run.hash}/{name}": data for run, its in archive.contents(path).items() for name, data in its.items()}
    last = max(run.hash for run in RUNS[:2])
    run = next(run for run in RUNS if run.hash == last)
    for name, why in (
        ("metrics.csv", "metrics.csv: it is not the one whose checksum is in result.json"),
        ("result.json", "result.json: Extra data: "),
        ("trace.npz", "trace.npz: it is not the one whose checksum is in result.json"),
        ("last.ckpt", "last.ckpt: it is not the one whose checksum is in result.json"),
    ):
        tar_of(path, files | {f"{last}/{name}": files.get(f"{last}/{name}", b"") + b"1"})
        with pytest.raises(StoreError, match=rf"^{path}: {last}, {run.name}, is damaged: {why}"):
            unpack(path, other)
    nested = b"[" * 100_000
    for name, why in (
        ("run.json", f"{last} holds no run: maximum recursion"),
        ("result.json", f"{last}, {run.name}, is damaged: result.json: maximum recursion"),
    ):
        with pytest.raises(StoreError, match=f"^{path}: {why}"):
            unpack(tar_of(path, files | {f"{last}/{name}": nested}), other)
    assert not other.root.exists()


def test_what_is_no_plain_file_or_there_twice_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "runs.tar.gz"
    pack(store, RUNS, path)
    tar = gzip.decompress(path.read_bytes())
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE,
                 tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE):  # fmt: skip
        entry = tarfile.TarInfo(f"{RUNS[0].hash}/swaps.npz")
        entry.type, entry.linkname = kind, "/etc/passwd"
        path.write_bytes(gzip.compress(entry.tobuf(tarfile.USTAR_FORMAT) + tar))
        with pytest.raises(StoreError, match=rf"damaged: '{RUNS[0].hash}/swaps.npz/?' is no file, or cut$"):
            archive.contents(path)
    end, body = "it has no end, or more after it", tar.rstrip(b"\0")
    body += bytes(-len(body) % 512)
    for content, why in (
        (body + tar, f"no archive of runs: it holds '{min(r.hash for r in RUNS[:2])}/run.json'"),
        (body, end),
        (tar + b"more", end),
        (tar[:512], "is no file, or cut"),
        (bytes(1024) + tar, end),
        (b"", end),
    ):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(StoreError, match=why):
            archive.contents(path)


def test_an_archive_that_is_large_when_unpacked_is_refused_before_it_takes_memory(store: Store, tmp_path: Path) -> None:
    path, other = tmp_path / "runs.tar.gz", Store(tmp_path / "elsewhere")
    with gzip.open(path, "wb", 1) as file:
        for _ in range(1500):
            file.write(bytes(1_000_000))
    assert path.stat().st_size < 7_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError) as error:
        unpack(path, other)
    assert str(error.value) == f"{path} unpacks to more than 100000000 bytes; an archive of runs has no more"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kB"
    assert not other.root.exists()


def test_more_than_is_unpacked_is_not_packed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST", 4000)
    path = tmp_path / "runs.tar.gz"
    with pytest.raises(StoreError) as error:
        pack(store, RUNS, path)
    assert str(error.value) == f"{path} would hold 10240 bytes, and archives of more than 4000 are not unpacked"
    assert not path.exists()


def test_a_pipe_in_place_of_an_archive_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "runs.tar.gz"
    os.mkfifo(path)
    with pytest.raises(StoreError, match=f"^{path} is no archive of runs, or damaged: {path} is a pipe, not a file$"):
        unpack(path, store)
