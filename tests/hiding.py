"""What the tests of hiding share: small nets and a look at what was hidden. Loaded by path: tests are no package."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lit_hidden.edge_popup import EdgePopup, maskers, original_weight

DENSITY = "density is the fraction kept and must lie in (0, 1] and keep at least one"


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10, bias=False),
    )


def normed_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))


def mixed_net() -> nn.Sequential:
    """A net with a norm layer, a bias here and none there."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7, bias=False)
    )


def shuffled(model: nn.Module) -> nn.Module:
    """A hidden model as after training: other scores, running statistics that are not the initial ones."""
    with torch.no_grad():
        for masker in maskers(model).values():
            nn.init.normal_(masker.scores)
    model.train()(torch.randn(6, 3, 6, 6) + 1)
    return model.eval()


def popup(layer: nn.Module) -> EdgePopup:
    return layer.parametrizations.weight[0]  # type: ignore[no-any-return, index, union-attr]


def describe(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {n: original_weight(net, n) for n in maskers(net)}, {n: m.mask() for n, m in maskers(net).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)
