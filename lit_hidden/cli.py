"""`lit-hidden`: train with Lightning's command line, reproduce the paper's figures.

Nothing heavy is imported before a command is known, so that `--help` is quick.
"""

import argparse
import os
import sys

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
        help="train an experiment's missing runs, judge its claims, draw it",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    figure.add_argument("name", help="a file of experiments/, such as fig2")
    figure.add_argument("--preset", default="quick", help="smoke, quick, short or paper")
    figure.add_argument("--runs-dir", default=os.environ.get("RUNS_DIR", "runs"), help="where runs live (RUNS_DIR)")
    figure.add_argument("--data-dir", default=os.environ.get("DATA_DIR", "data"), help="the data sets (DATA_DIR)")
    figure.add_argument("--out", default="results", help="where NAME/PRESET/ is written")
    figure.add_argument("--devices", type=int, default=None, help="workers: all GPUs, or without one all CPU cores")
    figure.add_argument("--strict", action="store_true", help="fail if the paper preset contradicts a claim")
    figure.add_argument("--dry-run", action="store_true", help="print the grid and train nothing")
    return top


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error of the user's is one line on standard error and exit status 1."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in LIGHTNING:
        from lit_hidden.lightning_cli import run

        return run(argv)
    arguments = vars(parser().parse_args(given))
    del arguments["command"]
    from lit_hidden.engine.local import LauncherError
    from lit_hidden.engine.reproduce import ReproduceError, reproduce
    from lit_hidden.engine.store import StoreError

    try:
        reproduce(**arguments)
    except (ReproduceError, StoreError, LauncherError) as error:
        sys.exit(f"lit-hidden: {error}")
