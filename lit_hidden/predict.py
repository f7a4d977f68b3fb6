"""`lit-hidden predict`: the classes of pictures, by the net of a run, a subnetwork file or a checkpoint."""

import csv
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_hidden import code
from lit_hidden.data import DataError, data_module
from lit_hidden.data.decode import load, transform
from lit_hidden.data.trees import pictures
from lit_hidden.edge_popup import EdgePopup, hide, maskers, plain_name
from lit_hidden.engine.network import network as network_of
from lit_hidden.engine.store import SUBNETWORK
from lit_hidden.errors import UserError, missing
from lit_hidden.hyper_parameters import hyper_parameters, read
from lit_hidden.run import Run
from lit_hidden.subnetwork import built, network
from lit_hidden.supermask import Supermask, fix_masks


def predict(
    what: str | Path,
    images: Sequence[str | Path],
    *,
    net: str | None = None,
    data: str | None = None,
    format: str = "table",
    top: int = 1,
) -> str:
    """Give the `top` classes of each picture and their probabilities, as a `table`, `csv` or `json`.

    `what` and `net` are those of `loaded`, `images` files, and folders of which all pictures are taken. These are
    converted to the net's channels, resized and normalised as the test images of its data, or of `data`. UserError: no
    picture is there; or some cannot be read, after the others were written to standard output.
    """
    made: Any = loaded(what, net)
    try:
        about = (data_module(data).about if data else {}) | made.about
    except ValueError as error:  # there are no such data
        raise UserError(str(error)) from error
    if "mean" not in about:
        raise UserError(f"{what} does not say how pictures become its input: name its data, such as --data cifar10")
    if data and len(about["mean"]) != about["in_channels"]:
        raise UserError(f"{data} has pictures of {len(about['mean'])} channel(s), the net takes {about['in_channels']}")
    found, left_out = pictures(images)
    if top < 1 or not found:
        raise UserError(f"top={top} must be at least 1" if found else f"no pictures in {', '.join(map(str, images))}")
    if left_out:
        sys.stderr.write(f"lit-hidden: left out, no pictures by their names: {', '.join(map(str, left_out))}\n")
    as_input, names, rows, unread = transform(about), about.get("classes"), [], []
    mode = "L" if about["in_channels"] == 1 else "RGB"
    for path in found:
        try:
            with torch.inference_mode():
                chances = made(as_input(load(path).convert(mode))[None]).softmax(-1)[0]
        except DataError as error:
            unread.append(str(error))
            continue
        except RuntimeError as error:  # torch's, of a file that does not say what the net takes
            raise UserError(f"{what} does not take these pictures: {error}") from error
        best = [label for label, _ in sorted(enumerate(chances.tolist()), key=lambda one: -one[1])[:top]]
        rows += [(str(path), names[label] if names else label, round(chances[label].item(), 6)) for label in best]
    head = ("image", "class", "probability")
    if format == "json":
        text = json.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=1)
    elif format == "csv":
        csv.writer(out := io.StringIO(), lineterminator="\n").writerows([head, *rows])
        text = out.getvalue().rstrip()
    else:
        text = columns([head, *rows])
    if unread:
        sys.stdout.write(f"{text}\n")
        raise UserError("\n".join(unread))
    return text


def columns(rows: Sequence[Sequence[Any]]) -> str:
    """Align rows of cells: the first to the left, the others to the right."""
    texts = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    first, *others = (max(map(len, column)) for column in zip(*texts, strict=True))
    return "\n".join(f"{row[0]:{first}}  {'  '.join(map(str.rjust, row[1:], others))}" for row in texts)


def loaded(what: str | Path, net: str | None = None) -> nn.Module:
    """Build the net of a run's folder, a subnetwork file (or a folder with one) or a checkpoint, in eval mode.

    It is hidden as it was; a sampled supermask has its most probable mask. Its attribute `about` is a dict, see
    `LitClassifier.about`. `net` names the net, see `build`, if the file does not name one of ours: no code is imported
    because a file names it. UserError: that is needed, or there is no net, or it is damaged.
    """
    path = Path(what)
    if why := missing(path):
        raise UserError(f"{path} cannot be read: {why}")
    try:
        if (path / "run.json").is_file():
            made = _of_run(path, net)
        elif zipfile.is_zipfile(path):
            made = _of_checkpoint(path, net)
        else:
            made = network(path / SUBNETWORK if path.is_dir() else path, net)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(str(error)) from error
    if any(isinstance(masker, Supermask) for masker in maskers(made).values()):  # which would sample
        fix_masks(made)
    return made.float().eval()


def _of_run(folder: Path, net: str | None) -> nn.Module:
    run = Run.from_json((folder / "run.json").read_text(encoding="utf-8"))
    fields = run.net, run.data, run.masker, run.distribution, run.method
    for name in (code.full(str(field)) for field in fields if code.dotted(field)):
        if not code.ours(name) and name.replace(":", ".") != str(net).replace(":", "."):
            why = "code is never imported because a file names it: give a net with --net; in Python, results.network"
            raise UserError(f"{folder} is of {name}, and {why}")
    return network_of(run, folder)


def _of_checkpoint(path: Path, net: str | None) -> nn.Module:
    checkpoint = read(path, lambda content: content)
    if not isinstance(checkpoint, dict) or "hyper_parameters" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of lit_hidden")
    kind = checkpoint["hyper_parameters"].get("_class_path", "")  # not imported: the tensors say what is hidden
    found = hyper_parameters(path, kind, {"net": net} if net else {})
    made = built(path, about := checkpoint.get("about", {}) | found, net)
    state = {plain_name(name[4:]): t for name, t in checkpoint["state_dict"].items() if name.startswith("net.")}
    under = (name.replace("parametrizations.", "").split(".original") for name in state if name.endswith(".original"))
    if hidden := {name.removesuffix(".weight") for name, _ in under}:
        sampled = about.get("method") == "supermask"
        named = (name.removesuffix(".weight") for name, _ in made.named_parameters(remove_duplicate=False))
        skip = {plain_name(name) for name in named} - hidden
        hide(made, found.get("density", 0.5), distribution=None, skip=skip, masker=Supermask if sampled else EdgePopup)
    if any(name.endswith(".kept") for name in state):
        fix_masks(made)
    made.load_state_dict(state)
    vars(made)["about"] = about
    return made
