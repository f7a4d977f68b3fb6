"""The wheel works without the checkout: the library, the commands and the experiments."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from lit_hidden import __version__

ROOT = Path(__file__).parent.parent
PACKAGES = ("lit_hidden", "experiments")


def built(tmp_path: Path) -> tuple[set[str], Path]:
    """Build the wheel of this version; give the names it holds and the folder of what is in it."""
    source, site = tmp_path / "source", tmp_path / "site"  # a copy: a build must not write into the checkout
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / f"lit_hidden-{__version__}-py3-none-any.whl") as archive:
        archive.extractall(site)
        return set(archive.namelist()), site


def test_the_wheel_holds_every_module_and_works_without_the_checkout(tmp_path):
    held, site = built(tmp_path)
    kinds = {".py", ".html", ".css", ".js", ".csv", ".json", ".mplstyle"}
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in kinds]
    ours = {str(path.relative_to(ROOT)) for path in files if not {"results", "gpu"} & {*path.parts}}
    assert ours | {"lit_hidden/py.typed"} <= held
    assert not [name for name in held if name.startswith(("tests", "experiments/gpu", "experiments/results"))]

    code = (
        "import lit_hidden; from lit_hidden.__main__ import main\n"
        "print(lit_hidden.__file__)\n"
        "main(['reproduce', 'fig2', 'fig8', '--dry-run'])\n"
        "main(['report', '--results', 'committed'])\n"
        "main(['slides', '--results', 'committed'])"
    )
    shutil.copytree(ROOT / "experiments" / "results" / "fig1" / "quick", tmp_path / "committed" / "fig1" / "quick")
    command = [sys.executable, "-c", code]
    settings = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=settings, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{site}/lit_hidden/__init__.py\n")
    assert "fig2 (quick)" in done.stdout
    assert "report.html: 1 experiments" in done.stdout
    assert "slides.html: 3 slides" in done.stdout


@pytest.mark.slow
def test_the_demo_of_the_wheel_draws_figure_2_in_a_folder_of_its_own(tmp_path):
    _, site = built(tmp_path)
    mine = tmp_path / "mine"
    (mine / "experiments").mkdir(parents=True)
    (mine / "experiments" / "other.py").touch()  # experiments of one's own have no figure 2
    command = [sys.executable, "-m", "lit_hidden", "demo", "--preset", "smoke"]
    settings = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=mine, env=settings, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    drawn = mine / "lit-hidden-demo" / "results" / "fig2" / "smoke"
    assert f"figure 2: {drawn}/figure.png" in done.stdout
    assert "edges swapped at an update" in (drawn / "figure.html").read_text()
    assert (drawn / "figure.png").stat().st_size > 1000
    assert {path.name for path in mine.iterdir()} == {"experiments", "lit-hidden-demo"}


def test_the_changelog_and_the_citation_are_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    heading = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ["))
    assert cited["version"] == __version__
    assert heading == f"## [{__version__}] - {cited['date-released']}"
    assert "1911.13299" in str(cited["preferred-citation"])
