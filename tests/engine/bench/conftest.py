"""How much the bench is to do, in tests."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from lit_hidden.engine.bench.rows import Effort


@pytest.fixture
def effort() -> Callable[..., Effort]:
    def make(seconds: float = 0.001, rounds: int = 2) -> Effort:
        return Effort(seconds, rounds, Console(file=io.StringIO(), width=160))

    return make
