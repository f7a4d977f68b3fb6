"""Train a grid: each missing run once, parents first, whoever else works in the same folder."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lit_hidden import code
from lit_hidden.engine.estimate import Clock, duration
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.store import CHECKPOINT, Store, StoreError
from lit_hidden.engine.work import Job
from lit_hidden.report.tables import score
from lit_hidden.run import Run

_OTHERS = 2000  # runs that a worker may go on with
_SEEN = 60.0  # seconds until another machine's file must be visible here: as long as NFS caches a folder
_BARS = 8  # for single runs, so that many workers do not fill the screen


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
    """A run that failed: why, where its log is, and what else it stops: `run`, all runs on its `data`, the `grid`."""

    run: Run
    error: str
    log: str = ""
    stops: str = "run"


class _TimeUp(Exception):
    """Runs are left, and the time is up."""


@dataclass
class Grid:
    """Train a plan in its order, and show the progress: bars on a terminal, else a line a run.

    A worker that dies (killed, out of memory) is replaced, and its run goes on from its last checkpoint. The run fails
    when a second worker dies without any progress since the first.
    """

    plan: Plan
    store: Store
    pool: Pool
    job: Callable[[Run], Job]  # gives the rest of a run's job: the data folder, and whether to keep its net
    show: Callable[[Run, dict[str, Any]], str | None]  # shows a finished run in W&B; returns a line for the user
    clock: Clock
    console: Console
    until: float = math.inf  # when to stop, by `time.monotonic()`

    def __post_init__(self) -> None:
        self.left = dict(self.plan.missing)  # the runs that are neither done nor failed
        self.done, self.failures = 0, list[Failure]()  # failures of parents and data count for each run they stop
        self.running: dict[int, Run] = {}  # by place
        self._shows = ThreadPoolExecutor(1)  # so that nothing waits for W&B
        self._shown: list[Future[str | None]] = []
        self._deaths: dict[str, tuple[int, int]] = {}  # progress at the last worker death, per run
        self._unseen: dict[str, float] = {}  # until when a finished run's files must be visible here
        self._told = dict.fromkeys(self.left, 0)  # how many of a run's notes were printed
        self._epochs = dict.fromkeys(self.left, 0)
        self._waiting, self._stopped = 0, False
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        self._bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._whole = self._bars.add_task("", total=sum(run.epochs for run in self.left.values()), left="")
        places = range(min(_BARS, self.pool.places))
        self._each = [self._bars.add_task("", visible=False, left="") for _ in places]

    def train(self, every: float = 0.5) -> None:
        """Train until every run is done or has failed, a failure stops the grid, or the time is up."""
        for run in self.left.values():
            if not self.store.held(run):
                self.store.forgive(run)
        try:
            with self._bars:
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
        self.look()

    def _start(self) -> None:
        """Start runs where there is room."""
        places = [place for place in range(self.pool.places) if place not in self.running]
        busy = self._unseen.keys() | {run.hash for run in self.running.values()}
        blocked = busy | {child for child, parent in self.plan.parents.items() if parent in self.left}
        ready = [run for name, run in self.left.items() if places and name not in blocked]
        free = [run for run in ready if not self.store.held(run)][: self.pool.places + _OTHERS]
        if not free:
            if ready and not self.running and len(ready) != self._waiting:
                self._waiting = len(ready)
                self._say(f"waiting for {len(ready)} runs that another engine trains in this folder")
            return
        begun = dict(zip(places, free, strict=False))
        for run in begun.values():
            self.store.forgive(run)
            self._told[run.hash] = 0
        self.running |= begun
        jobs = {place: self.describe(run) for place, run in begun.items()}
        try:
            self.pool.start(jobs, [self.describe(run) for run in free[len(begun) :]], self._poll)
        except OSError as error:
            self._fail(Failure(free[0], f"no worker can be started: {error}", stops="grid"))
            for place in begun:  # the others train on
                del self.running[place]

    def describe(self, run: Run) -> Job:
        """Return a run's whole job."""
        pool = self.pool
        job = {**self.job(run), "name": run.name, "run": json.loads(run.to_json()), "runs_dir": str(self.store.root)}
        job |= {"device": pool.device, "threads": 1, "devices": max(1, int(pool.per_run)), "decoders": pool.decoders}
        # A worker may have another working directory.
        return job | ({name: os.path.abspath(job[name]) for name in ("runs_dir", "data_dir")} if pool.elsewhere else {})

    def _end(self, seconds: float) -> None:
        """Wait so long for workers to end, and see what becomes of their runs."""
        if not self.running:
            time.sleep(seconds)
            return
        for place, how in self.pool.ended(seconds):
            if (run := self.running.pop(place, None)) is None:  # started together with a worker that could not be
                continue
            self._tell(run)
            if self.store.done(run) or self.store.failure(run) or (how is None and self.store.held(run)):
                continue
            if how is None and self.pool.elsewhere:
                self._unseen[run.hash] = time.monotonic() + _SEEN
            else:
                self._after_death(run, how or "ended without a result")

    def _after_death(self, run: Run, how: str) -> None:
        """Let a new worker go on with a run, or let it fail."""
        epochs, _ = self.store.progress(run)
        try:
            written = os.stat(self.store.folder(run) / CHECKPOINT).st_mtime_ns  # progress within an epoch
        except OSError:
            written = 0
        try:
            self.store.check_writable()
        except StoreError as error:  # the worker could not even write down why it failed
            self._fail(Failure(run, str(error), stops="grid"))
            return
        if self._deaths.get(run.hash, (-1, -1)) >= (epochs, written):
            why = f"its worker {how}, and so did the next one, after epoch {epochs}"
            self._fail(Failure(run, why, str(self.store.folder(run) / "log.txt")))
        else:
            self._deaths[run.hash] = epochs, written
            self._say(f"the worker of {run.name} {how} after epoch {epochs}; a new one goes on with it")

    def _poll(self) -> None:
        self.look()
        if self.left and time.monotonic() >= self.until:
            raise _TimeUp

    def look(self) -> None:
        """Look at the runs that are left, and show what has changed."""
        for run in self.running.values():
            self._tell(run)
        for name, run in list(self.left.items()):
            done = self.store.done(run) and self.store.damage(run) is None
            if done and (result := self.store.result(run)) is not None:
                del self.left[name]
                self.done += 1
                self._epochs[name] = run.epochs
                self.clock.result(run, result)
                self._say(f"{self.done}/{len(self.plan.missing)}  {run.name}: {score(result)}")
                self._shown.append(self._shows.submit(self.show, run, result))
            elif (progress := self.store.progress(run))[0] != self._epochs[name]:
                self._epochs[name] = progress[0]
                self.clock.measure(run, *progress)
        while self._shown and self._shown[0].done():
            if line := self._shown.pop(0).result():
                self._say(line)
        for name, run in list(self.left.items()):  # after all results: a failure may take other runs with it
            if failure := self.store.failure(run):
                log = self.store.folder(run) / "log.txt"
                self._fail(Failure(run, failure["error"], str(log) if log.exists() else "", failure["stops"]))
            elif time.monotonic() > self._unseen.get(name, math.inf):
                why = f"a worker has finished it, but {self.store.folder(run)} here has no result"
                self._fail(Failure(run, f"{why}: --runs-dir must be a folder that all machines share", stops="grid"))
        if self.console.is_terminal:
            self._draw()

    def _draw(self) -> None:
        """Bring the bars up to date."""
        running, waiting = len(self.running), max(0, len(self.left) - len(self.running))
        state = f"{self.done} of {len(self.plan.missing)} runs done, {running} running, {waiting} left"
        left = ((run, run.epochs - self._epochs[name]) for name, run in self.left.items())
        needed = self.clock.estimate(left, self.pool.places)
        text = "time left unknown" if needed.seconds is None else f"{duration(needed.seconds)} left{needed.more}"
        text = f"{timedelta(seconds=int(self._bars.tasks[0].elapsed or 0))}, {text}"
        self._bars.update(self._whole, completed=sum(self._epochs.values()), description=state, left=text)
        for place, bar in enumerate(self._each):
            self._bars.update(bar, visible=place in self.running)
            if run := self.running.get(place):
                epochs = self._epochs[run.hash]
                self._bars.update(bar, completed=epochs, total=run.epochs, description=run.name)
                self._bars.update(bar, left=f"{epochs} of {run.epochs} epochs")

    def _fail(self, failure: Failure) -> None:
        """Record a failure, and with it those of the run's children and of other runs on the same missing data."""
        name = failure.run.hash
        if self.left.pop(name, None) is None or (failure.stops == "grid" and self._stopped):
            return
        self.failures.append(failure)
        self._stopped |= failure.stops == "grid"
        for child in [self.left[child] for child, parent in self.plan.parents.items() if parent == name]:
            self._fail(Failure(child, f"skipped: its parent {failure.run.name} failed"))
        if failure.stops == "data":
            why = f"skipped: {failure.run.name} failed on the same data"
            begun = self.running.values()
            for run in [run for run in self.left.values() if run.data == failure.run.data and run not in begun]:
                self._fail(replace(failure, run=run, error=why, log="", stops="run"))

    def _tell(self, run: Run) -> None:
        """Print the new notes of a run's worker."""
        notes = self.store.notes(run)
        for line in notes[self._told[run.hash] :]:
            self._say(line)
        self._told[run.hash] = len(notes)

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
