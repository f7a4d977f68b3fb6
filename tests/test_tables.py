"""Tables: rows read back, grouped over seeds, chosen, and compared with the authors' protocol."""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import committed
import pytest
from committed import PROVENANCE

from experiments._archive import contents
from experiments._published import Published, like_for_like, same_images
from lit_hidden.code import Spec, spec
from lit_hidden.engine.written import rows
from lit_hidden.report.tables import (
    ResultsError,
    cells,
    common,
    departures,
    describe,
    digits,
    filtered,
    in_tf32,
    number,
    order,
    read,
    reason,
    score,
    setting,
    varying,
)
from lit_hidden.results import Results
from lit_hidden.run import Run, vary

RESULTS = Path(__file__).parent.parent / "experiments" / "results"
GRID = vary([Run(net="conv2", data="digits", epochs=4, width=0.25)], density=[0.1, 0.5, None], seed=range(3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder: Path = committed.folder(tmp_path, "fig3", "quick", committed.results(GRID))
    return folder / "results.csv"


def test_rows_are_read_back_as_the_engine_made_them(tmp_path: Path) -> None:
    runs = [
        Run(density=0.3, scaled="authors", train_images=200, lr=1e-5, weight_decay=2**-15),
        Run(density=0.5, net="conv8", scaled=True, augment=False, width=0.125, seed=3, weight_seed=7),
        Run(optimizer="adam"),
    ]
    provenance = PROVENANCE | {"commit": "12345678e123", "device": None}  # as a number it would be infinite
    found = Results(
        (run, {"accuracy": 0.1 + 0.2, "loss": float("inf"), "edges": 7, "provenance": provenance}, None) for run in runs
    )
    found.rows[2][1]["swapped"] = 40  # a number that only a later run has comes after the provenance
    path = committed.folder(tmp_path, "fig3", "quick", found) / "results.csv"
    assert read(path) == rows(found)
    assert [describe(row) for row in read(path)] == runs


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*/runs.tar.gz")), ids=lambda path: "-".join(path.parts[-3:-1]))
def test_committed_runs_are_whole_and_of_committed_code(path: Path) -> None:
    results = [json.loads(files["result.json"]) for files in contents(path).values()]
    assert not any(result["provenance"]["commit"].endswith("-dirty") for result in results)


def test_committed_tables_are_of_committed_code() -> None:
    for path in RESULTS.glob("*/*/results.csv"):
        with path.open() as file:
            commits = [row["commit"] for row in csv.DictReader(file)]
        assert all(commits), path
        assert not any(commit.endswith("-dirty") for commit in commits), path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: None, "missing, .*No such file"),
        (lambda t: b"\xff\xfe\x00", "damaged in line 2: UnicodeDecodeError"),
        (lambda t: "", "damaged: it has no run"),
        (lambda t: t.replace("accuracy", "precisely", 1), "line 2: KeyError.*accuracy"),
        (lambda t: t[:-30], "line 10: .*a line has more or fewer cells"),
        (lambda t: t.replace("conv2", "conv4", 1), "line 2: .*the hash [0-9a-f]{12} stands for another run"),
        (lambda t: t.replace(",72.0,", ",many,", 1), "line 2: .*'many'"),
        (lambda t: "run,accuracy,seconds,callbacks\nabc,1,1,Lesion(3)\n", r"no callbacks: 'Lesion\(3\)'"),
    ],
)
def test_a_missing_or_damaged_table_is_refused(path: Path, change: Callable[[str], Any], message: str) -> None:
    changed = change(path.read_text())
    path.unlink() if changed is None else path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(ResultsError, match=rf"results\.csv is .*{message}"):
        read(path)


def test_numbers_and_words_are_told_apart() -> None:
    texts = ("", "none", "True", "false", "7", "0.50", "1e-05", "conv4", "32-true")
    assert [number(text) for text in texts] == [None, None, True, False, 7, 0.5, 1e-5, "conv4", "32-true"]


BASE = Run(density=0.5, net="conv2", data="digits", width=0.25, epochs=4)
OWN = Spec("mine.gone.Idea", (("layers", (1, 2)), ("rate", 0.5)), 2)  # of code that is not here
TRACE, LESION = spec("trace.Trace", updates=9), spec("lesion.Lesion", epoch=2)
CHAIN = [
    BASE,
    replace(BASE, callbacks=(LESION, TRACE)),
    replace(BASE, callbacks=(LESION,), seed=1),
    replace(BASE, callbacks=(spec("lesion.Lesion", epoch=3, of="edges"), OWN)),
    replace(BASE, callbacks=(LESION,)).then(epochs=0, callbacks=(spec("rdm.RDM"), TRACE)),
    replace(BASE, masker="mine.gone.Top", seed=1).then(density=0.1),
]


def test_callbacks_and_runs_before_are_read_back_from_a_table(tmp_path: Path) -> None:
    table = read(committed.folder(tmp_path, "mine", "quick", committed.results(CHAIN)) / "results.csv")
    assert [describe(row) for row in table] == CHAIN
    assert [describe(row).to_json() for row in table] == [run.to_json() for run in CHAIN]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("Lesion.epoch=2", [1, 2]),
        ("callbacks.lesion.Lesion.of=units", [1, 2]),  # which is the default
        ("Idea.layers=(1, 2)", [3]),
        ("callbacks=none", [0, 5]),
        ("after=none", [0, 1, 2, 3]),
        ("masker=mine.gone.Top", [5]),
        ("Lesion.epoch=7", "no run has Lesion.epoch=7; there are Lesion.epoch=2, 3"),
        ("Leson.epoch=2", "no run has Leson.epoch=2; there are Leson.epoch="),
    ],
)
def test_runs_and_those_of_rows_are_chosen_by_options_of_callbacks(where: str, left: list[int] | str) -> None:
    for there in (CHAIN, [describe(row) for row in rows(committed.results(CHAIN))]):
        if isinstance(left, str):
            with pytest.raises(ResultsError, match=f"^{re.escape(left)}$"):
                filtered(there, [where])
        else:
            assert filtered(there, [where]) == [there[i] for i in left]


def test_cells_of_callbacks_differ_by_what_they_do_and_not_by_what_they_record() -> None:
    found = cells(rows(committed.results(CHAIN)))
    assert sorted([row["seed"] for row in cell.rows] for cell in found) == [[0], [0], [0], [0, 1], [1]]
    runs = [run.resolved for run in CHAIN]
    assert varying(runs) == ["density", "epochs", "callbacks", "after", "masker"]
    assert varying(runs[1:3]) == []
    assert common(runs[1:3])["callbacks"] == "Lesion(epoch=2)"
    assert "callbacks" not in common([runs[0], runs[4]]), "what only records is not told"
    told = departures([runs[3], runs[5]])
    assert told["callbacks"] == "with Lesion(epoch=3,of=edges) and Idea(layers=(1, 2),rate=0.5)"
    assert told["after"] == f"after {runs[5].after.cell}" == f"after {setting(runs[5], 'after')}"
    assert told["masker"] == "masker mine.gone.Top"
    assert departures([replace(BASE, task="mine.Task", callbacks=(TRACE,)).resolved])["task"] == "task mine.Task"


def test_values_sort_with_nothing_first_and_numbers_in_names_by_size() -> None:
    mixed = ["resnet101", None, 0.5, "resnet18", True, "conv4", 0.1]
    assert sorted(mixed, key=order) == [None, 0.1, 0.5, True, "conv4", "resnet18", "resnet101"]


def test_cells_are_means_over_seeds_that_train_whatever_was_recorded(path: Path) -> None:
    found = cells(read(path))
    assert [(cell.run.method, cell.run.density, cell.mean()) for cell in found] == [
        ("dense", None, 88.5), ("edge_popup", 0.1, 72.5), ("edge_popup", 0.5, 80.5)
    ]  # fmt: skip
    assert found[1].mean("loss") is None
    failing = [row | {"failed": row["seed"] == 1} for row in read(path)]
    assert cells(failing)[1].values("accuracy") == [72.0, 73.0]
    assert cells(row | {"failed": True} for row in failing)[1].mean() is None
    trace = spec("trace.Trace", updates=9)
    traced = [Run(density=0.5, data="digits", callbacks=(trace,)), Run(density=0.5, data="digits", seed=1)]
    assert len(cells(rows(committed.results(traced)))) == 1


def test_fields_that_differ_leave_out_seeds_and_each_methods_own_recipe() -> None:
    traced = ((), (spec("trace.Trace"),))
    grid = [Run(density=d, seed=s, callbacks=traced[s]).resolved for d in (0.1, 0.5) for s in (0, 1)]
    dense = [Run().resolved, Run(optimizer="adam").resolved]
    random = Run(density=0.5, method="random").resolved
    assert varying(grid) == ["density"]
    # Their rates, batches and schedules differ too, and a random mask has one epoch: that is what they are.
    assert varying([*grid, *dense, random]) == ["method", "optimizer", "distribution", "density"]
    assert varying([Run(lr=0.5).resolved, Run().resolved]) == ["lr"]


def test_fields_in_common_are_told_where_they_say_something() -> None:
    assert common([run.resolved for run in GRID]) == {"data": "digits", "net": "conv2", "width": 0.25, "epochs": 4}
    told = common([Run(density=0.5, batch_size=32, precision="bf16-mixed").resolved])
    assert (told["density"], told["batch_size"], told["precision"]) == (0.5, 32, "bf16-mixed")
    assert not {"lr", "held_out", "seed"} & told.keys()


IMAGENET = Run(net="resnet50", data="imagenet", density=0.3)
ZHOU = {"lr": 50, "method": "supermask", "density": 0.5}
BATCHES = {"net": "resnet50", "data": "imagenet", "batch_size": 32}
PROPORTION = {"batch_size": "batches of 32, rates in proportion"}


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([Run(optimizer="adam")], {}),
        ([Run(density=0.3, scaled=True)], {}),
        ([Run(density=0.5, method="random")], {}),
        ([Run(net="lenet", data="mnist")], {}),
        ([Run(net="mine:net", data="digits")], {}),  # nets of your own have no data of the authors
        ([replace(IMAGENET, augment=True)], {}),
        (
            [Run(density=0.5, width=0.25, epochs=5, train_images=10_000, batch_size=32, lr=0.2, data="digits")],
            {
                "width": "width x0.25", "epochs": "5 of 100 epochs", "train_images": "10000 training images",
                "lr": "lr 0.2 instead of 0.1", "batch_size": "batches of 32",
                "data": "scikit-learn's digits for CIFAR-10",
            },
        ),
        (  # several runs
            [
                *vary([Run(density=0.5, epochs=5, lr=0.2), Run(epochs=3), Run(optimizer="adam")], width=[1, 0.5]),
                Run(density=0.5, method="random", width=0.25),
                Run(lr=0.5, batch_size=32),
            ],
            {
                "width": "width x0.5, 0.25", "epochs": "5, 3 of 100 epochs",
                "lr": "lr 0.2, 0.5 instead of 0.1, 0.01", "batch_size": "batches of 32",
            },
        ),
        (
            [Run(net=net, data="digits") for net in ("conv4", "resnet18")],
            {"data": "scikit-learn's digits for CIFAR-10, ImageNet"},
        ),
        (
            [replace(IMAGENET, data="imagenette", image_size=160, augment="square")],
            {"data": "Imagenette for ImageNet", "image_size": "160 pixels", "augment": "augment square"},
        ),
        (
            [replace(IMAGENET, classes="first-10", images_per_class=7, augment=False, precision="bf16-mixed",
                     held_out=9, epochs=90, warmup_epochs=1)],
            {
                "classes": "10 classes", "images_per_class": "7 images per class", "augment": "augment off",
                "precision": "precision bf16-mixed instead of 32-true", "held_out": "held_out 9 instead of 0",
                "epochs": "90 of 100 epochs", "warmup_epochs": "1 of 5 warm-up epochs",
            },
        ),
        ([Run(**BATCHES, lr=0.1)], {"lr": "lr 0.1 instead of 0.256", "batch_size": "batches of 32"}),
        ([Run(**BATCHES, lr=0.032)], PROPORTION),
        ([Run(**BATCHES, lr=0.032), Run(**BATCHES | ZHOU), Run(**BATCHES, method="random", density=0.5)], PROPORTION),
        # Nothing is trained with what is set for a random mask.
        ([replace(IMAGENET, method="random", warmup_epochs=1, lr=0.2, epochs=10)], {}),
        ([Run(density=0.5, method="random", batch_size=32)], {"batch_size": "batches of 32"}),
    ],
)  # fmt: skip
def test_departures_from_the_authors_protocol_are_told(runs: list[Run], told: dict[str, str]) -> None:
    assert departures(run.resolved for run in runs) == told
    for run in runs[:1]:
        assert same_images(run.resolved) == (not told.keys() & {"data", "classes", "images_per_class", "image_size"})
        for source in ("authors", "torchvision"):  # by its own protocol
            point = Published(source, run.net, "dense", 70.0, data=run.data)
            assert like_for_like(point, run.resolved) == (source == "authors" and not departures([run.resolved]))


def test_what_runs_of_float32_computed_in_tf32_is_said_once() -> None:
    on_gpu, on_cpu = {"precision": "32-true", "tf32": "convolutions"}, {"precision": "32-true", "tf32": None}
    rounded = on_gpu | {"precision": "bf16-mixed"}  # which says itself that it rounds
    assert in_tf32([on_gpu, on_gpu, rounded]) == ["convolutions in TF32"]
    assert in_tf32([on_gpu, on_cpu, on_gpu]) == ["convolutions in TF32 in 2 of 3 runs"]


@pytest.mark.parametrize(
    ("number", "told"),
    [(3622.3, "3,620"), (-21485, "-21,500"), (84.54, "84.5"), (-0.0032064, "-0.00321"), (80.0, "80"), (999.7, "1,000"),
     (0, "0"), (1.2e6, "1,200,000")],
)  # fmt: skip
def test_numbers_for_people_have_three_digits_and_no_exponent(number: float, told: str) -> None:
    assert digits(number) == told


def test_the_reason_of_a_verdict_names_cells_in_which_seeds_fail_once() -> None:
    told = reason("it holds", {"conv8-k10": (1, 3), "conv2-k5": [2, 4]})
    assert told == "it holds; conv8-k10: 1 of 3 seeds fail; conv2-k5: 2 of 4 seeds fail"
    assert reason(told, {"conv8-k10": (1, 3)}) == told


def test_a_score_is_told_in_its_unit_and_divergence_as_such() -> None:
    assert score({"accuracy": 97.123, "loss": 0.1}) == "97.1% test accuracy"
    assert score({"metric": "error", "unit": "degrees", "error": 12.34}) == "12.3 degrees test error"
    assert score({"accuracy": 10.0, "loss": math.nan}) == "diverged, its test loss is nan"
