"""A found subnetwork: its masks, its fingerprint, and a file small enough to mail.

The file holds one bit per weight and the seeds, from which the weights are drawn again: Conv2's 4.3 million weights
are a 0.5 MB file. The fingerprint inside proves that the same weights came back.
"""

import copy
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lit_hidden.distributions import DISTRIBUTIONS
from lit_hidden.edge_popup import EdgePopup, Hiding, MakeMasker, hidden_layers, hide, masker_name, maskers, reveal
from lit_hidden.edge_popup import original_weight as original
from lit_hidden.supermask import Supermask

_FORMAT = "lit_hidden subnetwork 3"
_KEY = "subnetwork"  # one entry of metadata, so that equal nets are equal bytes
_SCORES = "scores.safetensors"  # what `lit_hidden.engine.network.save_net` writes beside it
_MASKERS: dict[str, MakeMasker] = {"EdgePopup": EdgePopup, "Supermask": Supermask}
_HIDING: dict[str, Any] = {
    "density": float, "distribution": str, "scaled": (bool, str), "weight_seed": int, "score_seed": int, "skip": list,
    "masker": str,
}  # fmt: skip


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
    return _digest(_weights(model).items())


def _weights(model: nn.Module) -> dict[str, Tensor]:
    learned = {id(p) for masker in maskers(model).values() for p in masker.parameters()}
    # torch.compile wraps modules under a name of its own.
    return {
        ".".join(part for part in name.split(".") if part != "_orig_mod"): parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in learned
    }


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    lasting = model.state_dict().keys()  # the other buffers are made anew with the net
    return {name: buffer for name, buffer in model.named_buffers() if name in lasting}


def _digest(tensors: Iterable[tuple[str, Tensor]], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _checksum(found: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return _digest(sorted(tensors.items()), json.dumps(found, sort_keys=True))


def serialised(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Give the bytes of a safetensors file of tensors on any device; they may share memory.

    Raises:
        ValueError: the format lacks a tensor's dtype.
    """
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
            seeds, they learn (`fix_masks`), or a masker is more than its mask. Found by trial before writing.
    """
    hiding = Hiding.of(model)
    instead = "save reveal(model).state_dict() instead"
    if hiding.distribution is None or any(masker.weights_learn for masker in maskers(model).values()):
        raise ValueError(
            f"the weights learn (fix_masks) or were kept (distribution=None), so no seed gives them back; {instead}"
        )
    name = masker_name(hiding.masker)
    tensors = {
        f"mask/{layer}": torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))
        for layer, mask in masks(model).items()
    } | {f"buffer/{name}": buffer for name, buffer in _buffers(model).items()}
    all_tensors = [*_weights(model).values(), *_buffers(model).values()]
    dtypes = {str(t.dtype).removeprefix("torch.") for t in all_tensors if t.is_floating_point()}
    found: dict[str, Any] = {
        "format": _FORMAT,
        "hiding": {key: getattr(hiding, key) for key in _HIDING} | {"density": float(hiding.density), "masker": name},
        "fingerprint": fingerprint(model),
        "dtype": dtypes.pop() if len(dtypes) == 1 else None,  # None: the dtypes of the model that loads it
    }
    found["checksum"] = _checksum(found, tensors)
    try:
        data = serialised(tensors, {_KEY: json.dumps(found, sort_keys=True)})
        fresh = _restored(reveal(copy.deepcopy(model)), found, tensors, _MASKERS.get(name, hiding.masker))
        for layer, masker in maskers(model).items():
            weight = original(model, layer)
            if not torch.equal(masker.baked(weight), maskers(fresh)[layer].baked(weight)):
                raise ValueError(f"{name} gives {layer} weights that its mask does not tell")
    except (ValueError, RuntimeError) as error:  # torch's, of a buffer that cannot be written to
        raise ValueError(f"this {type(model).__name__} could not be loaded again: {error}; {instead}") from error
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
    found, tensors, scores = _read(Path(path))
    for what, allowed in (
        ("masker", [masker_name(masker)] if masker else list(_MASKERS)),
        ("distribution", [distribution] if distribution else list(DISTRIBUTIONS)),
    ):
        if (saved := found["hiding"][what]) not in allowed:
            raise SubnetworkError(f"{path} was saved with {what} {saved!r}, not {' or '.join(allowed)}; give {what}=")
    make = masker or _MASKERS[found["hiding"]["masker"]]
    try:
        _restored(copy.deepcopy(model), found, tensors, make, scores)  # on trial, so a failure leaves the model alone
    except Exception as error:  # a file may hold anything
        raise SubnetworkError(f"{path} does not fit this {type(model).__name__}: {error}") from error
    return _restored(model, found, tensors, make, scores)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Read the description and the tensors of a file, and the scores beside it; anybody may have written them."""
    if not path.is_file():  # a pipe would be waited for
        raise SubnetworkError(
            f"{path} is no regular file; give one of save_subnetwork, such as a run's subnetwork.safetensors"
        )
    reading, beside = path, path.with_name(_SCORES)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(metadata.get(_KEY, "{}"))
        if found.get("format") != _FORMAT:
            raise ValueError(f"its format is {found.get('format')!r:.50}, not {_FORMAT!r}")
        if found.pop("checksum") != _checksum(found, tensors):
            raise ValueError("its checksum differs")
        for name, kind in _HIDING.items():
            if not isinstance(found["hiding"][name], kind):
                raise ValueError(f"{name}={found['hiding'][name]!r:.50}")
        reading = beside
        return found, tensors, load_file(beside) if beside.is_file() else {}
    except Exception as error:  # of many kinds, RecursionError of nested JSON among them
        raise SubnetworkError(f"{reading} is damaged or not what lit_hidden saves: {error!r:.200}") from error


def _restored(
    model: nn.Module,
    found: dict[str, Any],
    tensors: dict[str, Tensor],
    masker: MakeMasker,
    scores: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Hide a model as a file says."""
    if found["dtype"] is not None:
        model.to(getattr(torch, found["dtype"]))
    hide(model, **{key: found["hiding"][key] for key in _HIDING if key != "masker"}, masker=masker)
    weights, buffers = {name: original(model, name) for name in maskers(model)}, _buffers(model)
    expected: dict[str, Any] = {
        f"mask/{name}": ((-(-weight.numel() // 8),), torch.uint8) for name, weight in weights.items()
    }
    expected |= {f"buffer/{name}": (tuple(buffer.shape), buffer.dtype) for name, buffer in buffers.items()}
    there = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for name in sorted(there.keys() | expected.keys()):
        if there.get(name) != expected.get(name):
            raise ValueError(
                f"{name} of the file is {there.get(name)}, of the model {expected.get(name)}: another net or width"
            )
    kept = {}
    for name, layer in maskers(model).items():
        weight = weights[name]
        bits = np.unpackbits(tensors[f"mask/{name}"].numpy(), count=weight.numel())
        kept[name] = torch.from_numpy(bits.astype(bool)).view(weight.shape).to(weight.device)
        layer.set_mask(kept[name])
    if scores:
        model.load_state_dict(scores)
    for name, buffer in buffers.items():
        buffer.copy_(tensors[f"buffer/{name}"])
    if wrong := [name for name, mask in masks(model).items() if not torch.equal(mask, kept[name])]:
        raise ValueError(f"{_SCORES} beside it (or set_mask) gives other masks of {', '.join(wrong)}")
    if (ours := fingerprint(model)) != found["fingerprint"]:
        raise ValueError(
            f"the weights drawn from weight_seed={found['hiding']['weight_seed']}, with the model's own (embeddings, "
            f"say), have the fingerprint {ours[:12]}, and those saved {str(found['fingerprint'])[:12]}"
        )
    return model
