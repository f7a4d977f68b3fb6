"""The environment of the engine's workers, which the bench takes on before it measures what they do."""

import os
import sys
from collections.abc import Sequence

from lit_hidden.engine.local import CPU, environments


def wanted() -> dict[str, str]:
    """Give what workers have in their environment: on CPU all of it, with GPUs the first of them too."""
    _, (first, *_) = environments(None)
    return CPU | first


def as_workers() -> bool:
    """Tell whether this process has it."""
    return all(os.environ.get(name) == value for name, value in wanted().items())


def enter(words: Sequence[str]) -> None:
    """Become `lit-hidden` with `words` in the workers' environment, unless this process is in it.

    glibc reads its part of it when a process starts, so this one is replaced: it does not return.
    """
    if not as_workers():
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "lit_hidden", *words], {**os.environ, **wanted()})
