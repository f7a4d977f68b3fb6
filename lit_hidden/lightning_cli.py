"""`lit-hidden fit`, `validate`, `test`: LightningCLI over the suite's modules and data."""

import os
import pkgutil
import re
import sys
import traceback
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import lightning.pytorch as L
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

import lit_hidden.modules
from lit_hidden.classifier import LitClassifier
from lit_hidden.data import DataError, ImageData
from lit_hidden.edge_popup import hidden_layers
from lit_hidden.engine.tracking import labels
from lit_hidden.hyper_parameters import facts, hyper_parameters
from lit_hidden.subnetwork import save_subnetwork

HERE = Path(__file__).parent
LINKED = ("num_classes", "in_channels", "image_size")  # the data know these arguments of a model


class Parser(LightningArgumentParser):
    """Lightning's parser with short errors: one line if a name is unknown, with the nearest one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with status 2, without the usage, which has 50 lines."""
        if not self.exit_on_error:  # of a class: the whole one's follows
            super().error(message, ex)
        if of := re.search(r"class_path '(\S+)':\s+Option '(\S+)' is not accepted", message):
            parser, word = ArgumentParser(), of[2]
            parser.add_class_arguments(pkgutil.resolve_name(of[1]))
            names = [*vars(parser.get_defaults())]
            message = f"{of[1].rpartition('.')[2]} has no option {word!r}; it has {', '.join(names)}"
        elif of := re.search(r"accept option '(\S+)'|unrecognized arguments: --([^\s=]+)|path string: (\S+)", message):
            word = next(filter(None, of.groups()))
            options = self._subcommands_action._name_parser_map.values() if self._subcommands_action else [self]
            theirs = [*L.callbacks.__all__, *L.loggers.__all__]
            names = [*lit_hidden.__all__, *theirs, *(action.dest for parser in options for action in parser._actions)]
            message = f"there is no {word!r}; lit-hidden fit --help lists the options"
        near = of and (get_close_matches(word, names, 1) or get_close_matches(word.partition(".")[0], names, 1))
        message = f"{message.partition(';')[0]}; did you mean {near[0]}?" if near else message
        sys.stderr.write(f"lit-hidden: {message}\n")
        sys.exit(2)


class Kept(SaveConfigCallback):
    """Writes `config.yaml` and the subnetwork into the log's folder, under another name where that is taken."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the configuration's name."""
        if not self.already_saved:
            self.config_filename = _free(Path(trainer.log_dir or "."), self.config_filename).name
        super().setup(trainer, pl_module, stage)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the subnetwork that a hidden module ended with. In the process that trained: others lack its folder."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks have to ask
        if hidden_layers(pl_module.net) and trainer.is_global_zero:
            path = _free(folder, "subnetwork.safetensors")
            try:
                rank_zero_info(f"The subnetwork is in {save_subnetwork(pl_module.net, path, pl_module.about)}")
            except ValueError as error:
                rank_zero_info(f"No subnetwork is written: {error}")
                return
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger) and not (run := logger.experiment).offline:
                    run.log_artifact(path, name=f"subnetwork-{run.id}"[:128], type="subnetwork")


def _free(folder: Path, name: str) -> Path:
    path = folder / name
    return path.with_stem(f"{path.stem}-{uuid4().hex[:8]}") if os.path.lexists(path) else path


class HiddenCLI(LightningCLI):
    """LightningCLI whose model takes the images' shape from the data, and what no option gives from a checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the data's facts to the model's arguments."""
        for name in LINKED:
            fact = partial(_fact, name)
            parser.link_arguments("data", f"model.init_args.{name}", fact, apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Refuse arguments, given or from the checkpoint, that contradict the data."""
        super().instantiate_classes()
        facts(self.datamodule, self.config[self.subcommand].model.init_args)

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
        found = {name: value for name, value in found.items() if name not in (*given, "_class_path")}
        model = {command: {"model": {"class_path": kind, "init_args": found}}}
        self.config = self.parser.parse_object(model, self.config)

    def before_instantiate_classes(self) -> None:
        """Train for 100 epochs unless an option gives an end; refuse a checkpoint that holds code."""
        options = self.config[self.subcommand]
        if "WandbLogger" in str(options.trainer.logger):
            _label(str(self.subcommand), options)
        options.weights_only = True if options.weights_only is None else options.weights_only
        end = options.trainer.max_epochs, options.trainer.max_steps, options.trainer.max_time
        if end == (None, -1, None):  # a default of the parser would shorten a longer cosine
            options.trainer.max_epochs = 100


def _label(command: str, options: Namespace) -> None:
    """Label a run for W&B as `reproduce` does, unless its own variables do."""
    if isinstance(logger := options.trainer.logger, Namespace) and logger.init_args.name == "lightning_logs":
        logger.init_args.name = None  # it was the default logger's
    model, data = options.model.init_args, pkgutil.resolve_name(options.data.class_path).name
    method = pkgutil.resolve_name(options.model.class_path).method
    name = f"{model.net}-{f'k{100 * model.density:g}' if 'density' in model else method}-{data}-s{model.get('seed', 0)}"
    told = labels(f"{command}/{data}", name, uuid4().hex[:8], model.net, method, data)
    variables = {"RUN_ID": told["id"], "RUN_GROUP": told["group"], "JOB_TYPE": told["job_type"], "NAME": name}
    for variable, value in {**variables, "TAGS": ",".join(told["tags"]), "PROJECT": "lit-hidden"}.items():
        os.environ.setdefault(f"WANDB_{variable}", value)


def _fact(name: str, data: ImageData) -> int:
    return facts(data, {})[name]


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
            save_config_callback=Kept,
            parser_class=Parser,
            trainer_defaults={"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "."}}},
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
