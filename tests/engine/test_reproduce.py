"""Reproducing experiments: what is refused, what is written, how it ends."""

import csv
import io
import json
import math
import os
import re
import runpy
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lit_hidden.cli import main
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.reproduce import (
    ReproduceError,
    Stopped,
    TimeUpError,
    UsageError,
    conditions,
    load,
    names,
    reproduce,
    rows,
)  # fmt: skip
from lit_hidden.engine.store import Store
from lit_hidden.engine.where import Where
from lit_hidden.engine.work import run_of
from lit_hidden.judge import confidence_interval
from lit_hidden.results import Results
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
EXPERIMENT = '''
"""Figure 0: a figure of three seeds."""
from lit_hidden.run import Run
from lit_hidden.judge import Claim

def runs(preset):
    return [Run(density=0.5, net="conv2", data="digits", epochs=1, seed=s) for s in range(3)]

CLAIMS = [
    Claim("above fifty", lambda r: r.mean() - 50),
    Claim("above ninety", lambda r: r.mean() - 90),
    Claim("never below sixty", lambda r: r.mean() - 60, every=True),
]

def draw(results, figure):
    figure.add_subplot().plot(results.seeds, results.values(), label="accuracy")
'''


def leave(run: Run) -> None:
    """Leave what a run leaves that ended at 70% and its seed."""
    made["leave"](Store("runs"), run, accuracy=70.0 + run.seed, layers=[1])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one experiment whose runs are done: 70, 71 and 72%."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "fig0.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for run in load("fig0").runs("smoke"):
        leave(run)
    return tmp_path


def add(checkout, name: str, **replaced: str) -> None:
    """Add an experiment that is fig0 but for some words."""
    text = EXPERIMENT
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    (checkout / "experiments" / f"{name}.py").write_text(text)


SEEDS_2_TO_4 = ("range(3)", "range(2, 5)")


class Workers(Pool):
    """Workers that need no time: `fails` gives the error of a run and what it stops, `jobs` what was begun."""

    device, places = "cpu", 1

    def __init__(self) -> None:
        super().__init__()
        self.fails: dict[Run, tuple[str, str]] = {}
        self.jobs: list[tuple[Run, dict[str, Any]]] = []
        self.after = lambda run: None  # called when a run has ended

    def start(self, jobs, others, poll) -> None:
        ((_, job),) = jobs.items()
        run = run_of(job)
        self.jobs.append((run, job))
        if run in self.fails:
            Store("runs").fail(run, *self.fails[run])
            (Store("runs").folder(run) / "log.txt").touch()
        else:
            leave(run)
        self.after(run)

    def ended(self, seconds: float) -> list[tuple[int, None]]:
        return [(0, None)]

    def close(self) -> None:
        pass


@pytest.fixture
def workers(monkeypatch):
    pool = Workers()
    monkeypatch.setattr(Where, "start", lambda self, root, runs: pool)
    return pool


def printed(*experiments: str, **kwargs) -> str:
    console = Console(file=io.StringIO(), width=160)
    reproduce(*(experiments or ["fig0"]), console=console, **kwargs)
    return console.file.getvalue()


def test_verdicts_are_printed_and_written(checkout):
    text = printed(preset="short")
    judged = json.loads((checkout / "results" / "fig0" / "short" / "verdicts.json").read_text())
    assert [claim["verdict"] for claim in judged["claims"]] == ["supported", "contradicted", "supported"]
    first = judged["claims"][0]
    assert first["margin"] == 21.0
    assert first["low"] == pytest.approx(21 - 4.302653 / 3**0.5, abs=1e-5)  # Student's t with 2 degrees of freedom
    for word in ("above fifty", "supported", "contradicted", "figure.svg", "3 runs: 3 done, 0 to train"):
        assert word in text
    with (checkout / "results" / "fig0" / "short" / "results.csv").open(newline="") as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [70.0, 71.0, 72.0]


def test_strict_fails_a_contradicted_claim_of_the_paper_preset_alone(checkout):
    printed(preset="short", strict=True)
    with pytest.raises(ReproduceError) as error:
        printed(preset="paper", strict=True)
    assert str(error.value) == "contradicted at the paper preset: above ninety"


def test_an_experiment_that_lacks_a_part_is_named(checkout):
    (checkout / "experiments" / "fig9.py").write_text('"""Nothing."""\nCLAIMS = []\n')
    with pytest.raises(ReproduceError) as error:
        load("fig9")
    assert str(error.value) == (
        f"{checkout}/experiments/fig9.py lacks runs, draw; an experiment has runs(preset), CLAIMS and draw; "
        "the name of a helper begins with _"
    )


def test_a_preset_on_an_imagenet_subset_can_be_trained_on_another(checkout):
    add(checkout, "fig8", data=('data="digits"', 'data="imagenet"'))
    given = load("fig8").grid("paper")
    chosen = load("fig8").grid("paper-imagenette")
    assert [run.data for run in chosen] == ["imagenette"] * 3
    assert [replace(run, data="imagenet", image_size=None, augment=None) for run in chosen] == given
    small = load("fig8").grid("paper-tiny-imagenet-100")
    assert {(run.data, run.image_size) for run in small} == {("tiny-imagenet-100", 64)}, "at the size of its images"
    with pytest.raises(UsageError, match="no data 'cifar10' to choose; there are imagenet, imagenet100"):
        load("fig8").grid("paper-cifar10")
    with pytest.raises(UsageError, match=r"fig0 \(quick\) is on digits; data can be chosen where"):
        load("fig0").grid("quick-imagenet100")


def test_unknown_experiments_and_presets_are_refused_with_what_there_is(checkout):
    with pytest.raises(UsageError) as error:
        load("fig7")
    assert str(error.value) == "no experiment 'fig7'; experiments are fig0"
    with pytest.raises(UsageError) as error:
        printed(preset="large")
    assert str(error.value) == "no preset 'large'; presets are smoke, quick, short, paper"
    assert (ReproduceError.status, UsageError.status, Stopped.status) == (1, 2, 130)


def test_a_grid_is_resolved_and_has_each_run_once(checkout):
    add(checkout, "fig1", seeds=("range(3)", "(0, 1, 0)"))
    assert [(run.seed, run.method) for run in load("fig1").grid("quick")] == [(0, "edge_popup"), (1, "edge_popup")]


def test_experiments_are_listed_by_number(checkout):
    for name in ("fig10", "fig2", "table1", "_shared", "resnet18"):
        add(checkout, name)
    assert names() == ["fig0", "fig2", "fig10", "resnet18", "table1"]


def test_several_experiments_are_one_grid_and_each_is_drawn(checkout, workers):
    add(checkout, "fig1", seeds=SEEDS_2_TO_4)
    add(checkout, "fig2", seeds=("range(3)", "[4, 5, 6]"))
    text = printed("fig2", "fig1", "fig2")
    assert [run.seed for run, _ in workers.jobs] == [4, 5, 6, 3]
    for line in ("fig2 (quick): Figure 0", "3 runs: 0 done, 3 to train", "3 runs: 1 done, 2 to train", "  4/4  "):
        assert line in text
    for name, accuracies in (("fig1", [72.0, 73.0, 74.0]), ("fig2", [74.0, 75.0, 76.0])):
        with (checkout / "results" / name / "quick" / "results.csv").open(newline="") as file:
            assert [float(row["accuracy"]) for row in csv.DictReader(file)] == accuracies
        assert (checkout / "results" / name / "quick" / "figure.svg").exists()
        assert f"results/{name}/quick/figure.svg" in text


def test_a_grid_can_be_cut_to_its_first_seeds(checkout):
    quiet = Console(file=io.StringIO())
    assert [v.seeds for v in reproduce("fig0", preset="smoke", seeds=2, console=quiet)["fig0"]] == [2, 2, 2]
    verdicts = reproduce("fig0", preset="smoke", seeds=9, console=quiet)["fig0"]
    assert [v.seeds for v in verdicts] == [3, 3, 3]
    with pytest.raises(UsageError) as error:
        reproduce("fig0", preset="smoke", seeds=0, console=quiet)
    assert str(error.value) == "--seeds 0: give a number of seeds, at least 1"


def test_runs_are_trained_in_their_experiments_orders_side_by_side_and_among_equals_the_longest_first(
    checkout, workers
):
    order = ("CLAIMS = [", "def order(run):\n    return f'{9 - run.seed}'\n\nCLAIMS = [")
    add(checkout, "fig1", seeds=("range(3)", "range(3, 6)"), order=order)
    add(checkout, "fig2", seeds=("range(3)", "[3, 6, 7]"), epochs=("epochs=1", "epochs=1 if s < 7 else 2"))
    printed("fig1", "fig2")
    assert [run.seed for run, _ in workers.jobs] == [7, 3, 5, 6, 4]  # 3 is fig2's too
    with (checkout / "results" / "fig1" / "quick" / "results.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["3", "4", "5"], "the grid's own order"


def test_minutes_that_are_no_time_are_refused(checkout):
    for minutes in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError) as error:
            printed(minutes=minutes)
        assert str(error.value) == (f"--minutes {minutes:g}: give a number above 0, such as 30 or 0.5")


def test_when_the_time_is_up_failures_are_told_and_what_was_not_begun_is_not_drawn(checkout, workers, monkeypatch):
    add(checkout, "fig1", seeds=SEEDS_2_TO_4)
    add(checkout, "fig2", seeds=("range(3)", "[5, 6]"))
    bad = load("fig1").runs("quick")[1]
    workers.fails[bad] = ("ValueError: no", "run")
    now, clock = [0.0], time.monotonic

    def late(run: Run) -> None:
        now[0] = 3600.0 if len(workers.jobs) == 2 else 0.0

    workers.after = late
    monkeypatch.setattr(time, "monotonic", lambda: clock() + now[0])
    with pytest.raises(TimeUpError) as error:
        printed("fig1", "fig2", minutes=30)
    assert str(error.value).splitlines() == [
        "time is up after 30 minutes: 1 of 4 runs are done; the same command goes on where this one was",
        "1 of 4 runs failed:",
        f"  {bad.name}: ValueError: no; its log is runs/{bad.hash}/log.txt",
        "fig1 is judged without 1 of its 3 runs, which are missing",
        "fig2 is neither judged nor drawn: none of its 2 runs is done",
    ]
    assert (checkout / "results" / "fig1" / "quick" / "figure.svg").exists()


def test_all_stands_for_every_experiment_and_what_needs_no_training_is_drawn(checkout, workers):
    add(checkout, "fig1")
    add(checkout, "fig2", seeds=("[Run(", "[] and [Run("), claims=("CLAIMS = [", "CLAIMS = [][:0] and ["),
        draw=("figure.add_subplot().plot(results.seeds, results.values(), label=\"accuracy\")",
              "figure.text(0.5, 0.5, 'a sketch')"))  # fmt: skip
    console = Console(file=io.StringIO())
    assert {k: len(v) for k, v in reproduce("all", console=console).items()} == {"fig0": 3, "fig1": 3, "fig2": 0}
    assert workers.jobs == []
    for name in ("fig0", "fig1", "fig2"):
        assert (checkout / "results" / name / "quick" / "figure.svg").exists()


def judged(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("results", name, "quick", "verdicts.json").read_text())
    return found


def test_a_run_that_failed_is_reported_at_the_end_with_its_log_and_what_is_done_is_judged_and_drawn(checkout, workers):
    add(checkout, "fig1", seeds=SEEDS_2_TO_4)
    bad, _ = load("fig1").runs("quick")[1:]
    workers.fails[bad] = ("ValueError: no such net", "run")
    with pytest.raises(ReproduceError) as error:
        printed("fig1", "fig0")
    assert str(error.value) == (
        "1 of 2 runs failed:\n"
        f"  {bad.name}: ValueError: no such net; its log is runs/{bad.hash}/log.txt\n"
        "fig1 is judged without 1 of its 3 runs, which are missing"
    )
    assert error.value.status == 1
    assert [(v["verdict"], v["seeds"]) for v in judged("fig1")["claims"]] == [
        ("undecided", 2), ("undecided", 2), ("supported", 2)
    ]  # fmt: skip
    assert "; 2 of 3 runs; " in judged("fig1")["conditions"]
    assert judged("fig1")["absent"] == [], "its only cell has two seeds"
    assert (checkout / "results" / "fig1" / "quick" / "figure.svg").exists()
    assert (checkout / "results" / "fig0" / "quick" / "figure.svg").exists()


def test_a_result_that_is_damaged_at_the_end_is_missing_and_the_others_are_drawn(checkout, workers, monkeypatch):
    add(checkout, "fig1", seeds=SEEDS_2_TO_4)
    bad, last = load("fig1").runs("quick")[1:]

    def spoil(run: Run) -> None:
        if run == last:
            (Store("runs").folder(bad) / "result.json").write_text("{")

    workers.after = spoil
    with pytest.raises(ReproduceError) as error:
        printed("fig1", "fig0")
    assert str(error.value) == "fig1 is judged without 1 of its 3 runs, which are missing"
    assert (checkout / "results" / "fig0" / "quick" / "figure.svg").exists()


TWO_NETS = {
    "runs": ("[Run(", "[Run(net=net, "), "nets": ('net="conv2", ', ""),
    "seeds": ("for s in range(3)", "for net in ('conv2', 'conv4') for s in range(3)"),
    "ahead": ("r.mean() - 50", "r.mean(net='conv4') - r.mean(net='conv2') + 1"),
    "ninety": ("r.mean() - 90", "r.mean(net='conv2') - 90"),
}  # fmt: skip


def test_a_grid_cut_by_where_is_judged_as_a_part_of_the_whole_one_and_names_absent_cells(checkout, workers):
    add(checkout, "fig1", **TWO_NETS)
    text = printed("fig1", only=["net=conv2"])
    assert workers.jobs == [], "its runs are fig0's"
    (conv4,) = {run.cell for run in load("fig1").grid("quick") if run.net == "conv4"}
    found = judged("fig1")
    assert found["absent"] == [conv4]
    assert found["claims"][0]["why"] == f"1 cell is absent: {conv4.partition(' ')[0]}"
    assert [claim["verdict"] for claim in found["claims"]] == ["undecided", "contradicted", "undecided"]
    assert found["conditions"].startswith("preset quick; data digits; 3 seeds (0, 1, 2); 3 of 6 runs; net conv2; ")
    assert "  judged by 3 of 6 runs; absent cells: 1, named in verdicts.json\n" in text
    assert len(re.findall("undecided +│ none ", text)) == 2, "no margin, and not one that is called nan"
    assert (checkout / "results" / "fig1" / "quick" / "figure.png").exists()


def test_of_a_grid_without_a_single_run_nothing_is_judged(checkout, workers):
    add(checkout, "fig1", seeds=("range(3)", "range(5, 8)"))
    for run in load("fig1").runs("quick"):
        workers.fails[run] = ("no room", "run")
    with pytest.raises(ReproduceError, match=r"fig1 is neither judged nor drawn: none of its 3 runs is done$"):
        printed("fig1")
    assert not list((checkout / "results" / "fig1" / "quick").iterdir())


def test_a_part_of_a_grid_that_cannot_be_drawn_is_judged_and_no_older_drawing_stands_beside_it(checkout, capfd):
    add(checkout, "fig1", draw=("results.values()", "results.values()[:1] * 3"))
    printed("fig1")
    folder = checkout / "results" / "fig1" / "quick"
    assert {path.name for path in folder.iterdir()} == {"figure.png", "figure.svg", "results.csv", "verdicts.json"}
    with pytest.raises(ReproduceError) as error:
        printed("fig1", seeds=2)
    assert str(error.value).startswith("fig1 is judged, and cannot be drawn: ValueError: x and y must have same first")
    assert {path.name for path in folder.iterdir()} == {"results.csv", "verdicts.json"}
    assert "; 2 of 3 runs; " in judged("fig1")["conditions"]
    assert "Traceback" in capfd.readouterr().err


def test_seeds_that_fail_are_marked_counted_and_told_with_every_verdict_that_reads_them(checkout):
    # Of 360 images a guesser has 36 right; the .999 quantile is 54 of them, 15%.
    add(checkout, "fig1", seeds=("range(3)", "range(5)"))
    runs = load("fig1").grid("quick")
    for run, accuracy in zip(runs[3:], (14.0, 73.0), strict=True):
        made["leave"](Store("runs"), run, accuracy=accuracy, loss=1.0, layers=[1])
    text = printed("fig1")
    with Path("results/fig1/quick/results.csv").open(newline="") as file:
        assert [row["failed"] for row in csv.DictReader(file)] == ["False", "False", "False", "True", "False"]
    found = judged("fig1")
    rate = found["failures"][runs[0].cell]
    assert (rate["failed"], rate["seeds"]) == (1, 5)
    # The bounds solve P(at least 1 of 5) = 2.5% and P(at most 1 of 5) = 2.5%.
    assert 1 - (1 - rate["low"]) ** 5 == pytest.approx(0.025)
    assert (1 - rate["high"]) ** 5 + 5 * rate["high"] * (1 - rate["high"]) ** 4 == pytest.approx(0.025)
    assert found["claims"][0]["failed"] == {"conv2-k50-signed_constant": [1, 5]}
    assert found["claims"][0]["margin"] == 21.5
    assert text.count("conv2-k50-signed_constant: 1 of 5") == 3
    printed("fig0")
    (none,) = judged("fig0")["failures"].values()
    assert (none["failed"], none["seeds"], none["low"]) == (0, 3, 0)
    assert (1 - none["high"]) ** 3 == pytest.approx(0.025)


def test_runs_that_diverged_are_told_counted_as_failed_and_make_an_error(checkout):
    add(checkout, "fig1", seeds=("range(3)", "range(5)"))
    runs = load("fig1").grid("quick")
    for run, more in zip(runs[3:], ({"diverged": 1, "loss": math.nan}, {"loss": 1.0}), strict=True):
        made["leave"](Store("runs"), run, accuracy=90.0, layers=[1], **more)
    told = f"1 of 5 runs diverged (a loss is not finite), claims are judged without them: {runs[3].name}"
    with pytest.raises(ReproduceError, match=f"^{re.escape(f'fig1: {told}')}$"):
        printed("fig1")
    with Path("results/fig1/quick/results.csv").open(newline="") as file:
        assert [(row["failed"], row["diverged"]) for row in csv.DictReader(file)] == [
            ("False", ""), ("False", ""), ("False", ""), ("True", "1"), ("False", "")
        ]  # fmt: skip
    found = judged("fig1")
    assert found["diverged"] == [runs[3].name]
    assert [claim["why"].rpartition("; ")[2] for claim in found["claims"]] == ["diverged: 1 of 5 runs"] * 3
    assert found["claims"][0]["margin"] == (70 + 71 + 72 + 90) / 4 - 50
    dry = printed("fig1", dry_run=True)
    assert f"{runs[3].hash}  diverged          {runs[3].name}\n" in dry
    assert "5 runs: 4 done, 1 diverged" in dry


def test_the_best_epoch_is_the_largest_after_training_began_and_of_the_test_images_alone(checkout):
    # `leave` writes 10 + e% after epoch e, and the accuracy at the end.
    runs = [Run(density=0.5, data="digits", epochs=4, seed=s) for s in range(2)]
    runs += [Run(density=0.5, data="digits", epochs=4, held_out=100)]
    for run, accuracy in zip(runs, (9.0, 80.0, 80.0), strict=True):
        made["leave"](Store("runs"), run, accuracy=accuracy)
    found = Store("runs").results(runs)
    assert [row["best_accuracy"] for row in rows(found)] == [13.0, 80.0, None]
    assert rows(Results([(runs[0], {"accuracy": 9.0}, None)]))[0]["best_accuracy"] is None


def test_the_kind_of_a_claim_stands_in_the_table_and_the_file(checkout):
    add(checkout, "fig1", every=("every=True", 'every=True, kind="check"'))
    text = printed("fig1")
    assert [claim["kind"] for claim in judged("fig1")["claims"]] == ["primary", "primary", "check"]
    assert re.search(r"never below sixty +│ check +│ supported", text)


def test_runs_that_were_not_tried_are_counted(checkout, workers):
    add(checkout, "fig1", seeds=("range(3)", "range(5, 9)"))
    runs = load("fig1").runs("quick")
    workers.fails[runs[0]] = ("no data", "data")
    with pytest.raises(ReproduceError) as error:
        printed("fig1")
    assert str(error.value).splitlines()[:3] == [
        "4 of 4 runs failed:",
        f"  {runs[0].name}: no data; its log is runs/{runs[0].hash}/log.txt",
        f"  3 more: skipped: {runs[0].name} failed on the same data",
    ]


def test_a_failure_of_the_whole_grid_ends_it(checkout, workers):
    add(checkout, "fig1", seeds=SEEDS_2_TO_4)
    bad = load("fig1").runs("quick")[2]
    workers.fails[bad] = ("runs/abc cannot be written to: no room", "grid")
    with pytest.raises(ReproduceError) as error:
        printed("fig0", "fig1")
    assert str(error.value) == "runs/abc cannot be written to: no room\nstopped: 1 of 2 runs are done"


def test_ctrl_c_says_how_far_it_was_and_how_to_go_on(checkout, workers, monkeypatch):
    add(checkout, "fig1", seeds=SEEDS_2_TO_4)

    def stop(run: Run) -> None:
        if len(workers.jobs) == 2:
            raise KeyboardInterrupt

    workers.after = stop
    with pytest.raises(Stopped) as error:
        printed("fig1")
    assert str(error.value) == "stopped: 1 of 2 runs are done; the same command goes on where this one was"


def test_an_experiment_that_cannot_be_drawn_does_not_keep_the_others_from_it(checkout, capfd):
    add(checkout, "bad", draw=("results.values()", "results.values('no such number')"))
    with pytest.raises(ReproduceError) as error:
        printed("bad", "fig0")
    assert str(error.value).startswith("bad cannot be judged or drawn: ValueError: the result of ")
    assert "Traceback" in capfd.readouterr().err
    assert (checkout / "results" / "fig0" / "quick" / "figure.svg").exists()


def test_what_there_was_stays_together_if_drawing_fails(checkout, capfd):
    printed()
    folder = checkout / "results" / "fig0" / "quick"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"figure.png", "figure.svg", "results.csv", "verdicts.json"}
    leave(Run(density=0.5, net="conv2", data="digits", epochs=1, seed=9))
    add(checkout, "fig0", seeds=("range(3)", "(0, 1, 9)"), draw=("results.values()", "results.values('none')"))
    with pytest.raises(ReproduceError, match="fig0 cannot be judged or drawn"):
        printed()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "Traceback" in capfd.readouterr().err


def test_brackets_of_a_claims_sentence_are_printed(checkout):
    add(checkout, "fig1", claim=('"above fifty"', '"above [50] in [red]"'))
    assert "above [50] in [red]" in printed("fig1")


@pytest.fixture
def summaries(monkeypatch):
    """The groups of the summaries that were shown in W&B."""
    shown = []
    monkeypatch.setenv("WANDB_MODE", "offline")

    def show(group, table, drawing, verdicts, mode):
        shown.append((mode, group))

    monkeypatch.setattr("lit_hidden.engine.reproduce.show_summary", show)
    return shown


def test_a_summary_is_shown_when_the_table_is_new_whoever_trained_its_runs(checkout, summaries, workers):
    printed()  # nothing is missing: the runs are an archive's, or a command's that was killed before it drew
    assert summaries == [("offline", "fig0/quick")]
    printed()
    assert len(summaries) == 1, "drawing again shows nothing new"
    add(checkout, "fig0", seeds=SEEDS_2_TO_4)
    printed()
    assert summaries == [("offline", "fig0/quick")] * 2
    assert len(workers.jobs) > 0


def test_w_and_b_is_not_asked_for_when_there_is_nothing_new(checkout, monkeypatch):
    printed()

    def never():
        raise AssertionError("asked")

    monkeypatch.setattr("lit_hidden.engine.reproduce.choose_mode", never)
    printed()


def test_a_disk_that_is_full_when_it_is_drawn_is_told(checkout, monkeypatch):
    real, written = os.fsync, []

    def full(file):
        written.append(os.fstat(file).st_size)
        if len(written) == 3:  # the verdicts, after the drawing
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReproduceError) as error:
        printed()
    assert str(error.value) == (
        "results/fig0/quick cannot be written to: [Errno 28] No space left on device; choose another with --out"
    )
    assert sorted(path.name for path in (checkout / "results" / "fig0" / "quick").iterdir()) == [
        "figure.png", "figure.svg"
    ]  # fmt: skip


def test_each_process_draws_into_files_of_its_own_first(checkout, monkeypatch):
    real, moved = Path.replace, []

    def replace(self, target):
        moved.append((self.name, target.name))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    printed()
    names = ("figure.svg", "figure.png", "verdicts.json", "results.csv")
    assert moved == [(f".{name}.{os.getpid()}.part", name) for name in names]
    assert not list((checkout / "results").rglob("*.part"))


def test_without_training_a_damaged_run_is_named_and_left_out(checkout, workers):
    run = load("fig0").runs("quick")[1]
    metrics = Store("runs").folder(run) / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes().replace(b"10.0", b"11.0"))
    text = printed(train=False)
    why = "metrics.csv: it is not the one whose checksum is in result.json"
    assert f"\n{metrics.parent} is damaged: {why}; {run.name} is left out\n" in text
    assert "3 runs: 2 done, 1 to train" in text
    assert run.hash not in Path("results/fig0/quick/results.csv").read_text()
    assert workers.jobs == []


def test_a_damaged_run_is_named_set_aside_and_trained_again(checkout, workers):
    run = load("fig0").runs("quick")[1]
    folder = Store("runs").folder(run)
    (folder / "result.json").write_text('{"accuracy": ')
    text = printed()
    assert text.startswith(
        f"{folder} is damaged: result.json: Expecting value: line 1 column 14 (char 13); "
        f"set aside as {run.hash}.damaged-1, {run.name} is trained again\n"
    )
    assert [r for r, _ in workers.jobs] == [run]
    assert "3 runs: 2 done, 1 to train" in text


DRY = """\
fig1 (quick): Figure 0: a figure of three seeds.
6 runs: 1 done, 5 to train
  {2}  done              conv2-k50-signed_constant-digits-epochs=1-s2
  {3}  to train          conv2-k50-signed_constant-digits-epochs=2-s3
  {4}  begun 1/2         conv2-k50-signed_constant-digits-epochs=2-s4
  {5}  training 0/2      conv2-k50-signed_constant-digits-epochs=2-s5
  {6}  damaged           conv2-k50-signed_constant-digits-epochs=2-s6
  {7}  to train          conv2-k50-signed_constant-digits-epochs=2-s7
runs/{6} is damaged: result.json: Expecting value: line 1 column 1 (char 0); it would be set aside and the run trained \
again
6 runs: 1 done, 2 to train, 1 begun, 1 training, 1 damaged
estimated time: about 4 min on 2 workers; from 1 run measured here
"""


HARM = {
    "no density_sampled": ("supermask", lambda result: result.pop("density_sampled"), "its density_sampled is None"),
    "provenance no dictionary": ("edge_popup", lambda r: r.update(provenance=3), "it is not what its checksum is of"),
}


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("kind", HARM)
def test_a_result_that_is_json_and_not_what_was_left_is_trained_again(kind, checksums, checkout, workers):
    method, harm, why = HARM[kind]
    add(checkout, "fig1", method=("Run(density", f"Run(method='{method}', density"))
    runs = load("fig1").runs("quick")
    for run in runs:
        leave(run)
    path = Store("runs").folder(runs[1]) / "result.json"
    result = json.loads(path.read_text())
    harm(result)
    path.write_text(json.dumps(result if checksums else {k: v for k, v in result.items() if k != "checksums"}))
    text = printed("fig1")
    assert text.startswith(f"{path.parent} is damaged: result.json: {why}")
    assert [r for r, _ in workers.jobs] == [runs[1]]


def test_a_dry_run_prints_the_grid_and_the_time_and_changes_nothing(checkout, monkeypatch):
    monkeypatch.setattr("lit_hidden.engine.devices.gpus", lambda: 0)
    add(checkout, "fig1", seeds=("range(3)", "range(2, 8)"), epochs=("epochs=1", "epochs=1 if s == 2 else 2"))
    store, runs = Store("runs"), {run.seed: run for run in load("fig1").runs("quick")}
    for seed, text in ((4, "1,60.0,9.0\n"), (5, ""), (6, "")):
        with store.claim(runs[seed]) as folder:
            (folder / "run.json").write_text(runs[seed].to_json())
            (folder / "metrics.csv").write_text(f"epoch,seconds,test_top1\n0,0.0,9.0\n{text}")
    (store.folder(runs[6]) / "result.json").write_text("")
    with store.claim(runs[5]):
        before = sorted(path for path in checkout.rglob("*"))
        text = printed("fig1", dry_run=True, where=Where(devices=2))
    assert text == DRY.format(*(None, None), *(runs[seed].hash for seed in range(2, 8)))
    assert sorted(path for path in checkout.rglob("*")) == before


def test_a_dry_run_of_what_is_done_estimates_nothing(checkout):
    assert printed(dry_run=True).splitlines()[-1] == "3 runs: 3 done"


def test_a_dry_run_of_hundreds_is_quick(checkout):
    add(checkout, "fig1", seeds=("range(3)", "range(600)"))
    began = time.process_time()
    text = printed("fig1", dry_run=True)
    assert text.count("to train  ") == 597
    assert time.process_time() - began < 10, "it was 182 seconds once"


def test_a_folder_that_cannot_be_written_is_told_before_training(checkout):
    (checkout / "results").write_text("a file where the folder should be")
    with pytest.raises(ReproduceError) as error:
        printed()
    assert str(error.value) == (
        "results/fig0/quick cannot be written to: [Errno 20] Not a directory: 'results/fig0/quick'; "
        "choose another with --out"
    )


def test_the_conditions_say_what_was_cut():
    runs = [Run(density=0.5, net="conv4", width=0.25, data="digits", epochs=10, seed=s) for s in range(3)]
    runs += [Run(density=0.5, method="random", net="conv4", width=0.25, data="digits", seed=0)]
    results = Results((run, {}, None) for run in runs)
    assert conditions("quick", results) == (
        "preset quick; data digits; 3 seeds (0, 1, 2); net conv4; "
        "cut: width x0.25, 10 of 100 epochs, scikit-learn's digits for CIFAR-10"
    )
    small = Results([(Run(density=0.5, batch_size=32), {}, None), (Run(optimizer="adam"), {}, None)])
    assert conditions("paper", small).endswith("cut: batches of 32")
    wide = Results((Run(density=0.5, width=width), {}, None) for width in (2, 0.5))
    assert conditions("paper", wide) == (
        "preset paper; data cifar10; 1 seed (0); net conv4; widths x0.5, x2; nothing cut"
    )
    whole = Results([(Run(density=0.5), {}, None)])
    assert conditions("paper", whole) == "preset paper; data cifar10; 1 seed (0); net conv4; nothing cut"


def test_the_commit_of_the_claims_and_the_first_run_are_named(checkout, monkeypatch):
    def known(path):
        assert path == checkout / "experiments" / "fig0.py"
        return "0123456789ab", "2026-01-03T12:00:00+00:00"

    monkeypatch.setattr("lit_hidden.engine.beforehand.changed", known)
    times = [{"started": "2026-01-04T10:00:00+00:00", "finished": "2026-01-04T11:00:00+00:00"},
             {"finished": "2026-01-02T11:00:00+00:00"}, {}]  # fmt: skip
    for run, provenance in zip(load("fig0").grid("quick"), times, strict=True):
        made["leave"](Store("runs"), run, accuracy=70.0 + run.seed, provenance=provenance)
    assert "  claims changed after the first run (2026-01-03 > 2026-01-02), in 0123456789ab\n" in printed()
    found = judged("fig0")
    assert (found["claims_commit"], found["claims_changed"]) == known(checkout / "experiments" / "fig0.py")
    assert found["first_run"] == "2026-01-02T11:00:00+00:00"


def test_the_conditions_say_what_a_gpu_computed_in_tf32():
    told = [["convolutions"], [], ["convolutions", "products"]]
    results = Results(
        (Run(density=0.5, seed=seed), {"provenance": {"tf32": tf32}}, None) for seed, tf32 in enumerate(told)
    )
    assert conditions("paper", results).endswith("nothing cut; convolutions, products in TF32 in 2 of 3 runs")


def test_without_training_what_is_done_is_judged_and_drawn(checkout):
    folder = Store("runs").folder(load("fig0").grid("quick")[1])
    for path in folder.iterdir():
        path.unlink()
    text = printed(train=False)
    assert "fig0 is judged without 1 of its 3 runs, which are missing\n" in text
    assert not (folder / "run.json").exists()
    assert (checkout / "results" / "fig0" / "quick" / "figure.svg").exists()
    main(["reproduce", "fig0", "--no-train"])
    assert not (folder / "run.json").exists()


REDUCED = EXPERIMENT.replace("import Run\n", "import Run\nimport numpy as np\n").replace(
    "CLAIMS = [",
    """
def reduce(results):
    return {"squares": np.array([x**2 for x in results.values()])}

CLAIMS = [
    Claim("squares are above 4900", lambda r: r.summary["squares"].mean() - 4900),
""",
)


def test_what_an_experiment_reduces_its_runs_to_is_judged_drawn_and_written(checkout, capsys):
    (checkout / "experiments" / "fig0.py").write_text(
        REDUCED.replace("results.values(), l", "results.summary['squares'], l")
    )
    verdict, *_ = reproduce("fig0", preset="smoke")["fig0"]
    squares = np.array([70.0, 71.0, 72.0]) ** 2
    with np.load("results/fig0/smoke/summary.npz") as arrays:
        np.testing.assert_array_equal(arrays["squares"], squares)
    assert verdict.margin == pytest.approx(squares.mean() - 4900)
    # Its interval is that of the seeds: without a seed, the summary is made anew.
    low, high = confidence_interval(squares.tolist())
    assert (verdict.low, verdict.high) == (pytest.approx(low - 4900), pytest.approx(high - 4900))
    first = Path("results/fig0/smoke/summary.npz").read_bytes()
    reproduce("fig0", preset="smoke")
    assert Path("results/fig0/smoke/summary.npz").read_bytes() == first


def test_a_summary_is_refused_that_is_too_large_or_of_an_experiment_that_has_none(checkout, capsys):
    random = "np.random.default_rng(0).random(300_000)"
    (checkout / "experiments" / "fig0.py").write_text(
        REDUCED.replace("np.array([x**2 for x in results.values()])", random)
    )
    with pytest.raises(ReproduceError, match=r"the arrays of reduce\(results\) of fig0 take 2\.3 MB; 2 MB is the most"):
        reproduce("fig0", preset="smoke")
    with pytest.raises(ValueError, match="have no summary: it is what an experiment's reduce"):
        Results([]).summary  # noqa: B018


def test_runs_that_others_go_on_from_are_told_to_keep_their_scores(checkout, workers):
    runs = "[Run(density=0.5, net='conv2', data='digits', epochs=1, seed=s) for s in range(9, 12)]"
    old = '[Run(density=0.5, net="conv2", data="digits", epochs=1, seed=s) for s in range(3)]'
    chain = f"[runs := {runs}, runs[0].then(), runs[1].then(epochs=0), runs[2].then(method='ticket')]"
    add(checkout, "chain", runs=(old, f"(lambda a, *b: [*a, *b])(*{chain})"))
    with suppress(ReproduceError):
        reproduce("chain", preset="smoke")
    jobs = dict(workers.jobs)
    assert [job["keep"] for run, job in jobs.items() if run.after is None and run.seed == 9] == [True]
    assert not any(job["keep"] for run, job in jobs.items() if run.seed != 9 or run.after is not None)
