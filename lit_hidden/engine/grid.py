"""Train a grid: each missing run once, parents first, whoever else works in the same folder."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_hidden import code
from lit_hidden.engine.pool import Pool
from lit_hidden.engine.store import CHECKPOINT, SCORES, Store, StoreError, needed
from lit_hidden.engine.work import Job
from lit_hidden.report.tables import score
from lit_hidden.run import Run

_SEEN = 60.0  # seconds until another machine's file must be visible here: as long as NFS caches a folder


def plan(runs: Iterable[Run], store: Store, say: Callable[[str], None], mend: bool = True) -> dict[str, Run]:
    """Find what is missing of `runs`, in their order, and before each the parents that it lacks; by hash.

    `say` takes a line for each damaged folder, which is set aside if `mend` is set. CodeError: runs name code
    that cannot be imported.
    """
    missing = dict[str, Run]()

    def add(run: Run, child: Run | None = None) -> None:
        """Add a run that is missing, after its parents."""
        if why := store.damage(run, child):
            if line := store.mend(run, child) if mend else f"{why}; it is not used":
                say(line)
        elif run.hash in missing or store.done(run):
            return
        if run.parent is not None:
            add(run.parent, run)
        missing[run.hash] = run

    for run in runs:
        add(run)
    code.check(*dict.fromkeys(name for run in missing.values() for name in run.names))
    return missing


@dataclass
class Grid:
    """Train a plan in its order, and say a line for each run that is done.

    A worker that dies (killed, out of memory) is replaced; when the next dies without a new checkpoint, its run fails.
    """

    plan: dict[str, Run]  # by hash, parents before their children
    store: Store
    pool: Pool
    data_dir: str | Path
    show: Callable[[Run, dict[str, Any]], None]  # shows a finished run in W&B
    say: Callable[[str], None]
    until: float = math.inf  # when to stop, by `time.monotonic()`

    def __post_init__(self) -> None:
        self.left = dict(self.plan)  # the runs that are neither done nor failed
        children = [(run, run.parent) for run in self.plan.values() if run.parent is not None]
        self._parents = {run.hash: parent.hash for run, parent in children}
        self._keep = {parent.hash for run, parent in children if needed(run) == (SCORES,)}
        self.done, self.failures = 0, list[str]()  # what to tell of runs that failed; nothing if they were skipped
        self._running: dict[int, Run] = {}  # by place
        self._lost = set[str]()  # what other runs cannot do without: hashes of runs that failed, and missing data
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
        waiting = [run for name, run in self.left.items() if self._parents.get(name) not in self.left]
        idle = [run for run in waiting if run not in self._running.values()]
        if free := [run for run in idle if places and not self.store.held(run)]:
            self._running |= dict(zip(places, free, strict=False))
            self.pool.start(places, [self._job(run) for run in free])

    def _job(self, run: Run) -> Job:
        """Describe a run for a worker, whose working directory may be another."""
        return {
            "run": json.loads(run.to_json()), "name": run.name, "keep": run.hash in self._keep,
            "runs_dir": os.path.abspath(self.store.root), "data_dir": os.path.abspath(self.data_dir),
            "device": self.pool.device, "devices": max(1, int(self.pool.per_run)), "decoders": self.pool.decoders,
            "until": time.time() + self.until - time.monotonic(),  # by the clock of all machines
        }  # fmt: skip

    def _end(self, seconds: float) -> None:
        """Wait so long for workers to end, and see what becomes of their runs."""
        if not self._running:
            time.sleep(seconds)
            return
        for place, how in self.pool.ended(seconds):
            run = self._running.pop(place)
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
        checkpoint, epochs = self.store.folder(run) / CHECKPOINT, self.store.progress(run)
        written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        if self._deaths.get(run.hash) == written:
            self._fail(run, f"its worker {how}, and so did the next one, after epoch {epochs}")
        else:
            self._deaths[run.hash] = written
            self.say(f"  the worker of {run.name} {how} after epoch {epochs}; a new one goes on with it")

    def _look(self) -> None:
        """See which runs are done, have failed, or cannot be trained because others have failed."""
        for name, run in list(self.left.items()):  # parents before their children
            whole = self.store.done(run) and self.store.damage(run) is None
            if whole and (result := self.store.result(run)) is not None:
                del self.left[name]
                self.done += 1
                self.say(f"  {self.done}/{len(self.plan)}  {run.name}: {score(result)}")
                self._shows.submit(self.show, run, result)
            elif failure := self.store.failure(run):
                if failure["stops"] == "grid":
                    raise StoreError(failure["error"])
                self._lost |= {run.data} if failure["stops"] == "data" else set()
                self._fail(run, failure["error"])
            elif {self._parents.get(name), run.data} & self._lost:
                self._fail(run)

    def _fail(self, run: Run, error: str = "") -> None:
        """Record a failure, or without an error that a run is skipped."""
        del self.left[run.hash]
        self._lost.add(run.hash)
        self.failures.append(error and f"{run.name}: {error}; its log is {self.store.folder(run) / 'log.txt'}")
