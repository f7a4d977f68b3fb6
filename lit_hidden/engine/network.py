"""From a run to its net: built as it begins, or as it was at its end, from what its folder holds."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from lit_hidden import code
from lit_hidden.classifier import LitClassifier
from lit_hidden.data import ImageData, data_module
from lit_hidden.data.decode import transform
from lit_hidden.edge_popup import EdgePopup, hide, maskers
from lit_hidden.engine.store import SCORES, SUBNETWORK, WEIGHTS, Store, needed
from lit_hidden.hyper_parameters import facts
from lit_hidden.nets import build
from lit_hidden.recipes import IMAGENET_SIZES, SUBSET, method
from lit_hidden.run import Run
from lit_hidden.subnetwork import load_subnetwork
from lit_hidden.supermask import Supermask, fix_masks

# Fields of a run that its LightningModule takes: of every run, and by kind.
_ALL = ["net", "width", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs", "label_smoothing", "task",
        "optimizer"]  # fmt: skip
_OWN = {
    "hidden": ["density", "distribution", "scaled", "weight_seed", "score_seed", "masker"],
    "dense": ["distribution"],
}


def make_data(run: Run, data_dir: str | Path, decoders: int | None = None) -> ImageData:
    """Build the DataModule of a run; `decoders` is the number of processes that decode images, None its own choice."""
    run = run.resolved
    names, own = ["batch_size", "augment", "held_out", "train_images"], {}
    if run.data in IMAGENET_SIZES:
        names, own = [*names, *SUBSET], {"workers": decoders}
    fields = {name: getattr(run, name) for name in names}
    return data_module(run.data, root=str(data_dir), seed=run.data_seed, **fields, **own)


def make_module(run: Run, data: ImageData, runs_dir: Path = Path("runs")) -> LitClassifier:
    """Build a run's LightningModule as it begins; FileNotFoundError: its parent's net is not in `runs_dir`."""
    run = run.resolved
    before, make = run.parent, code.load(method(str(run.method)).module)
    begun = None if before is None else _left(before, runs_dir / before.hash, needed(run))
    arguments: dict[str, Any] = facts(data, {}) | {name: getattr(run, name) for name in _ALL + _OWN.get(run.kind, [])}
    if run.kind == "ticket":
        arguments |= {"net": begun, "subnetwork": None}
    elif run.kind == "dense":
        arguments["seed"] = run.weight_seed
    module: LitClassifier = make(**arguments)
    if begun is None or run.kind == "ticket":
        return module
    state = begun.state_dict()
    if run.kind == "hidden" and not maskers(begun):  # the weights then lie under masks, whose scores are its own
        own = module.net.state_dict()
        under = {name.replace("parametrizations.", "").removesuffix(".original"): name for name in own}
        state = own | {under.get(name, name): tensor for name, tensor in state.items()}
    module.net.load_state_dict(state)
    return module


def network(run: Run, folder: Path) -> nn.Module:
    """Build the net of a run that is done as it was at its end, in eval mode.

    It is hidden as it was; a sampled supermask has its most probable mask. Its attribute `transform` turns a picture
    (PIL, or uint8 `(..., C, H, W)`) into its input, `about` is what `LitClassifier.about` was. FileNotFoundError: its
    file is not there; StoreError: damage.
    """
    net = _left(run, folder, (SUBNETWORK, SCORES) if run.kind == "hidden" else (WEIGHTS,))
    if any(isinstance(masker, Supermask) for masker in maskers(net).values()):  # which would sample
        fix_masks(net)
    about = make_data(run, folder).about | {"net": run.net, "width": run.width}
    # Not through nn.Module, which would register a torchvision transform as a layer.
    vars(net).update(about=about, transform=transform(about))
    return net.eval()


def _left(run: Run, folder: Path, names: Collection[str]) -> nn.Module:
    """Build the net that a run left, from those of the files `names` that are there."""
    run = run.resolved
    there = [name for name in names if (folder / name).exists()]
    if not there:
        files = " or ".join(names)
        raise FileNotFoundError(f"{folder} has no {files}, the net of {run.name}; train it, after deleting the folder")
    Store(folder.parent).read(run, *there)
    of_method = getattr(code.load(method(str(run.method)).module), "masker", EdgePopup)
    masker = code.load(run.masker) if run.masker else of_method
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.data_seed or 0)  # for what a net of your own draws itself, as in training
        net = build(run.net, width=run.width, **facts(make_data(run, folder), {}))
        if SUBNETWORK in there:
            load_subnetwork(net, folder / SUBNETWORK, masker=masker, distribution=run.distribution).float()
        elif run.density is not None:
            hide(net, run.density, distribution=None, masker=masker)
        if run.kind == "ticket":
            fix_masks(net)
        if there != [SUBNETWORK]:  # the scores, too
            net.load_state_dict(load_file(folder / there[-1]))
    return net
