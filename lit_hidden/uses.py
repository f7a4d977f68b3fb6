"""What a model does with the parameters that the types of its layers do not explain, seen in one forward pass.

A role is "gain" (it multiplies a branch, as LayerScale does), "drawn" (a table that is added or looked up: positions,
class tokens), or, of a matrix weight, a letter for each axis: `i` is summed over, `o` counts units, `e` counts experts.
nn.Linear's weight is "oi", transformers' Conv1D's "io".
"""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lit_hidden.distributions import DISTRIBUTIONS, Scaled, draw

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_MATRICES = (nn.Bilinear, nn.RNNBase, nn.RNNCellBase)  # (out, in)
_BIASED = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
Places = dict[str, tuple[nn.Module, str]]  # name -> module and attribute of a parameter
Call = Callable[[dict[str, Tensor]], Any]
Axes = Sequence[tuple[int, int, int]]  # stride, size and number of each axis of a parameter

# (operation, place of an argument) -> dimension of this argument that is summed over
_SUMMED = {
    ("mm", 0): -1, ("mm", 1): -2, ("addmm", 1): -1, ("addmm", 2): -2, ("bmm", 0): -1, ("bmm", 1): -2, ("mv", 0): -1,
    ("baddbmm", 1): -1, ("baddbmm", 2): -2, ("addmv", 1): -1, ("linear", 1): -1, ("_grouped_mm", 1): -2,
}  # fmt: skip
_GAINS = {("mul", 0), ("mul", 1), ("addcmul", 1), ("addcmul", 2), ("native_layer_norm", 2), ("native_group_norm", 1),
          ("native_batch_norm", 1), ("_native_batch_norm_legit_no_training", 1), ("_fused_rms_norm", 2)}  # fmt: skip
_COPIES = ("clone", "_to_copy", "contiguous", "mul", "div")  # mul and div by a number
_TABLES = ("add", "sub", "addcmul", "cat", "stack", "index", "index_select", "embedding", "gather", "where", "copy",
           "native_layer_norm", "roll", "constant_pad_nd", "upsample_bicubic2d", "_upsample_bicubic2d_aa")  # fmt: skip
_RANKS = {"": 0, "drawn": 1, "gain": 2, "function": 3}  # the highest counts; of a matrix 4
NEAR = 1e-3  # of what shuts a branch
# From the product of a gain to the softmax of attention, which makes the gain a temperature.
_TO_SOFTMAX = ("add", "sub", "mul", "div", "bmm", "where", "masked_fill", "clone", "_to_copy")


@dataclass(frozen=True)
class _Note:
    """What is known of a tensor: which parameter it is a view or a copy of, and what has gone into it."""

    parameter: nn.Parameter | None = None
    axes: Axes = ()
    alone: bool = False  # whether parameters alone give it
    gains: frozenset[int] = frozenset()  # ids of those that it was multiplied by


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow `parameters` through views and copies to the operations that use them; `roles` says what was seen."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.roles: dict[int, str] = {}  # by the parameter's id
        self.notes: Any = WeakTensorKeyDictionary()
        for p in parameters:
            self.notes[p] = _Note(p, [(p.stride(a), n, a) for a, n in enumerate(p.shape)], alone=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note what it does with parameters."""
        out = func(*args, **(kwargs or {}))
        op = func._schema.name.removeprefix("aten::").rstrip("_")
        flat = [(n, t) for n, a in enumerate(args) for t in (a if isinstance(a, (list, tuple)) else (a,))]
        given = [(n, t, self.notes.get(t, _Note())) for n, t in flat if isinstance(t, Tensor)]
        made = [t for t in (out if isinstance(out, (list, tuple)) else (out,)) if isinstance(t, Tensor)]
        if not given or not made:
            return out
        (_, first, note), gains = given[0], frozenset[int]().union(*(one.gains for _, _, one in given))
        if note.parameter is not None and op in _COPIES and len(given) == 1 and made[0].shape == first.shape:
            there = [(d, axis) for d in range(first.ndim) for axis in _covered(first, d, note.axes)]
            note = replace(note, axes=[(made[0].stride(d), first.shape[d], axis) for d, axis in there])
        elif not (func.is_view or op == "_unsafe_view"):  # a view has the note of its base
            alone = all(one.alone for _, _, one in given)
            used = [(n, t, one.parameter, one.axes) for n, t, one in given if one.parameter is not None]
            roles = {id(p): _role(op, n, t, p.shape, axes, alone) for n, t, p, axes in used}
            if op == "_softmax" or "scaled_dot_product" in op:
                self.roles |= dict.fromkeys(gains, "function")
            if op not in _TO_SOFTMAX or (roles and op == "bmm"):
                gains = frozenset()
            note = _Note(None, (), alone, gains | {p for p, role in roles.items() if role == "gain"})
            for p, role in roles.items():
                self.roles[p] = max(self.roles.get(p, ""), role, key=lambda one: _RANKS.get(one, 4))
        self.notes.update((t, note) for t in made)
        return out


def _role(op: str, place: int, tensor: Tensor, shape: torch.Size, axes: Axes, alone: bool) -> str:
    """Tell what an operation does with a view `tensor` of a parameter of `shape`; `alone`: with parameters only."""
    many = sum(n > 1 for n in shape)
    if op == "convolution" and place == 1 and not alone:
        units = _covered(tensor, 0, axes) or [0] * (len(tensor) == 1)  # an axis of size 1 covers nothing
        letters = ["o" if a in units else "i" for a in range(len(shape))]
        if {"o", "i"} <= set(letters):
            return "".join(letters)
        return "gain" if many < 2 and tensor[0].numel() == 1 else "function"  # a scale per channel; a blur
    if (op, place) in _SUMMED and many > 1 and not alone:
        there = [_covered(tensor, d, axes) for d in range(tensor.ndim)]
        inside, batch = there[_SUMMED[op, place]], there[0] if tensor.ndim == 3 else []
        outside = {a for d in there for a in d} - {*inside, *batch}
        letters = ["i" if a in inside else "o" if a in outside or n == 1 else "e" for a, n in enumerate(shape)]
        return "".join(letters) if "o" in letters else "function"
    # The gain of a weight that is normalised first, as NFNet's, meets parameters alone.
    if (op, place) in _GAINS and many < 2 and not (alone and "norm" not in op):
        return "gain"
    return "drawn" if op in _TABLES or (op, place) in _SUMMED else "function"


def _covered(tensor: Tensor, dimension: int, axes: Axes) -> list[int]:
    """Return the axes of a parameter that a dimension of a view of it moves along: those whose strides overlap."""
    step, size = tensor.stride(dimension), tensor.shape[dimension]
    return [a for stride, n, a in axes if n > 1 and size > 1 and step < stride * n and stride < step * size]


def _varied(like: Tensor, *shape: int) -> Tensor:
    return torch.linspace(0, 99, math.prod(shape), device=like.device).cos().view(shape).to(like.dtype)


def _inputs(model: nn.Module) -> Iterator[Any]:
    """Guess inputs `(2, ...)` of a model from its first layer."""
    sizes = [32, 64, *(getattr(m, "img_size", None) or getattr(m, "image_size", None) for m in model.modules()), 224]
    configured = getattr(model, "default_cfg", None)
    sizes += [configured["input_size"][-1]] if isinstance(configured, dict) and "input_size" in configured else []
    sides = dict.fromkeys(s[0] if isinstance(s, (tuple, list)) else s for s in sizes if s is not None)
    like = next(p for p in model.parameters() if p.is_floating_point())
    for m in model.modules():
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag)):
            yield torch.arange(16, device=like.device).view(2, 8) % m.num_embeddings
        elif isinstance(m, nn.modules.conv._ConvNd):
            for side in (s for s in sides if isinstance(s, int)):
                yield _varied(like, 2, m.in_channels, *[side] * len(m.kernel_size))
        elif isinstance(m, (nn.RNNBase, nn.RNNCellBase)):
            yield from (_varied(like, *shape, m.input_size) for shape in ((2, 8), (2,)))
        elif isinstance(m, nn.Linear):
            yield from (_varied(like, *shape, m.in_features) for shape in ((2,), (2, 8)))
        else:
            continue
        return
    for side in (s for p in model.parameters() for s in p.shape):  # no layer that torch knows
        yield from (_varied(like, *shape, side) for shape in ((2,), (2, 8)))


def quoted(names: Collection[str]) -> str:
    """Name layers in a message, the first 12."""
    return ", ".join([*map(repr, islice(names, 12)), *(["..."] if len(names) > 12 else [])])


def roles(model: nn.Module, places: Places, embeddings: bool, strict: bool, example: Any) -> dict[str, str]:
    """Map the parameters at `places` to their roles, see `hide`; one that stays as it is has none.

    Only what no type explains makes the model run, without any other effect. What stays and is near 0 makes it run
    backward too: it is a gain, whatever else is done with it, if the gradients of weights show that it shuts a branch.
    """
    found: dict[str, str] = {}
    unknown: dict[str, nn.Parameter] = {}
    near: dict[str, nn.Parameter] = {}
    for name, (module, attribute) in places.items():
        parameter = module.get_parameter(attribute)
        if not parameter.requires_grad or isinstance(module, (*NORMS, nn.PReLU)):
            continue
        if isinstance(module, _EMBEDDINGS):
            found[name] = "oi" if embeddings else "drawn"
        elif isinstance(module, _MATRICES) and "weight" in attribute:
            found[name] = "o" + "i" * (parameter.ndim - 1)
        elif not (isinstance(module, (*_MATRICES, *_BIASED)) and "bias" in attribute):
            unknown[name] = parameter
    if not unknown:
        return found
    inside = getattr(model, "_orig_mod", model)
    try:
        seen = _run(inside, example, partial(_watch, list(inside.parameters())))
    except ValueError as error:
        said = f"{quoted(unknown)}: not known what {type(model).__name__} does with them, so they stay: give example="
        said += f"; {error}"
        if strict or example is not None:
            raise ValueError(said) from error
        warnings.warn(said, stacklevel=3)
        return found
    for name, p in unknown.items():
        role, first = seen.get(id(p), "drawn"), p.detach().flatten()[0]
        constant = bool((p == first).all())
        # A constant of 1 or more stops nothing; equal values are no table that was drawn.
        if not (role == "function" or (constant and (role == "drawn" or (role == "gain" and abs(first) >= 1)))):
            found[name] = role
        elif p.abs().max() < NEAR and sum(n > 1 for n in p.shape) < 2:
            near[name] = p
    gains = [unknown[name] for name, role in found.items() if role == "gain"]
    if near:
        with suppress(ValueError):  # a model whose outputs have no gradient
            found |= dict.fromkeys(_run(inside, example, partial(_shut, inside, near, gains)), "gain")
    return found


def _run(model: nn.Module, example: Any, look: Callable[[Call], Any]) -> Any:
    """Return `look(call)` in eval mode, where `call(others)` runs `model` with other parameters; ValueError: none runs.

    The input is `example`, or the first guess that the model takes. Nothing is left in buffers or the random state.
    """
    devices, modes = {p.device for p in model.parameters() if p.is_cuda}, {m: m.training for m in model.modules()}
    why = "no input is known"
    for given in [example] if example is not None else _inputs(model):
        named = given if isinstance(given, dict) else {}
        places = () if named else given if isinstance(given, tuple) else (given,)

        def call(others: dict[str, Tensor], places: Any = places, named: Any = named) -> Any:
            buffers = {name: b.clone() for name, b in model.named_buffers()}
            return torch.func.functional_call(model, buffers | others, places, named)

        try:
            model.eval()
            with torch.random.fork_rng(devices=list(devices)):
                return look(call)
        except Exception as error:  # of the model's own
            why = f"on an input {[tuple(x.shape) for x in tree_leaves(given) if isinstance(x, Tensor)]}, {error!r:.300}"
        finally:
            for m, mode in modes.items():
                m.training = mode
    raise ValueError(why)


def _watch(parameters: list[nn.Parameter], call: Call) -> dict[int, str]:
    """Return the roles of parameters by their id."""
    watch = _Watch(parameters)
    with torch.no_grad(), watch:
        call({})
    return watch.roles


def _shut(model: nn.Module, near: dict[str, nn.Parameter], gains: list[nn.Parameter], call: Call) -> list[str]:
    """Name the parameters near 0 that shut a branch: with 1 in their place some weight's gradient grows 1000-fold."""
    names, weights = {id(p): n for n, p in model.named_parameters()}, [p for p in model.parameters() if _wide(p)]

    def gradients(*ones: nn.Parameter) -> list[float]:
        with torch.enable_grad():
            out = tree_leaves(call({names[id(p)]: torch.ones_like(p) for p in (*gains, *ones)}))
            loss = sum((_varied(t, *t.shape) * t).sum() for t in out if isinstance(t, Tensor) and t.requires_grad)
            found = torch.autograd.grad([torch.as_tensor(loss)], weights, allow_unused=True)
        return [0.0 if gradient is None else float(gradient.norm()) for gradient in found]

    def grows(before: list[float], after: list[float]) -> bool:
        return any(y > 1e3 * x for x, y in zip(before, after, strict=True))

    before, after = gradients(), gradients(*near.values())  # gates in series open together alone
    others = {name: [other for other in near.values() if other is not p] for name, p in near.items()}
    return [n for n, p in near.items() if grows(before, gradients(p)) or grows(gradients(*others[n]), after)]


def check_share(places: Places, taken: Collection[str], strict: bool) -> None:
    """Warn if less than 90% of the matrix weights that learnt are in the `taken` places; ValueError if `strict`."""
    parameters = {name: module.get_parameter(attribute) for name, (module, attribute) in places.items()}
    sizes = {id(p): (name, p.numel()) for name, p in parameters.items() if _wide(p)}  # a tied weight counts once
    done = {id(p) for name, p in parameters.items() if name in taken}
    left = dict(size for key, size in sizes.items() if key not in done)
    share = 1 - sum(left.values()) / max(1, sum(n for _, n in sizes.values()))
    if share < 0.9:
        said = f"only {share:.0%} of the matrix weights are hidden; not: {quoted(left)}. embeddings=True hides"
        said += " embeddings, roles= other parameters; skip= says that they are meant to stay"
        if strict:
            raise ValueError(said)
        warnings.warn(said, stacklevel=3)


def _wide(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and sum(n > 1 for n in parameter.shape) > 1


def as_rows(weight: Tensor, role: str) -> tuple[Tensor, int]:
    """Return a weight as nn.Linear has it, `(e * o, *i)`, and the number of experts e, 1 if they are none."""
    if len(role) != weight.ndim or not {"o", "i"} <= set(role) <= set("eoi"):
        raise ValueError(f"role {role!r} of a weight {tuple(weight.shape)} cannot be: 'gain', 'drawn', or like 'io'")
    count = math.prod(n for n, letter in zip(weight.shape, role, strict=True) if letter == "e")
    return weight.permute(_order(role)).flatten(0, len(role) - role.count("i") - 1), count


def from_rows(rows: Tensor, weight: Tensor, role: str) -> Tensor:
    """Undo `as_rows`: return `rows` in the layout of `weight`."""
    order = _order(role)
    if order == sorted(order):
        return rows.reshape(weight.shape)
    back = rows.reshape([weight.shape[a] for a in order]).permute([order.index(a) for a in range(len(order))])
    return torch.empty_like(weight, dtype=rows.dtype).copy_(back)


def drawn(
    weight: Tensor, role: str, distribution: str, generator: torch.Generator, density: float, scaled: Scaled
) -> Tensor:
    """Draw float32 weights in the layout of `weight`, each expert's by itself; arguments as of `draw`."""
    rows, experts = as_rows(weight, role)
    shape = torch.Size((len(rows) // experts, *rows.shape[1:]))
    each = [draw(shape, distribution, generator, density, scaled) for _ in range(experts)]
    return from_rows(torch.cat(each), weight, role)


def _order(role: str) -> list[int]:
    return sorted(range(len(role)), key=lambda axis: "eoi".index(role[axis]))


def fill(module: nn.Module, attribute: str, role: str, generator: torch.Generator) -> None:
    """Set a gain to 1; draw a table."""
    parameter = module.get_parameter(attribute)
    if role == "gain":
        nn.init.ones_(parameter)
        return
    std = 1.0 if isinstance(module, _EMBEDDINGS) else 0.02
    parameter.copy_(DISTRIBUTIONS["kaiming_normal"](parameter.shape, std, generator))
    if isinstance(padding := getattr(module, "padding_idx", None), int):
        nn.init.zeros_(parameter[padding])
