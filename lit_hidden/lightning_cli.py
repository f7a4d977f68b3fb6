"""`lit-hidden fit`, `validate`, `test`: LightningCLI over the suite's modules and data."""

import lightning.pytorch as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import lit_hidden.data
import lit_hidden.modules  # the classes that --model and --data name
from lit_hidden.data import ImageTensorsData
from lit_hidden.modules import LitClassifier


class HiddenCLI(LightningCLI):
    """The model learns the images' channels, size and classes from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data know to what the model needs."""
        for target, source in (
            ("num_classes", lambda data: data.num_classes),
            ("in_channels", lambda data: data.shape[0]),
            ("image_size", lambda data: data.shape[1]),
        ):
            parser.link_arguments("data", f"model.init_args.{target}", source, apply_on="instantiate")


def run(argv: list[str]) -> None:
    """Run `fit`, `validate` or `test` with `argv`."""
    HiddenCLI(
        LitClassifier,
        ImageTensorsData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_class=L.Trainer,
        trainer_defaults={"max_epochs": 100},
        parser_kwargs={"prog": "lit-hidden"},
        args=argv,
    )
