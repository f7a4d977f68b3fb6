"""What tests of callbacks share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_hidden.engine.train import train
from lit_hidden.run import Run

Trained = Callable[[Run], tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train a run, after those that come before it, once for all tests."""
    runs, done = tmp_path_factory.mktemp("runs"), {}

    def go(run: Run) -> tuple[Path, dict[str, Any]]:
        folder = runs / run.hash
        if run.hash not in done:
            if run.parent is not None:
                go(run.parent)
            folder.mkdir()
            done[run.hash] = train(run, folder, keep=True)
        return folder, done[run.hash]

    return go
