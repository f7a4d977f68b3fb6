"""A module's arguments: those that a checkpoint records, read without importing code, and those that data give."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as L
from lightning.fabric.utilities.cloud_io import _load
from lightning.pytorch.core.saving import CHECKPOINT_PAST_HPARAMS_KEYS

from lit_hidden.code import dotted, ours
from lit_hidden.errors import UserError, missing


class CheckpointError(ValueError, UserError):
    """A file that is no checkpoint, or holds code; the message names it."""


def read(path: Any, take: Callable[[Any], dict[str, Any]], where: str = "cpu", weights_only: bool = True) -> Any:
    """Return what `take` finds in a checkpoint, a path or an open file; CheckpointError: that fails, or needs code."""
    try:
        if isinstance(path, str | os.PathLike) and "://" not in str(path) and missing(path):
            raise FileNotFoundError
        return take(_load(path, map_location=where, weights_only=weights_only))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {missing(path) or error}") from None
    except Exception as error:  # a damaged file may raise anything
        why = f"is no checkpoint of tensors, numbers and text ({type(error).__name__}), and nothing else is unpickled"
        how = "save what torch.load(FILE, weights_only=False)['state_dict'] gives"
        raise CheckpointError(f"{path} {why}; if you trust it, {how}") from error


def hyper_parameters(path: Any, kind: str, given: Mapping[str, Any], weights_only: bool = True) -> dict[str, Any]:
    """Read the arguments of a checkpoint (a path or an open file) that is loaded as the class of full name `kind`.

    A checkpoint may come from anyone, and importing code runs it. So a ValueError refuses what is no checkpoint, what
    contradicts `given` (arguments that replace the file's), and dotted names of code that are not given.
    """
    keys = (*CHECKPOINT_PAST_HPARAMS_KEYS, L.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY)
    found: dict[str, Any] = read(
        path, lambda content: {str(n): v for k in keys for n, v in content.get(k, {}).items()}, "meta", weights_only
    )
    if hasattr(path, "seek"):
        path.seek(0)
    found.pop("_instantiator", None)  # Lightning checks that one itself
    for name, value in found.items():
        if name == "_class_path" and ours(str(value)) and value.rpartition(".")[2] == kind.rpartition(".")[2]:
            continue  # `lit_hidden.LitDense` is `lit_hidden.modules.LitDense`
        # `skip` names layers, `subnetwork` a file.
        is_code = value != kind and name not in ("skip", "subnetwork") and _names_code(value)
        if is_code and (name == "_class_path" or name not in given):
            said = f"{path} says {name.lstrip('_')}={value!r}"
            raise ValueError(f"{said}, and code is never imported because a checkpoint names it; name it yourself")
        # Code and subnetworks may have moved, so their names may differ.
        option, written = (list(one) if isinstance(one, tuple) else one for one in (given.get(name, value), value))
        if option != written and not is_code and name != "subnetwork":
            raise ValueError(f"{name.lstrip('_')}={option!r} contradicts {path}, which says {written!r}")
    return found


def facts(data: Any, given: Mapping[str, Any]) -> dict[str, int]:
    """Return the arguments of a net that an `ImageData` determines; ValueError: a `given` one contradicts it."""
    known = {"num_classes": data.num_classes, "in_channels": data.shape[0], "image_size": data.shape[1]}
    for name, value in known.items():
        if given.get(name) not in (None, value):
            raise ValueError(f"{name}={given[name]} contradicts {type(data).__name__}, which has {name}={value}")
    return known


def _names_code(value: Any) -> bool:
    if isinstance(value, str):
        return dotted(value)
    parts = value.values() if isinstance(value, Mapping) else value
    return isinstance(parts, Iterable) and any(map(_names_code, parts))
