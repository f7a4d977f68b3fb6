"""The command line: one line for what the user did wrong, exit statuses. `fit` and the like: test_lightning_cli.py."""

import signal
from pathlib import Path

import pytest

from experiments import _side_by_side
from lit_hidden import __version__
from lit_hidden.cli import main
from lit_hidden.engine import reproduce

ROOT = Path(__file__).parent.parent


def ends(*arguments: str) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    return end.value.code


def test_version_is_the_packages(capsys):
    assert ends("--version") == 0
    assert capsys.readouterr().out == f"lit-hidden {__version__}\n"


NO_PRESET = "lit-hidden: no preset 'long'; presets are smoke, quick, short, paper"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(([command, "fig99"], "lit-hidden: no experiment 'fig99'") for command in ("reproduce", "compare", "pack")),
        *(([command, "fig2", "--preset", "long"], NO_PRESET) for command in ("reproduce", "compare", "pack")),
        (["reproduce"], "the following arguments are required: NAME"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert ends(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (reproduce.ReproduceError("a\n  b"), 1, "a\n  b"),
        (reproduce.TimeUpError("time is up"), 75, "time is up"),
        (PermissionError(13, "Permission denied", "results"), 1, "[Errno 13] Permission denied: 'results'"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on where this one was"),
    ],
)
def test_reproduce_takes_several_names_and_ends_with_the_errors_status(raised, status, said, monkeypatch, capsys):
    asked = []

    def fail(*names, **options):
        asked.append((names, options["preset"], options["only"], options["dry_run"]))
        raise raised

    monkeypatch.setattr(reproduce, "reproduce", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert ends("reproduce", "fig3", "fig2", "--where", "net=conv4", "seed=0", "--dry-run") == status
    assert capsys.readouterr().err == f"lit-hidden: {said}\n"
    assert asked == [(("fig3", "fig2"), "quick", ["net=conv4", "seed=0"], True)]


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(**options):
        raise ValueError("nobody thought of it")

    monkeypatch.setattr(_side_by_side, "compare", fail)
    with pytest.raises(ValueError, match="nobody thought of it"):
        main(["compare", "fig2"])
