"""Code by name: callbacks, nets and other ideas are text in a Run, and nothing is imported to plan, hash or compare.

`lesion.Lesion` is short for `lit_hidden.callbacks.lesion.Lesion`; whatever stands elsewhere has its full dotted name.
Defaults and versions are read from the source, where they are literals.
"""

import ast
import hashlib
import importlib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from numbers import Integral, Real
from pathlib import Path
from typing import Any

_ROOMS = ("lit_hidden.callbacks", "lit_hidden")  # where a short name is looked up, in this order
_OURS = "lit_hidden."
# Where nets, maskers, distributions, tasks and modules come from: what a file may name.
_MADE = tuple(
    f"lit_hidden.{room}"
    for room in ("callbacks", "data", "distributions", "edge_popup", "modules", "nets", "supermask", "ticket")
)
_UNSET = object()
_RAN: dict[str, str | None] = {}  # what was loaded in this process, as it was then


class CodeError(ValueError):
    """A name without code, or options that the code does not take."""


@dataclass(frozen=True)
class Spec:
    """A callback of a Run: its class, the version of it, and the options that differ from the defaults.

    Made by `spec`, which reads defaults and version from the source; or read from a file, where all of it stands.
    """

    class_path: str
    options: tuple[tuple[str, Any], ...] = ()
    version: int = 1

    @property
    def init_args(self) -> dict[str, Any]:
        """The options that differ from the defaults."""
        return dict(self.options)

    def option(self, name: str) -> Any:
        """Give an option, the default where the spec has none; None if the class takes no such option."""
        value = (self._known.options | self.init_args).get(name)
        return None if value is _UNSET else value

    def takes(self, name: str) -> bool:
        """Tell whether the class takes an option."""
        return name in self._known.options or name in self.init_args

    @property
    def records(self) -> bool:
        """Whether it only looks: the run's own numbers are those without it."""
        return self._known.constants.get("records") is True

    @property
    def _known(self) -> "_Class":
        try:
            return _class(self.class_path) or _Class(self.class_path, {}, {})
        except CodeError:  # a finished run is read, whatever has become of its code since
            return _Class(self.class_path, {}, {})

    @property
    def entry(self) -> dict[str, Any]:
        """What a LightningCLI's YAML takes."""
        return {"class_path": self.class_path, "init_args": self.init_args}

    @property
    def short(self) -> str:
        """Name it for people: `Lesion(epoch=25)`."""
        options = ",".join(f"{name}={value}" for name, value in self.options)
        return self.class_path.rpartition(".")[2] + (f"({options})" if options else "")

    def __str__(self) -> str:
        """Write it as `read` reads it: `lit_hidden.callbacks.lesion.Lesion(epoch=25)`; version 2 is `Lesion[2]()`."""
        version = f"[{self.version}]" if self.version != 1 else ""
        return f"{self.class_path}{version}({', '.join(f'{name}={value!r}' for name, value in self.options)})"


def spec(name: str, **options: Any) -> Spec:
    """Describe a callback for a Run: `spec("lesion.Lesion", epoch=25)`.

    Args:
        name: the class, dotted; of those in `lit_hidden.callbacks` the file and the class do.
        options: its arguments: numbers, text, True, False, None, and lists of these.

    Raises:
        CodeError: no such class, an option that it does not take or that it needs, or a value that no file can hold.
    """
    path = full(name)
    found = _class(path)
    if found is None:
        raise CodeError(f"{name!r} cannot be found: {_absent(path)}")
    if unknown := sorted(options.keys() - found.options.keys()):
        takes = f"options are {', '.join(found.options)}" if found.options else "it has no options"
        raise CodeError(f"{found.name} takes no {', '.join(unknown)}; {takes}")
    if lacking := [k for k, default in found.options.items() if default is _UNSET and k not in options]:
        raise CodeError(f"{found.name} needs a value for {', '.join(lacking)}")
    given = {k: canonical(value, f"{found.name}: {k}") for k, value in options.items()}
    changed = {k: v for k, v in given.items() if v != found.options[k]}
    return Spec(path, tuple(sorted(changed.items())), found.constants.get("version", 1))


def read(text: str) -> tuple[Spec, ...]:
    """Read specs from a cell of a table, one or more with semicolons between.

    Raises:
        ValueError: they are none.
    """
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
    """Give equal values one form: 2.0 and numpy's 2 are 2, a list is a tuple.

    Raises:
        CodeError: a value that no file can hold.
    """
    if value is None or isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool", "bool_"):  # numpy's
        return bool(value)
    if isinstance(value, str):
        return str(value)  # numpy's text is not written as Python's
    if isinstance(value, list | tuple):
        return tuple(canonical(one, what) for one in value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        value = real(value)
        return int(value) if value.is_integer() else value
    raise CodeError(f"{what}={value!r} cannot be written down; it must be a number, text, True, False, None or a list")


def text(value: Any) -> str:
    """Write a value of a field, as `tables.number` reads it: reals with the digits that `real` keeps."""
    if value is None:
        return "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def real(value: Any) -> float:
    """Round to 12 digits: `np.arange(0.1, 1, 0.1)` has 0.30000000000000004, which is 0.3; 2**-15 has 11 digits."""
    return float(f"{float(value):.12g}")


def full(name: str) -> str:
    """Give the full dotted name: a short name's where `lit_hidden` has such code, else the name as it is."""
    if "." not in name or ":" in name or name.startswith(_OURS):
        return name
    for room in _ROOMS:
        module, _, own = f"{room}.{name}".rpartition(".")
        if (file := _file(module)) and own in _defined(file):
            return f"{module}.{own}"
    return name


def load(name: str) -> Any:
    """Import what a full dotted name stands for.

    Raises:
        CodeError: it cannot be imported.
    """
    module, _, own = name.rpartition(".")
    if name not in _RAN and not ours(name):
        _RAN[name] = fingerprint(name)
    try:
        return getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError, ValueError) as error:
        raise CodeError(f"{name} cannot be imported: {error}; give package.module.name") from error


def check(name: str) -> None:
    """Refuse a full dotted name of which no source can be found; nothing is imported.

    Raises:
        CodeError: as said.
    """
    module, _, own = name.rpartition(".")
    if (file := _file(module)) is None or own not in _defined(file):
        raise CodeError(f"{name} cannot be found: {_absent(name)}")


def fingerprint(name: str) -> str | None:
    """Hash the file that a name is from, without comments, docstrings and layout; None if there is no such file.

    What that file imports does not count.
    """
    module, _, own = name.rpartition(".")
    file = _file(module)
    if file and isinstance(_defined(file).get(own), ast.ImportFrom):  # a package shows what another file defines
        return fingerprint(_original(module, own))
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
    """Give the fingerprint that code had when this process loaded it, or the present one if it has not loaded it."""
    return _RAN[name] if name in _RAN else fingerprint(name)


def ours(name: str) -> bool:
    """Tell whether code is this library's, which a commit and a version stand for."""
    return name.startswith(_OURS)


def foreign(value: Any) -> list[str]:
    """List the texts in a value from a file, nested ones too, that name code which is not defined by this library."""
    if isinstance(value, str):
        return [] if not re.search("[.:]", value) or value.startswith("timm:") or _own(value) else [value]
    parts = [*value, *value.values()] if isinstance(value, Mapping) else value
    return [name for part in parts for name in foreign(part)] if isinstance(parts, Iterable) else []


def _own(name: str) -> bool:
    module, _, own = full(name.replace(":", ".")).rpartition(".")
    file = _file(module) if module.startswith(_MADE) else None
    # What the module imports is not its own: subprocess.run would be there too.
    return file is not None and isinstance(_defined(file).get(own), ast.ClassDef | ast.FunctionDef)


@dataclass(frozen=True)
class _Class:
    name: str
    options: dict[str, Any]  # of its constructor, with their defaults
    constants: Mapping[str, Any]  # literals of the class, such as its version


def _absent(name: str) -> str:
    module, _, own = name.rpartition(".")
    if not module:
        return "give package.module.Class"
    for there in (module, *(f"{room}.{module}" for room in _ROOMS)):
        if file := _file(there):
            return f"{there}.{own} is no class" if own in _defined(file) else f"{there} defines no {own}"
    return f"there is no module {module}"


@cache
def _file(module: str) -> Path | None:
    """Find the source of a module without importing it or the packages that it is in."""
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
    """Map what a file defines or imports at its top level."""
    names: dict[str, ast.stmt] = {}
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign):
            names |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
    return names


def _original(module: str, name: str) -> str:
    """Give the full name of what a module imports as `name`."""
    file = _file(module)
    assert file is not None
    node = _defined(file)[name]
    assert isinstance(node, ast.ImportFrom)
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    return f"{importlib.util.resolve_name('.' * node.level + (node.module or ''), package)}.{original}"


@cache
def _class(path: str) -> _Class | None:
    """Read a class and those it is made from; None if there is no such class."""
    module, _, name = path.rpartition(".")
    file = _file(module)
    node = _defined(file).get(name) if file else None
    if isinstance(node, ast.ImportFrom):
        return _class(_original(module, name))
    if not isinstance(node, ast.ClassDef):
        return None
    options: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and (inherited := _class(f"{module}.{base.id}")):
            options, constants = inherited.options, {**constants, **inherited.constants}
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            options = _options(part, path)
        elif isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            constants |= {target.id: _literal(part.value) for target in targets if isinstance(target, ast.Name)}
    if not isinstance(constants.get("version", 1), int):
        raise CodeError(f"{path}: its version is no whole number; write one, such as 2")
    return _Class(name, options, constants)


def _literal(value: ast.expr) -> Any:
    """Evaluate a literal in its one form; `_UNSET` is what is none."""
    try:
        return canonical(ast.literal_eval(value))
    except (ValueError, TypeError):
        return _UNSET


def _options(function: ast.FunctionDef, path: str) -> dict[str, Any]:
    """Map the arguments of a constructor to their defaults."""
    arguments = function.args
    if arguments.vararg or arguments.kwarg:
        raise CodeError(f"{path}: its constructor takes * or **, so its options have no names; write them out")
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    found: dict[str, Any] = {}
    for argument, default in pairs[1:]:
        found[argument.arg] = _UNSET if default is None else _literal(default)
        if default is not None and found[argument.arg] is _UNSET:
            raise CodeError(
                f"{path}: the default of {argument.arg} is no literal; write a number, text, True, False, None or a "
                "list of these"
            )
    return found
