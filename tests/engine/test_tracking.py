"""The W&B view: what it chooses, what it shows (read back with W&B's own reader), what failures cost."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_hidden.code import Spec, spec
from lit_hidden.engine.tracking import View
from lit_hidden.judge import Verdict
from lit_hidden.run import Run

RUN = Run(density=0.5, net="conv2", data="digits", epochs=2, seed=3)
LATER = "so runs are kept offline in wandb/; make wandb-sync (or wandb sync) uploads them later"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No mode, no key, no server, and W&B's files in a folder of the test's."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.fixture
def done(nowhere):
    """The folder of RUN, as far as it is shown."""
    (nowhere / "run").mkdir()
    (nowhere / "run" / "metrics.csv").write_text("epoch,step,test_top1,lr\n0,0,10.0,\n1,12,44.5,0.1\n2,24,55.5,0.05\n")
    return nowhere / "run"


PROJECT = {"id": "p", "name": "lit-hidden", "entity": {"id": "e", "name": "me"}}
BUCKET = {"id": "b", "name": "r", "displayName": "x", "config": "{}", "historyLineCount": 0, "project": PROJECT}
ANSWERS = {b"RunResumeStatus": {"model": None}, b"UpsertBucket": {"upsertBucket": {"bucket": BUCKET, "inserted": True}}}


@contextmanager
def server() -> Iterator[str]:
    """A server of W&B's that begins a run, and then never answers again."""
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = next((answer for word, answer in ANSWERS.items() if word in body), None)
            if answer is None:
                done.wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": answer}).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        done.set()
        http.shutdown()


def view(mode: str, monkeypatch) -> tuple[View, list[str]]:
    """A view in a mode, and the lines that it says."""
    monkeypatch.setenv("WANDB_MODE", mode)
    said: list[str] = []
    return View(said.append), said


def test_wandb_mode_is_obeyed_and_without_a_key_runs_are_kept_offline(nowhere, monkeypatch):
    said: list[str] = []
    assert View(said.append).modes == ["offline"]
    assert said == [f"W&B: no API key is configured, {LATER}"]
    (nowhere / "netrc").write_text("machine 127.0.0.1\n  login user\n  password kkk\n")  # as `wandb login` writes it
    assert View(said.append).modes == ["online", "offline"]
    (nowhere / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert View(said.append).modes == ["online", "offline"]
    assert [view(mode, monkeypatch)[0].modes for mode in ("offline", "disabled")] == [["offline"], []]
    assert len(said) == 1


def read_back(folder: Path, *how: str) -> str:
    """What W&B's own reader finds in an offline run."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *how, "--json", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_an_offline_run_reads_back_as_it_was_described(nowhere, done, monkeypatch):
    first = replace(RUN, net=f"{'mine.' * 20}Net", callbacks=(spec("lesion.Lesion", epoch=1),))
    run = first.then(epochs=0, callbacks=(Spec("mine.gone.Idea", (("layers", (1, 2)),), 2),))
    shown, said = view("offline", monkeypatch)
    shown.show(run, done, {"accuracy": 55.5, "parameters": 7, "layers": [1]}, "mine/smoke")
    (folder,) = (nowhere / "wandb").glob("offline-run-*")
    text = read_back(folder)
    expected = (run.hash, run.name[-128:], run.net[-64:], "lit-hidden", "mine/smoke", '"hidden"', "44.5")
    assert [word for word in expected if word not in text] == []
    found = json.loads(read_back(folder, "--summary"))
    numbers = {name: value for name, value in found["summary"].items() if name[0] != "_"}
    assert numbers == {"epoch": 2, "step": 24, "test_top1": 55.5, "lr": 0.05, "parameters": 7}, "each number once"
    assert folder.name.endswith(f"-{run.hash}")
    assert "-mine-smoke-Net-k50-" in folder.name, "what `wandb leet` lists"
    assert Run.from_json(json.dumps({k: v for k, v in found["config"].items() if k != "_wandb"})) == run
    assert said == []


def test_a_run_is_shown_once_in_each_figure_that_uses_it(nowhere, done, monkeypatch):
    shown, said = view("offline", monkeypatch)
    shown.show(RUN, done, {}, "fig1/smoke")
    for group in ("fig1/smoke", "fig2/smoke", "fig1/smoke", "fig2/smoke"):
        shown.show(RUN, done, {}, group, new=False)
    names = sorted(folder.name.split("-", 3)[3] for folder in (nowhere / "wandb").glob("offline-run-*"))
    assert [name[:10] for name in names] == ["fig1-smoke", "fig2-smoke"]
    view("disabled", monkeypatch)[0].show(RUN, done, {}, "fig3/smoke", new=False)
    assert said == []


class Shown:
    """A run of a W&B that is online."""

    offline = False

    def __init__(self):
        self.summary, self.artifacts = {}, []

    def log(self, row, step): ...

    def finish(self): ...

    def log_artifact(self, path, **about):
        self.artifacts.append((path, about["type"]))


def test_online_a_run_has_its_subnetwork_as_an_artifact(done, monkeypatch):
    import wandb

    made = Shown()
    monkeypatch.setattr(wandb, "init", lambda **_: made)
    path = done / "subnetwork.safetensors"
    for content in (None, b"bits"):
        if content:
            path.write_bytes(content)
        view("online", monkeypatch)[0].show(RUN, done, {"loss": 1.0}, "fig2/smoke")
    assert made.artifacts == [(path, "subnetwork")]
    assert made.summary == {"test_loss": 1.0}


def test_the_summary_run_holds_the_table_the_verdicts_and_the_drawing(nowhere, monkeypatch):
    from matplotlib.figure import Figure

    Figure(figsize=(1, 1)).savefig(nowhere / "figure.png")
    failed = {"k10": (1, 3)}
    verdict = Verdict("a claim", "supported", 1.0, 0.5, 1.5, 3, "points", False, "because", "secondary", failed)
    table = [{"run": RUN.hash, "accuracy": 55.5, "scaled": False}]
    shown, said = view("offline", monkeypatch)
    shown.summarise("fig2/smoke", table, nowhere / "figure.png", [verdict])
    (folder,) = (nowhere / "wandb").glob("offline-run-*")
    assert json.loads(read_back(folder, "--summary"))["summary"]["a claim"] == "supported"
    media = folder / "files" / "media"
    assert [p.name[:7] for p in media.rglob("*.png")] == ["drawing"]
    tables = [json.loads(p.read_text()) for p in (media / "table").rglob("*.json")]
    rows = {one["data"][0][0]: dict(zip(one["columns"], one["data"][0], strict=True)) for one in tables}
    assert rows[RUN.hash] == table[0]
    assert (rows["a claim"]["verdict"], rows["a claim"]["kind"]) == ("supported", "secondary")
    assert said == []


def test_a_failure_of_wandb_is_told_once_and_ends_nothing(nowhere, done, monkeypatch):
    import wandb

    asked = []

    def init(**about):
        asked.append((about["mode"], about["resume"]))
        raise ConnectionError("no route")

    monkeypatch.setattr(wandb, "init", init)
    shown, said = view("online", monkeypatch)
    shown.show(RUN, done, {}, "fig2/smoke")
    shown.show(RUN, done, {}, "fig2/smoke")
    shown.summarise("fig2/smoke", [], done, [])
    assert said == [
        f"W&B: ConnectionError: no route, {kept}" for kept in (LATER, f"so nothing is kept in {nowhere}/wandb")
    ]
    assert asked == [("online", "allow"), ("offline", None)], "a run that is trained again is the same run"


SHOW = """
import os, sys
from pathlib import Path
from lit_hidden.engine import tracking
from lit_hidden.run import Run
tracking.LIMITS |= {"init_timeout": 2.0, "finish_timeout": 1.0}
for seed, os.environ["WANDB_BASE_URL"] in enumerate(sys.argv[2:]):
    view = tracking.View(print)
    for density in (0.5, 0.3):
        view.show(Run(density=density, seed=seed), Path(sys.argv[1]), {"accuracy": 55.5}, "x/smoke")
"""


def test_a_server_that_is_dead_costs_seconds_and_a_line_and_nothing_is_lost(nowhere, done, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # of the tests above, in this process
    with server() as dies:  # the other is dead before all
        command = [sys.executable, "-c", SHOW, str(done), "http://127.0.0.1:1", dies]
        told = subprocess.run(command, capture_output=True, text=True, timeout=40, check=True).stdout
    lines = told.splitlines()
    assert len(lines) == 2, "told once"
    assert all(re.fullmatch(rf"W&B: \w+: .*, {re.escape(LATER)}", line) for line in lines)
    for run in (Run(density=density, seed=seed) for density in (0.5, 0.3) for seed in (0, 1)):
        (folder,) = (nowhere / "wandb").glob(f"offline-run-*-{run.hash}")
        assert "55.5" in read_back(folder)
