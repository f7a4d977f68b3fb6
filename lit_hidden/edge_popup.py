"""Edge-popup: search a random network for a subnetwork; never train its weights.

`hide` gives any model random, frozen weights and scores that learn which weights stay. `reveal` gives the plain model
back with the masked weights baked in.

Source: Ramanujan et al., arXiv:1911.13299, Section 3; the authors' code, `utils/conv_type.py`.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_hidden import parametrized, uses
from lit_hidden.distributions import Scaled, layer_generator
from lit_hidden.selection import kept, top_k_mask

_WEIGHTS: dict[Any, tuple[str, ...]] = {  # of layers that torch knows
    (nn.modules.conv._ConvNd, nn.Linear): ("weight",),
    (nn.MultiheadAttention,): ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),  # and a Linear
}

OfScores = Callable[[Tensor], Tensor]


class Masked(torch.autograd.Function):
    """`weight * mask(scores)`; backward as if the derivative of the mask by the scores were `slope(scores)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, scores: Tensor, mask: OfScores, slope: OfScores) -> Tensor:
        """Return the masked weight."""
        # torch's product of floats and bools takes three times as long.
        return mask(scores).to(weight.dtype).mul_(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, OfScores, OfScores], output: Tensor) -> None:
        """Save the inputs; not the mask, which the straight-through gradient never needs."""
        weight, scores, ctx.mask, ctx.slope = inputs
        ctx.save_for_backward(weight, scores)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Return the gradients by weight and scores."""
        (grad,), (weight, scores) = grads, ctx.saved_tensors
        to_weight = grad * ctx.mask(scores) if ctx.needs_input_grad[0] else None
        # At least float32, since half-precision products would vanish.
        wide = torch.promote_types(weight.dtype, scores.dtype)
        to_scores = (grad.to(wide) * weight.to(wide)).mul_(ctx.slope(scores)).to(scores.dtype)
        return to_weight, to_scores, None, None


def dtypes_kept(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap what moves and casts tensors, as `nn.Module.to` does, so that it only moves them."""

    def moved(tensor: Tensor) -> Tensor:
        found = fn(tensor)
        return found if found.dtype == tensor.dtype else torch.empty_like(found, dtype=tensor.dtype).copy_(tensor)

    return moved


class Masker(nn.Module):
    """A parametrization that hides a weight: `forward` masks the weight, `mask` tells what stays."""

    def mask(self) -> Tensor:
        """Tell which weights stay now: bool, the weight's shape."""
        raise NotImplementedError

    def baked(self, weight: Tensor) -> Tensor:
        """Return the weights that `reveal` leaves behind."""
        return weight * self.mask()

    def set_mask(self, mask: Tensor) -> None:
        """Take `mask` over, with scores from which a search can go on; `load_subnetwork` calls it."""
        raise ValueError(f"{type(self).__name__} has no set_mask, so its mask alone does not give it back")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Masker":
        # Scores stay float32 when the net is cast: half precision rounds most updates away.
        super()._apply(dtypes_kept(fn), recurse)  # type: ignore[no-untyped-call]
        return self


MakeMasker = Callable[..., Masker]  # a class of maskers, or anything that is called like `EdgePopup`


class Scored(Masker):
    """A masker with float32 scores, Kaiming uniform at first (a = sqrt 5, that is U(+-1/sqrt(fan_in))).

    Args:
        weight: tensor to mask, at least 2 dimensions; only its shape, device and layout are read.
        density: fraction of weights kept, in (0, 1], at least one (else ValueError). The paper's k.
        generator: CPU generator of the scores; None: the global one.
    """

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        kept(weight.numel(), density)  # refuses a density
        # Drawn row-major in float32 on the CPU: the same scores for every device, dtype and layout.
        start = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
        start.uniform_(generator=generator).mul_(2).sub_(1).div_(math.sqrt(start[0].numel()))
        self.scores = nn.Parameter(torch.empty_like(weight, dtype=torch.float32).copy_(start))


class EdgePopup(Scored):
    """Keep the weights whose scores are largest in magnitude, zero the rest, learn only the scores.

    Exactly `keep = numel - int((1 - density) * numel)` weights stay, the authors' rounding. Scores get the gradient
    `dL/dw' * w * sign(s)`, masked or not.
    """

    def __init__(self, weight: Tensor, density: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(weight, density, generator=generator)
        self.keep = kept(weight.numel(), density)

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * mask`."""
        # The sign is d|s|/ds: |s| is ranked.
        effective: Tensor = Masked.apply(weight, self.scores, self.chosen, torch.sign)
        return effective

    def chosen(self, scores: Tensor) -> Tensor:
        """Tell which scores are large enough to stay: bool, of their shape."""
        return top_k_mask(scores, self.keep)

    def mask(self) -> Tensor:
        """Tell which weights stay."""
        return self.chosen(self.scores.detach())

    def set_mask(self, mask: Tensor) -> None:
        """Halve the scores; move those of the weights that stay away from 0, beyond all others."""
        scores, self.keep = self.scores.detach(), int(mask.sum())
        sizes = scores.abs().clamp_(min=1e-12) / 2  # a score of 0 has no sign, and no gradient
        scores.copy_((sizes + mask * 1.1 * sizes.amax()).copysign(scores))


@dataclass(frozen=True)
class Hiding:
    """How a model was hidden."""

    arguments: dict[str, Any]  # of `hide`; they hide an equal model alike
    frozen: tuple[str, ...]  # parameters that wanted a gradient before

    @staticmethod
    def of(model: nn.Module) -> "Hiding":
        """Return how `model` was hidden; ValueError if it is not."""
        if not isinstance(hiding := getattr(model, "_lit_hidden", None), Hiding):
            raise ValueError(f"this {type(model).__name__} is not hidden; hide(model) comes first")
        return hiding

    def thaw(self, model: nn.Module) -> None:
        """Let the parameters of `model` want a gradient that wanted one before `hide`."""
        for name, parameter in model.named_parameters():
            # A hidden `conv1.weight` is called `conv1.parametrizations.weight.original`.
            if name.replace("parametrizations.", "").removesuffix(".original") in self.frozen:
                parameter.requires_grad_(True)


def hidden_layers(model: nn.Module) -> dict[str, tuple[Any, str]]:
    """Map the layers hidden in `model` to (module, attribute of the weight), in the order of `named_modules`."""
    return {
        _layer(name, attribute): (module, attribute)
        for name, module in model.named_modules()
        if "parametrizations" in module._modules  # hasattr is True of a compiled wrapper too
        for attribute, chain in module.parametrizations.items()
        if isinstance(chain[0], Masker)
    }


def maskers(model: nn.Module) -> dict[str, Masker]:
    """Map the layers hidden in `model` to their maskers, in the order of `named_modules`; empty if none are."""
    return {name: module.parametrizations[attribute][0] for name, (module, attribute) in hidden_layers(model).items()}


def original_weight(model: nn.Module, layer: str) -> Tensor:
    """Return the random weight `(out, in, *kernel)` under the mask of `layer`; KeyError if it is not hidden."""
    module, attribute = hidden_layers(model)[layer]
    original: Tensor = module.parametrizations[attribute].original
    return original


def weight_layers(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Map the layers that can be hidden to (module, attribute of the weight), in the order of `named_modules`."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for name, module in model.named_modules():
        known = next((names for kinds, names in _WEIGHTS.items() if isinstance(module, kinds)), ())
        present = [attribute for attribute in known if getattr(module, attribute) is not None]
        found |= {_layer(name, attribute): (module, attribute) for attribute in present}
    return found


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
    embeddings: bool = False,
    strict: bool = False,
    example: Any = None,
    roles: Mapping[str, str] | None = None,
) -> nn.Module:
    """Draw and freeze the weights of `model` and put a masker on each weight that is a matrix.

    In place; returns `model`. Only the scores want a gradient. Layers that torch knows (convolution, linear, bilinear,
    attention, recurrent) are found by type. If the model has other parameters, it is run once to see what they do, see
    `lit_hidden.uses`: matrices are hidden too (Conv1D, stacked experts), gains of branches become 1. Norm layers get
    weight 1 and bias 0, hidden layers bias 0. Embeddings are drawn from N(0, 1) and tables (positions, class tokens)
    from N(0, 0.02^2), all else is frozen as it came. A call that is refused changes nothing; the global random state is
    neither touched nor read.

    Args:
        model: any module. A module used in several places shares its mask as it shares its weight.
        density: fraction of each layer's weights kept, in (0, 1]; first and last layers too.
        distribution: what the weights are drawn from, see `lit_hidden.distributions`; None keeps those of the model.
        scaled: multiply the weights by `1/sqrt(density)`; "authors": by `1/sqrt(1 - density)`, as their code does.
        seed: gives the seeds that are None; every layer draws from (seed, its name).
        weight_seed: seed of the weights.
        score_seed: seed of the scores.
        skip: layers, embeddings and other parameters left unmasked, frozen with the values they have.
        masker: `EdgePopup`, or a sibling such as `lit_hidden.supermask.Supermask`.
        embeddings: hide embeddings too; their rows are units, fan-in is the embedding's length.
        strict: refuse the model if less than 90% of its matrix weights can be hidden, instead of a UserWarning.
        example: an input of the model, a tuple or a dictionary of inputs; None: one is guessed from its first layer.
        roles: of parameters that no type explains, by name; None: found by running the model, see `lit_hidden.uses`.

    ValueError: the model is hidden already, a layer is unknown or cannot be hidden, or a value is not allowed.
    """
    layers = weight_layers(model)
    if there := hidden_layers(model):
        raise ValueError(f"already hidden: {uses.quoted(there)}; reveal(model) first, or hide a fresh model")
    if not callable(masker):
        raise TypeError(f"masker={masker!r} cannot be called; give a class, such as lit_hidden.supermask.Supermask")
    places = {
        _layer(name, attribute): (module, attribute)
        for name, module in model.named_modules()
        for attribute, parameter in module._parameters.items()
        if parameter is not None
    }
    if lazy := [name for name, place in places.items() if nn.parameter.is_lazy(getattr(*place))]:
        raise ValueError(f"{uses.quoted(lazy)} cannot be hidden: lazy, without a shape; run the model once before")
    skip = {skip} if isinstance(skip, str) else set(skip)
    if unknown := sorted(skip - layers.keys() - places.keys()):
        raise ValueError(f"skip names no layer: {uses.quoted(unknown)}; layers are {uses.quoted(layers)}")
    if roles is None:
        unexplained = {name: place for name, place in places.items() if name not in skip | layers.keys()}
        roles = uses.roles(model, unexplained, embeddings, strict, example)
    if unknown := sorted(roles.keys() - places.keys()):
        raise ValueError(f"roles names no parameter: {uses.quoted(unknown)}; they are {uses.quoted(places)}")
    matrices = {name: roles[name] for name in places if roles.get(name, "gain") not in ("gain", "drawn")}
    layers = {name: place for name, place in (layers | {n: places[n] for n in matrices}).items() if name not in skip}
    if not layers:
        raise ValueError(f"nothing to hide: {type(model).__name__} has no convolution, linear or attention weight left")
    weight_seed = seed if weight_seed is None else weight_seed
    score_seed = seed if score_seed is None else score_seed
    drawn: dict[str, Tensor] = {}
    made: dict[str, Masker] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # torch tries each masker, and a supermask samples
        for name, place in layers.items():
            weight = drawn[name] = _hideable(model, name, *place)
            role = matrices.get(name, "o" + "i" * (weight.ndim - 1))
            rows, _ = uses.as_rows(weight, role)
            made[name] = masker(rows, density, generator=layer_generator(score_seed, "scores", name))
            if not isinstance(made[name], Masker):
                raise TypeError(f"masker={masker} gives no Masker")
            for parameter in (p for p in made[name].parameters() if p.shape == rows.shape):
                parameter.data = uses.from_rows(parameter.data, weight, role)
            if distribution is not None:
                generator = layer_generator(weight_seed, "weights", name)
                drawn[name] = uses.drawn(weight, role, distribution, generator, density, scaled)
        uses.check_share(places, layers.keys() | skip, strict)
        frozen = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        model.requires_grad_(False)
        for name in roles.keys() - layers.keys() - skip:
            if roles[name] == "gain" or distribution is not None:
                uses.fill(*places[name], roles[name], layer_generator(weight_seed, "weights", name))
        masked = {module for module, _ in layers.values()}
        for module in model.modules():
            if isinstance(module, uses.NORMS) or module in masked:
                zero_biases(module)
            if isinstance(module, uses.NORMS) and module.weight is not None:
                nn.init.ones_(module.weight)
        for name, (module, attribute) in layers.items():
            module.get_parameter(attribute).copy_(drawn[name])
            parametrized.attach(module, attribute, made[name])
    arguments = {
        "density": float(density), "distribution": distribution, "scaled": scaled, "weight_seed": weight_seed,
        "score_seed": score_seed, "skip": sorted(skip), "masker": masker,
    }  # fmt: skip
    # Files of nets without roles are as they were before there were any.
    model._lit_hidden = Hiding(arguments | ({"roles": roles} if roles else {}), frozen)  # type: ignore[assignment]
    return model


def reveal(model: nn.Module) -> nn.Module:
    """Bake the masked weights in and take the maskers off: a plain module again, which pickles and exports.

    In place; returns `model`. What wanted a gradient before `hide` wants one again. Norm layers keep weight 1 and bias
    0, biases their 0. A sampled supermask is baked as its most probable mask. What is not hidden stays as it is.
    """
    for module, attribute in hidden_layers(model).values():
        masker = module.parametrizations[attribute][0]
        parametrized.detach(module, attribute)
        with torch.no_grad():
            weight = getattr(module, attribute)
            weight.copy_(masker.baked(weight))
    if hasattr(model, "_lit_hidden"):
        Hiding.of(model).thaw(model)
        del model._lit_hidden
    return model


def zero_biases(module: nn.Module) -> None:
    """Set the biases of one layer to 0."""
    for name, parameter in module.named_parameters(recurse=False):
        if "bias" in name:
            nn.init.zeros_(parameter)


def plain_name(name: str) -> str:
    """Name a part of a model as without torch.compile, which wraps modules under a name of its own."""
    return ".".join(part for part in name.split(".") if part not in ("", "_orig_mod"))


def _layer(module: str, weight: str) -> str:
    """Name a layer: `conv1`, `attention.in_proj_weight`, `weight` for a lone nn.Linear."""
    return plain_name(f"{module}.{weight}").removesuffix(".weight")


def _hideable(model: nn.Module, layer: str, module: nn.Module, attribute: str) -> nn.Parameter:
    """Return the parameter behind a layer, or refuse it."""
    weight = module._parameters.get(attribute)
    if weight is None or weight.is_meta:
        why = "its weight is not in memory, or pruning or another parametrization owns it"
    elif sum(p.data_ptr() == weight.data_ptr() for m in model.modules() for p in m.parameters(recurse=False)) > 1:
        why = "another layer has the same weight, which cannot have two masks; clone one"
    else:
        return weight
    raise ValueError(f"{layer!r} cannot be hidden: {why}")
