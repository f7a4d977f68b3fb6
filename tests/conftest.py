"""What all tests share: one thread, fixed seeds, quick processes, and a way to see whether a model changed."""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

torch.set_num_threads(1)  # the machine is shared; nothing here gains from a second thread

ROOT = Path(__file__).parent.parent
NURSERY = Path(__file__).with_name("nursery.py")
made: dict[str, Any] = runpy.run_path(str(NURSERY))
nursery = pytest.StashKey[subprocess.Popen]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than 10 seconds or needs a browser: make test-slow")
    if made["ADDRESS"] in os.environ:  # one for all that xdist has started
        return
    address = os.path.join(tempfile.mkdtemp(), "nursery")
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    settings |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # no threads, which a fork has not
    command, pipe = [sys.executable, str(NURSERY), address], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=settings, start_new_session=True)  # of Ctrl-C
    config.stash[nursery] = process
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    os.environ[made["ADDRESS"]] = address


def pytest_unconfigure(config: pytest.Config) -> None:
    process = config.stash.get(nursery, None)
    if process is not None:
        with process:  # closes its standard input, which ends it
            pass
        shutil.rmtree(Path(os.environ.pop(made["ADDRESS"])).parent)


@pytest.fixture(autouse=True)
def _alike(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.delenv("RUNS_DIR", raising=False)  # make exports it; tests have folders of their own


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Run Python code in a fresh process at the repository's root and return what it prints."""

    def run(code: str, **environment: str) -> str:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        settings = os.environ | {"PYTHONPATH": path} | environment
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def forked() -> type[subprocess.Popen]:
    """Start Python as `subprocess.Popen` does, within a hundredth of a second: see `nursery.py`."""
    return made["Forked"]


@pytest.fixture
def photograph() -> Callable[[nn.Module], Any]:
    """Describe a model to the last bit, and the global random state: equal pictures mean nothing changed."""

    def describe(model: nn.Module) -> Any:
        modules = model.named_modules(remove_duplicate=False)
        return {
            "tensors": {n: t.numpy(force=True).tobytes() for n, t in _tensors(model)},
            "parameters": {n: (id(p), p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)},
            "modules": {n: (type(m), m.training, sorted(vars(m)), _hooks(m)) for n, m in modules},
            "random": torch.get_rng_state().numpy().tobytes(),
        }

    return describe


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    readable = [(n, t) for n, t in named if not (t.is_meta or nn.parameter.is_lazy(t))]
    return [(n, t.detach().view(torch.int16) if t.dtype == torch.bfloat16 else t) for n, t in readable]


def _hooks(module: nn.Module) -> dict[str, int]:
    return {name: len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks")}
