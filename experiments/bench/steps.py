"""A training step: hidden, dense, and edge-popup as published, written plainly.

Plain is the paper's section 3 and what the authors' code is known to do (allenai/hidden-networks): a full sort of every
layer's scores at each forward pass, a mask of floats, linear layers as 1x1 convolutions, NCHW memory, torch's default
SGD, and loss and accuracies read back to the host at each step. It computes what ours does; a test says so.
"""

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.bench.rows import Bench, Section, timed, turns
from experiments.bench.training import BATCH, Batch, Watched, like, made, noise, step_of
from lit_hidden.classifier import LitClassifier
from lit_hidden.edge_popup import Hiding, hidden_layers, maskers, original_weight
from lit_hidden.engine.train import AT_ONCE

NETS = ("conv2", "conv4", "conv6", "conv8", "resnet50")
LARGE = {"cpu": (64, 8), "cuda": (224, 64)}  # of resnet50: pixels, and images in a batch


def steps(bench: Bench) -> Section:
    """Measure a training step of each net: milliseconds, and ratios by round."""
    device, large = bench.device, LARGE[bench.device.type]
    about = (
        "Forward, backward and update on one batch of noise on the device, in float32, hidden at density 0.5 and "
        f"dense: Conv2 to Conv8 on {BATCH} images of 32x32 pixels, ResNet-50 on {large[1]} of {large[0]}x{large[0]}. "
        "Plain: the published algorithm as the authors write it (full sort, masks of floats, 1x1 convolutions for "
        "linear layers, NCHW, three numbers read at each step), with the same weights and scores. Ratios are "
        f"by round; of {4 * bench.rounds} rounds plain has {bench.rounds}. On a GPU, Conv2 to Conv8 hidden and dense "
        f"take {AT_ONCE} steps at once from a CUDA graph, augmentation included, as in the engine."
    )
    section = Section("steps", device.type, about)
    turn = bench.seconds / 8  # short, so that a disturbance slows all that is compared
    for net in NETS:
        small = net.startswith("conv")
        many = AT_ONCE if device.type == "cuda" and small else 0
        data = like(net, *((32, BATCH) if small else large))
        batch = noise(data, device)
        block = next(iter(Watched(1, BATCH, device, many))) if many else batch
        modules = {name: made(net, density, data, device) for name, density in (("dense", None), ("hidden", 0.5))}
        plain = {"plain": timed(partial(PlainStep(modules["hidden"]), batch), turn)}
        work = {name: partial(step_of(module, many), block) for name, module in modules.items()}
        measures = {name: timed(step, turn, many or 1) for name, step in work.items()}
        found = turns(measures | plain, bench.rounds)
        for name, numbers in turns(measures, 3 * bench.rounds).items():
            found[name] += numbers
        section.add("ms", found, net)
        section.ratio("hidden", "dense", net)
        section.ratio("plain", "hidden", net)
    return section


class _Sorted(torch.autograd.Function):
    """The mask of the largest, as floats; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, ranked: Tensor, density: float) -> Tensor:
        mask, order, drop = ranked.clone(), ranked.flatten().sort().indices, int((1 - density) * ranked.numel())
        mask.view(-1)[order[:drop]] = 0
        mask.view(-1)[order[drop:]] = 1
        return mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class PlainConv(nn.Module):
    """A convolution with frozen weights, or a linear layer as a 1x1 convolution; scores choose the weights."""

    def __init__(self, layer: nn.Module, weight: Tensor, scores: Tensor, density: float) -> None:
        super().__init__()
        weight, scores = (each.detach().clone()[(..., *[None] * (4 - each.dim()))] for each in (weight, scores))
        self.weight, self.scores = nn.Parameter(weight.contiguous(), False), nn.Parameter(scores.contiguous())
        self.density, self.linear = density, isinstance(layer, nn.Linear)
        names = () if self.linear else ("stride", "padding", "dilation", "groups")
        self.settings = {name: getattr(layer, name) for name in names}

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in, H, W)` to `(B, out, H', W')`, or `(B, in)` to `(B, out)`."""
        weight = self.weight * _Sorted.apply(self.scores.abs(), self.density)
        y = F.conv2d(x[..., None, None] if self.linear else x, weight, **self.settings)
        return y.flatten(1) if self.linear else y


def plain(net: nn.Module) -> nn.Module:
    """Copy a hidden net of linear and zero-padded 2d layers into its plain form."""
    found, names = copy.deepcopy(net), {module: name for name, module in net.named_modules()}
    density = Hiding.of(net).arguments["density"]
    for layer, (module, _) in hidden_layers(net).items():
        weight, masker = original_weight(net, layer), maskers(net)[layer]
        assert isinstance(masker.scores, Tensor)
        found.set_submodule(names[module], PlainConv(module, weight, masker.scores, density))
    return found


class PlainStep:
    """A training step of the plain form of a hidden module's net: forward, backward, update, three numbers read."""

    def __init__(self, module: LitClassifier) -> None:
        self.net, self.recipe = plain(module.net).train(), module.recipe
        learned = [p for p in self.net.parameters() if p.requires_grad]
        rate, decay = self.recipe.lr * module.lr_factor(0), self.recipe.weight_decay
        self.optimizer = torch.optim.SGD(learned, rate, momentum=self.recipe.momentum, weight_decay=decay)

    def __call__(self, batch: Batch) -> tuple[float, float, float]:
        """Return the batch's mean loss, and its top-1 and top-5 accuracy in percent."""
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        right = logits.topk(5).indices.t() == labels
        top1, top5 = (100 / len(labels) * right[:k].float().sum() for k in (1, 5))
        read = loss.item(), top1.item(), top5.item()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return read
