"""Record how a hidden network learns: the edges that swap, and scores, gradients and masks of the last layer.

`trace.npz` of edge-popup has, for a last layer of O outputs and I inputs and T updates of which R are recorded:
    weight (O, I) float32           frozen
    step (R,) int                   index of the update, from 0
    before, after (R, O, I)         float32 scores before and after the update
    gradient (R, O, I) float32      dL/ds of the mini-batch, without weight decay and momentum
    chosen_before, chosen_after     (R, O, I) bool masks
    seen (R, O, I) bool             chosen at some time up to and including `chosen_before`
    lr (R,) float32, momentum, weight_decay (scalars)
    swapped (T,) int                edges that left at each update, over all layers; as many entered
    reentered (T,) int              edges among those that entered that had been chosen earlier
Of other runs it has `weight` at the start, `trained` at the end, and of a hidden net `chosen_before` (1, O, I): the
mask at the end.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from lit_hidden.callbacks import RunCallback, weights
from lit_hidden.edge_popup import Scored, maskers
from lit_hidden.subnetwork import used_masks

_RECORDED = ("step", "before", "after", "gradient", "chosen_before", "chosen_after", "seen", "lr")


class Trace(RunCallback):
    """Record so many `updates` of the last layer, evenly spread, and count the swaps of all updates."""

    records = True

    def __init__(self, updates: int = 600) -> None:
        super().__init__()
        if updates < 1:
            raise ValueError(f"updates={updates} records nothing; it must be at least 1")
        self.updates = updates
        # `kept`: the edges of each layer, before the first update and after each.
        self.rows: dict[str, list[Tensor]] = {name: [] for name in (*_RECORDED, "swapped", "reentered", "kept")}
        self.masks: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}  # empty where no edges swap
        self.wanted: set[int] = set()

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the initial weight of the last layer."""
        self.weight = last_weight(module)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Keep the masks before the first update."""
        found = maskers(pl_module.net)
        # A random mask takes no steps.
        if not pl_module.automatic_optimization or not any(isinstance(one, Scored) for one in found.values()):
            return
        self.masks = used_masks(pl_module.net)
        self.layer = list(self.masks)[-1]
        self.scores: Any = found[self.layer].scores
        self.wanted = spread(self.updates, trainer)
        if not self.seen:  # not a resume
            self.seen = {name: mask.clone() for name, mask in self.masks.items()}
            self._count()
        self.seen = {name: seen.to(pl_module.device) for name, seen in self.seen.items()}

    def _count(self) -> None:
        self.rows["kept"].append(torch.stack([mask.sum() for mask in self.masks.values()]))

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Keep the scores before the update."""
        self.step = trainer.global_step
        if self.step in self.wanted:
            self.before = self.scores.detach().clone()

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        """Keep the gradient and the learning rate of the update."""
        if self.step in self.wanted:
            self.gradient = self.scores.grad.clone()
            self.lr = torch.tensor(trainer.optimizers[0].param_groups[0]["lr"], dtype=torch.float32)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Compare the masks before and after the update."""
        if not self.masks:
            return
        before, self.masks = self.masks, used_masks(pl_module.net)
        if self.step in self.wanted:
            masks = before[self.layer], self.masks[self.layer], self.seen[self.layer].clone()
            row = torch.tensor(self.step), self.before, self.scores.detach().clone(), self.gradient, *masks, self.lr
            for name, value in zip(_RECORDED, row, strict=True):
                self.rows[name].append(value)
        came = {name: self.masks[name] & ~mask for name, mask in before.items()}
        again = [(came[name] & seen).sum() for name, seen in self.seen.items()]
        self.rows["swapped"].append(torch.stack([mask.sum() for mask in came.values()]).sum())
        self.rows["reentered"].append(torch.stack(again).sum())
        self.seen = {name: seen | self.masks[name] for name, seen in self.seen.items()}
        self._count()

    def state_dict(self) -> dict[str, Any]:
        """Save the record, so that the trace of a killed run has no gap."""
        return {"rows": {k: torch.stack(v).cpu() for k, v in self.rows.items() if v}, "seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record."""
        self.rows |= {k: list(v) for k, v in state_dict["rows"].items()}
        self.seen = state_dict["seen"]

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Write `trace.npz`; of edge-popup count the swapped edges, and the least and most kept in each layer."""
        arrays: dict[str, Any] = {name: torch.stack(rows).cpu().numpy() for name, rows in self.rows.items() if rows}
        arrays["weight"] = self.weight
        numbers: dict[str, Any] = {}
        if self.seen:
            arrays |= {name: np.float32(getattr(module.recipe, name)) for name in ("momentum", "weight_decay")}
            least_and_most = zip(arrays["kept"].min(0).tolist(), arrays.pop("kept").max(0).tolist(), strict=True)
            swapped, reentered = (int(arrays[name].sum()) for name in ("swapped", "reentered"))
            numbers["edges"] = sum(seen.numel() for seen in self.seen.values())
            numbers |= {"swapped": swapped, "entered": swapped - reentered, "reentered": reentered}
            numbers["kept"] = {name: list(two) for name, two in zip(self.seen, least_and_most, strict=True)}
        else:
            arrays["trained"] = last_weight(module)
            if masks := list(used_masks(module.net).values()):
                arrays["chosen_before"] = masks[-1][None].cpu().numpy()
        np.savez_compressed(folder / "trace.npz", **arrays)
        return numbers


def spread(updates: int, trainer: L.Trainer) -> set[int]:
    """Return the indices, from 0, of so many evenly spread updates of a training, the first among them; or all."""
    total = int(trainer.estimated_stepping_batches)
    return set(np.linspace(0, total - 1, min(updates, total)).round().astype(int).tolist())


def last_weight(module: Any) -> np.ndarray:
    """Copy the weight `(O, I)` of the last layer; of a hidden layer the frozen one."""
    array: np.ndarray = list(weights(module.net).values())[-1].detach().cpu().numpy().copy()
    return array
