"""When claims were last changed, in git repositories made here."""

import os
import subprocess
from pathlib import Path

import pytest

from lit_hidden.engine.beforehand import changed, late, told

FILE = '''"""Figure 0: a title."""
from lit_hidden.judge import Claim

PRESETS = {"quick": 3}


def runs(preset):
    return []


def gap(results, *nets):
    """Say what it is."""
    found = results.mean()
    return found - 50


CLAIMS = [Claim("above fifty", gap)]


def draw(results, figure):
    draw_panel(figure)


def draw_panel(figure):
    pass
'''
CLAIM, BOUND = ('"above fifty"', '"above half"'), ("- 50", "- 60")
APART = {
    "the title": ("a title", "another title"),
    "a docstring": ("Say what it is.", "Give it."),
    "a comment": ("PRESETS", "# narrow\nPRESETS"),
    "a function's annotations": ("(results, *nets)", "(results: Results, *nets: str) -> float"),
    "a variable's annotation": ("found =", "found: float ="),
    "an annotation of all claims": ("CLAIMS =", "CLAIMS: list[Claim] ="),
    "presets": ('"quick": 3', '"quick": 5'),
    "runs": ("return []", "return [preset]"),
    "draw": ("draw_panel(figure)\n\n", "pass\n\n"),
    "a part of draw": ("    pass\n", "    figure.clear()\n"),
    "a page": ("def draw(", "def page(results):\n    return ''\n\n\ndef draw("),
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment's file in a repository with a first commit of 1 January."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "experiments" / "fig0.py"
    path.parent.mkdir()
    path.write_text(FILE)
    git(path, "init", "--quiet")
    commit(path, "2026-01-01")
    return path


def git(path: Path, *arguments: str, date: str = "2026-01-01") -> str:
    names = {"user.name": "a", "user.email": "a@b", "commit.gpgsign": "false", "core.hooksPath": "none"}
    given = [word for key, value in names.items() for word in ("-c", f"{key}={value}")]
    command = ["git", "-C", str(path.parent), *given, *arguments]
    dates = {f"GIT_{who}_DATE": f"{date}T12:00:00+00:00" for who in ("AUTHOR", "COMMITTER")}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | dates).stdout.strip()


def commit(path: Path, date: str) -> str:
    git(path, "add", path.name)
    git(path, "commit", "--quiet", "--message", "one more", date=date)
    return git(path, "rev-parse", "--short=12", "HEAD")


def known(path: Path) -> tuple[str | None, str | None]:
    """What is known, to the day."""
    commit, date = changed(path)
    return commit, date and date[:10]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("change", [CLAIM, BOUND], ids=["a sentence", "what a claim calls"])
def test_claims_changed_at_the_last_commit_that_changed_a_claim(path: Path, change: tuple[str, str]) -> None:
    first = git(path, "rev-parse", "--short=12", "HEAD")
    assert known(path) == (first, "2026-01-01")
    edit(path, *change)
    assert known(path) == ("uncommitted", None)
    there = commit(path, "2026-01-02")
    assert known(path) == (there, "2026-01-02")
    for old, new in APART.values():  # nothing of that is a claim
        edit(path, old, new)
    assert known(path) == (there, "2026-01-02")
    commit(path, "2026-01-03")
    assert known(path) == (there, "2026-01-02")
    edit(path, *change[::-1])
    assert known(path) == ("uncommitted", None), "changed back is changed again"


def test_claims_changed_back_are_of_the_commit_that_changed_them_back(path: Path) -> None:
    path.write_text("def")  # no Python
    commit(path, "2026-01-02")
    path.write_text(FILE)
    there = commit(path, "2026-01-03")
    assert known(path) == (there, "2026-01-03")


def test_without_git_or_history_nothing_is_known(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = path.with_name("fig1.py")
    other.write_text(FILE)
    assert changed(other) == (None, None), "git does not know the file"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert changed(path) == (None, None), "no repository"
    monkeypatch.setenv("PATH", "")
    assert changed(path) == (None, None), "no git"


@pytest.mark.parametrize(
    ("commit", "date", "first_run", "line", "after"),
    [
        (None, None, "2026-01-02T01:00:00+00:00", "it is not known when the claims were last changed", False),
        ("uncommitted", None, "2026-01-02T01:00:00+00:00", "the claims are not committed as they are", True),
        ("abc", "2026-01-01T12:00:00+00:00", None, "claims last changed in abc (2026-01-01)", False),
        ("abc", "2026-01-03T12:00:00+00:00", "2026-01-02T01:00:00+00:00",
         "claims changed after the first run (2026-01-03 > 2026-01-02), in abc", True),
        # 01:30 in Berlin is half an hour after midnight in London, on the same day.
        ("abc", "2026-01-02T01:30:00+01:00", "2026-01-02T00:45:00+00:00",
         "claims last changed in abc (2026-01-02), before the first run (2026-01-02)", False),
    ],
)  # fmt: skip
def test_what_is_known_is_one_line(
    commit: str | None, date: str | None, first_run: str | None, line: str, after: bool
) -> None:
    assert told(commit, date, first_run) == line
    assert late(commit, date, first_run) is after
