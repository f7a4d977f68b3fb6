"""When an experiment's claims were last changed, by git: before its first run, or after results could be seen."""

import ast
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def changed(path: Path) -> tuple[str | None, str | None]:
    """Find the commit, and its date, at which CLAIMS of an experiment's file and all it names there became as now.

    "uncommitted" and None if the last commit has other claims; None and None where git does not know the file.
    """
    found: tuple[str | None, str | None] = None, None
    claims = _claims(path.read_text(encoding="utf-8"))
    for line in git(path.parent, "log", "--format=%h %cI", "--abbrev=12", "--", path.name).splitlines():
        commit, date = line.split()
        if _claims(git(path.parent, "show", f"{commit}:./{path.name}")) != claims:
            return found if found[0] else ("uncommitted", None)
        found = commit, date
    return found


def told(commit: str | None, date: str | None, first_run: str | None) -> tuple[str, bool]:
    """Say at which commit claims were last changed, and whether results could be seen before."""
    if date is None:
        known = commit is not None
        return "the claims are not committed as they are" if known else "it is not known when the claims changed", known
    line = f"claims last changed in {commit} ({date[:10]})"
    if first_run is None:
        return line, False
    late = datetime.fromisoformat(date) > datetime.fromisoformat(first_run)
    return f"{line}, {'after' if late else 'before'} the first run ({first_run[:10]})", late


def now() -> str:
    """The time, as results have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git(folder: Path, *arguments: str) -> str:
    """Return what git prints in a folder; nothing where there is no git or it fails."""
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True).stdout
    except OSError:
        return ""


def _claims(text: str) -> dict[str, str]:
    """Give what the claims in a file's text depend on, by name, without docstrings, comments and annotations."""
    try:
        tree: ast.Module = _Bare().visit(ast.parse(text))
    except SyntaxError:
        return {}
    defined: dict[str, ast.stmt] = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    defined |= {ast.unparse(node.targets[0]): node for node in tree.body if isinstance(node, ast.Assign)}
    reached, wanted = dict[str, str](), ["CLAIMS"]
    while wanted:
        if (name := wanted.pop()) in defined and name not in reached:
            reached[name] = ast.dump(defined[name])
            wanted += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return reached


class _Bare(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> Any:
        """Drop docstrings and annotations, which change no margin."""
        for name in {"annotation", "returns"} & {*node._fields}:
            setattr(node, name, None)
        self.generic_visit(node)
        if isinstance(node, ast.AnnAssign) and node.value:
            return ast.Assign([node.target], node.value)
        return None if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else node
