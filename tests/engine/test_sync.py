"""Offline runs go to W&B by its own command line; without key, server or runs there is one line that says so."""

import shutil
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_hidden.cli import main
from lit_hidden.engine import sync as sync_module
from lit_hidden.engine.sync import SyncError, sync
from lit_hidden.engine.tracking import show
from lit_hidden.run import Run

RUN = Run(density=0.5, net="conv2", data="digits", epochs=2, seed=3)
FAKE = """
import sys
print("wandb: Syncing", *sys.argv[1:])
if "broken" in sys.argv[-1]:
    print("Error: the server said no.", file=sys.stderr)
    sys.exit(3)
"""


class Answers(BaseHTTPRequestHandler):
    """What a server says that is up, without a word on standard error."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No mode, no key, no netrc, and W&B's files in a folder of the test's."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real offline run."""
    base = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(base))
        (base / "metrics.csv").write_text("epoch,step,test_top1\n1,12,55.5\n")
        assert show(RUN, base, {}, "offline", "fig2/smoke") is None
    return base / "wandb"


@pytest.fixture
def offline(nowhere: Path, kept: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(kept, nowhere / "wandb", symlinks=True)
    return nowhere / "wandb"


@pytest.fixture
def faked(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key, a server that answers, two runs, and a command line in W&B's place that tells what it was given."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    (nowhere / "fake").mkdir()
    (nowhere / "fake" / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(nowhere / "fake"))
    for name in ("offline-run-1-abc", "offline-run-2-def", "run-3-online"):
        (nowhere / "wandb" / name).mkdir(parents=True)
    return nowhere / "wandb"


def test_every_offline_run_is_given_to_wandbs_own_command(
    faked: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # why the runs are there, not a wish about uploading
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        main(["wandb-sync"])
    assert capfd.readouterr().err == (
        f"wandb: Syncing sync --yes {faked}/offline-run-1-abc {faked}/offline-run-2-def\n"
    )


def test_what_wandb_refuses_is_one_line(
    faked: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (faked / "offline-run-9-broken").mkdir()
    monkeypatch.setattr(sync_module, "why_offline", lambda: None)
    with pytest.raises(SyncError, match=r"^wandb sync ended with 3: the server said no\.$"):
        sync(faked)
    assert "Error" not in capfd.readouterr().err


def test_nothing_to_upload_is_said(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["wandb-sync", "--dir", "elsewhere"])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "lit-hidden: no offline-run-* in elsewhere, so there is nothing to upload; runs are kept there when reproduce "
        "finds no API key or no server, or with WANDB_MODE=offline\n"
    )


def test_without_a_key_a_real_offline_run_stays_and_the_way_out_is_told(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["wandb-sync"])
    login = Path(sys.executable).parent / "wandb"
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        f"lit-hidden: W&B: no API key is configured; nothing was uploaded. {login} login stores a key (or set "
        "WANDB_API_KEY); WANDB_BASE_URL names another server\n"
    )


def test_without_a_key_wandbs_own_refusal_is_passed_on(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "why_offline", lambda: None)
    with pytest.raises(SyncError, match=r"^wandb sync ended with 1: No API key configured\."):
        sync(offline)


def test_a_server_that_does_not_answer_is_told_at_once(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: it refuses
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(SyncError, match=r"^W&B: 127\.0\.0\.1 does not answer; nothing was uploaded"):
            sync(faked)


def test_a_dry_run_lists_what_was_not_uploaded_without_key_or_server(
    offline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run,) = offline.glob("offline-run-*")
    uploaded = shutil.copytree(run, offline / "offline-run-20261122_000000-uploaded")
    (uploaded / f"run-{RUN.hash}.wandb.synced").touch()  # what W&B leaves
    main(["wandb-sync", "--dry-run"])
    told = capfd.readouterr().err
    assert f"{run.name}/run-{RUN.hash}.wandb" in told
    assert uploaded.name not in told
    assert "Skipped 1 synced run" in told
