"""When claims were last changed, in git repositories made here."""

import os
import subprocess
from pathlib import Path

import pytest

from lit_hidden.engine.beforehand import changed, told

FILE = '''
def gap(results, *nets):
    """Say what it is."""
    found = results.mean()
    return found - 50

CLAIMS = [Claim("above fifty", gap)]

def draw(results, figure):
    draw_panel(figure)
'''
SAME_CLAIMS = '''
def gap(results: Results, *nets: str) -> float:
    """Give it."""
    found: float = results.mean()  # in percent
    return found - 50

CLAIMS: list[Claim] = [Claim("above fifty", gap)]

def draw(results: Results, figure):
    figure.clear()
'''


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment's file in a repository with a first commit of 1 January."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "a")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@b")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    path = tmp_path / "experiments" / "fig0.py"
    path.parent.mkdir()
    git(path, "init", "--quiet")
    commit(path, FILE, 1)
    return path


def git(path: Path, *arguments: str, day: int = 1) -> str:
    dates = {f"GIT_{who}_DATE": f"2026-01-0{day}T12:00:00+00:00" for who in ("AUTHOR", "COMMITTER")}
    command = ["git", "-C", str(path.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | dates).stdout.strip()


def commit(path: Path, text: str, day: int) -> str:
    path.write_text(text)
    git(path, "add", path.name)
    git(path, "commit", "--quiet", "--message", "one more", day=day)
    return git(path, "rev-parse", "--short=12", "HEAD")


def known(path: Path) -> tuple[str | None, str | None]:
    """What is known, to the day."""
    commit, date = changed(path)
    return commit, date and date[:10]


@pytest.mark.parametrize(
    ("old", "new"), [('"above fifty"', '"above half"'), ("- 50", "- 60")], ids=["a sentence", "what a claim calls"]
)
def test_claims_changed_at_the_last_commit_that_changed_a_claim(path: Path, old: str, new: str) -> None:
    assert known(path) == (git(path, "rev-parse", "--short=12", "HEAD"), "2026-01-01")
    path.write_text(FILE.replace(old, new))
    assert known(path) == ("uncommitted", None)
    there = commit(path, path.read_text(), 2)
    assert known(path) == (there, "2026-01-02")
    commit(path, SAME_CLAIMS.replace(old, new), 3)
    assert known(path) == (there, "2026-01-02"), "nothing of that is a claim"
    commit(path, "def", 4)  # no Python
    back = commit(path, SAME_CLAIMS.replace(old, new), 5)
    assert known(path) == (back, "2026-01-05"), "changed back is changed again"


def test_without_git_or_history_nothing_is_known(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = path.with_name("fig1.py")
    other.write_text(FILE)
    assert changed(other) == (None, None), "git does not know the file"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert changed(path) == (None, None), "no repository"
    monkeypatch.setenv("PATH", "")
    assert changed(path) == (None, None), "no git"


NIGHT = "2026-01-02T00:45:00+00:00"


@pytest.mark.parametrize(
    ("commit", "date", "first_run", "line", "after"),
    [
        (None, None, NIGHT, "it is not known when the claims changed", False),
        ("uncommitted", None, NIGHT, "the claims are not committed as they are", True),
        ("abc", "2026-01-01T12:00:00+00:00", None, "claims last changed in abc (2026-01-01)", False),
        ("abc", "2026-01-03T12:00:00+00:00", NIGHT,
         "claims last changed in abc (2026-01-03), after the first run (2026-01-02)", True),
        # 01:30 in Berlin is half an hour after midnight in London, on the same day.
        ("abc", "2026-01-02T01:30:00+01:00", NIGHT,
         "claims last changed in abc (2026-01-02), before the first run (2026-01-02)", False),
    ],
)  # fmt: skip
def test_what_is_known_is_one_line(
    commit: str | None, date: str | None, first_run: str | None, line: str, after: bool
) -> None:
    assert told(commit, date, first_run) == (line, after)
