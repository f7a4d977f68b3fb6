"""Theorem 1 put to the test in training: a swap of edges lowers the loss of the mini-batch that asked for it.

The theorem: if a step `s' = s - rate * g` along the straight-through gradient g of a mini-batch makes edge i replace
edge j of the same layer, and the rest stays as it is, then the mini-batch's loss L falls. Its proof: i overtook j, so
|s_i| grew by more than |s_j|; while no score changes sign, |s| grows by `-rate * dL/dw' * w`; so to first order the
swap changes L by `dL/dw'_i * w_i - dL/dw'_j * w_j < 0`. That asks for two things: no score changes sign (ranking by
|s| is the authors' code's), and a loss so smooth that first order decides. A small rate swaps fewer edges, but not
smaller ones: no rate makes a single swap more linear, only more edges to a unit do.

At some steps of an ordinary training, before the update, scores and net are copied in float64 (a swap may change the
loss by a millionth, which float32 cannot see) and g is taken on the mini-batch to come: plain gradient descent, no
momentum and no decay. Then changes of that mini-batch's loss are measured, each from the net as it is:
    first    of a layer: its very first swap, at the smallest rate that swaps anything in it
    pair     of a layer, at a rate: of all that swap, one edge that enters and one that leaves, drawn at random
    unit     the same, drawn among pairs that lead to one unit (of a convolution: channel), as in the proof's text
    layer    of a layer, at a rate: all its swaps at once
    network  at a rate: all swaps of all layers at once
Nothing is recorded where nothing swaps. The training is the one it would have been without.

`swaps.npz` has a row for each, E in all:
    step (E,) int           index of the update, from 0
    kind (E,) int           into `KINDS`
    layer (E,) int          into the result's `layers`; -1 for the network
    rate (E,) float64       learning rate; for `first` that smallest one
    swaps (E,) int          edges that enter, and as many leave
    flips (E,) int          of all those, the ones whose score changes sign
    same_unit (E,) bool     a single swap within a unit
    predicted (E,) float64  change of the loss to first order
    measured (E,) float64   change of the loss

Source: Ramanujan et al., arXiv:1911.13299, section 3 and appendix B; the theorem's wording is ours, from memory.
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
from lit_hidden.classifier import LitClassifier
from lit_hidden.edge_popup import EdgePopup, maskers, original_weight, reveal, weight_layers
from lit_hidden.selection import top_k_mask

KINDS = ("first", "pair", "unit", "layer", "network")
# Up to 1: the published rate of 0.1 with momentum 0.9 moves a score that far in the long run.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_COLUMNS = {
    "step": np.int32, "kind": np.int8, "layer": np.int16, "rate": np.float64, "swaps": np.int32, "flips": np.int32,
    "same_unit": np.bool_, "predicted": np.float64, "measured": np.float64,
}  # fmt: skip
Row = tuple[int | float | bool, ...]  # in the order of _COLUMNS


def first_swap(scores: np.ndarray, gradient: np.ndarray, mask: np.ndarray) -> tuple[float, int, int] | None:
    """Find the smallest rate at which ranking `|scores - rate * gradient|` swaps an edge.

    Args:
        scores: `(N,)`, float64.
        gradient: `(N,)`, of the loss by the scores.
        mask: `(N,)` bool, the edges of largest magnitude at rate 0.

    Returns:
        the rate, the edge that enters, the edge that leaves; None if no rate swaps any.
    """
    outside, inside = np.flatnonzero(~mask), np.flatnonzero(mask)
    if not len(outside) or not len(inside):
        return None
    # No chosen score reaches 0 before another overtakes it, so until the first swap magnitudes inside run along lines.
    # The lowest of them is concave in the rate, the highest magnitude outside convex: Newton's method, begun on the
    # right where the fastest lines cross, comes down to where the two meet, without passing it.
    height, slope = np.abs(scores), -gradient * np.where(scores < 0, -1.0, 1.0)
    at, best = slope, None  # at an infinite rate slopes decide
    while True:
        i, j = outside[np.abs(at[outside]).argmax()], inside[at[inside].argmin()]
        side = -1.0 if at[i] < 0 else 1.0  # -1: grows again, having changed its sign
        if not (closing := side * slope[i] - slope[j]) > 0:  # nor is NaN
            return best
        rate = max((height[j] - side * height[i]) / closing, 0.0)
        if best is not None and not rate < best[0]:
            return best
        best = float(rate), int(i), int(j)
        at = height + rate * slope


def draw_pair(
    enter: np.ndarray, leave: np.ndarray, fan_in: int, random: np.random.Generator, *, same_unit: bool
) -> tuple[int, int] | None:
    """Draw an edge of `enter` and one of `leave`, all such pairs alike; None if there is none.

    Args:
        enter: indices into the flat layer.
        leave: the same.
        fan_in: edges to a unit.
        random: what to draw from.
        same_unit: draw among pairs that lead to one unit.
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
    """A net in float64 with its masks baked in, one mini-batch, and what swaps do to its loss.

    The net given and the random state stay as they are. Dictionaries are by hidden layer, of the weight's shape:
    `scores`, `gradient` (straight-through, of the loss by the scores), `price` (what an edge adds to the loss by
    entering, to first order) and `mask`.

    Args:
        net: hidden by `EdgePopup`, in the mode it is to be measured in; its forward pass leaves nothing to chance.
        images: as the net takes them, `(B, ...)`.
        labels: `(B,)` integers.
        label_smoothing: as in training.
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
        # What lies before a swap is not computed again: in Conv4 that saves more than half.
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
        """Give the scores of a layer after a step of plain gradient descent."""
        return self.scores[name] - rate * self.gradient[name]

    def chosen(self, name: str, rate: float) -> Tensor:
        """Give the mask that the scores after such a step choose."""
        return top_k_mask(self.stepped(name, rate), self.keep[name])

    @torch.no_grad()
    def change(self, masks: dict[str, Tensor]) -> tuple[float, float]:
        """Give the change of the loss, to first order and measured, when some layers get other masks."""
        predicted = 0.0
        for name, mask in masks.items():
            predicted += (self.price[name] * (mask.double() - self.mask[name].double())).sum().item()
            self._effective[name].copy_(self._weight[name] * mask)
        measured = self._loss(min(self._start[name] for name in masks)).item() - self.loss
        for name in masks:
            self._effective[name].copy_(self._weight[name] * self.mask[name])
        return predicted, measured


def measure(probe: Probe, step: int, rates: Sequence[float] = RATES) -> list[Row]:
    """Measure all kinds of swaps; which pairs are drawn follows from `step` alone."""
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
    """Measure swaps before some updates, evenly spread over the training.

    Args:
        updates: how many.
    """

    records = True

    def __init__(self, updates: int) -> None:
        super().__init__()
        if updates < 1:
            raise ValueError(f"updates={updates} measures nothing; it must be at least 1")
        self.updates = updates
        self.rows: list[Row] = []

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Refuse a net without edges to swap."""
        if not any(isinstance(masker, EdgePopup) for masker in maskers(module.net).values()):
            raise ValueError("nothing swaps in this net: edge-popup alone swaps edges by scores")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the updates."""
        self.wanted = spread(self.updates, trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: Any) -> None:
        """Measure on the mini-batch to come."""
        assert isinstance(pl_module, LitClassifier)
        if trainer.global_step in self.wanted:
            images, labels = batch
            probe = Probe(pl_module.net, images, labels, pl_module.recipe.label_smoothing)
            self.rows += measure(probe, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint, so that a killed run's record has no gap."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back from a checkpoint."""
        self.rows = [tuple(row) for row in state_dict["rows"]]

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Write `swaps.npz`; return what of it belongs into the result."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(_COLUMNS)
        arrays: dict[str, Any] = {n: np.array(c, t) for (n, t), c in zip(_COLUMNS.items(), columns, strict=True)}
        np.savez_compressed(folder / "swaps.npz", **arrays)
        return summary(arrays, len(maskers(module.net)))


def summary(arrays: dict[str, np.ndarray], layers: int) -> dict[str, Any]:
    """Count the changes that lowered the loss.

    Returns:
        `swaps`: the `rates`, and of each kind how many changes were measured and how many of them lowered the loss,
        `[rate][layer]` (of `first` one row, of `network` one column); for each kind `<kind>_lowered`, the percent of
        them all, None of none; `uphill`, the single swaps which first order does not expect to lower the loss though
        no score changed sign.
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
