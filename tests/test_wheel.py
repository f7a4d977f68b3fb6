"""The wheel works without the checkout: the library, the commands and the experiments."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("lit_hidden", "experiments")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"  # a copy: a build must not write into the checkout
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (work / "dist").glob("*.whl")
    return path


def test_the_wheel_is_named_and_holds_every_module_and_the_typing_marker(wheel):
    assert wheel.name == "lit_hidden-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in {".py", ".html", ".css"}]
    ours = {str(path.relative_to(ROOT)) for path in files if not {"results", "gpu"} & {*path.parts}}
    assert ours <= held
    assert "lit_hidden/py.typed" in held
    assert not [name for name in held if name.startswith(("tests", "experiments/gpu", "experiments/results"))]


def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import lit_hidden, torch; from lit_hidden import hide, build; from lit_hidden.__main__ import main\n"
        "net = hide(build('conv2', width=0.05), 0.3)\n"
        "print(lit_hidden.__file__, net(torch.zeros(1, 3, 32, 32)).shape)\n"
        "main(['reproduce', 'fig2', 'fig8', '--dry-run'])"
    )
    settings = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{site}/lit_hidden/__init__.py torch.Size([1, 10])\n")
    assert "fig2 (quick)" in done.stdout
