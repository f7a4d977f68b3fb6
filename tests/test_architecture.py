"""Arrows point down only: what each room may import, read from the import statements themselves."""

import ast
import shutil
import sys
from collections.abc import Callable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import lit_hidden

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lit_hidden"
FILES = sorted(PACKAGE.rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

# A room may import from lower floors, and from within itself:
# `Makefile -> cli -> engine -> modules, data -> edge_popup, nets -> selection`.
FLOORS = [
    "errors", "code", "selection distributions recipes steps rice texts", "checks uses parametrized", "edge_popup run",
    "results", "judge", "supermask", "nets hyper_parameters metrics", "subnetwork", "classifier", "modules data report",
    "callbacks", "engine", "predict hub", "inspection", "lightning_cli", "cli", "__main__",
]  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
KERNEL, DESCRIPTIONS = {"torch", "numpy", "lit_hidden"}, {"numpy", "scipy", "lit_hidden"}
KNOWS = {  # room -> packages that it may import, besides the standard library
    **{name: {"lit_hidden"} for name in ("errors", "code", "recipes", "texts")},
    **dict.fromkeys(("distributions", "steps", "rice", "uses", "parametrized", "edge_popup", "supermask"), KERNEL),
    "selection": KERNEL | {"triton"},  # comes with torch where there are GPUs
    **dict.fromkeys(("run", "checks", "results", "judge"), DESCRIPTIONS),
}
EXPERIMENTS_MAY = {"code", "run", "results", "judge", "recipes", "report", "texts"}
# Commands in experiments, which are no part of a figure.
COMMANDS = {"_archive.py", "_authors.py", "_calibration.py", "_missing.py", "_side_by_side.py"}


@cache
def imports(path: Path) -> list[str]:
    """Every module that a file imports, inside functions too; `from a import b` counts as `a.b`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relative to itself; write the whole name"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def room(name: str) -> str | None:
    """The room of `lit_hidden` that a name leads to; None for other packages and for the lobby itself."""
    package, inside = [*name.split("."), ""][:2]
    return inside if package == "lit_hidden" and inside in FLOOR else None


def home(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names


def test_arrows_point_down_only() -> None:
    assert {home(path) for path in FILES} - FLOOR.keys() == {"__init__"}, "every file has a floor"
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in FILES
        if (here := home(path)) != "__init__"  # names every room, imports none until it is asked
        for name in imports(path)
        if (r := room(name)) and r != here and FLOOR[r] >= FLOOR[here]
    ]
    assert upward == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Wherever the imports stand: in functions and for types too."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES + EXPERIMENTS}
    files = {name.removesuffix(".__init__"): path for name, path in paths.items()}

    def file(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    needs = {name: {file(other) for other in imports(path)} & files.keys() - {name} for name, path in files.items()}
    needs["lit_hidden"] = set()  # names every room, imports none until it is asked
    assert set(TopologicalSorter(needs).static_order()) == files.keys()


def test_rooms_know_no_more_packages_than_they_need() -> None:
    for path in FILES:
        if home(path) in KNOWS:
            assert packages(path) <= KNOWS[home(path)], path.name
        assert "wandb" not in packages(path) or path.name == "tracking.py"
        assert "experiments" not in packages(path), f"{path.name}: commands are found by name, when they are called"
    for path in (ROOT / "experiments").glob("*.py"):
        if path.name in COMMANDS:
            continue
        assert packages(path) <= {"numpy", "scipy", "matplotlib", "lit_hidden", "experiments"}, path.name
        assert {room(name) for name in imports(path) if name.startswith("lit_hidden")} <= EXPERIMENTS_MAY, path.name


MINE = """
from lit_hidden import Run, spec
CLAIMS = []
def draw(results, figure): pass
def runs(preset):
    run = Run(density=0.5, data='digits', callbacks=(spec('lesion.Lesion', epoch=2),))
    return [run, run.then(epochs=0, callbacks=(spec('rdm.RDM'), spec('trace.Trace')))]
"""


def test_help_planning_the_page_and_comparing_wait_for_no_framework(python: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(MINE)
    committed = Path("experiments", "results", "fig1", "quick")
    shutil.copytree(ROOT / committed, tmp_path / committed)
    code = (
        "import os, sys, lit_hidden\nfrom lit_hidden.cli import main\n"
        "NAMES = 'torch', 'lightning', 'matplotlib', 'scipy', 'wandb', 'timm', 'numpy', 'rich'\n"
        "def loaded(): return sorted({*NAMES} & {*sys.modules})\n"
        "try: main(['--help'])\nexcept SystemExit: print(loaded())\n"
        "lit_hidden.Run(density=0.5).hash, lit_hidden.Results([]), lit_hidden.Claim\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "main(['reproduce', 'mine', '--dry-run'])\n"
        "main(['report'])\n"
        "try: main(['compare', 'mine'])\nexcept SystemExit as end: print(end.code)\n"
        "print(loaded())"
    )
    said = python(code)
    commands = "fit validate test reproduce missing report compare predict inspect bench import pack unpack"
    for name in commands.split():
        assert f"\n    {name}" in said
    assert "\n[]\n" in said, "help"
    assert "Lesion(epoch=2)" in said, "the plan"
    assert "report.html: 1 experiments" in said
    assert said.endswith("1\n['numpy', 'rich']"), "compare: no run is done"


def test_the_public_names_are_found_and_are_the_type_checkers() -> None:
    for name in lit_hidden.__all__:
        assert getattr(lit_hidden, name) is not None
    guarded = next(n for n in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(n, ast.If))
    checked = {a.name for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert checked == set(lit_hidden.__all__) - {"__version__"}
