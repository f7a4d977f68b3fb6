"""Arrows point down only: what each room may import, read from the import statements themselves."""

import ast
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lit_hidden"

# A room may import from lower floors, and from within itself:
# `Makefile -> cli -> engine -> modules, data -> edge_popup, nets -> selection`.
FLOORS = [
    {"code", "files"},
    {"selection", "distributions", "recipes", "steps"},
    {"checks"},
    {"edge_popup", "run"},
    {"results"},
    {"judge"},
    {"supermask", "ticket"},
    {"subnetwork", "nets", "hyper_parameters", "metrics"},
    {"classifier"},
    {"modules", "data", "report"},
    {"callbacks"},
    {"engine"},
    {"page"},
    {"lightning_cli"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXPERIMENTS_MAY = {"code", "run", "results", "judge", "recipes", "report"}
FILES = sorted(PACKAGE.rglob("*.py"))
EXPERIMENTS = [path for path in sorted((ROOT / "experiments").glob("*.py")) if path.name != "_calibration.py"]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relative to itself; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str | None:
    """The room of `lit_hidden` that a name leads to; None for other packages and for the lobby itself."""
    first, _, rest = name.partition(".")
    inside = rest.split(".")[0]
    return inside if first == "lit_hidden" and inside in FLOOR else None


def home(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_of_the_package_has_a_floor() -> None:
    assert {home(path) for path in FILES} - FLOOR.keys() == {"__init__"}


def test_arrows_point_down_only() -> None:
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
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

    def file(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    needs = {name: {file(other) for other in imports(path)} & files.keys() - {name} for name, path in files.items()}
    needs["lit_hidden"] = set()  # names every room, imports none until it is asked
    assert set(TopologicalSorter(needs).static_order()) == files.keys()


KERNEL = {"torch", "numpy"}
KNOWS = {  # room -> packages and rooms that it may import, besides the standard library
    "code": set(),
    "recipes": set(),
    "selection": KERNEL | {"triton"},  # comes with torch where there are GPUs
    "distributions": KERNEL | {"lit_hidden.code"},  # a distribution may be one of your own, called by its name
    **{name: KERNEL | {"lit_hidden"} for name in ("steps", "edge_popup", "supermask", "ticket")},
    **{name: {"numpy", "scipy", "lit_hidden"} for name in ("run", "checks", "results", "judge")},
}


@pytest.mark.parametrize("name", KNOWS)
def test_the_core_and_the_descriptions_know_no_framework(name: str) -> None:
    inside = {module for path in FILES if home(path) == name for module in imports(path)}
    packages = {module.split(".")[0] for module in inside} - sys.stdlib_module_names
    assert packages <= {allowed.split(".")[0] for allowed in KNOWS[name]} | {"lit_hidden"}
    if "lit_hidden" not in KNOWS[name]:
        rooms = {room(module) for module in inside if module.startswith("lit_hidden")}
        assert rooms <= {name, *(allowed.partition(".")[2] for allowed in KNOWS[name])}


def test_an_experiment_imports_descriptions_and_plotting_alone() -> None:
    for path in EXPERIMENTS:
        packages = {module.split(".")[0] for module in imports(path)}
        assert packages - sys.stdlib_module_names <= {"numpy", "matplotlib", "lit_hidden", "experiments"}, path.name
        rooms = {room(n) for n in imports(path) if n.startswith("lit_hidden")}
        assert rooms <= EXPERIMENTS_MAY, path.name


def test_only_the_tracking_room_knows_weights_and_biases() -> None:
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(n.split(".")[0] == "wandb" for n in imports(p))}
    assert users <= {"engine/tracking.py"}


def test_planning_and_comparing_runs_with_callbacks_waits_for_no_framework(
    python: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(
        '"""Mine: lesions."""\nfrom lit_hidden import Run, spec\nCLAIMS = []\ndef draw(results, figure): pass\n'
        "def runs(preset):\n    run = Run(density=0.5, data='digits', callbacks=(spec('lesion.Lesion', epoch=2),))\n"
        "    return [run, run.then(epochs=0, callbacks=(spec('rdm.RDM'), spec('trace.Trace')))]\n"
    )
    code = (
        "import os, sys, lit_hidden\nfrom lit_hidden.cli import main\n"
        "lit_hidden.Run(density=0.5).hash, lit_hidden.Results([]), lit_hidden.Claim\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"main(['reproduce', 'fig2', '--dry-run', '--runs-dir', {str(tmp_path)!r}])\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "main(['reproduce', 'mine', '--dry-run'])\n"
        "try: main(['compare', 'mine'])\nexcept SystemExit as end: print(end.code)\n"
        "print(sorted({'torch', 'torchvision', 'lightning', 'wandb', 'timm'} & set(sys.modules)))"
    )
    said = python(code).splitlines()
    assert [line.startswith("fig2") or "Lesion(epoch=2)" in line for line in said].count(True) == 2
    assert said[-2:] == ["1", "[]"]


def test_the_public_names_are_found_and_others_refused() -> None:
    import lit_hidden

    for name in lit_hidden.__all__:
        assert getattr(lit_hidden, name) is not None
    assert dir(lit_hidden) == sorted(lit_hidden.__all__)
    assert lit_hidden.hide.__module__ == "lit_hidden.edge_popup"
    with pytest.raises(AttributeError, match="has no attribute 'prune'; it has RunCallback, spec, "):
        lit_hidden.prune  # noqa: B018


def test_the_type_checkers_names_are_the_run_times() -> None:
    import lit_hidden

    guarded = next(n for n in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(n, ast.If))
    checked = {a.name for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert checked == set(lit_hidden.__all__) - {"__version__"} == lit_hidden._HOME.keys()
