"""A decoder-only transformer that reads characters, and embeddings that learn beside scores. Settings are ours."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback
from lit_hidden.edge_popup import Hiding, maskers


def places(length: int, size: int) -> Tensor:
    """Tell places by sines and cosines, `(length, size)` (Vaswani et al. 2017)."""
    angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(10_000) / size))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Head(nn.Module):
    """Logits `(..., num_classes)` of states `(..., size)`, by weights that `hide` leaves alone."""

    def __init__(self, size: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, size) / size**0.5, requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(states, self.weight)


class Block(nn.Module):
    """Attention, then `4 * size` units, each added to the states `(B, T, size)`; no place sees later ones."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, heads, bias=False, batch_first=True)
        self.widen, self.narrow = nn.Linear(size, 4 * size, bias=False), nn.Linear(4 * size, size, bias=False)

    def forward(self, states: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Return the states after this block; append to `seen` where its heads look, `(B, heads, T, T)`."""
        x, length = self.norm1(states), states.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        added, maps = self.attention(
            x, x, x, attn_mask=later, need_weights=seen is not None, average_attn_weights=False
        )
        if seen is not None:
            seen.append(maps)
        states = states + added
        out: Tensor = states + self.narrow(F.relu(self.widen(self.norm2(states))))
        return out


class Transformer(nn.Module):
    """Characters `(B, T)` to logits of the next characters `(B, T, num_classes)`; a head has 16 units."""

    place: Tensor

    def __init__(
        self, layers: int, own: bool, *, num_classes: int = 128, image_size: int = 64, width: float = 1.0
    ) -> None:
        super().__init__()
        heads = max(1, round(4 * width))
        size = 16 * heads
        self.token = nn.Embedding(num_classes, size)
        self.register_buffer("place", places(image_size, size), persistent=False)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.head = Head(size, num_classes) if own else nn.Linear(size, num_classes, bias=False)

    def forward(self, characters: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Predict; append to `seen` where the heads of each block look."""
        states = self.token(characters) + self.place[: characters.shape[1]]
        for block in self.blocks:
            states = block(states, seen)
        logits: Tensor = self.head(self.norm(states))
        return logits


layers_1 = partial(Transformer, 1, False)
layers_2 = partial(Transformer, 2, False)
layers_4 = partial(Transformer, 4, False)
learned_2 = partial(Transformer, 2, True)
learned_4 = partial(Transformer, 4, True)


class LearnedEmbeddings(RunCallback):
    """Train embeddings and head of a hidden net beside its scores; with `scores=False`, under random masks."""

    def __init__(self, scores: bool = True) -> None:
        super().__init__()
        self.scores = scores

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Let them learn; ValueError: the net is not hidden, or its head is."""
        if not isinstance(getattr(module.net, "head", None), Head):
            raise ValueError(f"{type(module.net).__name__} has no head of its own; take net='transformer.learned_2'")
        hiding = Hiding.of(module.net)
        for part in (module.net.token, module.net.head):
            part.requires_grad_(True)
        for masker in maskers(module.net).values():
            masker.requires_grad_(self.scores)
        # No seed gives them back: all tensors are kept.
        module.net._lit_hidden = replace(hiding, arguments=hiding.arguments | {"distribution": None})
