"""Learning without weight transport: errors travel back through other weights than activity travels forward.

Source: Lillicrap et al., Random synaptic feedback weights support error backpropagation for deep learning, Nature
Communications 7:13276, 2016; direct feedback: Nokland, arXiv:1609.01596; signs: Moskovitz et al., arXiv:1812.06488.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback, angle, balanced, weights
from lit_hidden.edge_popup import weight_layers

PATHS = ("masked", "whole", "random", "sign", "masked_sign", "direct", "none", "minus")
PERMUTATIONS = 30


class FeedbackAlignment(RunCallback):
    """Send errors back through other weights; weights, or scores by the straight-through estimate, learn from them.

    Only for nets of linear layers and 2-d convolutions, one after another. B are fixed random weights, as large as each
    layer's own initial weights. At the end `angle` is the mean angle, in degrees, to the true gradient in the layers
    before the last, and `correlation` that of the weights used forward with B, `kept` and `dropped` the
    percentages of weights with the sign of B, in the layers behind the first. `first_layer`, through which no error
    travels, is its correlation in standard deviations of the permuted. A test accuracy at chance is no failure, but for
    `masked`. `feedback.npz` has `epoch` `(E,)`, `angle` `(E, L)`, and by layer `correlation` `(L,)`, `permuted`
    `(L, 30)`, with B permuted, `kept` and `dropped` `(L,)`.

    Args:
        through: `masked`, the weights used forward, which is backpropagation; `whole`, the weights under the mask;
            `random`, B; `sign`, |B| with the signs of the weights under the mask; `masked_sign`, those that are kept
            of these; `direct`, from the output to each layer by a B of its own; `none`, only the last layer learns;
            `minus`, backpropagation but for the sign of the errors that leave the last layer.
        angles: training images on which angles are measured before training and after each epoch; 0 measures none.
    """

    version = 3

    def __init__(self, through: str = "random", angles: int = 0) -> None:
        super().__init__()
        if through not in PATHS:
            raise ValueError(f"through={through!r} is unknown; errors travel through {', '.join(PATHS)}")
        self.through, self.angles = through, angles
        self.true = False  # whether errors travel as in backpropagation
        self.rows: list[list[float]] = []

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Draw the feedback weights."""
        self.layers: dict[str, tuple[Any, str]] = weight_layers(module.net)
        layers = self.layers
        if others := [name for name, (layer, _) in layers.items() if not isinstance(layer, nn.Linear | nn.Conv2d)]:
            raise ValueError(f"errors cannot be sent past '{others[0]}', which is no linear layer or 2-d convolution")
        layer: Any
        for name, (layer, _) in layers.items():
            back = _size(layer.weight) * torch.randn(layer.weight.shape, generator=self.generator(name))
            # A buffer moves with the net; it is not saved, since the next start draws it again.
            layer.register_buffer("feedback", back.to(layer.weight.device), persistent=False)
            layer.forward = partial(self._forward, name, layer)
        self.under, self.passed = weights(module.net), list[tuple[str, Tensor]]()
        self.last, self.direct = layer.weight.detach().clone(), dict[str, Tensor]()
        if self.angles:
            self.data = balanced(data, "train", self.angles)

    def _forward(self, name: str, layer: Any, inputs: Tensor) -> Tensor:
        weight, number = layer.weight, list(self.layers).index(name)
        last = number == len(self.layers) - 1
        product: Callable[..., Tensor] = F.linear if isinstance(layer, nn.Linear) else layer._conv_forward
        true = self.true or self.through == "masked" or (self.through == "minus" and not last)
        if true or number == 0 or not torch.is_grad_enabled():
            plain: Tensor = product(inputs, weight, layer.bias)
            return plain
        result: Tensor = product(inputs.detach(), weight, layer.bias)
        if self.through == "none":
            return result
        if self.through == "direct":
            self.passed.append((name, inputs.flatten(1)))
            if last:
                result = result + sum(_only_back(x @ self._to(name, x)) for name, x in self.passed)
                self.passed.clear()  # the net is copied when it is saved, which tensors with a history refuse
            return result
        back = self._back(self.under[name].detach(), weight.detach(), layer.feedback)
        return result + _only_back(product(inputs, back, None))

    def _back(self, under: Tensor, used: Tensor, fixed: Tensor) -> Tensor:
        """Return the weights through which errors travel, from those under the mask, those used forward, and B."""
        if self.through in ("whole", "random"):
            return under if self.through == "whole" else fixed
        if self.through == "minus":
            return -used
        return (under if self.through == "sign" else used).sign() * fixed.abs()

    def _to(self, name: str, inputs: Tensor) -> Tensor:
        """Return the weights through which errors come from the output to the inputs of a layer."""
        if name not in self.direct:
            drawn = torch.randn(inputs.shape[1], len(self.last), generator=self.generator(f"direct {name}"))
            self.direct[name] = (_size(self.last) * drawn).to(inputs)
        return self.direct[name]

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Measure angles before training."""
        if not self.rows:
            self.on_train_epoch_end(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any, epoch: int | None = None) -> None:
        """Measure angles after an epoch."""
        if self.angles:
            row = self._measured(pl_module)
            self.rows.append([trainer.current_epoch + 1 if epoch is None else epoch, *row])

    def _measured(self, module: Any) -> list[float]:
        """Return the angle to the true gradient in each layer, in degrees; NaN where nothing comes back."""
        ((images, labels),) = self.data
        wanted = [parameter for parameter in module.net.parameters() if parameter.requires_grad and parameter.ndim > 1]
        found = []
        for self.true in (True, False):
            loss = F.cross_entropy(module(images), labels)
            found.append(torch.autograd.grad(loss, wanted, allow_unused=True))
        return [angle(one, other) for one, other in zip(*found, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Put the angles into checkpoints."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them from a checkpoint."""
        self.rows = state_dict["rows"]

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Compare the weights with B; write `feedback.npz`."""
        arrays: dict[str, list[Any]] = {name: [] for name in ("correlation", "permuted", "kept", "dropped")}
        layer: Any
        for name, (layer, _) in self.layers.items():
            used, back = (tensor.detach().flatten().cpu().double() for tensor in (layer.weight, layer.feedback))
            agree, kept = self.under[name].detach().flatten().cpu().sign() == back.sign(), used != 0
            random = self.generator(f"permuted {name}")
            orders = (torch.randperm(len(back), generator=random) for _ in range(PERMUTATIONS))
            arrays["correlation"].append(_correlation(used, back))
            arrays["permuted"].append([_correlation(used, back[order]) for order in orders])
            for part, chosen in (("kept", kept), ("dropped", ~kept)):
                arrays[part].append(100 * agree[chosen].double().mean().item())
        epoch, *angles = np.array(self.rows).reshape(-1, 1 + len(self.layers)).T
        np.savez(folder / "feedback.npz", epoch=epoch, angle=np.transpose(angles), **arrays)  # type: ignore[arg-type]
        # Through the first layer no error travels back, and the last one has its true gradient.
        means = {name: float(np.mean(values[1:])) for name, values in arrays.items()}
        first = (arrays["correlation"][0] - np.mean(arrays["permuted"][0])) / np.std(arrays["permuted"][0])
        means["first_layer"] = float(first)
        if self.through != "masked":
            means["fails_below"] = 0.0
        return means | ({"angle": float(np.mean(self.rows[-1][1:-1]))} if self.rows else {})


def _size(weight: Tensor) -> Tensor:
    return weight.detach().square().mean().sqrt().cpu()  # not the standard deviation: it is 0 for equal weights


def _only_back(detour: Tensor) -> Tensor:
    return detour - detour.detach()  # 0, but its gradient reaches the inputs


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])
