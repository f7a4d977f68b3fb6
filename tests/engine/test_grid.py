"""A grid: what is missing of it, parents before their children, another engine's runs waited for, time left shown."""

import io
import queue
import runpy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lit_hidden.code import CodeError, Spec
from lit_hidden.engine import grid as grid_module
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.grid import Grid, Plan, plan
from lit_hidden.engine.launcher import Failure
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
leave = made["leave"]
TINY = {"net": "conv2", "data": "digits", "epochs": 2}
TICKETS = [Run(density=0.5, method="ticket", seed=seed, **TINY).resolved for seed in range(2)]
PARENTS = [ticket.parent for ticket in TICKETS]
OTHER = Run(**{**TINY, "epochs": 3}).resolved
CPU = "CPU, 1 thread(s)"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


# --- the plan --------------------------------------------------------------------------------------------


def planned(store: Store, *runs: Run) -> tuple[list[Run], dict[str, str]]:
    found = plan(runs, store)
    return list(found.missing.values()), found.parents


def test_a_plan_is_what_is_missing_with_the_parents_it_needs(store):
    parents = {ticket.hash: parent.hash for ticket, parent in zip(TICKETS, PARENTS, strict=True)}
    assert planned(store, OTHER, *TICKETS) == ([OTHER, PARENTS[0], TICKETS[0], PARENTS[1], TICKETS[1]], parents)
    assert planned(store, PARENTS[0], TICKETS[0], TICKETS[0]) == (
        [PARENTS[0], TICKETS[0]], {TICKETS[0].hash: PARENTS[0].hash}
    )  # fmt: skip
    leave(store, PARENTS[0])
    leave(store, OTHER)
    assert planned(store, OTHER, TICKETS[0]) == ([TICKETS[0]], {})
    leave(store, TICKETS[0])
    assert planned(store, OTHER, TICKETS[0]) == ([], {})


def test_a_done_parent_without_its_subnetwork_is_trained_again_if_a_child_needs_it(store):
    leave(store, PARENTS[0])
    (store.folder(PARENTS[0]) / "subnetwork.safetensors").unlink()
    assert planned(store, PARENTS[0]) == ([], {})
    found = plan([PARENTS[0], TICKETS[0]], store)
    assert list(found.missing.values()) == [PARENTS[0], TICKETS[0]]
    why = f"it lacks subnetwork.safetensors or scores.safetensors, which {TICKETS[0].name} needs"
    assert found.damaged == {PARENTS[0].hash: why}
    assert store.result(PARENTS[0]) is not None, "a plan alone moves nothing"
    lines: list[str] = []
    assert plan([TICKETS[0]], store, lines.append) == Plan(
        {run.hash: run for run in (TICKETS[0], PARENTS[0])}, found.parents, found.damaged
    )
    assert len(lines) == 1
    assert why in lines[0]
    assert store.result(PARENTS[0]) is None
    leave(store, TICKETS[0])
    leave(store, PARENTS[0])
    (store.folder(PARENTS[0]) / "subnetwork.safetensors").unlink()
    assert planned(store, PARENTS[0], TICKETS[0]) == ([], {}), "no child that is missing needs it"


def test_a_chain_is_planned_from_its_beginning_before_the_next(store):
    chains = [[first := PARENTS[seed], then := first.then(), then.then(epochs=0)] for seed in range(2)]
    ends, every = [chain[-1] for chain in chains], [run for chain in chains for run in chain]
    parents = {run.hash: before.hash for chain in chains for before, run in pairwise(chain)}
    assert planned(store, *ends) == (every, parents)
    assert planned(store, every[0], ends[1], every[1], ends[0]) == ([every[0], *chains[1], *every[1:3]], parents)


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("net", "mine.gone.Net", "mine.gone.Net cannot be found: there is no module mine.gone"),
        ("task", "lesion.Leson", "lesion.Leson cannot be found: lit_hidden.callbacks.lesion defines no Leson"),
        ("callbacks", (Spec("math.Idea"),), "math.Idea cannot be found: there is no module math"),
    ],
)
def test_code_without_source_is_refused_before_anything_is_trained(store, field, name, message):
    run = replace(PARENTS[0], **{field: name}).then()  # its parents count
    with pytest.raises(CodeError) as error:
        plan([OTHER, run], store)
    assert str(error.value) == message
    leave(store, run)
    assert planned(store, run) == ([], {}), "what is done needs no code"


def test_damaged_folders_are_set_aside_if_somebody_listens(store):
    leave(store, OTHER)
    (store.folder(OTHER) / "result.json").write_text("{")
    found = plan([OTHER], store)
    assert list(found.missing) == [OTHER.hash]
    assert found.damaged[OTHER.hash].startswith("result.json: ")
    lines: list[str] = []
    assert plan([OTHER], store, lines.append).missing == found.missing
    assert len(lines) == 1
    assert lines[0].startswith(f"{store.folder(OTHER)} is damaged: result.json: ")
    assert not store.folder(OTHER).exists()


# --- training --------------------------------------------------------------------------------------------


class Workers:
    """A launcher whose workers need no time: they leave a result, or say why not."""

    def __init__(self, store: Store, fails: dict[Run, tuple[str, str]] | None = None) -> None:
        self.store, self.fails = store, fails or {}
        self.launches: list[list[Run]] = []
        self.failures: list[Failure] = []
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.running: list[Run | None] = [None, None]

    def launch(self, runs: list[Run], poll: Any) -> None:
        self.launches.append(list(runs))
        for run in runs:
            self.running[0] = run
            leave(self.store, run, 1)
            poll()
            if run in self.fails:
                error, stops = self.fails[run]
                self.failures.append(Failure(run, error, f"{run.hash}/log.txt", stops))
                if stops == "grid":
                    break
            else:
                leave(self.store, run)
            self.running[0] = None
            poll()
        poll()

    def close(self) -> None:
        self.closed = True


def grid_of(
    store: Store, workers: Workers, *runs: Run, terminal: bool = False, **more: float
) -> tuple[Grid, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal)
    return Grid(plan(runs, store), store, workers, Clock("cpu", CPU), console, **more), out


def test_runs_are_trained_in_the_plans_order_but_parents_before_their_children(store):
    workers = Workers(store)
    grid, out = grid_of(store, workers, *TICKETS, OTHER)
    grid.train()
    assert workers.launches == [[*PARENTS, OTHER], TICKETS]
    assert (grid.done, grid.left, grid.failures, workers.closed) == (5, {}, [], True)
    assert out.getvalue().splitlines() == [
        f"  {number}/5  {run.name}: {50 + run.seed:.1f}% test accuracy"
        for number, run in enumerate([*PARENTS, OTHER, *TICKETS], 1)
    ]


def test_a_failed_parents_children_are_not_trained_and_the_others_are(store):
    workers = Workers(store, {PARENTS[0]: ("ValueError: no", "run")})
    grid, _ = grid_of(store, workers, *TICKETS, OTHER)
    grid.train()
    assert workers.launches == [[*PARENTS, OTHER], [TICKETS[1]]]
    assert grid.failures == [
        Failure(PARENTS[0], "ValueError: no", f"{PARENTS[0].hash}/log.txt", "run"),
        Failure(TICKETS[0], f"not trained, for {PARENTS[0].name}, with whose net it begins, failed", ""),
    ]
    assert grid.done == 3


def test_a_failure_that_stops_the_grid_stops_it(store):
    workers = Workers(store, {OTHER: ("no room", "grid")})
    grid, _ = grid_of(store, workers, *TICKETS, OTHER)
    grid.train()
    assert workers.launches == [[*PARENTS, OTHER]]
    assert [failure.error for failure in grid.failures] == ["no room"]


@pytest.fixture
def minutes(monkeypatch):
    """Have a minute go by with each run that is done."""

    def watch(grid: Grid) -> None:
        monkeypatch.setattr(grid_module.time, "monotonic", lambda: 60.0 * grid.done)

    return watch


def test_when_the_time_is_up_training_stops_and_what_has_failed_is_told_all_the_same(store, minutes):
    workers = Workers(store, {PARENTS[0]: ("ValueError: no", "run")})
    grid, _ = grid_of(store, workers, *TICKETS, OTHER, until=60)
    minutes(grid)
    grid.train()
    assert workers.launches == [[*PARENTS, OTHER]]
    assert (grid.done, list(grid.left.values()), workers.closed) == (1, [TICKETS[1], OTHER], True)
    assert [failure.run for failure in grid.failures] == [PARENTS[0], TICKETS[0]]


def test_what_ends_while_it_is_stopped_is_done(store, minutes):
    class Last(Workers):
        def close(self) -> None:
            leave(store, PARENTS[1])

    grid, _ = grid_of(store, Last(store), *PARENTS, OTHER, until=60)
    minutes(grid)
    grid.train()
    assert (grid.done, list(grid.left.values())) == (2, [OTHER])


@pytest.mark.parametrize("until", [0, 60])
def test_the_time_is_not_up_where_nothing_is_left(until, store, minutes):
    workers = Workers(store)
    grid, _ = grid_of(store, workers, *[OTHER][: until // 60], until=until)
    minutes(grid)
    grid.train()
    assert (grid.done, grid.left, grid.failures) == (until // 60, {}, [])


def test_what_another_engine_trains_is_waited_for_or_taken_over(store, monkeypatch):
    naps: list[float] = []
    theirs = {run.hash: store.claim(run) for run in PARENTS}
    for claim in theirs.values():
        claim.__enter__()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:  # the other engine has finished one run, and is killed in the other
            for claim in theirs.values():
                claim.__exit__(None, None, None)
            leave(store, PARENTS[0])

    monkeypatch.setattr(grid_module.time, "sleep", sleep)
    workers = Workers(store)
    grid, out = grid_of(store, workers, *TICKETS, OTHER)
    grid.train()
    assert workers.launches == [[OTHER], [TICKETS[0], PARENTS[1]], [TICKETS[1]]]
    assert out.getvalue().count("  waiting for 2 runs that another engine trains in this folder\n") == 1
    assert len(naps) == 2
    assert grid.done == 5


def test_workers_notes_are_printed_as_they_are(store):
    workers = Workers(store)
    workers.notes.put("runs/[bold]abc is damaged")
    grid, out = grid_of(store, workers, OTHER)
    grid.train()
    assert out.getvalue().startswith("  runs/[bold]abc is damaged\n")


def test_a_result_that_is_damaged_is_not_done(store):
    grid, _ = grid_of(store, Workers(store), OTHER)
    leave(store, OTHER)
    (store.folder(OTHER) / "metrics.csv").write_text("epoch\n")
    grid.look()
    assert grid.done == 0


# --- the progress bar ------------------------------------------------------------------------------------


def test_the_bar_says_what_is_done_running_and_left_and_for_how_long(store):
    runs = [Run(**{**TINY, "epochs": 10}, seed=seed).resolved for seed in range(600)]
    workers = Workers(store)
    grid, out = grid_of(store, workers, *runs, terminal=True)

    def shown() -> str:
        grid.look()
        screen = Console(file=io.StringIO(), width=200)
        screen.print(grid._bars.get_renderable())
        return screen.file.getvalue()

    assert "starting workers" in shown()
    leave(store, runs[0])
    leave(store, runs[1], 5)
    workers.running = [runs[1], runs[2]]
    text = shown()
    assert f"1/600  {runs[0].name}: 50.0% test accuracy" in out.getvalue()
    assert "1 of 600 runs done, 2 running, 597 left" in text
    # 5 epochs of a minute each are measured, 598 runs have all of theirs to come and one a half, on two workers.
    assert "about 2 d 1 h left" in text
    assert f"{runs[1].name} " in text
    assert "5 of 10 epochs" in text
    assert "0 of 10 epochs" in text


def test_the_time_left_may_be_unknown(store):
    run = Run(density=0.5, net="timm:resnet10t", data="digits").resolved
    grid, _ = grid_of(store, Workers(store), run, terminal=True)
    grid.look()
    assert grid._bars.tasks[0].fields["left"] == "0:00:00, time left unknown"


def test_a_look_at_hundreds_of_runs_hashes_and_parses_none(store, monkeypatch):
    runs = [Run(density=0.5, seed=seed).resolved for seed in range(300)]
    grid, _ = grid_of(store, Workers(store), *runs)
    leave(store, runs[0], 3)
    grid.look()
    monkeypatch.setattr("hashlib.sha256", lambda data: pytest.fail("a run was hashed"))
    monkeypatch.setattr(Run, "from_json", lambda text: pytest.fail("a description was parsed"))
    grid.look()
    assert len(grid.left) == 300


def test_a_folder_that_is_gone_is_no_progress(store, tmp_path: Path):
    leave(store, OTHER, 1)
    grid, _ = grid_of(store, Workers(store), OTHER)
    grid.look()
    store.folder(OTHER).rename(tmp_path / "moved")
    grid.look()
    assert grid.left == {OTHER.hash: OTHER}
