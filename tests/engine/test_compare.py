"""The table in the terminal: what it takes, what it shows, how it sorts, and what it refuses."""

import csv
import io
import runpy
import shutil
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


def commit(results: Any) -> Path:
    shutil.rmtree("experiments/results", ignore_errors=True)
    folder: Path = made["folder"](Path("experiments/results"), "mine", "quick", results)
    return folder


@pytest.fixture
def committed(here: Path) -> Path:
    return commit(made["results"](GRID, **NUMBERS))


def finish(runs: list[Run]) -> None:
    """Leave what the engine leaves of runs that are done."""
    for run, result in made["results"](runs, **NUMBERS):
        leave(Store("runs"), run, **result)


def shown(width: int = 160, **arguments: Any) -> list[str]:
    file = io.StringIO()
    compare("mine", console=Console(width=width, file=file, highlight=False), **arguments)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def body(lines: list[str]) -> list[str]:
    """The table's lines, with a space between cells."""
    start = next(i for i, line in enumerate(lines) if line.startswith("──")) + 1
    return [" ".join(line.split()) for line in lines[start : lines.index("", start)]]


def cells(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, str]]:
    """The table as CSV."""
    main(["compare", "mine", "--csv", *arguments])
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_runs_that_are_done_are_shown_else_the_committed_ones(committed: Path) -> None:
    assert "36 of 36 runs, from experiments/results/mine/quick/results.csv (runs/ has none)" in shown()
    finish(GRID[:12])
    assert "12 of 36 runs are done, in runs/; make reproduce-mine PRESET=quick trains the rest" in shown()
    finish(GRID[12:])
    assert "36 of 36 runs are done, in runs/" in shown()
    commit(Store("runs").results(GRID))
    assert body(shown(runs_dir="nowhere")) == body(shown())


def test_committed_runs_that_the_grid_has_no_more_are_counted_apart(here: Path) -> None:
    commit(made["results"]([*GRID[:3], *vary([Run(data="digits", epochs=9)], seed=range(2))]))
    assert any(line.startswith("3 of 36 runs, and 2 of an earlier grid, from ") for line in shown())


def test_a_cell_is_the_mean_over_seeds_under_the_fields_that_differ_and_the_rest_is_said_once(committed: Path) -> None:
    lines = shown()
    assert "all of them: data=digits, width=0.125, epochs=4" in lines
    heading = next(line for line in lines if line.startswith("net ")).split()
    assert heading == [
        "net", "method", "optimizer", "distribution", "density", "accuracy", "±95%", "n"
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in body(lines)), "as wide as a terminal"
    # 72, 72.5 and 73: Student's t of 2 degrees is 4.3027, the standard error 0.5 / sqrt(3)
    assert body(lines)[2] == "conv2 edge_popup sgd kaiming_normal 0.1 72.50 1.24 3"


def test_by_seed_every_run_has_a_line_and_a_seed_that_was_set_alone_is_shown(committed: Path) -> None:
    lines = body(shown(by_seed=True))
    assert len(lines) == 36
    assert lines[7] == "conv2 edge_popup sgd kaiming_normal 0.1 1 72.50"
    commit(made["results"]([Run(data="digits", density=0.5, seed=s, weight_seed=7) for s in range(3)]))
    assert "seed  weight_seed  accuracy" in shown(by_seed=True)


def failing(run: Run) -> float:
    """As `committed.accuracy`, but Conv2 at 10% stays at chance: with all seeds on constants, with one on normals."""
    stuck = run.net == "conv2" and run.density == 0.1 and (run.distribution == "signed_constant" or run.seed == 1)
    value: float = 10.0 if stuck else made["accuracy"](run)
    return value


def test_seeds_that_fail_are_counted_and_means_are_of_those_that_train(here: Path) -> None:
    commit(made["results"](GRID, failing))
    rows = body(lines := shown())
    # 72 and 73: Student's t of 1 degree is 12.7062, the standard error 0.5.
    assert rows[2:5] == [
        "conv2 edge_popup sgd kaiming_normal 0.1 72.50 6.35 2 1/3",
        "conv2 edge_popup sgd kaiming_normal 0.5 80.50 1.24 3 0/3",
        "conv2 edge_popup sgd signed_constant 0.1 - - 0 3/3",
    ]
    assert "Accuracy: mean over the n seeds that train, ± half its 95% interval." in lines
    by_seed = body(shown(by_seed=True, where=["net=conv2", "density=0.1"]))
    assert by_seed[1:4] == [
        "kaiming_normal 1 10.00 True",
        "kaiming_normal 2 73.00 False",
        "signed_constant 0 10.00 True",
    ]
    commit(made["results"](GRID[::3]))
    assert body(shown())[2] == "conv2 edge_popup sgd kaiming_normal 0.1 72.00 - 1", "one has no interval"


def test_seeds_that_diverged_are_counted_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = made["results"](GRID, **NUMBERS)
    run, result = next((run, result) for run, result in results if run.density == 0.1)
    result["diverged"] = 3
    commit(results)
    same = ["--where", f"net={run.net}", "density=0.1", f"distribution={run.distribution}"]
    assert any(" diverged" in line for line in shown())
    (cell,) = cells(capsys, *same)
    assert (cell["n"], cell["failed"], cell["diverged"]) == ("2", "1/3", "1/3")
    told = {row["seed"]: row["diverged"] for row in cells(capsys, "--by-seed", *same)}
    assert told == {str(seed): "3" if seed == run.seed else "" for seed in range(3)}


def test_the_best_epoch_is_said_to_be_chosen_on_the_test_set(here: Path) -> None:
    finish(GRID[:1])  # 10 + e% after epoch e
    assert body(shown(columns=["accuracy", "best_accuracy"])) == ["72.00 72.00"]
    assert any("best epoch (chosen on the test set)" in line for line in shown(columns=["best_accuracy"]))


def test_columns_named_are_shown_and_what_is_too_wide_folds_and_loses_nothing(committed: Path) -> None:
    lines = shown(columns=["net", "density", "steps", "loss", "pm"], where=["method=edge_popup"])
    assert "net    density  steps    loss  ±95%" in lines
    assert "conv4 0.5 48 0.0123 1.24" in body(lines)
    text = "".join("".join(shown(40, columns=["net", "distribution", "accuracy", "train_accuracy", "method"])).split())
    assert "accurac" in text
    assert "edge_p" in text


def test_it_sorts_by_fields_and_numbers_either_way_and_shows_them(committed: Path) -> None:
    accuracies = [float(line.split()[5]) for line in body(shown(sort="accuracy"))]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == 72.5
    assert [float(line.split()[5]) for line in body(shown(sort="accuracy", reverse=True))] == accuracies[::-1]
    assert [line.split()[4] for line in body(shown(sort="density"))] == ["-"] * 4 + ["0.1"] * 4 + ["0.5"] * 4
    for name in ("seconds", "steps", "width"):
        assert name in next(line for line in shown(sort=name) if line.startswith("net ")).split()


def test_where_keeps_the_runs_that_meet_all_of_it(committed: Path) -> None:
    lines = shown(where=["net=conv4", "density=none"])
    assert [line.split()[:2] for line in body(lines)] == [["adam", "88.50"], ["sgd", "88.50"]]
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
    found = cells(capsys, "--by-seed", "--columns", "run", "seed", "accuracy")
    assert {row["run"] for row in found} == {run.hash for run in GRID}


def test_options_of_callbacks_are_columns_and_sorted_by(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ideas = Spec("mine.gone.Idea", (("layers", (1, 2)), ("rate", 0.125)))  # of code that is not here
    lesions = [(), (spec("lesion.Lesion", epoch=10, of="edges"),), (spec("lesion.Lesion", epoch=9), ideas)]
    lesions += [(spec("lesion.Lesion", epoch=9), spec("lesion.Lesion", epoch=11))]
    runs = [replace(GRID[0], callbacks=(*one, spec("trace.Trace")), seed=s) for one in lesions for s in range(2)]
    commit(made["results"](runs))
    options = ["Lesion.of", "Idea.layers", "Idea.rate", "n", "Lesion.epoch"]
    lines = body(shown(sort="Lesion.epoch", columns=options))
    assert lines == ["- - - 2 -", "units (1, 2) 0.125 2 9", "edges - - 2 10", "units - - 2 9, 11"]
    assert "callbacks" in next(line for line in shown() if "accuracy" in line)
    found = cells(capsys, "--by-seed", "--where", "Lesion.of=edges", "Lesion.epoch=10")
    assert [(row["seed"], row["Lesion.epoch"], row["Lesion.of"]) for row in found] == [
        ("0", "10", "edges"), ("1", "10", "edges")
    ]  # fmt: skip
    assert refused(capsys, "--sort", "Lesion.age")[1].startswith("no column 'Lesion.age'; there are callbacks, acc")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, name: str = "mine") -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["compare", name, *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    return int(str(end.value.code)), line.removeprefix("lit-hidden: ")


FIELDS_ARE = "is no FIELD=VALUE; fields are density, method, "
ERRORS = [
    (2, ["--preset", "long"], "no preset 'long'; presets are smoke, quick, short, paper"),
    (1, ["--preset", "paper"], "none of the 36 runs of mine (paper) is done in runs/, and there is no experiments/"),
    (1, ["--sort", "acuracy"], "no column 'acuracy'; there are net, method, optimizer, distribution, density, "),
    (1, ["--sort", "seed"], "no column 'seed'; seeds are averaged over: add --by-seed; there are net, "),
    (1, ["--by-seed", "--columns", "net", "pm", "--where", "net=conv2"], "no column 'pm'; there are method, optimizer"),
    (1, ["--where", "net"], f"where 'net' {FIELDS_ARE}"),
    (1, ["--where", "accuracy=80"], f"where 'accuracy=80' {FIELDS_ARE}"),
    (1, ["--where", "density=0.3"], "no run has density=0.3; there are density=none, 0.1, 0.5"),
    (1, ["--where", "net=conv2", "--where", "net=conv4"], "no run has net=conv4; there are net=conv2"),
]


@pytest.mark.parametrize(("status", "arguments", "message"), ERRORS, ids=[message for *_, message in ERRORS])
def test_what_it_cannot_show_is_one_line_with_what_there_is(status, arguments, message, committed, capsys) -> None:
    assert refused(capsys, name="theirs") == (2, "no experiment 'theirs'; experiments are mine")
    told = refused(capsys, *arguments)
    assert told[0] == status
    assert told[1].startswith(message)


def test_damaged_runs_and_committed_results_are_named(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (committed / "results.csv").write_text("{}")
    assert refused(capsys)[1].startswith("experiments/results/mine/quick/results.csv is damaged: it lacks run, seconds")
    finish(GRID[:1])
    (Path("runs") / GRID[0].hash / "result.json").write_text("{")
    assert refused(capsys)[1].startswith(f"runs/{GRID[0].hash} is damaged: ")
