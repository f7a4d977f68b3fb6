"""Offline runs go to W&B by its own command line; without key, server or runs there is one line that says so."""

import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_hidden.cli import main
from lit_hidden.engine.tracking import show
from lit_hidden.run import Run

RUN = Run(density=0.5, net="conv2", data="digits", epochs=2, seed=3)
FOLDERS = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
FAKE = """
import sys
print("wandb: Syncing", *sys.argv[1:])
sys.exit(3 if "broken" in sys.argv[-1] else 0)
"""


class Answers(BaseHTTPRequestHandler):
    """What a server says that is up, without a word on standard error."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, a command line in W&B's place that tells what it was given, and no mode, key or server."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in FOLDERS:
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    for name in ("offline-run-1-abc", "offline-run-2-def", "run-3-online"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    return tmp_path / "wandb"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ThreadingHTTPServer:
    """A key, and a server that answers."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def test_every_offline_run_is_given_to_wandbs_own_command(wandb, server, monkeypatch, capfd) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # why the runs are there, not a wish about uploading
    main(["wandb-sync"])
    assert capfd.readouterr().out == (
        f"wandb: Syncing sync --yes {wandb}/offline-run-1-abc {wandb}/offline-run-2-def\n"
    )
    (wandb / "offline-run-9-broken").mkdir()
    assert refused(capfd) == "wandb sync ended with status 3; its own message stands above"


def refused(capfd, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["wandb-sync", *arguments])
    assert end.value.code == 1
    return capfd.readouterr().err.strip().removeprefix("lit-hidden: ")


def test_without_runs_key_or_server_nothing_is_uploaded_and_the_way_out_is_told(wandb, monkeypatch, capfd) -> None:
    told = refused(capfd, "--dir", "elsewhere")
    assert told.startswith("no offline-run-* in elsewhere, so there is nothing to upload; ")
    told = refused(capfd)
    assert told.startswith("W&B: no API key is configured; nothing was uploaded. ")
    assert "wandb login stores a key (or set WANDB_API_KEY)" in told
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: it refuses
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert refused(capfd).startswith("W&B: 127.0.0.1 does not answer; nothing was uploaded")


def test_a_dry_run_of_the_real_command_lists_what_was_not_uploaded(wandb, monkeypatch, capfd) -> None:
    shutil.rmtree(wandb)
    monkeypatch.delenv("PYTHONPATH")
    (wandb.parent / "metrics.csv").write_text("epoch,step,test_top1\n1,12,55.5\n")
    assert show(RUN, wandb.parent, {}, "offline", "fig2/smoke") is None
    (run,) = wandb.glob("offline-run-*")
    uploaded = shutil.copytree(run, wandb / "offline-run-20261122_000000-uploaded")
    (uploaded / f"run-{RUN.hash}.wandb.synced").touch()  # what W&B leaves
    main(["wandb-sync", "--dry-run"])
    told = "".join(capfd.readouterr())
    assert f"{run.name}/run-{RUN.hash}.wandb" in told
    assert uploaded.name not in told
    assert "Skipped 1 synced run" in told
