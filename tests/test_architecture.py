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
    {"subnetwork", "nets"},
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
CORE = ["selection", "steps", "distributions", "edge_popup", "supermask", "ticket"]
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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down_only(path: Path) -> None:
    here = home(path)
    if here == "__init__":
        return  # names every room, imports none until it is asked
    upward = [n for n in imports(path) if (r := room(n)) and r != here and FLOOR[r] >= FLOOR[here]]
    assert upward == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Wherever the imports stand: in functions and for types too."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

    def file(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    needs = {name: {file(other) for other in imports(path)} & files.keys() - {name} for name, path in files.items()}
    needs["lit_hidden"] = set()  # names every room, imports none until it is asked
    assert set(TopologicalSorter(needs).static_order()) == files.keys()


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_torch_numpy_the_standard_library_and_what_lies_below(name: str) -> None:
    packages = {module.split(".")[0] for path in FILES if home(path) == name for module in imports(path)}
    # Triton comes with torch where there are GPUs; only selection's kernels know it.
    own = {"triton"} if name == "selection" else set()
    assert packages - sys.stdlib_module_names <= {"torch", "numpy", "lit_hidden"} | own


def test_the_hot_kernel_stands_alone() -> None:
    for name in ("selection", "distributions", "recipes", "code"):
        inside = [module for path in FILES if home(path) == name for module in imports(path)]
        assert inside
        # A distribution may be one of your own, called by its name.
        below = {"code"} if name == "distributions" else set()
        assert {room(module) for module in inside if module.startswith("lit_hidden")} <= {name} | below


def test_descriptions_know_no_framework() -> None:
    for name in ("run", "checks", "results", "judge", "recipes", "code"):
        packages = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")}
        assert packages - sys.stdlib_module_names <= {"numpy", "scipy", "lit_hidden"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.name)
def test_an_experiment_imports_descriptions_and_plotting_alone(path: Path) -> None:
    packages = {module.split(".")[0] for module in imports(path)}
    assert packages - sys.stdlib_module_names <= {"numpy", "matplotlib", "lit_hidden", "experiments"}
    lobby = [n for n in imports(path) if n.startswith("lit_hidden") and room(n) not in EXPERIMENTS_MAY]
    assert lobby == []


def test_only_the_tracking_room_knows_weights_and_biases() -> None:
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(n.split(".")[0] == "wandb" for n in imports(p))}
    assert users <= {"engine/tracking.py"}


def test_importing_the_package_and_describing_runs_waits_for_no_framework(python: Callable[..., str]) -> None:
    code = (
        "import sys, lit_hidden, lit_hidden.run\n"
        "lit_hidden.Run(density=0.5).hash, lit_hidden.Results([]), lit_hidden.Claim\n"
        "heavy = {'torch', 'torchvision', 'lightning', 'pytorch_lightning', 'wandb', 'timm', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(code) == "[]"


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
        "import os, sys\nfrom lit_hidden.cli import main\n"
        f"main(['reproduce', 'fig2', '--dry-run', '--runs-dir', {str(tmp_path)!r}])\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "main(['reproduce', 'mine', '--dry-run'])\n"
        "try: main(['compare', 'mine'])\nexcept SystemExit as end: print(end.code)\n"
        "print(sorted({'torch', 'lightning', 'wandb'} & set(sys.modules)))"
    )
    said = python(code).splitlines()
    assert [line.startswith("fig2") or "Lesion(epoch=2)" in line for line in said].count(True) == 2
    assert said[-2:] == ["1", "[]"]


def test_the_public_names_are_found_where_they_live() -> None:
    import lit_hidden

    for name in lit_hidden.__all__:
        assert getattr(lit_hidden, name) is not None
        assert name in dir(lit_hidden)
    assert lit_hidden.hide.__module__ == "lit_hidden.edge_popup"
    assert lit_hidden.Supermask.__module__ == "lit_hidden.supermask"


def test_an_unknown_public_name_is_refused() -> None:
    import lit_hidden

    with pytest.raises(AttributeError) as error:
        lit_hidden.prune  # noqa: B018
    assert str(error.value) == (
        "module 'lit_hidden' has no attribute 'prune'; it has RunCallback, spec, EdgePopup, hide, reveal, Claim, "
        "Results, Run, build, load_subnetwork, masks, save_subnetwork, Supermask"
    )


def test_the_type_checkers_names_are_the_run_times() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    guarded = next(n for n in tree.body if isinstance(n, ast.If))
    checked = {a.name for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    import lit_hidden

    assert checked == set(lit_hidden.__all__) - {"__version__"}
