"""What random weights are drawn from, and how seeds reach each layer.

Source: Ramanujan et al., arXiv:1911.13299, Sections 4 and 5; the authors' code, `utils/builder.py`.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_hidden import code

Scaled = bool | Literal["authors"]
# Draws float32 weights `(out, in, *kernel)` on the CPU from (shape, standard deviation, generator).
Draw = Callable[[torch.Size, float, torch.Generator], Tensor]

# Named, since Trainer.init_module and torch.device(...) change the defaults, and with them the draws.
_PLAIN: Any = {"dtype": torch.float32, "device": "cpu"}


def _signs(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, **_PLAIN).mul_(2).sub_(1).mul_(std)


def _normal(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    # Drawn in float64: the float32 kernels differ in the last bit from one instruction set to another.
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").mul_(std).float()


def _uniform(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, **_PLAIN).mul_(2).sub_(1).mul_(math.sqrt(3) * std)


DISTRIBUTIONS: dict[str, Draw] = {
    "kaiming_normal": _normal,
    "signed_constant": _signs,
    "unsigned_constant": lambda shape, std, generator: torch.full(shape, std, **_PLAIN),
    "kaiming_uniform": _uniform,
    "xavier_normal": _normal,
    "signed_xavier": _signs,
}
_XAVIER = ("xavier_normal", "signed_xavier")


def layer_generator(seed: int, purpose: str, layer: str) -> torch.Generator:
    """Give the CPU generator of one layer: the same on every device, in every process, in any order of layers."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{layer}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw(
    shape: torch.Size, distribution: str, generator: torch.Generator, density: float = 1.0, scaled: Scaled = False
) -> Tensor:
    """Draw the float32 weights `(out, in, *kernel)` of one layer on the CPU; `scaled` is that of `hide`.

    `distribution` is one of `DISTRIBUTIONS` (`signed_constant` is the paper's U_k, `kaiming_normal` its N_k), or the
    dotted name of a `Draw` of your own, which gets Kaiming's standard deviation. ValueError: an unknown distribution or
    `scaled`, or an infinite scale.
    """
    if distribution not in DISTRIBUTIONS and "." not in distribution:
        names = ", ".join(DISTRIBUTIONS)
        raise ValueError(f"distribution={distribution!r} is unknown; they are {names}, or package.module.name")
    if scaled not in (False, True, "authors") or (scaled == "authors" and density == 1):
        raise ValueError(f"scaled={scaled!r} at density={density}: it is False, True, or 'authors' below 1")
    sample: Draw = DISTRIBUTIONS.get(distribution) or code.load(code.full(distribution))
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))
    std = math.sqrt(2 / (fan_in + fan_out if distribution in _XAVIER else fan_in))
    if scaled:
        std /= math.sqrt(1 - density if scaled == "authors" else density)
    return sample(shape, std, generator)
