"""Maturity: a mask that stops learning at an age, a density that changes with age, and a second task afterwards.

The questions are those of Chechik, Meilijson and Ruppin, Synaptic Pruning in Development, Neural Computation 10:1759,
1998 (first many synapses, then fewer), and of Averbeck, PNAS 119:e2121331119, 2022. The methods are ours.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn

from lit_hidden.callbacks import RunCallback, splits
from lit_hidden.data import BatchLoader
from lit_hidden.edge_popup import Hiding, maskers, weight_layers
from lit_hidden.selection import kept


def readout(net: nn.Module) -> nn.Module:
    """Return the last layer of a net that has weights."""
    return list(weight_layers(net).values())[-1][0]


class Freeze(RunCallback):
    """Stop learning at the start of an epoch, for good: what is frozen gets no gradient, no momentum and no decay.

    So a mask is exactly the same after each later step. Running statistics of norm layers still move. A test accuracy
    at chance is no failure of such a run.

    Args:
        epoch: counted from 0.
        then: `nothing` learns from then on, or the `last` layer: its scores, or in a dense net its weights.
    """

    def __init__(self, epoch: int, then: str = "nothing") -> None:
        super().__init__()
        if then not in ("nothing", "last"):
            raise ValueError(f"then={then!r} is unknown; what learns afterwards is nothing or last")
        self.epoch, self.then = epoch, then

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose what is frozen; ValueError: the epoch never comes."""
        last = max(0, (trainer.max_epochs or 0) - 1)
        if trainer.max_epochs != -1 and not 0 <= self.epoch <= last:
            raise ValueError(f"epoch={self.epoch} never begins in a run whose last epoch is {last}, counted from 0")
        spared = set(readout(module.net).parameters()) if self.then == "last" else set()
        self.frozen = [parameter for parameter in module.net.parameters() if parameter not in spared]

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        """Drop gradients: an optimizer leaves a parameter without one as it is."""
        for parameter in self.frozen if trainer.current_epoch >= self.epoch else ():
            parameter.grad = None

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return the accuracy below which the run counts as failed."""
        return {"fails_below": 0.0}


class Density(RunCallback):
    """Move the density from `start` to that of the run, linearly in the first half of all steps; then it rests.

    Of T steps, step s from 0 has `start + (density - start) * min(1, s / (T // 2))`, rounded to 9 digits, and each
    layer keeps exactly as many weights as `lit_hidden.selection.kept` counts at that density.

    Args:
        start: in (0, 1].
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        if not 0 < start <= 1:
            raise ValueError(f"start={start} is the fraction of weights kept at first; it must lie in (0, 1]")
        self.start = start

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Begin at `start`; ValueError: nothing in the net keeps a given number of weights."""
        self.maskers: list[Any] = list(maskers(module.net).values())
        if not self.maskers or not all(hasattr(masker, "keep") for masker in self.maskers):
            raise ValueError("no density can move in this net: only edge-popup keeps a given number of weights")
        self.end = Hiding.of(module.net).arguments["density"]
        self._move(self.start)

    def _move(self, density: float) -> None:
        self.density = density
        for masker in self.maskers:
            masker.keep = kept(masker.scores.numel(), density)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Set the density of the step."""
        part = trainer.global_step / max(1, int(trainer.estimated_stepping_batches) // 2)
        self._move(round(self.start + (self.end - self.start) * part, 9) if part < 1 else self.end)

    def state_dict(self) -> dict[str, Any]:
        """Put the density into checkpoints."""
        return {"density": self.density}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint: after the last epoch no step sets it again."""
        self._move(state_dict["density"])


class SecondTask(RunCallback):
    """Learn images whose pixels are permuted, all by one permutation, training and test images alike.

    At the end `first` is the accuracy on the test images as they were, in percent, and `first_readout` the same with
    the last layer that the net began with: what the other layers still know of the first task.
    """

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Permute the images; keep the last layer and the first task's test images."""
        self.data, self.test = data, splits(data)["test"]
        order = torch.randperm(self.test[0][0, 0].numel(), generator=self.generator())
        for split, (images, labels) in data.splits.items():
            data.splits[split] = images.flatten(2)[..., order].view_as(images), labels
        self.readout = deepcopy(readout(module.net).state_dict())

    @torch.no_grad()
    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Measure what is left of the first task, with the last layer of now and of then."""
        module.eval()
        data, layer, found = self.data, readout(module.net), {}
        now = deepcopy(layer.state_dict())
        batches = BatchLoader(*self.test, data.batch_size, data.mean, data.std)
        for name, last in (("first_readout", self.readout), ("first", now)):
            layer.load_state_dict(last)
            found[name] = 100 * sum(int((module(x).argmax(1) == y).sum()) for x, y in batches) / len(self.test[1])
        return found
