"""`lit-hidden`: train with Lightning's command line, reproduce the paper's figures.

Nothing heavy is imported before a command is known, so that `--help` is quick.
"""

import argparse
import os
import sys
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
    figure = commands.add_parser(
        "reproduce",
        help="train experiments' missing runs, judge their claims, draw them",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    figure.add_argument("names", nargs="+", metavar="NAME", help="files of experiments/, such as fig2; or all")
    figure.add_argument("--preset", default="quick", help="smoke, quick, short or paper")
    figure.add_argument("--runs-dir", default=os.environ.get("RUNS_DIR", "runs"), help="where runs live (RUNS_DIR)")
    figure.add_argument("--data-dir", default=os.environ.get("DATA_DIR", "data"), help="the data sets (DATA_DIR)")
    figure.add_argument("--out", default="results", help="where NAME/PRESET/ is written")
    figure.add_argument("--devices", type=int, default=None, help="workers: all GPUs, or as many on CPU as fit")
    figure.add_argument("--seeds", type=int, default=None, help="only the first so many seeds of each experiment")
    figure.add_argument("--strict", action="store_true", help="fail if the paper preset contradicts a claim")
    figure.add_argument("--dry-run", action="store_true", help="print the grid and its time, train nothing")
    _add_views(commands)
    return top


def _add_views(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that show what is there and train nothing."""
    usual: dict[str, Any] = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    results: dict[str, Any] = {"default": "experiments/results", "help": "the committed results, NAME/PRESET/"}
    page = commands.add_parser("report", help="write one HTML page of all committed results", **usual)
    page.add_argument("--results", **results)
    page.add_argument("--out", default="report.html", help="the page")
    table = commands.add_parser("compare", help="print an experiment's runs side by side, sorted by anything")
    table.add_argument("name", help="a file of experiments/, such as fig3")
    table.add_argument("--preset", default="quick", help="smoke, quick (if none is named), short or paper")
    table.add_argument("--sort", metavar="COLUMN", help="a field such as density, or a number such as accuracy")
    table.add_argument("--reverse", action="store_true", help="the largest first")
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    table.add_argument("--where", metavar="FIELD=VALUE", help="only such runs: net=conv4 density=0.5", **several)
    table.add_argument("--columns", metavar="COLUMN", help="what to show, whatever the width", **several)
    table.add_argument("--by-seed", action="store_true", help="a line for each run, not the means over seeds")
    table.add_argument("--csv", dest="as_csv", action="store_true", help="write CSV to standard output")
    table.add_argument("--runs-dir", default=os.environ.get("RUNS_DIR", "runs"), help="where runs live (RUNS_DIR)")
    table.add_argument("--results", default=results["default"], help="what is shown where no run is done")
    keep = commands.add_parser("pack", help="put an experiment's runs into one file beside its results", **usual)
    keep.add_argument("name", help="a file of experiments/, such as fig3")
    keep.add_argument("--preset", default="quick", help="smoke, quick, short or paper")
    again = commands.add_parser("unpack", help="take the committed runs as done: draw again, go on", **usual)
    for command in (keep, again):
        command.add_argument(
            "--runs-dir", default=os.environ.get("RUNS_DIR", "runs"), help="where runs live (RUNS_DIR)"
        )
        command.add_argument("--results", **results)
    upload = commands.add_parser("wandb-sync", help="upload the runs that Weights & Biases kept offline", **usual)
    upload.add_argument(
        "--dir", dest="folder", default=os.path.join(os.environ.get("WANDB_DIR", ""), "wandb"), help="where they are"
    )
    upload.add_argument("--dry-run", action="store_true", help="list them and upload nothing")


def _view(command: str, arguments: dict[str, Any]) -> None:
    """Run one of those commands; each imports what it needs, and the report needs little."""
    from lit_hidden.tables import ResultsError

    if command == "report":
        from lit_hidden.report import report

        try:
            sys.stdout.write(f"{report(**arguments)}\n")
        except ResultsError as error:
            sys.exit(f"lit-hidden: {error}")
        return
    from lit_hidden.engine.archive import pack_experiment, unpack_all
    from lit_hidden.engine.compare import compare
    from lit_hidden.engine.reproduce import ReproduceError
    from lit_hidden.engine.store import StoreError
    from lit_hidden.engine.sync import SyncError, sync

    try:
        if command in ("pack", "unpack"):
            told = pack_experiment(**arguments) if command == "pack" else unpack_all(**arguments)
            sys.stdout.write(f"{told}\n")
        else:
            compare(**arguments) if command == "compare" else sync(**arguments)
    except (ReproduceError, ResultsError, StoreError, SyncError) as error:
        sys.exit(f"lit-hidden: {error}")


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error of the user's is a line on standard error and exit status 1.

    Of `reproduce`, the status of what cannot be asked for is 2, and after Ctrl-C 130.
    """
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in LIGHTNING:
        from lit_hidden.lightning_cli import run

        return run(argv)
    arguments = vars(parser().parse_args(given))
    if (command := arguments.pop("command")) != "reproduce":
        return _view(command, arguments)
    try:
        from lit_hidden.engine.local import LauncherError
        from lit_hidden.engine.reproduce import ReproduceError, reproduce
        from lit_hidden.engine.store import StoreError

        try:
            reproduce(*arguments.pop("names"), **arguments)
        except (ReproduceError, StoreError, LauncherError) as error:
            _end(str(error), getattr(error, "status", 1))
    except KeyboardInterrupt:
        _end("stopped; the same command goes on where this one was", 130)


def _end(message: str, status: int) -> None:
    sys.stderr.write(f"lit-hidden: {message}\n")
    sys.exit(status)
