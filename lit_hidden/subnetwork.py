"""A found subnetwork: its masks, its fingerprint, and a file small enough to mail.

The file holds one bit per weight and the seeds; the weights themselves are drawn again from the seed. So Conv2's
4.3 million weights are a 0.5 MB file, and the fingerprint inside proves that the same weights came back.
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
from lit_hidden.edge_popup import (
    EdgePopup,
    Hiding,
    MakeMasker,
    hidden_layers,
    hide,
    masker_name,
    maskers,
    original_weight,
    reveal,
)
from lit_hidden.supermask import Supermask

_FORMAT = "lit_hidden subnetwork 3"
_KEY = "subnetwork"  # one entry of metadata, so that equal nets are equal bytes
_SCORES = "scores.safetensors"  # what `lit_hidden.engine.network.save_net` writes beside it
_MASKERS: dict[str, MakeMasker] = {"EdgePopup": EdgePopup, "Supermask": Supermask}
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
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
    """Map each hidden layer to what its forward pass really used: bool, where the effective weight is not 0.

    Found from the product and not from the scores, so that it can contradict `masks`. A sampled supermask samples.
    """
    with torch.no_grad():
        return {name: getattr(*place) != 0 for name, place in hidden_layers(model).items()}


def fingerprint(model: nn.Module) -> str:
    """Hash every weight that a hidden model must not change: all parameters but the maskers' own (sha256, hex).

    Works on hidden and on plain models; buffers, such as a norm layer's running statistics, do not count.
    """
    return _digest(_weights(model).items())


def _weights(model: nn.Module) -> dict[str, Tensor]:
    learned = {id(p) for masker in maskers(model).values() for p in masker.parameters()}
    # torch.compile wraps modules under a name of its own.
    return {
        ".".join(part for part in name.split(".") if part != "_orig_mod"): parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in learned
    }


def _digest(tensors: Iterable[tuple[str, Tensor]], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_subnetwork(model: nn.Module, path: str | Path) -> Path:
    """Write the masks of a hidden `model`, one bit per weight, with the seeds its weights come from.

    Buffers (running statistics of norm layers) are written too, so that the loaded net gives the same logits. The file
    is tried before it is written: what could not be loaded is refused.

    Raises:
        ValueError: nothing is hidden; the weights are not the ones the seeds give, or learn (`fix_masks`); there is
            more to a masker than its mask; a buffer has a dtype that safetensors has not.
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
    if _MASKERS.get(named := masker_name(hiding.masker), hiding.masker) is not hiding.masker:
        raise ValueError(f"the masker is called {named}, and is not lit_hidden's; a file tells them by name: rename it")
    tensors = {
        f"mask/{name}": torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))
        for name, mask in masks(model).items()
    }
    # Cloned, since safetensors refuses buffers that share memory.
    contiguous = torch.contiguous_format
    tensors |= {
        f"buffer/{name}": buffer.detach().cpu().clone(memory_format=contiguous)
        for name, buffer in _buffers(model).items()
    }
    dtypes = {
        str(t.dtype).removeprefix("torch.")
        for t in (*_weights(model).values(), *_buffers(model).values())
        if t.is_floating_point()
    }
    description = {name: getattr(hiding, name) for name in _HIDING} | {"masker": masker_name(hiding.masker)}
    description |= {"density": float(hiding.density), "skip": list(hiding.skip)}
    found: dict[str, Any] = {"format": _FORMAT, "hiding": description, "fingerprint": fingerprint(model)}
    found["dtype"] = dtypes.pop() if len(dtypes) == 1 else None  # None: as the model has them that it is loaded into
    found["checksum"] = _checksum(found, tensors)
    data = serialised(tensors, {_KEY: json.dumps(found, sort_keys=True)})
    try:
        fresh = _restored(reveal(copy.deepcopy(model)), found, tensors, hiding.masker)
        theirs = _weights(fresh)
        wrong = [name for name, weight in _weights(model).items() if not torch.equal(weight, theirs[name])]
        if wrong:
            raise ValueError(
                f"weight_seed={hiding.weight_seed} and {hiding.distribution} give other values of {', '.join(wrong)}"
            )
        for name, masker in maskers(model).items():
            weight = original_weight(model, name)
            if not torch.equal(masker.baked(weight), maskers(fresh)[name].baked(weight)):
                raise ValueError(f"the weights that {masker_name(hiding.masker)} gives {name} are not told by its mask")
    except ValueError as error:
        raise ValueError(
            f"this {type(model).__name__} could not be loaded again: {error}; save reveal(model).state_dict() instead"
        ) from error
    part = Path(f"{path}.part")  # a file that is there is whole
    part.write_bytes(data)  # not save_file, whose files nobody else may read
    return part.replace(path)


def load_subnetwork(
    model: nn.Module, path: str | Path, *, masker: MakeMasker | None = None, distribution: str | None = None
) -> nn.Module:
    """Hide a fresh `model` as the saved one was, with its masks, buffers and dtype.

    In place; returns `model`. Embeddings and other weights that `hide` does not draw must be those of the saved model.
    With `scores.safetensors` beside the file, training goes on as it would have. Without, the scores of `EdgePopup` are
    those that its score seed gives, the largest handed out to what stays; a `Supermask` keeps each weight of its most
    probable mask with probability 0.99.

    Args:
        model: as `hide` takes it.
        path: a file of `save_subnetwork`. No code that it names is imported.
        masker: what the saved model was hidden with, where that is not of lit_hidden.
        distribution: what its weights were drawn from, where that is not of lit_hidden.

    Raises:
        SubnetworkError: a ValueError; the file is no subnetwork or damaged, it does not fit the model, or it names
            another masker or distribution. The model is as it was.
    """
    found, tensors, scores = _read(Path(path))
    saved = found["hiding"]
    for what, given, ours in (
        ("masker", masker and masker_name(masker), _MASKERS),
        ("distribution", distribution, DISTRIBUTIONS),
    ):
        if given is None and saved[what] not in ours:
            raise SubnetworkError(
                f"{path} was saved with {what} {saved[what]!r}, which is not of lit_hidden and is not imported because "
                f"a file says so; give {what}="
            )
        if given not in (None, saved[what]):
            raise SubnetworkError(f"{path} was saved with {what} {saved[what]!r}, not with {given!r}")
    make = masker or _MASKERS[saved["masker"]]

    def load(model: nn.Module) -> nn.Module:
        _restored(model, found, tensors, make, scores)
        if (ours := fingerprint(model)) != found["fingerprint"]:
            raise ValueError(
                f"it was saved over other weights: their fingerprint begins {found['fingerprint'][:12]}, the "
                f"model's {ours[:12]}; build the net as it was, embeddings and all"
            )
        return model

    try:
        load(copy.deepcopy(model))  # a rehearsal, so that a failure leaves the model as it was
    except Exception as error:  # of many kinds: whatever somebody has written into a file
        raise SubnetworkError(f"{path} does not fit this {type(model).__name__}: {error}") from error
    return load(model)


def serialised(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Give the bytes of a safetensors file.

    Raises:
        ValueError: a dtype that safetensors has not.
    """
    try:
        data: bytes = save(tensors, metadata)
    except KeyError as error:
        (dtype,) = error.args
        named = [name.removeprefix("buffer/") for name, tensor in tensors.items() if tensor.dtype == dtype]
        raise ValueError(
            f"safetensors cannot hold {dtype}, the dtype of {', '.join(named)}; save reveal(model).state_dict() instead"
        ) from None
    return data


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    lasting = model.state_dict().keys()  # the other buffers are made anew with the net
    return {name: buffer for name, buffer in model.named_buffers() if name in lasting}


def _checksum(found: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return _digest(sorted(tensors.items()), json.dumps(found, sort_keys=True))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Read what a file says of itself and its tensors, and the scores beside it; it may be anybody's."""
    if not path.is_file():  # a pipe would be waited for
        raise SubnetworkError(
            f"{path} is no regular file; give one of save_subnetwork, such as a run's subnetwork.safetensors"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(metadata.get(_KEY, "{}"))
        if found.get("format") != _FORMAT:
            raise ValueError(f"format {found.get('format')!r:.50}, expected {_FORMAT!r}")
        if found.pop("checksum") != _checksum(found, tensors):
            raise ValueError("it is not what its checksum says")
        hiding = found["hiding"]
        for name, kind in _HIDING.items():
            if not isinstance(hiding[name], kind):
                raise ValueError(f"{name}={hiding[name]!r:.50}")
        if found["dtype"] not in (None, *_DTYPES) or not isinstance(found["fingerprint"], str):
            raise ValueError(f"dtype={found['dtype']!r:.50}, fingerprint={found['fingerprint']!r:.50}")
    except Exception as error:  # of many kinds, RecursionError of nested JSON among them
        raise SubnetworkError(
            f"{path} is damaged or not a subnetwork: {_said(error)}; save_subnetwork writes one"
        ) from error
    beside = path.with_name(_SCORES)
    try:
        return found, tensors, load_file(beside) if beside.is_file() else {}
    except Exception as error:
        raise SubnetworkError(
            f"{beside}, beside {path.name}, is damaged: {_said(error)}; delete it to begin with other scores"
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}" if isinstance(error, LookupError) else str(error)


def _restored(
    model: nn.Module,
    found: dict[str, Any],
    tensors: dict[str, Tensor],
    masker: MakeMasker,
    scores: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Hide a model as a file says."""
    if found["dtype"]:
        model.to(_DTYPES[found["dtype"]])
    hide(model, **{name: found["hiding"][name] for name in _HIDING if name != "masker"}, masker=masker)
    weights, buffers = {name: original_weight(model, name) for name in maskers(model)}, _buffers(model)
    expected = {f"mask/{name}" for name in weights} | {f"buffer/{name}" for name in buffers}
    if tensors.keys() != expected:
        raise ValueError(
            f"it lacks {sorted(expected - tensors.keys())} and holds {sorted(tensors.keys() - expected)} instead"
        )
    kept = {name: _unpacked(tensors[f"mask/{name}"], weight, name) for name, weight in weights.items()}
    for name, layer in maskers(model).items():
        layer.set_mask(kept[name])
    if scores:
        model.load_state_dict(scores)
    for name, buffer in buffers.items():
        value = tensors[f"buffer/{name}"]
        if (value.shape, value.dtype) != (buffer.shape, buffer.dtype):
            raise ValueError(
                f"its {name} is {tuple(value.shape)} {value.dtype}; the model's is {tuple(buffer.shape)} {buffer.dtype}"
            )
        buffer.copy_(value)
    if wrong := [name for name, mask in masks(model).items() if not torch.equal(mask, kept[name])]:
        raise ValueError(
            f"the masks of {', '.join(wrong)} are not those of {_SCORES if scores else 'set_mask'} beside it"
        )
    return model


def _unpacked(packed: Tensor, weight: Tensor, name: str) -> Tensor:
    needed = -(-weight.numel() // 8)
    if packed.dtype != torch.uint8 or packed.shape != (needed,):
        raise ValueError(
            f"the mask of {name} is {tuple(packed.shape)} {packed.dtype}; its {weight.numel()} weights take {needed} "
            "bytes: the net has another width or image size than the saved one"
        )
    bits = np.unpackbits(packed.numpy(), count=weight.numel())
    return torch.from_numpy(bits.astype(bool)).view(weight.shape).to(weight.device)
