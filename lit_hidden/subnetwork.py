"""A found subnetwork: its masks, its fingerprint, and a file small enough to mail.

The file holds one bit per weight and the seeds; the weights themselves are drawn again from the seed. So Conv2's
4.3 million weights are a 0.5 MB file, and the fingerprint inside proves that the same weights came back.
"""

import copy
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lit_hidden.edge_popup import EdgePopup, Hiding, Masker, hidden_layers, hide, maskers, original_weight

_FORMAT = "lit_hidden subnetwork 2"
_BEFORE = "lit_hidden subnetwork 1"  # read too: its description was three entries, which safetensors writes in no order
_KEY = "subnetwork"  # one entry of metadata, so that equal nets are equal bytes


def masks(model: nn.Module) -> dict[str, Tensor]:
    """Map each hidden layer to its mask, bool, of the weight's shape; empty if nothing is hidden."""
    return {name: masker.mask() for name, masker in maskers(model).items()}


def used_masks(model: nn.Module) -> dict[str, Tensor]:
    """Map each hidden layer to what its forward pass really used: bool, where the effective weight is not 0.

    Found from the product and not from the scores, so that it can contradict `masks`. A sampled supermask samples.
    """
    with torch.no_grad():
        return {name: getattr(*place) != 0 for name, place in hidden_layers(model).items()}


def fingerprint(model: nn.Module) -> str:
    """Hash every weight that a hidden model must not change: all parameters but the maskers' own (sha256, hex).

    Works on hidden and on plain models; buffers, such as a norm layer's running statistics, do not count.
    """
    learned = {id(p) for masker in maskers(model).values() for p in masker.parameters()}
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if id(parameter) not in learned:
            # torch.compile wraps modules under a name of its own.
            name = ".".join(part for part in name.split(".") if part != "_orig_mod")
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} ".encode())
            digest.update(_bytes(parameter))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    raw: bytes = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return raw


def save_subnetwork(model: nn.Module, path: str | Path) -> Path:
    """Write the masks of a hidden `model`, one bit per weight, with the seeds its weights come from.

    Buffers (running statistics of norm layers) are written too, so that the loaded net gives the same logits.

    Raises:
        ValueError: nothing is hidden; the weights are not the ones the seeds give (`hide(distribution=None)`), or learn
            (`fix_masks`); a buffer has a dtype that safetensors has not.
    """
    hiding = getattr(model, "_lit_hidden", None)
    if not isinstance(hiding, Hiding):
        raise ValueError(f"nothing is hidden in this {type(model).__name__}; hide(model) comes first")
    if hiding.distribution is None:
        raise ValueError(
            "the weights were kept, not drawn (distribution=None), so no seed gives them back; "
            "save reveal(model).state_dict() instead"
        )
    if any(masker.weights_learn for masker in maskers(model).values()):
        raise ValueError(
            "the weights learn (fix_masks), so no seed gives them back; save reveal(model).state_dict() instead"
        )
    tensors = {
        f"mask/{name}": torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))
        for name, mask in masks(model).items()
    }
    # Cloned, since safetensors refuses buffers that share memory.
    contiguous = torch.contiguous_format
    lasting = model.state_dict().keys()  # the other buffers are made anew with the net
    tensors |= {
        f"buffer/{name}": b.detach().cpu().clone(memory_format=contiguous)
        for name, b in model.named_buffers()
        if name in lasting
    }
    description = {**asdict(hiding), "frozen": None}
    found = {"format": _FORMAT, "hiding": description, "fingerprint": fingerprint(model)}
    metadata = {_KEY: json.dumps(found, sort_keys=True)}
    try:
        data = save(tensors, metadata)
    except KeyError as error:
        (dtype,) = error.args
        named = [name for name, buffer in model.named_buffers() if buffer.dtype == dtype]
        raise ValueError(
            f"safetensors cannot hold {dtype}, the dtype of {', '.join(named)}; save reveal(model).state_dict() instead"
        ) from None
    part = Path(f"{path}.part")  # a file that is there is whole
    part.write_bytes(data)  # not save_file, whose files nobody else may read
    return part.replace(path)


def load_subnetwork(model: nn.Module, path: str | Path) -> nn.Module:
    """Hide a fresh `model` as the saved one was, its scores 1 where a weight stays and 0 where not.

    In place; returns `model`. Embeddings and other weights that `hide` does not draw must be those of the saved model.

    Raises:
        ValueError: the file is not a subnetwork, its layers are not the model's, or the weights are not the saved ones.
    """
    _load(copy.deepcopy(model), path)  # a rehearsal, so that a failure leaves the model as it was
    return _load(model, path)


def _load(model: nn.Module, path: str | Path) -> nn.Module:
    try:
        with safe_open(path, "pt") as file:
            metadata = _described(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a subnetwork: {error}; save_subnetwork writes one") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a subnetwork: format {metadata.get('format')!r}, expected {_FORMAT!r}")
    hiding: dict[str, Any] = metadata["hiding"]
    how = {k: hiding[k] for k in ("density", "distribution", "scaled", "weight_seed", "score_seed", "skip")}
    hide(model, **how, masker=EdgePopup)
    saved = {name.removeprefix("mask/") for name in tensors if name.startswith("mask/")}
    found = maskers(model)
    if saved != found.keys():
        raise ValueError(f"{path} holds masks for {sorted(saved)}; the model's layers are {sorted(found)}")
    for name, masker in found.items():
        _set_mask(masker, tensors[f"mask/{name}"], original_weight(model, name), name)
    buffers = dict(model.named_buffers())
    for name, value in tensors.items():
        if name.startswith("buffer/"):
            buffers[name.removeprefix("buffer/")].copy_(value)
    if fingerprint(model) != metadata["fingerprint"]:
        raise ValueError(
            f"{path} was saved over other weights: their fingerprint begins {metadata['fingerprint'][:12]}, the "
            f"model's {fingerprint(model)[:12]}; build the net as it was, embeddings and all"
        )
    model._lit_hidden = replace(model._lit_hidden, masker=hiding["masker"])  # type: ignore[type-var]
    return model


def _described(metadata: dict[str, str]) -> dict[str, Any]:
    """Read what a file says of itself, in the format of today or the one before."""
    if metadata.get("format") == _BEFORE:
        return {**metadata, "format": _FORMAT, "hiding": json.loads(metadata["hiding"])}
    described: dict[str, Any] = json.loads(metadata[_KEY]) if _KEY in metadata else metadata
    return described


def _set_mask(masker: Masker, packed: Tensor, weight: Tensor, name: str) -> None:
    needed = -(-weight.numel() // 8)
    if packed.numel() != needed:
        raise ValueError(
            f"the mask of {name} has {packed.numel()} bytes; its {weight.numel()} weights take {needed}: "
            "the net has another width or image size than the saved one"
        )
    bits = np.unpackbits(packed.numpy(), count=weight.numel())
    assert isinstance(masker, EdgePopup)
    with torch.no_grad():
        masker.scores.copy_(torch.from_numpy(bits.astype(np.float32)).view(weight.shape))
    masker.keep = int(bits.sum())
