"""`lit-hidden`: train with Lightning's command line, reproduce the paper's figures.

Nothing heavy is imported before the command is known, so `--help` is quick.
"""

import argparse
import os
import pkgutil
import signal
import sys
from collections.abc import Sequence
from typing import Any

from lit_hidden import __version__
from lit_hidden.errors import UserError

LIGHTNING = {
    "fit": "train a subnetwork, a dense baseline or a supermask",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
}


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; Lightning parses the options of its own itself."""
    top = argparse.ArgumentParser(
        prog="lit-hidden",
        description="Find the subnetworks hidden in random networks, and reproduce the paper's evidence.",
        epilog="fit, validate and test take YAML files and options: lit-hidden fit --help",
    )
    top.add_argument("--version", action="version", version=f"lit-hidden {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, does in LIGHTNING.items():
        commands.add_parser(command, help=does, add_help=False)
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    shared: dict[str, dict[str, Any]] = {
        "name": {"help": "a file of experiments/, such as fig3"},
        "--preset": {"default": "quick", "help": "smoke, quick, short or paper"},
        "--runs-dir": {"default": os.environ.get("RUNS_DIR", "runs"), "help": "folder of the runs (RUNS_DIR)"},
        "--data-dir": {"default": os.environ.get("DATA_DIR", "data"), "help": "the data sets (DATA_DIR)"},
        "--results": {"default": "experiments/results", "help": "the committed results, NAME/PRESET/"},
        "--where": {"metavar": "FIELD=VALUE", "help": "only these runs: net=conv4 seed=0", **several},
        "what": {"metavar": "NET", "help": "a run's folder, a subnetwork file, or a checkpoint of fit"},
        "--net": {"help": "its net, if it is none of ours: timm:NAME or package.module.function"},
    }
    one = ("name", "--preset", "--runs-dir", "--results")  # what finds the runs of one experiment

    def add(command: str, run: str, does: str, *names: str) -> argparse.ArgumentParser:
        """Add a command that calls the function `run` with its options; it has its own defaults for those not given."""
        shown = argparse.ArgumentDefaultsHelpFormatter
        made = commands.add_parser(command, help=does, formatter_class=shown, argument_default=argparse.SUPPRESS)
        made.set_defaults(run=run)
        for name in names:
            made.add_argument(name, **shared[name])
        return made

    does = "train the missing runs of experiments, judge their claims, draw them"
    figure = add("reproduce", "lit_hidden.cli:_reproduce", does, "--preset", "--runs-dir", "--data-dir", "--where")
    figure.add_argument("names", nargs="+", metavar="NAME", help="files of experiments/, such as fig2; or all")
    figure.add_argument("--out", default="results", help="NAME/PRESET/ is written into this folder")
    figure.add_argument("--data", help="ImageNet or a subset, where the preset is on one")
    figure.add_argument("--launcher", default="local", choices=("local", "ray", "slurm"), help="what trains the runs")
    figure.add_argument("--devices", type=int, help="of each machine: all GPUs, or as many CPU workers as fit")
    figure.add_argument("--per-run", type=float, help="devices a run: all on ImageNet and subsets, else 1")
    figure.add_argument("--num-nodes", type=int, help="machines a run, by torchrun or SLURM")
    figure.add_argument("--slurm", metavar="NAME=VALUE", help="options of SLURM: partition=gpu", **several)
    minutes = "stop training after so many (or 0), draw what is done, and end with status 75 if runs are left"
    figure.add_argument("--minutes", type=float, help=minutes)
    figure.add_argument("--dry-run", action="store_true", help="print the grid and its time, train nothing")

    demo = add("demo", "lit_hidden.cli:_demo", "reproduce figure 2, without a checkout or a download", "--preset")
    demo.add_argument("--folder", default="lit-hidden-demo", help="all that it writes is in here")

    does = "list the runs that committed presets still lack, and their time"
    still = add("missing", "experiments._missing:missing", does, "--runs-dir", "--results")
    still.add_argument("--preset", help="this preset of every experiment, committed or not")

    page = add("report", "experiments.meeting.page:report", "write one HTML page of all committed results", "--results")
    page.add_argument("--out", help="the page; without it report.html, or report-NAME.html")
    page.add_argument("--only", metavar="NAME", help="the results of one experiment, such as fig3")

    deck = add("slides", "experiments.meeting.slides:slides", "write slides of all committed results", "--results")
    deck.add_argument("--out", default="slides.html", help="the slides, one HTML file")

    does = "print an experiment's runs side by side, sorted by any column"
    table = add("compare", "experiments._side_by_side:compare", does, *one, "--where")
    table.add_argument("--sort", metavar="COLUMN", help="a field such as density or a number such as accuracy")
    table.add_argument("--reverse", action="store_true", help="the largest first")
    table.add_argument("--by-seed", action="store_true", help="a line for each run instead of means over seeds")
    table.add_argument("--csv", dest="as_csv", action="store_true", help="write CSV with all numbers")

    look = add("predict", "lit_hidden.predict:predict", "print the class and probability of images", "what", "--net")
    look.add_argument("images", nargs="+", metavar="IMAGE", help="image files, and folders of them")
    look.add_argument("--data", help="its data, if it does not name them: cifar10, or package.module.Class")
    look.add_argument("--format", default="table", choices=("table", "csv", "json"), help="of what is printed")
    look.add_argument("--top", type=int, default=1, help="classes of each image, the most probable first")

    does = "print what each layer of a subnetwork keeps"
    look = add("inspect", "lit_hidden.inspection:inspect", does, "what", "--net")
    look.add_argument("--picture", metavar="FILE", help="draw the first kernels, before and after, as PNG")

    measures = "measure selection, training steps, input, an epoch, and start-up"
    commands.add_parser("bench", help=measures, add_help=False)  # its parser is experiments.bench.environment's

    theirs = add("import", "experiments._authors:import_checkpoint", "turn a checkpoint of the authors' code into ours")
    theirs.add_argument("file", help="such as model_best.pth; code in it is never run")
    theirs.add_argument("--net", required=True, help="conv4, cifar_resnet18, resnet50, ...")
    theirs.add_argument("--width", type=float, default=1.0, help="their width_mult")
    rate = theirs.add_mutually_exclusive_group(required=True)
    rate.add_argument("--density", type=float, help="fraction kept: the prune_rate of their SubnetConv")
    rate.add_argument("--removed", type=float, help="fraction removed: the prune_rate of their FixedSubnetConv")
    theirs.add_argument("--out", help="the checkpoint to write; without it FILE.ckpt")

    does = "put an experiment's runs into one file beside its results"
    add("pack", "experiments._archive:pack_experiment", does, *one)
    does = "take the committed runs as done: draw again, go on"
    add("unpack", "experiments._archive:unpack_all", does, "--runs-dir", "--results")
    return top


def _demo(folder: str, preset: str) -> str:
    """Reproduce figure 2 inside `folder`, from the experiments that came with the package; say where its drawing is."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    _reproduce(["fig2"], preset, runs_dir="runs", data_dir="data", out="results")
    drawn = os.path.abspath(f"results/fig2/{preset}")
    return f"figure 2: {drawn}/figure.png; to watch its edges swap, open {drawn}/figure.html in a browser"


def _reproduce(names: list[str], preset: str, data: str = "", where: Sequence[str] = (), **arguments: Any) -> None:
    """Reproduce experiments; where torchrun or SLURM has started several processes, the first leads the others."""
    from lit_hidden.engine.reproduce import reproduce
    from lit_hidden.engine.torchrun import led
    from lit_hidden.engine.where import Where

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops a reproduction as Ctrl-C does
    on = {name: arguments.pop(name) for name in Where.__dataclass_fields__ if name in arguments}
    preset = f"{preset}-{data}" if data else preset
    with led() as group:
        reproduce(*names, preset=preset, where=Where(**on, group=group), only=where, **arguments)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error that the user can mend is one message on standard error, without a traceback.

    Exit statuses: 1 after such an error; 2 for an unknown option, experiment or preset; 75 when the time of `--minutes`
    is up; 130 after Ctrl-C or SIGTERM.
    """
    given = sys.argv[1:] if argv is None else argv
    # The installed script leaves the current folder out, where the user's own code may lie. It comes last: its files
    # must not hide packages.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append("")
    if given and given[0] in LIGHTNING:
        from lit_hidden.lightning_cli import run

        return run(argv)
    if given and given[0] == "bench":
        parsed = pkgutil.resolve_name("experiments.bench.environment:parsed")
        arguments = parsed(given, argv is None)  # then this process is its own and may be replaced
    else:
        arguments = vars(parser().parse_args(given))
    command, function = arguments.pop("command"), arguments.pop("run")
    try:
        if line := pkgutil.resolve_name(function)(**arguments):
            sys.stdout.write(f"{line}\n")
    except (UserError, OSError, KeyboardInterrupt) as error:  # OSError: such as a folder that cannot be written to
        by_hand = isinstance(error, KeyboardInterrupt)
        stopped = f"stopped{'; the same command goes on where this one was' if command == 'reproduce' else ''}"
        sys.stderr.write(f"lit-hidden: {stopped if by_hand else error}\n")
        sys.exit(130 if by_hand else getattr(error, "status", 1))
