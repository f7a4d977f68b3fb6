"""`lit-hidden bench`: what it measures, where it writes, what it refuses, in which environment it runs."""

import inspect
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments.bench import command, environment, epoch, inputs, selection, start, steps
from experiments.bench.command import SECTIONS, asked_for, bench
from lit_hidden.cli import main
from lit_hidden.engine.reproduce import ReproduceError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
ONLY = "selection,steps,input,feeding,epoch,start"
BENCH = Path(__file__).parents[3] / "experiments" / "results" / "bench"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Every section but runs, of tiny nets and few scores."""
    out, console = tmp_path_factory.mktemp("bench"), Console(file=io.StringIO(), width=160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SIZES", (60, 4_200))
        patch.setattr(steps, "NETS", ("lenet",))
        patch.setattr(steps, "LARGE", {"cpu": (32, 4)})
        for name, value in (("NETS", {"cpu": ("lenet",)}), ("BATCH", 4), ("PRODUCT", {"cpu": 32})):
            patch.setattr(epoch, name, value)
        for name, value in (("FILES", 4), ("cores", lambda: 2)):
            patch.setattr(inputs, name, value)
        small: dict[str, Any] = {"net": "lenet", "image_size": 16, "batch_size": 4, "data_dir": out / "no"}
        bench(only=ONLY, seconds=0.001, rounds=2, out=out, console=console, **small)
    found = json.loads((out / "bench.json").read_text())
    page, printed = (out / "bench.md").read_text(), console.file.getvalue()
    return SimpleNamespace(out=out, found=found, page=page, printed=printed)


def rows(tiny: SimpleNamespace, key: str) -> dict[tuple[str, str], list[float]]:
    found = [section for section in tiny.found["sections"] if section["section"] == key]
    return {(row["group"], row["what"]): row["rounds"] for section in found for row in section["rows"]}


def test_each_section_is_there_in_its_order_and_targets_end_it(tiny):
    keys = ["selection", "steps", "input", "feeding", "feeding", "epoch", "start", "targets"]
    assert [section["section"] for section in tiny.found["sections"]] == keys


def test_the_rows_are_those_of_the_committed_bench(tiny):
    committed = json.loads((BENCH / "bench.json").read_text())["sections"]
    theirs = {(s["section"], row["what"]) for s in committed for row in s["rows"] if s["section"] != "targets"}
    ours = {(s["section"], row["what"]) for s in tiny.found["sections"] for row in s["rows"]}
    of_feeding = {what for key, what in theirs if key == "feeding"}
    # One loader a set since then; Lightning's part is the tiny net's difference.
    gone = {("selection", "torch.ge"), ("selection", "ours / torch.ge"), ("epoch", "Lightning's part of a step")}
    assert theirs - ours == gone | {("feeding", what) for what in of_feeding - {"training, hidden", "training, dense"}}
    assert ours - theirs == {
        ("feeding", what) for what in ("loader", "loader / training, hidden", "loader / training, dense")
    }


@pytest.mark.parametrize("key", ["selection", "steps", "input", "feeding"])
def test_ratios_are_paired_by_round(key, tiny):
    there = rows(tiny, key)
    ratios = [(group, what) for group, what in there if " / " in what]
    assert ratios
    for group, what in ratios:
        above, below = (there[group, part] for part in what.split(" / "))
        assert there[group, what] == [a / b for a, b in zip(above, below, strict=False)]


def test_an_epoch_says_what_lightning_adds_and_how_busy_the_device_is(tiny):
    there = rows(tiny, "epoch")
    whole, does, peak = (there["lenet", what] for what in ("fit, a step", "fit", "matrix product"))
    added = there[epoch.TINY, "fit - bare, a step"]
    assert there["lenet", "Lightning's share"] == pytest.approx(
        [100 * a / b for a, b in zip(added, whole, strict=True)]
    )
    assert there["lenet", "share of the peak"] == pytest.approx([100 * a / b for a, b in zip(does, peak, strict=True)])
    # LeNet's products on 4 images, twice backward but once to the first layer, whose images want no gradient.
    products = 2 * 4 * (2 * 3072 * 300 + 3 * 300 * 100 + 3 * 100 * 10)
    assert does == pytest.approx([products / ms / 1e6 for ms in whole])


def test_the_first_step_is_the_sum_of_its_stages(tiny):
    there = rows(tiny, "start")
    stages = [there[start.FIRST, stage] for stage in start.STAGES]
    assert there["", start.FIRST] == pytest.approx([sum(each) for each in zip(*stages, strict=True)])
    assert all(seconds > 0 for stage in stages for seconds in stage)
    with pytest.raises(
        OSError, match=r"^python -c import no failed: (.|\n)*ModuleNotFoundError: No module named 'no'$"
    ):
        start.ended("-c", "import no")


def test_page_and_terminal_show_the_numbers_of_the_json_and_a_picture(tiny):
    for section in tiny.found["sections"]:
        for row in section["rows"]:
            numbers = torch.tensor(row["rounds"], dtype=torch.float64)
            assert (row["median"], row["min"], row["max"]) == pytest.approx(
                (float(numbers.quantile(0.5)), float(numbers.min()), float(numbers.max()))
            )
        assert f"## {section['title']}\n\n{section['about']}\n" in tiny.page
        assert section["title"] in tiny.printed
    (line,) = re.findall(r"^\| lenet \| .*", tiny.page, re.MULTILINE)
    (dense,) = (r["median"] for s in tiny.found["sections"] for r in s["rows"] if r["what"] == "dense")
    assert float(line.strip("| ").split(" | ")[1].replace(",", "")) == pytest.approx(dense, rel=0.006)
    for name in ("bench.svg", "bench.png"):
        assert (tiny.out / name).stat().st_size > 10_000
    assert "](bench.svg)" in tiny.page
    given = f"--only {ONLY} --net lenet --image-size 16 --batch-size 4 --seconds 0.001"
    assert tiny.found["command"] == f"lit-hidden bench {given}"


# --- what is asked for -----------------------------------------------------------------------------------

NAMES = "selection, steps, input, feeding, epoch, runs, start"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--only", "speed"], 2, f"--only speed names no section 'speed'; sections are {NAMES}\n"),
        (["--only", "steps,"], 2, f"--only steps, names no section ''; sections are {NAMES}\n"),
        (["--only", "steps", "--net", "conv4"], 2, "--net is for feeding, which --only steps leaves out\n"),
        (["--only", "runs"], 2, "--only runs: runs are whole trainings, measured on a GPU, and none is there or asked"),
        (["--device", "tpu"], 2, "--device tpu is not there; there is cpu"),
        (["--seconds", "-1.5"], 2, "--seconds -1.5 measures nothing; it must be more than 0\n"),
        (["--seconds", "nan"], 2, "--seconds nan measures nothing; it must be more than 0\n"),
        (["--data", "cifar11"], 2, "there is no data called 'cifar11'; there is cifar10, mnist, "),
        (["--data", "imagenet", "--data-dir", "no"], 1, "no holds no imagenet: neither it nor imagenet/, "),
        (["--net", "conv3"], 2, "net='conv3' is unknown; nets are "),
        (["--batch-size", "0"], 2, "batch_size=0 holds no image; it must be at least 1\n"),
        (["--image-size", "0"], 2, "image_size=0 has no pixels; it must be at least 1\n"),
        (
            ["--data", "digits", "--image-size", "64"], 2,
            "--image-size 64: images of digits have 32 pixels; it is for ImageNet and its subsets\n",
        ),
        (["--data", "digits", "--net", "lenet", "--out", "file"], 1, "[Errno 17] File exists: 'file'\n"),
        (["--only", "input", "--data-dir", "."], 1, "cifar-10-batches-bin"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said_before_anything_is(arguments, status, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"short")
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert end.value.code == status
    shown = capsys.readouterr()
    assert shown.err.startswith(f"lit-hidden: {said}")
    assert shown.out == ""


@pytest.mark.parametrize(
    ("only", "given", "device", "wanted"),
    [
        (None, [], "cpu", [name for name in SECTIONS if name != "runs"]),
        (None, ["net"], "cpu", ["feeding"]),
        ("start,selection", [], "cpu", ["selection", "start"]),  # in the usual order
        ("feeding,steps", ["data"], "cpu", ["steps", "feeding"]),
        ("runs", [], "cuda", ["runs"]),
    ],
)
def test_sections_are_all_or_those_asked_for(only, given, device, wanted, tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"")
    assert asked_for(only, given, device, tmp_path) == wanted


def test_runs_want_cifar10(tmp_path):
    with pytest.raises(UsageError, match=f"^--only runs: runs train on CIFAR-10, which is not in {tmp_path}$"):
        asked_for("runs", [], "cuda", tmp_path)


def test_a_damaged_image_ends_the_bench_with_its_name(tmp_path):
    for part, label in (
        ("train", 0),
        ("val", 0),
        *(("train", n) for n in range(1, 100)),
        *(("val", n) for n in range(1, 100)),
    ):
        place = tmp_path / "imagenet100" / part / f"n{label:02d}"
        place.mkdir(parents=True)
        (place / "0.JPEG").write_bytes(b"no image")
    with pytest.raises(ReproduceError, match="JPEG cannot be decoded"):
        bench(data="imagenet100", data_dir=tmp_path, net="lenet", image_size=16, seconds=0.001, out=tmp_path / "out")


def test_the_command_takes_what_the_function_takes(monkeypatch):
    taken: dict[str, Any] = {}
    monkeypatch.setattr(command, "bench", lambda **given: taken.update(given))
    words = {"only": "steps", "device": "cpu", "data": "digits", "data_dir": "d", "net": "lenet", "out": "o"}
    given = {**words, "image_size": 16, "batch_size": 4, "seconds": 0.5}
    assert given.keys() == inspect.signature(bench).parameters.keys() - {"rounds", "console"}
    main(["bench", *(word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value)))])
    assert taken == given


def test_a_process_of_its_own_becomes_one_in_the_workers_environment(monkeypatch):
    became: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *given: became.append(given))
    monkeypatch.setattr(command, "bench", lambda **given: None)
    monkeypatch.setattr(sys, "argv", ["lit-hidden", "bench", "--only", "start"])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("KEPT", "yes")
    main()
    ((python, words, found),) = became
    assert (python, words) == (sys.executable, [sys.executable, "-m", "lit_hidden", "bench", "--only", "start"])
    assert found == {**os.environ, **environment.wanted()}
    assert (found["OMP_NUM_THREADS"], found["KEPT"]) == ("1", "yes")
    for name, value in environment.wanted().items():
        monkeypatch.setenv(name, value)
    main()  # is there already
    main(["bench"])  # called from Python: nobody's process is replaced
    assert len(became) == 1
