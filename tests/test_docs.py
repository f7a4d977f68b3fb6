"""The documentation: every public name has an example that runs, and the site is whole without a network."""

import doctest
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lit_hidden

ROOT = Path(__file__).parent.parent
API = ROOT / "docs" / "api.md"


def test_every_public_name_is_in_the_reference_with_an_example():
    sections = re.split("^##+ ", API.read_text(), flags=re.M)[1:]
    shown = {name: part for part in sections for name in re.findall("^::: lit_hidden[.](.*)$", part, flags=re.M)}
    assert shown.keys() | {"__version__"} == set(lit_hidden.__all__)
    assert [name for name, part in shown.items() if not re.search(rf">>> .*\b{name}\b", part)] == []


def test_the_examples_of_the_reference_run():
    failed, tried = doctest.testfile(str(API), module_relative=False)
    assert tried > 50
    assert failed == 0


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocstrings"), reason="needs pip install 'lit-hidden[docs]'")
def test_the_site_is_built_without_a_warning_and_asks_no_host(tmp_path):
    pages = tmp_path / "build" / "pages"
    pages.mkdir(parents=True)
    for name in re.findall("^PAGES = (.*)", (ROOT / "Makefile").read_text(), flags=re.M)[0].split():
        (pages / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "lit_hidden").symlink_to(ROOT / "lit_hidden")
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=tmp_path, capture_output=True)
    assert built.returncode == 0, built.stderr.decode()
    site = tmp_path / "build" / "site"
    assert 'id="lit_hidden.hide"' in (site / "docs" / "api.html").read_text()
    asking = r'<(?:script|link|img)[^>]+(?:src|href)="?https?:[^>]*'
    assert [tag for page in site.rglob("*.html") for tag in re.findall(asking, page.read_text())] == []
