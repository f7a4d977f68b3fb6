"""What the tests of hiding share: small nets and a look at what was hidden."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_hidden.edge_popup import maskers, original_weight


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10, bias=False),
    )


def mixed_net(out: int = 7) -> nn.Sequential:
    """A net of images `(B, 3, 6, 6)` with a norm layer, a bias here and none there."""
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, out, bias=False)
    return nn.Sequential(*layers)


def shuffled(model: nn.Module) -> nn.Module:
    """A hidden model as after training: other scores, running statistics that are not the initial ones."""
    with torch.no_grad():
        for masker in maskers(model).values():
            nn.init.normal_(masker.scores)
    model.train()(torch.randn(6, 3, 6, 6) + 1)
    return model.eval()


def masker_of(layer: nn.Module) -> Any:
    return maskers(layer)["weight"]


def describe(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {n: original_weight(net, n) for n in maskers(net)}, {n: m.mask() for n, m in maskers(net).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Path:
    """Change the tensors and the metadata of a file."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path
