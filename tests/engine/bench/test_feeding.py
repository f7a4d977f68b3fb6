"""The bench of loaders and training: what it measures and writes, never how fast anything is."""

import io
import json
import multiprocessing
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lit_hidden.data import ImageNetData
from lit_hidden.engine.bench import feeding, generate, page
from lit_hidden.engine.bench.command import bench
from lit_hidden.engine.bench.feeding import Feed, Loader, sets
from lit_hidden.engine.bench.rows import written
from lit_hidden.engine.bench.training import training
from lit_hidden.engine.reproduce import ReproduceError

made = runpy.run_path(str(Path(__file__).parents[2] / "data" / "pictures.py"))
plant, tree = made["plant"], made["tree"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

ROUNDS = 3
OF_FILES = [
    ("loader, 2 workers", "images/s", ROUNDS),
    ("loader, decoded cache", "images/s", ROUNDS),
    ("training, hidden", "images/s", ROUNDS),
    ("training, dense", "images/s", ROUNDS),
    ("first batch, 2 workers", "ms", ROUNDS),
    ("first batch, decoded cache", "ms", ROUNDS),
    ("decoding into a cache, once", "images/s", 1),
    ("2 workers / hidden", "ratio", ROUNDS),
    ("2 workers / dense", "ratio", ROUNDS),
    ("decoded cache / hidden", "ratio", ROUNDS),
    ("decoded cache / dense", "ratio", ROUNDS),
]
OF_MEMORY = [
    ("loader, memory", "images/s", ROUNDS),
    ("training, hidden", "images/s", ROUNDS),
    ("training, dense", "images/s", ROUNDS),
    ("first batch, memory", "ms", ROUNDS),
    ("memory / hidden", "ratio", ROUNDS),
    ("memory / dense", "ratio", ROUNDS),
]


def measure(patch: pytest.MonkeyPatch, folder: Path, **arguments: Any) -> SimpleNamespace:
    """Run the bench, tiny; give what it wrote and printed, and what was left of its own folder."""
    for room, name, value in (
        (generate, "FILES", 4), (generate, "CLASSES", 20), (feeding, "CACHED", 16), (feeding, "cores", lambda: 2),
        (page, "cores", lambda: 2),
    ):  # fmt: skip
        patch.setattr(room, name, value)
    patch.setattr(ImageNetData, "count", 20)
    patch.setenv("TMPDIR", str(folder))
    patch.setattr("tempfile.tempdir", None)
    others = set(multiprocessing.active_children())  # of tests before
    small = {
        "only": "feeding",
        "net": "lenet",
        "batch_size": 4,
        "seconds": 0.005,
        "rounds": ROUNDS,
        "out": folder / "out",
    }
    console = Console(file=io.StringIO(), width=160)
    bench(**small | arguments, console=console)
    return SimpleNamespace(
        found=json.loads((folder / "out" / "bench.json").read_text()),
        page=(folder / "out" / "bench.md").read_text(),
        printed=console.file.getvalue(),  # type: ignore[attr-defined]
        left=[path.name for path in folder.glob("lit-hidden-bench-*")],
        processes=[process for process in multiprocessing.active_children() if process not in others],
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The bench from a bare checkout: generated files and digits."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("generated")
        return measure(patch, folder, image_size=16, data_dir=folder / "nothing")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The bench on a set that is there, of 100 classes."""
    folder = tmp_path_factory.mktemp("real")
    plant(folder / "imagenet100", tree([f"n{i:02d}" for i in range(100)], train=2, val=1, size=(24, 20)))
    before = sorted(folder.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        done = measure(patch, folder, data="imagenet100", data_dir=folder, image_size=16)
    done.root, done.new = folder, {path.relative_to(folder).parts[0] for path in {*folder.rglob("*")} - {*before}}
    return done


def rows(section: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in section["rows"]}


# --- what is measured ------------------------------------------------------------------------------------


def test_a_bare_checkout_measures_generated_files_and_the_digits(generated):
    files, digits = generated.found["sections"]
    assert files["title"] == "Loader and training: generated files like ImageNet's"
    assert digits["title"] == "Loader and training: digits"
    shape = [[(row["what"], row["unit"], len(row["rounds"])) for row in part["rows"]] for part in (files, digits)]
    assert shape == [OF_FILES, OF_MEMORY]
    assert all(number > 0 for part in (files, digits) for row in part["rows"] for number in row["rounds"])


def test_a_set_that_is_there_is_measured_alone_and_left_as_it_was(real):
    (section,) = real.found["sections"]
    assert section["title"] == "Loader and training: imagenet100"
    assert [(row["what"], row["unit"], len(row["rounds"])) for row in section["rows"]] == OF_FILES
    assert section["about"] == (
        f"Files of {real.root / 'imagenet100'}. The cache holds 16 training and 8 test images. "
        "Training: lenet, hidden at density 0.3 and dense, in float32: forward, backward and update, on one batch of 4 "
        "images of 16x16 pixels that is on the device. Medians of 3 rounds, 0.005 s a measurement. "
        "Loaders and training share the CPU here; each was measured alone."
    )
    assert real.new == {"out"}  # no cache among the data


def test_cifar10_is_measured_too_if_it_is_there(tmp_path, monkeypatch):
    named: list[str] = []
    monkeypatch.setattr(feeding, "data_module", lambda name, **_: named.append(name) or SimpleNamespace(**quiet))
    quiet = {"prepare_data": lambda: None, "setup": lambda stage: None}
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    (place / "data_batch_1.bin").write_bytes(b"")
    sets(None, tmp_path, tmp_path, None, None, torch.device("cpu"))
    assert named == ["imagenet", "digits", "cifar10"]


def test_batches_are_as_many_images_as_asked_for_and_by_default_as_the_device_can_take():
    def sizes(device: str, given: int | None = None) -> list[int]:
        return [each.batch_size for each in sets(None, Path("no"), Path("no"), 16, given, torch.device(device))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_hidden.data.digits.DigitsData.setup", lambda self, stage: None)
        assert [sizes("cpu"), sizes("cuda"), sizes("cpu", 5)] == [[8, 128], [256, 128], [5, 5]]


def test_nothing_is_left_behind(generated, real):
    for done in (generated, real):
        assert (done.left, done.processes) == ([], [])


def test_training_trains_the_scores_of_the_hidden_net_and_the_weights_of_the_dense():
    data = ImageNetData("none", batch_size=4, image_size=16)
    feed = Feed(data, "lenet", torch.device("cpu"))
    batch = (torch.randn(4, 3, 16, 16), torch.arange(4))
    changed = {}
    for name, net in feed.modules.items():
        before = {key: value.clone() for key, value in net.net.state_dict().items()}
        steps = training(net, batch)
        assert next(steps) is batch
        next(steps)
        after = net.net.state_dict()
        changed[name] = {key.split(".")[-1] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"hidden": {"scores"}, "dense": {"weight"}}


@pytest.mark.parametrize(
    ("workers", "batches", "turns"),
    [
        (0, [4, 4, 2], [[4, 4, 2], [4, 4, 2]]),
        (2, [4, 4, 4, 2], [[8, 6], [8, 6]]),
        (2, [4, 4, 2], [[8, 2], [8, 2]]),  # an epoch's end is the end of a turn: nothing is decoded any more
        (16, [4, 4, 2], [[10], [10]]),
    ],
)
def test_batches_of_workers_count_turn_by_turn_whatever_the_epoch(workers, batches, turns):
    epochs: list[int] = []

    class Epochs(list):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)

    loader = Loader(SimpleNamespace(train_dataloader=lambda: pairs), "", "", workers)
    pairs = Epochs((torch.zeros(count, 3, 2, 2), torch.zeros(count)) for count in batches)
    found = loader._turns(7)
    assert [[len(next(found)[0]) for _ in turn] for turn in turns] == turns
    assert epochs == [7, 8]  # each round draws others
    assert len(loader.firsts) == 1


# --- what is said of it ----------------------------------------------------------------------------------


def test_medians_and_ratios_follow_from_the_rounds(generated, real):
    for section in generated.found["sections"] + real.found["sections"]:
        there = rows(section)
        for row in section["rows"]:
            numbers = np.sort(row["rounds"])
            assert (row["min"], row["max"]) == (numbers[0], numbers[-1])
            assert row["median"] == numbers[len(numbers) // 2]  # of an odd number
        for what, row in there.items():
            if row["unit"] == "ratio":
                ours, theirs = what.split(" / ")
                x, y = there[f"loader, {ours}"]["rounds"], there[f"training, {theirs}"]["rounds"]
                assert row["rounds"] == [a / b for a, b in zip(x, y, strict=True)]


def test_the_page_and_the_terminal_show_the_numbers_of_the_json(generated, real):
    for done in (generated, real):
        recorded = [row for section in done.found["sections"] for row in section["rows"]]
        shown = [line.strip("| ").split(" | ") for line in done.page.splitlines() if line.startswith("| ")]
        shown = [cells for cells in shown if cells[0] not in ("what", "---")]
        for cells, row in zip(shown, recorded, strict=True):
            assert (cells[0], cells[4]) == (row["what"], row["unit"])
            for cell, number in zip(cells[1:4], (row["median"], row["min"], row["max"]), strict=True):
                assert float(cell.replace(",", "")) == pytest.approx(number, rel=0.006)  # three digits of it
            assert re.search(r"\s+".join(map(re.escape, cells)), done.printed)
        for section in done.found["sections"]:
            said = " ".join(done.printed.split())
            assert f"## {section['title']}\n\n{section['about']}\n" in done.page
            for line in (section["title"], section["about"], *section["findings"]):
                assert line in done.page
                assert line in said


@pytest.mark.parametrize(
    ("gives", "takes", "workers", "told"),
    [
        (200.0, 199.0, 2, "the loader keeps up: 2 workers decode 200 images/s, training takes 199 (dense)"),
        (9.5, 1990.0, 2, "the loader starves the device: 2 workers decode 9.5 images/s, training takes 1,990 (dense)"),
        (
            4000.0, 100.0, 0,
            "the loader keeps up: memory gives 4,000 images/s, training takes 100 (dense); made in the training "
            "process, batches add 2.5% to its time",
        ),
    ],
)  # fmt: skip
def test_one_sentence_says_who_waits_for_whom(gives, takes, workers, told):
    loader = Loader(SimpleNamespace(), "", "2 workers decode" if workers else "memory gives", workers)
    assert loader.finding(gives, takes, "dense") == told


def test_the_findings_compare_with_the_faster_net(generated, real):
    for section in generated.found["sections"] + real.found["sections"]:
        there = rows(section)
        names = [what.removeprefix("loader, ") for what in there if what.startswith("loader, ")]
        assert len(section["findings"]) == len(names)
        nets = {net: there[f"training, {net}"]["median"] for net in ("hidden", "dense")}
        fastest = max(nets, key=lambda net: nets[net])
        for name, told in zip(names, section["findings"], strict=True):
            gives = there[f"loader, {name}"]["median"]
            assert told.startswith(
                "the loader keeps up: " if gives >= nets[fastest] else "the loader starves the device: "
            )
            assert f" {written(gives)} images/s, training takes {written(nets[fastest])} ({fastest})" in told


def test_the_machine_and_the_command_are_written_down(generated, real):
    machine = generated.found["machine"]
    assert machine.keys() == {
        "cpu", "cores", "threads", "workers", "device", "torch", "python", "load", "environment", "said"
    }  # fmt: skip
    assert (machine["cores"], machine["workers"], machine["threads"]) == (2, 2, torch.get_num_threads())
    assert machine["torch"] == torch.__version__
    for done in (generated, real):
        assert done.found["machine"]["said"] in done.page
        assert f"`{done.found['command']}`, {done.found['finished']}." in done.page
        assert done.printed.startswith(done.found["machine"]["said"])
    assert (
        generated.found["command"]
        == "lit-hidden bench --only feeding --net lenet --image-size 16 --batch-size 4 --seconds 0.005"
    )
    assert real.found["command"] == (
        f"lit-hidden bench --only feeding --data imagenet100 --data-dir {real.root} --net lenet --image-size 16 "
        "--batch-size 4 --seconds 0.005"
    )


@pytest.mark.parametrize(("load", "more"), [(1.0, ""), (1.01, " (busy: of a quiet machine expect more)")])
def test_a_busy_machine_is_said_to_be(load, more, monkeypatch):
    monkeypatch.setattr(page, "cores", lambda: 2)
    monkeypatch.setattr(page, "as_workers", lambda: True)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 9.0, 9.0))
    assert page.machine(torch.device("cpu"))["said"].endswith(f"; load {load} at the start{more}")


# --- what is generated -----------------------------------------------------------------------------------


def test_the_generated_tree_is_what_is_said_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "FILES", 8)
    told = generate.generate(tmp_path, 1500)
    data = ImageNetData(str(tmp_path), cache_gib=0)
    assert data.tree.folder == tmp_path
    assert (len(data.tree.classes), data.sizes) == (1000, (2000, 1000))
    assert data.tree.train.labels.bincount().unique().tolist() == [2]
    files = sorted((tmp_path / "files").iterdir())
    links = {data.tree.train.path(i).resolve() for i in range(2000)}
    assert links == {path.resolve() for path in files}
    sides = []
    for path in files:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sides.append(image.size)
    assert sides == [(500, 375)] * 3 + [(375, 500)] + [(500, 375)] * 3 + [(375, 500)]
    mean = sum(path.stat().st_size for path in files) / 8 / 1000
    assert 80 < mean < 130
    assert told == (
        f"8 JPEG files of 500x375 pixels, every fourth upright, {mean:.0f} kB on average: noise with a photograph's "
        "spectrum, under 2,000 names in 1,000 classes."
    )


def test_the_bench_says_what_it_generated(generated):
    files, _ = generated.found["sections"]
    # What two workers decode at 500 images a second, and four batches each: 2 * (3 + 16), divided by 20 rounded up.
    assert re.match(
        r"4 JPEG files of 500x375 pixels, every fourth upright, \d+ kB on average: noise with a photograph's spectrum, "
        r"under 40 names in 20 classes\. The cache holds 16 training and 8 test images\. ",
        files["about"],
    )


def test_a_picture_is_fine_and_faint_and_its_own():
    one, again, other = (np.asarray(generate.picture(n, 64, 48)).astype(float) for n in (1, 1, 2))
    assert one.shape == (48, 64, 3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    light, *colours = one.std((0, 1))
    assert light > 2 * max(colours)
    power = np.abs(np.fft.rfft2(one[:, :, 0] - one[:, :, 0].mean())) ** 2
    assert power[1:4, 1:4].mean() > 100 * power[20:24, 20:24].mean()


def test_a_damaged_image_ends_the_bench_with_its_name(tmp_path, monkeypatch):
    plant(tmp_path / "imagenet100", tree([f"n{i:02d}" for i in range(100)], train=1, val=1, size=(24, 20)))
    broken = plant(tmp_path, {"imagenet100/val/n00/n00_0.JPEG": "no image"}) / "imagenet100/val/n00/n00_0.JPEG"
    with pytest.raises(ReproduceError, match=re.escape(f"{broken} cannot be decoded")):
        measure(monkeypatch, tmp_path, data="imagenet100", data_dir=tmp_path, image_size=16)
