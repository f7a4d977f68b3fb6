"""Code by name: a Run names its callbacks, nets and other code as text; planning, hashing and comparing import none.

`lesion.Lesion` is short for `lit_hidden.callbacks.lesion.Lesion`; code elsewhere has its full dotted name. Options,
their defaults and the version are read from the source, where they have to be literals.
"""

import ast
import hashlib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from numbers import Integral, Real
from pathlib import Path
from typing import Any

_OURS = "lit_hidden."
_ROOMS = ("lit_hidden.callbacks", "lit_hidden")  # a short name is looked up here, in this order
# A checkpoint may name what these define: nets, maskers, distributions, tasks, modules and data.
_MADE = ("callbacks", "data", "distributions", "edge_popup", "modules", "nets", "supermask", "ticket")
_UNSET = object()
_RAN: dict[str, str | None] = {}  # fingerprints of the code of one's own that this process has loaded


class CodeError(ValueError):
    """A name without code, or options that the code does not take."""


@dataclass(frozen=True)
class _Class:
    options: dict[str, Any]  # arguments of the constructor and their defaults
    constants: dict[str, Any]  # literals of the class, such as its version


@dataclass(frozen=True)
class Spec:
    """A callback of a Run: its class, its version, and the options that differ from the defaults. Made by `spec`."""

    class_path: str
    options: tuple[tuple[str, Any], ...] = ()
    version: int = 1

    @property
    def init_args(self) -> dict[str, Any]:
        """The options that differ from the defaults."""
        return dict(self.options)

    def option(self, name: str) -> Any:
        """Return the value of an option, its default if the spec has none, None if the class takes no such option."""
        value = (self._known.options | self.init_args).get(name)
        return None if value is _UNSET else value

    def takes(self, name: str) -> bool:
        """Tell whether the class takes an option."""
        return name in self._known.options or name in self.init_args

    @property
    def records(self) -> bool:
        """Whether the callback only measures: the run's own numbers are those of the run without it."""
        return self._known.constants.get("records") is True

    @property
    def _known(self) -> _Class:
        with suppress(CodeError):  # results stay readable when their code is gone
            return _class(self.class_path) or _Class({}, {})
        return _Class({}, {})

    @property
    def entry(self) -> dict[str, Any]:
        """The callback as a LightningCLI's YAML takes it."""
        return {"class_path": self.class_path, "init_args": self.init_args}

    @property
    def short(self) -> str:
        """A name for people: `Lesion(epoch=25)`."""
        options = ",".join(f"{name}={value}" for name, value in self.options)
        return self.class_path.rpartition(".")[2] + (f"({options})" if options else "")

    def __str__(self) -> str:
        """Write it for `read`: `lit_hidden.callbacks.lesion.Lesion(epoch=25)`; version 2 is `Lesion[2](epoch=25)`."""
        version = f"[{self.version}]" if self.version != 1 else ""
        return f"{self.class_path}{version}({', '.join(f'{name}={value!r}' for name, value in self.options)})"


def spec(name: str, **options: Any) -> Spec:
    """Describe a callback for a Run: `spec("lesion.Lesion", epoch=25)`.

    Args:
        name: dotted name of the class; file and class are enough for those of `lit_hidden.callbacks`.
        options: arguments of its constructor: numbers, text, True, False, None, and lists of these.

    Raises:
        CodeError: no such class, an unknown or a missing option, or a value that cannot be written to a file.
    """
    path = full(name)
    found, short = _class(path), path.rpartition(".")[2]
    if found is None:
        raise CodeError(f"{name!r} cannot be found: {_absent(path)}")
    if unknown := sorted(options.keys() - found.options.keys()):
        takes = f"options are {', '.join(found.options)}" if found.options else "it has no options"
        raise CodeError(f"{short} takes no {', '.join(unknown)}; {takes}")
    if lacking := [k for k, default in found.options.items() if default is _UNSET and k not in options]:
        raise CodeError(f"{short} needs a value for {', '.join(lacking)}")
    given = {k: canonical(value, f"{short}: {k}") for k, value in options.items()}
    changed = {k: v for k, v in given.items() if v != found.options[k]}
    return Spec(path, tuple(sorted(changed.items())), found.constants.get("version", 1))


def read(text: str) -> tuple[Spec, ...]:
    """Read specs as `str` writes them, separated by semicolons; a ValueError if the text holds anything else."""
    try:
        found = []
        for line in ast.parse(text).body:
            call = line.value if isinstance(line, ast.Expr) else None
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError
            version, name = 1, call.func
            if isinstance(name, ast.Subscript):
                version, name = ast.literal_eval(name.slice), name.value
            options = {str(keyword.arg): canonical(ast.literal_eval(keyword.value)) for keyword in call.keywords}
            found.append(Spec(ast.unparse(name), tuple(sorted(options.items())), version))
        return tuple(found)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"no callbacks: {text!r}") from error


def canonical(value: Any, what: str = "an option") -> Any:
    """Give equal values one form: 2.0 and numpy's 2 become 2, a list a tuple; a CodeError if files cannot hold it."""
    if getattr(value, "shape", None) == ():  # a number or text of numpy
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return tuple(canonical(one, what) for one in value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        value = real(value)
        return int(value) if value.is_integer() else value
    raise CodeError(f"{what}={value!r} cannot be written down; it must be a number, text, True, False, None or a list")


def text(value: Any) -> str:
    """Write the value of a field for `report.tables.number` to read, with the digits that `real` keeps."""
    if value is None:
        return "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def real(value: Any) -> float:
    """Round to 12 digits: `np.arange(0.1, 1, 0.1)` has 0.30000000000000004 for 0.3; 2**-15 has 11 digits."""
    return float(f"{float(value):.12g}")


def full(name: str) -> str:
    """Return the full dotted name of code of `lit_hidden`; any other name comes back as it is."""
    if "." in name and ":" not in name and not ours(name):
        for room in _ROOMS:
            if _statement(f"{room}.{name}") is not None:
                return f"{room}.{name}"
    return name


def load(name: str) -> Any:
    """Import the code of a full dotted name; a CodeError if that fails."""
    module, _, own = name.rpartition(".")
    if name not in _RAN and not ours(name):
        _RAN[name] = fingerprint(name)
    try:
        return getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError, ValueError) as error:
        raise CodeError(f"{name} cannot be imported: {error}; give package.module.name") from error


def check(name: str) -> None:
    """Raise a CodeError unless a file defines this full dotted name; nothing is imported."""
    if _statement(name) is None:
        raise CodeError(f"{name} cannot be found: {_absent(name)}")


def fingerprint(name: str) -> str | None:
    """Hash the file that defines a name, without comments, docstrings and layout; None if there is no such file.

    Files that this file imports do not count.
    """
    file = _file(_home(name).rpartition(".")[0])
    if file is None or not file.exists():
        return None
    tree = _parse(file)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def ran(name: str) -> str | None:
    """Return the fingerprint at the time when this process loaded the code, or today's if it has not loaded it."""
    return _RAN[name] if name in _RAN else fingerprint(name)


def ours(name: str) -> bool:
    """Tell whether a name is one of this library, whose source a commit and a version stand for."""
    return name.startswith(_OURS)


def foreign(value: Any) -> list[str]:
    """List the texts in a value, nested ones too, that name code which this library does not define."""
    if isinstance(value, str):
        return [] if not re.search("[.:]", value) or value.startswith("timm:") or _defines(value) else [value]
    parts = [*value, *value.values()] if isinstance(value, Mapping) else value
    return [name for part in parts for name in foreign(part)] if isinstance(parts, Iterable) else []


def _defines(name: str) -> bool:
    """Tell whether this library defines a class or function; what it imports (`subprocess.run`) is not its own."""
    name = full(name.replace(":", "."))
    return name.startswith(tuple(_OURS + room for room in _MADE)) and isinstance(
        _statement(name), ast.ClassDef | ast.FunctionDef
    )


def _absent(name: str) -> str:
    """Say why `_statement` or `_class` finds nothing."""
    module, _, own = name.rpartition(".")
    if not module:
        return "give package.module.Class"
    for there in (module, *(f"{room}.{module}" for room in _ROOMS)):
        if file := _file(there):
            return f"{there}.{own} is no class" if own in _defined(file) else f"{there} defines no {own}"
    return f"there is no module {module}"


@cache
def _file(module: str) -> Path | None:
    """Find the source of a module without importing it or its packages."""
    parts = module.split(".")
    try:
        found = importlib.util.find_spec(parts[0]) if parts[0] else None
        for n in range(2, len(parts) + 1):
            if found is None or found.submodule_search_locations is None:
                return None
            found = PathFinder.find_spec(".".join(parts[:n]), found.submodule_search_locations)
    except (ImportError, ValueError):
        return None
    file = Path(found.origin) if found and found.origin else None
    return file if file and file.suffix == ".py" and file.is_file() else None


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), file)
    except (SyntaxError, ValueError) as error:
        raise CodeError(f"{file} is no Python: {error}") from error


@cache
def _defined(file: Path) -> dict[str, ast.stmt]:
    """Map the names that a file defines or imports at its top level to their statements."""
    names: dict[str, ast.stmt] = {}
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= dict.fromkeys(_targets(node), node)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
    return names


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _statement(name: str) -> ast.stmt | None:
    """Find the statement that gives a full dotted name its meaning; None if there is none."""
    module, _, own = name.rpartition(".")
    file = _file(module)
    return _defined(file).get(own) if file else None


def _home(name: str) -> str:
    """Follow a name from the packages that import it to the module that defines it."""
    node = _statement(name)
    if not isinstance(node, ast.ImportFrom):
        return name
    module, _, own = name.rpartition(".")
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == own)
    package = module if str(_file(module)).endswith("__init__.py") else module.rpartition(".")[0]
    return _home(f"{importlib.util.resolve_name('.' * node.level + (node.module or ''), package)}.{original}")


@cache
def _class(path: str) -> _Class | None:
    """Read a class and its bases; None if there is no such class."""
    home = _home(path)
    node = _statement(home)
    if not isinstance(node, ast.ClassDef):
        return None
    options: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and (inherited := _class(f"{home.rpartition('.')[0]}.{base.id}")):
            options, constants = inherited.options, {**constants, **inherited.constants}
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            options = _options(part, path)
        elif isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
            constants |= dict.fromkeys(_targets(part), _literal(part.value))
    if not isinstance(constants.get("version", 1), int):
        raise CodeError(f"{path}: its version is no whole number; write one, such as 2")
    return _Class(options, constants)


def _literal(value: ast.expr) -> Any:
    try:
        return canonical(ast.literal_eval(value))
    except (ValueError, TypeError):
        return _UNSET


def _options(constructor: ast.FunctionDef, path: str) -> dict[str, Any]:
    """Map the arguments of a constructor to their defaults."""
    arguments = constructor.args
    if arguments.vararg or arguments.kwarg:
        raise CodeError(f"{path}: its constructor takes * or **, so its options have no names; write them out")
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)][1:]
    defaults = [*arguments.defaults, *arguments.kw_defaults]
    found = dict.fromkeys(names, _UNSET)
    for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=True):
        if default is not None:
            found[name] = _literal(default)
            if found[name] is _UNSET:
                allowed = "a number, text, True, False, None or a list of these"
                raise CodeError(f"{path}: the default of {name} is no literal; write {allowed}")
    return found
