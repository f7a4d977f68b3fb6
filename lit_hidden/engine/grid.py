"""Train a grid: each missing run once, parents first, whoever else is at work in the same folder."""

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
_SEEN = 60.0  # seconds until a file of another machine must have come in sight: as long as NFS remembers a folder
_BARS = 8  # of single runs, so that a machine of many workers does not fill the screen


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Args:
        missing: the runs to train, by hash, in the order of the grid; before each, the parents that it lacks.
        parents: the hash of a missing run's parent, if that is missing too.
        damaged: why folders of missing runs cannot be believed, by hash.
    """

    missing: dict[str, Run]
    parents: dict[str, str]
    damaged: dict[str, str]


def plan(runs: Iterable[Run], store: Store, mended: Callable[[str], None] | None = None) -> Plan:
    """Find what is missing of `runs`, and which parents that needs.

    Args:
        runs: the grid.
        store: where runs live.
        mended: takes a line for each damaged folder, which is set aside; None leaves all as it is.

    Raises:
        StoreError: a folder may not be read, or not be set aside.
        CodeError: a run names code of which there is no source.
    """
    found = Plan({}, {}, {})

    def add(run: Run, child: Run | None = None) -> str | None:
        name = store.folder(run).name
        if why := store.damage(run, child):
            found.damaged[name] = why
            if mended and (line := store.mend(run, child)):
                mended(line)
        elif name in found.missing or store.done(run):
            return name if name in found.missing else None
        if (parent := run.parent) is not None and (needed := add(parent, run)):
            found.parents[name] = needed
        found.missing[name] = run
        return name

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
    log: str
    stops: str = "run"


class _TimeUp(Exception):
    """Runs are left, and the time is up."""


class Grid:
    """Train what a plan says, in its order, and show how far it is: a progress bar on a terminal, else a line a run.

    A worker that dies (killed, out of memory) is replaced, and its run goes on from its last checkpoint. The run has
    failed when a worker dies again without having got any further.

    Args:
        plan: what is to be trained.
        store: where runs live.
        pool: trains runs.
        job: gives what a run's job says besides: the data folder, and whether its net is kept for runs after it.
        show: shows a run that is done, with its result, in W&B; returns a line for the user or None.
        clock: estimates the time left, and takes what is measured.
        console: where to print.
        until: when to stop, by `time.monotonic()`.

    Attributes:
        left: by hash, the runs that are neither done nor have failed; after `train`, those it had no time for.
        done: how many are done.
        failures: the runs that failed, and those not trained because their parent or their data failed.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        pool: Pool,
        job: Callable[[Run], Job],
        show: Callable[[Run, dict[str, Any]], str | None],
        clock: Clock,
        console: Console,
        until: float = math.inf,
    ) -> None:
        self.plan, self.store, self.pool, self.job, self.clock, self.console = plan, store, pool, job, clock, console
        self.until, self.show = until, show
        self._shows = ThreadPoolExecutor(1)  # so that nothing waits for W&B
        self._shown: list[Future[str | None]] = []
        self.left = dict(plan.missing)
        self.done = 0
        self.failures: list[Failure] = []
        self.running: dict[int, Run] = {}  # by place
        self._died: dict[str, tuple[int, int]] = {}  # how far those were whose worker died
        self._unseen: dict[str, float] = {}  # until when something must have come in sight
        self._told: dict[str, int] = {}  # how many of a run's notes were told
        self._stopped = False
        self._epochs = dict.fromkeys(plan.missing, 0)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        epochs = sum(run.epochs for run in self.left.values())
        self._whole = self._bars.add_task("starting workers", total=epochs, left="")
        self._each = [self._bars.add_task("", visible=False, left="") for _ in range(min(_BARS, pool.places))]

    def train(self, every: float = 0.5) -> None:
        """Train until every run is done or has failed, a failure stops the grid, or the time is up."""
        waiting = 0
        for run in self.left.values():
            if not self.store.held(run):
                self.store.forgive(run)
        try:
            with self._bars:
                self._poll()
                while self.running or (self.left and not self._stopped):
                    ready = [] if self._stopped else [run for run in self.left.values() if self._ready(run)]
                    free = [run for run in ready if not self.store.held(run)][: self.pool.places + _OTHERS]
                    if free and len(self.running) < self.pool.places:
                        self._start(free)
                    elif ready and not self.running and len(ready) != waiting:
                        waiting = len(ready)  # or take over when the other engine lets go
                        self._say(f"waiting for {waiting} runs that another engine trains in this folder")
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

    def _ready(self, run: Run) -> bool:
        """Tell whether a run can be trained now, unless another engine holds it."""
        busy = run.hash in self._unseen or run in self.running.values()
        return not busy and self.plan.parents.get(run.hash) not in self.left

    def _start(self, free: list[Run]) -> None:
        """Start runs where there is room."""
        places = [place for place in range(self.pool.places) if place not in self.running]
        begun = dict(zip(places, free, strict=False))
        for run in begun.values():
            self.store.forgive(run)
            self._told[run.hash] = 0
        self.running |= begun
        jobs = {place: self._describe(run) for place, run in begun.items()}
        try:
            self.pool.start(jobs, [self._describe(run) for run in free[len(begun) :]], self._poll)
        except OSError as error:
            self._fail(Failure(free[0], f"no worker can be started: {error}", "", "grid"))
            for place in begun:  # the others train on
                del self.running[place]

    def _describe(self, run: Run) -> Job:
        """Write down a run's job."""
        pool = self.pool
        job = {**self.job(run), "name": run.name, "run": json.loads(run.to_json()), "runs_dir": str(self.store.root)}
        job |= {"device": pool.device, "threads": 1, "devices": max(1, int(pool.per_run)), "decoders": pool.decoders}
        if pool.elsewhere:
            job |= {name: os.path.abspath(job[name]) for name in ("runs_dir", "data_dir") if name in job}
        return job

    def _end(self, seconds: float) -> None:
        """Wait so long for workers to end, and see what becomes of their runs."""
        if not self.running:
            time.sleep(seconds)
            return
        for place, how in self.pool.ended(seconds):
            if (run := self.running.pop(place, None)) is None:  # begun beside one that could not be
                continue
            self._tell(run)
            if self.store.done(run) or self.store.failure(run) or (how is None and self.store.held(run)):
                continue
            if how is None and self.pool.elsewhere:
                self._unseen[run.hash] = time.monotonic() + _SEEN
            else:
                self._after_death(run, how or "ended without a result")

    def _after_death(self, run: Run, how: str) -> None:
        """Say what follows from the death of a run's worker: it is trained on, or it has failed."""
        epochs, _ = self.store.progress(run)
        try:
            written = os.stat(self.store.folder(run) / CHECKPOINT).st_mtime_ns  # in the middle of an epoch too
        except OSError:
            written = 0
        try:
            self.store.check_writable()
        except StoreError as error:  # the worker could not even write down why it failed
            self._fail(Failure(run, str(error), "", "grid"))
            return
        if self._died.get(run.hash, (-1, -1)) >= (epochs, written):
            why = f"its worker {how}, and so did the next one, after epoch {epochs}"
            self._fail(Failure(run, why, str(self.store.folder(run) / "log.txt")))
        else:
            self._died[run.hash] = (epochs, written)
            self._say(f"the worker of {run.name} {how} after epoch {epochs}; a new one goes on with it")

    def _poll(self) -> None:
        self.look()
        if self.left and time.monotonic() >= self.until:
            raise _TimeUp

    def look(self) -> None:
        """Look at what is left, and show what has changed."""
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
        for name, run in list(self.left.items()):  # after results: one may be on data that others fail for want of
            if failure := self.store.failure(run):
                log = self.store.folder(run) / "log.txt"
                self._fail(Failure(run, failure["error"], str(log) if log.exists() else "", failure["stops"]))
            elif time.monotonic() > self._unseen.get(name, math.inf):
                why = f"a worker has finished it, but {self.store.folder(run)} here has no result"
                self._fail(Failure(run, f"{why}: --runs-dir must be a folder that all machines share", "", "grid"))
        if self.console.is_terminal:
            self._show()

    def _show(self) -> None:
        running = list(self.running.values())
        done = sum(self._epochs.values())
        if done or any((self.store.folder(run) / "metrics.csv").exists() for run in running):
            waiting = max(0, len(self.left) - len(running))
            state = f"{self.done} of {len(self.plan.missing)} runs done, {len(running)} running, {waiting} left"
        else:
            state = "starting workers"
        left = ((run, run.epochs - self._epochs[name]) for name, run in self.left.items())
        needed = self.clock.estimate(left, self.pool.places)
        text = "time left unknown" if needed.seconds is None else f"{duration(needed.seconds)} left{needed.more}"
        text = f"{timedelta(seconds=int(self._bars.tasks[0].elapsed or 0))}, {text}"
        self._bars.update(self._whole, completed=done, description=state, left=text)
        for place, bar in enumerate(self._each):
            if (run := self.running.get(place)) is None:
                self._bars.update(bar, visible=False)
            else:
                epochs = self._epochs.get(self.store.folder(run).name, 0)
                text = f"{epochs} of {run.epochs} epochs"
                self._bars.update(bar, visible=True, completed=epochs, total=run.epochs, description=run.name)
                self._bars.update(bar, left=text)

    def _fail(self, failure: Failure) -> None:
        """Take a failure, and with it those of the run's children, and of all on data that are at fault."""
        name = failure.run.hash
        if self.left.pop(name, None) is None or (failure.stops == "grid" and self._stopped):
            return
        self.failures.append(failure)
        self._stopped |= failure.stops == "grid"
        why = f"not trained, for {failure.run.name}, with whose net it begins, failed"
        for child in [self.left[child] for child, parent in self.plan.parents.items() if parent == name]:
            self._fail(Failure(child, why, ""))
        if failure.stops == "data":
            why = f"not tried: {failure.run.name} failed on the same data"
            begun = self.running.values()
            for run in [run for run in self.left.values() if run.data == failure.run.data and run not in begun]:
                self._fail(replace(failure, run=run, error=why, log="", stops="run"))

    def _tell(self, run: Run) -> None:
        """Show what a run's worker has noted since."""
        for line in self.store.notes(run)[self._told.get(run.hash, 0) :]:
            self._told[run.hash] = self._told.get(run.hash, 0) + 1
            self._say(line)

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
