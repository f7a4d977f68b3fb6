"""Edge-popup: search a random network for a subnetwork; never train its weights.

`hide` turns any model into one whose weights are random and frozen and whose scores learn which weights stay;
`reveal` gives the plain model back with the masked weights baked in.

Source: Ramanujan et al., arXiv:1911.13299, Section 3; the authors' code, `utils/conv_type.py`.
"""

import math
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lit_hidden.distributions import Scaled, check, draw, layer_generator
from lit_hidden.selection import kept, top_k_mask


class _Popup(torch.autograd.Function):
    """`weight * mask`; the gradient passes straight through the mask to every score."""

    @staticmethod
    def forward(weight: Tensor, scores: Tensor, keep: int) -> Tensor:
        # torch multiplies floats by bools through a conversion of its own that takes three times as long.
        return top_k_mask(scores, keep).to(weight.dtype).mul_(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        weight, scores, ctx.keep = inputs
        ctx.save_for_backward(weight, scores)  # not the mask: the straight-through gradient never needs it

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (weight, scores) = grads, ctx.saved_tensors
        to_weight = grad * top_k_mask(scores.detach(), ctx.keep) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_weight, None, None
        # The ranking is of |s|, so d|s|/ds brings in the sign; in place, but into a product that is batched if the
        # gradient is. At least in the scores' float32, where half-precision products would vanish.
        wide = torch.promote_types(weight.dtype, scores.dtype)
        to_scores = (grad.to(wide) * weight.to(wide)).mul_(scores.sign()).to(scores.dtype)
        return to_weight, to_scores, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None, None], *args: Any) -> tuple[Tensor, int]:
        weight, scores, keep = args

        def pick(tensor: Tensor, dim: int | None, i: int) -> Tensor:
            return tensor if dim is None else tensor.select(dim, i)

        models = [
            _Popup.apply(pick(weight, in_dims[0], i), pick(scores, in_dims[1], i), keep) for i in range(info.batch_size)
        ]
        return torch.stack(models), 0


def dtypes_kept(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make of what moves and casts tensors, as `nn.Module.to` does, what only moves them."""

    def moved(tensor: Tensor) -> Tensor:
        found = fn(tensor)
        return found if found.dtype == tensor.dtype else torch.empty_like(found, dtype=tensor.dtype).copy_(tensor)

    return moved


class Masker(nn.Module):
    """What every parametrization that hides a weight has in common: a density and a mask.

    Subclasses turn a `weight`, frozen unless `weights_learn`, into the effective one in `forward`, and say in `mask`
    which weights stay.
    """

    density: float
    weights_learn: bool = False  # as those of a ticket do; then no seed gives them back

    def mask(self) -> Tensor:
        """Tell which weights the subnetwork has now: bool, the weight's shape."""
        raise NotImplementedError

    def baked(self, weight: Tensor) -> Tensor:
        """Return the weights that `reveal` leaves behind."""
        return weight * self.mask()

    def set_mask(self, mask: Tensor) -> None:
        """Become one whose mask is `mask`, and from whose scores a search can go on; `load_subnetwork` asks for it.

        Raises:
            ValueError: there is more to this masker than its mask, as long as it does not say how that is done.
        """
        raise ValueError(f"{type(self).__name__} has no set_mask, so its mask alone does not give it back")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Masker":
        # Scores are float32 whatever the net is cast to: half precision rounds most updates away.
        super()._apply(dtypes_kept(fn), recurse)  # type: ignore[no-untyped-call]
        return self


class MakeMasker(Protocol):
    """A `Masker` class, or anything called like one."""

    def __call__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> Masker:
        """Build the masker of `weight`."""


class EdgePopup(Masker):
    """Keep the weights whose scores are largest in magnitude, zero the rest, learn only the scores.

    Shapes: `weight` is `(*)`, at least 2 dimensions; the result has its shape, dtype and layout and keeps exactly
    `numel - int((1 - density) * numel)` entries, the authors' rounding. Scores are float32, start Kaiming uniform
    (a = sqrt 5, that is U(+-1/sqrt(fan_in))), and get the gradient `dL/dw' * w * sign(s)`, masked or not.

    Args:
        weight: tensor to mask; only its shape, device and layout are read.
        density: fraction of weights kept, in (0, 1]. The paper's k.
        generator: CPU generator the scores are drawn from; the global one if None.

    Raises:
        ValueError: `density` lies outside (0, 1] or keeps not a single weight.
    """

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_density(density, weight.numel())
        self.density, self.keep = density, kept(weight.numel(), density)
        # Drawn row-major in float32 on the CPU, so that device, dtype and layout do not change the result.
        start = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
        start.uniform_(generator=generator).mul_(2).sub_(1).div_(math.sqrt(start[0].numel()))
        self.scores = nn.Parameter(torch.empty_like(weight, dtype=torch.float32).copy_(start))

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * mask`."""
        effective: Tensor = _Popup.apply(weight, self.scores, self.keep)
        return effective

    def mask(self) -> Tensor:
        """Tell which weights stay."""
        return top_k_mask(self.scores.detach(), self.keep)

    def set_mask(self, mask: Tensor) -> None:
        """Shrink the scores there are to above a threshold where a weight stays, and below it where not.

        Kaiming uniform scores are so again, with their signs, and in their order on either side.
        """
        scores, self.keep = self.scores.detach(), int(mask.sum())
        sizes = scores.abs().clamp_(min=1e-12)  # a score of 0 has no sign, and no gradient
        largest = sizes.amax()
        threshold = largest * (1 - self.keep / mask.numel())
        below = (sizes * (threshold / largest)).minimum(threshold.nextafter(torch.zeros_like(threshold)))
        sizes = torch.where(mask, threshold + sizes * (1 - threshold / largest), below)
        scores.copy_(sizes.copysign(scores))

    def extra_repr(self) -> str:
        """Say how much is kept, for `print(model)`."""
        return f"density={self.density}, keeps {self.keep} of {self.scores.numel()}"


@dataclass(frozen=True)
class Hiding:
    """How a model was hidden: the arguments of `hide`, and what `reveal` has to undo."""

    density: float
    distribution: str | None
    scaled: Scaled
    weight_seed: int
    score_seed: int
    skip: tuple[str, ...]
    masker: MakeMasker
    frozen: tuple[str, ...]  # parameters that wanted a gradient before


def check_density(density: float, numel: int) -> None:
    """Refuse a density outside (0, 1], and one so small that nothing stays.

    Raises:
        ValueError: as said.
    """
    if not 0 < density <= 1 or kept(numel, density) == 0:
        count = kept(numel, density) if math.isfinite(density * numel) else "no meaningful number"
        raise ValueError(
            f"density={density} keeps {count} of {numel} weights; "
            "density is the fraction kept and must lie in (0, 1] and keep at least one"
        )


def hidden_layers(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Map the layers hidden in `model` to (module, attribute of the weight), in the order of `named_modules`."""
    return {
        _layer(name, attribute): (module, attribute)
        for name, module in model.named_modules()
        if "parametrizations" in module._modules  # not a compiled wrapper, which passes on what the module inside has
        for attribute, chain in module.parametrizations.items()
        if isinstance(chain[0], Masker)
    }


def maskers(model: nn.Module) -> dict[str, Masker]:
    """Map the layers hidden in `model` to their maskers, in the order of `named_modules`; empty if none are."""
    return {name: weight_chain(*place)[0] for name, place in hidden_layers(model).items()}


def original_weight(model: nn.Module, layer: str) -> Tensor:
    """Return the frozen random weight `(out, in, *kernel)` under the mask of `layer`.

    Raises:
        ValueError: `layer` is not hidden.
    """
    layers = hidden_layers(model)
    if layer not in layers:
        raise ValueError(f"layer {layer!r} is not hidden; hidden layers are {list(layers)}")
    original: Tensor = weight_chain(*layers[layer]).original
    return original


def weight_chain(module: nn.Module, attribute: str) -> Any:
    """Return the parametrizations of a hidden weight: the masker is the first, the weight under it is `original`."""
    return module.parametrizations[attribute]  # type: ignore[index]


def hide(
    model: nn.Module,
    density: float = 0.5,
    *,
    distribution: str | None = "signed_constant",
    scaled: Scaled = False,
    seed: int = 0,
    weight_seed: int | None = None,
    score_seed: int | None = None,
    skip: Collection[str] = (),
    masker: MakeMasker = EdgePopup,
) -> nn.Module:
    """Draw and freeze the weights of `model` and put a masker on each convolution, linear and attention weight.

    In place; returns `model`. Afterwards only the scores want a gradient: norm layers are non-affine (weight 1,
    bias 0), biases are 0, whatever else the model holds (embeddings, class tokens) stays frozen as it came. The same
    model, not hidden, is the dense baseline. A call that fails leaves the model as it was; the global random state
    is never touched.

    Args:
        model: any module. A module used in several places shares its mask as it shares its weight.
        density: fraction of each layer's weights kept, in (0, 1]; first and last layers too.
        distribution: what the weights are drawn from, see `lit_hidden.distributions`; None keeps those there are.
        scaled: multiply the weights by `1/sqrt(density)`; "authors": by `1/sqrt(1 - density)`, as their code does.
        seed: gives the weight seed and the score seed; every layer draws from (seed, its name).
        weight_seed: the weight seed alone.
        score_seed: the score seed alone.
        skip: layers left unmasked, with the weights they have, frozen.
        masker: `EdgePopup`, or a sibling such as `lit_hidden.supermask.Supermask`.

    Raises:
        ValueError: the model is hidden already or has nothing to hide; `skip` names an unknown layer; a weight is
            tied, complex, not yet initialised, or owned by another parametrization; density, distribution or
            `scaled` are not allowed; the masker changes shape or dtype.
        TypeError: `masker` gives no `Masker`.
    """
    if there := maskers(model):
        raise ValueError(f"already hidden: {_names(there)}; reveal(model) first, or hide a fresh model")
    if isinstance(skip, str):
        raise ValueError(f"skip={skip!r} is one string; give a list of layers, such as [{skip!r}]")
    layers = weight_layers(model)
    if not layers:
        raise ValueError(f"nothing to hide: {type(model).__name__} has no convolution, linear or attention weight")
    if unknown := sorted(set(skip) - layers.keys()):
        raise ValueError(f"skip names no layer: {_names(unknown)}; layers are {_names(layers)}")
    layers = {name: place for name, place in layers.items() if name not in skip}
    if not layers:
        raise ValueError(f"nothing to hide: skip names every layer of {type(model).__name__}")
    if inference := [name for name, p in model.named_parameters() if not nn.parameter.is_lazy(p) and p.is_inference()]:
        raise ValueError(
            f"{_names(inference)} were made in inference mode, where nothing can learn; build the model outside it"
        )
    weights = {name: _hideable(model, name, *place) for name, place in layers.items()}
    weight_seed = seed if weight_seed is None else weight_seed
    score_seed = seed if score_seed is None else score_seed
    for weight in weights.values():
        check_density(density, weight.numel())
    if distribution is not None:
        check(distribution, scaled, density)

    # Everything is built and tried before anything changes, so that an error leaves the model as it was.
    drawn = {} if distribution is None else {
        name: draw(w.shape, distribution, layer_generator(weight_seed, "weights", name), density, scaled)
        for name, w in weights.items()
    }  # fmt: skip
    built = {}
    for name, weight in weights.items():
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            built[name] = masker(weight.clone(), density, generator=layer_generator(score_seed, "scores", name))
            if not isinstance(built[name], Masker) or hasattr(built[name], "right_inverse"):
                raise TypeError(
                    f"masker {masker_name(masker)} gives a {type(built[name]).__name__}; "
                    "it must give a Masker without right_inverse"
                )
            effective = built[name](weight.clone())
        if effective.shape != weight.shape or effective.dtype != weight.dtype:
            raise ValueError(
                f"masker {masker_name(masker)} turns {name} from {tuple(weight.shape)} {weight.dtype} into "
                f"{tuple(effective.shape)} {effective.dtype}; it must keep shape and dtype"
            )

    frozen = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    before = [(p, p.requires_grad, p.detach().clone()) for p in model.parameters() if not nn.parameter.is_lazy(p)]
    try:
        model.requires_grad_(False)
        _neutralise(model, {id(layers[name][0]) for name in layers})
        for name, (module, attribute) in layers.items():
            if name in drawn:
                with torch.no_grad():
                    weights[name].copy_(drawn[name])
            parametrize.register_parametrization(module, attribute, built[name], unsafe=True)  # tried above
    except BaseException:
        for module, attribute in layers.values():
            if parametrize.is_parametrized(module, attribute):
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        for parameter, wanted, value in before:
            parameter.requires_grad_(wanted)
            with torch.no_grad(), suppress(RuntimeError):  # what cannot be written to has not been
                parameter.copy_(value)
        raise
    model._lit_hidden = Hiding(  # type: ignore[assignment]
        density, distribution, scaled, weight_seed, score_seed, tuple(sorted(skip)), masker, frozen
    )
    return model


def reveal(model: nn.Module) -> nn.Module:
    """Bake the masked weights in and take the maskers off: a plain module again, which pickles and exports.

    In place; returns `model`. What wanted a gradient before `hide` wants one again, so the result can be trained.
    Norm layers keep the weight 1 and bias 0 they had while hidden, biases their 0. A sampled supermask is baked as
    its most probable mask.

    Raises:
        ValueError: nothing is hidden in `model`.
    """
    layers = hidden_layers(model)
    if not layers:
        raise ValueError(f"nothing is hidden in this {type(model).__name__}; reveal undoes hide(model)")
    for module, attribute in layers.values():
        masker = weight_chain(module, attribute)[0]
        # A deep copy shares the class from which torch deletes the property: give this module its own.
        shared = type(module)
        module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        with torch.no_grad():
            weight = getattr(module, attribute)
            weight.copy_(masker.baked(weight))
    parameters = dict(model.named_parameters())
    hiding = model.__dict__.pop("_lit_hidden", None)
    for name in hiding.frozen if hiding else ():
        if name in parameters:  # not a layer that was swapped since
            parameters[name].requires_grad_(True)
    return model


def _layer(module: str, weight: str) -> str:
    # A layer is one weight tensor; `conv1`, `attention.in_proj_weight`, and `weight` for a lone nn.Linear.
    # torch.compile wraps modules under a name of its own, on which the draw must not depend.
    name = ".".join(part for part in f"{module}.{weight}".split(".") if part not in ("", "_orig_mod"))
    return name.removesuffix(".weight")


def weight_layers(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Map the layers that can be hidden to (module, attribute of the weight), in the order of `named_modules`."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for name, module in model.named_modules():
        attributes: tuple[str, ...] = ()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            attributes = ("weight",)
        elif isinstance(module, nn.MultiheadAttention):  # its out_proj is an nn.Linear, found by itself
            attributes = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        for attribute in attributes:
            if attribute == "weight" or getattr(module, attribute, None) is not None:
                found[_layer(name, attribute)] = module, attribute
    return found


def _hideable(model: nn.Module, name: str, module: nn.Module, attribute: str) -> nn.Parameter:
    """Return the parameter behind a layer, or say why it cannot be hidden."""
    weight = module._parameters.get(attribute)
    if weight is None:
        raise ValueError(
            f"{name} has no plain weight parameter: another parametrization, pruning or weight norm owns it; "
            "remove that first, or skip the layer"
        )
    if nn.parameter.is_lazy(weight) or weight.is_meta:
        raise ValueError(f"{name} is not initialised yet; run one forward pass or materialise it before hiding")
    if weight.is_complex():
        raise ValueError(f"{name} has complex weights ({weight.dtype}), which have no sign to learn by; skip the layer")
    owners = [
        f"{n}.{p}".removeprefix(".")
        for n, m in model.named_modules()
        for p, other in m._parameters.items()
        if other is weight or (other is not None and _overlap(other, weight))
    ]
    if len(owners) > 1:
        raise ValueError(
            f"tied weights: {' and '.join(owners)} are one parameter, which cannot have two masks; "
            "untie them (clone one), or skip the layer"
        )
    return weight


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors share memory, as views of one storage may."""
    if nn.parameter.is_lazy(a) or a.is_meta or a.layout != torch.strided:
        return False
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False

    def places(t: Tensor) -> Tensor:  # of its elements in the storage
        size = 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
        return torch.arange(size).as_strided(t.shape, t.stride()) + int(t.storage_offset())

    return bool(torch.isin(places(a), places(b)).any().item())


def _neutralise(model: nn.Module, masked: set[int]) -> None:
    """Set norm layers to weight 1 and bias 0, and the biases of masked layers to 0."""
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    with torch.no_grad():
        for module in model.modules():
            parameters = module._parameters
            if isinstance(module, norms):
                if parameters.get("weight") is not None:
                    parameters["weight"].fill_(1)  # type: ignore[union-attr]
                if parameters.get("bias") is not None:
                    parameters["bias"].zero_()  # type: ignore[union-attr]
            elif id(module) in masked:
                for name in ("bias", "in_proj_bias", "bias_k", "bias_v"):
                    if parameters.get(name) is not None:
                        parameters[name].zero_()  # type: ignore[union-attr]


def masker_name(masker: MakeMasker) -> str:
    """Name a masker for people and files: `EdgePopup`, or `Supermask(rescale=True)` of a partial."""
    if isinstance(masker, partial):
        return f"{masker_name(masker.func)}({', '.join(f'{k}={v!r}' for k, v in masker.keywords.items())})"
    return getattr(masker, "__name__", type(masker).__name__)


def _names(names: Collection[str], most: int = 8) -> str:
    shown = ", ".join(list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
