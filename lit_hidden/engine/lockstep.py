"""The launcher of processes that torchrun or SLURM (srun) has started together: each run is trained by all of them."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lit_hidden.engine import team
from lit_hidden.engine.launcher import Job, Launcher, LauncherError
from lit_hidden.engine.local import gpu_name, gpus
from lit_hidden.engine.store import Store
from lit_hidden.engine.worker import work
from lit_hidden.experiment import Run

if TYPE_CHECKING:
    from lit_hidden.engine.ranks import Ranks


class LockstepLauncher(Launcher):
    """Train runs one after the other in this process, the leader, and in the others, which follow.

    A run that fails stops the grid, and this process: others may wait for it. What has started them starts them again
    or not; the same command goes on from the last checkpoint.

    Args:
        store: where the runs live, in a folder that all machines share.
        ranks: where this process stands; the first.
        job: gives what a run's job says besides the run: data folder, W&B mode and group.
    """

    def __init__(self, store: Store, ranks: "Ranks", job: Callable[[Run], Job]) -> None:
        super().__init__(store, job, ranks.size, ranks.nodes)
        self.device = "cuda" if gpus() else "cpu"
        if 0 < gpus() < ranks.here:
            raise LauncherError(
                f"{ranks.here} processes were started on a machine where each sees {gpus()} GPUs: start as many as "
                "there are GPUs, and let each see all of them (with srun, --gpu-bind=none)"
            )
        self.running = [None]

    def _gpu(self) -> str:
        return gpu_name()

    def launch(self, runs: Iterable[Run], poll: Callable[[], None], every: float = 0.5) -> None:
        """Train `runs`, but for those that another process holds; call `poll` every so many seconds until all ended."""
        for run in runs:
            if self._stop.is_set():
                return
            if self._spoils(run):
                continue
            self.running = [run]
            with _polled(poll, every):
                answer = work(self._describe(run))
            self.running = [None]
            if team.broken:
                answer = {**answer, "stops": "grid"}
            self._take(run, answer, "above")
            poll()

    def close(self) -> None:
        """Leave the followers to wait: for the next grid, or the end of `team.led`."""


@contextmanager
def _polled(poll: Callable[[], None], every: float) -> Iterator[None]:
    """Call `poll` from another thread, and never after the end; what it raises stops training, as SIGTERM does."""
    done = threading.Event()
    raised: list[Exception] = []

    def watch() -> None:
        try:
            while not done.wait(every):
                poll()
        except Exception as error:
            raised.append(error)
            signal.raise_signal(signal.SIGTERM)  # which Python's main thread takes: it trains

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        try:
            yield
        finally:
            done.set()
            thread.join()
    except (SystemExit, KeyboardInterrupt):  # stopped: in a step, or outside training
        if raised:
            raise raised[0] from None
        raise
