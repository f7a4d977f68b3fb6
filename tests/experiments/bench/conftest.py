"""How much the bench is to do, in tests."""

import io
from collections.abc import Callable

import pytest
import torch
from rich.console import Console

from experiments.bench.rows import Bench


@pytest.fixture
def effort() -> Callable[..., Bench]:
    def make(seconds: float = 0.001, rounds: int = 2) -> Bench:
        return Bench(torch.device("cpu"), seconds, rounds, Console(file=io.StringIO(), width=160))

    return make
