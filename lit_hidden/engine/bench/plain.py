"""Edge-popup as published, written plainly: what the bench holds our step against.

From the paper's section 3 and what the authors' code is known to do (allenai/hidden-networks): a full sort of every
layer's scores at each forward pass, a mask of floats, linear layers as 1x1 convolutions, NCHW memory, torch's default
SGD, and loss and accuracies read back to the host at each step. It computes what ours does; a test says so.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.classifier import LitClassifier
from lit_hidden.edge_popup import hidden_layers, maskers, original_weight
from lit_hidden.engine.bench.training import Batch


class _Sorted(torch.autograd.Function):
    """The mask of the largest, as floats; its gradient is passed on as it comes."""

    @staticmethod
    def forward(ctx: Any, ranked: Tensor, density: float) -> Tensor:
        mask = ranked.clone()
        order = ranked.flatten().sort().indices
        drop = int((1 - density) * ranked.numel())
        flat = mask.view(-1)
        flat[order[:drop]] = 0
        flat[order[drop:]] = 1
        return mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class PlainConv(nn.Module):
    """A convolution of weights that stay as they are; scores say which of them count.

    Args:
        weight: `(out, in, height, width)`.
        scores: as the weight.
        density: fraction of weights kept.
        settings: stride, padding, dilation and groups, as `torch.nn.functional.conv2d` takes them.
    """

    def __init__(self, weight: Tensor, scores: Tensor, density: float, **settings: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone().contiguous(), requires_grad=False)
        self.scores = nn.Parameter(scores.detach().clone().contiguous())
        self.density, self.settings = density, settings

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in, H, W)` to `(B, out, H', W')`."""
        mask: Tensor = _Sorted.apply(self.scores.abs(), self.density)
        return F.conv2d(x, self.weight * mask, **self.settings)


class PlainLinear(PlainConv):
    """A linear layer as a convolution of images of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in)` to `(B, out)`."""
        return super().forward(x[:, :, None, None]).flatten(1)


def plain(net: nn.Module) -> nn.Module:
    """Give the plain form of a net that `hide` has hidden: equal weights and scores, tensors of its own, NCHW.

    Raises:
        ValueError: a hidden layer is neither a two-dimensional convolution nor linear, or its padding is not of zeros.
    """
    found = copy.deepcopy(net)
    layers = {module: name for name, module in net.named_modules()}
    for layer, (module, _) in hidden_layers(net).items():
        weight, masker = original_weight(net, layer), maskers(net)[layer]
        scores = masker.scores
        assert isinstance(scores, Tensor)
        ours: PlainConv
        if isinstance(module, nn.Linear):
            ours = PlainLinear(weight[:, :, None, None], scores[:, :, None, None], masker.density)
        elif isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
            names = ("stride", "padding", "dilation", "groups")
            ours = PlainConv(weight, scores, masker.density, **{name: getattr(module, name) for name in names})
        else:
            raise ValueError(f"{layer} is a {type(module).__mro__[1].__name__}, of which there is no plain form here")
        found.set_submodule(layers[module], ours)
    return found


class PlainStep:
    """A training step of the plain form of a hidden module's net: forward, backward, update, three numbers read.

    Args:
        module: whose net, weights, scores and recipe.
    """

    def __init__(self, module: LitClassifier) -> None:
        self.net, recipe = plain(module.net).train(), module.recipe
        self.smoothing = recipe.label_smoothing
        learned = [p for p in self.net.parameters() if p.requires_grad]
        # The rate as scheduled at the start; it is the module's, whose own optimizer may be of another kind.
        self.optimizer = torch.optim.SGD(
            learned, recipe.lr * module.lr_factor(0), momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def __call__(self, batch: Batch) -> tuple[float, float, float]:
        """Give the batch's mean loss, and its top-1 and top-5 accuracy in percent."""
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        right = logits.topk(5).indices.t() == labels
        top1, top5 = (100 / len(labels) * right[:k].float().sum() for k in (1, 5))
        read = loss.item(), top1.item(), top5.item()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return read
