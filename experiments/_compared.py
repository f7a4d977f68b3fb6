"""Networks compared in pairs, for `similarity`: CKA, RDMs, errors, overlap; and how one is wired."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from experiments import _panels as panels
from experiments._intervals import jackknifed
from lit_hidden.results import Results

DENSITY = 0.5  # of all masks
NUMBERS = ("accuracy", "val_accuracy", "noise_lost", "fgsm_lost")  # of results


def cka(grams: np.ndarray) -> np.ndarray:
    """Give linear CKA between R networks `(R, R)` from their Gram matrices `(R, N, N)`; 0 where nothing responds.

    By the unbiased estimator of HSIC: diagonals are 0, and rows are centred to sum to 0 without them.
    """
    n = grams.shape[-1]
    free = grams * (1 - np.eye(n))
    rows = free.sum(-1, keepdims=True) / (n - 2)
    free -= rows + rows.swapaxes(1, 2) - free.sum((1, 2), keepdims=True) / ((n - 1) * (n - 2))
    flat = (free * (1 - np.eye(n))).reshape(len(grams), -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(float).tiny)
    return np.asarray(flat @ flat.T)


def kappa(right: np.ndarray) -> np.ndarray:
    """Give Cohen's kappa between R networks `(R, R)` from what they classify rightly, bool `(R, T)`; NaN if all is."""
    share = right.mean(1)
    right = right.astype(float)
    same = (right @ right.T + (1 - right) @ (1 - right).T) / right.shape[1]
    chance = np.outer(share, share) + np.outer(1 - share, 1 - share)
    return np.asarray(np.divide(same - chance, 1 - chance, out=np.full_like(same, nan), where=chance < 1))


def largest(weight: np.ndarray) -> np.ndarray:
    """Choose the largest half of a layer's weights, bool in their shape; of a masked layer these are its mask."""
    dropped = int((1 - DENSITY) * weight.size)
    chosen = np.ones(weight.size, bool)
    chosen[np.argsort(np.abs(weight), axis=None, kind="stable")[:dropped]] = False
    return chosen.reshape(weight.shape)


def scatter(mask: np.ndarray) -> float:
    """Give the variance of the degrees of units, the first axis, over that of chance; NaN if there can be none."""
    units, each = len(mask), mask[0].size
    share = mask.mean()
    chance = each * share * (1 - share) * (mask.size - each) / (mask.size - 1)
    return float(mask.reshape(units, -1).sum(1).var() / chance) if chance else nan


def wiring(weights: Sequence[np.ndarray], alive: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Measure a net from the weights of its layers, `(out, in)` or `(out, in, h, w)`, and which units are alive.

    Returns by layer `(L,)`: `kept`, the percentage of weights that are among the largest half and join live units;
    `into` and `out_of`, the scatter of in- and out-degrees; `negative`, the percentage of the half that is below 0. And
    `kernel` `(3, 3)`, the percentage chosen at each position of 3x3 kernels, NaN without any; `centre` `()`, how much
    its centre exceeds the corners; `dead` `()`, the percentage of hidden units that are not alive.
    """
    masks = [largest(weight) for weight in weights]
    ends = [np.ones(weights[0].shape[1], bool), *alive[:-1], np.ones(len(weights[-1]), bool)]  # inputs, units, outputs
    kept = []
    for n, mask in enumerate(masks):
        sources = np.repeat(ends[n], mask.shape[1] // len(ends[n]))  # a channel is several inputs of a linear layer
        kept.append(mask[ends[n + 1]][:, sources].sum() / mask.size)
    kernels = [100 * mask.mean((0, 1)) for mask in masks if mask.shape[2:] == (3, 3)]
    kernel = np.mean(kernels, axis=0) if kernels else np.full((3, 3), nan)
    return {
        "kept": 100 * np.array(kept), "into": np.array([scatter(mask) for mask in masks]),
        "out_of": np.array([scatter(mask.swapaxes(0, 1)) for mask in masks]),
        "negative": np.array([100 * (w[mask] < 0).mean() for w, mask in zip(weights, masks, strict=True)]),
        "kernel": kernel, "centre": kernel[1, 1] - kernel[::2, ::2].mean(),
        "dead": 100 - 100 * np.concatenate(alive[:-1]).mean(),
    }  # fmt: skip


def square(half: np.ndarray) -> np.ndarray:
    """Give a symmetric matrix `(N, N)` from its upper triangle `(N (N + 1) / 2,)`."""
    size = int((8 * len(half) + 1) ** 0.5) // 2
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = half
    return matrix + np.triu(matrix, 1).T


def compared(parts: dict[str, Results]) -> dict[str, np.ndarray]:
    """Compare the R probed networks of one architecture; `parts` are those of each group.

    Returns:
        `groups`, `seeds` `(R,)`; `layers` `(L,)`. Of pairs, in percent: `cka` and `rdm` (r squared) `(L, R, R)`,
        `kappa` of errors, and `overlap`, how much of one mask is in the other, `(R, R)`. `changed` `(R,)`: how much of
        a mask is among the half of the weights that training changes most, of the same seed. What the probes found:
        `NUMBERS` `(R,)`, and `noise`, `fgsm` `(R, strengths)`, accuracies. What `wiring` measures, `(R, ...)`.
    """
    rows = [(name, part, *row) for name, part in parts.items() for row in part.rows if row[2] is not None]
    names, owners, probed, results, folders = zip(*rows, strict=True)
    seeds = np.array([run.seed for run in probed])
    probes, rdms = ([loaded(folder / f"{name}.npz") for folder in folders] for name in ("similarity", "rdm"))
    layers = [name.removesuffix(".gram") for name in probes[0] if name.endswith(".gram")]
    nets = [dict(part.network(run).named_modules()) for part, run in zip(owners, probed, strict=True)]
    # What a layer multiplies with: of a hidden one the weights under the mask, and zeros.
    weights = [[net[layer].weight.detach().numpy() for layer in layers] for net in nets]
    alive = [[probe[f"{layer}.alive"] for layer in layers] for probe in probes]
    wired = [wiring(*of) for of in zip(weights, alive, strict=True)]
    masks = np.array([flat(map(largest, of)) for of in weights], np.float32)
    changed = np.full(len(rows), nan)
    ends = {(name, seed): of for name, seed, of in zip(names, seeds, weights, strict=True)}
    for n, seed in enumerate(seeds):
        if {("dense", seed), ("untrained", seed)} <= ends.keys():
            steps = (one - other for one, other in zip(ends["dense", seed], ends["untrained", seed], strict=True))
            changed[n] = 100 * masks[n] @ flat(map(largest, steps)) / masks[n].sum()
    with np.errstate(invalid="ignore"):  # equal responses to all images have no correlation
        rdm = [np.atleast_2d(np.corrcoef([one[layer] for one in rdms])) ** 2 for layer in layers]
    return {
        "groups": np.array(names), "seeds": seeds, "layers": np.array(layers),
        "cka": 100 * np.array([cka(np.array([square(one[f"{layer}.gram"]) for one in probes])) for layer in layers]),
        "rdm": 100 * np.nan_to_num(rdm), "kappa": 100 * kappa(np.array([one["right"] for one in probes])),
        "overlap": 100 * masks @ masks.T / masks.sum(1, keepdims=True), "changed": changed,
        **{name: np.array([one[name] for one in probes]) for name in ("noise", "fgsm")},
        **{name: np.array([one[name] for one in results]) for name in NUMBERS},
        **{name: np.array([one[name] for one in wired]) for name in wired[0]},
    }  # fmt: skip


def loaded(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def flat(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


@dataclass(frozen=True)
class View:
    """What was compared of one architecture, as far as it is of some seeds."""

    found: dict[str, np.ndarray]
    seeds: Sequence[int]

    def rows(self, group: str) -> list[int]:
        """List the networks of a group."""
        own = (self.found["groups"] == group) & np.isin(self.found["seeds"], self.seeds)
        return [int(row) for row in np.flatnonzero(own)]

    def mean(self, name: str, group: str) -> np.ndarray:
        """Average a number over a group's networks; NaN if there is none."""
        values = self.found[name][self.rows(group)]
        return values.mean(0) if len(values) else np.full(values.shape[1:], nan)

    def pairs(self, name: str, one: str, other: str, same: bool = False) -> np.ndarray:
        """Average over pairs of networks of two groups, of the `same` random weights or of others: `(L,)`, or `()`."""
        seeds, matrices = self.found["seeds"], self.found[name]
        found = [(i, j) for i in self.rows(one) for j in self.rows(other) if (seeds[i] == seeds[j]) == same]
        return np.array([matrices[..., i, j] for i, j in found]).mean(0) if found else np.full(matrices.shape[:-2], nan)

    def read(self, name: str, group: str, other: str | None = None, same: bool = False) -> float:
        """Average a number over a group's networks, and over layers where they have it; with `other` over pairs.

        Pairs count in hidden layers, which are all but the last. NaNs are left out.
        """
        values = self.mean(name, group) if other is None else self.pairs(name, group, other, same)
        values = values[: max(1, len(values) - 1)] if other and values.ndim else values
        return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else nan


def draw_line(axes: Axes, values: np.ndarray, look: panels.Look) -> None:
    """Draw a number by layer, or by strength."""
    at = range(1, 1 + len(values))
    axes.plot(at, values, color=look.color, linestyle=look.linestyle, marker=look.marker, markersize=4.5,
              markerfacecolor=look.face or look.color, label=look.label)  # fmt: skip
    axes.set_xticks(at)
    axes.grid(axis="y")


def draw_kappa(axes: Axes, views: dict[str, View], kinds: dict[str, tuple[tuple[Any, ...], panels.Look]]) -> None:
    """Draw kappa for each kind of pairs, by net, with bars of 95% that leave out one seed at a time."""
    at = 0.0
    for net, seen in views.items():
        axes.text(0, at, f" {net}", transform=axes.get_yaxis_transform(), fontsize=7.5, va="center")
        for pair, look in kinds.values():
            at -= 1
            middle, *ends = jackknifed(partial(_kappa, seen, pair), [list(seen.seeds)])
            axes.plot(ends, [at, at], color=look.color, linewidth=1.1)
            axes.plot(middle, at, color=look.color, marker=look.marker, markerfacecolor=look.face or look.color)
        at -= 1
    axes.set(xlabel="kappa (%)", yticks=[], ylim=(at, 1), title="(c) agreement on errors, beyond chance")
    axes.grid(axis="x")


def _kappa(seen: View, pair: tuple[Any, ...], seeds: list[list[int]]) -> float:
    return View(seen.found, seeds[0]).read("kappa", *pair)


def draw_table(
    axes: Axes, seen: View, columns: dict[str, str], rows: dict[str, tuple[str, str, str]], title: str
) -> None:
    """Write numbers of groups, a row each.

    A row names a group; one of other weights, with whose responses and errors its own are compared; and one of the same
    weights, in whose masks its largest weights are looked for.
    """
    axes.axis("off")
    cells = []
    for group, yardstick, masks in rows.values():
        pairs = dict.fromkeys(("cka", "rdm", "kappa"), (yardstick,)) | {"overlap": (masks, True)}
        values = [seen.read(name, group, *pairs.get(name, ())) for name in columns.values()]
        cells.append([f"{value:.3g}" if np.isfinite(value) else "" for value in values])
    table = axes.table(cells, rowLabels=list(rows), colLabels=list(columns), cellLoc="center", edges="horizontal",
                       bbox=Bbox.from_bounds(0.09, 0, 0.91, 1))  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(7.5)
    for cell in table.get_celld().values():
        cell.set_linewidth(0.4)
    axes.set_title(title, fontsize=9)
