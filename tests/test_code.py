"""Code by name: what a spec reads from source without importing it, how it is written, and what is refused."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lit_hidden import code
from lit_hidden.code import CodeError, Spec, read, spec

OWN = """
from lit_hidden.callbacks.lesion import Lesion as Cut
class Still(Cut):
    capturable = records = True
class Newer(Still):
    version: int = 3
    def __init__(self, rate, of=("a", "b"), *, to=None, at=2.0): ...
class Loose:
    def __init__(self, **options): ...
class Computed:
    def __init__(self, rate=2**-15): ...
class Dated:
    version = max(1, 2)
def net(width=1.0): ...
nets: dict = {}
other = net
raise RuntimeError("imported")
"""


@pytest.fixture(scope="module", autouse=True)
def ideas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put a package on the path that cannot be imported."""
    folder = tmp_path_factory.mktemp("path") / "ideas"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .own import Still\nfrom .deep import Newer as Again\n1 / 0\n")
    (folder / "deep" / "__init__.py").write_text("from ..own import Newer\n1 / 0\n")
    (folder / "own.py").write_text(OWN)
    (folder / "wrong.py").write_text("class Open(:\n")
    (folder / "needy.py").write_text("import os.path, nosuch.deep\nfrom .own import Still\nnet = 1\n")
    sys.path.insert(0, str(folder.parent))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder.parent))
    assert "ideas" not in sys.modules


def test_a_spec_has_the_full_name_the_version_and_what_differs_from_the_defaults() -> None:
    made = spec("lesion.Lesion", epoch=25, fraction=0.5, of="units")
    assert made == Spec("lit_hidden.callbacks.lesion.Lesion", (("epoch", 25),), 2)
    assert made == spec("lit_hidden.callbacks.lesion.Lesion", epoch=25)
    assert made.entry == {"class_path": "lit_hidden.callbacks.lesion.Lesion", "init_args": {"epoch": 25}}
    newer = spec("ideas.own.Newer", rate=0.5, to=["x"], of=["a", "b"], at=2)
    assert newer == Spec("ideas.own.Newer", (("rate", 0.5), ("to", ("x",))), 3)
    assert (str(newer), newer.short) == ("ideas.own.Newer[3](rate=0.5, to=('x',))", "Newer(rate=0.5,to=('x',))")
    assert spec("trace.Trace").short == "Trace"


@pytest.mark.parametrize("name", ["labels.RandomLabels", "lesion.Lesion", "rdm.RDM", "rewind.Prune", "swaps.Swaps"])
def test_the_source_says_what_the_class_says(name: str) -> None:
    there = code.load(code.full(name))
    defaults = {k: one.default for k, one in inspect.signature(there).parameters.items()}
    needed = {k: 1 for k, default in defaults.items() if default is inspect.Parameter.empty}
    made = spec(name, **needed)
    assert (made.version, made.records, made.all_options) == (there.version, there.records, defaults | needed)


LESION = {"of": "units", "fraction": 0.5, "measure": False}  # the defaults


def test_bases_and_imports_are_followed_without_importing() -> None:
    for name in ("ideas.own.Still", "ideas.Still"):
        found = spec(name, epoch=7)
        assert (found.records, found.all_options) == (True, LESION | {"epoch": 7})
    assert spec("ideas.Again", rate=1).all_options == {"rate": 1, "of": ("a", "b"), "to": None, "at": 2}
    for name in ("own.net", "own.nets", "own.other", "own.Cut", "Again"):
        code.check(f"ideas.{name}")


@pytest.mark.parametrize("name", ["ideas.own.Gone", "ideas.own.Loose", "ideas.own.Computed", "ideas.wrong.Open"])
def test_results_stay_readable_whatever_has_become_of_their_code(name: str) -> None:
    kept = Spec(name, (("rate", 1),))
    assert (kept.all_options, kept.records) == ({"rate": 1}, False)


@pytest.mark.parametrize(
    ("call", "name", "message"),
    [
        (spec, "trace.Trace:age", "Trace(*, updates=600): got an unexpected keyword argument 'age'"),
        (spec, "lesion.Lesion", "missing a required argument: 'epoch'"),
        (spec, "lesion.Lesion:epoch", "an option cannot be {}; it must be a number"),
        *((spec, name, f"{name} is no class of a Python file") for name in ("lesion.Leson", "Lesion", "ideas.own.net")),
        (spec, "ideas.own.Loose:rate", "unexpected keyword argument 'rate'"),
        (spec, "ideas.own.Computed", "ideas.own.Computed: its version and the defaults of its options must be lit"),
        (spec, "ideas.own.Dated", "ideas.own.Dated: its version and the defaults of its options must be literals"),
        *((code.check, f"ideas.own.{name}", f"ideas.own.{name} cannot be found") for name in ("Gone", "deep.net")),
        (code.check, "ideas.wrong.Open", "wrong.py is no Python: "),
        (code.check, "ideas.needy.net", "needy.py needs nosuch, which is not installed"),
        (code.load, "no_such_module.net", "no_such_module.net cannot be imported: No module named 'no_such_module'"),
        (code.load, "supermask", "'supermask' has no package; give package.module.name"),
        (code.load, "math.net", "math.net cannot be imported: module 'math' has no attribute 'net'"),
        *((read, text, f"no callbacks: {text!r}") for text in ("lesion.Lesion", "Lesion(", "Lesion(3)", "L(at=age)")),
    ],
)
def test_what_cannot_be_used_is_refused(call: Callable[..., object], name: str, message: str) -> None:
    name, _, option = name.partition(":")
    with pytest.raises(ValueError) as error:
        call(name, **({option: {}} if option else {}))
    assert isinstance(error.value, CodeError) or call is read
    assert message in str(error.value)


def test_equal_values_have_one_form() -> None:
    assert [repr(code.canonical(v)) for v in (2, 2.0, np.int64(2), np.float32(2), Fraction(2))] == ["2"] * 5
    found = [repr(code.canonical(v)) for v in (np.float64(0.5), np.str_("edges"), np.True_)]
    assert found == ["0.5", "'edges'", "True"]
    assert code.canonical([1, [2.0]]) == (1, (2,))


def test_a_short_name_is_one_of_ours() -> None:
    assert code.full("supermask.Supermask") == "lit_hidden.supermask.Supermask"
    for name in ("lesion.Other", "ideas.own.Still", "conv4", "timm:lesion.Lesion"):
        assert (code.full(name), code.ours(name)) == (name, False)


def test_a_fingerprint_is_of_what_runs(ideas: Path) -> None:
    def of(text: str, name: str = "ideas.own.f") -> str | None:
        (ideas / "own.py").write_text(text)
        return code.fingerprint(name)

    first = of('"""Says."""\nX = 1\ndef f(a):\n    """Says."""\n    return a + X\n')
    assert of("# why\nX=1\n\n\ndef f( a ):\n  'Says more.'\n  return (a+X)") == first
    assert of("X = 2\ndef f(a):\n    return a + X\n") != first
    assert of("def f():\n    'Says.'\n") == of("def f():\n    pass\n") == of("def f():\n    pass\n", "ideas.Again")
    assert code.fingerprint("ideas.gone.f") is None


def test_what_a_process_ran_is_the_code_as_it_was_when_it_was_loaded(ideas: Path) -> None:
    (ideas.parent / "mine.py").write_text("def net(): return 1\n")
    before = code.fingerprint("mine.net")
    code.load("mine.net")
    (ideas.parent / "mine.py").write_text("def net(): return 2\n")
    assert code.ran("mine.net") == before != code.fingerprint("mine.net")
