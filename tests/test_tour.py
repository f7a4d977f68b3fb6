"""The tour, `experiments/tour.ipynb`, as a reader runs it."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOUR = ROOT / "experiments" / "tour.ipynb"


def test_the_tour_is_committed_without_outputs():
    cells = json.loads(TOUR.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)


@pytest.mark.slow
def test_the_tour_runs_from_start_to_end_and_shows_its_animation_and_figure(tmp_path, monkeypatch):
    from nbclient import NotebookClient
    from nbformat import read

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # it leaves nothing elsewhere
        monkeypatch.setenv(name, str(tmp_path))
    notebook = read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    (player,) = [data["text/html"] for data in shown if "<iframe" in data.get("text/html", "")]
    assert "edges swapped at an update" in player
    assert sum("image/png" in data for data in shown) == 1
    assert [path.name for path in tmp_path.glob("tour-*/lit-hidden-demo/*")], "the demo writes into the tour's folder"
