"""What random weights are drawn from, and how seeds reach each layer.

Source: Ramanujan et al., arXiv:1911.13299, Sections 4 and 5; the authors' code, `utils/builder.py`.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lit_hidden import code

Scaled = bool | Literal["authors"]

# Said outright: Trainer.init_module and torch.device(...) change the defaults, and with them the draws.
_PLAIN: Any = {"dtype": torch.float32, "device": "cpu"}


def _signs(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, **_PLAIN).mul_(2).sub_(1)


def _normal(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    # Drawn in float64: the float32 kernels differ in the last bit from one instruction set to another.
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").mul_(std).float()


def _kaiming_std(fan_in: int, fan_out: int) -> float:
    return math.sqrt(2 / fan_in)


def _xavier_std(fan_in: int, fan_out: int) -> float:
    return math.sqrt(2 / (fan_in + fan_out))


class Draw(Protocol):
    """A way to draw weights; one of your own is called by its dotted name, and gets Kaiming's standard deviation."""

    def __call__(self, shape: torch.Size, std: float, generator: torch.Generator, /) -> Tensor:
        """Draw float32 weights `(out, in, *kernel)` on the CPU, from its generator alone."""


# name -> (standard deviation from the fans, how to draw with it)
DISTRIBUTIONS: dict[str, tuple[Callable[[int, int], float], Draw]] = {
    "kaiming_normal": (_kaiming_std, _normal),
    "signed_constant": (_kaiming_std, lambda shape, std, g: _signs(shape, g).mul_(std)),
    "unsigned_constant": (_kaiming_std, lambda shape, std, g: torch.full(shape, std, **_PLAIN)),
    # Same std as kaiming_normal: U(-b, b) with b = sqrt(3) std.
    "kaiming_uniform": (
        _kaiming_std,
        lambda shape, std, g: torch.rand(shape, generator=g, **_PLAIN).mul_(2).sub_(1).mul_(math.sqrt(3) * std),
    ),
    "xavier_normal": (_xavier_std, _normal),
    "signed_xavier": (_xavier_std, lambda shape, std, g: _signs(shape, g).mul_(std)),
}


def layer_generator(seed: int, purpose: str, layer: str) -> torch.Generator:
    """Give the CPU generator of one layer: the same on every device, in every process, in any order of layers."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{layer}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fans(shape: torch.Size) -> tuple[int, int]:
    """Return `(fan_in, fan_out)` of a weight `(out, in, *kernel)`, PyTorch's convention.

    Raises:
        ValueError: the weight has fewer than 2 dimensions.
    """
    if len(shape) < 2:
        raise ValueError(f"a weight of shape {tuple(shape)} has no fan; it must have at least 2 dimensions")
    area = math.prod(shape[2:])
    return shape[1] * area, shape[0] * area


def check(distribution: str, scaled: Scaled, density: float) -> None:
    """Refuse an unknown distribution, an unknown `scaled`, a scale that would be infinite or that the authors ignore.

    Raises:
        ValueError: as said.
    """
    if distribution not in DISTRIBUTIONS and "." not in distribution:
        raise ValueError(
            f"distribution={distribution!r} is unknown; distributions are {list(DISTRIBUTIONS)}, or package.module.name"
        )
    if not (isinstance(scaled, bool) or scaled == "authors"):
        raise ValueError(f"scaled={scaled!r} is unknown; it is False, True or 'authors'")
    if scaled == "authors" and distribution in ("kaiming_uniform", "xavier_normal", "signed_xavier"):
        raise ValueError(
            f"scaled='authors' with distribution={distribution!r}, which the authors' code never scales; "
            "use scaled=False, or True for the scale of the paper's text"
        )
    if scaled == "authors" and density == 1:
        raise ValueError(
            "scaled='authors' multiplies weights by 1/sqrt(1 - density), which is infinite at density=1; "
            "use scaled=True or a density below 1"
        )


def draw(
    shape: torch.Size, distribution: str, generator: torch.Generator, density: float = 1.0, scaled: Scaled = False
) -> Tensor:
    """Draw the float32 weights of one layer on the CPU.

    Args:
        shape: `(out, in, *kernel)`.
        distribution: one of `DISTRIBUTIONS`; `signed_constant` is the paper's U_k, `kaiming_normal` its N_k; or the
            dotted name of a `Draw` of your own, which gets Kaiming's standard deviation.
        generator: a CPU generator, see `layer_generator`.
        density: the fraction of weights kept; read by `scaled` alone.
        scaled: True multiplies the standard deviation by `1/sqrt(density)`, as the paper's text says;
            "authors" by `1/sqrt(1 - density)`, as the authors' code does (the two agree at 0.5 only).

    Raises:
        ValueError: an unknown distribution or `scaled`, an infinite scale, a shape without fans.
    """
    check(distribution, scaled, density)
    named = DISTRIBUTIONS.get(distribution)
    std_of, sample = named or (_kaiming_std, code.load(code.full(distribution)))
    std = std_of(*fans(shape))
    if scaled:
        std /= math.sqrt(1 - density if scaled == "authors" else density)
    return sample(shape, std, generator)
