"""Weights & Biases: a view of the runs, never their record.

A run is shown when its result is on disk, so no failure of W&B can lose one, and none takes longer than `LIMITS`. A Run
is a W&B run: project lit-hidden, group experiment/preset, job type hidden, dense, supermask or random, id the run's
hash, config the Run. A reproduction ends with a summary run that holds the table, the drawing and the verdicts.
"""

import csv
import importlib.util
import json
import netrc
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from lit_hidden.judge import Verdict
from lit_hidden.run import Run

PROJECT = "lit-hidden"
MODES = ("online", "offline", "disabled", "shared")
SYNC = "make wandb-sync (or lit-hidden wandb-sync) uploads them later"
LIMITS = {"init_timeout": 5.0, "finish_timeout": 10.0, "finish_timeout_raises": True}  # seconds, of each run
_ROOM = 2**20  # bytes that must be free for a run; on a full disk W&B's own log prints hundreds of lines

_failed: set[str] = set()  # modes that this process has given up


def choose_mode() -> tuple[str, str | None]:
    """Choose W&B's mode, and say why in a line for the user where that is needed.

    It is `WANDB_MODE` if set; else online with a key and a server that answers; else offline.
    """
    if importlib.util.find_spec("wandb") is None:
        return "disabled", "W&B: not installed, so nothing is shown there; runs/ is the record all the same"
    if mode := os.environ.get("WANDB_MODE", "").lower():
        mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # W&B's old names
        if mode not in MODES:
            return "disabled", f"W&B: WANDB_MODE={mode} is unknown, so nothing is shown; modes are {', '.join(MODES)}"
        os.environ["WANDB_MODE"] = mode  # W&B itself reads it too, in small letters only
        return mode, None
    if why := why_offline():
        return "offline", f"W&B: {why}, so runs are kept offline in wandb/; {SYNC}"
    return "online", None


def why_offline() -> str | None:
    """Say why nothing can be uploaded: there is no key, or the server does not answer; None if it can."""
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    host = urlsplit(server).hostname or server
    try:
        logged_in = netrc.netrc(os.environ.get("NETRC")).authenticators(host)  # `wandb login` writes its key there
    except (OSError, netrc.NetrcParseError):
        logged_in = None
    if not (os.environ.get("WANDB_API_KEY") or logged_in):
        return "no API key is configured"
    found: list[str | None] = [f"{host} does not answer"]

    def ask() -> None:  # with a request: some servers and proxies take connections and never answer
        try:
            urlopen(server, timeout=1.5).close()
            found[0] = None
        except HTTPError as error:
            error.close()
            found[0] = f"{host} answers with {error.code}" if error.code >= 500 else None
        except (OSError, HTTPException, ValueError):
            pass

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2)  # urlopen's timeout holds for each read: an answer of a byte a second would last
    return found[0]


def show(run: Run, folder: Path, result: Mapping[str, Any], mode: str, group: str) -> str | None:
    """Show a finished run with the curves in its folder; the result's numbers become the W&B run's summary.

    Return what failed, as a line for the user, once for each process and mode.
    """
    run = run.resolved
    kind = "hidden" if run.method == "edge_popup" else str(run.method)

    def fill(shown: Any) -> None:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                shown.log({name: float(cell) for name, cell in row.items() if cell}, step=int(row["epoch"]))
        shown.summary.update({name: value for name, value in result.items() if isinstance(value, int | float)})

    return _shown(
        mode,
        fill,
        id=run.hash,
        name=run.name[-128:],  # W&B refuses longer ones, and tags above 64
        group=group,
        job_type=kind,
        tags=[name[-64:] for name in (run.net, kind, run.data)],
        config=json.loads(run.to_json()),
        resume="allow" if mode == "online" else None,  # a run that is trained again is the same run
    )


def show_summary(
    group: str, table: list[dict[str, Any]], drawing: Path, verdicts: Iterable[Verdict], mode: str
) -> str | None:
    """Show a reproduction: its table of results, its verdicts, and its drawing if there is one; else as `show`."""

    def fill(shown: Any) -> None:
        import wandb

        judged = [asdict(v) for v in verdicts]
        tables = {
            name: wandb.Table(columns=list(rows[0]), data=[[_cell(cell) for cell in row.values()] for row in rows])
            for name, rows in (("results", table), ("verdicts", judged))
            if rows
        }
        shown.log(tables | ({"drawing": wandb.Image(str(drawing))} if drawing.exists() else {}))
        shown.summary.update({v["sentence"]: v["verdict"] for v in judged})

    return _shown(mode, fill, name=f"{group} summary", group=group, job_type="summary", tags=["summary"])


def _shown(mode: str, fill: Callable[[Any], None], **about: Any) -> str | None:
    """Make a W&B run: if online fails, offline; if that fails too, none."""
    told = None
    for chosen in {"online": ("online", "offline"), "disabled": ()}.get(mode, (mode,)):
        if chosen in _failed:
            continue
        folder = Path(os.environ.get("WANDB_DIR") or ".").absolute()  # read now: W&B keeps the first value
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it waits for a dead server when the process ends
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(_ROOM))
            import wandb

            settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, **LIMITS)  # type: ignore[arg-type]
            about |= {"mode": chosen, "settings": settings, "dir": folder}
            about |= {"resume": None} if chosen == "offline" else {}
            shown = wandb.init(project=PROJECT, reinit="finish_previous", **about)
            fill(shown)
            shown.finish()
            return told
        except Exception as error:
            _failed.add(chosen)
            offline = f"runs are kept offline in wandb/; {SYNC}"
            kept = offline if chosen == "online" else f"nothing is kept in {folder}/wandb"
            told = f"W&B: {type(error).__name__}: {str(error).partition(chr(10))[0]}, so {kept}"
            with suppress(Exception):  # its service still has the run; end that too
                sys.modules["wandb"].teardown()
    return told


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)
