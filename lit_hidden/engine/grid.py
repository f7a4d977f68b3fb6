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

from lit_hidden import code
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
        OSError: a folder cannot be read or set aside.
        CodeError: a run names code that has no source here.
    """
    found = Plan({}, {}, {})

    def add(run: Run, child: Run | None = None) -> None:
        """Add a run that is missing, after its parents."""
        if why := store.damage(run, child):
            found.damaged[run.hash] = why
            if mended and (line := store.mend(run, child)):
                mended(line)
        elif run.hash in found.missing or store.done(run):
            return
        if (parent := run.parent) is not None:
            add(parent, run)
            if parent.hash in found.missing:
                found.parents[run.hash] = parent.hash
        found.missing[run.hash] = run

    for run in runs:
        add(run)
    for name in dict.fromkeys(name for run in found.missing.values() for name in run.names):
        code.check(name)
    return found


@dataclass(frozen=True)
class Failure:
    """A run that failed: why, and its log (none of a run that was skipped)."""

    run: Run
    error: str
    log: str = ""


@dataclass
class Grid:
    """Train a plan in its order, and print a line for each run that is done.

    A worker that dies (killed, out of memory) is replaced, and its run goes on from its last checkpoint. The run fails
    when a second worker dies without a new checkpoint.
    """

    plan: Plan
    store: Store
    pool: Pool
    job: Callable[[Run], Job]  # gives the rest of a run's job: the data folder, and whether to keep its net
    show: Callable[[Run, dict[str, Any]], None]  # shows a finished run in W&B
    console: Console
    until: float = math.inf  # when to stop, by `time.monotonic()`

    def __post_init__(self) -> None:
        self.left = dict(self.plan.missing)  # the runs that are neither done nor failed
        self.done, self.failures = 0, list[Failure]()
        self._running: dict[int, Run] = {}  # by place
        self._lost: dict[str, str] = {}  # why runs are skipped: by the hash of a parent that failed, or by their data
        self._deaths: dict[str, int] = {}  # when a run's checkpoint was written, at its last worker's death
        self._shows = ThreadPoolExecutor(1)  # so that nothing waits for W&B

    def train(self, every: float = 0.5) -> None:
        """Train until every run is done or has failed, or the time is up. StoreError: none can be trained any more."""
        for run in self.left.values():
            if not self.store.held(run):
                self.store.forgive(run)
        try:
            self._look()
            while (self._running or self.left) and time.monotonic() < self.until:
                self._start()
                self._end(every)
                self._look()
        except BaseException:
            self._shows.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            self.pool.close()
        self._look()  # a run may have ended while it was stopped
        self._shows.shutdown()

    def _start(self) -> None:
        """Start runs where there is room, if their parents are done and no other engine trains them."""
        places = [place for place in range(self.pool.places) if place not in self._running]
        busy, parents = {run.hash for run in self._running.values()}, self.plan.parents
        ready = [run for name, run in self.left.items() if name not in busy and parents.get(name) not in self.left]
        free = [run for run in ready if places and not self.store.held(run)]
        if free:
            self._running |= dict(zip(places, free, strict=False))
            self.pool.start(places, [self._described(run) for run in free])

    def _described(self, run: Run) -> Job:
        """Return a run's whole job; its paths are absolute, as a worker may have another working directory."""
        pool, asked = self.pool, self.job(run)
        paths = {"runs_dir": os.path.abspath(self.store.root), "data_dir": os.path.abspath(asked["data_dir"])}
        on = {"device": pool.device, "devices": max(1, int(pool.per_run)), "decoders": pool.decoders}
        until = time.time() + self.until - time.monotonic()  # by the clock of all machines
        return {**asked, "name": run.name, "run": json.loads(run.to_json()), **paths, **on, "until": until}

    def _end(self, seconds: float) -> None:
        """Wait so long for workers to end, and see what becomes of their runs."""
        if not self._running:
            time.sleep(seconds)
            return
        for place, how in self.pool.ended(seconds):
            run = self._running.pop(place)
            for line in self.store.notes(run):
                self._say(line)
            if how is None and self.pool.elsewhere:
                self._await(run)
            elif run.hash in self.left and not self._over(run) and (how or not self.store.held(run)):
                self._replace(run, how or "ended without a result")

    def _over(self, run: Run) -> bool:
        """Tell whether nothing more is to come of a run: workers stop by themselves when the time is up."""
        return self.store.done(run) or self.store.failure(run) is not None or time.monotonic() >= self.until

    def _await(self, run: Run) -> None:
        """Wait for what a worker has left elsewhere."""
        until = time.monotonic() + _SEEN
        while not (self._over(run) or self.store.held(run)):
            if time.monotonic() > until:
                why = f"a worker has finished {run.name}, but {self.store.folder(run)} here has no result"
                raise StoreError(f"{why}: --runs-dir must be a folder that all machines share")
            time.sleep(1)

    def _replace(self, run: Run, how: str) -> None:
        """Let a new worker go on with a run, or let it fail."""
        self.store.check_writable()  # else the worker could not write down why it failed
        checkpoint, epochs = self.store.folder(run) / CHECKPOINT, self.store.progress(run)[0]
        written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        if self._deaths.get(run.hash) == written:
            self._fail(run, f"its worker {how}, and so did the next one, after epoch {epochs}")
        else:
            self._deaths[run.hash] = written
            self._say(f"the worker of {run.name} {how} after epoch {epochs}; a new one goes on with it")

    def _look(self) -> None:
        """See which runs are done, have failed, or cannot be trained because others have failed."""
        for name, run in list(self.left.items()):  # parents before their children
            whole = self.store.done(run) and self.store.damage(run) is None
            if whole and (result := self.store.result(run)) is not None:
                del self.left[name]
                self.done += 1
                self._say(f"{self.done}/{len(self.plan.missing)}  {run.name}: {score(result)}")
                self._shows.submit(self.show, run, result)
            elif failure := self.store.failure(run):
                if failure["stops"] == "grid":
                    raise StoreError(failure["error"])
                if failure["stops"] == "data":
                    self._lost.setdefault(run.data, f"skipped: {run.name} failed on the same data")
                self._fail(run, failure["error"])
            elif lost := [key for key in (self.plan.parents.get(name), run.data) if key in self._lost]:
                self._fail(run, self._lost[lost[0]], tried=False)

    def _fail(self, run: Run, error: str, tried: bool = True) -> None:
        """Record a failure."""
        del self.left[run.hash]
        self._lost[run.hash] = f"skipped: its parent {run.name} failed"
        self.failures.append(Failure(run, error, str(self.store.folder(run) / "log.txt") if tried else ""))

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
