"""Checkpoints of the authors' code become checkpoints of `LitSubnetwork`: to test, to go on from, to compare.

Source: allenai/hidden-networks, `main.py` (what is saved and where), `utils/conv_type.py` and `utils/builder.py`.
"""

import math
import re
from pathlib import Path

import lightning
import torch
from torch import Tensor

from lit_hidden.errors import UserError
from lit_hidden.hyper_parameters import read
from lit_hidden.modules import LitSubnetwork
from lit_hidden.subnetwork import masks


@torch.no_grad()
def import_checkpoint(
    file: str, net: str, density: float | None = None, removed: float = 0.0, width: float = 1.0, out: str | None = None
) -> str:
    """Write a checkpoint of `LitSubnetwork` with the weights, scores and running statistics of the authors' `file`.

    Their prune rate is the fraction kept in `SubnetConv` and the fraction removed in `FixedSubnetConv`. It is given as
    `density` or as `removed`, and all that the file tells of it must agree. `out` is `<file>.ckpt` by default. Returns
    what to tell the user: what each layer keeps. UserError: the file is not theirs, or not of this net or this rate.
    """
    state = read(file, lambda content: {str(n): t.detach() for n, t in content.get("state_dict", content).items()})
    theirs, target = _layers(state), out or f"{file}.ckpt"
    hidden = [layer for layer in theirs.values() if {"weight", "scores"} <= layer.keys()]
    weights, scores = ([layer[part] for layer in hidden] for part in ("weight", "scores"))
    if not hidden or any(weight.ndim < 2 for weight in weights):
        raise UserError(f"{file} has no layers with weight and scores: it is no hidden network of the authors' code")
    if wrong := [f"'{name}'" for name, layer in theirs.items() if not all(map(_real, layer.values()))]:
        raise UserError(f"{file}: layer {', '.join(wrong[:12])} has numbers that are not finite, or no real numbers")
    option, rate, kept = ("--removed", removed, 1 - removed) if density is None else ("--density", density, density)
    folders = re.findall(r"/prune_rate=(\d*\.?\d+)/", str(Path(file).absolute()))  # where their code leaves it
    told = {f"its folder prune_rate={rate}": float(rate) for rate in folders[-1:]}
    if is_mask := all(bool(((s == 0) | (s == 1)).all()) for s in scores):  # of FixedSubnetConv
        zeros = max(int((s == 0).sum()) / s.numel() for s in scores)  # each layer has `int(rate * n)`
        told["its scores, a mask of ones and zeros,"] = zeros if density is None else 1 - zeros
        kept = 1 - zeros - 1e-12  # rounds alike
    for what, said in told.items():
        if not abs(said - rate) < 0.01:
            either = f"give --density {said:.2g} if it was kept, as by their SubnetConv, or --removed {said:.2g}"
            raise UserError(f"{option} {rate:g} contradicts {what} that says {said:.2g}; {either}")
    inputs, kernel = weights[0].shape[1], weights[0][0, 0].numel()
    shape = (inputs, 32) if kernel > 1 else (1, math.isqrt(inputs))  # 1x1: a linear layer, of MNIST's pixels
    try:
        lit = LitSubnetwork(net, width, len(weights[-1]), *shape, density=kept, distribution=None)
        _copy(theirs, _layers(lit.net.state_dict()))
        stay = {name: (int(mask.sum()), mask.numel()) for name, mask in masks(lit.net).items()}
        if is_mask and [keep for keep, _ in stay.values()] != [int(s.sum()) for s in scores]:
            raise ValueError("its masks do not keep the same fraction of each layer")
    except ValueError as error:
        raise UserError(f"{file} is no {net} of width {width:g} with {option} {rate:g}: {error}") from error
    saved = {"state_dict": lit.state_dict(), "hyper_parameters": dict(lit.hparams), "hparams_name": "kwargs"}
    none = {"epoch": 0, "global_step": 0, "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    with open(target, "wb") as opened:  # torch's error of a missing folder is a RuntimeError
        torch.save(saved | none | {"pytorch-lightning_version": lightning.__version__}, opened)
    stay["all"] = sum(keep for keep, _ in stay.values()), sum(n for _, n in stay.values())
    lines = [f"{name}: {keep} of {n} weights kept ({keep / n:.2%})" for name, (keep, n) in stay.items()]
    return "\n".join([*lines, f"{target}: density {kept:g}, confirmed by {' and '.join(told) or 'nothing but you'}"])


def _real(tensor: Tensor) -> bool:
    whole = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_complex() or tensor.is_quantized)
    return whole and bool(tensor.isfinite().all())


def _layers(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group a state dict, theirs or one of a hidden net, by layers."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name = key.replace("parametrizations.weight.original", "weight").replace("parametrizations.weight.0.", "")
        layer, _, part = name.removeprefix("module.").rpartition(".")  # of DataParallel
        found.setdefault(layer, {})[part] = tensor
    return found


def _copy(theirs: dict[str, dict[str, Tensor]], ours: dict[str, dict[str, Tensor]]) -> None:
    """Copy layer by layer, in order; a linear layer of ours may be a 1x1 convolution of theirs."""
    if len(theirs) != len(ours):
        raise ValueError(f"it has {len(theirs)} layers with tensors, not {len(ours)}")
    for (layer, parts), (name, tensors) in zip(theirs.items(), ours.items(), strict=True):
        needed = {"weight", "scores"} if "scores" in tensors else {"running_mean", "running_var"} & tensors.keys()
        if wrong := (needed - parts.keys()) | (parts.keys() - tensors.keys()):
            raise ValueError(f"'{layer}' has {', '.join(parts)}; {', '.join(sorted(wrong))} is missing or too much")
        for part, here in tensors.items():
            if (tensor := parts.get(part, here)).shape[: here.ndim] != here.shape or tensor.numel() != here.numel():
                shapes = f"{tuple(tensor.shape)}, and ours, '{name}', {tuple(here.shape)}"
                raise ValueError(f"{part} of '{layer}' has the shape {shapes}")
            here.copy_(tensor.view_as(here))
