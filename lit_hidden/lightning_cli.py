"""`lit-hidden fit`, `validate`, `test`: LightningCLI over the suite's modules and data."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from jsonargparse.typing import lazy_instance
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

import lit_hidden.modules  # noqa: F401  the classes that --model names
from lit_hidden.classifier import LitClassifier, hyper_parameters
from lit_hidden.data import DataError, ImageData

LINKED: dict[str, Callable[[ImageData], int]] = {  # arguments of a model that its data know
    "num_classes": lambda data: data.num_classes,
    "in_channels": lambda data: data.shape[0],
    "image_size": lambda data: data.shape[1],
}


class HiddenCLI(LightningCLI):
    """The model learns the images' channels, size and classes from the data."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Build a parser whose errors are short."""
        parser = super().init_parser(**kwargs)
        # 90 lines of usage would hide the one line that says what is wrong.
        parser.print_usage = lambda file=None: None  # type: ignore[method-assign, misc]
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data know to what the model needs."""
        for target, source in LINKED.items():
            parser.link_arguments("data", f"model.init_args.{target}", source, apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # a checkpoint with code in it is refused
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and remember what was said and is no default."""
        super().parse_arguments(parser, args)
        self._said = parser.parse_args(args, defaults=False)

    def _parse_ckpt_path(self) -> None:
        """Take from a checkpoint the numbers and names that no option gives.

        Lightning would take all, over the options, and import the code that it names.
        """
        command, path = self.config.subcommand, self.config[self.config.subcommand].ckpt_path
        if not path or (command == "fit" and path in ("last", "hpc")):  # Lightning's words for what may not be there
            return
        model = self._said[command].model.as_dict()
        kind, options = model["class_path"], model.get("init_args", {}) | model.get("dict_kwargs", {})
        options = {name: value for name, value in options.items() if value is not None}
        try:
            found = hyper_parameters(path, kind, {"_class_path": kind} | options)
        except OSError as error:
            raise ValueError(f"--ckpt_path {path} cannot be read: {error}") from error
        options = {name: value for name, value in found.items() if name not in (*LINKED, *options, "_class_path")}
        model = {command: {"model": {"class_path": kind, "init_args": options}}}
        self.config = self.parser.parse_object(model, self.config)

    def before_instantiate_classes(self) -> None:
        """Train for 100 epochs where no option says how long; a cosine over them would hide an earlier end."""
        trainer = self.config[self.subcommand].trainer
        if (trainer.max_epochs, trainer.max_steps, trainer.max_time) == (None, -1, None):
            trainer.max_epochs = 100


def run(argv: list[str] | None) -> None:
    """Run `fit`, `validate` or `test` with `argv`; None reads the command line."""
    # Lightning's way of calling jsonargparse is deprecated; nothing a user could mend.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    try:
        HiddenCLI(
            LitClassifier,
            ImageData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_class=L.Trainer,
            trainer_defaults={"logger": lazy_instance(CSVLogger, save_dir=".")},
            parser_kwargs={"prog": "lit-hidden"},
            args=argv,
        )
    except (ValueError, DataError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if _ours(cause):  # refused by us, with a message of its own; anything else keeps its traceback
                sys.exit(f"lit-hidden: {cause}")
            cause = cause.__cause__
        raise


def _ours(error: BaseException) -> bool:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return bool(frames) and Path(frames[-1]).is_relative_to(Path(__file__).parent)
