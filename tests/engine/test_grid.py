"""A grid: what is missing of it, parents before their children, another engine's runs waited for, time left shown."""

import io
import json
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
from lit_hidden.engine.grid import Failure, Grid, plan
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.store import Store
from lit_hidden.engine.work import run_of
from lit_hidden.run import Run

made: dict[str, Callable[..., Any]] = runpy.run_path(str(Path(__file__).parents[1] / "fabricated.py"))
leave = made["leave"]
TINY = {"net": "conv2", "data": "digits", "epochs": 2}
TICKETS = [Run(density=0.5, method="ticket", seed=seed, **TINY).resolved for seed in range(2)]
PARENTS = [ticket.parent for ticket in TICKETS]
OTHER = Run(**{**TINY, "epochs": 3}).resolved


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
    assert planned(store, PARENTS[0], TICKETS[0], TICKETS[0])[0] == [PARENTS[0], TICKETS[0]]
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
    assert plan([TICKETS[0]], store, lines.append).damaged == found.damaged
    assert [why in line for line in lines] == [True]
    assert store.result(PARENTS[0]) is None


def test_a_chain_is_planned_from_its_beginning_before_the_next(store):
    chains = [[first := PARENTS[seed], then := first.then(), then.then(epochs=0)] for seed in range(2)]
    ends, every = [chain[-1] for chain in chains], [run for chain in chains for run in chain]
    parents = {run.hash: before.hash for chain in chains for before, run in pairwise(chain)}
    assert planned(store, *ends) == (every, parents)


def test_code_without_source_is_refused_before_anything_is_trained(store):
    run = replace(PARENTS[0], callbacks=(Spec("math.Idea"),)).then()  # its parents count
    with pytest.raises(CodeError, match=r"math\.Idea cannot be found"):
        plan([OTHER, run], store)
    leave(store, run)
    assert planned(store, run) == ([], {}), "what is done needs no code"


# --- training --------------------------------------------------------------------------------------------


class Workers(Pool):
    """A pool whose workers need no time: they leave a result, or do what is asked of them."""

    device, places = "cpu", 2

    def __init__(self, store: Store, does: dict[Run, list[Any]] | None = None) -> None:
        super().__init__()
        self.store, self.does = store, {run: list(deeds) for run, deeds in (does or {}).items()}
        self.starts: list[list[Run]] = []
        self.jobs: list[dict[str, Any]] = []
        self.begun: dict[int, Run] = {}
        self.closed = 0

    def start(self, jobs, others, poll) -> None:
        self.jobs += jobs.values()
        self.starts.append([run_of(job) for job in jobs.values()])
        self.begun |= {place: run_of(job) for place, job in jobs.items()}

    def ended(self, seconds: float) -> list[tuple[int, str | None]]:
        ends = [(place, self._work(run)) for place, run in self.begun.items()]
        self.begun.clear()
        return ends

    def _work(self, run: Run) -> str | None:
        """Fail as a pair says, die as a text says, or leave what a function leaves."""
        if not self.does.get(run):
            leave(self.store, run)
            return None
        deed = self.does[run].pop(0)
        return self.store.fail(run, *deed) if isinstance(deed, tuple) else deed if isinstance(deed, str) else deed(run)

    def close(self) -> None:
        self.closed += 1


def grid_of(store: Store, pool: Pool, *runs: Run, terminal: bool = False, **more: Any) -> tuple[Grid, io.StringIO]:
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    todo, show = plan(runs, store), more.pop("show", lambda *_: None)
    clock = Clock("cpu", "CPU, 1 thread(s)")
    return Grid(todo, store, pool, lambda run: {"data_dir": "data"}, show, clock, console, **more), console.file


def trained(store: Store, pool: Pool, *runs: Run, **more: Any) -> tuple[Grid, list[str]]:
    grid, out = grid_of(store, pool, *runs, **more)
    grid.train(every=0)
    return grid, out.getvalue().splitlines()


def test_runs_are_trained_in_the_plans_order_as_soon_as_their_parents_are_done(store):
    pool, shown = Workers(store), []
    grid, said = trained(store, pool, *TICKETS, OTHER, show=lambda run, result: shown.append(result["accuracy"]))
    assert pool.starts == [[PARENTS[0], PARENTS[1]], [TICKETS[0], TICKETS[1]], [OTHER]]
    assert (grid.done, grid.left, grid.failures, pool.closed) == (5, {}, [], 1)
    order = [*PARENTS, *TICKETS, OTHER]
    assert said == [f"  {n}/5  {run.name}: {50 + run.seed:.1f}% test accuracy" for n, run in enumerate(order, 1)]
    assert shown == [50 + run.seed for run in order]


def test_a_job_says_where_and_on_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    pool = Workers(store)
    trained(store, pool, OTHER)
    assert pool.jobs == [
        {"run": json.loads(OTHER.to_json()), "name": OTHER.name, "runs_dir": f"{tmp_path}/runs",
         "data_dir": f"{tmp_path}/data", "device": "cpu", "threads": 1, "devices": 1, "decoders": None}
    ]  # fmt: skip


def test_a_failed_parents_children_are_not_trained_and_the_others_are(store):
    pool = Workers(store, {PARENTS[0]: [("ValueError: no", "run")]})
    grid, _ = trained(store, pool, *TICKETS, OTHER)
    assert pool.starts == [[PARENTS[0], PARENTS[1]], [TICKETS[1], OTHER]]
    assert grid.failures == [
        Failure(PARENTS[0], "ValueError: no", str(store.folder(PARENTS[0]) / "log.txt")),
        Failure(TICKETS[0], f"skipped: its parent {PARENTS[0].name} failed"),
    ]
    assert grid.done == 3


def test_a_failure_on_data_stops_the_runs_on_them_alone(store):
    on_mnist = [Run(**{**TINY, "data": "mnist"}, seed=seed).resolved for seed in range(4)]
    pool = Workers(store, {on_mnist[0]: [("no MNIST", "data")]})
    grid, _ = trained(store, pool, *on_mnist, OTHER)
    assert pool.starts == [on_mnist[:2], [OTHER]]
    assert [(f.run, f.error) for f in grid.failures] == [
        (on_mnist[0], "no MNIST"),
        *((run, f"skipped: {on_mnist[0].name} failed on the same data") for run in on_mnist[2:]),
    ]
    assert grid.done == 2


def test_parents_that_fail_on_the_same_data_at_once_fail_all_their_children(store):
    grid, _ = trained(store, Workers(store, {run: [("no data", "data")] for run in PARENTS}), *TICKETS)
    assert {failure.run for failure in grid.failures} == {*PARENTS, *TICKETS}


def test_a_failure_of_the_grid_stops_it_and_what_failed_is_tried_again(store):
    pool = Workers(store, {run: [("no room", "grid")] for run in PARENTS})
    grid, _ = trained(store, pool, *TICKETS, OTHER)
    assert pool.starts == [PARENTS]
    assert [failure.error for failure in grid.failures if failure.stops == "grid"] == ["no room"]
    store.fail(OTHER, "no room", "grid")
    store.note(OTHER, "of another time")
    grid, said = trained(store, Workers(store), OTHER)
    assert (grid.done, grid.failures, len(said)) == (1, [], 1)
    assert store.failure(OTHER) is None


@pytest.mark.parametrize("how", ["was killed by SIGKILL", "ended with exit status 9"])
def test_a_worker_that_dies_is_replaced_as_long_as_each_gets_further(store, how):
    def reach(epoch: int) -> Any:
        return lambda run: leave(store, run, epoch) and how

    long = Run(**{**TINY, "epochs": 9}).resolved
    grid, said = trained(store, Workers(store, {long: [reach(1), reach(2), reach(4)]}), long)
    assert (grid.done, grid.failures) == (1, [])
    assert said[:-1] == [
        f"  the worker of {long.name} {how} after epoch {epoch}; a new one goes on with it" for epoch in (1, 2, 4)
    ]
    grid, said = trained(store, Workers(store, {PARENTS[0]: [how, how]}), *PARENTS, OTHER)
    log = str(store.folder(PARENTS[0]) / "log.txt")
    assert grid.failures == [Failure(PARENTS[0], f"its worker {how}, and so did the next one, after epoch 0", log)]
    assert grid.done == 2


def test_what_another_machine_has_finished_must_come_in_sight(store, monkeypatch):
    monkeypatch.setattr(grid_module, "_SEEN", 0.0)
    pool = Workers(store, {OTHER: [lambda run: None]})
    pool.elsewhere = True
    (failure,) = trained(store, pool, OTHER)[0].failures
    assert failure.stops == "grid"
    assert failure.error.endswith("--runs-dir must be a folder that all machines share")


def test_when_the_time_is_up_training_stops_and_what_has_failed_is_told_all_the_same(store, monkeypatch):
    pool = Workers(store, {PARENTS[0]: [("ValueError: no", "run")]})
    grid, _ = grid_of(store, pool, *TICKETS, OTHER, until=60)
    monkeypatch.setattr(grid_module.time, "monotonic", lambda: 60.0 * grid.done)
    pool.close = lambda: leave(store, OTHER)  # it ends while it is stopped
    grid.train(every=0)
    assert (grid.done, list(grid.left.values())) == (2, [TICKETS[1]])
    assert [failure.run for failure in grid.failures] == [PARENTS[0], TICKETS[0]]


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
    pool = Workers(store)
    grid, said = trained(store, pool, *TICKETS, OTHER)
    assert pool.starts == [[OTHER], [TICKETS[0], PARENTS[1]], [TICKETS[1]]]
    assert said.count("  waiting for 2 runs that another engine trains in this folder") == 1
    assert (len(naps), grid.done) == (2, 5)


def test_workers_notes_are_printed_as_they_are_and_once(store):
    def noted(run: Run) -> None:
        store.note(run, "runs/[bold]abc is damaged")
        leave(store, run)

    store.folder(OTHER).mkdir(parents=True)
    _, said = trained(store, Workers(store, {OTHER: [noted]}), OTHER)
    assert said == ["  runs/[bold]abc is damaged", f"  1/1  {OTHER.name}: 50.0% test accuracy"]


@pytest.mark.parametrize("file", ["metrics.csv", "subnetwork.safetensors"])
def test_a_result_that_is_damaged_is_not_done(store, file):
    grid, _ = grid_of(store, Workers(store), PARENTS[0])
    leave(store, PARENTS[0])
    (store.folder(PARENTS[0]) / file).write_text("epoch\n")
    grid.look()
    assert grid.done == 0


def test_the_bar_says_what_is_done_and_running_and_for_how_long(store):
    runs = [Run(**{**TINY, "epochs": 10}, seed=seed).resolved for seed in range(600)]
    grid, out = grid_of(store, Workers(store), *runs, terminal=True)
    leave(store, runs[0])
    leave(store, runs[1], 5)
    grid.running = {0: runs[1], 1: runs[2]}
    grid.look()
    assert f"1/600  {runs[0].name}: 50.0% test accuracy" in out.getvalue()
    (bar,) = grid._bar.tasks
    # 5 epochs of a minute each are measured, 598 runs have all of theirs to come and one a half, on two workers.
    assert bar.description == "1 of 600 runs done, 2 running, about 2 d 1 h on 2 worker(s) left"
    assert (bar.completed, bar.total) == (15, 6000)
