"""Code by name: a Run names its callbacks, nets and other code as text; planning, hashing and comparing import none.

`lesion.Lesion` is short for `lit_hidden.callbacks.lesion.Lesion`; code elsewhere has its full dotted name. Options,
their defaults and the version are read from the source, where they have to be literals.
"""

import ast
import hashlib
import importlib.util
import math
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from inspect import Parameter, Signature
from numbers import Real
from pathlib import Path
from typing import Any, Self

from lit_hidden.errors import UserError

_ROOMS = ("lit_hidden.callbacks", "lit_hidden")  # a short name is looked up here, in this order
_UNSAID: dict[str, Any] = {"options": Signature(), "version": 1, "records": False}  # of a class that says nothing
_RAN: dict[str, str | None] = {}  # fingerprints of the code of one's own that this process has loaded


class CodeError(UserError, ValueError):
    """A name without code, or options that the code does not take."""


@dataclass(frozen=True)
class Spec:
    """A callback of a Run: its class, its version, and the options that differ from the defaults. Made by `spec`."""

    class_path: str
    options: tuple[tuple[str, Any], ...] = ()
    version: int = 1

    @classmethod
    def of(cls, class_path: str, options: Mapping[str, Any], version: int = 1) -> Self:
        """Make one of options in any order, whose values have any form that `canonical` takes."""
        return cls(class_path, tuple(sorted((str(name), canonical(value)) for name, value in options.items())), version)

    @property
    def all_options(self) -> dict[str, Any]:
        """The options with their values; defaults are known only where the code is here."""
        defaults = {name: one.default for name, one in self._known["options"].parameters.items()}
        return {name: value for name, value in defaults.items() if value is not Parameter.empty} | dict(self.options)

    @property
    def records(self) -> bool:
        """Whether the callback only measures: the run's own numbers are those of the run without it."""
        return bool(self._known["records"])

    @property
    def _known(self) -> dict[str, Any]:
        with suppress(CodeError):  # results stay readable, whatever has become of their code
            return _UNSAID | _class(self.class_path)
        return _UNSAID

    @property
    def entry(self) -> dict[str, Any]:
        """The callback as a LightningCLI's YAML takes it."""
        return {"class_path": self.class_path, "init_args": dict(self.options)}

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
    """Describe a callback for a Run: `spec("lesion.Lesion", epoch=25)`; CodeError: there is no such class or option.

    Options are numbers, text, True, False, None, and lists of these.
    """
    path = full(name)
    if not isinstance(_find(path)[1], ast.ClassDef):
        raise CodeError(f"{path} is no class of a Python file; callbacks derive from lit_hidden.callbacks.RunCallback")
    said = _UNSAID | _class(path)
    known: Signature = said["options"]
    try:
        known.bind(**options)
    except TypeError as error:
        raise CodeError(f"{path.rpartition('.')[2]}{known}: {error}") from error
    changed = {name: value for name, value in options.items() if canonical(value) != known.parameters[name].default}
    return Spec.of(path, changed, said["version"])


def read(text: str) -> tuple[Spec, ...]:
    """Read specs as `str` writes them, separated by semicolons; a ValueError if the text holds anything else."""
    found = []
    try:
        for line in ast.parse(text).body:
            match line:
                case ast.Expr(ast.Call(name, [], given)):
                    path, _, version = ast.unparse(name).removesuffix("]").partition("[")
                    options = {str(one.arg): ast.literal_eval(one.value) for one in given}
                    found.append(Spec.of(path, options, int(version or 1)))
                case _:
                    raise ValueError("no call by names")
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"no callbacks: {text!r}") from error
    return tuple(found)


def canonical(value: Any) -> Any:
    """Give equal values one form: 2.0 and numpy's 2 become 2, a list a tuple; a CodeError if files cannot hold it."""
    if getattr(value, "shape", None) == ():  # a number or text of numpy
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(canonical(one) for one in value)
    if isinstance(value, Real) and math.isfinite(value):
        value = real(value)
        return int(value) if value.is_integer() else value
    raise CodeError(f"an option cannot be {value!r}; it must be a number, text, True, False, None or a list of these")


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
    if not dotted(name) or ":" in name or ours(name):
        return name
    return next((f"{room}.{name}" for room in _ROOMS if _find(f"{room}.{name}")[1]), name)


def dotted(name: Any) -> bool:
    """Tell whether a value is a dotted name of code, such as `package.module.name` or `package.module:name`."""
    return isinstance(name, str) and re.search("[.:]", name) is not None and not name.startswith("timm:")


def load(name: str) -> Any:
    """Import the code of a full dotted name; a CodeError if that fails."""
    module, _, own = name.rpartition(".")
    if not module:
        raise CodeError(f"{name!r} has no package; give package.module.name, such as lit_hidden.Supermask")
    if name not in _RAN and not ours(name):
        _RAN[name] = fingerprint(name)
    try:
        return getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError, ValueError) as error:
        raise CodeError(f"{name} cannot be imported: {error}; give package.module.name") from error


def check(*names: str) -> None:
    """Raise one CodeError for all of these full dotted names that cannot be imported; nothing is imported."""
    wrong = []
    for name in names:
        home, node = _find(name)
        file = _file(home.rpartition(".")[0]) if node else None
        if file is None:
            wrong.append(f"{name} cannot be found; give package.module.name of what a Python file defines")
            continue
        lines = _parsed(file).body
        needed = {one.name for line in lines if isinstance(line, ast.Import) for one in line.names}
        needed |= {str(line.module) for line in lines if isinstance(line, ast.ImportFrom) and not line.level}
        for package in sorted({module.partition(".")[0] for module in needed} - sys.modules.keys()):
            if importlib.util.find_spec(package) is None:
                wrong.append(f"{name} cannot be imported: {file} needs {package}, which is not installed")
    if wrong:
        raise CodeError("\n".join(wrong))


def fingerprint(name: str) -> str | None:
    """Hash the file that defines a name, without comments, docstrings and what it imports; None if none does."""
    file = _file(_find(name)[0].rpartition(".")[0])
    if file is None or not file.exists():  # Python remembers where it was
        return None
    tree = _parsed(file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            node.body = (node.body[1:] or [ast.Pass()]) if documented else node.body
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def ran(name: str) -> str | None:
    """Return the fingerprint at the time when this process loaded the code, or today's if it has not loaded it."""
    return _RAN[name] if name in _RAN else fingerprint(name)


def ours(name: str) -> bool:
    """Tell whether a name is one of this library, whose source a commit and a version stand for."""
    return name.startswith("lit_hidden.")


@cache
def _file(module: str) -> Path | None:
    """Find the Python file of a module without importing it or its packages."""
    first, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(first)
        for part in rest:
            found = found and PathFinder.find_spec(f"{found.name}.{part}", found.submodule_search_locations or [])
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), file)
    except (SyntaxError, ValueError) as error:
        raise CodeError(f"{file} is no Python: {error}") from error


@cache
def _find(name: str) -> tuple[str, ast.stmt | None]:
    """Follow a dotted name from file to file that imports it; return its name in the last and the statement there."""
    module, _, own = name.rpartition(".")
    file = _file(module)
    node = _bound(_parsed(file)).get(own) if file else None
    if not isinstance(node, ast.ImportFrom) or file is None:
        return name, node
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == own)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    home, further = _find(f"{origin}.{original}")
    return home, further or node


def _bound(scope: ast.Module | ast.ClassDef) -> dict[str, ast.stmt]:
    """Map the names that a module or class defines, assigns or imports to the statements that do."""
    names: dict[str, ast.stmt] = {}
    for node in scope.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names[name] = node
            case ast.Assign(targets=targets):
                names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
            case ast.ImportFrom(names=imported):
                names |= {alias.asname or alias.name: node for alias in imported}
    return names


@cache
def _class(path: str) -> dict[str, Any]:
    """Read what the source of a class says, or else those of its bases."""
    home, node = _find(path)
    found: dict[str, Any] = {}
    if not isinstance(node, ast.ClassDef):
        return found
    for base in reversed(node.bases):
        found |= _class(f"{home.rpartition('.')[0]}.{base.id}") if isinstance(base, ast.Name) else {}
    own: dict[str, Any] = _bound(node)
    try:
        found |= {name: canonical(ast.literal_eval(own[name].value)) for name in ("version", "records") if name in own}
        if "__init__" in own:
            found["options"] = _options(own["__init__"].args)
    except (ValueError, TypeError, AttributeError) as error:
        raise CodeError(f"{path}: its version and the defaults of its options must be literals; {error}") from error
    return found


def _options(arguments: ast.arguments) -> Signature:
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)][1:]
    defaults = zip(names[::-1], [*arguments.defaults, *arguments.kw_defaults][::-1], strict=False)
    found = {name: canonical(ast.literal_eval(value)) for name, value in defaults if value is not None}
    return Signature([Parameter(n, Parameter.KEYWORD_ONLY, default=found.get(n, Parameter.empty)) for n in names])
