"""`lit-hidden bench`: its arithmetic, that both sides of a comparison do the same, what it writes, what it refuses."""

import inspect
import io
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from experiments.bench import command, environment, epoch, inputs, selection, steps
from experiments.bench.command import SECTIONS, bench
from experiments.bench.inputs import Source, ways
from experiments.bench.page import markdown
from experiments.bench.rows import Bench, Section
from experiments.bench.steps import PlainConv, PlainStep, plain
from experiments.bench.training import EDGE, Watched, drawn, fit, like, made, step_of
from lit_hidden import build
from lit_hidden.cli import main
from lit_hidden.data import CIFAR10Data
from lit_hidden.edge_popup import maskers
from lit_hidden.engine.experiment import ReproduceError
from lit_hidden.modules import LitSubnetwork

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
HERE = torch.device("cpu")
COMMITTED = Path(__file__).parents[2] / "experiments" / "results" / "bench" / "bench.json"


# --- arithmetic ------------------------------------------------------------------------------------------------


def test_a_section_pairs_ratios_by_round_and_is_shown_by_row_or_by_group():
    section = Section("steps", "cpu", "about it", findings=["so"])
    section.add("ms", {"a": [3.0, 1.0, 2.0], "b": [4.0, 8.0]}, "x")
    section.add("ms", {"b": [100.0]}, "y")
    section.ratio("b", "a", "x")
    assert section.medians("b") == {"x": 6.0, "y": 100.0}
    assert markdown(section).splitlines()[4:] == [
        "| what | median | min | max | unit |", "| --- | ---: | ---: | ---: | ---: |",
        "| x: a | 2 | 1 | 3 | ms |", "| x: b | 6 | 4 | 8 | ms |", "| y: b | 100 | 100 | 100 | ms |",
        "| x: b / a | 4.67 | 1.33 | 8 | ratio |", "", "- so",
    ]  # fmt: skip
    section.rows.pop(2)
    section.columns = ("b", "b / a")
    assert "|  | b ms | b / a |\n| --- | ---: | ---: |\n| x | 6 | 4.67 |" in markdown(section)


def test_every_other_round_goes_backwards_and_what_is_slow_has_two():
    asked: list[str] = []

    def measure(what: str, takes: float) -> float:
        asked.append(what)
        time.sleep(takes)
        return float(len(asked))

    measures = {what: lambda what=what, takes=t: measure(what, takes) for what, t in (("a", 0), ("b", 0.05), ("c", 0))}
    found = Bench(HERE, 1.0, 3, Console(file=io.StringIO())).turns("", measures, 3, slow=0.04)
    assert "".join(asked) == "abc" + "cba" + "ac"
    assert found == {"a": [1, 6, 7], "b": [2, 5], "c": [3, 4, 8]}


# --- selection and steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", selection.KINDS)
def test_the_ways_give_the_mask_or_all_that_reaches_the_threshold(kind):
    scores = selection.scores_of(kind, 1001)
    threshold = scores.abs().sort().values[-500]
    found = {way: select() for way, select in selection.ways(scores, 500).items()}
    assert found.keys() == {"pass", "copy", "ours", "sort", "topk", "kthvalue", "partition"}
    for mask in (found[way] for way in ("ours", "sort", "topk")):
        assert (mask.dtype, int(mask.sum())) == (torch.bool, 500)
        assert scores.abs()[mask].min() >= threshold >= scores.abs()[~mask].max()
    for way in ("kthvalue", "partition"):
        assert torch.equal(found[way], scores.abs() >= threshold)
    assert torch.equal(found["pass"], scores >= scores.abs().median())
    assert torch.equal(found["copy"], scores)


def layers(net: nn.Module) -> list[PlainConv]:
    return [module for module in net.modules() if isinstance(module, PlainConv)]


@pytest.mark.parametrize("name", ["conv4", "cifar_resnet18"])
def test_with_equal_weights_and_scores_the_plain_net_computes_what_ours_does(name):
    ours = LitSubnetwork(build(name, width=0.125), density=0.3, schedule="constant", seed=3)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6)
    if "resnet" in name:  # batch norm of so few images magnifies what float32 rounds off
        ours, images = ours.double(), images.double()
    theirs = plain(ours.net)
    found = {}
    for key, net in (("ours", ours), ("plain", theirs)):
        logits = net(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        found[key] = [logits.detach(), loss.detach()]
    found["ours"] += [each.scores.grad for each in maskers(ours.net).values()]
    found["plain"] += [m.scores.grad.view_as(s) for m, s in zip(layers(theirs), found["ours"][2:], strict=True)]
    for mine, other in zip(found["ours"], found["plain"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * float(mine.abs().max()))


def test_over_a_hundred_steps_losses_and_masks_are_those_of_the_published_algorithm():
    # In double precision: what float32 rounds off decides, some steps on, which of two near scores stays.
    ours = LitSubnetwork(build("conv2", width=0.0625), density=0.5, schedule="constant").double()
    theirs, optimizer = PlainStep(ours), ours.configure_optimizers()["optimizer"]
    images, labels = torch.randn(32, 3, 32, 32).double(), torch.randint(0, 10, (32,))
    started = [masker.mask() for masker in maskers(ours.net).values()]
    before = {name: tensor.clone() for name, tensor in theirs.net.state_dict().items()}
    for step in range(100):
        batch = tuple(each[4 * step % 32 :][:4] for each in (images, labels))
        optimizer.zero_grad()
        loss = ours.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        assert theirs(batch)[0] == pytest.approx(loss.item(), rel=1e-5)
    found = [masker.mask() for masker in maskers(ours.net).values()]
    assert all(not torch.equal(*pair) for pair in zip(started, found, strict=True))
    for mask, layer in zip(found, layers(theirs.net), strict=True):
        order = layer.scores.detach().abs().flatten().argsort(stable=True)
        assert set(order[-int(mask.sum()) :].tolist()) == set(mask.flatten().nonzero().flatten().tolist())
    after = theirs.net.state_dict()
    assert {name.split(".")[-1] for name in before if not torch.equal(before[name], after[name])} == {"scores"}


@pytest.mark.parametrize("at_once", [0, 2])
def test_steps_in_blocks_or_one_by_one_with_lightning_or_without_train_alike(at_once, tmp_path):
    one, other, third, new = (made("lenet", 0.5, like("lenet", 32, 4), HERE) for _ in range(4))
    loader = Watched(EDGE + 2, 4, HERE, at_once)
    fit(one, loader, tmp_path)
    assert (tmp_path / "metrics.csv").exists()
    step, single = step_of(other, at_once), step_of(third)
    for batch in loader:
        step(batch)
    assert len(loader.asked) == EDGE + 2, "an epoch forgets the times of the one before"
    whole = 1000 * (loader.asked[-1] - loader.asked[EDGE - 1])
    assert len(loader.steps()) == 2
    assert sum(loader.steps()) * (at_once or 1) == pytest.approx(whole)
    loader.at_once = 0
    for batch in loader:
        single(batch)
    for name, tensor in third.net.state_dict().items():
        for each in (one, other):
            torch.testing.assert_close(tensor, each.net.state_dict()[name])
        assert torch.equal(tensor, new.net.state_dict()[name]) == (not name.endswith("scores"))


# --- input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "batches", "turns"),
    [
        (2, [4, 4, 2], [8, 2, 8, 2]),  # an epoch's end is the end of a turn: nothing is decoded any more
        (16, [4, 4, 2], [10, 10]),
    ],
)
def test_batches_of_workers_count_turn_by_turn_whatever_the_epoch(workers, batches, turns):
    source = Source(lambda: [(torch.zeros(count, 3, 2, 2), torch.zeros(count)) for count in batches], HERE, workers)
    assert [*islice(source.turns(), len(turns))] == turns
    next(source.turns())
    assert next(source.epochs) == 3, "each measurement draws others"


def test_every_way_yields_normalised_batches_of_all_images():
    images, labels = drawn(200)
    plain, mean, std = images / 255, *(torch.tensor(each).view(3, 1, 1) for each in (CIFAR10Data.mean, CIFAR10Data.std))
    expected = (plain - mean) / std
    for name, source in ways(images, labels, HERE).items():
        batches, of = zip(*source.make(), strict=True)
        assert torch.equal(torch.cat(of).bincount(), labels.bincount()), name
        batch = torch.cat(batches)
        assert batch.shape == (200, 3, 32, 32)
        # A crop after padding loses and darkens some: about a tenth of the pixels on either side.
        assert batch.std() == pytest.approx(float(expected.std()), rel=0.15)


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Every section, of tiny nets and few scores."""
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
        bench(only=",".join(SECTIONS), seconds=0.001, rounds=1, out=out, console=console, **small)
    found = json.loads((out / "bench.json").read_text())
    rows = {(s["section"], r["group"], r["what"]): r["rounds"] for s in found["sections"] for r in s["rows"]}
    page, printed = (out / "bench.md").read_text(), console.file.getvalue()
    return SimpleNamespace(out=out, found=found, rows=rows, page=page, printed=printed)


def test_sections_come_in_their_order_with_the_rows_of_the_committed_bench(tiny):
    keys = ["selection", "steps", "input", "feeding", "epoch", "start"]
    assert [section["section"] for section in tiny.found["sections"]] == keys
    committed = {s["section"]: {r["what"] for r in s["rows"]} for s in json.loads(COMMITTED.read_text())["sections"]}
    gone = {"torch.ge", "ours / torch.ge", "Lightning's part of a step", "plain / dense", "end of an epoch"}
    gone |= {"Python", "imports", "net and data", "Trainer and step"}
    for section in (key for key in SECTIONS if key != "feeding"):
        assert committed[section] - gone == {what for key, _, what in tiny.rows if key == section}


def test_an_epoch_says_what_lightning_adds_and_how_busy_the_device_is(tiny):
    there = {what: rounds for (key, group, what), rounds in tiny.rows.items() if (key, group) == ("epoch", "lenet")}
    whole, does, peak = (there[what] for what in ("fit, a step", "fit", "matrix product"))
    added = tiny.rows["epoch", epoch.TINY, "fit - bare, a step"]
    assert there["Lightning's share"] == pytest.approx([100 * a / b for a, b in zip(added, whole, strict=True)])
    assert there["share of the peak"] == pytest.approx([100 * a / b for a, b in zip(does, peak, strict=True)])
    # LeNet's products on 4 images, twice backward but once to the first layer, whose images want no gradient.
    products = 2 * 4 * (2 * 3072 * 300 + 3 * 300 * 100 + 3 * 100 * 10)
    assert does == pytest.approx([products / ms / 1e6 for ms in whole])


def test_page_and_terminal_show_the_numbers_of_the_json_and_a_picture(tiny):
    for section in tiny.found["sections"]:
        for row in section["rows"]:
            numbers = torch.tensor(row["rounds"], dtype=torch.float64)
            expected = [float(n) for n in (numbers.quantile(0.5), numbers.min(), numbers.max())]
            assert [row["median"], row["min"], row["max"]] == pytest.approx(expected)
        assert f"## {section['title']}\n\n{section['about']}\n" in tiny.page
        assert section["title"] in tiny.printed
    for name in ("bench.svg", "bench.png"):
        assert (tiny.out / name).stat().st_size > 10_000
    given = f"--only {','.join(SECTIONS)} --net lenet --image-size 16 --batch-size 4 --seconds 0.001"
    assert tiny.found["command"] == f"lit-hidden bench {given}"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--only", "speed"], 2, f"--only speed names no section 'speed'; sections are {', '.join(SECTIONS)}\n"),
        (["--only", "steps", "--net", "conv4"], 2, "--net is for feeding, which --only steps leaves out\n"),
        (["--device", "tpu"], 2, "--device tpu is not there; there is cpu"),
        (["--seconds", "-1.5"], 2, "--seconds -1.5 measures nothing; it must be more than 0\n"),
        (["--data", "imagenet", "--data-dir", "no"], 1, "no/imagenet/train cannot be used"),
        (["--batch-size", "0"], 2, "batch_size=0 "),
        (["--data", "digits", "--image-size", "64"], 2, "--image-size 64 is for ImageNet and its subsets"),
        (["--only", "input", "--data-dir", "."], 1, "cifar-10-batches-bin"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(arguments, status, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"short")
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert end.value.code == status
    shown = capsys.readouterr()
    assert shown.err.startswith(f"lit-hidden: {said}")
    assert shown.out == ""


def test_a_damaged_image_ends_the_bench_with_its_name(tmp_path):
    for n in range(200):
        place = tmp_path / "imagenet100" / ("train", "val")[n % 2] / f"n{n // 2:02d}"
        place.mkdir(parents=True)
        (place / "0.JPEG").write_bytes(b"no image")
    with pytest.raises(ReproduceError, match="JPEG cannot be used"):
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
    main()
    ((python, words, found),) = became
    assert (python, words) == (sys.executable, [sys.executable, "-m", "lit_hidden", "bench", "--only", "start"])
    assert found == {**os.environ, **environment.wanted()}
    assert found["OMP_NUM_THREADS"] == "1"
    for name, value in environment.wanted().items():
        monkeypatch.setenv(name, value)
    main()  # is there already
    main(["bench"])  # called from Python: nobody's process is replaced
    assert len(became) == 1
