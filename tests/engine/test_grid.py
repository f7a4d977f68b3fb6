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
from lit_hidden.engine.grid import Failure, Grid, Plan, plan
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


# --- training --------------------------------------------------------------------------------------------


class Workers(Pool):
    """A pool whose workers need no time: they leave a result, or do what is asked of them."""

    device, places = "cpu", 2

    def __init__(self, store: Store, does: dict[Run, list[Any]] | None = None) -> None:
        super().__init__()
        self.store, self.does = store, {run: list(deeds) for run, deeds in (does or {}).items()}
        self.starts: list[list[Run]] = []
        self.begun: dict[int, Run] = {}
        self.closed = 0

    def start(self, jobs, others, poll) -> None:
        self.starts.append([run_of(job) for job in jobs.values()])
        self.begun |= {place: run_of(job) for place, job in jobs.items()}

    def ended(self, seconds: float) -> list[tuple[int, str | None]]:
        ends = [(place, self._work(run)) for place, run in self.begun.items()]
        self.begun.clear()
        return ends

    def _work(self, run: Run) -> str | None:
        deed = self.does[run].pop(0) if self.does.get(run) else leave
        if isinstance(deed, tuple):
            self.store.fail(run, *deed)
        elif isinstance(deed, str):
            return deed
        else:
            deed(self.store, run)
        return None

    def close(self) -> None:
        self.closed += 1


def grid_of(
    store: Store, pool: Pool, *runs: Run, terminal: bool = False, show: Any = lambda run, result: None, **more: float
) -> tuple[Grid, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal)
    grid = Grid(
        plan(runs, store), store, pool, lambda run: {"data_dir": "data"}, show, Clock("cpu", CPU), console, **more
    )
    return grid, out


def trained(store: Store, pool: Pool, *runs: Run, **more: float) -> tuple[Grid, list[str]]:
    grid, out = grid_of(store, pool, *runs, **more)
    grid.train(every=0)
    return grid, out.getvalue().splitlines()


def test_runs_are_trained_in_the_plans_order_as_soon_as_their_parents_are_done(store):
    pool = Workers(store)
    grid, said = trained(store, pool, *TICKETS, OTHER)
    assert pool.starts == [[PARENTS[0], PARENTS[1]], [TICKETS[0], TICKETS[1]], [OTHER]]
    assert (grid.done, grid.left, grid.failures, pool.closed) == (5, {}, [], 1)
    order = [*PARENTS, *TICKETS, OTHER]
    assert said == [f"  {n}/5  {run.name}: {50 + run.seed:.1f}% test accuracy" for n, run in enumerate(order, 1)]


def test_a_job_says_where_and_on_what(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    grid, _ = grid_of(Store("runs"), Workers(store), OTHER)
    job = grid.describe(OTHER)
    assert job == {
        "run": json.loads(OTHER.to_json()), "name": OTHER.name, "runs_dir": "runs", "data_dir": "data",
        "device": "cpu", "threads": 1, "devices": 1, "decoders": None,
    }  # fmt: skip
    grid.pool.elsewhere = True  # with another working directory
    assert grid.describe(OTHER) == job | {"runs_dir": f"{tmp_path}/runs", "data_dir": f"{tmp_path}/data"}


def test_a_failed_parents_children_are_not_trained_and_the_others_are(store):
    pool = Workers(store, {PARENTS[0]: [("ValueError: no", "run")]})
    (store.folder(PARENTS[0])).mkdir(parents=True)
    (store.folder(PARENTS[0]) / "log.txt").touch()
    grid, _ = trained(store, pool, *TICKETS, OTHER)
    assert pool.starts == [[PARENTS[0], PARENTS[1]], [TICKETS[1], OTHER]]
    assert grid.failures == [
        Failure(PARENTS[0], "ValueError: no", str(store.folder(PARENTS[0]) / "log.txt"), "run"),
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


def test_a_worker_that_dies_is_replaced_as_long_as_each_gets_further(store):
    def epoch(number: int) -> Any:
        return lambda store, run: leave(store, run, number)

    class Dying(Workers):
        def _work(self, run: Run) -> str | None:
            super()._work(run)
            return None if self.store.done(run) else "was killed by SIGKILL"

    long = Run(**{**TINY, "epochs": 9}).resolved
    grid, said = trained(store, Dying(store, {long: [epoch(1), epoch(2), epoch(4)]}), long)
    assert (grid.done, grid.failures) == (1, [])
    assert said[:-1] == [
        f"  the worker of {long.name} was killed by SIGKILL after epoch {epoch}; a new one goes on with it"
        for epoch in (1, 2, 4)
    ]


@pytest.mark.parametrize("how", ["was killed by SIGKILL", "ended with exit status 9"])
def test_a_run_whose_worker_dies_again_without_getting_further_has_failed_and_the_others_are_trained(store, how):
    pool = Workers(store, {PARENTS[0]: [how, how]})
    grid, said = trained(store, pool, *PARENTS, OTHER)
    log = str(store.folder(PARENTS[0]) / "log.txt")
    assert grid.failures == [Failure(PARENTS[0], f"its worker {how}, and so did the next one, after epoch 0", log)]
    assert grid.done == 2
    assert sum("a new one goes on" in line for line in said) == 1


def test_a_worker_that_cannot_be_started_stops_the_grid_and_those_that_train_end(store):
    class Full(Workers):
        places = 1

        def start(self, jobs, others, poll) -> None:
            if self.starts:
                self.places = 2
                raise OSError(2, "No such file", "python")
            super().start(jobs, others, poll)
            self.places = 2  # room for another one, which cannot be started

        def ended(self, seconds: float) -> list[tuple[int, str | None]]:
            self.looks += 1
            return super().ended(seconds) if self.looks > 1 else []

        looks = 0

    grid, _ = trained(store, Full(store), *PARENTS)
    assert [(f.run, f.error, f.stops) for f in grid.failures] == [
        (PARENTS[1], "no worker can be started: [Errno 2] No such file: 'python'", "grid")
    ]
    assert grid.done == 1


def test_a_failure_that_cannot_be_written_down_stops_the_grid_in_the_systems_words(store, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    store.check_writable()
    monkeypatch.setattr("lit_hidden.engine.store.write_atomically", full)
    grid, _ = trained(store, Workers(store, {OTHER: ["ended with exit status 74"]}), OTHER)
    why = f"{store.root} cannot be written to: [Errno 28] No space left on device; choose another with --runs-dir"
    assert [(f.error, f.stops) for f in grid.failures] == [(why, "grid")]


def test_what_another_machine_has_finished_must_come_in_sight(store, monkeypatch):
    monkeypatch.setattr(grid_module, "_SEEN", 0.0)
    pool = Workers(store, {OTHER: [lambda *_: None]})
    pool.elsewhere = True
    grid, _ = trained(store, pool, OTHER)
    (failure,) = grid.failures
    assert failure.stops == "grid"
    assert failure.error.endswith("--runs-dir must be a folder that all machines share")


@pytest.fixture
def minutes(monkeypatch):
    """Have a minute go by with each run that is done."""

    def watch(grid: Grid) -> None:
        monkeypatch.setattr(grid_module.time, "monotonic", lambda: 60.0 * grid.done)

    return watch


def test_when_the_time_is_up_training_stops_and_what_has_failed_is_told_all_the_same(store, minutes):
    pool = Workers(store, {PARENTS[0]: [("ValueError: no", "run")]})
    grid, _ = grid_of(store, pool, *TICKETS, OTHER, until=60)
    minutes(grid)
    pool.close = lambda: leave(store, OTHER)  # it ends while it is stopped
    grid.train(every=0)
    assert (grid.done, list(grid.left.values())) == (2, [TICKETS[1]])
    assert [failure.run for failure in grid.failures] == [PARENTS[0], TICKETS[0]]


@pytest.mark.parametrize("until", [0, 60])
def test_the_time_is_not_up_where_nothing_is_left(until, store, minutes):
    grid, _ = grid_of(store, Workers(store), *[OTHER][: until // 60], until=until)
    minutes(grid)
    grid.train(every=0)
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
    pool = Workers(store)
    grid, said = trained(store, pool, *TICKETS, OTHER)
    assert pool.starts == [[OTHER], [TICKETS[0], PARENTS[1]], [TICKETS[1]]]
    assert said.count("  waiting for 2 runs that another engine trains in this folder") == 1
    assert (len(naps), grid.done) == (2, 5)


def test_workers_notes_are_printed_as_they_are_and_once(store):
    def noted(store: Store, run: Run) -> None:
        store.note(run, "runs/[bold]abc is damaged")
        leave(store, run)

    store.folder(OTHER).mkdir(parents=True)
    _, said = trained(store, Workers(store, {OTHER: [noted]}), OTHER)
    assert said == ["  runs/[bold]abc is damaged", f"  1/1  {OTHER.name}: 50.0% test accuracy"]


def test_each_run_is_shown_beside_the_training_and_a_failure_of_wandb_is_a_line(store):
    shown: list[tuple[Run, float]] = []

    def show(run: Run, result: dict[str, Any]) -> str | None:
        shown.append((run, result["accuracy"]))
        return "W&B: it failed" if run == OTHER else None

    _, said = trained(store, Workers(store), PARENTS[0], OTHER, show=show)
    assert shown == [(PARENTS[0], 50.0), (OTHER, 50.0)]
    assert said[2:] == ["  W&B: it failed"]


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

    leave(store, runs[0])
    leave(store, runs[1], 5)
    grid.running = {0: runs[1], 1: runs[2]}
    text = shown()
    assert f"1/600  {runs[0].name}: 50.0% test accuracy" in out.getvalue()
    assert "1 of 600 runs done, 2 running, 597 left" in text
    # 5 epochs of a minute each are measured, 598 runs have all of theirs to come and one a half, on two workers.
    assert "about 2 d 1 h left" in text
    assert f"{runs[1].name} " in text
    assert "5 of 10 epochs" in text
    assert "0 of 10 epochs" in text
