"""The table in the terminal: what it takes, what it shows, how it sorts, and what it refuses."""

import csv
import io
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from committed import accuracy, folder, results
from fabricated import leave

from experiments._side_by_side import compare
from lit_hidden.cli import main
from lit_hidden.code import spec
from lit_hidden.engine.store import Store
from lit_hidden.run import Run, vary

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
scope: dict[str, Any] = {}
exec(EXPERIMENT, scope)
GRID: list[Run] = scope["runs"]("quick")
NUMBERS = {"top5": 99.5, "loss": 0.01234, "train_accuracy": 91.0, "steps": 48}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one experiment, `mine`, to stand in."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def commit(found: Any) -> Path:
    shutil.rmtree("experiments/results", ignore_errors=True)
    return folder(Path("experiments/results"), "mine", "quick", found)


@pytest.fixture
def committed(here: Path) -> Path:
    return commit(results(GRID, **NUMBERS))


def shown(**arguments: Any) -> list[str]:
    with redirect_stdout(io.StringIO()) as out:
        compare("mine", **arguments)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def heading(lines: list[str]) -> list[str]:
    return lines[next(i for i, line in enumerate(lines) if line.startswith("──")) - 1].split()


def body(lines: list[str]) -> list[str]:
    """The table's lines, with a space between cells."""
    start = next(i for i, line in enumerate(lines) if line.startswith("──")) + 1
    return [" ".join(line.split()) for line in lines[start : lines.index("", start)]]


def cells(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, str]]:
    """The table as CSV."""
    main(["compare", "mine", "--csv", *arguments])
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_runs_that_are_done_are_shown_else_the_committed_ones(committed: Path) -> None:
    assert "36 committed runs, in experiments/results/mine/quick/results.csv; runs/ has none of 36" in shown()
    for run, result in results(GRID[:12], **NUMBERS):
        leave(Store("runs"), run, **result)
    assert "12 of 36 runs are done, in runs/" in shown()
    commit(Store("runs").results(GRID))
    assert body(shown(runs_dir="nowhere")) == body(shown())


def test_a_cell_is_the_mean_over_seeds_under_the_fields_that_differ_and_the_rest_is_said_once(committed: Path) -> None:
    lines = shown()
    assert "all of them: data=digits, width=0.125, epochs=4" in lines
    assert heading(lines) == ["net", "method", "optimizer", "distribution", "density", "accuracy", "pm", "n"]
    assert all(len(line) <= 80 for line in body(lines)), "as wide as a terminal"
    # 72, 72.5 and 73: Student's t of 2 degrees is 4.3027, the standard error 0.5 / sqrt(3)
    assert body(lines)[2] == "conv2 edge_popup sgd kaiming_normal 0.1 72.50 1.24 3"
    assert "accuracy: mean over the n seeds that train; pm: half its 95% interval." in lines
    by_seed = body(shown(by_seed=True))
    assert len(by_seed) == 36
    assert by_seed[7] == "conv2 edge_popup sgd kaiming_normal 0.1 1 72.50"


def failing(run: Run) -> float:
    """As `accuracy`, but Conv2 at 10% stays at chance: with all seeds on constants, with one on normals."""
    stuck = run.net == "conv2" and run.density == 0.1 and (run.distribution == "signed_constant" or run.seed == 1)
    value: float = 10.0 if stuck else accuracy(run)
    return value


def test_seeds_that_fail_or_diverge_are_counted_and_means_are_of_those_that_train(here: Path) -> None:
    found = results(GRID, failing)
    next(result for run, result in found if run.density == 0.5 and run.seed == 1)["diverged"] = 3
    commit(found)
    # 72 and 73, or 80 and 81: Student's t of 1 degree is 12.7062, the standard error 0.5.
    assert body(shown())[2:5] == [
        "conv2 edge_popup sgd kaiming_normal 0.1 72.50 6.35 2 1/3 0/3",
        "conv2 edge_popup sgd kaiming_normal 0.5 80.50 6.35 2 1/3 1/3",
        "conv2 edge_popup sgd signed_constant 0.1 - - 0 3/3 0/3",
    ]
    by_seed = body(shown(by_seed=True, where=["net=conv2", "distribution=kaiming_normal", "method=edge_popup"]))
    assert by_seed[1:5] == ["0.1 1 10.00 True -", "0.1 2 73.00 False -", "0.5 0 80.00 False -", "0.5 1 80.50 True 3"]
    commit(results(GRID[::3]))
    assert body(shown())[2] == "conv2 edge_popup sgd kaiming_normal 0.1 72.00 - 1", "one has no interval"


def test_it_sorts_by_fields_and_numbers_either_way_and_shows_them(committed: Path) -> None:
    accuracies = [line.split()[5] for line in body(shown(sort="accuracy"))]
    assert accuracies == ["72.50"] * 4 + ["80.50"] * 4 + ["88.50"] * 4
    assert [line.split()[5] for line in body(shown(sort="accuracy", reverse=True))] == accuracies[::-1]
    assert [line.split()[4] for line in body(shown(sort="density"))] == ["-"] * 4 + ["0.1"] * 4 + ["0.5"] * 4
    assert heading(shown(sort="steps"))[-1] == "steps"


def test_csv_has_every_number_unrounded_and_nothing_else(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "mine", "--csv", "--where", "net=conv2", "density=0.5", "--sort", "accuracy"])
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["distribution"] for row in rows] == ["kaiming_normal", "signed_constant"]
    assert rows[0] == {
        "distribution": "kaiming_normal", "accuracy": "80.5", "pm": rows[0]["pm"], "n": "3", "top5": "99.5",
        "loss": rows[0]["loss"], "train_accuracy": "91.0", "seconds": "90.0", "steps": "48.0",
    }  # fmt: skip
    assert float(rows[0]["pm"]) == pytest.approx(4.30265 * 0.5 / 3**0.5, rel=1e-5)
    assert "36 committed runs" in err
    assert {row["run"] for row in cells(capsys, "--by-seed")} == {run.hash for run in GRID}


def test_where_keeps_the_runs_that_meet_all_of_it_and_callbacks_are_a_column(here: Path) -> None:
    lesions = [(spec("lesion.Lesion", epoch=epoch), spec("trace.Trace")) for epoch in (9, 10)]
    idea = vary([replace(GRID[0], callbacks=one) for one in lesions], seed=range(2))
    commit(results([*GRID, *idea]))
    lines = shown(where=["net=conv4", "density=none"])
    assert [line.split()[:2] for line in body(lines)] == [["adam", "88.50"], ["sgd", "88.50"]]
    assert len(body(shown(where=["seed=1"], by_seed=True))) == 14
    assert body(shown(where=["Lesion.epoch=10"])) == ["72.25 3.18 2"]
    found = body(shown(where=["net=conv2", "density=0.1", "distribution=kaiming_normal"], sort="callbacks"))
    assert [line.split()[0] for line in found] == ["-", "Lesion(epoch=9)", "Lesion(epoch=10)"]


ERRORS = [
    (["--preset", "paper"], "none of the 36 runs is done in runs/, and there is no experiments/results/mine/paper/"),
    (["--sort", "acuracy"], "no column 'acuracy'; there are net, method, optimizer, distribution, density, "),
    (["--where", "net=conv2", "--where", "density=0.3"], "no run has density=0.3; there are density=none, 0.1, 0.5"),
    (["--runs-dir", "damaged"], f"damaged/{GRID[0].hash} is damaged: "),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_what_it_cannot_show_is_one_line_with_what_there_is(arguments, message, committed, capsys) -> None:
    (Path("damaged") / GRID[0].hash).mkdir(parents=True)
    (Path("damaged") / GRID[0].hash / "result.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        main(["compare", "mine", *arguments])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lit-hidden: {message}")
