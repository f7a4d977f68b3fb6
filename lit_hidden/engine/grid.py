"""Train a grid: each missing run once, parents first, whoever else is at work in the same folder."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lit_hidden import code
from lit_hidden.engine.estimate import Clock, duration
from lit_hidden.engine.launcher import Failure, Launcher
from lit_hidden.engine.store import Store
from lit_hidden.experiment import Run
from lit_hidden.tables import score

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


class _TimeUp(Exception):
    """Runs are left, and the time is up."""


class Grid:
    """Train what a plan says, in its order, and show how far it is: a progress bar on a terminal, else a line a run.

    Args:
        plan: what is to be trained.
        store: where runs live.
        launcher: trains runs.
        clock: estimates the time left, and takes what is measured.
        console: where to print.
        until: when to stop, by `time.monotonic()`.

    Attributes:
        left: by hash, the runs that are neither done nor have failed; after `train`, those it had no time for.
        done: how many are done.
        failures: the runs that failed, and those not trained because their parent failed.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        launcher: Launcher,
        clock: Clock,
        console: Console,
        until: float = math.inf,
    ) -> None:
        self.plan, self.store, self.launcher, self.clock, self.console = plan, store, launcher, clock, console
        self.until = until
        self.left = dict(plan.missing)
        self.done = 0
        self.failures: list[Failure] = []
        self._epochs = dict.fromkeys(plan.missing, 0)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        epochs = sum(run.epochs for run in self.left.values())
        self._whole = self._bars.add_task("starting workers", total=epochs, left="")
        self._each = [self._bars.add_task("", visible=False, left="") for _ in launcher.running[:_BARS]]

    def train(self) -> None:
        """Train until every run is done or has failed, a failure stops the grid, or the time is up."""
        waiting = 0
        try:
            with self._bars:
                while not any(failure.stops == "grid" for failure in self.failures):
                    self._poll()
                    ready = [run for name, run in self.left.items() if self.plan.parents.get(name) not in self.left]
                    free = [run for run in ready if not self.store.held(run)]
                    if free:
                        known = len(self.launcher.failures)
                        try:
                            self.launcher.launch(free, self._poll)
                        finally:
                            self._fail(self.launcher.failures[known:])
                    elif ready:  # wait for them, or take over when the other engine lets go
                        if len(ready) != waiting:
                            waiting = len(ready)
                            self._say(f"waiting for {waiting} runs that another engine trains in this folder")
                        time.sleep(1)
                    else:
                        return
        except _TimeUp:
            pass
        finally:
            self.launcher.close()
        self.look()  # a run may have ended while it was stopped

    def _poll(self) -> None:
        self.look()
        if self.left and time.monotonic() >= self.until:
            raise _TimeUp

    def look(self) -> None:
        """Look at what is left, and show what has changed."""
        while not self.launcher.notes.empty():
            self._say(self.launcher.notes.get())
        for name, run in list(self.left.items()):
            done = self.store.done(run) and self.store.damage(run) is None
            if done and (result := self.store.result(run)) is not None:
                del self.left[name]
                self.done += 1
                self._epochs[name] = run.epochs
                self.clock.result(run, result)
                self._say(f"{self.done}/{len(self.plan.missing)}  {run.name}: {score(result)}")
            elif (progress := self.store.progress(run))[0] != self._epochs[name]:
                self._epochs[name] = progress[0]
                self.clock.measure(run, *progress)
        if self.console.is_terminal:
            self._show()

    def _show(self) -> None:
        running = [run for run in self.launcher.running if run is not None]
        done = sum(self._epochs.values())
        if done or any((self.store.folder(run) / "metrics.csv").exists() for run in running):
            waiting = max(0, len(self.left) - len(running))
            state = f"{self.done} of {len(self.plan.missing)} runs done, {len(running)} running, {waiting} left"
        else:
            state = "starting workers"
        left = ((run, run.epochs - self._epochs[name]) for name, run in self.left.items())
        needed = self.clock.estimate(left, len(self.launcher.running))
        text = "time left unknown" if needed.seconds is None else f"{duration(needed.seconds)} left{needed.more}"
        text = f"{timedelta(seconds=int(self._bars.tasks[0].elapsed or 0))}, {text}"
        self._bars.update(self._whole, completed=done, description=state, left=text)
        for bar, run in zip(self._each, self.launcher.running[:_BARS], strict=True):
            if run is None:
                self._bars.update(bar, visible=False)
            else:
                epochs = self._epochs.get(self.store.folder(run).name, 0)
                text = f"{epochs} of {run.epochs} epochs"
                self._bars.update(bar, visible=True, completed=epochs, total=run.epochs, description=run.name)
                self._bars.update(bar, left=text)

    def _fail(self, failures: list[Failure]) -> None:
        """Take failures, and with a parent those of its children."""
        for failure in failures:
            name = self.store.folder(failure.run).name
            self.left.pop(name, None)
            self.failures.append(failure)
            why = f"not trained, for {failure.run.name}, with whose net it begins, failed"
            children = [self.left[child] for child, parent in self.plan.parents.items() if parent == name]
            self._fail([Failure(child, why, "") for child in children])

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
