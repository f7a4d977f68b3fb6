"""Reproducing experiments: what is refused, what is trained, how it ends."""

import math
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import reproducing
from reproducing import add, column, judged, leave, written

from lit_hidden.cli import main
from lit_hidden.engine.experiment import ReproduceError, UsageError, load, names
from lit_hidden.engine.reproduce import TimeUpError, reproduce
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.engine.where import Where

checkout, workers, printed = reproducing.checkout, reproducing.workers, reproducing.printed  # fixtures

SEEDS_2_TO_4 = ("range(3)", "range(2, 5)")


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
    assert [run.seed for (run,) in workers.starts] == [6, 5, 4, 3]
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
    assert {job["name"] for job in workers.jobs if job["keep"]} == {load("chain").grid("quick")[0].parent.name}


def test_a_dry_run_prints_the_grid_and_the_time_and_changes_nothing(printed, monkeypatch):
    monkeypatch.setattr("lit_hidden.engine.devices.gpus", lambda: 0)
    runs = add("fig1", ("range(3)", "range(2, 7)"), ("epochs=1", "epochs=1 if s == 2 else 2"))
    minute = {"provenance": {"device": "CPU, 1 thread(s)", "seconds": 60.0}}
    store = Store("runs")
    leave(runs[0], **minute)
    leave(runs[2], epochs=1)
    leave(runs[4])
    (store.folder(runs[4]) / "result.json").write_text("")
    with store.claim(runs[3]):
        before = sorted(Path.cwd().rglob("*"))
        text = printed("fig1", dry_run=True, where=Where(devices=2))
    assert text.splitlines() == [
        f"runs/{runs[4].hash} is damaged: result.json: Expecting value: line 1 column 1 (char 0); it is not used",
        "fig1 (quick): Figure 0: a figure of three seeds.",
        "5 runs: 1 done, 4 to train",
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
    assert workers.starts == [[run]]
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
    workers.does[run] = [("no", stops)]
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
    workers.does[add("fig1", SEEDS_2_TO_4)[1]] = [lambda run: signal.raise_signal(sign)]
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a script in the background ignores
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "fig1"])
    for one, handler in before.items():
        signal.signal(one, handler)
    assert end.value.code == 130
    assert capsys.readouterr().err == "lit-hidden: stopped; the same command goes on where this one was\n"
    assert len(workers.starts) == 1


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
