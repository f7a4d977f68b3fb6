"""The W&B view: what it chooses, what it shows (read back with W&B's own reader), and that it never ends a run."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hidden.code import Spec, spec
from lit_hidden.engine import tracking
from lit_hidden.engine.tracking import Tracker, choose_mode
from lit_hidden.experiment import Run
from lit_hidden.judge import Verdict

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


def test_wandb_mode_is_obeyed(nowhere, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode() == ("disabled", None)


def test_an_unknown_wandb_mode_is_told_before_the_first_run(nowhere, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "bogus")
    assert choose_mode() == (
        "disabled",
        "W&B: WANDB_MODE=bogus is unknown, so nothing is shown; modes are online, offline, disabled, shared",
    )
    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    assert choose_mode() == ("offline", None)


def test_without_a_key_runs_are_kept_offline_and_the_user_is_told_how_to_sync(nowhere):
    assert choose_mode() == (
        "offline",
        "W&B: no API key is configured, so runs are kept offline in wandb/; "
        "make wandb-sync (or lit-hidden wandb-sync) uploads them later",
    )


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_with_a_key_and_no_server_runs_are_kept_offline(nowhere, monkeypatch, where):
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    else:
        (nowhere / "netrc").write_text("machine 127.0.0.1\n  login user\n  password kkk\n")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: it refuses
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert choose_mode() == (
            "offline",
            "W&B: 127.0.0.1 does not answer, so runs are kept offline in wandb/; "
            "make wandb-sync (or lit-hidden wandb-sync) uploads them later",
        )


def test_with_a_key_and_a_server_that_answers_runs_are_shown_online(nowhere, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert choose_mode() == ("online", None)


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


def test_an_offline_run_reads_back_as_it_was_described(nowhere):
    tracker = Tracker("offline", "fig2/smoke")
    tracker.start(RUN)
    tracker.log({"epoch": 0, "step": 0, "test_top1": 10.0, "lr": float("nan")})
    tracker.log({"epoch": 1, "step": 12, "test_top1": 55.5, "lr": 0.1})
    tracker.summary({"accuracy": 55.5})
    tracker.finish()
    (folder,) = (nowhere / "wandb").glob("offline-run-*")
    text = json.dumps(read_back(folder))
    for expected in (RUN.hash, RUN.name, "lit-hidden", "fig2/smoke", '"hidden"', "55.5", "signed_constant"):
        assert expected in text, f"{expected} is not in the run read back"
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--summary", "--json", str(folder)]
    summary = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert summary["summary"]["accuracy"] == 55.5
    assert summary["config"]["density"] == 0.5
    assert summary["config"]["seed"] == 3


def test_the_config_is_the_runs_json_and_names_of_code_may_be_long(nowhere):
    first = replace(RUN, net=f"{'mine.' * 20}Net", callbacks=(spec("lesion.Lesion", epoch=1),))
    run = first.then(epochs=0, callbacks=(Spec("mine.gone.Idea", (("layers", (1, 2)),), 2),))
    tracker = Tracker("offline", "mine/smoke")
    tracker.start(run)
    assert Run.from_json(json.dumps({k: v for k, v in tracker._run.config.items() if k != "_wandb"})) == run
    assert tracker._run.tags == (run.net[-64:], "hidden", "digits")
    tracker.finish()


KILLED = """
import os, signal, sys
from pathlib import Path
from lit_hidden.engine.tracking import Tracker
from lit_hidden.engine.train import Recorder, train
from lit_hidden.experiment import Run

end = Recorder.on_train_epoch_end

def killed_after_the_second(recorder, trainer, module):
    end(recorder, trainer, module)
    if trainer.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "killed":
    Recorder.on_train_epoch_end = killed_after_the_second
train(Run.from_json(sys.stdin.read()), Path(sys.argv[1]), tracker=Tracker("offline", "fig2/smoke"))
"""


def test_a_run_that_was_killed_is_whole_in_one_offline_run(nowhere, forked):
    run = Run(density=0.5, net="conv2", width=0.05, data="digits", train_images=100, epochs=3)
    kept = nowhere / "wandb" / "offline-run-20260101_000000-0123456789ab"
    others = nowhere / "wandb" / f"offline-run-20260101_000000-{run.hash}"
    for folder, content in ((kept, b"lit-hidden"), (others, b"another project")):
        folder.mkdir(parents=True)
        (folder / f"run-{folder.name[-12:]}.wandb").write_bytes(content)
    (nowhere / "run").mkdir()
    for how, status in (("killed", -9), ("to its end", 0)):
        command = [sys.executable, "-c", KILLED, str(nowhere / "run"), how]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        environment.pop("WANDB_SERVICE", None)  # of the tests above, in this process
        process = forked(command, stdin=-1, stdout=-1, stderr=-1, text=True, env=environment)
        _, said = process.communicate(run.to_json())
        assert process.returncode == status, said
    (folder,) = set((nowhere / "wandb").glob("offline-run-*")) - {kept, others}
    text = json.dumps(read_back(folder))
    with (nowhere / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    for row in rows:
        assert row["test_loss"] in text, f"epoch {row['epoch']} is not in the run read back"


def test_online_the_epochs_that_w_and_b_has_are_not_shown_again(monkeypatch):
    class Resumed:
        starting_step, logged = 2, []

        def log(self, row, step):
            self.logged.append(step)

    tracker = Tracker("online", "fig2/smoke")
    tracker._run = Resumed()
    tracker.replay([{"epoch": epoch} for epoch in range(4)])
    assert Resumed.logged == [2, 3]


@pytest.mark.parametrize("drawn", [True, False])
def test_the_summary_run_holds_the_table_the_verdicts_and_the_drawing_if_there_is_one(nowhere, drawn):
    drawing = nowhere / "figure.png"
    from matplotlib.figure import Figure

    if drawn:
        Figure(figsize=(1, 1)).savefig(drawing)
    mixed = {"conv8-k10": (1, 3)}
    verdict = Verdict("a claim", "supported", 1.0, 0.5, 1.5, 3, "points", False, "because", "secondary", mixed)
    tracker = Tracker("offline", "fig2/smoke")
    tracker.start_summary("fig2/smoke")
    tracker.figure([{"run": RUN.hash, "accuracy": 55.5, "scaled": False}], drawing, [verdict])
    tracker.finish()
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


def test_a_failure_of_wandb_is_told_once_and_ends_nothing(nowhere, monkeypatch, capsys):
    import wandb

    def broken(**_):
        raise ConnectionError("no route")

    monkeypatch.setattr(wandb, "init", broken)
    tracker = Tracker("online", "fig2/smoke")
    tracker.start(RUN)
    tracker.log({"epoch": 0})
    tracker.summary({})
    tracker.finish()
    assert capsys.readouterr().err == "W&B: ConnectionError: no route; the run goes on without it\n"


def test_the_commands_that_are_printed_find_the_offline_runs(nowhere):
    tracker = Tracker("offline", "fig2/smoke")
    tracker.start(RUN)
    tracker.finish()
    told = re.fullmatch(r"make (\S+) \(or lit-hidden (\S+)\) uploads them later", tracking.SYNC)
    assert told is not None
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert re.search(rf"^{told[1]}: .*\n\t\$\(BIN\)/lit-hidden {told[2]} ", makefile, re.MULTILINE)
    command = [sys.executable, "-m", "lit_hidden", told[2], "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=nowhere, check=False)
    assert done.returncode == 0, done.stderr
    assert RUN.hash in done.stdout + done.stderr


def test_a_tracker_of_nothing_imports_no_wandb():
    code = (
        "import sys; from lit_hidden.engine.tracking import Tracker; t = Tracker.nothing(); "
        "t.log({'epoch': 0}); t.finish(); print('wandb' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
