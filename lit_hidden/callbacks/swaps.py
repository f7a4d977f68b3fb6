"""A test of theorem 1 during training: a swap of edges lowers the loss of the mini-batch that caused it.

The theorem: let g be the straight-through gradient of a mini-batch. If a step `s' = s - rate * g` makes edge i replace
edge j of the same layer, and nothing else changes, then the mini-batch's loss L falls. The proof: i overtook j, so
|s_i| grew by more than |s_j|; while no score changes sign, |s| grows by `-rate * dL/dw' * w`; so to first order the
swap changes L by `dL/dw'_i * w_i - dL/dw'_j * w_j < 0`.

Before some updates scores and net are copied in float64, since float32 cannot see the change of a millionth that a swap
may cause. These changes of the loss of the next mini-batch are measured; where nothing swaps, there is no row:
    first    per layer: its first swap, at the smallest rate that swaps anything in it
    pair     per layer and rate: one edge that enters and one that leaves, drawn among all that swap
    unit     the same, drawn among the pairs that lead to one unit (a channel of a convolution), as in the proof
    layer    per layer and rate: all swaps of the layer at once
    network  per rate: all swaps of all layers at once

`swaps.npz` has these columns, each `(E,)`:
    step int                index of the update, from 0
    kind int                into `KINDS`
    layer int               into the result's `layers`; -1 for the network
    rate float64            learning rate
    swaps, flips int        edges that enter (as many leave); how many of all these have a score that changes sign
    same_unit bool          whether it is a single swap within a unit
    predicted, measured     float64: change of the loss, to first order and measured

Source: Ramanujan et al., arXiv:1911.13299, section 3 and appendix B; the theorem in our words, from memory.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback
from lit_hidden.callbacks.trace import spread
from lit_hidden.edge_popup import EdgePopup, maskers, original_weight, reveal, weight_layers
from lit_hidden.selection import top_k_mask

KINDS = ("first", "pair", "unit", "layer", "network")
# Up to 1: with momentum 0.9, the published rate of 0.1 moves a score as far in the long run.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_COLUMNS = {
    "step": np.int32, "kind": np.int8, "layer": np.int16, "rate": np.float64, "swaps": np.int32, "flips": np.int32,
    "same_unit": np.bool_, "predicted": np.float64, "measured": np.float64,
}  # fmt: skip
Row = tuple[int | float | bool, ...]  # in the order of _COLUMNS


def first_swap(scores: np.ndarray, gradient: np.ndarray, mask: np.ndarray) -> tuple[float, int, int] | None:
    """Find the smallest rate at which ranking `|scores - rate * gradient|`, all `(N,)`, swaps an edge.

    Returns the rate, the edge that enters, the edge that leaves; None if no rate swaps any.
    """
    outside, inside = np.flatnonzero(~mask), np.flatnonzero(mask)
    if not len(outside) or not len(inside):
        return None
    # No chosen score reaches 0 before another overtakes it, so until the first swap the magnitudes inside are linear in
    # the rate. The lowest magnitude inside is concave, the highest outside convex. Newton's method starts on the right,
    # where the steepest lines cross, and descends to their intersection without passing it.
    height, slope = np.abs(scores), -gradient * np.where(scores < 0, -1.0, 1.0)
    at, best = slope, None  # at an infinite rate the slopes decide
    while True:
        i, j = outside[np.abs(at[outside]).argmax()], inside[at[inside].argmin()]
        side = -1.0 if at[i] < 0 else 1.0  # -1: the score has changed its sign
        if not (closing := side * slope[i] - slope[j]) > 0:  # also true of NaN
            return best
        rate = max((height[j] - side * height[i]) / closing, 0.0)
        if best is not None and not rate < best[0]:
            return best
        best = float(rate), int(i), int(j)
        at = height + rate * slope


def draw_pair(
    enter: np.ndarray, leave: np.ndarray, fan_in: int, random: np.random.Generator, *, same_unit: bool
) -> tuple[int, int] | None:
    """Draw one of the pairs of an edge of `enter` and one of `leave`, or of those that lead to one unit; None without.

    Edges are indices in the flat layer, of which each unit has `fan_in`.
    """
    if same_unit:
        units = 1 + int(max(enter.max(initial=0), leave.max(initial=0))) // fan_in
        pairs = np.bincount(enter // fan_in, minlength=units) * np.bincount(leave // fan_in, minlength=units)
        if not pairs.any():
            return None
        unit = random.choice(units, p=pairs / pairs.sum())
        enter, leave = enter[enter // fan_in == unit], leave[leave // fan_in == unit]
    return (int(random.choice(enter)), int(random.choice(leave))) if len(enter) and len(leave) else None


class Probe:
    """A copy of a net hidden by `EdgePopup`, in float64, to measure how swaps change the loss of one mini-batch.

    `scores`, `gradient` (straight-through, of the loss by the scores), `price` (first-order change of the loss when an
    edge enters) and `mask` map each hidden layer to a tensor of its weight's shape.
    """

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> None:
        hidden = {name: masker for name, masker in maskers(net).items() if isinstance(masker, EdgePopup)}
        self.keep = {name: masker.keep for name, masker in hidden.items()}
        self.mask = {name: masker.mask() for name, masker in hidden.items()}
        self.scores = {name: masker.scores.detach().double() for name, masker in hidden.items()}
        self._weight = {name: original_weight(net, name).detach().double() for name in hidden}
        plain = reveal(copy.deepcopy(net)).double().requires_grad_(False)
        places = {name: place for name, place in weight_layers(plain).items() if name in hidden}
        self._effective = {name: module.get_parameter(attribute) for name, (module, attribute) in places.items()}
        # Layers before a swap are not computed again, which saves more than half in Conv4.
        self._chain = plain if isinstance(plain, nn.Sequential) else nn.Sequential(plain)
        self._start = {
            name: next(k for k, part in enumerate(self._chain) if any(module is m for m in part.modules()))
            for name, (module, _) in places.items()
        }
        self._inputs = [images.double()]
        self._labels, self._label_smoothing = labels, label_smoothing
        with torch.no_grad():
            for part in self._chain:
                self._inputs.append(part(self._inputs[-1]))
        with torch.enable_grad():
            effective = [weight.requires_grad_() for weight in self._effective.values()]
            loss = self._loss(0)
        gradients = torch.autograd.grad(loss, effective)
        self.loss = loss.item()
        self.price = {n: g * w for (n, w), g in zip(self._weight.items(), gradients, strict=True)}
        self.gradient = {name: price * self.scores[name].sign() for name, price in self.price.items()}

    def _loss(self, start: int) -> Tensor:
        logits = self._chain[start:](self._inputs[start])
        return F.cross_entropy(logits, self._labels, label_smoothing=self._label_smoothing)

    def stepped(self, name: str, rate: float) -> Tensor:
        """Return the scores of a layer after a step of plain gradient descent, without momentum and decay."""
        return self.scores[name] - rate * self.gradient[name]

    def chosen(self, name: str, rate: float) -> Tensor:
        """Return the mask of a layer after such a step."""
        return top_k_mask(self.stepped(name, rate), self.keep[name])

    @torch.no_grad()
    def change(self, masks: dict[str, Tensor]) -> tuple[float, float]:
        """Return the change of the loss with other masks in some layers: to first order, and measured."""
        predicted = 0.0
        for name, mask in masks.items():
            predicted += (self.price[name] * (mask.double() - self.mask[name].double())).sum().item()
            self._effective[name].copy_(self._weight[name] * mask)
        measured = self._loss(min(self._start[name] for name in masks)).item() - self.loss
        for name in masks:
            self._effective[name].copy_(self._weight[name] * self.mask[name])
        return predicted, measured


def measure(probe: Probe, step: int, rates: Sequence[float] = RATES) -> list[Row]:
    """Measure all kinds of swaps; the pairs are drawn from a generator seeded by `step`."""
    rows: list[Row] = []

    def record(kind: str, layer: int, rate: float, masks: dict[str, Tensor]) -> None:
        swaps = flips = units = 0
        for name, mask in masks.items():
            swapped = mask != probe.mask[name]
            swaps += int((swapped & mask).sum())
            flips += int((swapped & (probe.scores[name].sign() != probe.stepped(name, rate).sign())).sum())
            units += int(swapped.flatten(1).any(1).sum())
        same_unit = swaps == units == 1
        rows.append((step, KINDS.index(kind), layer, rate, swaps, flips, same_unit, *probe.change(masks)))

    for layer, (name, mask) in enumerate(probe.mask.items()):

        def exchanged(edges: tuple[int, int], mask: Tensor = mask) -> Tensor:
            flat = mask.flatten().clone()
            flat[edges[0]], flat[edges[1]] = True, False
            return flat.view(mask.shape)

        first = first_swap(*(t.flatten().cpu().numpy() for t in (probe.scores[name], probe.gradient[name], mask)))
        if first:
            record("first", layer, first[0], {name: exchanged(first[1:])})
        for r, rate in enumerate(rates):
            chosen = probe.chosen(name, rate)
            enter, leave = (m.flatten().nonzero().flatten().cpu().numpy() for m in (chosen & ~mask, mask & ~chosen))
            random, fan_in = np.random.default_rng((step, layer, r)), mask[0].numel()
            for kind in ("pair", "unit"):
                if pair := draw_pair(enter, leave, fan_in, random, same_unit=kind == "unit"):
                    record(kind, layer, rate, {name: exchanged(pair)})
            if len(enter):
                record("layer", layer, rate, {name: chosen})
    for rate in rates:
        masks = {name: probe.chosen(name, rate) for name in probe.mask}
        if changed := {name: mask for name, mask in masks.items() if not mask.equal(probe.mask[name])}:
            record("network", -1, rate, changed)
    return rows


class Swaps(RunCallback):
    """Measure swaps before so many `updates`, evenly spread over the training."""

    records = True

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.updates = updates
        self.rows: list[Row] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Choose the updates; a net without edges to swap is refused."""
        if not any(isinstance(masker, EdgePopup) for masker in maskers(pl_module.net).values()):
            raise ValueError("nothing swaps in this net: only edge-popup swaps edges by their scores")
        self.wanted = spread(self.updates, trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        """Measure on the next mini-batch."""
        if trainer.global_step in self.wanted:
            images, labels = batch
            probe = Probe(pl_module.net, images, labels, pl_module.recipe.label_smoothing)
            self.rows += measure(probe, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Save the rows, so that the record of a killed run has no gap."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows = [tuple(row) for row in state_dict["rows"]]

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Write `swaps.npz` and return its summary."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(_COLUMNS)
        arrays: dict[str, Any] = {n: np.array(c, t) for (n, t), c in zip(_COLUMNS.items(), columns, strict=True)}
        np.savez_compressed(folder / "swaps.npz", **arrays)
        return summary(arrays, len(maskers(module.net)))


def summary(arrays: dict[str, np.ndarray], layers: int) -> dict[str, Any]:
    """Count the changes that lowered the loss.

    `swaps` has the `rates`, and for each kind how many changes were measured and lowered the loss, as `[rate][layer]`
    (one row for `first`, one column for `network`). `<kind>_lowered` is a percentage, None without any. `uphill` counts
    the single swaps that should not lower the loss to first order, although no score changed sign.
    """
    lowered = arrays["measured"] < 0
    result: dict[str, Any] = {"swaps": {"rates": list(RATES)}}
    for k, kind in enumerate(KINDS):
        of = arrays["kind"] == k
        at = [of] if kind == "first" else [of & (arrays["rate"] == rate) for rate in RATES]
        on = [arrays["layer"] == layer for layer in (range(-1, 0) if kind == "network" else range(layers))]
        result["swaps"][kind] = {
            "measured": [[int((a & o).sum()) for o in on] for a in at],
            "lowered": [[int((a & o & lowered).sum()) for o in on] for a in at],
        }
        result[f"{kind}_lowered"] = round(100 * float(lowered[of].mean()), 5) if of.any() else None
    alone = np.isin(arrays["kind"], [KINDS.index(kind) for kind in ("first", "pair", "unit")])
    result["uphill"] = int((alone & (arrays["flips"] == 0) & (arrays["predicted"] >= 0)).sum())
    return result
