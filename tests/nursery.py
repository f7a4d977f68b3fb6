"""Processes that need not import torch and Lightning, 8 seconds of CPU time each: forks of one that has.

A `Forked` is what `subprocess.Popen` makes of `python -m ...` and `python -c ...`, with these arguments, folder,
environment and files, and so are in it the processes of that kind which it starts in turn, unless ADDRESS is empty in
its environment. It differs in that its libraries are there, with one thread, and that its parent only waits for it. As
a script this is what forks them, all of a session; it imports when it is asked for the first.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from pathlib import Path
from typing import Any

ADDRESS = "LIT_HIDDEN_NURSERY"  # in the environment: where the one that forks listens
ROOT = str(Path(__file__).parent.parent)
MODULES = ["lit_hidden.engine.train", "lit_hidden.engine.torchrun", "lit_hidden.engine.reproduce"]
_STARTS = inspect.signature(subprocess.Popen._execute_child)
_kept: list[Any] = []  # files in which another process may have lines yet to write
_INSTALLED = sys.path[1:]  # without this script's folder


class _Process(subprocess.Popen):
    """Starts Python by `_fork`; pipes and all else are Popen's."""

    def _execute_child(self, *args: Any, **named: Any) -> None:
        asked = _STARTS.bind(self, *args, **named).arguments
        command = [asked["args"]] if isinstance(asked["args"], str | os.PathLike) else list(asked["args"])
        if command[1:2] == ["-u"]:
            del command[1]
        if command[0] != sys.executable or command[1] not in ("-m", "-c") or asked["preexec_fn"] or asked["pass_fds"]:
            super()._execute_child(*args, **named)
            return
        order = {
            "arguments": command[1:],
            "folder": os.path.abspath(asked["cwd"] or "."),
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "session": asked["start_new_session"],
        }
        ends = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        try:
            self.pid = self._fork(order, [own if end == -1 else end for own, end in enumerate(ends)])
            self._child_created = True
        finally:
            both = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(asked[name] for name in both))


class Forked(_Process):
    """A process that the nursery forks."""

    _line: socket.socket | None = None  # to what waits for it, of Python's processes

    def _fork(self, order: dict[str, Any], files: list[int]) -> int:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.connect(os.environ[ADDRESS])
        socket.send_fds(self._line, [json.dumps(order).encode()], files)
        return int(self._line.recv(100))

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._line is None:
            return super()._try_wait(wait_flags)
        if not select.select([self._line], [], [], 0 if wait_flags & os.WNOHANG else None)[0]:
            return 0, 0
        with self._line:
            return self.pid, int(self._line.recv(100))

    def _internal_poll(self, *args: Any, **named: Any) -> int | None:
        if self._line is None:
            return super()._internal_poll(*args, **named)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


class _Child(_Process):
    """A process that a forked one forks itself, be it in a thread."""

    def _fork(self, order: dict[str, Any], files: list[int]) -> int:
        if child := os.fork():
            return child
        _become(order, files)


def _become(order: dict[str, Any], files: list[int]) -> None:
    """Be, from a fork on, the process that was asked for, and end as it does."""
    gc.freeze()  # what belongs to the process before must not close files by their numbers here
    atexit._clear()
    for number, file in enumerate([fcntl.fcntl(file, fcntl.F_DUPFD, 3) for file in files]):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _kept.extend([sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__])
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order["session"]:
        os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    tempfile.tempdir = None
    if os.environ.get(ADDRESS):
        subprocess.Popen = _Child

    how, what, *arguments = order["arguments"]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [order["folder"] if how == "-m" else "", *paths, *_INSTALLED]
    sys.argv = [what if how == "-m" else "-c", *arguments]
    if how == "-m":
        Path("/proc/self/comm").write_text(what.rpartition(".")[2])
    status: Any = 0
    try:
        if how == "-c":
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))
        else:
            if not hasattr(sys.modules.get(what), "__path__"):
                sys.modules.pop(what, None)  # it is the main module here, and another one where it is imported
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)  # noqa: T201
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _serve(address: str) -> None:
    """Fork what is asked for, and tell its number and how it ends, until standard input ends."""
    imported = False
    running: dict[int, tuple[int, socket.socket]] = {}  # by the file that tells when a process ends
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen()
        print("listening", flush=True)  # noqa: T201
        while 0 not in (ready := select.select([listening, 0, *running], [], [])[0]):
            for end in running.keys() & ready:
                child, line = running.pop(end)
                with line, contextlib.suppress(OSError):  # nobody may be left to tell
                    line.send(str(os.waitpid(child, 0)[1]).encode())
                os.close(end)
            if listening not in ready:
                continue
            line = listening.accept()[0]
            message, files, _, _ = socket.recv_fds(line, 2**20, 3)
            if not imported:
                gc.disable()
                sys.path[0] = ROOT
                for name in MODULES:
                    importlib.import_module(name)
                gc.enable()
                imported = True
            child = os.fork()
            if child == 0:
                _become(json.loads(message), files)
            line.send(str(child).encode())
            running[os.pidfd_open(child)] = child, line
            for file in files:
                os.close(file)


if __name__ == "__main__":
    _serve(sys.argv[1])
