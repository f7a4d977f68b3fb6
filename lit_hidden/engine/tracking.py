"""Weights & Biases: a view of the runs, never their record. No failure of it ends a run.

A Run is a W&B run: project lit-hidden, group experiment/preset, job type hidden, dense, supermask or random, id the
run's hash, config the Run. A reproduction ends with a summary run that holds the table, the drawing and the verdicts.
"""

import importlib.util
import json
import netrc
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lit_hidden.experiment import Run
from lit_hidden.judge import Verdict

PROJECT = "lit-hidden"
MODES = ("online", "offline", "disabled", "shared")
SYNC = "make wandb-sync (or lit-hidden wandb-sync) uploads them later"

_HEADER = 7  # bytes of a W&B log before its first record

T = TypeVar("T")


def choose_mode() -> tuple[str, str | None]:
    """Choose W&B's mode: `WANDB_MODE` if set; else online with a key and a server that answers; else offline.

    Returns:
        the mode (`online`, `offline`, `disabled`, `shared`), and a line for the user or None.
    """
    if importlib.util.find_spec("wandb") is None:
        return "disabled", "W&B: not installed, so nothing is shown there; runs/ is the record all the same"
    if mode := os.environ.get("WANDB_MODE", "").lower():
        mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # W&B's old names
        if mode not in MODES:
            return "disabled", f"W&B: WANDB_MODE={mode} is unknown, so nothing is shown; modes are {', '.join(MODES)}"
        os.environ["WANDB_MODE"] = mode  # W&B itself reads it too, and takes small letters alone
        return mode, None
    if why := why_offline():
        return "offline", f"W&B: {why}, so runs are kept offline in wandb/; {SYNC}"
    return "online", None


def why_offline() -> str | None:
    """Say why nothing can be uploaded: there is no key, or the server does not answer; None if it can."""
    address = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    if not (os.environ.get("WANDB_API_KEY") or _in_netrc(address.hostname or "")):
        return "no API key is configured"
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=2).close()
    except OSError:
        return f"{address.hostname} does not answer"
    return None


def _in_netrc(host: str) -> bool:
    """Tell whether `wandb login` has left a key: it writes one to the netrc file."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Tracker:
    """One W&B run, from `start` to `finish`; the first failure is told once and ends the view, not the run.

    Args:
        mode: `online`, `offline` or `disabled`.
        group: experiment/preset.
    """

    def __init__(self, mode: str, group: str) -> None:
        self.mode, self.group = mode, group
        self._run: Any = None

    @classmethod
    def nothing(cls) -> "Tracker":
        """Return a tracker that shows nothing."""
        return cls("disabled", "")

    def _safely(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            sys.stderr.write(f"W&B: {type(error).__name__}: {error}; the run goes on without it\n")
            self.mode, self._run = "disabled", None
            return None

    def _init(self, **kwargs: Any) -> None:
        if self.mode == "disabled":
            return

        def init() -> Any:
            import wandb

            settings = wandb.Settings(console="off", silent=True, init_timeout=15, x_disable_stats=True)
            return wandb.init(
                project=PROJECT,
                group=self.group,
                mode=self.mode,  # type: ignore[arg-type]
                settings=settings,
                dir=os.environ.get("WANDB_DIR"),  # read now: W&B remembers what it was when first asked
                reinit="finish_previous",
                **kwargs,
            )

        self._run = self._safely(init)

    def start(self, run: Run) -> None:
        """Begin the W&B run of `run`; `replay` then shows the epochs that were trained before.

        Online it goes on with the W&B run of that id. Offline each beginning is a folder of its own, and the last one
        is whole: those before it, of the same id in our project, are removed.
        """
        run = run.resolved
        if self.mode == "offline":
            self._safely(lambda: _remove_stale(run.hash))
        kind = "hidden" if run.method == "edge_popup" else str(run.method)
        self._init(
            id=run.hash,
            name=run.name,
            job_type=kind,
            tags=[name[-64:] for name in (run.net, kind, run.data)],  # W&B refuses longer ones
            config=json.loads(run.to_json()),
            resume="allow" if self.mode == "online" else None,
        )

    def start_summary(self, name: str) -> None:
        """Begin the run that sums a reproduction up."""
        self._init(name=f"{name} summary", job_type="summary", tags=["summary"])

    def log(self, row: dict[str, float]) -> None:
        """Show one epoch."""
        if self._run is not None:
            shown = {k: v for k, v in row.items() if v == v}
            self._safely(lambda: self._run.log(shown, step=int(row["epoch"])))

    def replay(self, rows: Iterable[dict[str, float]]) -> None:
        """Show the epochs trained before, but for those that W&B has already: it ignores steps that go backwards.

        Offline all of them, since the folder is new; online those that a kill kept from being uploaded.
        """
        for row in rows:
            if self._run is not None and row["epoch"] >= self._run.starting_step:
                self.log(row)

    def summary(self, values: dict[str, Any]) -> None:
        """Set the run's summary values."""
        if self._run is not None:
            self._safely(lambda: self._run.summary.update(values))

    def figure(self, table: list[dict[str, Any]], drawing: Path, verdicts: Iterable[Verdict]) -> None:
        """Show a reproduction: its table of results, its verdicts, and its drawing if there is one."""
        if self._run is None:
            return

        def show() -> None:
            import wandb

            judged = [asdict(v) for v in verdicts]
            shown = {
                name: wandb.Table(columns=list(rows[0]), data=[[_cell(cell) for cell in row.values()] for row in rows])
                for name, rows in (("results", table), ("verdicts", judged))
                if rows
            }
            self._run.log(shown | ({"drawing": wandb.Image(str(drawing))} if drawing.exists() else {}))
            self._run.summary.update({v["sentence"]: v["verdict"] for v in judged})

        self._safely(show)

    def finish(self) -> None:
        """End the W&B run."""
        if self._run is not None:
            self._safely(lambda: self._run.finish())
            self._run = None


def _remove_stale(name: str) -> None:
    """Remove what earlier processes left of an offline run of ours; the new one replays its epochs."""
    for folder in (Path(os.environ.get("WANDB_DIR") or ".") / "wandb").glob(f"offline-run-*-{name}"):
        log = folder / f"run-{name}.wandb"
        beginning = log.read_bytes()[:4096] if log.is_file() else None
        # The first record names the project. A kill may leave the header alone: W&B writes 32 kB at a time.
        if beginning is not None and (PROJECT.encode() in beginning or len(beginning) <= _HEADER):
            shutil.rmtree(folder, ignore_errors=True)  # W&B's own process may still be ending in it


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)
