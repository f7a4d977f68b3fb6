"""When an experiment's claims were last changed: before its first run, or after results could be seen."""

import ast
import subprocess
from datetime import datetime
from pathlib import Path

UNCOMMITTED = "uncommitted"


def changed(path: Path) -> tuple[str | None, str | None]:
    """Find the commit at which the claims of an experiment's file became what they are.

    Claims are `CLAIMS` and all that it names in that file, without docstrings, comments and annotations.

    Returns:
        the commit and its date (ISO 8601); `uncommitted` and None if the last commit has other claims; None and None
        without git or where it does not know the file.
    """
    found: tuple[str | None, str | None] = None, None
    claims = _claims(path.read_text(encoding="utf-8"))
    for line in (_git(path, "log", "--format=%h %cI", "--abbrev=12", "--", path.name) or "").splitlines():
        commit, date = line.split()
        text = _git(path, "show", f"{commit}:./{path.name}")
        if text is None or _claims(text) != claims:
            return found if found[0] else (UNCOMMITTED, None)
        found = commit, date
    return found


def late(commit: str | None, date: str | None, first_run: str | None) -> bool:
    """Tell whether claims were changed after the first run, or are not committed."""
    if date is None or first_run is None:
        return commit == UNCOMMITTED
    return datetime.fromisoformat(date) > datetime.fromisoformat(first_run)


def told(commit: str | None, date: str | None, first_run: str | None) -> str:
    """Say at which commit claims were last changed, and whether the first run is older."""
    if commit is None:
        return "it is not known when the claims were last changed"
    if date is None:
        return "the claims are not committed as they are"
    if first_run is None:
        return f"claims last changed in {commit} ({date[:10]})"
    if not late(commit, date, first_run):
        return f"claims last changed in {commit} ({date[:10]}), before the first run ({first_run[:10]})"
    shown = 10 if date[:10] != first_run[:10] else 19  # with the time, where both are of one day
    return f"claims changed after the first run ({date[:shown]} > {first_run[:shown]}), in {commit}"


def _git(path: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(path.parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _claims(text: str) -> str:
    """Return all that the claims in a file's text depend on, in a form without comments and line breaks."""
    try:
        tree = _Bare().visit(ast.parse(text))
    except SyntaxError as error:
        return f"no Python: {error}"
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        names = node.targets if isinstance(node, ast.Assign) else [node] if isinstance(node, ast.FunctionDef) else []
        defined |= {getattr(name, "id", getattr(name, "name", "")): node for name in names}
    reached, wanted = {}, ["CLAIMS"]
    while wanted:
        if (name := wanted.pop()) in defined and name not in reached:
            reached[name] = ast.dump(defined[name])
            wanted += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return "\n".join(reached[name] for name in sorted(reached))


class _Bare(ast.NodeTransformer):
    """Drop docstrings and annotations, which change no margin."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return self.visit(ast.Assign([node.target], node.value)) if node.value else None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node
