"""`lit-hidden bench`: its arithmetic, that both sides of a comparison do the same, what it writes, what it refuses."""

import io
import json
import os
import sys
import time
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.bench import command, epoch, inputs, selection, start, steps
from experiments.bench.command import bench
from experiments.bench.page import markdown
from experiments.bench.rows import Section, turns
from experiments.bench.steps import PlainConv, PlainStep
from experiments.bench.training import EDGE, Watched, drawn, fit, like, made, step_of
from lit_hidden import build
from lit_hidden.cli import main
from lit_hidden.data import CIFAR10Data
from lit_hidden.edge_popup import maskers
from lit_hidden.modules import LitSubnetwork

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
HERE = torch.device("cpu")


# --- arithmetic ------------------------------------------------------------------------------------------------


def test_ratios_are_by_round_and_a_table_has_a_column_for_each_group():
    section = Section("steps", "cpu", "about it")
    section.add("ms", {"a": [3.0, 1.0, 2.0], "b": [4.0, 8.0]}, "x")
    section.add("ms", {"b": [100.0]}, "y")
    section.ratio("b", "a", "x")
    assert section.rows[-1].numbers == {"median": pytest.approx(14 / 3), "min": pytest.approx(4 / 3), "max": 8}
    assert markdown(section).splitlines()[2:] == [
        "about it", "", "| median | x | y |", "| --- | ---: | ---: |", "| a (ms) | 2 |  |", "| b (ms) | 6 | 100 |",
        "| b / a | 4.67 |  |",
    ]  # fmt: skip


def test_every_other_round_goes_backwards():
    asked: list[str] = []
    measures = {what: lambda what=what: asked.append(what) or float(len(asked)) for what in "abc"}
    assert turns(measures, 3) == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}
    assert "".join(asked) == "abc" + "cba" + "abc"


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


@pytest.mark.parametrize(("net", "steps"), [("conv2", 100), ("cifar_resnet18", 10)])
def test_losses_and_masks_are_those_of_the_published_algorithm(net, steps):
    # In double precision: what float32 rounds off decides, some steps on, which of two near scores stays.
    ours = LitSubnetwork(build(net, width=0.0625), density=0.5, schedule="constant").double()
    theirs, optimizer = PlainStep(ours), ours.configure_optimizers()["optimizer"]
    images, labels = torch.randn(32, 3, 32, 32).double(), torch.randint(0, 10, (32,))
    started = [masker.mask() for masker in maskers(ours.net).values()]
    before = {name: tensor.clone() for name, tensor in theirs.net.named_parameters()}
    for step in range(steps):
        batch = tuple(each[4 * step % 32 :][:4] for each in (images, labels))
        optimizer.zero_grad()
        loss = ours.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        assert theirs(batch)[0] == pytest.approx(loss.item(), rel=1e-5)
    found = [masker.mask() for masker in maskers(ours.net).values()]
    plain = [module for module in theirs.net.modules() if isinstance(module, PlainConv)]
    assert all(not torch.equal(*pair) for pair in zip(started, found, strict=True))
    for mask, layer in zip(found, plain, strict=True):
        order = layer.scores.detach().abs().flatten().argsort(stable=True)
        assert set(order[-int(mask.sum()) :].tolist()) == set(mask.flatten().nonzero().flatten().tolist())
    after = dict(theirs.net.named_parameters())
    assert {name.split(".")[-1] for name in before if not torch.equal(before[name], after[name])} == {"scores"}


@pytest.mark.parametrize("at_once", [0, 2])
def test_steps_in_blocks_or_one_by_one_with_lightning_or_without_train_alike(at_once, tmp_path):
    one, other, third, new = (made("lenet", 0.5, like("lenet", 32, 4), HERE) for _ in range(4))
    loader = Watched(EDGE + 2, 4, HERE, at_once)
    began = time.perf_counter()
    ms = loader.timing(lambda: fit(one, loader, tmp_path))()
    assert 0 < 2 * ms * (at_once or 1) < 1000 * (time.perf_counter() - began)
    assert (tmp_path / "metrics.csv").exists()
    step, single = step_of(other, at_once), step_of(third)
    for batch in loader:
        step(batch)
    loader.at_once = 0
    for batch in loader:
        single(batch)
    for name, tensor in third.net.state_dict().items():
        for each in (one, other):
            torch.testing.assert_close(tensor, each.net.state_dict()[name])
        assert torch.equal(tensor, new.net.state_dict()[name]) == (not name.endswith("scores"))


# --- input -----------------------------------------------------------------------------------------------------


def test_a_rate_counts_whole_turns_of_the_workers_epoch_after_epoch(monkeypatch):
    told, sizes = iter([0.0, 2.0]), iter([[4, 4, 2], [1, 8]])
    monkeypatch.setattr(inputs, "timer", lambda: next(told))
    found = inputs.rate(lambda: [(torch.zeros(n, 3, 2, 2), torch.zeros(n)) for n in next(sizes)], 2, HERE, 0)
    assert found == (2 + 1) / 2, "the first turn, of two batches, is not counted"


def test_every_way_yields_normalised_batches_of_all_images():
    images, labels = drawn(200)
    plain, mean, std = images / 255, *(torch.tensor(each).view(3, 1, 1) for each in (CIFAR10Data.mean, CIFAR10Data.std))
    expected = (plain - mean) / std
    for name, (make, _) in inputs.ways(images, labels, HERE).items():
        batches, of = zip(*make(), strict=True)
        assert torch.equal(torch.cat(of).bincount(), labels.bincount()), name
        batch = torch.cat(batches)
        assert batch.shape == (200, 3, 32, 32)
        # A crop after padding loses and darkens some: about a tenth of the pixels on either side.
        assert batch.std() == pytest.approx(float(expected.std()), rel=0.15)


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Every section, of tiny nets and few scores."""
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(selection, "SIZES", (60, 4_200))
        patch.setattr(steps, "NETS", ("lenet",))
        patch.setattr(steps, "LARGE", {"cpu": (32, 4)})
        for name, value in (("NETS", {"cpu": ("lenet",)}), ("BATCH", 4), ("PRODUCT", {"cpu": 32})):
            patch.setattr(epoch, name, value)
        patch.setattr(start, "_whole", lambda *words: float(len(words)))
        bench(seconds=0.001, rounds=1, out=out)
    found = json.loads((out / "bench.json").read_text())
    rows = {(s["section"], r["group"], r["what"]): r["rounds"] for s in found["sections"] for r in s["rows"]}
    return SimpleNamespace(out=out, found=found, rows=rows, printed=printed.getvalue())


def test_sections_have_the_rows_that_the_docs_quote_and_are_shown(tiny):
    assert [section["section"] for section in tiny.found["sections"]] == [*command.SECTIONS]
    quoted = {"hidden / dense", "plain / hidden", "ours", "sort", "partition", "ours / copy", "ours / pass", "kornia",
              "torchvision, 0 workers", "Lightning's share", "share of the peak", "first training step"}  # fmt: skip
    assert quoted <= {what for _, _, what in tiny.rows}
    page = (tiny.out / "bench.md").read_text()
    for section in tiny.found["sections"]:
        assert f"## {section['section'].capitalize()}, cpu\n\n{section['about']}\n" in page
        assert f"{section['section'].capitalize()}, cpu" in tiny.printed
    assert min((tiny.out / name).stat().st_size for name in ("bench.svg", "bench.png")) > 10_000


def test_an_epoch_says_what_lightning_adds_and_how_busy_the_device_is(tiny):
    there = {what: rounds for (key, group, what), rounds in tiny.rows.items() if (key, group) == ("epoch", "lenet")}
    whole, does, peak = (there[what] for what in ("fit, a step", "fit", "matrix product"))
    added = tiny.rows["epoch", epoch.TINY, "fit - bare, a step"]
    assert there["Lightning's share"] == pytest.approx([100 * a / b for a, b in zip(added, whole, strict=True)])
    assert there["share of the peak"] == pytest.approx([100 * a / b for a, b in zip(does, peak, strict=True)])
    # LeNet's products on 4 images, twice backward but once to the first layer, whose images want no gradient.
    products = 2 * 4 * (2 * 3072 * 300 + 3 * 300 * 100 + 3 * 100 * 10)
    assert does == pytest.approx([products / ms / 1e6 for ms in whole])


def test_the_program_ends_at_its_first_training_step(monkeypatch):
    def end(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(sys, "argv", ["start.py", "cpu"])
    monkeypatch.setattr(start, "NET", "lenet")
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    with pytest.raises(SystemExit, match="0"):
        start.main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--only speed", "'speed'; sections are selection, steps, input, epoch, start"),
        ("--device tpu", "--device tpu is not there; there is cpu"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *arguments.split()])
    assert said in capsys.readouterr().err


def test_a_process_of_its_own_becomes_one_in_the_workers_environment(monkeypatch):
    became: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *given: became.append(given))
    monkeypatch.setattr(command, "bench", lambda **given: None)
    monkeypatch.setattr(sys, "argv", ["lit-hidden", "bench", "--only", "start"])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    main()
    ((python, words, found),) = became
    assert words == [python, "-m", "lit_hidden", "bench", "--only", "start"]
    assert found["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(os, "environ", found)
    main()  # is there already
    main(["bench"])  # called from Python: nobody's process is replaced
    assert len(became) == 1
