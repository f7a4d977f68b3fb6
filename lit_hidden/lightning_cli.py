"""`lit-hidden fit`, `validate`, `test`: LightningCLI over the suite's modules and data."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import lazy_instance
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

import lit_hidden.modules  # noqa: F401  the classes that --model names
from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DataError, ImageData
from lit_hidden.hyper_parameters import hyper_parameters

HERE = Path(__file__).parent
LINKED: dict[str, Callable[[ImageData], int]] = {  # the data know these arguments of a model
    "num_classes": lambda data: data.num_classes,
    "in_channels": lambda data: data.shape[0],
    "image_size": lambda data: data.shape[1],
}


class HiddenCLI(LightningCLI):
    """LightningCLI whose model takes the images' shape from the data, and what no option gives from a checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the data's facts to the model's arguments."""
        for target, source in LINKED.items():
            parser.link_arguments("data", f"model.init_args.{target}", source, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and keep apart what the user gave."""
        super().parse_arguments(parser, args)
        self._given = parser.parse_args(args, defaults=False)

    def _parse_ckpt_path(self) -> None:
        # Lightning would take all arguments from a checkpoint, over the options, and import the code it names.
        command, path = self.config.subcommand, self.config[self.config.subcommand].ckpt_path
        if not path or (command == "fit" and path in ("last", "hpc")):  # Lightning looks for such a file itself
            return
        model = self._given[command].model.as_dict()
        kind, given = model["class_path"], model.get("init_args", {}) | model.get("dict_kwargs", {})
        given = {name: value for name, value in given.items() if value is not None}
        found = hyper_parameters(path, kind, {"_class_path": kind} | given)
        found = {name: value for name, value in found.items() if name not in (*LINKED, *given, "_class_path")}
        model = {command: {"model": {"class_path": kind, "init_args": found}}}
        self.config = self.parser.parse_object(model, self.config)

    def before_instantiate_classes(self) -> None:
        """Train for 100 epochs unless an option gives an end; refuse a checkpoint that holds code."""
        options = self.config[self.subcommand]
        options.weights_only = True if options.weights_only is None else options.weights_only
        end = options.trainer.max_epochs, options.trainer.max_steps, options.trainer.max_time
        if end == (None, -1, None):  # a default of the parser would shorten a longer cosine
            options.trainer.max_epochs = 100


def run(argv: list[str] | None) -> None:
    """Run `fit`, `validate` or `test` with `argv`; None reads the command line."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of how Lightning calls it
    try:
        HiddenCLI(
            LitClassifier,
            ImageData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"logger": lazy_instance(CSVLogger, save_dir=".")},
            parser_kwargs={"prog": "lit-hidden"},
            args=argv,
        )
    except MisconfigurationException as error:
        sys.exit(f"lit-hidden: {error}")
    except (ValueError, DataError) as error:
        why: BaseException | None = error
        while why and not Path(traceback.extract_tb(why.__traceback__)[-1].filename).is_relative_to(HERE):
            why = why.__cause__  # jsonargparse wraps errors
        if why is None:
            raise
        sys.exit(f"lit-hidden: {why}")  # it was raised in this package, and says what to do
