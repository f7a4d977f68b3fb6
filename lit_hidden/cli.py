"""`lit-hidden`: train with Lightning's command line, reproduce the paper's figures.

Nothing heavy is imported before a command is known, so that `--help` is quick.
"""

import argparse
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from lit_hidden import __version__

LIGHTNING = ("fit", "validate", "test")


def parser() -> argparse.ArgumentParser:
    """Build the parser of everything but Lightning's own commands."""
    top = argparse.ArgumentParser(
        prog="lit-hidden",
        description="Find the subnetworks hidden in random networks, and reproduce the paper's evidence.",
        epilog="fit, validate and test take YAML files and options: lit-hidden fit --help",
    )
    top.add_argument("--version", action="version", version=f"lit-hidden {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("fit", help="train a subnetwork, a dense baseline or a supermask", add_help=False)
    commands.add_parser("validate", help="evaluate a checkpoint on the validation images", add_help=False)
    commands.add_parser("test", help="evaluate a checkpoint on the test images", add_help=False)
    _add_ours(commands)
    return top


def _add_ours(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that are not Lightning's; those that share an argument take it from one parent."""
    name = _argument("name", help="a file of experiments/, such as fig3")
    preset = _argument("--preset", default="quick", help="smoke, quick, short or paper")
    runs_dir = _argument("--runs-dir", default=os.environ.get("RUNS_DIR", "runs"), help="where runs live (RUNS_DIR)")
    results = _argument("--results", default="experiments/results", help="the committed results, NAME/PRESET/")
    one = (name, preset, runs_dir, results)  # one experiment, wherever its runs are

    def add(command: str, does: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(
            command, help=does, parents=parents, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    figure = add("reproduce", "train experiments' missing runs, judge their claims, draw them", preset, runs_dir)
    figure.add_argument("names", nargs="+", metavar="NAME", help="files of experiments/, such as fig2; or all")
    figure.add_argument("--data-dir", default=os.environ.get("DATA_DIR", "data"), help="the data sets (DATA_DIR)")
    figure.add_argument("--out", default="results", help="where NAME/PRESET/ is written")
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}  # not handed on, and no "(default: None)" in the help
    several: dict[str, Any] = {"nargs": "+", "action": "extend", **unset}
    figure.add_argument("--data", help="ImageNet or a subset, where the preset is on one", **unset)
    figure.add_argument("--launcher", default="local", choices=("local", "ray", "slurm"), help="what trains the runs")
    figure.add_argument("--devices", type=int, help="of each machine: all GPUs, or as many on CPU as fit", **unset)
    figure.add_argument("--per-run", type=float, help="devices a run: all on ImageNet and subsets, else 1", **unset)
    nodes = {"default": os.environ["NUM_NODES"]} if os.environ.get("NUM_NODES") else unset
    figure.add_argument("--num-nodes", type=int, help="machines a run, by torchrun or SLURM (NUM_NODES)", **nodes)
    figure.add_argument("--slurm", metavar="NAME=VALUE", help="options of SLURM: partition=gpu", **several)
    figure.add_argument("--where", metavar="FIELD=VALUE", dest="only", help="only such runs: net=conv4", **several)
    figure.add_argument("--seeds", type=int, help="only the first so many seeds of each experiment", **unset)
    minutes = "stop training after so many, draw what is done, and end with status 75 if runs are left"
    figure.add_argument("--minutes", type=float, help=minutes, **unset)
    figure.add_argument("--strict", action="store_true", help="fail if the paper preset contradicts a claim")
    figure.add_argument("--dry-run", action="store_true", help="print the grid and its time, train nothing")
    done = "train nothing: judge and draw what is done"
    figure.add_argument("--no-train", action="store_false", dest="train", help=done)

    still = add("missing", "list the runs that committed presets still lack, and their time", runs_dir, results)
    still.add_argument("--preset", help="this one of every experiment, committed or not", **unset)

    page = add("report", "write one HTML page of all committed results", results)
    page.add_argument("--out", default="report.html", help="the page")

    table = add("compare", "print an experiment's runs side by side, sorted by anything", *one)
    table.add_argument("--sort", metavar="COLUMN", help="a field such as density or a number such as accuracy", **unset)
    table.add_argument("--reverse", action="store_true", help="the largest first")
    table.add_argument("--where", metavar="FIELD=VALUE", help="only such runs: net=conv4 density=0.5", **several)
    table.add_argument("--columns", metavar="COLUMN", help="what to show, whatever the width", **several)
    table.add_argument("--by-seed", action="store_true", help="a line for each run, not the means over seeds")
    table.add_argument("--csv", dest="as_csv", action="store_true", help="write CSV to standard output")

    speed = add("bench", "measure selection, training steps, input, an epoch, and start")
    sections = "with commas: selection, steps, input, feeding, epoch, start; all, or with --data ... feeding"
    speed.add_argument("--only", metavar="SECTIONS", help=sections, **unset)
    speed.add_argument("--device", help="cpu or cuda: both, where there is a GPU", **unset)
    speed.add_argument("--data", help="a set by name, not generated files like ImageNet's and small sets", **unset)
    speed.add_argument("--data-dir", default=os.environ.get("DATA_DIR", "data"), help="the data sets (DATA_DIR)")
    speed.add_argument("--net", help="what is trained: resnet50 on ImageNet and subsets, else conv4", **unset)
    speed.add_argument("--image-size", type=int, help="pixels, of ImageNet and subsets: the set's own", **unset)
    speed.add_argument("--batch-size", type=int, help="128; of ImageNet and subsets 256 on a GPU, 8 on a CPU", **unset)
    speed.add_argument("--seconds", type=float, default=1.0, help="how long a measurement takes at least")
    speed.add_argument("--out", default="results/bench", help="where the numbers, a page and a plot are written")

    add("pack", "put an experiment's runs into one file beside its results", *one)
    add("unpack", "take the committed runs as done: draw again, go on", runs_dir, results)
    upload = add("wandb-sync", "upload the runs that Weights & Biases kept offline")
    folder = os.path.join(os.environ.get("WANDB_DIR", ""), "wandb")
    upload.add_argument("--dir", dest="folder", default=folder, help="where they are")
    upload.add_argument("--dry-run", action="store_true", help="list them and upload nothing")


def _argument(*names: str, **settings: Any) -> argparse.ArgumentParser:
    """Make a parser of one argument, for several commands to share."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(*names, **settings)
    return parent


def _run(command: str, arguments: dict[str, Any]) -> str | None:
    """Run a command and return what to print; each imports what it needs, and the report needs little."""
    if command == "report":
        from lit_hidden.page import report

        return report(**arguments)
    if command in ("pack", "unpack"):
        from lit_hidden.engine.archive import pack_experiment, unpack_all

        return pack_experiment(**arguments) if command == "pack" else unpack_all(**arguments)
    if command == "missing":
        from lit_hidden.engine.missing import missing

        return missing(**arguments)
    if command == "compare":
        from lit_hidden.engine.compare import compare

        compare(**arguments)
    elif command == "bench":
        from experiments.bench.command import bench

        bench(**arguments)
    elif command == "wandb-sync":
        from lit_hidden.engine.sync import sync

        sync(**arguments)
    else:
        _reproduce(**arguments)
    return None


def _reproduce(names: list[str], preset: str, data: str | None = None, **arguments: Any) -> None:
    """Reproduce experiments; if torchrun or SLURM has started several processes, the first does, and all train."""
    from lit_hidden.engine.reproduce import Terminated, reproduce
    from lit_hidden.engine.torchrun import led, placed
    from lit_hidden.engine.where import Where

    def stop(*_: Any) -> None:
        raise Terminated

    before = None
    with suppress(ValueError):  # not the main thread, which alone may take signals
        before = signal.signal(signal.SIGTERM, stop)
    said = {name: arguments.pop(name) for name in Where.__dataclass_fields__ if name in arguments}
    try:
        with led(placed()) as group:
            preset = f"{preset}-{data}" if data else preset
            reproduce(*names, preset=preset, where=Where(**said, group=group), **arguments)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _errors() -> tuple[type[Exception], ...]:
    """List the errors that are the user's to mend, to be told without a traceback; imported when there is one."""
    from lit_hidden.code import CodeError
    from lit_hidden.engine.devices import LauncherError
    from lit_hidden.engine.reproduce import ReproduceError
    from lit_hidden.engine.store import StoreError
    from lit_hidden.engine.sync import SyncError
    from lit_hidden.report.tables import ResultsError

    return CodeError, LauncherError, ReproduceError, ResultsError, StoreError, SyncError


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error of the user's is told on standard error, without a traceback.

    The exit status is then 1; of an experiment or a preset that there is not, as of unknown options, 2; if the time of
    `--minutes` is up, 75; after Ctrl-C 130.
    """
    given = sys.argv[1:] if argv is None else argv
    # The installed script leaves this folder out, where code of one's own may lie. Last: it must not hide a package.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append("")
    if given and given[0] in LIGHTNING:
        from lit_hidden.lightning_cli import run

        return run(argv)
    arguments = vars(parser().parse_args(given))
    command = arguments.pop("command")
    if command == "bench" and argv is None:  # a process of its own, which may be replaced
        from experiments.bench.environment import enter

        enter(given)
    try:
        if line := _run(command, arguments):
            sys.stdout.write(f"{line}\n")
    except KeyboardInterrupt as why:
        goes_on = "; the same command goes on where this one was" if command == "reproduce" else ""
        _end("stopped" + goes_on, getattr(why, "status", 130))
    except _errors() as error:
        _end(str(error), getattr(error, "status", 1))


def _end(message: str, status: int) -> None:
    sys.stderr.write(f"lit-hidden: {message}\n")
    sys.exit(status)
