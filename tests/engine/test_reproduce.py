"""Reproducing experiments: what is refused, what is written, how it ends."""

import csv
import io
import json
import math
import os
import re
import runpy
import signal
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
    words = {"fifty": ('"above fifty"', '"above [50] in [red]"'), "kind": ("every=True", 'every=True, kind="check"')}
    add(checkout, "fig0", **words)
    text = printed(preset="short")
    judged = json.loads((checkout / "results" / "fig0" / "short" / "verdicts.json").read_text())
    assert [claim["verdict"] for claim in judged["claims"]] == ["supported", "contradicted", "supported"]
    first = judged["claims"][0]
    assert first["margin"] == 21.0
    assert first["low"] == pytest.approx(21 - 4.302653 / 3**0.5, abs=1e-5)  # Student's t with 2 degrees of freedom
    assert [claim["kind"] for claim in judged["claims"]] == ["primary", "primary", "check"]
    assert re.search(r"never below sixty +│ check +│ supported", text)
    for word in ("above [50] in [red]", "contradicted", "figure.svg", "3 runs: 3 done, 0 to train"):
        assert word in text
    with (checkout / "results" / "fig0" / "short" / "results.csv").open(newline="") as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [70.0, 71.0, 72.0]


def test_a_preset_on_an_imagenet_subset_can_be_trained_on_another(checkout):
    add(checkout, "fig8", data=('data="digits"', 'data="imagenet"'))
    given = load("fig8").grid("paper")
    chosen = load("fig8").grid("paper-imagenette")
    assert [run.data for run in chosen] == ["imagenette"] * 3
    assert [replace(run, data="imagenet", image_size=None, augment=None) for run in chosen] == given
    small = load("fig8").grid("paper-tiny-imagenet-100")
    assert {(run.data, run.image_size) for run in small} == {("tiny-imagenet-100", 64)}, "at the size of its images"


LACKS = '"""Nothing."""\nCLAIMS = []\n'


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ({"name": "fig7"}, UsageError, r"^no experiment 'fig7'; experiments are fig0, fig9$"),
        ({"name": "fig9"}, ReproduceError, "fig9.py lacks runs, draw; .* the name of a helper begins with _$"),
        ({"preset": "large"}, UsageError, "^no preset 'large'; presets are smoke, quick, short, paper$"),
        ({"preset": "paper-cifar10"}, UsageError, "no data 'cifar10' to choose; there are imagenet, imagenet100"),
        ({"preset": "quick-imagenet100"}, UsageError, r"fig0 \(quick\) is on digits; data can be chosen where"),
        ({"minutes": 0.0}, UsageError, "^--minutes 0: give a number above 0, such as 30 or 0.5$"),
        ({"minutes": math.nan}, UsageError, "^--minutes nan: "),
        ({"minutes": math.inf}, UsageError, "^--minutes inf: "),
        ({"seeds": 0}, UsageError, "^--seeds 0: give a number of seeds, at least 1$"),
        (
            {"out": "file"},
            ReproduceError,
            r"^file/fig0/quick cannot be written to: \[Errno 20\] .* with --out$",
        ),
    ],
)
def test_what_cannot_be_reproduced_is_refused_before_training(checkout, said, kind, message):
    (checkout / "experiments" / "fig9.py").write_text(LACKS)
    (checkout / "file").touch()
    with pytest.raises(kind, match=message) as error:
        printed(said.pop("name", "fig0"), **said)
    assert error.value.status == (2 if kind is UsageError else 1)


def test_strict_fails_a_contradicted_claim_of_the_paper_preset_alone(checkout):
    printed(preset="short", strict=True)
    with pytest.raises(ReproduceError, match=r"^contradicted at the paper preset: above ninety$"):
        printed(preset="paper", strict=True)


def test_a_grid_has_each_run_once_and_can_be_cut_to_its_first_seeds(checkout):
    add(checkout, "fig1", seeds=("range(3)", "(0, 1, 0, 2)"))
    quiet = Console(file=io.StringIO())
    for seeds, number in ((2, 2), (9, 3)):
        verdicts = reproduce("fig1", preset="smoke", seeds=seeds, console=quiet)["fig1"]
        assert [v.seeds for v in verdicts] == [number] * 3


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


@pytest.mark.parametrize(
    ("fails", "lines"),
    [
        (("no data", "data"), ["3 of 3 runs failed:", "  {run}: no data; its log is runs/{hash}/log.txt",
                               "  2 more: skipped: {run} failed on the same data",
                               "fig1 is neither judged nor drawn: none of its 3 runs is done"]),
        (("no room", "grid"), ["no room", "stopped: 0 of 3 runs are done"]),
    ],
)  # fmt: skip
def test_a_failure_on_data_or_of_the_whole_grid_is_told_once(checkout, workers, fails, lines):
    add(checkout, "fig1", seeds=("range(3)", "range(5, 8)"))
    run = load("fig1").runs("quick")[0]
    workers.fails[run] = fails
    with pytest.raises(ReproduceError) as error:
        printed("fig0", "fig1")
    assert str(error.value).splitlines() == [line.format(run=run.name, hash=run.hash) for line in lines]
    assert not list((checkout / "results" / "fig1" / "quick").iterdir())
    assert bool(list((checkout / "results" / "fig0" / "quick").iterdir())) == (fails[1] == "data")


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_say_how_far_it_was_and_how_to_go_on(checkout, workers, capsys, sign, status):
    add(checkout, "fig1", seeds=SEEDS_2_TO_4)
    workers.after = lambda run: signal.raise_signal(sign) if len(workers.jobs) == 2 else None
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "fig1"])
    assert end.value.code == status
    told = "lit-hidden: stopped: 1 of 2 runs are done; the same command goes on where this one was\n"
    assert capsys.readouterr().err == told


def test_an_experiment_that_cannot_be_drawn_keeps_its_old_files_and_all_others_are_drawn(checkout, capfd):
    add(checkout, "bad")
    printed("bad")
    folder = checkout / "results" / "bad" / "quick"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"figure.png", "figure.svg", "results.csv", "verdicts.json"}
    leave(Run(density=0.5, net="conv2", data="digits", epochs=1, seed=9))
    add(checkout, "bad", seeds=("range(3)", "(0, 1, 9)"), draw=("results.values()", "results.values('none')"))
    # An experiment without runs and claims needs no training.
    add(checkout, "sketch", seeds=("[Run(", "[] and [Run("), claims=("CLAIMS = [", "CLAIMS = [][:0] and ["),
        draw=('figure.add_subplot().plot(results.seeds, results.values(), label="accuracy")',
              "figure.text(0.5, 0.5, 'a sketch')"))  # fmt: skip
    with pytest.raises(ReproduceError, match=r"^bad cannot be judged or drawn: ValueError: the result of "):
        printed("all")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "Traceback" in capfd.readouterr().err
    for name in ("fig0", "sketch"):
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


def test_a_summary_is_shown_when_the_table_is_new_whoever_trained_its_runs(checkout, workers, monkeypatch):
    shown, modes = [], []
    monkeypatch.setattr("lit_hidden.engine.reproduce.choose_mode", lambda: modes.append(1) or ("offline", None))
    monkeypatch.setattr("lit_hidden.engine.reproduce.show", lambda *_: None)
    monkeypatch.setattr("lit_hidden.engine.reproduce.show_summary", lambda *said: shown.append((said[0], said[-1])))
    printed()  # nothing is missing: the runs are an archive's, or a command's that was killed before it drew
    assert shown == [("fig0/quick", "offline")]
    printed()
    assert (len(shown), len(modes)) == (1, 1), "where nothing is new, W&B is not asked for"
    add(checkout, "fig0", seeds=SEEDS_2_TO_4)
    printed()
    assert shown == [("fig0/quick", "offline")] * 2


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
    "no JSON": ("edge_popup", None, "Expecting value: line 1 column 14 (char 13); set aside as {hash}.damaged-1"),
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
    if harm is None:
        path.write_text('{"accuracy": ')
    else:
        harm(result)
        path.write_text(json.dumps(result if checksums else {k: v for k, v in result.items() if k != "checksums"}))
    text = printed("fig1")
    assert text.startswith(f"{path.parent} is damaged: result.json: {why.format(hash=runs[1].hash)}")
    assert "3 runs: 2 done, 1 to train" in text
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


def test_a_dry_run_of_hundreds_is_quick(checkout):
    add(checkout, "fig1", seeds=("range(3)", "range(600)"))
    began = time.process_time()
    text = printed("fig1", dry_run=True)
    assert text.count("to train  ") == 597
    assert printed(dry_run=True).splitlines()[-1] == "3 runs: 3 done", "nothing is estimated"
    assert time.process_time() - began < 10, "it was 182 seconds once"


DIGITS = {"net": "conv4", "width": 0.25, "data": "digits", "epochs": 10}


@pytest.mark.parametrize(
    ("preset", "runs", "told"),
    [
        (
            "quick",
            [Run(density=0.5, seed=seed, **DIGITS) for seed in range(3)]
            + [Run(density=0.5, method="random", **DIGITS)],
            "preset quick; data digits; 3 seeds (0, 1, 2); net conv4; "
            "cut: width x0.25, 10 of 100 epochs, scikit-learn's digits for CIFAR-10",
        ),
        (
            "paper",
            [Run(density=0.5, batch_size=32), Run(optimizer="adam")],
            "preset paper; data cifar10; 1 seed (0); net conv4; cut: batches of 32",
        ),
        (
            "paper",
            [Run(density=0.5, width=width) for width in (2, 0.5)],
            "preset paper; data cifar10; 1 seed (0); net conv4; widths x0.5, x2; nothing cut",
        ),
        ("paper", [Run(density=0.5)], "preset paper; data cifar10; 1 seed (0); net conv4; nothing cut"),
    ],
)
def test_the_conditions_say_what_was_cut_and_what_a_gpu_computed_in_tf32(preset, runs, told):
    assert conditions(preset, Results((run, {}, None) for run in runs)) == told
    tf32 = [["convolutions"], [], ["convolutions", "products"], []][: len(runs)]
    results = Results((run, {"provenance": {"tf32": found}}, None) for run, found in zip(runs, tf32, strict=True))
    if len(runs) == 4:
        assert conditions(preset, results) == f"{told}; convolutions, products in TF32 in 2 of 4 runs"


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
