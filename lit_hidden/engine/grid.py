"""Train a grid: each missing run once, parents first, whoever else works in the same folder."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lit_hidden import code
from lit_hidden.engine.estimate import Clock
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.store import CHECKPOINT, Store, StoreError
from lit_hidden.engine.work import Job
from lit_hidden.report.tables import score
from lit_hidden.run import Run

_SEEN = 60.0  # seconds until another machine's file must be visible here: as long as NFS caches a folder


@dataclass(frozen=True)
class Plan:
    """What is to be trained, by hash."""

    missing: dict[str, Run]  # in the order of the grid; before each run, the parents that it lacks
    parents: dict[str, str]  # of missing runs whose parent is missing too, the parent's hash
    damaged: dict[str, str]  # why folders of missing runs cannot be used


def plan(runs: Iterable[Run], store: Store, mended: Callable[[str], None] | None = None) -> Plan:
    """Find what is missing of `runs`, and which parents that needs.

    Damaged folders are set aside, and `mended` takes a line for each; without it all stays as it is.

    Raises:
        StoreError: a folder cannot be read or set aside.
        CodeError: a run names code that has no source here.
    """
    found = Plan({}, {}, {})

    def add(run: Run, child: Run | None = None) -> str | None:
        """Add a run and its parents; return its hash if it is missing."""
        if why := store.damage(run, child):
            found.damaged[run.hash] = why
            if mended and (line := store.mend(run, child)):
                mended(line)
        elif run.hash in found.missing or store.done(run):
            return run.hash if run.hash in found.missing else None
        if (parent := run.parent) is not None and (needed := add(parent, run)):
            found.parents[run.hash] = needed
        found.missing[run.hash] = run
        return run.hash

    for run in runs:
        add(run)
    for name in dict.fromkeys(name for run in found.missing.values() for name in run.names):
        code.check(name)
    return found


@dataclass(frozen=True)
class Failure:
    """A run that failed: why, its log (none of a run that was skipped), and whether that stops the `grid`."""

    run: Run
    error: str
    log: str = ""
    stops: str = "run"


class _TimeUp(Exception):
    """Runs are left, and the time is up."""


@dataclass
class Grid:
    """Train a plan in its order; print a line for each run that is done and, on a terminal, a bar for the grid.

    A worker that dies (killed, out of memory) is replaced, and its run goes on from its last checkpoint. The run fails
    when a second worker dies without any progress since the first.
    """

    plan: Plan
    store: Store
    pool: Pool
    job: Callable[[Run], Job]  # gives the rest of a run's job: the data folder, and whether to keep its net
    show: Callable[[Run, dict[str, Any]], None]  # shows a finished run in W&B
    clock: Clock
    console: Console
    until: float = math.inf  # when to stop, by `time.monotonic()`

    def __post_init__(self) -> None:
        self.left = dict(self.plan.missing)  # the runs that are neither done nor failed
        self.done, self.failures = 0, list[Failure]()  # failures of parents and data count for each run they stop
        self.running: dict[int, Run] = {}  # by place
        self._shows = ThreadPoolExecutor(1)  # so that nothing waits for W&B
        self._deaths: dict[str, tuple[int, int]] = {}  # progress at the last worker death, per run
        self._unseen: dict[str, float] = {}  # until when a finished run's files must be visible here
        self._waiting = False  # for another engine, which was told
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("")

    def train(self, every: float = 0.5) -> None:
        """Train until every run is done or has failed, a failure stops the grid, or the time is up."""
        for run in self.left.values():
            if not self.store.held(run):
                self.store.forgive(run)
        try:
            with self._bar:
                self._poll()
                while self.running or (self.left and not self._stopped):
                    if not self._stopped:
                        self._start()
                    self._end(every)
                    self._poll()
        except _TimeUp:
            pass
        except BaseException:
            self._shows.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            self.pool.close()
            self.running.clear()
        self.look()  # a run may have ended while it was stopped
        self._shows.shutdown()

    @property
    def _stopped(self) -> bool:
        return any(failure.stops == "grid" for failure in self.failures)

    def _start(self) -> None:
        """Start runs where there is room."""
        places = [place for place in range(self.pool.places) if place not in self.running]
        busy = self._unseen.keys() | {run.hash for run in self.running.values()}
        blocked = busy | {child for child, parent in self.plan.parents.items() if parent in self.left}
        ready = [run for name, run in self.left.items() if places and name not in blocked]
        free = [run for run in ready if not self.store.held(run)]
        if ready and not free and not self.running and not self._waiting:
            self._waiting = True
            self._say(f"waiting for {len(ready)} runs that another engine trains in this folder")
        if not free:
            return
        begun = dict(zip(places, free, strict=False))
        for run in begun.values():
            self.store.forgive(run)
        self.running |= begun
        jobs = {place: self.describe(run) for place, run in begun.items()}
        self.pool.start(jobs, [self.describe(run) for run in free[len(begun) :]], self._poll)

    def describe(self, run: Run) -> Job:
        """Return a run's whole job; its paths are absolute, as a worker may have another working directory."""
        pool, asked = self.pool, self.job(run)
        paths = {"runs_dir": os.path.abspath(self.store.root), "data_dir": os.path.abspath(asked["data_dir"])}
        on = {"device": pool.device, "devices": max(1, int(pool.per_run)), "decoders": pool.decoders, "threads": 1}
        return {**asked, "name": run.name, "run": json.loads(run.to_json()), **paths, **on}

    def _end(self, seconds: float) -> None:
        """Wait so long for workers to end, and see what becomes of their runs."""
        if not self.running:
            time.sleep(seconds)
            return
        for place, how in self.pool.ended(seconds):
            run = self.running.pop(place)
            for line in self.store.notes(run):
                self._say(line)
            if self.store.done(run) or self.store.failure(run) or (how is None and self.store.held(run)):
                continue
            if how is None and self.pool.elsewhere:
                self._unseen[run.hash] = time.monotonic() + _SEEN
            else:
                self._after_death(run, how or "ended without a result")

    def _after_death(self, run: Run, how: str) -> None:
        """Let a new worker go on with a run, or let it fail."""
        try:
            self.store.check_writable()
        except StoreError as error:  # the worker could not even write down why it failed
            return self._fail(run, str(error), stops="grid")
        epochs, checkpoint = self.store.progress(run)[0], self.store.folder(run) / CHECKPOINT
        progress = epochs, checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        if self._deaths.get(run.hash, (-1, -1)) >= progress:
            self._fail(run, f"its worker {how}, and so did the next one, after epoch {epochs}")
        else:
            self._deaths[run.hash] = progress
            self._say(f"the worker of {run.name} {how} after epoch {epochs}; a new one goes on with it")

    def _poll(self) -> None:
        self.look()
        if self.left and time.monotonic() >= self.until:
            raise _TimeUp

    def look(self) -> None:
        """Look at the runs that are left, and show what has changed."""
        for name, run in list(self.left.items()):
            whole = self.store.done(run) and self.store.damage(run) is None
            if whole and (result := self.store.result(run)) is not None:
                del self.left[name]
                self.done += 1
                self.clock.result(run, result)
                self._say(f"{self.done}/{len(self.plan.missing)}  {run.name}: {score(result)}")
                self._shows.submit(self.show, run, result)
        for name, run in list(self.left.items()):  # after all results: a failure may take other runs with it
            if failure := self.store.failure(run):
                self._fail(run, failure["error"], failure["stops"])
            elif time.monotonic() > self._unseen.get(name, math.inf):
                why = f"a worker has finished it, but {self.store.folder(run)} here has no result"
                self._fail(run, f"{why}: --runs-dir must be a folder that all machines share", "grid")
        if self.console.is_terminal:
            self._draw()

    def _draw(self) -> None:
        """Bring the bar up to date."""
        left = []
        for run in self.left.values():
            epochs, seconds = self.store.progress(run)
            self.clock.measure(run, epochs, seconds)
            left.append((run, run.epochs - epochs))
        state = f"{self.done} of {len(self.plan.missing)} runs done, {len(self.running)} running"
        state += f", {self.clock.estimate(left, self.pool.places)} left"
        whole = sum(run.epochs for run in self.plan.missing.values())
        done = whole - sum(epochs for _, epochs in left)
        self._bar.update(self._task, completed=done, total=whole, description=state)

    def _fail(self, run: Run, error: str, stops: str = "run", skipped: bool = False) -> None:
        """Record a failure, and with it those of the run's children and of other runs on the same missing data."""
        if self.left.pop(run.hash, None) is None or (stops == "grid" and self._stopped):
            return
        log = "" if skipped else str(self.store.folder(run) / "log.txt")
        self.failures.append(Failure(run, error, log, stops))
        children = (child for child, parent in self.plan.parents.items() if parent == run.hash)
        skips = dict.fromkeys(children, f"skipped: its parent {run.name} failed")
        if stops == "data":
            others = (other for other in self.left.values() if other not in self.running.values())
            alike = (other.hash for other in others if other.data == run.data)
            skips |= dict.fromkeys(alike, f"skipped: {run.name} failed on the same data")
        for name, why in skips.items():
            if name in self.left:
                self._fail(self.left[name], why, skipped=True)

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
