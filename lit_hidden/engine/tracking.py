"""Weights & Biases: a view of runs whose results are on disk; no failure of W&B loses one or takes beyond `LIMITS`.

A Run is a W&B run in the group of each figure that uses it; a reproduction ends with a summary run that holds the
table, drawing and verdicts.
"""

import csv
import json
import netrc
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from lit_hidden.engine.store import SUBNETWORK
from lit_hidden.judge import Verdict
from lit_hidden.run import Run

OFFLINE = "so runs are kept offline in wandb/; make wandb-sync (or wandb sync) uploads them later"
LIMITS = {"init_timeout": 5.0, "finish_timeout": 10.0, "finish_timeout_raises": True}  # seconds, of each run


def has_key() -> bool:
    """Tell whether a key is configured for the server: in `WANDB_API_KEY`, or where `wandb login` writes it."""
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    with suppress(OSError, netrc.NetrcParseError):
        if netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(server).hostname or server):
            return True
    return bool(os.environ.get("WANDB_API_KEY"))


def labels(group: str, name: str, last: str, net: str, method: str, data: str) -> dict[str, Any]:
    """Label a run within W&B's limits. The id names its folder, which `wandb leet` lists; `last` makes it unique."""
    kind = "hidden" if method == "edge_popup" else method
    readable = re.sub(r"[^\w.=-]", "-", f"{group}-{name}", flags=re.ASCII)[: 127 - len(last)]
    about = {"group": group, "name": name[-128:], "job_type": kind, "tags": [tag[-64:] for tag in (net, kind, data)]}
    return {"id": f"{readable}-{last}", **about}


class View:
    """Shows runs in the mode of `WANDB_MODE`, else online with a key, else offline; `say` takes what fails, once.

    If online fails, runs are kept offline; if that fails too, none is shown.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        self.modes = {"online": ["online", "offline"], "disabled": []}.get(mode, [mode])
        self._say = say
        self.folder = Path(os.environ.get("WANDB_DIR") or ".").absolute()  # W&B itself would take a temporary one
        if not os.environ.get("WANDB_MODE") and mode == "offline":
            say(f"W&B: no API key is configured, {OFFLINE}")

    def show(self, run: Run, folder: Path, result: Mapping[str, Any], group: str, new: bool = True) -> None:
        """Show a finished run in a figure's group: the curves in its folder, the result's numbers as its summary.

        One that is not `new` is shown unless W&B's folder has it in this group.
        """
        run = run.resolved
        about = labels(group, run.name, run.hash, run.net, str(run.method), run.data)
        if not self.modes or (not new and any(self.folder.glob(f"wandb/*run-????????_??????-{about['id']}"))):
            return
        # The curve has some of the result's numbers already, under the names that `fit` gives them.
        names = {"accuracy": "test_top1", "train_accuracy": "train_top1", "steps": "step"}
        names |= {name: f"test_{name}" for name in ("loss", "top5", result.get("metric")) if name}

        def fill(shown: Any) -> None:
            with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    shown.log({name: float(cell) for name, cell in row.items() if cell}, step=int(row["epoch"]))
            numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
            shown.summary.update({names.get(name, name): value for name, value in numbers.items()})
            if not shown.offline and (folder / SUBNETWORK).exists():
                shown.log_artifact(folder / SUBNETWORK, name=f"subnetwork-{run.hash}", type="subnetwork")

        self._show(fill, config=json.loads(run.to_json()), **about)

    def summarise(self, group: str, table: list[dict[str, Any]], drawing: Path, verdicts: Iterable[Verdict]) -> None:
        """Show a reproduction: its table, its verdicts, and its drawing if there is one."""

        def fill(shown: Any) -> None:
            import wandb

            judged = [{**asdict(verdict), "failed": str(verdict.failed)} for verdict in verdicts]
            for name, rows in (("results", table), ("verdicts", judged)):
                if rows:
                    shown.log({name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})
            if drawing.exists():
                shown.log({"drawing": wandb.Image(str(drawing))})
            shown.summary.update({verdict["sentence"]: verdict["verdict"] for verdict in judged})

        about = labels(group, "summary", uuid4().hex[:8], net="", method="summary", data="")
        self._show(fill, **about | {"name": f"{group} summary", "tags": ["summary"]})

    def _show(self, fill: Callable[[Any], None], **about: Any) -> None:
        """Make a W&B run in the first mode that has not failed yet."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it waits for a dead server when the process ends
        no_stats = os.environ.get("WANDB__DISABLE_STATS") != "false"  # the run is over: they would be of this process
        while self.modes:
            mode = self.modes[0]
            again = "allow" if mode == "online" else None  # a run that is trained again is the same
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                import wandb

                settings: Any = wandb.Settings(console="off", silent=True, x_disable_stats=no_stats, **LIMITS)  # type: ignore[arg-type]
                about |= {"mode": mode, "settings": settings, "dir": self.folder, "resume": again}
                shown = wandb.init(project="lit-hidden", reinit="finish_previous", **about)
                fill(shown)
                return shown.finish()
            except Exception as error:
                self.modes.remove(mode)
                kept = OFFLINE if mode == "online" else f"so nothing is kept in {self.folder}/wandb"
                self._say(f"W&B: {type(error).__name__}: {str(error).partition(chr(10))[0]}, {kept}")
                with suppress(Exception):  # its service still has the run; end that too
                    sys.modules["wandb"].teardown()
