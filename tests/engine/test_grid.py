"""A grid: what is missing of it, parents before their children, another engine's runs waited for."""

import json
import math
import os
from dataclasses import replace
from typing import Any

import pytest
from fabricated import leave
from reproducing import Workers

from lit_hidden.code import CodeError, Spec
from lit_hidden.engine import grid as grid_module
from lit_hidden.engine.grid import Grid, plan
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.store import Store, StoreError
from lit_hidden.engine.work import opened
from lit_hidden.run import Run

TINY = {"net": "conv2", "data": "digits", "epochs": 2}
TICKETS = [Run(density=0.5, method="ticket", seed=seed, **TINY).resolved for seed in range(2)]
PARENTS = [ticket.parent for ticket in TICKETS]
OTHER = Run(**{**TINY, "epochs": 3}).resolved


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


# --- the plan --------------------------------------------------------------------------------------------


def planned(store: Store, *runs: Run) -> list[Run]:
    return list(plan(runs, store, lambda line: None, mend=False).values())


def test_a_plan_is_what_is_missing_with_the_parents_it_needs_a_chain_after_the_other(store):
    first, second = ([parent, ticket, ticket.then(epochs=0)] for parent, ticket in zip(PARENTS, TICKETS, strict=True))
    assert planned(store, OTHER, first[-1], second[-1], second[1]) == [OTHER, *first, *second]
    leave(store, PARENTS[0])
    leave(store, OTHER)
    assert planned(store, OTHER, TICKETS[0]) == [TICKETS[0]]
    leave(store, TICKETS[0])
    assert planned(store, OTHER, TICKETS[0]) == []


def test_a_done_parent_without_its_subnetwork_is_trained_again_if_a_child_needs_it(store):
    (leave(store, PARENTS[0]) / "subnetwork.safetensors").unlink()
    assert planned(store, PARENTS[0]) == []
    assert planned(store, PARENTS[0], TICKETS[0]) == [PARENTS[0], TICKETS[0]]
    assert store.result(PARENTS[0]) is not None, "a plan alone moves nothing"
    lines: list[str] = []
    plan([TICKETS[0]], store, lines.append)
    why = f" lacks subnetwork.safetensors or scores.safetensors, which {TICKETS[0].name} needs"
    assert [why in line for line in lines] == [True]
    assert store.result(PARENTS[0]) is None


def test_code_without_source_is_refused_before_anything_is_trained(store):
    run = replace(PARENTS[0], callbacks=(Spec("math.Idea"),)).then()  # its parents count
    gone = replace(OTHER, data="nosuch.Data")
    with pytest.raises(CodeError, match=r"^math\.Idea cannot be found.*\nnosuch\.Data cannot be found.*$"):
        planned(store, OTHER, run, gone, replace(gone, seed=1))
    leave(store, run)
    assert planned(store, run) == [], "what is done needs no code"


# --- training --------------------------------------------------------------------------------------------


def workers(store: Store, does: dict[Run, list[Any]] | None = None) -> Any:
    return Workers(store, leave, 2, does)


def grid_of(store: Store, pool: Pool, *runs: Run, **more: Any) -> tuple[Grid, list[str]]:
    said, show = list[str](), more.pop("show", lambda *_: None)
    return Grid(plan(runs, store, said.append), store, pool, "data", show, said.append, **more), said


def trained(store: Store, pool: Pool, *runs: Run, **more: Any) -> tuple[Grid, list[str]]:
    grid, said = grid_of(store, pool, *runs, **more)
    grid.train(every=0)
    return grid, said


def failed(store: Store, run: Run, why: str) -> str:
    """What is told of a run that failed; of a run that was skipped nothing is."""
    return f"{run.name}: {why}; its log is {store.folder(run)}/log.txt"


def test_runs_are_trained_in_the_plans_order_as_soon_as_their_parents_are_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    pool, shown = workers(store), []
    grid, said = trained(store, pool, *TICKETS, OTHER, show=lambda run, result: shown.append(result["accuracy"]))
    assert pool.starts == [[PARENTS[0], PARENTS[1]], [TICKETS[0], TICKETS[1]], [OTHER]]
    assert (grid.done, grid.left, grid.failures, pool.closed) == (5, {}, [], 1)
    order = [*PARENTS, *TICKETS, OTHER]
    assert said == [f"  {n}/5  {run.name}: {50 + run.seed:.1f}% test accuracy" for n, run in enumerate(order, 1)]
    assert shown == [50 + run.seed for run in order]
    assert [opened(job)[0] for job in pool.jobs[:3]] == [*PARENTS, OTHER], "workers that stay may go on with the others"
    assert pool.jobs[-1] == {
        "run": json.loads(OTHER.to_json()), "name": OTHER.name, "runs_dir": f"{tmp_path}/runs", "until": math.inf,
        "data_dir": f"{tmp_path}/data", "device": "cpu", "devices": 1, "decoders": None, "keep": False,
    }  # fmt: skip


def test_a_run_that_fails_takes_those_along_that_need_it_or_its_missing_data_and_no_others(store):
    on_mnist = [Run(**{**TINY, "data": "mnist"}, seed=seed).resolved for seed in range(3)]
    pool = workers(store, {PARENTS[0]: [("ValueError: no", "run")], on_mnist[0]: [("no MNIST", "data")]})
    grid, _ = trained(store, pool, *TICKETS, TICKETS[0].then(epochs=0), *on_mnist[:1], OTHER, *on_mnist[1:])
    assert pool.starts == [[PARENTS[0], PARENTS[1]], [TICKETS[1], on_mnist[0]], [OTHER]]
    told = failed(store, PARENTS[0], "ValueError: no"), failed(store, on_mnist[0], "no MNIST")
    assert grid.failures == [told[0], "", "", told[1], "", ""]
    assert grid.done == 3


def test_a_folder_that_cannot_be_used_stops_the_grid_and_what_failed_is_tried_again(store):
    pool = workers(store, {run: [("no room", "grid")] for run in PARENTS})
    with pytest.raises(StoreError, match="no room"):
        trained(store, pool, *TICKETS, OTHER)
    assert (pool.starts, pool.closed) == ([PARENTS], 1)
    grid, said = trained(store, workers(store), *PARENTS)
    assert (grid.done, grid.failures, len(said)) == (2, [], 2)
    assert store.failure(PARENTS[0]) is None


def test_a_worker_that_dies_is_replaced_as_long_as_each_gets_further(store):
    def reach(epoch: int) -> Any:
        def reached(run: Run) -> str:
            checkpoint = leave(store, run, epoch) / "last.ckpt"
            checkpoint.touch()
            os.utime(checkpoint, (epoch, epoch))
            return "was killed by SIGKILL"

        return reached

    long = Run(**{**TINY, "epochs": 9}).resolved
    grid, said = trained(store, workers(store, {long: [reach(1), reach(2), reach(4)]}), long)
    assert (grid.done, grid.failures) == (1, [])
    assert said[:-1] == [
        f"  the worker of {long.name} was killed by SIGKILL after epoch {epoch}; a new one goes on with it"
        for epoch in (1, 2, 4)
    ]
    grid, said = trained(
        store, workers(store, {PARENTS[0]: ["ended with exit status 9", lambda run: None]}), *PARENTS, OTHER
    )
    why = "its worker ended without a result, and so did the next one, after epoch 0"
    assert grid.failures == [failed(store, PARENTS[0], why)]
    assert grid.done == 2


def test_what_another_machine_has_finished_must_come_in_sight(store, monkeypatch):
    late = workers(store, {OTHER: [lambda run: None]})
    late.elsewhere = True
    with monkeypatch.context() as patch:
        patch.setattr(grid_module.time, "sleep", lambda seconds: leave(store, OTHER))
        assert trained(store, late, OTHER)[0].done == 1
    monkeypatch.setattr(grid_module, "_SEEN", -1.0)
    never = workers(store, {PARENTS[0]: [lambda run: None]})
    never.elsewhere = True
    with pytest.raises(StoreError, match="--runs-dir must be a folder that all machines share"):
        trained(store, never, PARENTS[0])


def test_when_the_time_is_up_training_stops_and_what_has_failed_is_told_all_the_same(store, monkeypatch):
    pool = workers(store, {PARENTS[0]: [("ValueError: no", "run")]})
    grid, _ = grid_of(store, pool, *TICKETS, OTHER, until=60)
    monkeypatch.setattr(grid_module.time, "monotonic", lambda: 60.0 * grid.done)
    monkeypatch.setattr(grid_module.time, "time", lambda: 1000.0 + 60.0 * grid.done)
    pool.close = lambda: leave(store, OTHER)  # it ends while it is stopped
    grid.train(every=0)
    assert {job["until"] for job in pool.jobs} == {1060.0}
    assert (grid.done, list(grid.left.values())) == (2, [TICKETS[1]])
    assert grid.failures == [failed(store, PARENTS[0], "ValueError: no"), ""]


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
    pool = workers(store)
    grid, _ = trained(store, pool, *TICKETS, OTHER)
    assert pool.starts == [[OTHER], [TICKETS[0], PARENTS[1]], [TICKETS[1]]]
    assert (len(naps), grid.done) == (2, 5)


def test_a_result_that_is_damaged_is_not_done(store):
    pool = workers(store, {PARENTS[0]: [lambda run: (leave(store, run) / "subnetwork.safetensors").write_text("half")]})
    assert trained(store, pool, PARENTS[0])[0].done == 1
    assert pool.starts == [[PARENTS[0]]] * 2
