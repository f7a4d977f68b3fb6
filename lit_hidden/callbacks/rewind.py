"""Iterative magnitude pruning with rewinding: lottery tickets, found by a chain of runs.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 1; rewinding to a later update:
Frankle, Dziugaite, Roy and Carbin, Linear Mode Connectivity and the Lottery Ticket Hypothesis, arXiv:1912.05671.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from lit_hidden.callbacks import RunCallback, weights, zero
from lit_hidden.selection import kept, top_k_mask

FILE = "snapshot.npz"  # a net's state after some update of the first run of a chain


class Snapshot(RunCallback):
    """Keep the state of the net after an update, for runs that rewind to it.

    Args:
        update: after how many updates, at least 1.
    """

    records = True

    def __init__(self, update: int) -> None:
        super().__init__()
        if update < 1:
            raise ValueError(f"update={update}: the state before training needs no snapshot; it must be at least 1")
        self.update = update
        self.state: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Keep the state once."""
        if trainer.global_step == self.update:
            self.state = {name: tensor.detach().cpu().clone() for name, tensor in pl_module.net.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Put the state into checkpoints."""
        return {"state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        self.state = state_dict["state"]

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Write the state.

        Raises:
            ValueError: training had fewer updates.
        """
        if not self.state:
            raise ValueError(f"update={self.update} never came; training had {trainer.global_step} updates")
        np.savez(folder / FILE, **{name: tensor.numpy() for name, tensor in self.state.items()})  # type: ignore[arg-type]
        return {}


class Prune(RunCallback):
    """Keep some weights of the dense parent run, rewind them, and train them.

    Each run of a chain, `run.then(callbacks=(spec("rewind.Prune", density=0.8),))` and so on, prunes further; weights
    that were pruned before are 0 and stay 0. Every layer is pruned, the first and the last too. All other parameters
    (biases, norm layers, embeddings) are rewound as well.

    Args:
        density: fraction of each layer's weights kept, in (0, 1].
        conv: that of convolutions, and `output` that of the last layer; None is `density`.
        choice: `magnitude` keeps the largest weights of the parent; `random` as many of each layer, drawn.
        weights: `rewound` to the chain's first; `fresh`, drawn anew (random re-initialisation).
        rewind: to which update: 0, or that of a `Snapshot` in the first run of the chain.
        leave: whether to leave `masks.npz`: for each layer its mask, uint8, packed by `numpy.packbits`.
    """

    def __init__(
        self,
        density: float,
        conv: float | None = None,
        output: float | None = None,
        choice: str = "magnitude",
        weights: str = "rewound",
        rewind: int = 0,
        leave: bool = False,
    ) -> None:
        super().__init__()
        if choice not in ("magnitude", "random") or weights not in ("rewound", "fresh"):
            raise ValueError(f"choice={choice!r}, weights={weights!r}: these are magnitude or random, rewound or fresh")
        self.density, self.conv, self.output = density, conv, output
        self.choice, self.weights, self.rewind, self.leave = choice, weights, rewind, leave
        self.snapshot: dict[str, np.ndarray] = {}

    def on_run_start(self, trainer: L.Trainer, module: Any, data: Any, parent: Path | None) -> None:
        """Choose the weights and rewind them.

        Raises:
            ValueError: there is no dense parent run, it has fewer weights left, or no snapshot of that update.
        """
        if parent is None or module.method != "dense":
            raise ValueError("nothing to prune: a dense parent run is needed; use dense_run.then(callbacks=...)")
        if self.rewind:
            if not (parent / FILE).exists():
                raise ValueError(
                    f"rewind={self.rewind}: the chain's first run needs rewind.Snapshot(update={self.rewind})"
                )
            with np.load(parent / FILE) as arrays:
                self.snapshot = dict(arrays)
        layers = weights(module.net)
        self.names = list(layers)
        self.pruned: list[tuple[Tensor, Tensor]] = []  # weights and their masks
        for name, weight in layers.items():
            density = self.conv if weight.ndim > 2 and self.conv is not None else self.density
            density = self.output if name == list(layers)[-1] and self.output is not None else density
            keep, there = kept(weight.numel(), density), int(weight.count_nonzero())
            if keep > there and self.choice == "magnitude":
                raise ValueError(f"density={density} keeps {keep} weights of '{name}'; its parent run left {there}")
            ranked = weight.detach()
            if self.choice == "random":
                ranked = torch.rand(weight.shape, generator=self.generator(name)).to(weight.device)
            self.pruned.append((weight, top_k_mask(ranked, keep)))
        module.net.load_state_dict(self._start(module, data))
        zero(self.pruned)

    def _start(self, module: Any, data: Any) -> dict[str, Any]:
        """Return the state that training starts from."""
        if self.rewind and self.weights == "rewound":
            return {name: torch.from_numpy(array) for name, array in self.snapshot.items()}
        given = dict(module.hparams)
        if self.weights == "fresh":
            given["seed"] = int(self.generator("fresh").initial_seed() % 2**31)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)  # as in the engine, for nets that draw something themselves
            net: nn.Module = type(module)(**given).net
        return net.state_dict()

    def on_train_batch_end(self, *_: Any) -> None:
        """Keep pruned weights at 0."""
        zero(self.pruned)

    def on_run_end(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        """Return the number of weights that are left, and pass the snapshot on."""
        if self.snapshot:
            np.savez(folder / FILE, **self.snapshot)  # type: ignore[arg-type]
        if self.leave:
            masks = (np.packbits(mask.cpu().numpy()) for _, mask in self.pruned)
            np.savez_compressed(folder / "masks.npz", **dict(zip(self.names, masks, strict=True)))  # type: ignore[arg-type]
        return {"left": sum(int(mask.sum()) for _, mask in self.pruned)}
