"""Reproducing experiments: what is refused, what is trained, how it ends, what is judged and written."""

import csv
import json
import math
import runpy
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from lit_hidden.cli import main
from lit_hidden.engine.experiment import ReproduceError, UsageError, load, names
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.reproduce import TimeUpError, reproduce
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.engine.where import Where
from lit_hidden.engine.work import run_of
from lit_hidden.engine.written import conditions, draw, rows
from lit_hidden.results import Results
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
EXPERIMENT = '''
"""Figure 0: a figure of three seeds."""
import numpy as np
from lit_hidden.run import Run
from lit_hidden.judge import Claim

def runs(preset):
    return [Run(density=0.5, net="conv2", data="digits", epochs=1, seed=s) for s in range(3)]

CLAIMS = [
    Claim("above [50] in [red]", lambda r: r.mean() - 50),
    Claim("above ninety", lambda r: r.mean() - 90),
    Claim("never below sixty", lambda r: r.mean() - 60, every=True, kind="check"),
]

def draw(results, figure):
    figure.add_subplot().plot(results.seeds, results.values(), label="accuracy")
'''
SEEDS_2_TO_4 = ("range(3)", "range(2, 5)")


def leave(run: Run, **result: Any) -> None:
    """Leave what a run leaves that ended at 70% and its seed."""
    made["leave"](Store("runs"), run, **{"accuracy": 70.0 + run.seed, "layers": [1], **result})


def add(name: str, *replaced: tuple[str, str]) -> list[Run]:
    """Add an experiment that is fig0 but for some words; return its runs."""
    text = EXPERIMENT
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    Path("experiments", f"{name}.py").write_text(text)
    return load(name).grid("quick")


def judged(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("results", name, "quick", "verdicts.json").read_text())
    return found


def column(name: str, column: str) -> list[str]:
    """Read a column of the table that was written."""
    with Path("results", name, "quick", "results.csv").open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


def written(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("results", name, "quick").iterdir()}


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    """Stand in a checkout with one experiment whose runs are done: 70, 71 and 72%; drawings are not rendered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "160")

    def quick(experiment, results, told) -> dict[str, str | bytes]:
        experiment.draw(results, Figure())
        return {"figure.svg": told, "figure.png": told.encode()}

    monkeypatch.setattr("lit_hidden.engine.reproduce.draw", quick)
    Path("experiments").mkdir()
    for run in add("fig0"):
        leave(run)


class Workers(Pool):
    """Workers that need no time: `fails` gives the error of a run and what it stops, `jobs` what was begun."""

    device, places = "cpu", 1

    def __init__(self) -> None:
        super().__init__()
        self.fails: dict[Run, tuple[str, str]] = {}
        self.jobs: list[tuple[Run, dict[str, Any]]] = []
        self.after = lambda run: None  # called when a run has ended

    def start(self, places, jobs) -> None:
        run = run_of(job := jobs[0])
        self.jobs.append((run, job))
        if run in self.fails:
            Store("runs").fail(run, *self.fails[run])
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


@pytest.fixture
def printed(capsys):
    """Reproduce, and return what is printed."""

    def run(*experiments: str, **options: Any) -> str:
        reproduce(*(experiments or ["fig0"]), **options)
        return capsys.readouterr().out

    return run


# --- the grid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        ("fig9", "quick", "fig9.py lacks runs, draw; "),
        ("fig0", "paper-imagenet100", r"^fig0 \(paper\) on imagenet100: both must be of imagenet, "),
        ("fig8", "paper-cifar10", r"^fig8 \(paper\) on cifar10: both must be of imagenet, "),
    ],
)
def test_what_cannot_be_reproduced_is_refused_before_training(workers, name, preset, message):
    add("fig8", ('data="digits"', 'data="imagenet"'))
    Path("experiments", "fig9.py").write_text('"""Nothing."""\nCLAIMS = []\n')
    with pytest.raises(ReproduceError, match=message):
        reproduce(name, preset=preset)
    assert workers.jobs == []


def test_a_preset_on_imagenet_can_be_trained_on_a_subset_at_the_size_of_its_images():
    whole = add("fig8", ('data="digits"', 'data="imagenet"'))
    for data, size in (("imagenette", 224), ("tiny-imagenet-100", 64)):
        chosen = load("fig8").grid(f"paper-{data}")
        assert {(run.data, run.image_size) for run in chosen} == {(data, size)}
        assert [replace(run, data="imagenet", image_size=224, augment=None) for run in chosen] == whole


def test_experiments_are_listed_by_number_and_a_grid_has_each_run_once():
    for name in ("fig10", "fig2", "table1"):
        add(name, ("range(3)", "(0, 1, 0, 2)"))
    Path("experiments", "_shared.py").touch()
    assert names() == ["fig0", "fig2", "fig10", "table1"]
    assert [run.seed for run in load("fig2").grid("quick")] == [0, 1, 2]


def test_several_experiments_are_one_grid_each_in_its_order_and_each_is_judged_and_drawn(printed, workers):
    add("fig1", SEEDS_2_TO_4)
    add("fig2", ("range(3)", "[4, 5, 6]"), ("CLAIMS = [", "def order(run):\n    return -run.seed\n\nCLAIMS = ["))
    text = printed("fig2", "fig1", "fig2")
    assert [run.seed for run, _ in workers.jobs] == [6, 5, 4, 3]
    for line in ("fig2 (quick): Figure 0", "3 runs: 0 done, 3 to train", "3 runs: 1 done, 2 to train", "  4/4  "):
        assert line in text
    for name, accuracies in (("fig1", ["72.0", "73.0", "74.0"]), ("fig2", ["74.0", "75.0", "76.0"])):
        assert column(name, "accuracy") == accuracies
        assert f"results/{name}/quick/figure.svg" in text


def test_runs_that_others_go_on_from_are_told_to_keep_their_scores(workers):
    after = "epochs=1, seed=s).then(**[{}, {'epochs': 0}, {'method': 'ticket'}][s - 9]) for s in range(9, 12)"
    add("chain", ("epochs=1, seed=s) for s in range(3)", after))
    with suppress(ReproduceError):  # that nothing fits together is none of this test's business
        reproduce("chain")
    assert [(run.seed, run.after) for run, job in workers.jobs if job["keep"]] == [(9, None)]


def test_a_dry_run_prints_the_grid_and_the_time_and_changes_nothing(printed, monkeypatch):
    monkeypatch.setattr("lit_hidden.engine.devices.gpus", lambda: 0)
    runs = add("fig1", ("range(3)", "range(2, 7)"), ("epochs=1", "epochs=1 if s == 2 else 2"))
    minute = {"provenance": {"device": "CPU, 1 thread(s)", "seconds": 60.0}}
    store = Store("runs")
    leave(runs[0], **minute)
    made["leave"](store, runs[2], epochs=1)
    leave(runs[4])
    (store.folder(runs[4]) / "result.json").write_text("")
    with store.claim(runs[3]):
        before = sorted(Path.cwd().rglob("*"))
        text = printed("fig1", dry_run=True, where=Where(devices=2))
    assert text.splitlines() == [
        "fig1 (quick): Figure 0: a figure of three seeds.",
        "5 runs: 1 done, 4 to train",
        f"runs/{runs[4].hash} is damaged and not used: result.json: Expecting value: line 1 column 1 (char 0)",
        f"  {runs[0].hash}  done              {runs[0].name}",
        f"  {runs[1].hash}  to train 0/2      {runs[1].name}",
        f"  {runs[2].hash}  to train 1/2      {runs[2].name}",
        f"  {runs[3].hash}  training 0/2      {runs[3].name}",
        f"  {runs[4].hash}  to train 2/2      {runs[4].name}",
        "estimated time: about 2.5 min on 2 worker(s)",
    ]
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_damaged_run_is_set_aside_and_trained_again(printed, workers):
    run = load("fig0").grid("quick")[1]
    metrics = Store("runs").folder(run) / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes().replace(b"10.0", b"11.0"))
    why = "metrics.csv: it is not the one whose checksum is in result.json"
    assert printed().startswith(f"{metrics.parent} is damaged: {why}; set aside as {run.hash}.damaged-1, ")
    assert [trained for trained, _ in workers.jobs] == [run]
    assert run.hash in column("fig0", "run")


# --- how it ends -----------------------------------------------------------------------------------------


FAILED = ["{failed} of 3 runs failed, or were skipped because others did:", "  {run}: no; its log is {folder}/log.txt"]


@pytest.mark.parametrize(
    ("stops", "failed", "lines"),
    [
        ("run", 1, [*FAILED, "fig1: 1 of 3 runs are missing"]),
        ("data", 3, [*FAILED, "fig1: 3 of 3 runs are missing"]),
        ("grid", 3, ["no"]),
    ],
)
def test_failures_are_told_at_the_end_and_what_is_done_is_judged_and_drawn(workers, stops, failed, lines):
    run, *_ = add("fig1", ("range(3)", "range(5, 8)"))
    workers.fails[run] = "no", stops
    with pytest.raises(StoreError if stops == "grid" else ReproduceError) as error:
        reproduce("fig1", "fig0")
    told = [line.format(failed=failed, run=run.name, folder=Store("runs").folder(run)) for line in lines]
    assert str(error.value).splitlines() == told
    everything = {"figure.png", "figure.svg", "results.csv", "verdicts.json"}
    assert written("fig1").keys() == (everything if stops == "run" else set())
    assert written("fig0").keys() == (everything if stops != "grid" else set())
    if stops == "run":
        found = judged("fig1")
        assert [claim["verdict"] for claim in found["claims"]] == ["undecided", "undecided", "supported"]
        assert {claim["seeds"] for claim in found["claims"]} == {2}
        assert "; 2 of 3 runs; " in found["conditions"]
        assert found["absent"] == [], "its only cell has two seeds"


def test_no_minutes_judge_and_draw_what_is_done(workers):
    add("fig1", SEEDS_2_TO_4)
    with pytest.raises(TimeUpError) as error:
        reproduce("fig1", minutes=0)
    assert str(error.value) == "fig1: 2 of 3 runs are missing"
    with pytest.raises(UsageError, match="--minutes nan: give a number"):
        reproduce("fig1", minutes=math.nan)
    assert workers.jobs == []
    assert "figure.svg" in written("fig1")
    assert column("fig1", "seed") == ["2"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_it_and_say_how_to_go_on(workers, capsys, monkeypatch, sign):
    add("fig1", SEEDS_2_TO_4)
    workers.after = lambda run: signal.raise_signal(sign)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "fig1"])
    signal.signal(signal.SIGTERM, before)
    assert end.value.code == 130
    assert capsys.readouterr().err == "lit-hidden: stopped; the same command goes on where this one was\n"
    assert len(workers.jobs) == 1


def test_what_cannot_be_drawn_is_judged_without_an_older_drawing_and_all_others_are_drawn(printed, capsys):
    add("bad")
    printed("bad")
    add("bad", ("range(3)", "range(2)"), ("results.seeds", "[]"))
    add("worse", ("r.mean() - 60", "1 / 0"))
    # An experiment without runs and claims needs no training.
    add("sketch", ("[Run(", "[] and [Run("), ("CLAIMS = [", "CLAIMS = [][:0] and ["), ("results.values(), l", "[], l"))
    with pytest.raises(ReproduceError) as error:
        reproduce("all")
    told = [line.partition(": ")[0] for line in str(error.value).splitlines()]
    assert told == ["bad cannot be judged or drawn", "worse cannot be judged or drawn"]
    assert "Traceback" in capsys.readouterr().err
    assert written("bad").keys() == {"results.csv", "verdicts.json"}
    assert column("bad", "seed") == ["0", "1"]
    assert written("worse").keys() == set()
    for name in ("fig0", "sketch"):
        assert "figure.svg" in written(name)
    add("fig0", ("results.seeds", "[]"))
    with pytest.raises(ReproduceError, match=r"^fig0 cannot be judged or drawn"):
        reproduce("fig0")
    assert "figure.svg" in written("fig0"), "a drawing of the same runs stays"


# --- what is judged and written --------------------------------------------------------------------------


def test_verdicts_are_printed_and_written_and_what_an_experiment_reduces_its_runs_to(printed, monkeypatch):
    monkeypatch.setattr("lit_hidden.engine.reproduce.draw", draw)
    reduce = 'def reduce(results):\n    return {"squares": np.array([x**2 for x in results.values()])}\n\n'
    claim = 'CLAIMS = [\n    Claim("high squares", lambda r: r.summary["squares"].mean() - 4900),'
    add("fig0", ("CLAIMS = [", reduce + claim), ("results.values(), l", "results.summary['squares'], l"))
    text = printed()
    found = judged("fig0")
    squared, first, *_ = found["claims"]
    assert [one["verdict"] for one in found["claims"]] == ["undecided", "supported", "contradicted", "supported"]
    assert [one["kind"] for one in found["claims"]] == ["primary", "primary", "primary", "check"]
    assert first["margin"] == 21.0
    assert first["low"] == pytest.approx(21 - 4.302653 / 3**0.5, abs=1e-5)  # Student's t with 2 degrees of freedom
    for word in ("above [50] in [red]", "contradicted", "check", "figure.svg", "3 runs: 3 done, 0 to train"):
        assert word in text
    assert column("fig0", "accuracy") == ["70.0", "71.0", "72.0"]
    files = written("fig0")
    assert found["conditions"] in files["figure.svg"].decode().replace("&#x27;", "'")
    squares = np.array([70.0, 71.0, 72.0]) ** 2
    with np.load("results/fig0/quick/summary.npz") as arrays:
        np.testing.assert_array_equal(arrays["squares"], squares)
    # Its interval is that of the seeds: without a seed, the summary is made anew.
    low, high = stats.t.interval(0.95, 2, squares.mean(), stats.sem(squares))
    assert (squared["margin"], squared["low"], squared["high"]) == pytest.approx(
        (squares.mean() - 4900, low - 4900, high - 4900)
    )
    printed()
    assert written("fig0") == files

    large = reduce.replace("np.array([x**2 for x in results.values()])", "np.random.default_rng(0).random(300_000)")
    add("fig0", ("CLAIMS = [", large + claim), ("results.values(), l", "results.seeds, l"))
    with pytest.raises(ReproduceError, match=r"the arrays of reduce\(results\) take 2,\d+,\d+ bytes, more than 2,0"):
        reproduce("fig0")


def test_a_grid_cut_by_where_is_judged_as_a_part_of_the_whole_one_and_names_absent_cells(printed, workers):
    runs = add(
        "fig1",
        ('net="conv2", ', "net=net, "),
        ("for s in range(3)", "for net in ('conv2', 'conv4') for s in range(3)"),
        ("r.mean() - 50", "r.mean(net='conv4') - r.mean(net='conv2') + 1"),
        ("r.mean() - 90", "r.mean(net='conv2') - 90"),
    )
    printed("fig1", only=["net=conv2"])
    assert workers.jobs == [], "its runs are fig0's"
    found = judged("fig1")
    assert found["absent"] == [runs[-1].cell]
    assert found["claims"][0]["why"] == f"1 cell is absent: {runs[-1].cell.partition(' ')[0]}"
    assert [claim["verdict"] for claim in found["claims"]] == ["undecided", "contradicted", "undecided"]
    assert found["conditions"].startswith("preset quick; data digits; 3 seeds (0, 1, 2); 3 of 6 runs; net conv2; ")


def test_seeds_that_fail_or_diverge_are_marked_and_counted_with_every_verdict_that_reads_them():
    # Of 360 images a guesser has 36 right; the .999 quantile is 54 of them, 15%.
    runs = add("fig1", ("range(3)", "range(6)"))
    for run, more in zip(runs[3:], ({"accuracy": 14.0}, {}, {"diverged": 1, "loss": math.nan}), strict=True):
        leave(run, **{"loss": 1.0, **more})
    reproduce("fig1", "fig0")
    assert column("fig1", "failed") == ["False", "False", "False", "True", "False", "True"]
    assert column("fig1", "diverged") == ["", "", "", "", "", "1"]
    found = judged("fig1")
    rate = found["failures"][runs[0].cell]
    assert (rate["failed"], rate["seeds"]) == (2, 6)
    assert found["diverged"] == [runs[5].name]
    assert found["claims"][0]["failed"] == {"conv2-k50-signed_constant": [2, 6]}
    assert found["claims"][0]["margin"] == (70 + 71 + 72 + 74) / 4 - 50
    (none,) = judged("fig0")["failures"].values()
    assert (none["failed"], none["seeds"], none["low"]) == (0, 3, 0)
    assert (1 - none["high"]) ** 3 == pytest.approx(0.025)  # the bound solves P(none of 3) = 2.5%


def test_the_best_epoch_is_the_largest_after_training_began_and_of_the_test_images_alone():
    # `leave` writes 10 + e% after epoch e, and the accuracy at the end.
    runs = [Run(density=0.5, data="digits", epochs=4, seed=s) for s in range(2)]
    runs += [Run(density=0.5, data="digits", epochs=1), Run(density=0.5, data="digits", epochs=4, held_out=100)]
    for run, accuracy in zip(runs, (9.0, 80.0, 9.0, 80.0), strict=True):
        leave(run, accuracy=accuracy)
    assert [row["best_accuracy"] for row in rows(Store("runs").results(runs))] == [13.0, 80.0, 9.0, None]


def test_a_summary_is_shown_when_the_table_is_new_whoever_trained_its_runs(workers, monkeypatch):
    shown: list[Any] = []
    view = SimpleNamespace(
        show=lambda run, folder, result, group: shown.append((run.seed, group)),
        summarise=lambda group, *_: shown.append(group),
    )
    monkeypatch.setattr("lit_hidden.engine.reproduce.View", lambda say: view)
    reproduce("fig0")  # nothing is missing: the runs are an archive's, or a command's that was killed before it drew
    assert shown == ["fig0/quick"]
    reproduce("fig0")
    assert len(shown) == 1
    add("fig0", ("range(3)", "range(1, 4)"))
    reproduce("fig0")
    assert shown[1:] == [(3, "fig0/quick"), "fig0/quick"]


DIGITS = {"net": "conv4", "width": 0.25, "data": "digits", "epochs": 10}


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([Run(density=0.5, seed=seed, **DIGITS) for seed in (0, 1)] + [Run(density=0.5, method="random", **DIGITS)],
         "data digits; 2 seeds (0, 1); net conv4; "
         "cut: width x0.25, 10 of 100 epochs, scikit-learn's digits for CIFAR-10"),
        ([Run(density=0.5, batch_size=32), Run(optimizer="adam"), Run()],
         "data cifar10; 1 seed (0); net conv4; cut: batches of 32"),
        ([Run(density=0.5, width=width) for width in (2, 0.5, 1)],
         "data cifar10; 1 seed (0); net conv4; widths x0.5, x1, x2; nothing cut"),
    ],
)  # fmt: skip
def test_the_conditions_say_what_was_cut_and_what_a_gpu_computed_in_tf32(runs, told):
    assert conditions("short", Results((run, {}, None) for run in runs)) == f"preset short; {told}"
    tf32 = [["convolutions"], [], ["convolutions", "products"]]
    results = Results((run, {"provenance": {"tf32": found}}, None) for run, found in zip(runs, tf32, strict=True))
    in_tf32 = "convolutions, products in TF32 in 2 of 3 runs"
    assert conditions("short", results) == f"preset short; {told}; {in_tf32}"


def test_the_commit_of_the_claims_and_the_first_run_are_named(printed, monkeypatch):
    known = ("0123456789ab", "2026-01-03T12:00:00+00:00")
    monkeypatch.setattr("lit_hidden.engine.beforehand.changed", lambda path: known)
    for day, run in enumerate(load("fig0").grid("quick"), start=2):
        leave(run, provenance={"started": f"2026-01-0{day}T11:00:00+00:00", "finished": "2026-01-05T12:00:00+00:00"})
    assert "  claims last changed in 0123456789ab (2026-01-03), after the first run (2026-01-02)\n" in printed()
    found = judged("fig0")
    assert (found["claims_commit"], found["claims_changed"]) == known
    assert found["first_run"] == "2026-01-02T11:00:00+00:00"
