"""A found subnetwork: its masks, its fingerprint, and a file small enough to mail.

The file holds one bit per weight and the seeds, from which the weights are drawn again: Conv2's 4.3 million weights
are a 0.5 MB file. The fingerprint inside proves that the same weights came back.
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lit_hidden.distributions import DISTRIBUTIONS
from lit_hidden.edge_popup import EdgePopup, Hiding, MakeMasker, hidden_layers, hide, maskers, plain_name, reveal
from lit_hidden.supermask import Supermask

_FORMAT = "lit_hidden subnetwork 3"
_KEY = "subnetwork"  # one entry of metadata, so that equal nets are equal bytes
_SCORES = "scores.safetensors"  # what `lit_hidden.engine.network.save_net` writes beside it
_MASKERS: dict[str, MakeMasker] = {"EdgePopup": EdgePopup, "Supermask": Supermask}
_HIDING = ("density", "distribution", "scaled", "weight_seed", "score_seed", "skip")  # arguments of `hide`


class SubnetworkError(ValueError):
    """A file that is no subnetwork, is damaged, or does not fit the model; the message names it."""


def masks(model: nn.Module) -> dict[str, Tensor]:
    """Map each hidden layer to its mask, bool, of the weight's shape; empty if nothing is hidden."""
    return {name: masker.mask() for name, masker in maskers(model).items()}


def used_masks(model: nn.Module) -> dict[str, Tensor]:
    """Map each hidden layer to where its masked weight is not 0; found without scores, so it can contradict `masks`."""
    with torch.no_grad():
        return {name: getattr(*place) != 0 for name, place in hidden_layers(model).items()}


def fingerprint(model: nn.Module) -> str:
    """Hash all parameters of a hidden or plain model but the maskers' own (sha256, hex); buffers do not count."""
    return _digest(_weights(model))


def serialised(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Give the bytes of a safetensors file of tensors on any device; ValueError: the format lacks a tensor's dtype."""
    # Cloned, since safetensors refuses tensors that share memory.
    layout = torch.contiguous_format
    whole = {name: tensor.detach().cpu().clone(memory_format=layout) for name, tensor in tensors.items()}
    try:
        data: bytes = save(whole, metadata)
    except KeyError as error:
        raise ValueError(f"safetensors files hold no tensors of {error}") from error
    return data


def save_subnetwork(model: nn.Module, path: str | Path) -> Path:
    """Write the masks of a hidden `model`, one bit per weight, with the seeds its weights come from.

    Buffers (running statistics of norm layers) are written too, so that the loaded net gives the same logits.

    Raises:
        ValueError: nothing is hidden, or the file would not give the model back: its weights are not those of the
            seeds, or its masker is more than a mask. Found by trial before writing.
    """
    hiding = Hiding.of(model)
    name, tensors = _name(hiding.masker), _tensors(model)
    everything = (_weights(model) | _buffers(model)).values()
    dtypes = {str(t.dtype).removeprefix("torch.") for t in everything if t.is_floating_point()}
    found: dict[str, Any] = {
        "format": _FORMAT,
        "hiding": {key: getattr(hiding, key) for key in _HIDING} | {"density": float(hiding.density), "masker": name},
        "fingerprint": fingerprint(model),
        "dtype": dtypes.pop() if len(dtypes) == 1 else None,  # None: the dtypes of the model that loads it
    }
    found["checksum"] = _checksum(found, tensors)
    try:
        if hiding.distribution is None:
            raise ValueError("its weights learn (fix_masks) or were kept (distribution=None)")
        data = serialised(tensors, {_KEY: json.dumps(found, sort_keys=True)})
        plain = reveal(copy.deepcopy(model))
        before = fingerprint(plain)
        if fingerprint(reveal(_restored(plain, found, tensors, {}, _MASKERS.get(name, hiding.masker)))) != before:
            raise ValueError(f"{name} changes weights by more than its mask")
    except (ValueError, RuntimeError) as error:  # torch's, of a buffer that cannot be written to
        raise ValueError(
            f"seeds and masks do not give this {type(model).__name__} back: {error}; save reveal(model).state_dict()"
        ) from error
    part = Path(f"{path}.part")  # a file under its final name is whole
    part.write_bytes(data)
    return part.replace(path)


def load_subnetwork(
    model: nn.Module, path: str | Path, *, masker: MakeMasker | None = None, distribution: str | None = None
) -> nn.Module:
    """Hide a fresh `model` as the saved one was, with its masks, buffers and dtype.

    In place; returns `model`. Embeddings and other weights that `hide` does not draw must be those of the saved model.
    With `scores.safetensors` beside the file, training goes on as it would have. Without, scores are made to fit the
    mask, see `set_mask`.

    Args:
        model: as `hide` takes it.
        path: a file of `save_subnetwork`. It never makes lit_hidden import code.
        masker: what the saved model was hidden with, if it is not lit_hidden's.
        distribution: what its weights were drawn from, if it is not lit_hidden's.

    Raises:
        SubnetworkError: the file is damaged, does not fit, or names another masker; the model is as it was.
    """
    beside = Path(path).with_name(_SCORES)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(metadata.get(_KEY, "{}"))
        if found.get("format") != _FORMAT:
            raise ValueError(f"its format is {found.get('format')!r:.50}, not {_FORMAT!r}")
        if found.pop("checksum") != _checksum(found, tensors):
            raise ValueError("its checksum differs")
        allowed = {"masker": [_name(masker)] if masker else [*_MASKERS]}
        allowed["distribution"] = [distribution] if distribution else [*DISTRIBUTIONS]
        for what, names in allowed.items():
            if (saved := found["hiding"][what]) not in names:
                raise ValueError(f"it was saved with {what} {saved!r:.100}; give that as {what}=")
        make = masker or _MASKERS[found["hiding"]["masker"]]
        scores = load_file(beside) if beside.is_file() else {}
        _restored(copy.deepcopy(model), found, tensors, scores, make)  # on trial, so a failure leaves the model alone
    except Exception as error:  # a file may hold anything
        place = f"{path}, or {_SCORES} beside it," if beside.is_file() else path
        raise SubnetworkError(f"{place} is damaged or does not fit this {type(model).__name__}: {error}") from error
    return _restored(model, found, tensors, scores, make)


def _restored(
    model: nn.Module, found: dict[str, Any], tensors: dict[str, Tensor], scores: dict[str, Tensor], masker: MakeMasker
) -> nn.Module:
    """Hide a model as a file says; ValueError: it would not be saved as the same file."""
    if found["dtype"] is not None:
        model.to(getattr(torch, found["dtype"]))
    hide(model, **{key: found["hiding"][key] for key in _HIDING}, masker=masker)
    if other := tensors.keys() ^ _tensors(model).keys():
        raise ValueError(f"another net: only one of model and file has {', '.join(sorted(other))}")
    for name, layer in maskers(model).items():
        mask = layer.mask()
        bits = np.unpackbits(tensors[f"mask/{name}"].numpy(), count=mask.numel())
        layer.set_mask(torch.from_numpy(bits.astype(bool)).view(mask.shape).to(mask.device))
    if scores:
        model.load_state_dict(scores)
    for name, buffer in _buffers(model).items():
        buffer.copy_(tensors[f"buffer/{name}"])
    for name, tensor in _tensors(model).items():
        if _digest({name: tensor}) != _digest({name: tensors[name]}):
            raise ValueError(f"{name} does not come back: another width, {_SCORES} of another net, or a bad set_mask")
    if fingerprint(model) != found["fingerprint"]:
        raise ValueError(
            "the fingerprint says that its weights, drawn or its own (embeddings, say), are not those saved"
        )
    return model


def _name(masker: MakeMasker) -> str:
    return getattr(masker, "__name__", repr(masker))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    learned = {id(p) for masker in maskers(model).values() for p in masker.parameters()}
    return {plain_name(name): p for name, p in model.named_parameters() if id(p) not in learned}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    lasting = model.state_dict().keys()  # the other buffers are made anew with the net
    return {name: buffer for name, buffer in model.named_buffers() if name in lasting}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a file holds: masks, one bit per weight in row-major order, and buffers."""
    packed = {name: np.packbits(mask.cpu().numpy().reshape(-1)) for name, mask in masks(model).items()}
    buffers = {f"buffer/{name}": buffer for name, buffer in _buffers(model).items()}
    return {f"mask/{name}": torch.from_numpy(bits) for name, bits in packed.items()} | buffers


def _digest(tensors: dict[str, Tensor], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _checksum(found: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return _digest(dict(sorted(tensors.items())), json.dumps(found, sort_keys=True))
