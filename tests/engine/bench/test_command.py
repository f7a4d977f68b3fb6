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

from lit_hidden.cli import main
from lit_hidden.engine.bench import (
    command,
    environment,
    epoch,
    feeding,
    generate,
    inputs,
    page,
    selection,
    start,
    steps,
)  # fmt: skip
from lit_hidden.engine.bench.command import SECTIONS, bench
from lit_hidden.engine.local import CPU

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
ALL_BUT_FEEDING = "selection,steps,input,epoch,start"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Every section but feeding, of tiny nets and few scores; processes are not started."""
    out, console = tmp_path_factory.mktemp("bench"), Console(file=io.StringIO(), width=160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SIZES", (60, 4_200_000 // 1000))
        patch.setattr(steps, "NETS", ("lenet",))
        patch.setattr(steps, "LARGE", {"cpu": (4, 32)})
        for name, value in (("NETS", {"cpu": ("lenet",)}), ("BATCH", 4), ("PRODUCT", {"cpu": 32})):
            patch.setattr(epoch, name, value)
        for name, value in (("IMAGES", 40), ("BATCH", 8), ("cores", lambda: 2)):
            patch.setattr(inputs, name, value)
        patch.setattr(start, "ended", lambda *words: json.dumps([0.0, 1.0, 3.0, 6.0]))
        patch.setattr("time.time", lambda: -0.5)
        bench(only=ALL_BUT_FEEDING, data_dir=out / "no", seconds=0.001, rounds=2, out=out, console=console)
    found = json.loads((out / "bench.json").read_text())
    sections = {section["section"]: section for section in found["sections"]}
    page, printed = (out / "bench.md").read_text(), console.file.getvalue()
    return SimpleNamespace(out=out, found=found, sections=sections, page=page, printed=printed)


def rows(section: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row.get("group", ""), row["what"]): row for row in section["rows"]}


# --- what is measured ------------------------------------------------------------------------------------


def test_each_section_is_there_in_its_order_and_targets_end_it(tiny):
    assert [*tiny.sections] == [*(name for name in SECTIONS if name not in ("feeding", "runs")), "targets"]
    assert all(section["device"] == "cpu" for section in tiny.sections.values())


def test_selection_measures_every_size_and_kind(tiny):
    there = rows(tiny.sections["selection"])
    groups = [f"{size} million, {kind}" for size in ("6e-05", "0.0042") for kind in selection.KINDS]
    times = ["pass", "torch.ge", "copy", "ours", "sort", "topk", "kthvalue", "partition"]
    others = ["sort", "topk", "kthvalue", "partition"]
    ratios = [
        *(f"ours / {by}" for by in times[:3]),
        *(f"{way} / ours" for way in others),
        *(f"{way} / pass" for way in others),
    ]
    assert [*there] == [(group, what) for group in groups for what in (*times, *ratios)]


def test_a_step_is_measured_hidden_dense_and_plain_paired_by_round(tiny):
    there = rows(tiny.sections["steps"])
    names = ["hidden", "dense", "plain", "hidden / dense", "plain / hidden", "plain / dense"]
    assert [*there] == [("lenet", name) for name in names]
    for name in names[3:]:
        above, below = (there["lenet", part]["rounds"] for part in name.split(" / "))
        assert there["lenet", name]["rounds"] == [a / b for a, b in zip(above, below, strict=False)]
    assert len(there["lenet", "hidden"]["rounds"]) == len(there["lenet", "dense"]["rounds"]) >= 2
    assert len(there["lenet", "plain"]["rounds"]) == 2  # few


def test_input_is_measured_each_way(tiny):
    there = rows(tiny.sections["input"])
    others = ["torchvision, 0 workers", "torchvision, 2 workers", "kornia"]
    assert [*there] == [("", name) for name in ["ours", *others, *(f"ours / {other}" for other in others)]]
    assert "(random: CIFAR-10 is not in the data folder)" in tiny.sections["input"]["about"]


def test_an_epoch_says_what_lightning_adds_and_how_busy_the_device_is(tiny):
    there = rows(tiny.sections["epoch"])
    assert {group for group, _ in there} == {"lenet", epoch.TINY}
    part, whole, share = (
        there["lenet", what]["rounds"] for what in (epoch.PART, "fit, a step", "Lightning's share")
    )  # fmt: skip
    assert share == pytest.approx([100 * a / b for a, b in zip(part, whole, strict=True)])
    assert all(0 < a < b for a, b in zip(part, whole, strict=True))
    busy, does, peak = (there["lenet", what]["rounds"] for what in ("share of the peak", "fit", "matrix product"))
    assert busy == pytest.approx([100 * a / b for a, b in zip(does, peak, strict=True)])
    # LeNet's products on 4 images, twice backward but once to the first layer, whose images want no gradient.
    products = 2 * 4 * (2 * 3072 * 300 + 3 * 300 * 100 + 3 * 100 * 10)
    assert does == pytest.approx([products / ms / 1e6 for ms in whole])


def test_the_start_of_processes_is_measured_and_the_first_step_by_its_stages(tiny):
    there = rows(tiny.sections["start"])
    stages = {what: row["rounds"] for (group, what), row in there.items() if group == start.FIRST}
    assert stages == {
        "Python": [0.5] * 2,
        "imports": [1.0] * 2,
        "net and data": [2.0] * 2,
        "Trainer and step": [3.0] * 2,
    }
    assert [what for group, what in there if not group] == [start.HELP, start.IMPORT, start.FIRST]
    assert there["", start.FIRST]["rounds"] == [6.5] * 2


# --- what is written -------------------------------------------------------------------------------------


def test_the_page_the_terminal_and_the_picture_show_it(tiny):
    for section in tiny.sections.values():
        for place in (tiny.page, " ".join(tiny.printed.split())):
            assert section["title"] in place
            assert all(line in place for line in (section["about"], *section["findings"]))
    for name in ("bench.svg", "bench.png"):
        assert (tiny.out / name).stat().st_size > 10_000
    assert "](bench.svg)" in tiny.page
    assert sorted(path.name for path in tiny.out.iterdir()) == ["bench.json", "bench.md", "bench.png", "bench.svg"]


def test_tables_show_the_medians(tiny):
    there = rows(tiny.sections["steps"])
    (line,) = re.findall(r"^\| lenet \| .*", tiny.page, re.MULTILINE)
    cells = line.strip("| ").split(" | ")
    for cell, what in zip(cells[1:4], ("dense", "hidden", "plain"), strict=True):
        assert float(cell.replace(",", "")) == pytest.approx(there["lenet", what]["median"], rel=0.006)
    assert float(cells[4]) == pytest.approx(there["lenet", "hidden / dense"]["median"], abs=5e-4)


def test_the_command_is_written_down(tiny):
    assert tiny.found["command"] == f"lit-hidden bench --only {ALL_BUT_FEEDING} --seconds 0.001"


@pytest.mark.parametrize("only", ["start", "feeding"])
def test_sections_of_which_nothing_is_drawn_leave_no_picture_or_a_small_one(only, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "ended", lambda *words: json.dumps([0.0, 1.0, 3.0, 6.0]))
    monkeypatch.setattr("time.time", lambda: -0.5)
    small: dict[str, Any] = {"data": "digits", "net": "lenet"} if only == "feeding" else {}
    bench(only=only, seconds=0.001, rounds=1, out=tmp_path, console=Console(file=io.StringIO()), **small)
    assert (tmp_path / "bench.svg").exists() == (only == "start")
    assert ("bench.svg" in (tmp_path / "bench.md").read_text()) == (only == "start")


def test_without_kornia_a_sentence_says_how_to_get_it(monkeypatch, effort):
    monkeypatch.setattr(inputs, "kornia", lambda: False)
    monkeypatch.setattr(inputs, "interleaved", lambda measures, *_: dict.fromkeys(measures, (1.0,)))
    monkeypatch.setattr(inputs, "IMAGES", 8)
    section = inputs.inputs(effort(), torch.device("cpu"), *inputs.pictures(Path("no")))
    assert [row.what for row in section.rows if "kornia" in row.what] == []
    assert section.findings[-1] == inputs.MISSING
    assert "pip install 'lit-hidden[bench]'" in inputs.MISSING


# --- what is asked for -----------------------------------------------------------------------------------

LESS = "measures nothing; it must be more than 0"
SETS = (
    "there is cifar10, mnist, digits, imagenet, imagenet100, imagenette, imagewoof, tiny-imagenet, tiny-imagenet-100, "
    "or package.module.Class"
)
NAMES = "selection, steps, input, feeding, epoch, runs, start"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--only", "speed"], 2, f"--only speed names no section 'speed'; sections are {NAMES}\n"),
        (["--only", "steps,"], 2, f"--only steps, names no section ''; sections are {NAMES}\n"),
        (["--only", "steps", "--net", "conv4"], 2, "--net is for feeding, which --only steps leaves out\n"),
        (["--device", "tpu"], 2, "--device tpu is not there; there is cpu"),
        (["--seconds", "0"], 2, f"--seconds 0 {LESS}\n"),
        (["--seconds", "-1.5"], 2, f"--seconds -1.5 {LESS}\n"),
        (["--seconds", "nan"], 2, f"--seconds nan {LESS}\n"),
        (["--data", "cifar11"], 2, f"there is no data called 'cifar11'; {SETS}\n"),
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
    places = ((page, "machine"), (feeding, "feeding"), (generate, "generate"), (inputs, "inputs"))
    for room, name in (*places, (selection, "selection"), (steps, "steps"), (epoch, "epoch"), (start, "start")):
        monkeypatch.setattr(room, name, lambda *_: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert end.value.code == status
    assert capsys.readouterr().err.startswith(f"lit-hidden: {said}")
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["cifar-10-batches-bin", "file"], ["cifar-10-batches-bin", "file", "results"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("only", "given", "wanted"),
    [
        (None, [], [*SECTIONS]),
        (None, ["net"], ["feeding"]),
        ("start,selection", [], ["selection", "start"]),  # in the usual order
        ("feeding,steps", ["data"], ["steps", "feeding"]),
    ],
)
def test_sections_are_all_or_those_asked_for(only, given, wanted):
    assert command._wanted(only, given) == wanted


def test_both_devices_are_measured_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [each.type for each in command._devices(None)] == ["cpu", "cuda"]
    assert [each.type for each in command._devices("cuda")] == ["cuda"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [each.type for each in command._devices(None)] == ["cpu"]


def test_the_command_takes_what_the_function_takes(monkeypatch):
    taken: dict[str, Any] = {}
    monkeypatch.setattr(command, "bench", lambda **given: taken.update(given))
    monkeypatch.delenv("DATA_DIR", raising=False)
    main(["bench"])
    defaults = {name: p.default for name, p in inspect.signature(bench).parameters.items()}
    assert taken == {name: defaults[name] for name in ("data_dir", "seconds", "out")}
    words = {"only": "steps", "device": "cpu", "data": "digits", "data_dir": "d", "net": "lenet", "out": "o"}
    numbers = {"image_size": 16, "batch_size": 4, "seconds": 0.5}
    given = {**words, **numbers}
    assert given.keys() == defaults.keys() - {"rounds", "console"}
    main(["bench", *(word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value)))])
    assert taken == given


# --- in which environment --------------------------------------------------------------------------------


def test_a_process_of_its_own_becomes_one_in_the_workers_environment(monkeypatch):
    became: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *given: became.append(given))
    monkeypatch.setattr(command, "bench", lambda **given: None)
    monkeypatch.setattr(sys, "argv", ["lit-hidden", "bench", "--only", "start"])
    monkeypatch.setattr(environment, "environments", lambda devices: ("cpu", [CPU]))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("KEPT", "yes")
    main()
    ((python, words, found),) = became
    assert (python, words) == (sys.executable, [sys.executable, "-m", "lit_hidden", "bench", "--only", "start"])
    assert found == {**os.environ, **CPU}
    assert found["KEPT"] == "yes"
    for name, value in CPU.items():
        monkeypatch.setenv(name, value)
    main()  # is there already
    assert len(became) == 1
    main(["bench"])  # called from Python: nobody's process is replaced
    assert len(became) == 1


def test_with_gpus_the_first_is_taken(monkeypatch):
    there = [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "3"}]
    monkeypatch.setattr(environment, "environments", lambda devices: ("cuda", there))
    assert environment.wanted() == CPU | {"CUDA_VISIBLE_DEVICES": "2"}


def test_the_machine_says_whether_the_environment_is_a_workers(monkeypatch):
    for there, word in ((True, "a worker's"), (False, "not a worker's")):
        monkeypatch.setattr(page, "as_workers", lambda there=there: there)
        found = page.machine(torch.device("cpu"))
        assert found["environment"] == word
        assert ("memory is not kept between steps" in found["said"]) != there
