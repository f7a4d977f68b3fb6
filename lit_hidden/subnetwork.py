"""A found subnetwork: its masks, its fingerprint, and a file small enough to mail.

The file holds the masks, coded, and the seeds, from which the weights are drawn again: half of Conv2's 4.3 million
weights are a 0.5 MB file, a tenth of them 0.26 MB. The fingerprint inside proves that the same weights came back.
"""

import copy
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lit_hidden import rice
from lit_hidden.distributions import DISTRIBUTIONS
from lit_hidden.edge_popup import EdgePopup, Hiding, MakeMasker, hidden_layers, hide, maskers, plain_name, reveal
from lit_hidden.errors import UserError, missing
from lit_hidden.nets import NETS, build
from lit_hidden.supermask import Supermask

_FORMAT = "lit_hidden subnetwork 4"
_KEY = "subnetwork"  # one entry of metadata, so that equal nets are equal bytes
_MASKERS: dict[str, MakeMasker] = {"EdgePopup": EdgePopup, "Supermask": Supermask}
MOST = 250_000_000  # weights of a net that is built because a file names it
SHAPE = ("num_classes", "in_channels", "image_size", "width")  # arguments of `build`


class SubnetworkError(ValueError, UserError):
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
    """Give the bytes of a safetensors file; the tensors may be on any device and share memory."""
    layout = torch.contiguous_format
    whole = {name: tensor.detach().cpu().clone(memory_format=layout) for name, tensor in tensors.items()}
    data: bytes = save(whole, metadata)
    return data


def save_subnetwork(model: nn.Module, path: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write the masks of a hidden `model`, entropy-coded, with the seeds its weights come from.

    Buffers (running statistics of norm layers) are written too, so that the loaded net gives the same logits. `about`
    says, as JSON, what `network` builds and how pictures become its input: see `LitClassifier.about`. Equal nets are
    equal bytes.
    ValueError: nothing is hidden, or a trial before writing shows that the file would not give the model back: its
    weights are not those of the seeds, or its masker is more than a mask.
    """
    make, (found, tensors) = Hiding.of(model).arguments["masker"], _described(model, about or {})
    plain = reveal(copy.deepcopy(model))
    revealed = fingerprint(plain)
    try:
        if found["hiding"]["distribution"] is None:
            raise ValueError("its weights learn (fix_masks) or were kept (distribution=None)")
        if fingerprint(reveal(_restored(plain, found, tensors, _MASKERS.get(_name(make), make)))) != revealed:
            raise ValueError(f"{_name(make)} changes weights by more than its mask")
    except (ValueError, RuntimeError) as error:  # torch's, of a buffer that cannot be written to
        raise ValueError(
            f"seeds and masks do not give this {type(model).__name__} back: {error}; save reveal(model).state_dict()"
        ) from error
    data = serialised(tensors, {_KEY: json.dumps(found, sort_keys=True)})
    part = Path(f"{path}.part")  # a file under its final name is whole
    part.write_bytes(data)
    return part.replace(path)


def load_subnetwork(
    model: nn.Module, path: str | Path, *, masker: MakeMasker | None = None, distribution: str | None = None
) -> nn.Module:
    """Hide a fresh `model` as the saved one was, with its masks, buffers and dtype.

    In place; returns `model`. Weights that `hide` neither draws nor hides must be those of the saved model.
    Scores are made to fit the mask, see `set_mask`. A file never makes lit_hidden import code: give the `masker` and
    the `distribution` of the saved model if they are not lit_hidden's. SubnetworkError: the file is damaged, does not
    fit, or names another masker; take a fresh model to try again.
    """
    found, tensors = read_subnetwork(path)
    try:
        allowed = {"masker": [_name(masker)] if masker else [*_MASKERS]}
        allowed["distribution"] = [distribution] if distribution else [*DISTRIBUTIONS]
        for what, names in allowed.items():
            if (saved := found["hiding"][what]) not in names:
                raise ValueError(f"it was saved with {what} {saved!r:.100}; give that as {what}=")
        return _restored(model, found, tensors, masker or _MASKERS[found["hiding"]["masker"]])
    except Exception as error:  # a file may hold anything
        raise SubnetworkError(f"{path} does not fit this {type(model).__name__}: {error}") from error


def network(path: str | Path, net: str | nn.Module | None = None, **arguments: Any) -> nn.Module:
    """Build the net of a file, hidden as the saved one was, in eval mode; its attribute `about` is what the file says.

    Without `net` that is one of `NETS`, named in the file. No code is imported because a file names it: give other nets
    yourself, as a name for `build` or as a fresh module. Keywords are those of `load_subnetwork`, errors too.
    """
    about = read_subnetwork(path)[0]["about"]
    made = load_subnetwork(built(path, about, net), path, **arguments)
    vars(made)["about"] = about
    return made.eval()


def built(path: str | Path, about: Mapping[str, Any], net: str | nn.Module | None = None) -> nn.Module:
    """Build the net that a file is `about`, or `net`; SubnetworkError: it says none of ours, or cannot be."""
    if isinstance(net, nn.Module):
        return net
    try:
        named: Any = about.get("net")
        if net is None and named not in NETS:
            raise ValueError(
                f"it says net={named!r:.100}, and only {', '.join(NETS)} are built unasked; name the net (--net)"
            )
        if net not in (None, named) and named in NETS:
            raise ValueError(f"it is of net {named!r}, not {net!r}")
        shape = {name: about[name] for name in SHAPE if name in about}
        if net is None:
            with torch.device("meta"):
                weights = sum(p.numel() for p in build(named, **shape).parameters())
            if weights > MOST:
                raise ValueError(f"its {named} would have {weights} weights, more than {MOST}; name the net (--net)")
        with torch.random.fork_rng(devices=[]):
            return build(net or named, **shape)
    except Exception as error:  # a file may say anything
        raise SubnetworkError(f"{path} gives no net: {error}") from error


def read_subnetwork(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description and tensors of a file; SubnetworkError: it is missing, damaged, or no subnetwork."""
    try:
        if missing(path):
            raise FileNotFoundError
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(metadata.get(_KEY, "{}"))
        if (named := found.get("format")) != _FORMAT:
            raise ValueError(f"its format is {named!r:.50}, not {_FORMAT!r}")
        if found.get("checksum") != _checksum(found, tensors):
            raise ValueError("its content is not what its checksum is of")
        return dict(found), tensors
    except Exception as error:  # a file may hold anything
        why = missing(path) or f"it is damaged or no subnetwork: {error}"
        raise SubnetworkError(f"{path} cannot be read: {why}") from error


def _described(model: nn.Module, about: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Describe a hidden model as its file does; give the file's tensors too: coded masks, and buffers."""
    arguments, buffers = Hiding.of(model).arguments, _buffers(model)
    kept = {f"mask/{name}": mask.cpu().numpy() for name, mask in masks(model).items()}
    tensors = {name: torch.from_numpy(rice.encode(mask.reshape(-1))) for name, mask in kept.items()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in buffers.items()}
    dtypes = {t.dtype for t in (_weights(model) | buffers).values() if t.is_floating_point()}
    found: dict[str, Any] = {
        "format": _FORMAT,
        "hiding": arguments | {"masker": _name(arguments["masker"])},
        "fingerprint": fingerprint(model),
        # None: several, those of the model that loads it.
        "dtype": str(dtypes.pop()).removeprefix("torch.") if len(dtypes) == 1 else None,
        "shapes": {name: list(mask.shape) for name, mask in kept.items()},
        "about": dict(about),
    }
    found = json.loads(json.dumps(found))
    return found | {"checksum": _checksum(found, tensors)}, tensors


def _checksum(found: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    described = {name: value for name, value in found.items() if name != "checksum"}
    return _digest(dict(sorted(tensors.items())), json.dumps(described, sort_keys=True))


def _restored(model: nn.Module, found: dict[str, Any], tensors: dict[str, Tensor], masker: MakeMasker) -> nn.Module:
    """Hide a model as a file says; ValueError: it would not be saved as the same file."""
    if found["dtype"] is not None:
        model.to(getattr(torch, found["dtype"]))
    # A file without roles may be older than these: its net has none.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "only .* of the matrix weights")  # it was said when the net was hidden
        hide(model, **{"roles": {}} | found["hiding"] | {"masker": masker})
    own = {f"mask/{name}": layer.mask() for name, layer in maskers(model).items()}
    shapes = {name: list(mask.shape) for name, mask in own.items()}
    saved, about = found["shapes"], found["about"]
    for name in [*shapes, *saved]:
        if shapes.get(name) != saved.get(name):
            there, here = saved.get(name, "absent"), shapes.get(name, "absent")
            told = "".join(f", {key}={about[key]}" for key in ("net", *SHAPE) if key in about)
            name = name.removeprefix("mask/")
            raise ValueError(f"it is of another net{told}: layer '{name}' is {there} there, {here} here")
    for (name, mask), layer in zip(own.items(), maskers(model).values(), strict=True):
        kept = torch.from_numpy(rice.decode(tensors[name].numpy(), mask.numel()))
        layer.set_mask(kept.view(mask.shape).to(mask.device))
    for name, buffer in _buffers(model).items():
        buffer.copy_(tensors[f"buffer/{name}"])
    now = _described(model, about)[0]
    if now["fingerprint"] != found["fingerprint"]:
        why = "other embeddings or layers left unmasked, or a torch that draws others from the seeds"
        raise ValueError(f"its weights do not come back, their fingerprint would differ: {why}")
    if differ := [what for what in now if now[what] != found.get(what)]:
        raise ValueError(f"{' and '.join(differ)} would differ: other buffers, or a bad set_mask")
    return model


def _name(masker: MakeMasker) -> str:
    return getattr(masker, "__name__", repr(masker))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    learned = {id(p) for masker in maskers(model).values() for p in masker.parameters()}
    return {plain_name(name): p for name, p in model.named_parameters() if id(p) not in learned}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    lasting = model.state_dict().keys()  # the other buffers are made anew with the net
    return {name: buffer for name, buffer in model.named_buffers() if name in lasting}


def _digest(tensors: dict[str, Tensor], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
