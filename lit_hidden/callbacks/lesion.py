"""Lesions: half of the units or edges removed at some age, and how much the net recovers."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback, evaluated, sources, splits, weights
from lit_hidden.edge_popup import EdgePopup, Hiding, maskers, weight_layers
from lit_hidden.selection import kept

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
SPENT = 1e6  # a score above all others


class Lesion(RunCallback):
    """Cut units or edges of a net at the start of an epoch, for good: their weights become 0 and stay 0.

    A unit is an output of a linear layer or a channel of a convolution. All edges into a dead unit and out of it are
    dead; the last layer keeps its units. Each layer loses the same fraction. Units and edges are drawn from the run's
    seed, so lesions at different epochs cut the same. A lesion at epoch 0 precedes all measurements.

    Edge-popup then keeps its density of the living edges. The mask still keeps as many edges as before, but some of
    them are dead, with weight 0 and scores above all others: just so many that of the living ones the density stays.
    So the tensors of a run give its net back, and runs after it keep the lesion. Zhou's supermasks go on as they are.

    The result has `cut`, the number of units or edges that were chosen; `living`, the number of edges left; `revived`,
    the number of dead edges that the net used, counted after each epoch, which is 0.

    Args:
        epoch: counted from 0.
        of: `units`, drawn in each layer; `hemisphere`, the first units of each layer; `edges`.
        fraction: of each layer, in [0, 1].
        measure: whether the result has `immediate`, the test accuracy right after the cut, in percent.
    """

    version = 2

    def __init__(self, epoch: int, of: str = "units", fraction: float = 0.5, measure: bool = False) -> None:
        super().__init__()
        if of not in ("units", "hemisphere", "edges") or not 0 <= fraction <= 1:
            raise ValueError(f"of={of!r}, fraction={fraction}: units, hemisphere or edges, and a fraction in [0, 1]")
        self.epoch, self.of, self.fraction, self.measure = epoch, of, fraction, measure
        self.found: dict[str, float] = {"revived": 0}

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose the units or edges.

        Raises:
            ValueError: the epoch never comes, dead units would have an output, or there is no accuracy to measure.
        """
        net, last = module.net, max(0, (trainer.max_epochs or 0) - 1)
        if trainer.max_epochs != -1 and not 0 <= self.epoch <= last:
            raise ValueError(f"epoch={self.epoch} never begins in a run whose last epoch is {last}, counted from 0")
        norms = [name for name, layer in net.named_modules() if isinstance(layer, _NORMS)]
        if self.of != "edges" and norms:
            raise ValueError(f"the norm layer '{norms[0]}' gives dead units an output; cut edges instead of units")
        if self.measure and (splits(data) is None or module.task is not None):
            raise ValueError("measure=True is of the accuracy of a classifier, and this run has another task")
        self.data, self.chosen = data, 0
        self.dead = dict[str, Tensor]()  # by layer, bool of the weight's shape
        self.held = list[tuple[Tensor, Tensor, Tensor]]()  # tensors, where they are held, and their values there
        frozen = weights(net)
        before, units = {} if self.of == "edges" else sources(net), torch.empty(0)
        for name, weight in frozen.items():
            if self.of == "edges":
                dead = self._drawn(name, weight.numel()).view(weight.shape)
                self.chosen += int(dead.sum())
            else:
                columns = units[before[name]] if name in before else torch.zeros(weight.shape[1], dtype=torch.bool)
                units = self._drawn(name, len(weight) if name != list(frozen)[-1] else 0, len(weight))
                self.chosen += int(units.sum())
                dead = (units[:, None] | columns).view(*weight.shape[:2], *[1] * (weight.ndim - 2)).expand_as(weight)
                if (bias := getattr(weight_layers(net)[name][0], "bias", None)) is not None:
                    self.held.append((bias, units, torch.zeros(())))
            self.dead[name] = dead
            self.held.append((weight, dead, torch.zeros(())))
            if isinstance(masker := maskers(net).get(name), EdgePopup):
                living, density = int((~dead).sum()), Hiding.of(net).arguments["density"]
                values, spent = torch.zeros(weight.shape), masker.keep - (kept(living, density) if living else 0)
                values.view(-1)[dead.flatten().nonzero()[:spent]] = SPENT
                self.held.append((masker.scores, dead, values))
        if self.epoch == 0:
            self._cut()

    def _drawn(self, name: str, among: int, of: int | None = None) -> Tensor:
        """Choose a fraction of the first `among` of so many."""
        random = torch.randperm(among, generator=self.generator(name))
        chosen = torch.zeros(among if of is None else of, dtype=torch.bool)
        chosen[(torch.arange(among) if self.of == "hemisphere" else random)[: round(self.fraction * among)]] = True
        return chosen

    @torch.no_grad()
    def _cut(self) -> None:
        for n, (tensor, dead, values) in enumerate(self.held):
            self.held[n] = tensor, dead.to(tensor.device), values.to(tensor)
            tensor.copy_(torch.where(self.held[n][1], self.held[n][2], tensor))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Cut before the first batch of the epoch."""
        if (trainer.current_epoch, batch_idx) == (self.epoch, 0):
            self._cut()
            if self.measure:
                self.found["immediate"] = evaluated(pl_module, self.data, "test")[1]

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Cut again: momentum still moves dead weights and scores."""
        if trainer.current_epoch >= self.epoch:
            self._cut()

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Count the dead edges that the net uses."""
        if trainer.current_epoch >= self.epoch:
            used = {name: getattr(*place).cpu() != 0 for name, place in weight_layers(pl_module.net).items()}
            self.found["revived"] += sum(int((used[name] & dead).sum()) for name, dead in self.dead.items())

    def state_dict(self) -> dict[str, Any]:
        """Put what was found into checkpoints."""
        return self.found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        self.found = dict(state_dict)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return the numbers."""
        return {"cut": self.chosen, "living": sum(int((~dead).sum()) for dead in self.dead.values()), **self.found}
