"""The table in the terminal: what it takes, what it shows at each width, how it sorts, and what it refuses."""

import csv
import io
import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lit_hidden.cli import main
from lit_hidden.code import Spec, spec
from lit_hidden.engine.compare import compare
from lit_hidden.engine.store import Store
from lit_hidden.report.tables import ResultsError
from lit_hidden.run import Run, vary

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "committed.py"))
leave = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))["leave"]
EXPERIMENT = '''
"""Mine: a grid."""
from lit_hidden.run import Run, vary


def runs(preset):
    base = Run(data="digits", epochs=4, width=0.125)
    grid = vary([base], net=["conv2", "conv4"], density=[0.1, 0.5], distribution=["kaiming_normal", "signed_constant"])
    grid += vary([base], net=["conv2", "conv4"], optimizer=["sgd", "adam"])
    return vary(grid, seed=range(3))


CLAIMS = []


def draw(results, figure):
    pass
'''
BASE = Run(data="digits", epochs=4, width=0.125)
GRID = vary(
    vary([BASE], net=["conv2", "conv4"], density=[0.1, 0.5], distribution=["kaiming_normal", "signed_constant"])
    + vary([BASE], net=["conv2", "conv4"], optimizer=["sgd", "adam"]),
    seed=range(3),
)
NUMBERS = {"top5": 99.5, "loss": 0.01234, "train_accuracy": 91.0, "steps": 48}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one experiment, `mine`, to stand in."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def committed(here: Path) -> Path:
    folder: Path = made["folder"](here / "experiments/results", "mine", "quick", made["results"](GRID, **NUMBERS))
    return folder


def finish(runs: list[Run], root: Path) -> None:
    """Leave in `root` what the engine leaves of runs that are done."""
    for run, result in made["results"](runs, **NUMBERS):
        leave(Store(root), run, **result)


def shown(width: int = 80, **arguments: Any) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    compare("mine", console=console, **arguments)
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def body(lines: list[str]) -> list[list[str]]:
    """The table's lines, in words."""
    start = next(i for i, line in enumerate(lines) if line.startswith("──")) + 1
    return [line.split() for line in lines[start : lines.index("", start)]]


# --- what it takes ------------------------------------------------------------------------------------------


def test_runs_that_are_done_are_shown_and_those_missing_counted(here: Path, committed: Path) -> None:
    finish(GRID[:12], here / "runs")
    assert "12 of 36 runs are done, in runs/; make reproduce-mine PRESET=quick trains the rest" in shown()
    finish(GRID[12:], here / "runs")
    assert "36 of 36 runs are done, in runs/" in shown()


def test_where_no_run_is_done_committed_results_are_shown(committed: Path) -> None:
    line = "36 of 36 runs, from experiments/results/mine/quick/results.csv (runs/ has none)"
    assert line in shown()
    assert body(shown()) == body(shown(runs_dir="nowhere"))


def test_runs_and_committed_results_give_one_table(here: Path) -> None:
    finish(GRID, here / "runs")
    made["folder"](here / "experiments/results", "mine", "quick", Store("runs").results(GRID))
    assert body(shown(200, runs_dir="nowhere")) == body(shown(200))


def test_committed_runs_that_the_grid_has_no_more_are_counted_apart(here: Path) -> None:
    runs = [*GRID[:3], *vary([Run(data="digits", epochs=9)], seed=range(2))]
    made["folder"](here / "experiments/results", "mine", "quick", made["results"](runs))
    (line,) = (line for line in shown() if line.startswith("3 of 36"))
    assert line.startswith("3 of 36 runs, and 2 of an earlier grid, from ")


# --- what it shows ------------------------------------------------------------------------------------------


def test_only_fields_that_differ_are_columns_and_the_rest_is_said_once(committed: Path) -> None:
    lines = shown(200)
    assert "all of them: data=digits, width=0.125, epochs=4" in lines
    heading = next(line for line in lines if line.startswith("net ")).split()
    assert heading == [
        "net", "method", "optimizer", "distribution", "density", "accuracy", "±95%", "min", "max", "n", "top5", "loss",
        "train_accuracy", "seconds",
    ]  # fmt: skip


def test_a_cell_is_the_mean_over_seeds_with_its_interval_range_and_count(committed: Path) -> None:
    # 72, 72.5 and 73: Student's t of 2 degrees is 4.3027, the standard error 0.5 / sqrt(3)
    assert " ".join(body(shown(200))[2]) == (
        "conv2 edge_popup sgd kaiming_normal 0.1 72.50 1.24 72.00 73.00 3 99.50 0.0123 91.00 90"
    )


def test_by_seed_every_run_has_a_line(committed: Path) -> None:
    lines = body(shown(200, by_seed=True))
    assert len(lines) == 36
    assert " ".join(lines[7]) == "conv2 edge_popup sgd kaiming_normal 0.1 1 72.50 99.50 0.0123 91.00 90"


def test_by_seed_a_seed_that_was_set_alone_is_shown(here: Path) -> None:
    runs = [Run(data="digits", density=0.5, seed=s, weight_seed=7) for s in range(3)]
    made["folder"](here / "experiments/results", "mine", "quick", made["results"](runs))
    assert "seed  weight_seed  accuracy  seconds" in shown(by_seed=True)


def failing(run: Run) -> float:
    """As `committed.accuracy`, but Conv2 at 10% stays at chance: with all seeds on constants, with one on normals."""
    stuck = run.net == "conv2" and run.density == 0.1 and (run.distribution == "signed_constant" or run.seed == 1)
    value: float = 10.0 if stuck else made["accuracy"](run)
    return value


def test_seeds_that_fail_are_counted_and_means_are_of_those_that_train(here: Path) -> None:
    made["folder"](here / "experiments/results", "mine", "quick", made["results"](GRID, failing))
    lines = shown(120)
    rows = [" ".join(row) for row in body(lines)]
    # 72 and 73: Student's t of 1 degree is 12.7062, the standard error 0.5.
    assert rows[2] == "conv2 edge_popup sgd kaiming_normal 0.1 72.50 6.35 72.00 73.00 2 1/3 90"
    assert rows[3] == "conv2 edge_popup sgd kaiming_normal 0.5 80.50 1.24 80.00 81.00 3 0/3 90"
    assert rows[4] == "conv2 edge_popup sgd signed_constant 0.1 - - - - 0 3/3 -"
    assert "Accuracy: mean over the n seeds that train, ± half its 95% interval. Other numbers: their means." in lines
    by_seed = [" ".join(row) for row in body(shown(120, by_seed=True, where=["net=conv2", "density=0.1"]))]
    assert by_seed[1:4] == [
        "kaiming_normal 1 10.00 True 90", "kaiming_normal 2 73.00 False 90", "signed_constant 0 10.00 True 90"
    ]  # fmt: skip


def test_seeds_that_diverged_are_counted_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = made["results"](GRID, **NUMBERS)
    run, result = next((run, result) for run, result in results if run.density == 0.1)
    result["diverged"] = 3
    made["folder"](here / "experiments/results", "mine", "quick", results)
    same = [f"net={run.net}", "density=0.1", f"distribution={run.distribution}"]
    assert sum(line.endswith(" diverged") or " diverged " in line for line in shown(160, where=same)) == 1
    shown(160, where=same, as_csv=True)
    (cell,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (cell["n"], cell["failed"], cell["diverged"]) == ("2", "1/3", "1/3")
    shown(160, where=same, by_seed=True, as_csv=True)
    told = {row["seed"]: row["diverged"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert told == {str(seed): "3" if seed == run.seed else "" for seed in range(3)}


def test_the_best_epoch_stands_beside_the_last_and_is_said_to_be_chosen_on_the_test_set(here: Path) -> None:
    # `leave` writes 10 + e% after epoch e of 4, and the accuracy at the end.
    runs = [Run(data="digits", epochs=4, density=0.5, seed=s) for s in range(2)]
    for run, accuracy in zip(runs, (80.0, 12.0), strict=True):
        leave(Store(here / "runs"), run, accuracy=accuracy)
    (here / "experiments" / "mine.py").write_text(
        EXPERIMENT.partition("def runs")[0] + "def runs(preset):\n"
        "    return [Run(data='digits', epochs=4, density=0.5, seed=s) for s in range(2)]\n\n"
        "CLAIMS = []\n\ndef draw(results, figure):\n    pass\n"
    )
    lines = shown(120, by_seed=True)
    assert body(lines) == [["0", "80.00", "False", "80.00"], ["1", "12.00", "True", "13.00"]]
    assert "seed  accuracy  failed  best epoch" in lines
    said = "Best epoch (chosen on the test set): the largest accuracy after any; nothing is judged by it."
    assert said in lines
    assert " ".join(body(shown(120))[0]) == "80.00 - 80.00 80.00 1 1/2 80.00"


def test_one_seed_has_no_interval(here: Path) -> None:
    made["folder"](here / "experiments/results", "mine", "quick", made["results"](GRID[::3]))
    assert " ".join(body(shown(120))[2]) == "conv2 edge_popup sgd kaiming_normal 0.1 72.00 - 72.00 72.00 1 90"


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("by_seed", [False, True])
def test_at_any_width_no_line_is_broken_and_what_is_left_out_is_named(
    committed: Path, width: int, by_seed: bool
) -> None:
    lines = shown(width, by_seed=by_seed)
    assert all(len(line) <= width or line.startswith("36 of 36") for line in lines)
    assert len(body(lines)) == (36 if by_seed else 12)
    assert all(row[0].startswith("conv") for row in body(lines))
    told = " ".join(lines).partition("No room for ")[2]
    left_out = [name for name in ("seconds", "train_accuracy", "loss") if name in told]
    heading = next(line for line in lines if line.startswith("net "))
    assert {"accuracy"} <= set(heading.split())
    assert [name for name in ("seconds", "train_accuracy", "loss") if name not in heading] == left_out
    assert (width < 200) == bool(left_out)


def test_columns_named_are_shown_whatever_the_width(committed: Path) -> None:
    lines = shown(40, columns=["net", "density", "steps", "loss", "pm"], where=["method=edge_popup"])
    assert "net    density  steps    loss  ±95%" in lines
    assert ["conv4", "0.5", "48", "0.0123", "1.24"] in body(lines)


def test_too_many_columns_for_the_width_fold_and_lose_nothing(committed: Path) -> None:
    text = "".join("".join(shown(40, columns=["net", "distribution", "accuracy", "train_accuracy", "method"])).split())
    assert "accurac" in text
    assert "edge_p" in text


# --- sorting and choosing -----------------------------------------------------------------------------------


def test_it_sorts_by_fields_and_numbers_either_way(committed: Path) -> None:
    accuracies = [float(line[5]) for line in body(shown(sort="accuracy"))]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == 72.5
    backwards = [float(line[5]) for line in body(shown(sort="accuracy", reverse=True))]
    assert backwards == accuracies[::-1]
    assert [line[4] for line in body(shown(sort="density"))] == ["-"] * 4 + ["0.1"] * 4 + ["0.5"] * 4


def test_what_is_sorted_by_is_shown(committed: Path) -> None:
    for name in ("seconds", "steps", "width"):
        heading = next(line for line in shown(80, sort=name) if line.startswith("net "))
        assert name in heading.split()


def test_where_keeps_the_runs_that_meet_all_of_it(committed: Path) -> None:
    lines = shown(where=["net=conv4", "density=none"])
    assert [line[:2] for line in body(lines)] == [["adam", "88.50"], ["sgd", "88.50"]]
    assert any(line.startswith("all of them: data=digits, net=conv4, width=0.125, method=dense") for line in lines)
    assert len(body(shown(where=["seed=1"], by_seed=True))) == 12


def test_csv_has_every_number_unrounded_and_nothing_else(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "mine", "--csv", "--where", "net=conv2", "density=0.5", "--sort", "accuracy"])
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["distribution"] for row in rows] == ["kaiming_normal", "signed_constant"]
    assert rows[0] == {
        "distribution": "kaiming_normal", "accuracy": "80.5", "pm": rows[0]["pm"], "min": "80.0", "max": "81.0",
        "n": "3", "top5": "99.5", "loss": rows[0]["loss"], "train_accuracy": "91.0", "seconds": "90.0", "steps": "48.0",
    }  # fmt: skip
    assert float(rows[0]["pm"]) == pytest.approx(4.30265 * 0.5 / 3**0.5, rel=1e-5)
    assert "36 of 36 runs" in err


def test_csv_by_seed_takes_columns_too(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "mine", "--by-seed", "--csv", "--columns", "run", "seed", "accuracy"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["run"] for row in rows} == {run.hash for run in GRID}


def test_options_of_callbacks_are_columns_and_sorted_by(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ideas = Spec("mine.gone.Idea", (("layers", (1, 2)), ("rate", 0.125)))  # of code that is not here
    lesions = [(), (spec("lesion.Lesion", epoch=10, of="edges"),), (spec("lesion.Lesion", epoch=9), ideas)]
    lesions += [(spec("lesion.Lesion", epoch=9), spec("lesion.Lesion", epoch=11))]
    runs = [replace(GRID[0], callbacks=(*one, spec("trace.Trace")), seed=s) for one in lesions for s in range(2)]
    made["folder"](here / "experiments/results", "mine", "quick", made["results"](runs))
    options = ["Lesion.epoch", "Lesion.of", "Idea.layers", "Idea.rate"]
    lines = [" ".join(row) for row in body(shown(120, sort="Lesion.epoch", columns=[*options[1:], "n", options[0]]))]
    assert lines == ["- - - 2 -", "units (1, 2) 0.125 2 9", "edges - - 2 10", "units - - 2 9, 11"]
    assert "callbacks" in next(line for line in shown(200) if "accuracy" in line)
    main(["compare", "mine", "--csv", "--by-seed", "--where", "Lesion.of=edges", "Lesion.epoch=10"])
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["seed"], row["Lesion.epoch"], row["Lesion.of"]) for row in found] == [
        ("0", "10", "edges"),
        ("1", "10", "edges"),
    ]
    with pytest.raises(ResultsError) as error:
        shown(sort="Lesion.age")
    there = "callbacks, accuracy, pm, min, max, n, seconds, Lesion.epoch, Lesion.of, Idea.layers, Idea.rate"
    assert str(error.value) == f"no column 'Lesion.age'; there are {there}"


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        (2, ["theirs"], "no experiment 'theirs'; experiments are mine"),
        (2, ["mine", "--preset", "long"], "no preset 'long'; presets are smoke, quick, short, paper"),
        (
            1,
            ["mine", "--preset", "paper"],
            "none of the 36 runs of mine (paper) is done in runs/, and there is no "
            "experiments/results/mine/paper/results.csv; make reproduce-mine PRESET=paper trains them",
        ),
        (
            1,
            ["mine", "--sort", "acuracy"],
            "no column 'acuracy'; there are net, method, optimizer, distribution, density, accuracy, pm, min, max, n, "
            "top5, loss, train_accuracy, seconds, steps",
        ),
        (
            1,
            ["mine", "--sort", "seed"],
            "no column 'seed'; seeds are averaged over: add --by-seed; there are net, method, optimizer, distribution, "
            "density, accuracy, pm, min, max, n, top5, loss, train_accuracy, seconds, steps",
        ),
        (
            1,
            ["mine", "--by-seed", "--columns", "net", "pm", "--where", "net=conv2"],
            "no column 'pm'; there are method, optimizer, distribution, density, seed, accuracy, top5, loss, "
            "train_accuracy, seconds, steps",
        ),
        (1, ["mine", "--where", "net"], "where 'net' is no FIELD=VALUE; fields are density, method, "),
        (1, ["mine", "--where", "accuracy=80"], "where 'accuracy=80' is no FIELD=VALUE; fields are density, method, "),
        (1, ["mine", "--where", "density=0.3"], "no run has density=0.3; there are density=none, 0.1, 0.5"),
        (
            1,
            ["mine", "--where", "net=conv2", "optimizer=adam", "--where", "net=conv4"],
            "no run has net=conv4; there are net=conv2",
        ),
    ],
)
def test_what_it_cannot_show_is_one_line_with_what_there_is(
    committed: Path, status: int, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lit-hidden: {message}")
    assert end.value.code == status


def test_a_damaged_run_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(GRID[:1], here / "runs")
    (here / "runs" / GRID[0].hash / "result.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        main(["compare", "mine"])
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"lit-hidden: runs/{GRID[0].hash} is damaged: ")


def test_damaged_committed_results_are_named(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (committed / "results.csv").write_text(json.dumps({}))
    with pytest.raises(SystemExit) as end:
        main(["compare", "mine"])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "lit-hidden: experiments/results/mine/quick/results.csv is damaged: it lacks run, seconds\n"
    )
