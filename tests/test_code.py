"""Code by name: what a spec reads from source without importing it, how it is written, and what is refused."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    sys.path.insert(0, str(folder.parent))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder.parent))
    assert "ideas" not in sys.modules


# --- spec --------------------------------------------------------------------------------------------------


def test_a_spec_has_the_full_name_the_version_and_what_differs_from_the_defaults() -> None:
    made = spec("lesion.Lesion", epoch=25, fraction=0.5, of="units")
    assert made == Spec("lit_hidden.callbacks.lesion.Lesion", (("epoch", 25),), 1)
    assert made == spec("lit_hidden.callbacks.lesion.Lesion", epoch=25)
    assert made.entry == {"class_path": "lit_hidden.callbacks.lesion.Lesion", "init_args": {"epoch": 25}}
    assert spec("ideas.own.Newer", rate=1, of=["a", "b"], at=2) == Spec("ideas.own.Newer", (("rate", 1),), 3)


@pytest.mark.parametrize(
    "name", ["labels.RandomLabels", "lesion.Lesion", "rdm.RDM", "rewind.Prune", "swaps.Swaps", "trace.Trace"]
)
def test_the_source_says_what_the_class_says(name: str) -> None:
    there = code.load(code.full(name))
    defaults = {k: one.default for k, one in inspect.signature(there).parameters.items()}
    needed = {k: 1 for k, default in defaults.items() if default is inspect.Parameter.empty}
    made = spec(name, **needed)
    assert (made.version, made.records) == (there.version, there.records)
    assert {k: made.option(k) for k in defaults} == defaults | needed


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ideas.own.Still", "epoch, of, fraction"),
        ("ideas.own.Newer", "rate, of, to, at"),
        ("ideas.Still", "epoch, of, fraction"),
        ("ideas.Again", "rate, of, to, at"),
    ],
)
def test_bases_and_imports_are_followed_without_importing(name: str, options: str) -> None:
    assert spec(name, **{options.partition(",")[0]: 7}).records
    with pytest.raises(CodeError, match=f"takes no x; options are {options}$"):
        spec(name, x=1)


def test_an_option_is_given_or_has_its_default() -> None:
    lesion, newer = spec("lesion.Lesion", epoch=25), spec("ideas.own.Newer", rate=1)
    assert [lesion.option(name) for name in ("epoch", "of", "fraction", "age")] == [25, "units", 0.5, None]
    assert [newer.option(name) for name in ("of", "at", "to")] == [("a", "b"), 2, None]
    # What has become of the code of a finished run is no matter where its results are read.
    for name in ("ideas.own.Gone", "ideas.own.Loose", "ideas.wrong.Open"):
        kept = Spec(name, (("rate", 1),))
        assert (kept.option("rate"), kept.option("of"), kept.records) == (1, None, False)


@pytest.mark.parametrize(
    ("call", "name", "message"),
    [
        (spec, "trace.Trace:age", "Trace takes no age; options are updates"),
        (spec, "feedback.FeedbackAlignment:age", "FeedbackAlignment takes no age; it has no options"),
        (spec, "lesion.Lesion", "Lesion needs a value for epoch"),
        (spec, "lesion.Lesion:epoch", "Lesion: epoch={} cannot be written down"),
        (spec, "lesion.Leson", "'lesion.Leson' cannot be found: lit_hidden.callbacks.lesion defines no Leson"),
        (spec, "Lesion", "'Lesion' cannot be found: give package.module.Class"),
        (spec, "ideas.own.net", "'ideas.own.net' cannot be found: ideas.own.net is no class"),
        (spec, "ideas.own.Loose", "ideas.own.Loose: its constructor takes * or **"),
        (spec, "ideas.own.Computed", "ideas.own.Computed: the default of rate is no literal"),
        (spec, "ideas.own.Dated", "ideas.own.Dated: its version is no whole number"),
        (code.check, "ideas.own.Gone", "ideas.own.Gone cannot be found: ideas.own defines no Gone"),
        (code.check, "ideas.own.deep.net", "ideas.own.deep.net cannot be found: there is no module ideas.own.deep"),
        (code.load, "no_such_module.net", "no_such_module.net cannot be imported: No module named 'no_such_module'"),
        (code.load, "math.net", "math.net cannot be imported: module 'math' has no attribute 'net'"),
        (code.load, "net", "net cannot be imported: Empty module name"),
        *((call, "ideas.wrong.Open", "wrong.py is no Python") for call in (spec, code.check, code.fingerprint)),
        *(
            (read, text, f"no callbacks: {text!r}")
            for text in ("lesion.Lesion", "Lesion(", "Lesion(3)", "x = Lesion()")
        ),
        (read, "Lesion(epoch=age)", "no callbacks: 'Lesion(epoch=age)'"),
    ],
)
def test_what_cannot_be_used_is_refused(call: Callable[..., object], name: str, message: str) -> None:
    name, _, option = name.partition(":")
    with pytest.raises(ValueError) as error:
        call(name, **({option: {}} if option else {}))
    assert isinstance(error.value, CodeError) or call is read
    assert message in str(error.value)


# --- values and how they are written -----------------------------------------------------------------------


def test_equal_values_have_one_form() -> None:
    assert [repr(code.canonical(v)) for v in (2, 2.0, np.int64(2), np.float32(2), Fraction(2))] == ["2"] * 5
    assert [repr(code.canonical(v)) for v in (np.float64(0.5), np.str_("edges"), np.True_)] == [
        "0.5",
        "'edges'",
        "True",
    ]
    assert code.canonical([1, [2.0]]) == (1, (2,))


OPTION = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
).map(code.canonical)
NAME = st.from_regex(r"[a-z]{3}_", fullmatch=True)
SPECS = st.lists(
    st.builds(
        lambda module, options, version: Spec(f"{module}.Class", tuple(sorted(options.items())), version),
        st.lists(NAME, min_size=1, max_size=3).map(".".join),
        st.dictionaries(NAME, OPTION, max_size=3),
        st.integers(1, 9),
    ),
    max_size=3,
    unique=True,
)


@settings(max_examples=25, deadline=None)
@given(SPECS)
def test_what_is_written_is_read_back(specs: list[Spec]) -> None:
    assert read("; ".join(map(str, specs))) == tuple(specs)


def test_a_spec_is_written_as_python_has_it_and_short_for_people() -> None:
    newer = spec("ideas.own.Newer", rate=0.5, to=["x"])
    assert (str(newer), newer.short) == ("ideas.own.Newer[3](rate=0.5, to=('x',))", "Newer(rate=0.5,to=('x',))")
    assert (str(spec("trace.Trace")), spec("trace.Trace").short) == ("lit_hidden.callbacks.trace.Trace()", "Trace")


# --- names and files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("lesion.Lesion", "lit_hidden.callbacks.lesion.Lesion"),
        ("lit_hidden.callbacks.lesion.Lesion", "lit_hidden.callbacks.lesion.Lesion"),
        ("supermask.Supermask", "lit_hidden.supermask.Supermask"),
        *((name, name) for name in ("lesion.Other", "ideas.own.Still", "conv4", "timm:lesion.Lesion")),
    ],
)
def test_a_short_name_is_one_of_ours(name: str, full: str) -> None:
    assert code.full(name) == full
    assert code.ours(code.full(name)) == full.startswith("lit_hidden.")


def test_what_a_file_defines_assigns_or_imports_is_found() -> None:
    for name in ("own.net", "own.nets", "own.other", "own.Cut", "own.Still", "Again"):
        code.check(f"ideas.{name}")


def test_a_fingerprint_is_of_what_runs(ideas: Path) -> None:
    def of(text: str) -> str | None:
        (ideas / "own.py").write_text(text)
        return code.fingerprint("ideas.own.f")

    first = of('"""Says."""\nX = 1\ndef f(a):\n    """Says."""\n    return a + X\n')
    assert of("# why\nX=1\n\n\ndef f( a ):\n  'Says more.'\n  return (a+X)") == first
    assert of("X = 2\ndef f(a):\n    return a + X\n") != first
    assert of("def f():\n    'Says.'\n") == of("def f():\n    pass\n") == code.fingerprint("ideas.own.g")
    assert code.fingerprint("ideas.gone.f") is None
