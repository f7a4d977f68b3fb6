"""`lit-hidden fit`, `validate`, `test`: LightningCLI over the suite's modules and data."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from jsonargparse.typing import lazy_instance
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

import lit_hidden.modules  # noqa: F401  the classes that --model names
from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DataError, ImageData


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
        for target, source in (
            ("num_classes", lambda data: data.num_classes),
            ("in_channels", lambda data: data.shape[0]),
            ("image_size", lambda data: data.shape[1]),
        ):
            parser.link_arguments("data", f"model.init_args.{target}", source, apply_on="instantiate")

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
