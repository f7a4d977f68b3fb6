"""The W&B view: what it chooses, what it shows (read back with W&B's own reader), and what its failures cost."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_hidden.code import Spec, spec
from lit_hidden.engine import tracking
from lit_hidden.engine.tracking import choose_mode, show, show_summary
from lit_hidden.judge import Verdict
from lit_hidden.run import Run

RUN = Run(density=0.5, net="conv2", data="digits", epochs=2, seed=3)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No mode, no key, no netrc, and W&B's files in a folder of the test's."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


LATER = "so runs are kept offline in wandb/; make wandb-sync (or lit-hidden wandb-sync) uploads them later"
MODES = "modes are online, offline, disabled, shared"


@pytest.mark.parametrize(
    ("said", "mode", "line"),
    [
        ("disabled", "disabled", None),
        ("OFFLINE", "offline", None),
        ("bogus", "disabled", f"W&B: WANDB_MODE=bogus is unknown, so nothing is shown; {MODES}"),
        ("", "offline", f"W&B: no API key is configured, {LATER}"),
    ],
)
def test_wandb_mode_is_obeyed_and_without_a_key_runs_are_kept_offline(nowhere, monkeypatch, said, mode, line):
    monkeypatch.setenv("WANDB_MODE", said)
    assert choose_mode() == (mode, line)


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_with_a_key_and_no_server_runs_are_kept_offline(nowhere, monkeypatch, where):
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    else:
        (nowhere / "netrc").write_text("machine 127.0.0.1\n  login user\n  password kkk\n")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: it refuses
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert choose_mode() == ("offline", f"W&B: 127.0.0.1 does not answer, {LATER}")


@contextmanager
def server(monkeypatch, code: int | None) -> Iterator[str]:
    """A server of W&B's that answers the first request with `code`, and then accepts requests and never answers.

    None: it never answers at all.
    """
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if code is None:
                done.wait()
            self.send_response(code or 200)
            self.end_headers()

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = {"model": None} if b"RunResumeStatus" in body else {}
            if b"UpsertBucket" in body:
                project = {"id": "p", "name": "lit-hidden", "entity": {"id": "e", "name": "me"}}
                bucket = {"id": "b", "name": RUN.hash, "displayName": "x", "config": "{}", "historyLineCount": 0}
                answer = {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": True}}
            if not answer or code == 404:
                done.wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": answer}).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{http.server_port}")
        yield str(http.server_port)
        done.set()
        http.shutdown()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (200, ("online", None)),
        (404, ("online", None)),
        (None, ("offline", f"W&B: 127.0.0.1 does not answer, {LATER}")),
        (503, ("offline", f"W&B: 127.0.0.1 answers with 503, {LATER}")),
    ],
)
def test_whether_a_server_answers_is_found_out_before_the_first_run(nowhere, monkeypatch, code, expected):
    with server(monkeypatch, code):
        began = time.monotonic()
        assert choose_mode() == expected
    assert time.monotonic() - began < 4


def test_without_wandb_nothing_is_shown_and_that_is_said(nowhere, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    assert choose_mode() == (
        "disabled",
        "W&B: not installed, so nothing is shown there; runs/ is the record all the same",
    )


def read_back(folder: Path) -> dict[str, list]:
    """Group an offline run's records by kind, through `wandb leet inspect`."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records: dict[str, list] = {}
    for line in printed.splitlines():
        record = json.loads(line)
        records.setdefault(record.get("type", next(iter(record))), []).append(record)
    return records


@pytest.fixture
def done(nowhere):
    """The folder of RUN, as far as it is shown."""
    (nowhere / "run").mkdir()
    (nowhere / "run" / "metrics.csv").write_text("epoch,step,test_top1,lr\n0,0,10.0,\n1,12,44.5,0.1\n2,24,55.5,0.05\n")
    return nowhere / "run"


def test_an_offline_run_reads_back_as_it_was_described(nowhere, done):
    assert show(RUN, done, {"accuracy": 55.5, "layers": [1]}, "offline", "fig2/smoke") is None
    (folder,) = (nowhere / "wandb").glob("offline-run-*")
    text = json.dumps(read_back(folder))
    for expected in (RUN.hash, RUN.name, "lit-hidden", "fig2/smoke", '"hidden"', "44.5", "55.5", "signed_constant"):
        assert expected in text, f"{expected} is not in the run read back"
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--summary", "--json", str(folder)]
    summary = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert summary["summary"]["accuracy"] == 55.5
    assert summary["config"]["density"] == 0.5
    assert summary["config"]["seed"] == 3


def test_the_config_is_the_runs_json_and_names_of_code_may_be_long(nowhere, done, monkeypatch):
    import wandb

    first = replace(RUN, net=f"{'mine.' * 20}Net", callbacks=(spec("lesion.Lesion", epoch=1),))
    run = first.then(epochs=0, callbacks=(Spec("mine.gone.Idea", (("layers", (1, 2)),), 2),))
    made, init = [], wandb.init
    monkeypatch.setattr(wandb, "init", lambda **about: made.append(init(**about)) or made[0])
    assert show(run, done, {}, "offline", "mine/smoke") is None
    assert Run.from_json(json.dumps({k: v for k, v in made[0].config.items() if k != "_wandb"})) == run
    assert made[0].tags == (run.net[-64:], "hidden", "digits")


SHOW = """
import resource, sys
from pathlib import Path
from lit_hidden.engine import tracking
from lit_hidden.run import Run
tracking.LIMITS |= {"init_timeout": 3.0, "finish_timeout": 2.0}
if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
for run in (Run.from_json(sys.argv[1]), Run(density=0.3)):
    print(tracking.show(run, Path(sys.argv[2]), {"accuracy": 55.5}, sys.argv[3].replace("full", "offline"), "x/smoke"))
"""


def shown(folder: Path, mode: str) -> tuple[list[str], str]:
    """Show RUN and another in a process of their own; return what was told of each and what W&B itself printed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("WANDB_SERVICE", None)  # of the tests above, in this process
    command = [sys.executable, "-c", SHOW, RUN.to_json(indent=None), str(folder), mode]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("code", [200, 404], ids=["after the run began", "after the first request"])
def test_a_server_that_dies_costs_seconds_and_a_line_and_nothing_is_lost(nowhere, done, monkeypatch, code):
    began = time.monotonic()
    with server(monkeypatch, code):
        (line, other), _ = shown(done, "online")
    assert time.monotonic() - began < 30
    assert re.fullmatch(r"W&B: \w+: .*, so runs are kept offline in wandb/; make wandb-sync .*", line)
    assert other == "None", "told once"
    kept = [(nowhere / "wandb").glob(f"offline-run-*-{run.hash}") for run in (RUN, Run(density=0.3))]
    for (folder,) in map(list, kept):
        assert "55.5" in json.dumps(read_back(folder))


def test_a_disk_that_is_full_is_one_line(nowhere, done):
    (line, other), printed = shown(done, "full")
    assert line == f"W&B: OSError: [Errno 27] File too large, so nothing is kept in {nowhere}/wandb"
    assert (other, printed) == ("None", "")


@pytest.mark.parametrize("drawn", [True, False])
def test_the_summary_run_holds_the_table_the_verdicts_and_the_drawing_if_there_is_one(nowhere, drawn):
    drawing = nowhere / "figure.png"
    from matplotlib.figure import Figure

    if drawn:
        Figure(figsize=(1, 1)).savefig(drawing)
    mixed = {"conv8-k10": (1, 3)}
    verdict = Verdict("a claim", "supported", 1.0, 0.5, 1.5, 3, "points", False, "because", "secondary", mixed)
    table = [{"run": RUN.hash, "accuracy": 55.5, "scaled": False}]
    assert show_summary("fig2/smoke", table, drawing, [verdict], "offline") is None
    (folder,) = (nowhere / "wandb").glob("offline-run-*")
    text = json.dumps(read_back(folder))
    assert '"a claim' in text or "a claim" in text
    assert "supported" in text
    media = [p.name for p in (folder / "files" / "media").rglob("*.*")]
    assert any(name.startswith("drawing") and name.endswith(".png") for name in media) == drawn
    tables = [p.read_text() for p in (folder / "files" / "media" / "table").rglob("*.json")]
    assert any(RUN.hash in table for table in tables)
    (shown,) = (json.loads(table) for table in tables if "a claim" in table)
    told = dict(zip(shown["columns"], shown["data"][0], strict=True))
    assert (told["kind"], told["failed"]) == ("secondary", '{"conv8-k10": [1, 3]}')


@pytest.fixture
def broken(monkeypatch):
    """W&B without a route, in a process that does not know yet."""
    import wandb

    def init(**_):
        raise ConnectionError("no route")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(tracking, "_failed", set())


def test_a_failure_of_wandb_is_told_once_and_ends_nothing(nowhere, done, broken):
    line = f"W&B: ConnectionError: no route, so nothing is kept in {nowhere}/wandb"
    assert show(RUN, done, {}, "online", "fig2/smoke") == line
    assert show(RUN, done, {}, "online", "fig2/smoke") is None
    assert show_summary("fig2/smoke", [], done, [], "offline") is None


def test_the_commands_that_are_printed_find_the_offline_runs(nowhere, done):
    show(RUN, done, {}, "offline", "fig2/smoke")
    told = re.fullmatch(r"make (\S+) \(or lit-hidden (\S+)\) uploads them later", tracking.SYNC)
    assert told is not None
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert re.search(rf"^{told[1]}: .*\n\t\$\(BIN\)/lit-hidden {told[2]} ", makefile, re.MULTILINE)
    command = [sys.executable, "-m", "lit_hidden", told[2], "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=nowhere, check=False)
    assert done.returncode == 0, done.stderr
    assert RUN.hash in done.stdout + done.stderr


def test_nothing_to_show_imports_no_wandb():
    code = (
        "import sys; from lit_hidden.engine.tracking import show_summary; "
        "show_summary('x', [], None, [], 'disabled'); print('wandb' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
