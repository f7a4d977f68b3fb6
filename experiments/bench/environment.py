"""The environment of the engine's workers, which the bench takes on before it measures what they do."""

import os
import sys
from collections.abc import Sequence

from lit_hidden.engine.devices import CPU, environments


def wanted() -> dict[str, str]:
    """Give the variables that workers have: those of a CPU worker and, with GPUs, the first GPU."""
    return CPU | environments(None)[1][0]


def as_workers() -> bool:
    """Tell whether this process has them."""
    return wanted().items() <= os.environ.items()


def enter(words: Sequence[str]) -> None:
    """Become `lit-hidden` with `words` in the workers' environment, unless this process is in it.

    glibc reads its variables when a process starts, so this process is replaced: `enter` does not return.
    """
    if not as_workers():
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "lit_hidden", *words], {**os.environ, **wanted()})
