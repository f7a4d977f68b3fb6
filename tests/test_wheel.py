"""The wheel works without the checkout: the library, the commands and the experiments."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("lit_hidden", "experiments")


def test_the_wheel_holds_every_module_and_works_without_the_checkout(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"  # a copy: a build must not write into the checkout
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "lit_hidden-0.1.0-py3-none-any.whl") as archive:
        held = set(archive.namelist())
        archive.extractall(site)
    kinds = {".py", ".html", ".css", ".js", ".csv", ".mplstyle"}
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in kinds]
    ours = {str(path.relative_to(ROOT)) for path in files if not {"results", "gpu"} & {*path.parts}}
    assert ours | {"lit_hidden/py.typed"} <= held
    assert not [name for name in held if name.startswith(("tests", "experiments/gpu", "experiments/results"))]

    code = (
        "import lit_hidden; from lit_hidden.__main__ import main\n"
        "print(lit_hidden.__file__)\n"
        "main(['reproduce', 'fig2', 'fig8', '--dry-run'])"
    )
    command = [sys.executable, "-c", code]
    settings = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=settings, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{site}/lit_hidden/__init__.py\n")
    assert "fig2 (quick)" in done.stdout
