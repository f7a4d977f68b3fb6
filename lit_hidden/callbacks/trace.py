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
from lit_hidden.classifier import LitClassifier
from lit_hidden.edge_popup import EdgePopup, maskers
from lit_hidden.subnetwork import used_masks

_RECORDED = ("step", "before", "after", "gradient", "chosen_before", "chosen_after", "seen", "lr")


class Trace(RunCallback):
    """Record some updates of the last layer, evenly spread, and count the swaps of all updates.

    Args:
        updates: number of updates to record; all of them if there are fewer.
    """

    records = True

    def __init__(self, updates: int = 600) -> None:
        super().__init__()
        if updates < 1:
            raise ValueError(f"updates={updates} records nothing; it must be at least 1")
        self.updates = updates
        self.rows: dict[str, list[Tensor]] = {name: [] for name in (*_RECORDED, "swapped", "reentered")}
        self.masks: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}  # layer -> (least, most) edges kept

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Keep the initial weight of the last layer."""
        self.weight = last_weight(module)
        found = maskers(module.net).values()
        # A random mask takes no steps.
        self.watching = module.automatic_optimization and any(isinstance(masker, EdgePopup) for masker in found)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the masks before the first update."""
        assert isinstance(pl_module, LitClassifier)
        if not self.watching:
            return
        self.masks = used_masks(pl_module.net)
        self.layer = list(self.masks)[-1]
        masker = maskers(pl_module.net)[self.layer]
        assert isinstance(masker, EdgePopup)
        self.scores = masker.scores
        self.wanted = spread(self.updates, trainer)
        device = pl_module.device
        if not self.seen:
            self.seen = {name: mask.clone() for name, mask in self.masks.items()}
        self.seen = {name: seen.to(device) for name, seen in self.seen.items()}
        self.kept = {name: kept.to(device) for name, kept in self.kept.items()}
        self._count()

    def _count(self) -> None:
        for name, mask in self.masks.items():
            n = mask.sum()
            low, high = self.kept.get(name, torch.stack([n, n]))
            self.kept[name] = torch.stack([torch.minimum(low, n), torch.maximum(high, n)])

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Keep the scores before the update."""
        self.step = trainer.global_step
        if self.watching and self.step in self.wanted:
            self.before = self.scores.detach().clone()

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        """Keep the gradient and the learning rate of the update."""
        if self.watching and self.step in self.wanted:
            assert self.scores.grad is not None
            self.gradient = self.scores.grad.clone()
            self.lr = torch.tensor(trainer.optimizers[0].param_groups[0]["lr"], dtype=torch.float32)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Compare the masks before and after the update."""
        assert isinstance(pl_module, LitClassifier)
        if not self.watching:
            return
        now = used_masks(pl_module.net)
        if self.step in self.wanted:
            recorded = {
                "step": torch.tensor(self.step),
                "before": self.before,
                "after": self.scores.detach().clone(),
                "gradient": self.gradient,
                "chosen_before": self.masks[self.layer],
                "chosen_after": now[self.layer],
                "seen": self.seen[self.layer].clone(),
                "lr": self.lr,
            }
            for name, value in recorded.items():
                self.rows[name].append(value)
        came = {name: now[name] & ~mask for name, mask in self.masks.items()}
        again = torch.stack([(came[name] & seen).sum() for name, seen in self.seen.items()]).sum()
        self.rows["swapped"].append(torch.stack([c.sum() for c in came.values()]).sum())
        self.rows["reentered"].append(again)
        self.seen = {name: seen | now[name] for name, seen in self.seen.items()}
        self.masks = now
        self._count()

    def state_dict(self) -> dict[str, Any]:
        """Save the record, so that the trace of a killed run has no gap."""
        rows = {k: torch.stack(v).cpu() for k, v in self.rows.items() if v}
        return {"rows": rows, "seen": self.seen, "kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record."""
        self.rows |= {k: list(v) for k, v in state_dict["rows"].items()}
        self.seen, self.kept = state_dict["seen"], state_dict["kept"]

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Write `trace.npz`; of edge-popup count the swapped edges, and the least and most kept in each layer."""
        arrays: dict[str, Any] = {name: torch.stack(rows).cpu().numpy() for name, rows in self.rows.items() if rows}
        arrays["weight"] = self.weight
        if self.watching:
            arrays["momentum"] = np.float32(module.recipe.momentum)
            arrays["weight_decay"] = np.float32(module.recipe.weight_decay)
        else:
            arrays["trained"] = last_weight(module)
            if masks := list(used_masks(module.net).values()):
                arrays["chosen_before"] = masks[-1][None].cpu().numpy()
        np.savez_compressed(folder / "trace.npz", **arrays)
        if not self.watching:
            return {}
        swapped, reentered = (int(arrays[name].sum()) for name in ("swapped", "reentered"))
        return {
            "edges": sum(seen.numel() for seen in self.seen.values()),
            "swapped": swapped,
            "entered": swapped - reentered,
            "reentered": reentered,
            "kept": {name: kept.tolist() for name, kept in self.kept.items()},
        }


def spread(updates: int, trainer: L.Trainer) -> set[int]:
    """Return the indices, from 0, of so many evenly spread updates of a training, the first among them; or all."""
    total = int(trainer.estimated_stepping_batches)
    return set(np.linspace(0, total - 1, min(updates, total)).round().astype(int).tolist())


def last_weight(module: LitClassifier) -> np.ndarray:
    """Copy the weight `(O, I)` of the last layer; of a hidden layer the frozen one."""
    array: np.ndarray = list(weights(module.net).values())[-1].detach().cpu().numpy().copy()
    return array
