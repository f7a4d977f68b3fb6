"""Noise from trial to trial in one layer of a sampled supermask, and how many decisions it changes.

The question is that of Murakami et al., Neuron 94:908, 2017: does variability arise early or late? The method is ours.
"""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hidden.callbacks import RunCallback, splits
from lit_hidden.data import BatchLoader
from lit_hidden.edge_popup import maskers

HOTTEST, HALVINGS = 10.0, 14  # of the temperature's log2, which begins at 0


class MaskNoise(RunCallback):
    """Make one layer's mask as noisy as costs `loss` points of held-out accuracy, layer by layer, after a supermask.

    In a trial the layer's mask is sampled once, with probabilities `sigmoid(score / temperature)`. All other masks are
    one sample each, the same in every trial (not the most probable masks: trained among samples, these do badly). From
    a temperature of 1, as in training, bisection raises it. `noise.npz` has, by layer `(L,)`: `temperature`, NaN where
    no noise costs so much; `held_out`, points lost there; `before` and `accuracy`, on test images, at 1 and there;
    `flips`, the percentage of test images and pairs of trials with two decisions. The result has `flips_first`,
    `flips_last`, and the accuracies `accuracy_first`, `accuracy_last`.

    Args:
        loss: points of accuracy on the held-out images.
        trials: masks sampled, at least 2.
    """

    version = 2

    def __init__(self, loss: float = 2.0, trials: int = 20) -> None:
        super().__init__()
        if loss <= 0 or trials < 2:
            raise ValueError(f"loss={loss}, trials={trials}: these must be above 0, and at least 2")
        self.loss, self.trials = loss, trials

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the data.

        Raises:
            ValueError: no images are held out, or the net has no supermasks.
        """
        splits(data)
        if not data.held_out:
            raise ValueError("no images are held out to set the noise by; set held_out")
        if module.method != "supermask":
            raise ValueError(f"method={module.method!r} samples no masks; noise is set in a run after a supermask")
        self.data = data

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Set the noise of each layer and count the decisions that flip."""
        module.eval()
        scores: dict[str, Any] = {name: masker.scores for name, masker in maskers(module.net).items()}
        learned = {name: tensor.detach().clone() for name, tensor in scores.items()}
        arrays: dict[str, list[float]] = {n: [] for n in ("temperature", "held_out", "before", "accuracy", "flips")}
        for name, tensor in learned.items():  # probabilities of 0 and 1
            drawn = torch.rand(tensor.shape, generator=self.generator(f"fixed {name}"))
            scores[name].copy_(torch.where(drawn < tensor.sigmoid(), torch.inf, -torch.inf))
        for name, tensor in scores.items():
            fixed = tensor.clone()

            def trials(split: str, heat: float, name: str = name) -> tuple[Tensor, Tensor]:
                scores[name].copy_(learned[name] / 2**heat)
                found = [self._decided(module, split, f"{name} {split} {n}") for n in range(self.trials)]
                decisions, right = (torch.stack(each) for each in zip(*found, strict=True))
                return decisions, right

            def accuracy(split: str, heat: float) -> float:
                return 100 * trials(split, heat)[1].mean().item()

            low, high, whole = 0.0, HOTTEST, accuracy("val", 0.0)
            for _ in range(HALVINGS):
                heat = (low + high) / 2
                low, high = (low, heat) if whole - accuracy("val", heat) >= self.loss else (heat, high)
            decisions, right = trials("test", high)
            counts = F.one_hot(decisions).sum(0).double()  # (images, classes)
            same = (counts * (counts - 1)).sum(1) / (self.trials * (self.trials - 1))
            there = high < HOTTEST
            arrays["temperature"].append(2**high if there else math.nan)
            arrays["held_out"].append(whole - accuracy("val", high))
            arrays["before"].append(accuracy("test", 0.0))
            arrays["accuracy"].append(100 * right.mean().item())
            arrays["flips"].append(100 * (1 - same).mean().item() if there else math.nan)
            tensor.copy_(fixed)
        for name, tensor in scores.items():
            tensor.copy_(learned[name])
        np.savez(folder / "noise.npz", **arrays)  # type: ignore[arg-type]
        ends = {"first": 0, "last": -1}
        return {f"{number}_{end}": arrays[number][n] for number in ("flips", "accuracy") for end, n in ends.items()}

    def _decided(self, module: Any, split: str, name: str) -> tuple[Tensor, Tensor]:
        """Return a net's decisions on all images of a split at once, and whether they are right, by masks of a name."""
        images, labels = self.data.splits[split]
        ((pictures, labels),) = BatchLoader(images, labels, len(labels), self.data.mean, self.data.std)
        with torch.random.fork_rng([]):
            torch.manual_seed(self.generator(name).initial_seed())
            decisions = module(pictures).argmax(1)
        return decisions, (decisions == labels).double()
